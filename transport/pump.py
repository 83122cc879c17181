"""Waits on a ZeroMQ socket from an event loop, through the socket's raw descriptor.

The problem. The descriptor tells only that *something changed*, and only once: after a signal nobody hears of
the messages that are still there, and any call on the socket, a send too, may swallow the signal of a message
that has just come. Without reading ``EVENTS`` again after a send 59 of 3,000 exchanges hung for ever.

The rules.

1. A turn ends only when ``EVENTS``, read after the last other call on the socket, shows nothing to do (or a ``recv``,
   as the last call, said EAGAIN: it has taken all signals in, too); or when the next turn has been scheduled with
   ``call_soon``.
   A send that the socket refuses is a call like any other: it swallows signals, too (``is_readable`` after it).
2. Whoever uses the socket outside a turn says so (``touched``), and a turn follows.
3. A turn is bounded, so that one busy socket does not starve the loop.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from .loop import Loop

_EVENTS = zmq.EVENTS.value
_POLLIN = zmq.POLLIN.value


class Pump:
    """Calls ``on_readable`` while there may be something to read, ``on_idle`` when there is nothing more.

    ``on_readable()`` reads a bounded number of messages, none if there is none; it returns whether it knows, by its
    last call on the socket, that there is nothing more. ``on_idle()`` may send (what had to wait) and returns whether
    it did, or has tried in vain and ``is_readable`` now: then the events are looked at once more.
    """

    ROUNDS_MAX = 4  # of on_readable, in one turn

    def __init__(
        self, loop: Loop, socket: zmq.Socket[bytes], on_readable: Callable[[], bool], on_idle: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._events = socket.getsockopt
        self._on_readable = on_readable
        self._on_idle = on_idle
        self._fd: int = socket.getsockopt(zmq.FD)  # type: ignore[assignment]
        self._is_open = True
        self._is_scheduled = False
        self._in_turn = False
        self.turns = 0
        loop.add_reader(self._fd, self._turn)
        self.touched()  # what came before the descriptor was watched

    def touched(self) -> None:
        """The socket was used: its signal may have been swallowed."""
        if not self._is_scheduled and not self._in_turn and self._is_open:
            self._is_scheduled = True
            self._loop.call_soon(self._scheduled_turn)

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read, asked anew. Not on a closed socket."""
        return bool(self._events(_EVENTS) & _POLLIN)  # type: ignore[operator]

    def close(self) -> None:
        """Stop watching. To be called before the socket is closed, and harmless when repeated."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._fd)

    def _scheduled_turn(self) -> None:
        self._is_scheduled = False
        self._turn(False)

    def _turn(self, has_signal: bool = True) -> None:
        if not self._is_open or self._in_turn:
            return
        self.turns += 1
        self._in_turn = True
        is_done = False
        try:
            is_done = self._work(has_signal)
        finally:  # also when a handler has raised: what is still in the socket must not wait for a signal
            self._in_turn = False
            if not is_done:
                self.touched()

    def _work(self, has_signal: bool) -> bool:
        """Return True when rule 1 holds. With a signal there is nearly always a message: it is read without asking."""
        for _ in range(self.ROUNDS_MAX):
            if has_signal or self._events(_EVENTS) & _POLLIN:  # type: ignore[operator]
                has_signal = False
                is_empty = self._on_readable()
                if not self._is_open:
                    return True
                if not is_empty:
                    continue
            if not self._on_idle() or not self._is_open:
                return True
        return False
