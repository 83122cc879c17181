"""The seams of one process: everything an actor may touch that is not another actor.

In production the context holds the real loop, clock, sockets and files; in ``testing`` deterministic ones. So
no file in ``actors/`` calls ``time``, ``random``, ``socket``, ``uuid`` or ``os`` for itself, and a whole
cluster can be run again from one seed.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import IllegalStateError, InvariantViolated
from ..transport.loop import Clock, Loop

if TYPE_CHECKING:
    from ..storage.files import Files
    from ..transport.faults import Faults
    from ..transport.seam import Transport
    from .runtime import LoopRef
    from .timeline import Timeline
    from .turns import Turns

T = TypeVar("T")

OnDone = Callable[[Any, BaseException | None], None]


class Pool(Protocol):
    """Runs what blocks (fdatasync, scans) off the loop. Jobs share nothing with the actor that waits for them."""

    def submit(self, job: Callable[[], Any], on_done: OnDone) -> None:
        """Run ``job()`` elsewhere, then ``on_done(result, None)`` or ``on_done(None, error)`` **on the loop**."""


class Directory:
    """The live actors of one context by address: what Pykka's registry is for, without being process-global.

    Pykka's own registry is not used: another library's ``ActorRegistry.stop_all()`` would end a cluster that
    runs in the same process, and its removal is linear in the number of actors.
    """

    def __init__(self) -> None:
        self.thread_id = 0  # the loop's thread; 0 until the loop has run an actor
        self._refs: dict[str, LoopRef] = {}

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[LoopRef]:
        return iter(list(self._refs.values()))

    def find(self, address: str) -> LoopRef | None:
        return self._refs.get(address)

    def refs(self) -> list[LoopRef]:
        """Return all live actors, the oldest first."""
        return list(self._refs.values())

    def registered(self, ref: LoopRef) -> None:
        """Enter a new actor.

        Raises:
            InvariantViolated: the address is in use. Supervisors start a successor only after the end of the first.
        """
        if ref.address in self._refs:
            raise InvariantViolated(f"two actors under the address {ref.address!r}")
        self._refs[ref.address] = ref

    def gone(self, ref: LoopRef) -> None:
        if self._refs.get(ref.address) is ref:
            del self._refs[ref.address]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The seams of one process, real or simulated. One thread: the loop's."""

    name: str  # of the process: "broker-1"
    loop: Loop
    clock: Clock
    random: random.Random
    new_id: Callable[[], str]  # 32 hex digits, never given twice
    transport: Transport
    files: Files
    pool: Pool
    directory: Directory = field(default_factory=Directory)
    boot: str = ""  # of the machine: another after each boot; empty: the system does not tell
    timeline: Timeline | None = None  # what happened here; None: nobody keeps it
    faults: Faults | None = None  # of the transport's connections; None: experiments are refused here
    turns: Turns | None = None  # None: each drain is a callback of the loop, which the simulation orders by its seed

    def run_turns(self) -> None:
        """Drain now what is waiting; for callbacks of the loop that have told an actor something."""
        if self.turns is not None:
            self.turns.run()


class ThreadPool:
    """The production pool: a few threads, started when first needed. What it finishes after ``close`` is dropped.

    A ``ThreadPoolExecutor`` makes a future, a work item and three locks for each job, which cost more than the way of a
    small fdatasync through it; nobody here waits for a future.
    """

    def __init__(self, loop: Loop, threads: int, name: str = "pool", turns: Turns | None = None) -> None:
        self._loop = loop
        self._turns = turns
        self._threads_max, self._name = threads, name
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], OnDone] | None] = queue.SimpleQueue()
        self._under_way = 0  # handed in, and their end not yet told on the loop
        self._ended: deque[tuple[OnDone, Any, BaseException | None]] = deque()  # likewise, the oldest first
        self._is_told = False  # that the loop is to look at them: once for all that end until it does
        self._is_closed = False

    def submit(self, job: Callable[[], Any], on_done: OnDone) -> None:
        if self._is_closed:
            raise IllegalStateError("the pool is closed")
        if len(self._threads) < min(self._under_way + 1, self._threads_max):
            self._start_thread()
        self._under_way += 1
        self._jobs.put((job, on_done))

    def close(self) -> None:
        """Wait for the jobs that run, drop those that wait. Call it off the hot path: it blocks."""
        self._is_closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more of them: those that run do it
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None and not self._is_closed:
            self._run(*entry)

    def _run(self, job: Callable[[], Any], on_done: OnDone) -> None:
        result, error = None, None
        try:
            result = job()
        except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to the actor that waits, not to the pool
            error = raised
        self._ended.append((on_done, result, error))
        if self._is_told:
            return
        self._is_told = True
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:  # the loop is closed: so is the actor that would have been told
            if not self._is_closed:
                raise

    def _tell(self) -> None:
        self._is_told = False  # first, then look: who ends later tells again
        ended = self._ended
        try:
            while ended:
                on_done, result, error = ended.popleft()
                self._under_way -= 1
                on_done(result, error)
        finally:
            if ended:
                self._loop.call_soon(self._tell)
        if self._turns is not None:
            self._turns.run()
