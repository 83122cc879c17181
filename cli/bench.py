"""``callboard bench``: what failures and groups cost, measured on a cluster that is started for it."""

from __future__ import annotations

from typing import Any

import click

from . import human
from .commands import Command, Entry, LazyGroup
from .exits import ExitStatus
from .options import WholeNumber, json_option
from .output import print_json, print_table

bench = LazyGroup(
    name="bench",
    help="Measure on a cluster that is started for it.",
    entries={
        "failover": Entry("bench", "failover", "Kill leaders; how long until their partitions take records again?"),
        "faults": Entry(
            "bench", "faults", "Break a cluster in every way of the fault matrix: what it costs, beside the aims."
        ),
        "groups": Entry("bench", "groups", "What a rebalance costs those who stay, and groups the brokers."),
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
@click.option("--kills", type=WholeNumber(min=1), default=100, show_default=True, help="How often.")
@click.option(
    "--how",
    type=click.Choice(("kill", "pause", "all")),
    default="kill",
    show_default=True,
    help="kill: SIGKILL of one broker; pause: SIGSTOP; all: SIGKILL of all brokers at once.",
)
@click.option("--partitions", type=WholeNumber(min=1), default=50, show_default=True)
@click.option("--rate", type=WholeNumber(min=1), default=1_000, show_default=True, help="Records a second.")
@click.option(
    "--fill-mib", type=WholeNumber(min=0), default=0, show_default=True, help="In the logs before the first signal."
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


@click.command(
    cls=Command, short_help="Break a cluster in every way of the fault matrix: what it costs, beside the aims."
)
@click.option("--rows", default="", metavar="F5,F7", help="Only these rows.")
@click.option("--runs", type=WholeNumber(min=1), default=5, show_default=True, help="How often each fault strikes.")
@click.option("--partitions", type=WholeNumber(min=2), default=6, show_default=True)
@click.option("--rate", type=WholeNumber(min=1), default=1_000, show_default=True, help="Records a second.")
@click.option(
    "--fill-mib",
    type=WholeNumber(min=1),
    default=1_024,
    show_default=True,
    help="In 100 partitions before all brokers are killed (F12).",
)
@json_option
def faults(rows: str, runs: int, partitions: int, rate: int, fill_mib: int, as_json: bool) -> ExitStatus:
    """Start clusters of three brokers, send records with acks=all and read them, and break what a row names.

    \b
    F1   the actor of a leader fails           F8   SIGKILL of the active controller
    F2   … with records under way              F9   SIGSTOP of the active controller
    F3   a loop, or an actor, stands still     F12  SIGKILL of all brokers, 1 GiB in 100 partitions
    F4   SIGKILL of a leader                   F19  links between hosts are cut and heal
    F5   SIGKILL of a follower                 F29  SIGKILL of the host supervisor
    F6   SIGSTOP of a leader
    F7   SIGSTOP of a follower; one that reads slowly

    Each strikes a cluster that is whole. Told are the median and the longest of all times, the aim, and whether the
    longest (of ratios: the median) is below it. At the end of a row everything is read: nothing may be lost, nothing
    twice, and no error may have reached a client. The exit status is 1 if that is not so; an aim that is missed is only
    told: how busy the machine is counts, too.
    """
    from ..testing.fault_matrix import Plan, measure, summary

    plan = Plan(runs=runs, partitions=partitions, rate=rate, fill_bytes=fill_mib << 20)
    names = [name.strip().upper() for name in rows.split(",") if name.strip()]
    figures = summary(measure(plan, names, lambda text: click.echo(text, err=True)))
    if as_json:
        print_json({"runs": runs, "partitions": partitions, "rate": rate, "rows": figures})
    else:
        _print_faults(figures)
    is_sound = not any(row["anomalies"] or row["errors_seen_by_clients"] for row in figures)
    return ExitStatus.OK if is_sound else ExitStatus.FAILED


def _print_faults(figures: list[dict[str, Any]]) -> None:
    _print_measured(figures)
    for row in figures:
        for line in (*row["first_anomalies"], *row["first_errors"]):
            click.echo(f"  {row['row']} {row['what']}: {line}")
    acknowledged = sum(row["acknowledged"] for row in figures)
    anomalies, errors = (sum(row[key] for row in figures) for key in ("anomalies", "errors_seen_by_clients"))
    click.echo(
        f"{human.count(acknowledged, 'record')} acknowledged, {anomalies} anomalies, {errors} errors seen by clients"
    )


def _print_measured(figures: list[dict[str, Any]]) -> None:
    """Print each row with what was measured beside what is aimed at."""
    from ..testing.aims import shown

    lines = []
    for row in figures:
        first = tuple(row[key] for key in ("row", "what") if key in row)
        for figure in row["measured"]:
            values = [shown(figure[key], figure["unit"]) if figure["values"] else "" for key in ("median", "longest")]
            reached = {None: "", True: "yes", False: "NO"}[figure["is_reached"]]
            lines.append((*first, figure["text"], *values, figure["aim"], reached))
            first = tuple("" for _ in first)
    heads = ("row", "what was done", "what was measured", "median", "longest", "aim", "reached")
    print_table(heads[-len(lines[0]) :] if lines else heads, lines)


@click.command(cls=Command, short_help="What a rebalance costs those who stay, and groups the brokers.")
@click.option("--members", type=WholeNumber(min=2), default=10, show_default=True, help="Processes of one group.")
@click.option("--partitions", type=WholeNumber(min=2), default=100, show_default=True, help="That they share.")
@click.option("--rate", type=WholeNumber(min=1), default=300, show_default=True, help="Records a second.")
@click.option(
    "--session-timeout-ms",
    type=WholeNumber(min=1_000),
    default=2_000,
    show_default=True,
    help="After which a silent member is out.",
)
@click.option(
    "--joins", type=WholeNumber(min=1), default=10, show_default=True, help="First members of groups, one by one."
)
@click.option(
    "--rounds",
    type=WholeNumber(min=0),
    default=3,
    show_default=True,
    help="In each one member is killed and one closed; 0: leave that out.",
)
@click.option(
    "--groups",
    "group_count",
    type=WholeNumber(min=0),
    default=1_000,
    show_default=True,
    help="Of one member each, whose heartbeats and commits are measured; 0: leave that out.",
)
@json_option
def groups(
    members: int,
    partitions: int,
    rate: int,
    session_timeout_ms: int,
    joins: int,
    rounds: int,
    group_count: int,
    as_json: bool,
) -> ExitStatus:
    """Start three brokers and a group, kill one member, close another, and look at the others meanwhile.

    Told are the median and the longest, the aim, and whether the longest (of rates: the median) reaches it: how many
    partitions moved that need not; how long until those of the one that went are others', and read again; by how much
    any other member's longest pause between records was above its own 99th percentile before; how soon the first member
    of a group has records, from Consumer(…) on. Then, with many groups of one member: what their heartbeats cost all
    brokers together, and how many offsets they commit a second, beside produces of one batch with acks=all. An aim that
    is missed is only told: how busy the machine is counts, too. The exit status is 1 if a partition moved for nothing.
    """
    from ..testing import group_costs, group_figures, rebalance

    moved = rebalance.measure(
        rebalance.Plan(
            members=members,
            partitions=partitions,
            rate=rate,
            session_timeout_ms=session_timeout_ms,
            joins=joins,
            rounds=rounds,
        )
    )
    costs = group_costs.measure(group_costs.Plan(groups=group_count)) if group_count else None
    if as_json:
        print_json(group_figures.summary(moved, costs))
    else:
        plan = moved.plan
        click.echo(f"{plan.members} members, {plan.partitions} partitions, {plan.rate} records a second")
        _print_measured(group_figures.rows(moved, costs))
    return ExitStatus.FAILED if any(one.moved_from_others for one in moved.departures) else ExitStatus.OK
