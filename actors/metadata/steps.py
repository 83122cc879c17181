"""What the metadata process's actor tells itself, and what waits in its queue."""

from __future__ import annotations

from collections.abc import Callable
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
    operation: Operation
    then: Callable[[Outcome], None]
