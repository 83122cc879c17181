"""``callboard pause | hang | slow | cut | delay | heal``: disturb a cluster for a while, and see what it does.

Each returns at once; the cluster undoes it by itself when its time is over, also when this program has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import human
from .commands import Command
from .connect import Clients
from .options import DURATION, WholeNumber, bootstrap_option, json_option, timeout_option
from .output import print_json

if TYPE_CHECKING:
    from ..client.experiments import Experiments

F = TypeVar("F", bound=Callable[..., Any])

WATCH = "see what comes of it: callboard events --follow"
NEEDS = "The cluster must allow it: callboard up --experiments. Addresses: callboard tree."

for_option: Callable[[F], F] = click.option(
    "--for",
    "for_ms",
    type=DURATION,
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="How long: 500ms, 5s, 2m; an hour at most.",
)
delay_option: Callable[[F], F] = click.option(
    "--ms", type=WholeNumber(1, 60_000), required=True, help="Milliseconds for each message."
)
one_way_option: Callable[[F], F] = click.option(
    "--one-way", is_flag=True, help="Only what the first sends to the second."
)


def _with_cluster(function: Callable[..., None]) -> Callable[..., Any]:
    return bootstrap_option(timeout_option(json_option(click.pass_obj(function))))


@click.command(cls=Command, short_help="Stop a process or an actor for a while.", epilog=NEEDS)
@click.argument("address")
@for_option
@_with_cluster
def pause(clients: Clients, address: str, for_ms: int, **where: Any) -> None:
    """Stop the process at ADDRESS (SIGSTOP), or have an actor handle no message; then let it go on.

    A paused broker is silent: its session ends after session_timeout_ms, and others lead.
    """
    _begin(clients, where, f"{address} is paused", for_ms, lambda lab: lab.pause(address, for_ms))


@click.command(cls=Command, short_help="Have an event loop stand still for a while.", epilog=NEEDS)
@click.argument("address")
@for_option
@_with_cluster
def hang(clients: Clients, address: str, for_ms: int, **where: Any) -> None:
    """Have the event loop of the process at ADDRESS stand still, as when an actor's handler waits for something.

    Beyond stall_ms the process ends itself and is started again. An actor alone that hears nothing: `pause` it.
    """
    _begin(clients, where, f"{address} hangs", for_ms, lambda lab: lab.hang(address, for_ms))


@click.command(cls=Command, short_help="Slow down an actor, or each of a process.", epilog=NEEDS)
@click.argument("address")
@delay_option
@for_option
@_with_cluster
def slow(clients: Clients, address: str, ms: int, for_ms: int, **where: Any) -> None:
    """Have the actor at ADDRESS take so long for each message; with a process's address, each of its actors."""
    _begin(
        clients, where, f"{address} is slow, {ms:,} ms a message,", for_ms, lambda lab: lab.slow(address, ms, for_ms)
    )


@click.command(cls=Command, short_help="Cut the link between two processes for a while.", epilog=NEEDS)
@click.argument("one")
@click.argument("other")
@one_way_option
@for_option
@_with_cluster
def cut(clients: Clients, one: str, other: str, one_way: bool, for_ms: int, **where: Any) -> None:
    """Lose, silently, what the processes ONE and OTHER send each other: broker-1 broker-2, or broker-1 metadata."""
    what = f"{one} {'→' if one_way else '↔'} {other} is cut"
    _begin(clients, where, what, for_ms, lambda lab: lab.cut(one, other, for_ms, one_way=one_way))


@click.command(cls=Command, short_help="Delay what travels between two processes.", epilog=NEEDS)
@click.argument("one")
@click.argument("other")
@delay_option
@one_way_option
@for_option
@_with_cluster
def delay(clients: Clients, one: str, other: str, ms: int, one_way: bool, for_ms: int, **where: Any) -> None:
    """Have what the processes ONE and OTHER send each other come so much later, each way."""
    what = f"{one} {'→' if one_way else '↔'} {other} is slower by {ms:,} ms"
    _begin(clients, where, what, for_ms, lambda lab: lab.delay(one, other, ms, for_ms, one_way=one_way))


@click.command(cls=Command, short_help="End experiments before their time.", epilog=NEEDS)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@_with_cluster
def heal(clients: Clients, addresses: tuple[str, ...], **where: Any) -> None:
    """End what was begun at each ADDRESS, and below it. Of a link that was cut, name both ends."""
    with clients.admin(where["bootstrap_servers"], where["timeout_ms"]) as admin:
        ended = {address: admin.experiments.end(address) for address in addresses}
    if where["as_json"]:
        print_json(ended)
        return
    for address in ended:
        click.echo(f"{address}: nothing disturbs it any more")


def _begin(
    clients: Clients, where: dict[str, Any], what: str, for_ms: int, begin: Callable[[Experiments], object]
) -> None:
    with clients.admin(where["bootstrap_servers"], where["timeout_ms"]) as admin:
        begin(admin.experiments)
    if where["as_json"]:
        print_json({"begun": what, "for_ms": for_ms})
    else:
        click.echo(f"{what} for {human.duration(for_ms)}; {WATCH}")
