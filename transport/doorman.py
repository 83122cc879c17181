"""Shows out connections that are too many: performs the rules of ``arrivals``, and says so.

A ROUTER cannot disconnect one peer, but its descriptor is known (the monitor names it), it is this process's own, and
a socket that is shut down ends by itself: libzmq's thread reads the end, closes it and tells the monitor. Between
our look at a descriptor and the call it could be closed and given to another connection. So it is compared with the
address and port that it had when it came; in the microseconds that remain the worst is a connection that is made again.
"""

from __future__ import annotations

import logging
import os
import resource
import socket as sockets_of_the_os
import sys

from ..config import Limits
from .arrivals import Arrivals, Remote
from .loop import Loop, Timer

logger = logging.getLogger(__name__)

HEADROOM = 256  # descriptors that arrivals leave free; a quarter where there are few
WASTED_AT_ONCE = 1_000  # an eighth of the descriptors where there are few
REPORT_S = 1.0  # between two lines on the same matter
_OPEN_FILES = "/proc/self/fd"
_TCP_INFO = 11  # of Linux
_RECEIVED_AT = 128  # tcpi_bytes_received in it


class Doorman:
    """The connections that have come to a process by all of its servers. One a transport."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._arrivals = Arrivals()
        self._unreported: dict[tuple[str, str], int] = {}  # since the last line, by event and reason
        self._timer: Timer | None = None  # runs while a matter has been reported a moment ago

    def accepted(self, descriptor: int, limits: Limits) -> int:
        """A connection has come; return how many were shown out for it."""
        remote = remote_of(descriptor) or Remote("", 0)  # gone already: its end follows
        self._arrivals.accepted(descriptor, remote)
        silent_max = limits.connections_silent_per_address
        who = remote.address or "this machine"
        count = self._show_out(
            self._arrivals.too_many(remote.address, silent_max),
            f"more than {silent_max:,} connections of {who} have not said hello",
        )
        allowed, headroom = descriptors_allowed()
        return count + self._show_out(
            self._arrivals.for_room(allowed - descriptors_in_use(descriptor), headroom),
            f"nearly all of the {allowed:,} file descriptors are in use: raise the limit (ulimit -n)",
        )

    def greeted(self, descriptor: int) -> None:
        self._arrivals.greeted(descriptor)

    def ended(self, descriptor: int) -> None:
        self._arrivals.ended(descriptor)

    def count(self, address: str) -> int:
        """Return how many connections of one address are open."""
        return self._arrivals.count(address)

    def end(self, descriptor: int, reason: str) -> int:
        """Show one connection out; return how many that were, 0 or 1."""
        return self._show_out([descriptor], reason)

    def note(self, reason: str) -> None:
        """Those who knock have been kept waiting."""
        self._count("connections.kept_waiting", reason, 1)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _show_out(self, descriptors: list[int], reason: str) -> int:
        count = 0
        for descriptor in descriptors:
            remote = self._arrivals.remote(descriptor)
            count += remote is not None and hang_up(descriptor, remote)
        self._count("connections.shown_out", reason, count)
        return count

    def _count(self, event: str, reason: str, count: int) -> None:
        if count:
            matter = event, reason
            self._unreported[matter] = self._unreported.get(matter, 0) + count
            if self._timer is None:
                self._report()

    def _report(self) -> None:
        """Say what has happened since the last time, and no more for a while."""
        self._timer = None
        for (event, reason), count in self._unreported.items():
            logger.warning("%s count=%d reason=%r", event, count, reason)
        if self._unreported:
            self._unreported.clear()
            self._timer = self._loop.call_later(REPORT_S, self._report)


def descriptors_allowed() -> tuple[int, int]:
    """Return how many descriptors this process may have, and how many of these are not for arrivals."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return 1 << 31, 0
    return allowed, min(HEADROOM, allowed // 4)


def wasted_at_once() -> int:
    """Return how many connections may come to nothing at once before a door is shut (``turnstile``)."""
    allowed, _ = descriptors_allowed()
    return max(1, min(WASTED_AT_ONCE, allowed // 8))


def descriptors_in_use(newest: int) -> int:
    """Return how many descriptors this process has; needs none for that, for there may be none.

    Linux tells it since 6.2. Elsewhere: ``newest`` was the lowest that was free, so all below it are in use.
    """
    try:
        told = os.stat(_OPEN_FILES).st_size
    except OSError:
        told = 0
    return max(told, newest + 1)


def remote_of(descriptor: int) -> Remote | None:
    """Return who is at the other end of a connection; None: this is none, or no more."""
    try:
        stream = sockets_of_the_os.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        name = stream.getpeername()
        return Remote(str(name[0]), int(name[1])) if isinstance(name, tuple) else Remote("", 0)
    except OSError:
        return None
    finally:
        stream.detach()


def received_by(descriptor: int) -> int:
    """Return how many bytes the kernel has received on a tcp connection, ever; -1: it does not say."""
    try:
        stream = sockets_of_the_os.socket(fileno=descriptor)
    except OSError:
        return -1
    try:
        if sys.platform != "linux":
            return -1
        told = stream.getsockopt(sockets_of_the_os.IPPROTO_TCP, _TCP_INFO, _RECEIVED_AT + 8)
    except OSError:
        return -1  # a unix socket, another system, or gone
    finally:
        stream.detach()
    return int.from_bytes(told[_RECEIVED_AT:], sys.byteorder) if len(told) == _RECEIVED_AT + 8 else -1


def hang_up(descriptor: int, remote: Remote) -> bool:
    """End a connection, whoever owns its descriptor; False: it is not with ``remote`` any more."""
    if remote_of(descriptor) != remote:
        return False
    stream = sockets_of_the_os.socket(fileno=descriptor)
    try:
        stream.shutdown(sockets_of_the_os.SHUT_RDWR)
    except OSError:
        return False  # ended meanwhile
    finally:
        stream.detach()
    return True
