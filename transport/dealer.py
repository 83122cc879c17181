"""One attempt to reach a peer over ZeroMQ: a DEALER that connects once, and its monitor.

libzmq reconnects on its own and says nothing; then nobody knows which requests were lost with the old
connection. So it is told not to, the monitor tells what becomes of the one connection, and the owner
(``peers.py``) makes a new wire with a new socket.

Names are resolved here, in a thread: libzmq would do it in its only I/O thread, and everything would wait.
"""

from __future__ import annotations

import contextlib
import socket as sockets_of_the_os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import zmq

from . import addresses, monitor, sockets
from .loop import Loop
from .monitor import Monitor
from .multipart import ZERO_COPY_BYTES, sender_of
from .pump import Pump
from .seam import Stage
from .wire import WireListener

LINGER_MS = 1_000  # of a graceful close, at most: what was sent without a reply (acks=0) may still go out
_DONTWAIT = zmq.DONTWAIT.value
_EVENTS = zmq.EVENTS.value
_POLLIN = zmq.POLLIN.value
_RECEIVED_MAX = 256  # messages a round …
_RECEIVED_BYTES_MAX = 16 << 20  # … or bytes


class DealerWire:
    """A ``Wire``."""

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        options: sockets.SocketOptions,
        endpoint: str,
        listener: WireListener,
    ) -> None:
        self._loop, self._context, self._options = loop, context, options
        self._listener = listener
        self._address = addresses.parse_address(endpoint)
        self._stage = Stage.RESOLVE
        self._is_open = True
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: Monitor | None = None
        self._pump: Pump | None = None
        self._try_send: Callable[[Sequence[bytes]], bool] = lambda _: False  # the socket's own once there is one
        self._unsent: deque[Sequence[bytes]] = deque()
        if self._address.is_numeric:
            self._connect(self._address)
        elif self._address.host == "localhost":
            self._connect(self._address._replace(host="127.0.0.1"))
        else:
            threading.Thread(target=self._resolve, name=f"resolve {self._address.host}", daemon=True).start()

    @property
    def stage(self) -> Stage:
        return self._stage

    @property
    def is_congested(self) -> bool:
        return bool(self._unsent)

    def send(self, frames: Sequence[bytes]) -> None:
        if self._unsent or not self._try_send(frames):
            self._unsent.append(frames)
        if self._pump is not None:
            self._pump.touched()

    def close(self, *, is_graceful: bool) -> None:
        if not self._is_open:
            return
        self._is_open = False
        while is_graceful and self._stage is Stage.HELLO and self._unsent and self._try_send(self._unsent[0]):
            self._unsent.popleft()
        self._unsent.clear()
        if self._pump is not None:
            self._pump.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._socket is not None:
            self._socket.close(linger=LINGER_MS if is_graceful and self._stage is Stage.HELLO else 0)

    # -- coming up -----------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """In a thread of its own."""
        host, port = self._address.host, self._address.port
        outcome: str | OSError
        try:
            found = sockets_of_the_os.getaddrinfo(host, port, type=sockets_of_the_os.SOCK_STREAM)
            outcome = str(min(found, key=lambda info: info[0] != sockets_of_the_os.AF_INET)[4][0])
        except (OSError, UnicodeError) as error:
            outcome = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._on_resolved, outcome)

    def _on_resolved(self, outcome: str | OSError) -> None:
        if not self._is_open:
            return
        if isinstance(outcome, OSError):
            why = outcome.strerror or str(outcome)
            self._listener.on_down(Stage.RESOLVE, f"{self._address.host!r}: {why}", "check the host's name")
        else:
            self._connect(self._address._replace(host=outcome))

    def _connect(self, address: addresses.Address) -> None:
        self._stage = Stage.CONNECT
        try:
            self._socket = sockets.dealer(self._context, self._options)
            if ":" in address.host:
                self._socket.setsockopt(zmq.IPV6, 1)
            self._try_send = sender_of(self._socket)
            self._monitor = Monitor(self._loop, self._socket, self._on_event, monitor.OF_A_CLIENT)
            self._pump = Pump(self._loop, self._socket, self._on_readable, self._on_idle)
            self._socket.connect(address.endpoint)
        except zmq.ZMQError as error:  # too many open files, no such protocol
            self._loop.call_soon(self._down, Stage.CONNECT, str(error), "raise the limit of open files (ulimit -n)")

    def _on_event(self, event: int, value: int) -> None:
        if not self._is_open:
            return
        if event == monitor.CONNECTED:
            self._stage = Stage.HANDSHAKE
        elif event == monitor.HANDSHAKE_SUCCEEDED:
            self._stage = Stage.HELLO
            self._listener.on_up()
        elif event == monitor.FAILED_AUTH:
            self._down(Stage.HANDSHAKE, f"not let in (status {value})", "too many connections there, or not allowed")
        elif event == monitor.FAILED_PROTOCOL:
            self._down(Stage.HANDSHAKE, "the peer does not speak ZMTP 3", _IS_IT_CALLBOARD)
        elif event == monitor.FAILED_NO_DETAIL:
            self._down(Stage.HANDSHAKE, "the connection ended during the handshake", _IS_IT_CALLBOARD)
        elif event == monitor.DISCONNECTED or event == monitor.CLOSED:
            self._on_end()

    def _on_end(self) -> None:
        if self._stage is Stage.HELLO:
            while self._is_open and self._receive():
                pass  # what had come before the end
            self._down(Stage.LOST, "the peer closed it or died", "")
        elif self._stage is Stage.HANDSHAKE:
            self._down(Stage.HANDSHAKE, "the connection ended during the handshake", _IS_IT_CALLBOARD)
        elif self._address.scheme == "ipc" and not addresses.is_socket(self._address.path):
            self._down(Stage.CONNECT, "no such socket file", _IS_IT_RUNNING)
        else:
            self._down(Stage.CONNECT, "connection refused or not reachable", _IS_IT_RUNNING)

    def _down(self, stage: Stage, detail: str, advice: str) -> None:
        if self._is_open:
            self.close(is_graceful=False)
            self._listener.on_down(stage, detail, advice)

    # -- traffic -------------------------------------------------------------------------------------

    def _send_unsent(self) -> bool:
        has_sent = False
        while self._unsent and self._try_send(self._unsent[0]):
            self._unsent.popleft()
            has_sent = True
        return has_sent

    def _on_idle(self) -> bool:
        if not self._unsent or self._pump is None:
            return False
        return self._send_unsent() or self._pump.is_readable

    def _on_readable(self) -> bool:
        may_be_more = self._receive()
        if self._unsent:
            self._send_unsent()
            return False
        return not may_be_more

    def _receive(self) -> bool:
        """Hand over what is there, a bounded number; return whether there may be more.

        Mostly it is one message: a look at ``EVENTS`` tells so at less than half the cost of an EAGAIN.
        """
        socket = self._socket
        if socket is None:
            return False
        recv = socket.recv
        on_frames = self._listener.on_frames
        size = 0
        for number in range(_RECEIVED_MAX):
            try:
                frame = recv(_DONTWAIT, False)
            except zmq.Again:
                return False
            frames = [frame.bytes]
            while frame.more:
                frame = recv(_DONTWAIT, False)
                frames.append(_data_of(frame))
                size += len(frames[-1])
            on_frames(frames)
            if not self._is_open:
                return False
            if size > _RECEIVED_BYTES_MAX:
                return True
            if not number and not socket.getsockopt(_EVENTS) & _POLLIN:  # type: ignore[operator]
                return False
        return True


def _data_of(frame: zmq.Frame) -> bytes:
    """Return what a frame holds. A large one is not copied: what comes is a view of libzmq's memory, which reads as
    bytes do (length, slices, comparison), and whose slices are views; the memory is held as long as any of them.
    """
    return cast("bytes", frame.buffer) if len(frame) >= ZERO_COPY_BYTES else frame.bytes


_IS_IT_CALLBOARD = "is a Callboard broker listening there, with room for one more? its log says so"
_IS_IT_RUNNING = "is a broker running there? `callboard up` starts a cluster"
