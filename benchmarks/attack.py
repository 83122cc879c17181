"""A flood of connections, and the least a listener can do against one: each a process of its own.

    python -m benchmarks.attack HOST:PORT COUNT SAYS HOW PACE      floods; prints ``ready`` when it has begun
    python -m benchmarks.attack listen HOLDS                       prints its HOST:PORT, accepts and closes

Both answer each line on their standard input with a line of JSON (connections so far, seconds of CPU) and end with it.

What a connection says: *nothing*; *greeting* (that of ZMTP, and no more: half a handshake); *ready* (all of the
handshake); *hello* (Callboard's too; from then on it answers heartbeats). How: *held* (open for as long as the other
side lets it), *renewed* (those that were ended are made again), *stormed* (ended with a reset as soon as they have
spoken, given up when they are not answered within ``PATIENCE_S``, and made again at once). PACE bounds how often it
knocks a second; 0: as fast as it can.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import sys
import time
from collections import deque

from callboard.transport import codec
from callboard.transport import messages as m

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
_READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
_PONG = b"\x04\x05\x04PONG"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no farewell, and no port that waits for a minute
_RENEW_S = 0.05
_FILL_S = 40.0  # until all are there who stay
PATIENCE_S = 0.02


def _hello() -> bytes:
    header = codec.encode(m.Hello(id=1, client_id="flood"))
    return b"\x02" + len(header).to_bytes(8, "big") + header


SAYS = {"nothing": b"", "greeting": _GREETING, "ready": _GREETING + _READY, "hello": _GREETING + _READY}
_HELLO = _hello()  # said when the handshake is done: libzmq ends whoever says it before


class Flood:
    """``count`` connections to one place, as one thread makes them."""

    def __init__(self, place: tuple[str, int], count: int, says: str, how: str, pace: float) -> None:
        self._place, self._count, self._data, self._how, self._pace = place, count, SAYS[says], how, pace
        self._says_hello = says == "hello"
        self._epoll = select.epoll()
        self._epoll.register(sys.stdin, select.EPOLLIN)
        self._streams: dict[int, socket.socket] = {}
        self._missing = count
        self._ended: deque[int] = deque()
        self._renew_at = 0.0
        self._knocking: dict[int, float] = {}  # since when, by descriptor; the oldest first
        self.knocks = self.connects = 0

    def run(self) -> None:
        begun = time.monotonic()
        is_ready = False
        while True:
            now = time.monotonic()
            allowed = self._count if not self._pace else int((now - begun) * self._pace) - self.knocks
            if self._how == "stormed":
                self._give_up(now - PATIENCE_S)
            if self._how == "renewed" and now > self._renew_at:
                self._missing += len(self._ended)
                self._ended.clear()
                self._renew_at = now + _RENEW_S
            for _ in range(min(self._missing, max(0, allowed), 64)):
                self._open(now)
            if not is_ready and self._has_begun(now - begun):
                is_ready = True
                print("ready", flush=True)
            wait = 0.001 if self._missing else _RENEW_S
            for descriptor, event in self._epoll.poll(0 if self._missing and allowed > 0 else wait, 256):
                if descriptor == sys.stdin.fileno():
                    if not sys.stdin.readline():
                        return
                    self._tell()
                elif descriptor not in self._streams:
                    continue
                elif event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                    self._speak(descriptor)
                else:
                    self._listen(descriptor)

    def _has_begun(self, passed_s: float) -> bool:
        """Say whether what is to be measured is there: all of those who may stay, or some seconds of the others."""
        if self._says_hello and self._how != "stormed":
            return len(self._streams) - len(self._knocking) >= self._count or passed_s > _FILL_S
        return self._missing <= 0 or passed_s > 3

    def _tell(self) -> None:
        open_now = len(self._streams) - len(self._knocking)
        told = {"knocks": self.knocks, "connects": self.connects, "open": open_now, "cpu": time.process_time()}
        print(json.dumps(told), flush=True)

    def _give_up(self, before: float) -> None:
        for descriptor in [each for each, since in self._knocking.items() if since < before]:
            self._end(descriptor)

    def _open(self, now: float) -> None:
        stream = socket.socket()
        stream.setblocking(False)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        code = stream.connect_ex(self._place)
        if code not in (0, errno.EINPROGRESS):
            stream.close()  # no port is left
            return
        self._missing -= 1
        self.knocks += 1
        self._knocking[stream.fileno()] = now
        self._streams[stream.fileno()] = stream
        self._epoll.register(stream, select.EPOLLOUT)

    def _speak(self, descriptor: int) -> None:
        self.connects += 1
        del self._knocking[descriptor]
        with contextlib.suppress(OSError):
            if self._data:
                self._streams[descriptor].send(self._data)
        if self._how == "stormed" and not self._says_hello:
            self._end(descriptor)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _listen(self, descriptor: int) -> None:
        try:
            if said := self._streams[descriptor].recv(4_096):
                if self._says_hello:
                    self._answer(descriptor, said)
                return
        except BlockingIOError:
            return
        except OSError:
            self._end(descriptor)
            return
        self._end(descriptor)

    def _answer(self, descriptor: int, said: bytes) -> None:
        if b"READY" in said:
            self._streams[descriptor].send(_HELLO)
            if self._how == "stormed":
                self._end(descriptor)
        elif b"PING" in said:
            self._streams[descriptor].send(_PONG)

    def _end(self, descriptor: int) -> None:
        self._knocking.pop(descriptor, None)
        self._streams.pop(descriptor).close()
        if self._how == "stormed":
            self._missing += 1
        else:
            self._ended.append(descriptor)


def listen(holds: int) -> None:
    """Accept; hold the youngest ``holds`` connections, close the others. Nothing is read."""
    held: deque[socket.socket] = deque()
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as door:
        host, port = door.getsockname()
        print(f"{host}:{port}", flush=True)
        poll = select.epoll()
        poll.register(door, select.EPOLLIN)
        poll.register(sys.stdin, select.EPOLLIN)
        accepted = 0
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == door.fileno():
                    held.append(door.accept()[0])
                    accepted += 1
                    if len(held) > holds:
                        held.popleft().close()
                elif not sys.stdin.readline():
                    return
                else:
                    print(json.dumps({"accepted": accepted, "cpu": time.process_time()}), flush=True)


def main(arguments: list[str]) -> None:
    if arguments[0] == "listen":
        listen(int(arguments[1]))
        return
    host, _, port = arguments[0].rpartition(":")
    Flood((host, int(port)), int(arguments[1]), arguments[2], arguments[3], float(arguments[4])).run()


if __name__ == "__main__":
    main(sys.argv[1:])
