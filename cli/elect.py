"""``callboard elect``: leadership moved at an operator's word."""

from __future__ import annotations

import click

from ..errors import ErrorCode
from ..model import TopicPartition
from .commands import Command
from .connect import Clients
from .exits import ExitStatus
from .options import WholeNumber, bootstrap_option, json_option, timeout_option
from .output import print_json, print_table, say


@click.command(cls=Command, short_help="Have leaders elected: preferred ones, or unclean.")
@click.option("--preferred", "election", flag_value="preferred", help="The first of the replicas, where it is in sync.")
@click.option(
    "--unclean", "election", flag_value="unclean", help="Any live replica, where nobody leads. LOSES RECORDS."
)
@click.option("--topic", metavar="TOPIC", help="Only partitions of this topic.")
@click.option("--partition", type=WholeNumber(min=0), metavar="N", help="Only this one; needs --topic.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def elect(
    clients: Clients,
    election: str | None,
    topic: str | None,
    partition: int | None,
    bootstrap_servers: str,
    timeout_ms: int,
    as_json: bool,
) -> int:
    """Have leaders elected, where it is needed; show who leads then.

    Preferred leaders get leadership back by themselves after a while (leader_rebalance_ms). An unclean election is for
    a partition whose in-sync and eligible replicas are gone for good: whoever is elected, what only the others had is
    lost, acknowledged or not. Ends with status 4 when somewhere nobody could be elected.
    """
    if election is None:
        raise click.UsageError("say which election: --preferred or --unclean")
    if partition is not None and topic is None:
        raise click.UsageError("--partition needs --topic")
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        partitions = None
        if topic is not None:
            numbers = [one.partition for one in admin.describe_topics([topic])[0].partitions]
            partitions = [TopicPartition(topic, one) for one in (numbers if partition is None else [partition])]
        results = admin.elect_leaders(election, partitions, timeout_ms=timeout_ms, raise_errors=False)
    rows = [
        {
            "topic": key.topic,
            "partition": key.partition,
            "leader": entry.leader,
            "leader_epoch": entry.leader_epoch,
            "error": ErrorCode(entry.error).name if entry.error else "",
            "detail": entry.detail,
        }
        for key, entry in results.items()
    ]
    is_refused = any(entry.error not in (0, ErrorCode.ELECTION_NOT_NEEDED) for entry in results.values())
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("no election was needed")
    else:
        print_table(
            ("topic", "partition", "leader", "epoch", "result"),
            [
                (
                    row["topic"],
                    row["partition"],
                    row["leader"] if entry.leader >= 0 else "none",
                    row["leader_epoch"],
                    f"{row['error']}: {row['detail']}" if row["error"] else "elected",
                )
                for row, entry in zip(rows, results.values(), strict=True)
            ],
            right=("partition", "epoch"),
        )
    if election == "unclean" and any(not entry.error for entry in results.values()):
        say("warning: what only the replicas had that were not elected is lost")
    return ExitStatus.REFUSED if is_refused else ExitStatus.OK
