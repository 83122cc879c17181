"""``callboard events``: the cluster's timeline, for people. What an event means is told in ``eventview``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import CallboardError
from . import eventview
from .commands import Command
from .connect import Clients
from .options import DURATION, bootstrap_option, timeout_option

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..client.experiments import Happened
    from ..transport.messages import EventDescription

WAIT_MS = 1_000  # of one question while following
RETRY_S = 0.2


@click.command(cls=Command, short_help="Show what happened: failures, elections, experiments.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--since", "since_ms", type=DURATION, metavar="DURATION", help="Only what is not older: 30s, 5m.")
@click.option("--all", "show_all", is_flag=True, help="Also what is rarely of interest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@bootstrap_option
@timeout_option
@click.pass_obj
def events(
    clients: Clients,
    follow: bool,
    since_ms: int | None,
    show_all: bool,
    as_json: bool,
    bootstrap_servers: str,
    timeout_ms: int,
) -> None:
    """Show the cluster's timeline: who failed, who noticed and how, who was elected, which replicas are in sync,
    which experiments were made, and how long each partition had no leader.

    Each process remembers its last 4,096 events, the host those of its processes.
    """
    from ..client.timeline import SETTLE_MS, Leaderships, Settling

    oldest_ms = 0 if since_ms is None else _now_ms() - since_ms
    leaderships = Leaderships()

    def show(told: list[EventDescription]) -> None:
        for one in told:
            ended = leaderships.add(one)
            if one.wall_ms < oldest_ms:
                continue  # looked at all the same: who led before is told by old events
            if as_json:
                _print_line(eventview.as_document(one))
            elif show_all or eventview.is_of_interest(one):
                click.echo(eventview.line_of(one))
            for gap in ended:
                if as_json:
                    _print_line(eventview.gap_document(gap))
                else:
                    click.echo(eventview.gap_line(gap))

    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        happened, settling = admin.events(), Settling()
        settling.add(happened.events)
        if happened.missed and not as_json:
            click.echo(f"… {happened.missed:,} earlier events are forgotten")
        while happened.events and not follow:  # a long timeline comes in parts
            happened = admin.events(happened.after)
            settling.add(happened.events)
        while follow:
            show(settling.settled(_now_ms()))
            happened = _next(admin, happened, WAIT_MS if settling.is_empty else SETTLE_MS // 2)
            settling.add(happened.events)
        show(settling.rest())
    if not as_json:
        for gap in leaderships.open_gaps:
            click.echo(eventview.gap_line(gap))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next(admin: AdminClient, last: Happened, wait_ms: int) -> Happened:
    """Ask on; a broker that is just being killed is no reason to end."""
    from ..client.experiments import Happened

    try:
        return admin.events(last.after, wait_ms)
    except CallboardError as error:
        if not error.retriable:
            raise
        time.sleep(RETRY_S)
        return Happened([], last.after)


def _print_line(value: dict[str, Any]) -> None:
    import orjson

    click.echo(orjson.dumps(value).decode())
