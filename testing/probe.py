"""An actor that writes down what it is told: the parent, watcher or asker of a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ..actors.runtime import Context, LoopActor, LoopRef

M = TypeVar("M")


class Probe(LoopActor):
    """Takes every message and answers every ask with None."""

    handlers: ClassVar[Mapping[type, str]] = {object: "on_any"}

    def __init__(self, context: Context, address: str = "probe", parent: LoopRef | None = None) -> None:
        super().__init__(context, address, parent)
        self.told: list[Any] = []

    def on_any(self, message: Any) -> None:
        self.told.append(message)

    def all_of(self, kind: type[M]) -> list[M]:
        return [message for message in self.told if isinstance(message, kind)]


def probe(context: Context, address: str = "probe") -> Probe:
    """Start a probe and return the actor itself; its ref is ``.actor_ref``."""
    actor = Probe.start(context, address).actor
    if not isinstance(actor, Probe):
        raise TypeError(f"a probe at {address} ended at once")
    return actor
