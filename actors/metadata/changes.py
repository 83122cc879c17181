"""What changed since: the rules of watches. Pure.

A watcher names the version it has and is told everything after it: a *delta*, the latest state of each
document that changed, deletions included. Only so much is remembered; a watcher from before that, or from
another life of the metadata process, gets the whole *snapshot* (B29). A delta never misses anything: a
forgotten change raises ``floor_version``, and below the floor there are no deltas.

Watches are parked until there is something to tell. One a peer: the next one replaces it (the earlier is
answered with nothing new), so that a peer that asks without end costs one place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from ...storage.metadata_store import StoredDocument

CHANGES_MAX = 20_000  # documents
WATCHES_MAX = 10_000


class ChangeLog:
    """The latest state of each document changed lately, in order of version."""

    def __init__(self, version: int, changes_max: int = CHANGES_MAX) -> None:
        self.version = version  # of the latest change
        self.floor_version = version  # <= version; every change above it is remembered
        self._changes_max = changes_max
        self._latest: OrderedDict[str, StoredDocument] = OrderedDict()  # versions grow from first to last

    def add(self, version: int, documents: Iterable[StoredDocument]) -> None:
        """Take in the changes of one transaction; ``version`` is above all before."""
        for document in documents:
            self._latest[document.key] = document
            self._latest.move_to_end(document.key)
        self.version = version
        while len(self._latest) > self._changes_max:
            _, forgotten = self._latest.popitem(last=False)
            self.floor_version = max(self.floor_version, forgotten.version)

    def since(self, version: int) -> list[StoredDocument] | None:
        """Return what changed after ``version``, oldest first. None: not known any more (or not yet)."""
        if not self.floor_version <= version <= self.version:
            return None
        found = []
        for document in reversed(self._latest.values()):
            if document.version <= version:
                break
            found.append(document)
        found.reverse()
        return found


@dataclass(frozen=True, slots=True)
class Watch:
    """A parked request: wants what comes after ``after_version``, or an empty answer at ``deadline_ms``."""

    peer: bytes
    request_id: int
    after_version: int
    deadline_ms: int


class Watches:
    """The parked ones, one a peer."""

    def __init__(self) -> None:
        self._parked: dict[bytes, Watch] = {}  # at most WATCHES_MAX

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, watch: Watch) -> Watch | None:
        """Park a watch. Return one that must be answered now: this peer's earlier one, or this one (full)."""
        earlier = self._parked.pop(watch.peer, None)
        if len(self._parked) >= WATCHES_MAX:
            return watch
        self._parked[watch.peer] = watch
        return earlier

    def due(self, version: int) -> list[Watch]:
        """Take out those that ``version`` is news to."""
        return self._take([watch for watch in self._parked.values() if watch.after_version < version])

    def expired(self, now_ms: int) -> list[Watch]:
        """Take out those that have waited long enough."""
        return self._take([watch for watch in self._parked.values() if watch.deadline_ms <= now_ms])

    def next_deadline_ms(self) -> int | None:
        return min((watch.deadline_ms for watch in self._parked.values()), default=None)

    def _take(self, watches: list[Watch]) -> list[Watch]:
        for watch in watches:
            del self._parked[watch.peer]
        return watches
