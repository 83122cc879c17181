"""The commands of ``callboard topics`` that change something. Each prints what was done, topic by topic."""

from __future__ import annotations

from typing import Any

import click

from ..errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from ..model import TopicPartition
from . import human
from .commands import Command
from .connect import Clients
from .options import WholeNumber, bootstrap_option, settings_from, timeout_option
from .output import say

NAMES = click.argument("names", metavar="TOPIC…", nargs=-1, required=True)


@click.command(cls=Command, short_help="Create topics.")
@NAMES
@click.option("--partitions", type=int, help="How many.  [default: the cluster's default_partitions]")
@click.option(
    "--replication-factor",
    type=int,
    help="Copies of each partition, each on a broker of its own.  [default: the cluster's]",
)
@click.option("--config", "-c", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option("--if-not-exists", is_flag=True, help="A topic that is there already is no error.")
@bootstrap_option
@timeout_option
@click.pass_obj
def create(
    clients: Clients,
    names: tuple[str, ...],
    partitions: int | None,
    replication_factor: int | None,
    settings: tuple[str, ...],
    if_not_exists: bool,
    bootstrap_servers: str,
    timeout_ms: int,
) -> None:
    """Create each TOPIC and wait until producers can use it. Settings: see docs/operations.md."""
    topic: dict[str, Any] = {"configs": settings_from(settings)}
    if partitions is not None:
        topic["num_partitions"] = partitions
    if replication_factor is not None:
        topic["replication_factor"] = replication_factor
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        for name in names:
            try:
                admin.create_topics({name: topic}, timeout_ms=timeout_ms)
            except TopicAlreadyExistsError:
                if not if_not_exists:
                    raise
                click.echo(f"{name} is there already")
            else:
                click.echo(f"created {name}")


@click.command(cls=Command, short_help="Delete topics and all that is in them.")
@NAMES
@click.option("--if-exists", is_flag=True, help="A topic that is not there is no error.")
@bootstrap_option
@timeout_option
@click.pass_obj
def delete(clients: Clients, names: tuple[str, ...], if_exists: bool, bootstrap_servers: str, timeout_ms: int) -> None:
    """Delete each TOPIC with all its records, for ever."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        for name in names:
            try:
                admin.delete_topics([name], timeout_ms=timeout_ms)
            except UnknownTopicOrPartitionError:
                if not if_exists:
                    raise
                click.echo(f"{name} is not there")
            else:
                click.echo(f"deleted {name}")


@click.command(cls=Command, short_help="Change settings of a topic.")
@click.argument("name", metavar="TOPIC")
@click.option("--config", "-c", "settings", multiple=True, metavar="NAME=VALUE", help="Set it; may be repeated.")
@click.option("--reset", "resets", multiple=True, metavar="NAME", help="Back to the default; may be repeated.")
@bootstrap_option
@timeout_option
@click.pass_obj
def alter(
    clients: Clients,
    name: str,
    settings: tuple[str, ...],
    resets: tuple[str, ...],
    bootstrap_servers: str,
    timeout_ms: int,
) -> None:
    """Change settings of TOPIC; they hold at once."""
    if not settings and not resets:
        raise click.UsageError("say what to change: --config NAME=VALUE or --reset NAME")
    changes = settings_from(settings)
    if both := sorted(set(changes) & set(resets)):
        raise click.UsageError(f"{both[0]!r} is both set and reset")
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        admin.alter_configs({name: {**changes, **dict.fromkeys(resets)}}, timeout_ms=timeout_ms)
    done = [f"{key}={value}" for key, value in changes.items()] + [f"{key} is back to its default" for key in resets]
    click.echo(f"altered {name}: {', '.join(done)}")


@click.command("add-partitions", cls=Command, short_help="Give a topic more partitions.")
@click.argument("name", metavar="TOPIC")
@click.option(
    "--partitions", type=int, required=True, metavar="TOTAL", help="How many there shall be, old ones included."
)
@bootstrap_option
@timeout_option
@click.pass_obj
def add_partitions(clients: Clients, name: str, partitions: int, bootstrap_servers: str, timeout_ms: int) -> None:
    """Give TOPIC more partitions. Most keys go to other partitions from then on: see docs/partitions.md."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        admin.create_partitions({name: partitions}, timeout_ms=timeout_ms)
    click.echo(f"{name} has {human.count(partitions, 'partition')} now")
    say("note: records of one key may now lie in two partitions; what was written stays where it is")


@click.command("delete-records", cls=Command, short_help="Delete the oldest records of a partition.")
@click.argument("name", metavar="TOPIC")
@click.option("--partition", type=WholeNumber(min=0), required=True, metavar="N", help="Which partition.")
@click.option("--before", type=WholeNumber(min=-1), required=True, metavar="OFFSET", help="-1: all there is.")
@bootstrap_option
@timeout_option
@click.pass_obj
def delete_records(
    clients: Clients, name: str, partition: int, before: int, bootstrap_servers: str, timeout_ms: int
) -> None:
    """Delete the records of TOPIC's partition N below OFFSET, for ever. Offsets stay as they are."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        key = TopicPartition(name, partition)
        first = admin.delete_records({key: before}, timeout_ms=timeout_ms)[key]
    click.echo(f"partition {partition} of {name} begins at offset {first} now")
