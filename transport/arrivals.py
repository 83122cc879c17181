"""Which connections must end so that others can be: pure rules, no socket.

libzmq takes every connection that comes, until the process has no descriptor left: then its thread spins, and what
is hurt is not the newcomer but whoever wants to open a file. So each arrival is judged here.

1. Of one address no more than ``silent_max`` connections have not said hello; beyond, the oldest of these end. A
   sound client says hello within milliseconds, so it is never the oldest of many; one that is silent will be.
2. ``headroom`` descriptors stay free; when fewer are, the oldest connections that have not said hello end, of whatever
   address, the newcomer last. Those that have been told to go count as gone.
3. Whoever has said hello is never ended to make room.
4. A connection is named once: it has been told to go, and its end will be heard of.
"""

from __future__ import annotations

from typing import NamedTuple


class Remote(NamedTuple):
    """The other end of a connection; ``("", 0)`` on a unix socket."""

    address: str
    port: int


class Arrivals:
    """The open connections of one process, those that have not said hello in the order in which they came."""

    def __init__(self) -> None:
        self._open: dict[int, Remote] = {}  # by descriptor, until its end is known
        self._counts: dict[str, int] = {}  # of _open, by address; no zeros
        self._silent: dict[int, str] = {}  # a part of _open: neither greeted nor named; oldest first
        self._silent_of: dict[str, dict[int, None]] = {}  # the same by address; none is empty
        self._leaving: set[int] = set()  # a part of _open: named

    def __len__(self) -> int:
        return len(self._open)

    def count(self, address: str) -> int:
        """Return how many connections of one address are open, silent or not."""
        return self._counts.get(address, 0)

    def silent(self, address: str) -> int:
        """Return how many connections of one address have not said hello."""
        return len(self._silent_of.get(address, ()))

    def remote(self, descriptor: int) -> Remote | None:
        return self._open.get(descriptor)

    def accepted(self, descriptor: int, remote: Remote) -> None:
        """A connection has come. Its descriptor is not that of another one whose end is known."""
        self.ended(descriptor)
        self._open[descriptor] = remote
        self._counts[remote.address] = self.count(remote.address) + 1
        self._silent[descriptor] = remote.address
        self._silent_of.setdefault(remote.address, {})[descriptor] = None

    def too_many(self, address: str, silent_max: int) -> list[int]:
        """Name the connections of an address that must end by rule 1."""
        silent = self._silent_of.get(address, {})
        return [self._named(next(iter(silent))) for _ in range(len(silent) - silent_max)]

    def for_room(self, free: int, headroom: int) -> list[int]:
        """Name the connections that must end by rule 2. ``free``: descriptors that are, as the system says."""
        wanted = headroom - free - len(self._leaving)
        return [self._named(next(iter(self._silent))) for _ in range(min(wanted, len(self._silent)))]

    def greeted(self, descriptor: int) -> None:
        """It has said hello. Harmless when repeated."""
        address = self._silent.pop(descriptor, None)
        if address is not None:
            of_address = self._silent_of[address]
            del of_address[descriptor]
            if not of_address:
                del self._silent_of[address]

    def ended(self, descriptor: int) -> None:
        """It is gone. Harmless when repeated."""
        self.greeted(descriptor)
        self._leaving.discard(descriptor)
        remote = self._open.pop(descriptor, None)
        if remote is None:
            return
        left = self._counts[remote.address] - 1
        if left:
            self._counts[remote.address] = left
        else:
            del self._counts[remote.address]

    def _named(self, descriptor: int) -> int:
        self.greeted(descriptor)
        self._leaving.add(descriptor)
        return descriptor
