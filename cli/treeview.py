"""The supervision tree as a person sees it, and what has changed between two looks at it. Pure but for drawing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..transport.messages import ActorDescription
from . import human

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

STYLES = {
    "running": "green",
    "starting": "yellow",
    "restarting": "yellow",
    "stopping": "yellow",
    "given up": "bold red",
}


def walk(tree: ActorDescription) -> Iterator[ActorDescription]:
    """Yield the actor and all below it, parents first."""
    yield tree
    for child in tree.children:
        yield from walk(child)


def find(tree: ActorDescription, address: str) -> ActorDescription | None:
    """Return the actor with this address; None: there is none, just now."""
    return next((actor for actor in walk(tree) if actor.address == address), None)


class Change(NamedTuple):
    """Something about one actor that is not as it was."""

    address: str
    what: str


def changes(before: ActorDescription, after: ActorDescription) -> list[Change]:
    """Return what is different in the second look: another state, another process, restarted, gone, new.

    Of a whole branch that is gone or new, one line is said, at the actor that it hangs on.
    """
    earlier = {actor.address: actor for actor in walk(before)}
    later = {actor.address: actor for actor in walk(after)}
    stayed = [address for address in later if address in earlier]
    found = [
        Change(address, ", ".join(words))
        for address in stayed
        if (words := _differences(earlier[address], later[address]))
    ]
    found += _branches([address for address in earlier if address not in later], set(stayed), "gone")
    found += _branches([address for address in later if address not in earlier], set(stayed), "there")
    return found


def _branches(addresses: list[str], stayed: set[str], what: str) -> list[Change]:
    """Return one change for all that hang on the same actor; an actor alone is named itself."""
    below: dict[str, list[str]] = {}
    for address in addresses:
        anchor = address.rpartition("/")[0]
        while anchor and anchor not in stayed:
            anchor = anchor.rpartition("/")[0]
        below.setdefault(anchor, []).append(address)
    return [
        Change(some[0], what)
        if len(some) == 1
        else Change(anchor, f"{human.count(len(some), 'actor')} below it {what}")
        for anchor, some in below.items()
    ]


def _differences(was: ActorDescription, now: ActorDescription) -> list[str]:
    words = []
    if now.state != was.state:
        words.append(now.state)
    if now.restarts > was.restarts:
        words.append(f"restart {now.restarts}")
    if now.pid != was.pid and now.pid > 0:
        words.append(f"pid {was.pid} → {now.pid}" if was.pid > 0 else f"pid {now.pid}")
    return words


def is_back(before: ActorDescription, after: ActorDescription | None) -> bool:
    """Say whether ``after`` is a new life of the same place in the tree, and serves."""
    if after is None or after.state != "running":
        return False
    return (
        after.restarts > before.restarts
        or (after.pid != before.pid and after.pid > 0)
        or after.uptime_ms < before.uptime_ms
    )


def drawn(tree: ActorDescription) -> Tree:
    """Return the tree for rich to draw: one line an actor."""
    from rich.tree import Tree

    top = Tree(_line(tree, tree.address), guide_style="dim")
    _add_children(top, tree)
    return top


def _add_children(branch: Tree, actor: ActorDescription) -> None:
    for child in actor.children:
        name = child.address.removeprefix(f"{actor.address}/")
        _add_children(branch.add(_line(child, name)), child)


def _line(actor: ActorDescription, name: str) -> Text:
    from rich.text import Text

    line = Text(name, style="bold")
    if actor.kind:
        line.append(f"  {actor.kind}", style="cyan")
    if actor.role:
        line.append(f" {actor.role}", style="magenta")
    if actor.state:
        line.append(f"  {actor.state}", style=STYLES.get(actor.state, "red"))
    for word in _facts(actor):
        line.append(f"  {word}", style="dim")
    if actor.restarts:
        line.append(f"  restarts {actor.restarts}", style="yellow")
    if actor.last_failure:
        line.append(f"  last failure: {' '.join(actor.last_failure.split())}", style="red")
    return line


def _facts(actor: ActorDescription) -> list[str]:
    words = []
    if actor.pid and actor.kind in {"process", "ProcessActor"}:
        words.append(f"pid {actor.pid}")
    if actor.strategy:
        words.append(actor.strategy.replace("_", "-"))
    words.append(f"mailbox {actor.mailbox}")
    if actor.uptime_ms:
        words.append(f"up {human.duration(actor.uptime_ms)}")
    return words
