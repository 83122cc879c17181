"""``callboard bench``: break a cluster of its own, under load, and tell how long its partitions took no records."""

from __future__ import annotations

from typing import Any

import click

from . import human
from .commands import Command, Entry, LazyGroup
from .exits import ExitStatus
from .options import json_option
from .output import print_json, print_table

bench = LazyGroup(
    name="bench",
    help="Measure on a cluster that is started for it.",
    entries={
        "failover": Entry("bench", "failover", "Kill leaders; how long until their partitions take records again?")
    },
)

PARTS = (
    ("one partition", "ms"),
    ("the last of a signal", "worst_of_a_signal_ms"),
    ("… detect", "detect_ms"),
    ("… elect", "elect_ms"),
    ("… client", "client_ms"),
)


@click.command(cls=Command, short_help="Kill leaders; how long until their partitions take records again?")
@click.option("--kills", type=click.IntRange(min=1), default=100, show_default=True, help="How often.")
@click.option(
    "--how",
    type=click.Choice(("kill", "pause", "all")),
    default="kill",
    show_default=True,
    help="kill: SIGKILL of one broker; pause: SIGSTOP; all: SIGKILL of all brokers at once.",
)
@click.option("--partitions", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--rate", type=click.IntRange(min=1), default=1_000, show_default=True, help="Records a second.")
@click.option(
    "--fill-mib", type=click.IntRange(min=0), default=0, show_default=True, help="In the logs before the first signal."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the choice of victims and moments.")
@json_option
def failover(how: str, kills: int, partitions: int, rate: int, fill_mib: int, seed: int, as_json: bool) -> ExitStatus:
    """Start three brokers, send records with acks=all to all partitions, and kill leaders.

    A failover is the time from the signal to the first acknowledgement of a record that was sent after it, of one
    partition that the victim led; every second victim is the active controller. Its parts: detect (until the
    victim's session has ended), elect (until another broker leads), client (until the acknowledgement). At the end
    everything is read: nothing may be lost, nothing twice. The exit status is 1 if something was.
    """
    from ..testing.failover import Plan, measure, summary

    plan = Plan(kills=kills, how=how, partitions=partitions, rate=rate, fill_bytes=fill_mib << 20, seed=seed)  # type: ignore[arg-type] # click has checked the choice
    figures = summary(measure(plan))
    if as_json:
        print_json(figures)
    else:
        _print(figures)
    return ExitStatus.FAILED if figures["anomalies"] or figures["errors_seen_by_clients"] else ExitStatus.OK


def _print(figures: dict[str, Any]) -> None:
    for victim, group in figures["victim_was"].items():
        click.echo(f"victim was {victim}: {group['signals']} signals, {group['partitions']} partitions")
        rows = [(name, *(f"{group[key][share]:.0f} ms" for share in ("p50", "p99", "max"))) for name, key in PARTS]
        print_table(("", "p50", "p99", "max"), rows)
    click.echo(
        f"{human.count(figures['acknowledged'], 'record')} acknowledged, {figures['anomalies']} anomalies, "
        f"{figures['errors_seen_by_clients']} errors seen by clients"
    )
    for line in (*figures["first_anomalies"], *figures["first_errors"]):
        click.echo(f"  {line}")
