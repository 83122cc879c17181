"""Who may open a connection: answers libzmq's question at each handshake (ZAP, RFC 27).

Every bound socket enforces a ZAP domain, so this handler must be there before the first bind, and when it is
gone nobody new comes in. It bounds the number of connections, of all and of one address, which libzmq itself does
not; those that never come as far as a handshake are ``doorman``'s. Keys and permissions (CURVE, ACLs) will be
asked here too; a peer's word in a message is never an identity.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from . import sockets
from .loop import Loop
from .pump import Pump

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_DONTWAIT = zmq.DONTWAIT.value
_BATCH_MAX = 256


class Admission:
    """Lets a peer in while ``may_admit(domain, address)`` says so. One a context."""

    def __init__(
        self, loop: Loop, context: zmq.Context[zmq.Socket[bytes]], may_admit: Callable[[bytes, str], bool]
    ) -> None:
        self._may_admit = may_admit
        self._socket = sockets.zap_handler(context)
        self._socket.bind(ZAP_ENDPOINT)
        self._pump = Pump(loop, self._socket, self._on_readable, lambda: False)
        self.admitted = 0
        self.refused = 0

    def close(self) -> None:
        self._pump.close()
        self._socket.close(linger=0)

    def _on_readable(self) -> bool:
        for _ in range(_BATCH_MAX):
            try:
                frames = self._socket.recv_multipart(_DONTWAIT)
            except zmq.Again:
                return True
            self._answer(frames)
        return False

    def _answer(self, frames: list[bytes]) -> None:
        """Frames: the asker's route up to an empty one, then version, id, domain, address, identity, mechanism, …"""
        try:
            body = frames.index(b"") + 1
            _, request_id, domain, address = frames[body : body + 4]
        except ValueError:
            return
        if self._may_admit(domain, address.decode(errors="replace")):
            self.admitted += 1
            status, text = b"200", b"OK"
        else:
            self.refused += 1
            status, text = b"400", b"refused"
        answer = [*frames[:body], _VERSION, request_id, status, text, b"", b""]
        try:
            self._socket.send_multipart(answer, _DONTWAIT)
        except zmq.ZMQError:
            return  # the asker is gone; without an answer nobody comes in
