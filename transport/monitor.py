"""What a socket's I/O thread says of its connections: up, down, refused. Within milliseconds of the fact."""

from __future__ import annotations

import struct
from collections.abc import Callable

import zmq

from . import sockets
from .loop import Loop
from .pump import Pump

CONNECTED = zmq.EVENT_CONNECTED.value
LISTENING = zmq.EVENT_LISTENING.value
ACCEPTED = zmq.EVENT_ACCEPTED.value
CLOSED = zmq.EVENT_CLOSED.value
DISCONNECTED = zmq.EVENT_DISCONNECTED.value
HANDSHAKE_SUCCEEDED = zmq.EVENT_HANDSHAKE_SUCCEEDED.value
FAILED_NO_DETAIL = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL.value
FAILED_PROTOCOL = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL.value
FAILED_AUTH = zmq.EVENT_HANDSHAKE_FAILED_AUTH.value
HANDSHAKE_FAILED = frozenset({FAILED_NO_DETAIL, FAILED_PROTOCOL, FAILED_AUTH})

OF_A_CLIENT = CONNECTED | CLOSED | DISCONNECTED | HANDSHAKE_SUCCEEDED | sum(HANDSHAKE_FAILED)
OF_A_SERVER = LISTENING | ACCEPTED | CLOSED | DISCONNECTED  # after a handshake that failed, too
_EVENT = struct.Struct("=Hi")
_DONTWAIT = zmq.DONTWAIT.value

OnEvent = Callable[[int, int], None]  # event, value (a descriptor, an errno, a status)


class Monitor:
    """Tells ``on_event`` what happens to a socket's connections, in order."""

    BATCH_MAX = 256
    ROUND_MAX = 8  # of a turn's round: whoever has work comes before those who come and go

    def __init__(self, loop: Loop, socket: zmq.Socket[bytes], on_event: OnEvent, wanted: int) -> None:
        self._loop = loop
        self._watched = socket
        self._on_event = on_event
        self._socket = sockets.monitor_of(socket, wanted)
        self._is_open = True
        self._pump = Pump(loop, self._socket, self._drain_some, lambda: False)

    def _drain_some(self) -> bool:
        return self.drain(self.ROUND_MAX)

    def drain(self, count: int = BATCH_MAX) -> bool:
        """Tell what is known by now. Also called by who must know everything that came before a message.

        Returns whether that is all.
        """
        for _ in range(count):
            if not self._is_open:
                return True
            event = self._next()
            if event is None:
                return True
            self._on_event(*event)
            self._pump.touched()
        return False

    def wait_for(self, event: int, count: int, timeout_ms: int) -> bool:
        """Block until ``event`` has come ``count`` times; others are dropped. Only for closing."""
        while count > 0:
            if not self._socket.poll(timeout_ms):
                return False
            found = self._next()
            if found is not None and found[0] == event:
                count -= 1
        return True

    def stop_watching(self) -> None:
        """Leave the loop; ``wait_for`` still works."""
        self._is_open = False
        self._pump.close()

    def close_in(self, delay_ms: int) -> None:
        """Release the socket after so long: the watched one has been closed, and its connections linger.

        An I/O thread that has news for a monitor whose reader is gone waits, and with it every connection of the
        process: a peer that left a closed server kept this process from sending anything else.
        """
        self._loop.call_later(delay_ms / 1_000, self.close)

    def close(self) -> None:
        """Release the socket. The watched one is open, or has been closed and has no connection any more."""
        self.stop_watching()
        if not self._watched.closed:
            self._watched.disable_monitor()
        self._socket.close(linger=0)

    def _next(self) -> tuple[int, int] | None:
        try:
            frames = self._socket.recv_multipart(_DONTWAIT)
        except zmq.Again:
            return None
        event, value = _EVENT.unpack_from(frames[0])
        return event, value
