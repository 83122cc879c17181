"""What the metadata process's actor tells itself, and what waits in its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...storage.metadata_store import DocumentStore, Operation, Outcome, StoredDocument


@dataclass(frozen=True, slots=True)
class StoreOpened:
    store: DocumentStore
    documents: list[StoredDocument]


@dataclass(frozen=True, slots=True)
class Written:
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class Waiting:
    """``on_full``: called in place of ``then`` when there is no room on the disk; None: it waits for some."""

    operation: Operation
    then: Callable[[Outcome], None]
    on_full: Callable[[], None] | None = None


def turn_away(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Tell those who would rather know than wait that there is no room; return the others, in order."""
    staying = []
    for one in waiting:
        if one.on_full is None:
            staying.append(one)
        else:
            one.on_full()
    return staying
