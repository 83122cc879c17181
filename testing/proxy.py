"""A TCP proxy between processes of a test: links that are slow, narrow, cut, and heal.

    with Proxy() as proxy:
        link = proxy.link("127.0.0.1", 9192)      # connect to link.endpoint instead
        link.delay(20)
        link.cut()                                # nothing passes, either way; nobody is told
        link.heal()

Rules of this file:

1. **Now means now.** When ``cut`` has returned, nothing more is handed on (what the receiver's kernel has already is
   there); when ``delay`` has, it holds for what comes in from then on.
2. **A cut is silence**, as of a network cable: connections stay, what is sent meanwhile waits and arrives after
   ``heal``; new connections are accepted by this machine and hear nothing. ``reset`` ends connections instead.
3. **Order stays** within a connection and direction, whatever the delay: TCP would see to that.
4. What waits is bounded: who sends into a cut link is slowed down, as by a full window.

All links live on one thread with a loop of its own; methods may be called from any other thread.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, TypeVar

from ..errors import IllegalArgumentError

Direction = Literal["both", "there", "back"]  # there: towards the target
T = TypeVar("T")

CHUNK_BYTES = 64 * 1024
WAITING_CHUNKS_MAX = 64  # of one direction of one connection
CONNECT_S_MAX = 5.0


class _Way:
    """One direction of a link: what holds for everything that goes this way. Only touched on the proxy's loop."""

    def __init__(self) -> None:
        self.is_open = True
        self.delay_s = 0.0
        self.bytes_per_s = 0  # 0: no bound
        self.free_at_s = 0.0  # when what was let through so far has passed, at that speed
        self.passed = 0  # bytes
        self._opened = asyncio.Event()
        self._opened.set()

    def set_open(self, is_open: bool) -> None:
        self.is_open = is_open
        if is_open:
            self._opened.set()
        else:
            self._opened.clear()

    async def wait_open(self) -> None:
        await self._opened.wait()

    def due_s(self, size: int, now_s: float) -> float:
        """Return when a chunk that comes in now may go out."""
        if not self.bytes_per_s:
            return now_s + self.delay_s
        self.free_at_s = max(self.free_at_s, now_s) + size / self.bytes_per_s
        return self.free_at_s + self.delay_s


