"""The commands of ``callboard groups`` that show something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from ..model import TopicPartition
from ..transport.group_messages import GroupDescription, MemberDescription, TopicPartitions
from . import human
from .commands import Command
from .connect import Clients
from .options import bootstrap_option, json_option, timeout_option
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..client.group_offsets import PartitionLag

STATES = ("empty", "reconciling", "stable")
GROUPS = click.argument("group_ids", metavar="GROUP…", nargs=-1, required=True)


@click.command("list", cls=Command, short_help="List the groups.")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES, case_sensitive=False),
    multiple=True,
    help="Only these; may be repeated.",
)
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def list_(clients: Clients, states: tuple[str, ...], bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """List the groups: state, and how many members.

    "empty" has no member, but committed offsets; in "reconciling" partitions are on their way between members.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = admin.list_groups(states_filter=states or None, timeout_ms=timeout_ms)
    if as_json:
        print_json(found)
        return
    print_table(
        ("group", "state", "members"),
        [(group.group_id, group.state, group.members) for group in found],
        right=("members",),
    )


@click.command(cls=Command, short_help="Show state, members and assignment of groups.")
@GROUPS
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def describe(
    clients: Clients, group_ids: tuple[str, ...], bootstrap_servers: str, timeout_ms: int, as_json: bool
) -> None:
    """Show each GROUP: its coordinator, generation and assignor, why it was last rebalanced; and its members.

    "owns" are the partitions that a member reads now, "shall own" those it will have when all have given back what they
    must; it is empty when they are the same. "heartbeat" is how long ago the member was last heard of.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = admin.describe_groups(group_ids, timeout_ms=timeout_ms)
    if as_json:
        print_json(list(found.values()))
        return
    for number, group in enumerate(found.values()):
        if number:
            click.echo()
        _print(group)


def _print(group: GroupDescription) -> None:
    coordinator = f"broker {group.coordinator}" if group.coordinator >= 0 else "unknown"
    assignor = f"  assignor {group.assignor}" if group.assignor else ""
    members = human.count(len(group.members), "member")
    generation = f"generation {group.group_epoch}{assignor}"
    click.echo(f"{human.visible(group.group_id)}  {group.state}  {members}  {generation}  coordinator {coordinator}")
    if group.why:
        click.echo(f"last rebalance: {human.visible(group.why)}")
    if group.members:
        print_table(
            ("member", "instance", "client", "host", "state", "epoch", "heartbeat", "owns", "shall own"),
            [_member(member) for member in group.members],
            right=("epoch",),
        )


def _member(member: MemberDescription) -> tuple[object, ...]:
    owns, target = partitions_text(member.assigned), partitions_text(member.target)
    return (
        member.member_id,
        member.instance_id,
        member.client_id,
        member.host,
        _state(member),
        member.member_epoch,
        f"{human.duration(member.heartbeat_ms_ago)} ago" if member.heartbeat_ms_ago >= 0 else "",
        owns or "nothing",
        "" if target == owns else target or "nothing",
    )


def _state(member: MemberDescription) -> str:
    """Its state, and what it does not fetch, if that is so for longer than a moment."""
    if not member.stalled_ms:
        return member.state
    return f"{member.state}, {partitions_text(member.stalled)} not fetched for {human.duration(member.stalled_ms)}"


@click.command(cls=Command, short_help="Show how far groups are behind, partition by partition.")
@GROUPS
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def lag(clients: Clients, group_ids: tuple[str, ...], bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """Show of each GROUP what it has committed, where the log ends, and how many records lie between.

    "end" is the high watermark. Partitions of which nothing is committed yet have no lag. "missed" are records that
    were deleted before the group had read them.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = {group_id: admin.group_lag(group_id, timeout_ms=timeout_ms) for group_id in group_ids}
    if as_json:
        print_json([_lag_document(group_id, lags) for group_id, lags in found.items()])
        return
    for number, (group_id, lags) in enumerate(found.items()):
        if number:
            click.echo()
        click.echo(f"{human.visible(group_id)}  {_total(lags)}")
        if lags:
            _print_lags(lags)


def _print_lags(lags: Mapping[TopicPartition, PartitionLag]) -> None:
    print_table(
        ("topic", "partition", "committed", "end", "lag", "member", "note"),
        [
            (
                key.topic,
                key.partition,
                _figure(one.committed),
                _figure(one.end_offset),
                _figure(one.lag),
                one.member_id,
                one.error or (f"{_missed(one):,} missed" if one.is_aged_out else ""),
            )
            for key, one in lags.items()
        ],
        right=("partition", "committed", "end", "lag"),
    )


def _total(lags: Mapping[TopicPartition, PartitionLag]) -> str:
    known = [one.lag for one in lags.values() if one.lag is not None]
    text = f"{human.count(sum(known), 'record')} behind in {human.count(len(known), 'partition')}"
    without, unknown = _without_commit(lags), _unknown(lags)
    text += f"; nothing committed in {without}" if without else ""
    return text + (f"; not known in {unknown}" if unknown else "")


def _without_commit(lags: Mapping[TopicPartition, PartitionLag]) -> int:
    return sum(one.committed is None for one in lags.values())


def _unknown(lags: Mapping[TopicPartition, PartitionLag]) -> int:
    return sum(bool(one.error) for one in lags.values())


def _lag_document(group_id: str, lags: Mapping[TopicPartition, PartitionLag]) -> dict[str, Any]:
    return {
        "group_id": group_id,
        "lag": sum(one.lag or 0 for one in lags.values()),  # of those that have one
        "without_commit": _without_commit(lags),
        "unknown": _unknown(lags),
        "partitions": [
            {"topic": key.topic, "partition": key.partition, **one._asdict(), "missed": _missed(one)}
            for key, one in lags.items()
        ],
    }


def _missed(lag_: PartitionLag) -> int:
    return (lag_.log_start_offset or 0) - (lag_.committed or 0) if lag_.is_aged_out else 0


def _figure(value: int | None) -> object:
    return "–" if value is None else value


def partitions_text(partitions: Iterable[TopicPartitions]) -> str:
    """Return partitions as people write them: ``flights:0-3,7 orders:1``."""
    return " ".join(f"{some.topic}:{_ranges(some.partitions)}" for some in partitions if some.partitions)


def _ranges(numbers: Iterable[int]) -> str:
    texts = []
    for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        texts.append(str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}")
    return ",".join(texts)
