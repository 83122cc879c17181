"""The I/O thread: the one owner of a client's sockets, timers and rules.

User threads never touch a socket. They post a callable (``post``), or post one and wait for its answer (``ask``); the
thread sleeps in its selector until something is there, so an idle client costs nothing.

- It is a daemon thread: a program that forgets ``close()`` still ends. What is open then is closed by ``atexit``,
  bounded.
- Waiting is done on locks of ``threading``, which signals interrupt: Ctrl-C works in every blocking call.
- After ``fork`` the thread does not exist in the child and its sockets belong to the parent: every object made before
  raises ``ForkedClientError`` at once. Objects made in the child work.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from ..errors import CallboardError, CallboardTimeoutError, ForkedClientError, IllegalStateError
from ..transport.loop import Clock, SystemClock
from ..transport.seam import Transport
from ..transport.selector_loop import SelectorLoop, log_failure

T = TypeVar("T")

MakeTransport = Callable[[SelectorLoop, Clock], Transport]
Done = Callable[["T | None", "BaseException | None"], None]  # (result, None) or (None, error); the first call counts

STOP_S_MAX = 2.0  # the thread has nothing slow to do when it stops


class Owner(Protocol):
    """A client object, as this file sees it."""

    def close(self) -> Any: ...

    def on_fork(self) -> None:
        """We are in a forked child now: refuse from here on. Must not touch locks, sockets or threads."""


_io_threads: set[int] = set()  # identities of those that run
_owners: weakref.WeakSet[Owner] = weakref.WeakSet()  # every client that is not closed


class IoThread:
    """One thread with a loop and a transport. Started when made; ``stop`` ends it."""

    def __init__(self, name: str, owner: Owner, make_transport: MakeTransport | None = None) -> None:
        self.name = name
        self.clock: Clock = SystemClock()
        self.loop = SelectorLoop(self._on_failure)
        self.failure: tuple[BaseException, int] | None = None  # the last callback that failed, and when: a bug of ours
        self.tell: Callable[[CallboardError], None] | None = None  # set once: the client's hook, which hears of it
        self.is_forked = False
        self._is_stopped = False
        self._pid = os.getpid()
        self._make_transport = make_transport or zmq_transport
        self.transport = self._make_transport(self.loop, self.clock)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _owners.add(owner)
        self._owner = weakref.ref(owner)

    @property
    def is_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        """Run ``call`` on the I/O thread, soon.

        Raises:
            ForkedClientError, IllegalStateError: nobody would run it.
        """
        self.check()
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            raise IllegalStateError(f"{self.name} is closed") from None

    def ask(self, start: Callable[[Done[T]], Any], timeout_s: float | None, what: str) -> T:
        """Run ``start(done)`` on the I/O thread and wait until it, or what it started, calls ``done``.

        Raises:
            CallboardTimeoutError: not within ``timeout_s``; names ``what``.
            CallboardError: whatever ``done`` was given.
        """
        if self.is_own_thread:
            raise IllegalStateError(f"{what}: a callback runs on the I/O thread and must not wait for it")
        answer: Answer[T] = Answer()

        def begin() -> None:
            try:
                start(answer.done)
            except Exception as error:  # noqa: BLE001 - the caller waits: whatever it is, it is told
                answer.done(None, error)

        self.post(begin)
        return answer.wait(timeout_s, what, self)

    def check(self) -> None:
        """Raise what a call must raise when the thread cannot serve it."""
        if self.is_forked or os.getpid() != self._pid:
            raise ForkedClientError(
                f"{self.name} was made before this process was forked (pid {self._pid}, now {os.getpid()}); "
                "make a new one in the child process"
            )
        if self._is_stopped:
            raise IllegalStateError(f"{self.name} is closed")

    def stop(self, timeout_s: float = STOP_S_MAX) -> bool:
        """End the thread and close its sockets; False: not within ``timeout_s``. Harmless when repeated."""
        owner = self._owner()
        if owner is not None:
            _owners.discard(owner)
        if self.is_forked or self._is_stopped:
            return True
        self._is_stopped = True
        self.loop.stop()
        if self.is_own_thread:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return not self.is_forked and self._thread.is_alive()

    def _on_failure(self, error: BaseException) -> None:
        """The loop goes on: the others' I/O must not end with one callback. Whoever asks for health is told."""
        self.failure = error, self.clock.monotonic_ms()
        log_failure(error)
        if self.tell is not None:
            failed = CallboardError(f"a part of the client failed: {type(error).__name__}: {error}; see the log")
            failed.__cause__ = error
            self.tell(failed)

    def _run(self) -> None:
        _io_threads.add(threading.get_ident())
        try:
            self.loop.run()
        finally:
            _io_threads.discard(threading.get_ident())
            self.transport.close()
            self.loop.close()


def is_io_thread() -> bool:
    """Say whether the caller is a callback: whatever it waits for, the clients of its thread stand still meanwhile."""
    return threading.get_ident() in _io_threads


class Answer(Generic[T]):
    """Where a user thread waits for the I/O thread. Set once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def done(self, result: T | None, error: BaseException | None = None) -> None:
        if not self._event.is_set():
            self._result, self._error = result, error
            self._event.set()

    def wait(self, timeout_s: float | None, what: str, io: IoThread) -> T:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._event.is_set():
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise CallboardTimeoutError(f"{what}: no answer within {timeout_s:g} s")
            if not self._event.wait(min(left, 1.0)) and not io.is_alive:
                raise IllegalStateError(f"{what}: {io.name} was closed meanwhile")
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


def zmq_transport(loop: SelectorLoop, clock: Clock) -> Transport:
    """Return the real transport."""
    from ..transport.endpoint import ZmqTransport

    return ZmqTransport(loop, clock)


def _after_fork_in_child() -> None:
    _io_threads.clear()
    for owner in list(_owners):
        owner.on_fork()
    _owners.clear()


def _at_exit() -> None:
    for owner in list(_owners):
        try:
            getattr(owner, "_close_at_exit", owner.close)()
        except Exception:  # the interpreter ends: all that is left to do is to say so
            import logging

            logging.getLogger("callboard.client").warning("not closed cleanly at exit", exc_info=True)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
