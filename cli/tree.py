"""``callboard tree`` and ``callboard kill``: look at every actor of the cluster; break one and watch it come back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ..config import nearest_address
from ..errors import CallboardError, UnknownAddressError
from . import human, treeview
from .commands import Command
from .connect import Clients
from .exits import CommandFailed
from .options import DURATION, MILLISECONDS, bootstrap_option, json_option, timeout_option
from .output import print_json, print_rich

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..transport.messages import ActorDescription

LOOK_S = 0.05  # between two looks at the tree after a kill
WAYS = ("raise", "exit", "kill", "term")
PROCESS_WAYS, PROCESS = WAYS[2:], "process"


@click.command(cls=Command, short_help="Show the supervision tree: every actor of the cluster.")
@click.argument("address", required=False)
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def tree(clients: Clients, address: str | None, bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """Show every actor: its kind and role, state, restarts, mailbox length, and last failure.

    With ADDRESS, such as host/broker-1, only what is below it.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        whole = admin.describe_tree()
    shown = whole if address is None else _at(whole, address)
    if as_json:
        print_json(shown)
    else:
        print_rich(treeview.drawn(shown))


@click.command(cls=Command, short_help="Fail an actor or a process on purpose; watch it come back.")
@click.argument("address")
@click.option(
    "--how",
    type=click.Choice(WAYS),
    help="raise: an exception, exit: SystemExit (an actor's ways); kill: SIGKILL, term: SIGTERM (a process's)."
    "  [default: raise for an actor, kill for a process]",
)
@click.option(
    "--for",
    "for_ms",
    type=DURATION,
    default=0,
    metavar="DURATION",
    help="Do not start the process again before so long: 5s, 500ms (needs `up --experiments`).",
)
@bootstrap_option
@click.option(
    "--timeout-ms",
    type=MILLISECONDS,
    default=15_000,
    show_default=True,
    help="Give up when it is not back after so long.",
)
@json_option
@click.pass_obj
def kill(
    clients: Clients,
    address: str,
    how: str | None,
    for_ms: int,
    bootstrap_servers: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Fail what lives at ADDRESS (see `callboard tree`) and show what the supervisors do about it.

    Ends with 0 when it is back, with 1 when it is not within the time.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        before = admin.describe_tree()
        target = _at(before, address)
        if target.address == before.address:
            raise click.UsageError(
                f"{address} is the host: nobody would bring it back. Ctrl-C or SIGTERM stops `callboard up`"
            )
        if how in PROCESS_WAYS and target.kind != PROCESS:
            raise click.UsageError(
                f"{target.address} is an actor, not a process: --how {how} sends a signal to a process"
                f"{_process_of(before, target.address)}. To fail the actor alone: --how raise, or --how exit"
            )
        admin.kill(target.address, how=how or "", for_ms=for_ms)
        begin = time.monotonic()
        seen = _watch(admin, before, target, begin, for_ms + timeout_ms, quiet=as_json)
    back = seen[-1][0] if seen and seen[-1][1].what == BACK else None
    if as_json:
        events = [{"after_ms": after_ms, "address": change.address, "what": change.what} for after_ms, change in seen]
        print_json({"address": target.address, "how": how or "", "back_after_ms": back, "events": events})
    if back is None:
        raise CommandFailed(
            f"{target.address} is not back after {human.duration(for_ms + timeout_ms)}; see `callboard tree`"
        )


BACK = "is back"


def _watch(
    admin: AdminClient,
    before: ActorDescription,
    target: ActorDescription,
    begin: float,
    timeout_ms: int,
    *,
    quiet: bool,
) -> list[tuple[int, treeview.Change]]:
    """Look at the tree until the target is back; return, and print as they happen, the changes and their times."""
    seen: list[tuple[int, treeview.Change]] = []

    def tell(change: treeview.Change) -> None:
        after_ms = int((time.monotonic() - begin) * 1_000)
        seen.append((after_ms, change))
        if not quiet:
            click.echo(f"{after_ms:>6} ms  {change.address}  {change.what}")

    tell(treeview.Change(target.address, "killed"))
    last = before
    while (time.monotonic() - begin) * 1_000 < timeout_ms:
        try:
            now = admin.describe_tree()
        except CallboardError as error:
            if not error.retriable:
                raise
            time.sleep(LOOK_S)  # the very process that we ask may be the one that was killed
            continue
        for change in treeview.changes(last, now):
            tell(change)
        last = now
        if treeview.is_back(target, treeview.find(now, target.address)):
            tell(treeview.Change(target.address, BACK))
            break
        time.sleep(LOOK_S)
    return seen


def _process_of(whole: ActorDescription, address: str) -> str:
    """Return, for an error, the process that an actor lives in; "" when that is the host."""
    found = [actor.address for actor in treeview.walk(whole) if actor.kind == PROCESS]
    return next((f"; it lives in {one}" for one in found if address.startswith(f"{one}/")), "")


def _at(whole: ActorDescription, address: str) -> ActorDescription:
    """Return the actor at an address; the host's name before it may be left out.

    Raises:
        UnknownAddressError: there is none; the nearest one that there is, is told.
    """
    path = address.strip("/")
    found = treeview.find(whole, path) or treeview.find(whole, f"{whole.address}/{path}")
    if found is None:
        known = [actor.address for actor in treeview.walk(whole)]
        raise UnknownAddressError(f"nothing lives at {address!r}{nearest_address(address, known)}")
    return found
