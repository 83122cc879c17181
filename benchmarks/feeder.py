"""One blocking DEALER with a window of requests in flight: the same feeder for the bare loop and for a broker."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from callboard.storage.batch import encode_batch
from callboard.transport import codec
from callboard.transport import messages as m

from .bare import LEND_BYTES

WINDOW = 5  # requests in flight, as a producer's default has it
PATIENCE_MS = 30_000


class Feeder:
    """Sends requests that were made before, and counts the answers."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self._socket.connect(endpoint)

    def hello(self) -> None:
        """Greet a broker: without it nothing is answered."""
        self.ask([codec.encode(m.Hello(id=1, client_id="benchmark", software="benchmarks"))])

    def ask(self, request: Sequence[bytes]) -> list[bytes]:
        self._socket.send_multipart(request)
        return self._socket.recv_multipart()

    def run(self, requests: Sequence[Sequence[bytes]], window: int = WINDOW) -> tuple[float, int, list[bytes]]:
        """Ask them all; return seconds, the bytes of the answers' payloads, and the answers' headers."""
        socket = self._socket
        received, headers = 0, []
        begun = time.perf_counter()
        in_flight = 0
        for request in requests:
            if in_flight == window:
                reply = socket.recv_multipart(copy=False)
                headers.append(reply[0].bytes)
                received += sum(map(len, reply[1:]))
                in_flight -= 1
            last = len(request) - 1
            for frame in request[:last]:
                socket.send(frame, zmq.SNDMORE, len(frame) < LEND_BYTES)
            socket.send(request[last], 0, len(request[last]) < LEND_BYTES)
            in_flight += 1
        while in_flight:
            reply = socket.recv_multipart(copy=False)
            headers.append(reply[0].bytes)
            received += sum(map(len, reply[1:]))
            in_flight -= 1
        return time.perf_counter() - begun, received, headers

    def close(self) -> None:
        self._socket.close()


def batches(count: int, batch_bytes: int, value_bytes: int = 100) -> tuple[list[list[bytes]], int]:
    """Return ``count`` batches of about ``batch_bytes`` as an idempotent producer makes them, and the records in one.

    One producer, its sequences in order, so the broker's rules have their work too.
    """
    records = max(1, (batch_bytes - 160) // (value_bytes + 12))
    values = [b"v" * value_bytes] * records
    timestamps = list(range(1_700_000_000_000, 1_700_000_000_000 + records))
    made = []
    for number in range(count):
        made.append(
            encode_batch(None, values, timestamps, producer_id=1, producer_epoch=0, base_sequence=number * records)
        )
    return made, records