class Link:
    """One address that stands for another. Made by ``Proxy.link``."""

    def __init__(self, proxy: Proxy, listener: socket.socket, host: str, port: int) -> None:
        self.port: int = listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.endpoint = f"tcp://{self.address}"
        self._proxy = proxy
        self._target = (host, port)
        self._listener = listener
        self._there, self._back = _Way(), _Way()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what a test does to it ------------------------------------------------------------------------

    def cut(self, direction: Direction = "both") -> None:
        """Let nothing pass any more. Repeated: harmless."""
        self._proxy.call(lambda: self._set_open(direction, False))

    def heal(self, direction: Direction = "both") -> None:
        """Let pass again; what has waited goes first."""
        self._proxy.call(lambda: self._set_open(direction, True))

    def delay(self, ms: float, direction: Direction = "both") -> None:
        """Have everything that comes in from now on arrive so much later. 0: at once."""
        if ms < 0:
            raise IllegalArgumentError(f"delay of {ms} ms")

        def change() -> None:
            for way in self._ways(direction):
                way.delay_s = ms / 1_000

        self._proxy.call(change)

    def bandwidth(self, bytes_per_s: int, direction: Direction = "both") -> None:
        """Let all connections together pass so many bytes a second. 0: no bound."""
        if bytes_per_s < 0:
            raise IllegalArgumentError(f"bandwidth of {bytes_per_s} bytes a second")

        def change() -> None:
            for way in self._ways(direction):
                way.bytes_per_s = bytes_per_s

        self._proxy.call(change)

    def flap(self, times: int, down_ms: float, up_ms: float, direction: Direction = "both") -> Future[None]:
        """Cut and heal so many times; the result is there when the last time is over, and the link is healed."""

        async def flapping() -> None:
            for _ in range(times):
                self._set_open(direction, False)
                await asyncio.sleep(down_ms / 1_000)
                self._set_open(direction, True)
                await asyncio.sleep(up_ms / 1_000)

        return self._proxy.run(flapping())

    def reset(self) -> None:
        """End every connection, as a machine does that was switched off and on. New ones are as welcome as before."""

        def end() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._proxy.call(end)

    def retarget(self, host: str, port: int) -> None:
        """Have new connections go to another address."""

        def change() -> None:
            self._target = (host, port)

        self._proxy.call(change)

    @property
    def passed(self) -> tuple[int, int]:
        """How many bytes went there and back so far."""
        return self._proxy.call(lambda: (self._there.passed, self._back.passed))

    @property
    def connections(self) -> int:
        """How many are open, on the side of those who connect."""
        return self._proxy.call(lambda: len(self._tasks))

    # -- on the loop -----------------------------------------------------------------------------------

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    def _ways(self, direction: Direction) -> list[_Way]:
        ways = {"both": [self._there, self._back], "there": [self._there], "back": [self._back]}.get(direction)
        if ways is None:
            raise IllegalArgumentError(f"direction {direction!r}: both, there or back")
        return ways

    def _set_open(self, direction: Direction, is_open: bool) -> None:
        for way in self._ways(direction):
            way.set_open(is_open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin a task of our own: asyncio's complains when it is cancelled."""
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end. It reaches the target only when the way there is open."""
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            await self._there.wait_open()
            async with asyncio.timeout(CONNECT_S_MAX):
                other_reader, other = await asyncio.open_connection(*self._target)
            self._writers.add(other)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, other, self._there))
                group.create_task(_pump(other_reader, writer, self._back))
        except (OSError, TimeoutError, ExceptionGroup):
            pass  # nobody is there, or one side has ended: so the other one is ended, too
        finally:
            for each in (writer, other):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()


class _Ended(Exception):
    """One side has closed: ends the other direction, too."""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
    """Carry one direction of one connection: read as it comes, write when it is due and the way is open."""
    loop = asyncio.get_running_loop()
    waiting: deque[tuple[float, bytes]] = deque()
    has_more, has_room = asyncio.Event(), asyncio.Event()
    has_room.set()

    async def read() -> None:
        while True:
            try:
                chunk = await reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""  # reset: an end like any other, it passes no cut either
            waiting.append((way.due_s(len(chunk), loop.time()), chunk))
            has_more.set()
            if not chunk:
                return
            if len(waiting) >= WAITING_CHUNKS_MAX:
                has_room.clear()
                await has_room.wait()

    async def write() -> None:
        while True:
            while not waiting:
                has_more.clear()
                await has_more.wait()
            due_s, chunk = waiting[0]
            if (pause_s := due_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            while not way.is_open:  # looked at after each wait: nothing passes once it is cut
                await way.wait_open()
            waiting.popleft()
            has_room.set()
            if not chunk:
                await writer.drain()
                raise _Ended
            writer.write(chunk)
            way.passed += len(chunk)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(write())


class Proxy:
    """Any number of links, on one thread. A context manager; ``close`` ends every link and the thread."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._is_open = True

    def link(self, host: str, port: int, *, listen_port: int = 0) -> Link:
        """Return a new link to ``host:port`` that listens on loopback, by default at any free port."""
        listener = socket.create_server(("127.0.0.1", listen_port), backlog=128)
        link = self.call(lambda: Link(self, listener, host, port))
        self.run(link.open()).result()
        self.links.append(link)
        return link

    def close(self) -> None:
        if not self._is_open:
            return
        for link in self.links:
            self.run(link.close()).result()
        self._is_open = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- for links -----------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run something on the loop's thread and return its result: done when this returns."""

        async def wrapped() -> T:
            return function()

        result: T = self.run(wrapped()).result()
        return result

    def run(self, work: Any) -> Future[Any]:
        """Start a coroutine on the loop's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)
