"""The commands of ``callboard groups`` that change something. Each prints what was done."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from ..errors import GroupIdNotFoundError
from ..model import TopicPartition
from . import human
from .commands import Command
from .connect import Clients
from .exits import CommandFailed, ExitStatus
from .groups_show import GROUPS
from .options import TOPICS, TopicChoice, WholeNumber, bootstrap_option, json_option, timeout_option
from .output import print_json, print_table, say

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..client.group_offsets import OffsetReset, ResetTo

OFFSET = WholeNumber(0, (1 << 63) - 1)
SHIFT = WholeNumber(-(1 << 63), (1 << 63) - 1)


class IsoTime(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """A time as in ISO 8601; UTC, unless it says otherwise. Milliseconds since 1970 for the command."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time: write 2026-11-24T18:30:00, or 2026-11-24T18:30:00+01:00", param, ctx)
        milliseconds = round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1_000)
        if milliseconds < 0:
            self.fail(f"{value!r} is before 1970", param, ctx)
        return milliseconds


@click.command("reset-offsets", cls=Command, short_help="Have a group without members go on elsewhere.")
@click.argument("group_id", metavar="GROUP")
@click.option("--to-earliest", is_flag=True, help="To the oldest record there is.")
@click.option("--to-latest", is_flag=True, help="To the next record to be written.")
@click.option("--to-offset", type=OFFSET, metavar="N", help="To this offset.")
@click.option(
    "--to-datetime",
    type=IsoTime(),
    metavar="ISO",
    help="To the first record at or after a time, as 2026-11-24T18:30; UTC, unless it says otherwise.",
)
@click.option("--shift-by", type=SHIFT, metavar="N", help="So many records on; back, if below 0.")
@click.option(
    "--topic", "topics", type=TOPICS, multiple=True, help="Of a topic, or of some of its partitions; repeat it."
)
@click.option("--all-topics", is_flag=True, help="All that the group has committed.")
@click.option("--dry-run", is_flag=True, help="Change nothing, show what would happen.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def reset_offsets(
    clients: Clients,
    /,
    group_id: str,
    topics: tuple[TopicChoice, ...],
    all_topics: bool,
    dry_run: bool,
    bootstrap_servers: str,
    timeout_ms: int,
    as_json: bool,
    **places: Any,
) -> None:
    """Change what GROUP has committed, and so where it will go on; show old and new offsets.

    The group must have no members: stop them first, or see with --dry-run what would happen. What lies outside of the
    log becomes its nearer end. All partitions are changed at once, or none.
    """
    to = _place(places)
    if bool(topics) == all_topics:
        raise click.UsageError("say of what: --topic TOPIC[:PARTITION,…], or --all-topics")
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        partitions = _committed(admin, group_id, timeout_ms) if all_topics else _chosen(admin, topics, timeout_ms)
        plan = admin.reset_group_offsets(
            group_id, dict.fromkeys(partitions, to), timeout_ms=timeout_ms, validate_only=dry_run
        )
        members = _members(admin, group_id, timeout_ms) if dry_run else 0
    if as_json:
        print_json([_document(key, reset) for key, reset in plan.items()])
    else:
        print_table(
            ("topic", "partition", "before", "", "after", "moves by"),
            [_row(key, reset) for key, reset in sorted(plan.items())],
            right=("partition", "before", "after", "moves by"),
        )
    if dry_run:
        say("dry run: nothing was changed")
    if members:
        say(f"note: the group has {human.count(members, 'member')} just now; stop them before you do it")


def _place(places: dict[str, Any]) -> ResetTo:
    """Return where to, from the five options of which exactly one is given."""
    from ..client.group_offsets import OffsetShift, OffsetSpec, OffsetTimestamp

    given = {name: value for name, value in places.items() if value is not None and value is not False}
    if len(given) != 1:
        options = "--to-earliest, --to-latest, --to-offset, --to-datetime, --shift-by"
        raise click.UsageError(f"say where to, once: {options}")
    ((name, value),) = given.items()
    match name:
        case "to_earliest":
            return OffsetSpec.EARLIEST
        case "to_latest":
            return OffsetSpec.LATEST
        case "to_datetime":
            return OffsetTimestamp(value)
        case "shift_by":
            return OffsetShift(value)
        case _:
            return int(value)


def _committed(admin: AdminClient, group_id: str, timeout_ms: int) -> list[TopicPartition]:
    partitions = list(admin.list_group_offsets([group_id], timeout_ms=timeout_ms)[group_id])
    if not partitions:
        raise CommandFailed(
            f"group {group_id!r} has committed nothing; name topics with --topic", status=ExitStatus.REFUSED
        )
    return partitions


