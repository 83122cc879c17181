"""What the kernel is asked to do at a listening socket, so that a flood of connections costs it and not us.

libzmq takes every connection that comes, one after the other, and cannot be told to wait: an endpoint that is unbound
takes its connections with it. But the monitor names the descriptor on which it listens, which is this process's own,
and of a descriptor the kernel can be asked two things:

1. *Wait for a word* (``TCP_DEFER_ACCEPT``): a connection is handed over when something has come on it. The client's end
   of ZMTP speaks at once; one that never does costs no descriptor, no thread, no event: it waits in the kernel, which
   forgets it after a minute. Only where a full queue of such does not keep others out (SYN cookies, the default).
2. *Nobody new* (a filter that drops SYN, the first segment of a connection): whoever knocks is not answered, and his
   kernel knocks again after 1, 3, 7 s. Connections that are open, or on their way, are not concerned, nor slower.

(An attacker who gives up at once and knocks anew spends his own processor on it. The filter, a few instructions, is
inherited by connections that are taken while it is there, and lets all of theirs pass.)

Both are Linux's. Elsewhere, and on unix sockets, doors are always open.
"""

from __future__ import annotations

import ctypes
import socket as sockets_of_the_os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from .loop import Clock, Loop, Timer
from .turnstile import Turnstile

WORD_S = 30  # that the kernel waits for a word; it rounds up to its own steps
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # of Linux: SO_ATTACH_FILTER and SO_DETACH_FILTER
_COOKIES = Path("/proc/sys/net/ipv4/tcp_syncookies")
_FLAGS_AT = 13  # of a TCP header
_SYN, _ACK = 0x02, 0x10
_NO_SYN = (  # classic BPF: code, jump if true, jump if false, operand
    (0x30, 0, 0, _FLAGS_AT),  # load the byte of flags
    (0x54, 0, 0, _SYN | _ACK),  # of these two
    (0x15, 0, 1, _SYN),  # SYN alone?
    (0x06, 0, 0, 0),  # then keep nothing of it
    (0x06, 0, 0, 0xFFFFFFFF),  # else all
)


class Doors:
    """The listening sockets of one server; shut together, as its turnstile says."""

    def __init__(self, loop: Loop, clock: Clock, turnstile: Turnstile, on_shut: Callable[[], None]) -> None:
        self._loop, self._clock = loop, clock
        self._turnstile = turnstile
        self._on_shut = on_shut
        self._listening: set[int] = set()
        self._is_shut = False
        self._timer: Timer | None = None  # runs while they are shut

    def listening(self, descriptor: int) -> None:
        """libzmq listens on a descriptor from now on."""
        if is_tcp(descriptor):
            self._listening.add(descriptor)
            wait_for_a_word(descriptor)
            if self._is_shut:
                turn_away(descriptor)

    def arrived(self, descriptor: int) -> None:
        self._turnstile.arrived(descriptor, self._clock.monotonic_ms())
        if self._turnstile.is_shut and not self._is_shut:
            self._shut()

    def greeted(self, descriptor: int) -> None:
        self._turnstile.greeted(descriptor, self._clock.monotonic_ms())
        if self._is_shut and not self._turnstile.is_shut:
            self._look()

    def ended(self, descriptor: int) -> None:
        self._turnstile.ended(descriptor, self._clock.monotonic_ms())
        if self._turnstile.is_shut and not self._is_shut:
            self._shut()

    def close(self) -> None:
        """Touch nothing any more; to be called before the sockets are closed. Harmless when repeated."""
        self._listening.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _shut(self) -> None:
        self._is_shut = True
        for descriptor in self._listening:
            turn_away(descriptor)
        self._timer = self._loop.call_later(self._wait_s(), self._look)
        self._on_shut()

    def _look(self) -> None:
        """Open, or wait on: what came in meanwhile has to be paid, too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait_s := self._wait_s():
            self._timer = self._loop.call_later(wait_s, self._look)
            return
        self._is_shut = False
        for descriptor in self._listening:
            welcome(descriptor)

    def _wait_s(self) -> float:
        return self._turnstile.opens_in_ms(self._clock.monotonic_ms()) / 1_000


def is_tcp(descriptor: int) -> bool:
    """Say whether something can be asked of the kernel for this socket."""
    if sys.platform != "linux":
        return False
    try:
        stream = sockets_of_the_os.socket(fileno=descriptor)
    except OSError:
        return False
    family = stream.family
    stream.detach()
    return family in (sockets_of_the_os.AF_INET, sockets_of_the_os.AF_INET6)


def wait_for_a_word(descriptor: int) -> bool:
    """Have connections handed over when something has come on them; False: the system does not, or had better not."""
    try:
        if int(_COOKIES.read_text(encoding="ascii")) == 0:
            return False
    except (OSError, ValueError):
        return False
    option = sockets_of_the_os.IPPROTO_TCP, sockets_of_the_os.TCP_DEFER_ACCEPT
    return _asked(descriptor, *option, WORD_S)


def turn_away(descriptor: int) -> bool:
    """Answer nobody who knocks from now on; False: the system cannot."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _NO_SYN))
    program = struct.pack("@HP", len(_NO_SYN), ctypes.addressof(code))
    return _asked(descriptor, sockets_of_the_os.SOL_SOCKET, _ATTACH_FILTER, program)


def welcome(descriptor: int) -> bool:
    """Answer again whoever knocks."""
    return _asked(descriptor, sockets_of_the_os.SOL_SOCKET, _DETACH_FILTER, 0)


def _asked(descriptor: int, level: int, option: int, value: int | bytes) -> bool:
    try:
        stream = sockets_of_the_os.socket(fileno=descriptor)
    except OSError:
        return False
    try:
        stream.setsockopt(level, option, value)
    except OSError:
        return False  # another system, or gone
    finally:
        stream.detach()
    return True
