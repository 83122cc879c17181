"""A thread of a simulated process that runs only while the loop waits for it: blocking code in virtual time.

An application's thread blocks: in ``poll``, in ``commit``, while it works. In a simulation nothing may run beside
anything else, or a seed would not be a run. So the loop and a strand hand each other one baton: whoever has it runs,
the other stands still. What a strand waits for is a timer or a callback of its process's loop, so a process that is
paused stands still, and one that is killed never goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import CallboardTimeoutError, IllegalStateError
from ..transport.loop import Clock
from ..transport.seam import Transport
from .clients import ClientProcess
from .machine import ProcessLoop

T = TypeVar("T")
TICK_S = 1e-6  # of the loop's time: a wait that is shorter would not end


class StrandKilled(BaseException):
    """The process of this thread was killed. Nothing but a strand's end may catch it."""


class Strand:
    """One thread. It begins with the loop's next turn; ``kill`` ends it wherever it waits."""

    def __init__(self, loop: ProcessLoop, body: Callable[[], Any]) -> None:
        self.loop = loop
        self.is_over = False
        self._body = body
        self._is_killed = False
        self._error: BaseException | None = None
        self._go, self._stopped = threading.Lock(), threading.Lock()  # held: not yet
        self._go.acquire()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._run, name=f"strand of {loop.name}", daemon=True)
        self._thread.start()
        loop.call_soon(self.resume)

    def resume(self) -> None:
        """Let it run until it waits again. On the loop."""
        if self.is_over:
            return
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def kill(self) -> None:
        """End it. On the loop; harmless when it is over."""
        if not self.is_over:
            self._is_killed = True
            self._go.release()
            self._stopped.acquire()
        self._thread.join()

    def wait(self) -> None:
        """Stand still until ``resume``. On the strand."""
        if not self._is_killed:
            self._stopped.release()
            self._go.acquire()
        if self._is_killed:
            raise StrandKilled

    def sleep(self, ms: float) -> None:
        """Be busy for so long. On the strand."""
        self.loop.call_later(ms / 1000, self.resume)
        self.wait()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._is_killed:
                self._body()
        except StrandKilled:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised on the loop: nothing is lost
            self._error = error
        finally:
            self.is_over = True
            self._stopped.release()


class Bell:
    """What ``threading.Event`` is to a thread, to a strand. One strand waits at a time."""

    def __init__(self, strand: Strand) -> None:
        self._strand = strand
        self._is_set = False
        self._is_awaited = False

    def set(self) -> None:
        self._is_set = True
        if self._is_awaited:
            self._is_awaited = False
            self._strand.loop.call_soon(self._strand.resume)

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout_s: float | None = None) -> bool:
        if self._is_set:
            return True
        self._is_awaited = True
        timer = None if timeout_s is None else self._strand.loop.call_later(max(timeout_s, TICK_S), self._on_time)
        self._strand.wait()
        if timer is not None:
            timer.cancel()
        return self._is_set

    def _on_time(self) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._strand.resume()


class StrandIo:
    """What ``IoThread`` is to a client: here its loop is that of the simulated process, and who asks is a strand."""

    is_own_thread = False
    is_forked = False
    failure = None  # what fails, fails the run

    def __init__(self, process: ClientProcess, strand: Strand) -> None:
        self.name = process.name
        self.loop, self.clock, self.transport = process.loop, process.clock, process.transport
        self._strand = strand
        self.is_alive = True

    loop: ProcessLoop
    clock: Clock
    transport: Transport

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        self.check()
        self.loop.call_soon(call, *args)

    def ask(self, start: Callable[[Callable[..., None]], Any], timeout_s: float | None, what: str) -> Any:
        """Run ``start(done)`` on the loop, and wait until ``done`` is called.

        Raises:
            CallboardTimeoutError: not within ``timeout_s``.
        """
        answered, answers = Bell(self._strand), list[tuple[Any, BaseException | None]]()

        def done(result: Any, error: BaseException | None = None) -> None:
            answers.append((result, error))
            answered.set()

        self.post(start, done)
        answered.wait(timeout_s)
        if not answers:
            raise CallboardTimeoutError(f"{what}: no answer within {timeout_s:g} s")
        result, error = answers[0]
        if error is not None:
            raise error
        return result

    def check(self) -> None:
        if not self.is_alive:
            raise IllegalStateError(f"{self.name} is closed")

    def stop(self, _: float = 0.0) -> bool:
        if self.is_alive:
            self.is_alive = False
            self.transport.close()
        return True