def _chosen(admin: AdminClient, topics: tuple[TopicChoice, ...], timeout_ms: int) -> list[TopicPartition]:
    """Return the partitions that were named; of a topic without numbers all."""
    chosen: dict[TopicPartition, None] = {}
    whole = [topic for topic, numbers in topics if not numbers]
    counts = {topic.name: topic.partitions for topic in admin.describe_topics(whole, timeout_ms)} if whole else {}
    for topic, numbers in topics:
        for number in numbers or [each.partition for each in counts[topic]]:
            chosen[TopicPartition(topic, number)] = None
    return list(chosen)


def _members(admin: AdminClient, group_id: str, timeout_ms: int) -> int:
    described = admin.describe_groups([group_id], timeout_ms=timeout_ms, raise_errors=False)
    return len(described[group_id].members)


def _row(key: TopicPartition, reset: OffsetReset) -> tuple[object, ...]:
    moves = "–" if reset.moves_by is None else f"{reset.moves_by:+,}" if reset.moves_by else "0"
    before = "–" if reset.before is None else reset.before
    return key.topic, key.partition, before, "→", reset.offset, moves


def _document(key: TopicPartition, reset: OffsetReset) -> dict[str, Any]:
    return {"topic": key.topic, "partition": key.partition, **reset._asdict(), "moves_by": reset.moves_by}


@click.command(cls=Command, short_help="Forget groups, or what they have committed of topics.")
@GROUPS
@click.option("--topic", "topics", type=TOPICS, multiple=True, help="Only what was committed of it; may be repeated.")
@click.option("--if-exists", is_flag=True, help="A group that is not there is no error.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def delete(
    clients: Clients,
    group_ids: tuple[str, ...],
    topics: tuple[TopicChoice, ...],
    if_exists: bool,
    bootstrap_servers: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Forget each GROUP with all that it has committed, for ever. It must have no members.

    With --topic the group stays, and only its offsets of these topics go; its members must not be subscribed to them.
    """
    done: list[dict[str, Any]] = []
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        for group_id in dict.fromkeys(group_ids):
            try:
                what = _forget(admin, group_id, topics, timeout_ms)
            except GroupIdNotFoundError:
                if not if_exists:
                    raise
                what = None
            partitions = [key._asdict() for key in what or ()]
            done.append({"group_id": group_id, "is_there": what is not None, "partitions": partitions})
            if not as_json:
                click.echo(human.visible(_told(group_id, what, topics)))
    if as_json:
        print_json(done)


def _forget(
    admin: AdminClient, group_id: str, topics: tuple[TopicChoice, ...], timeout_ms: int
) -> list[TopicPartition]:
    """Forget a group, or its offsets of topics; return those."""
    if not topics:
        admin.delete_groups([group_id], timeout_ms=timeout_ms)
        return []
    admin.describe_groups([group_id], timeout_ms=timeout_ms)  # whether it is there
    committed = admin.list_group_offsets([group_id], timeout_ms=timeout_ms)[group_id]
    wanted = [
        key
        for key in committed
        if any(key.topic == topic and (not numbers or key.partition in numbers) for topic, numbers in topics)
    ]
    admin.delete_group_offsets(group_id, wanted, timeout_ms=timeout_ms)
    return wanted


def _told(group_id: str, forgotten: list[TopicPartition] | None, topics: tuple[TopicChoice, ...]) -> str:
    if forgotten is None:
        return f"{group_id} is not there"
    if not topics:
        return f"deleted {group_id}"
    if not forgotten:
        return f"{group_id} has committed nothing of {', '.join(choice.topic for choice in topics)}"
    return f"deleted what {group_id} had committed of {', '.join(map(str, forgotten))}"


@click.command("remove-member", cls=Command, short_help="Put members out of a group.")
@click.argument("group_id", metavar="GROUP")
@click.argument("members", metavar="MEMBER…", nargs=-1, required=True)
@click.option("--instance", is_flag=True, help="MEMBER is a group_instance_id, not a member id.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def remove_member(
    clients: Clients,
    group_id: str,
    members: tuple[str, ...],
    instance: bool,
    bootstrap_servers: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Put each MEMBER out of GROUP; its partitions go to the others at once.

    For one that is gone and whose session would last too long. A process that lives joins again: end it first.
    """
    from ..client.admin_groups import MemberToRemove

    named = [MemberToRemove(group_instance_id=name) if instance else MemberToRemove(name) for name in members]
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        results = admin.remove_group_members(group_id, named, timeout_ms=timeout_ms)
    if as_json:
        print_json([{"group_id": group_id, "member": name} for name in results])
        return
    for name in results:
        click.echo(human.visible(f"put {name} out of {group_id}"))
