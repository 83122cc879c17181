"""Replies that a peer's pipe did not take: a bounded queue for each peer. Pure; the socket is a function.

A ROUTER says neither when a full peer has room again nor lets one peer be disconnected. So what does not fit
waits here, in order, and is tried again whenever the socket has woken up; over the bound (bytes) a peer's new
replies are thrown away and counted. A peer that reads slowly costs memory up to the bound, and nobody time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

Frames = Sequence[bytes]


class Sent(Enum):
    """What became of one attempt to send."""

    YES = 1
    FULL = 2  # try again later
    GONE = 3  # no such peer (any more)


class _Queue:
    __slots__ = ("frames", "waiting_bytes")

    def __init__(self) -> None:
        self.frames: deque[tuple[Frames, int]] = deque()
        self.waiting_bytes = 0


class Outbox:
    """Sends now if possible, later if not, never out of order for one peer."""

    def __init__(
        self,
        try_send: Callable[[Frames], Sent],
        bytes_max: int,
        *,
        on_sent: Callable[[bytes, int], None],
        on_dropped: Callable[[bytes], None],
        on_gone: Callable[[bytes], None],
    ) -> None:
        self._try_send = try_send
        self._bytes_max = bytes_max
        self._on_sent = on_sent
        self._on_dropped = on_dropped
        self._on_gone = on_gone
        self._queues: dict[bytes, _Queue] = {}  # only of peers with something waiting

    @property
    def is_empty(self) -> bool:
        return not self._queues

    def waiting_bytes(self, peer: bytes) -> int:
        queue = self._queues.get(peer)
        return queue.waiting_bytes if queue else 0

    def send(self, peer: bytes, frames: Frames, size: int, *, may_wait: bool = True) -> None:
        """Send ``frames`` (the first is the peer; ``size`` bytes in all), or keep them for later, or drop them.

        A reply above the bound is kept if it is the only one: else a peer could never be told something big.
        """
        queue = self._queues.get(peer)
        if queue is None:
            sent = self._try_send(frames)
            if sent is Sent.YES:
                self._on_sent(peer, size)
                return
            if sent is Sent.GONE:
                self._on_gone(peer)
                return
            queue = _Queue()
        if not may_wait or (queue.frames and queue.waiting_bytes + size > self._bytes_max):
            self._on_dropped(peer)
            return
        self._queues[peer] = queue
        queue.frames.append((frames, size))
        queue.waiting_bytes += size

    def retry(self) -> bool:
        """Try what waits; return whether anything was sent."""
        return sum(map(self._retry, list(self._queues))) > 0  # every peer gets its turn

    def gone(self, peer: bytes) -> None:
        """Throw away what waits for a peer that is no longer there."""
        self._queues.pop(peer, None)

    def _retry(self, peer: bytes) -> bool:
        queue = self._queues[peer]
        has_sent = False
        while queue.frames:
            frames, size = queue.frames[0]
            sent = self._try_send(frames)
            if sent is Sent.FULL:
                return has_sent
            if sent is Sent.GONE:
                self._queues.pop(peer, None)
                self._on_gone(peer)
                return has_sent
            queue.frames.popleft()
            queue.waiting_bytes -= size
            self._on_sent(peer, size)
            has_sent = True
        del self._queues[peer]
        return has_sent
