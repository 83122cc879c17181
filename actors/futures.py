"""The answer to an ``ask``: Pykka's future, awaitable on the loop, blocking only where blocking cannot hang.

A handler runs to completion on the loop's thread. If it blocked there for another actor's answer, that actor
could never run: so ``get()`` on that thread raises ``BlockingAskError`` at once, unless the answer is there
already. Other threads (the CLI, tests) block as with any Pykka future.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Protocol

import pykka

from ..errors import CallboardError

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class BlockingAskError(CallboardError, RuntimeError):
    """A handler wanted to block on the loop's own thread for an answer that only this loop could give."""


class LoopThread(Protocol):
    """Knows the thread that the loop runs on. 0: it has not run yet."""

    thread_id: int


class LoopFuture(pykka.Future[Any]):
    """A value that an actor sets, once, from whichever thread it runs on.

    ``on`` says which loop must not be blocked; None (as Pykka's own factories make it) means that nobody knows.
    """

    def __init__(self, on: LoopThread | None = None) -> None:
        super().__init__()
        self._on = on
        self._lock = threading.Lock()
        self._is_done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[LoopFuture], None]] = []

    @property
    def is_done(self) -> bool:
        return self._is_done

    def add_done_callback(self, callback: Callable[[LoopFuture], None]) -> None:
        """Call ``callback(self)`` when the value is there: now, or later on the thread that sets it."""
        with self._lock:
            if not self._is_done:
                self._callbacks.append(callback)
                return
        callback(self)

    def get(self, *, timeout: float | None = None) -> Any:
        """Return the value or raise the error, blocking up to ``timeout`` seconds.

        Raises:
            BlockingAskError: called on the loop's own thread before the answer is there.
            pykka.Timeout: no answer within ``timeout``.
        """
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self._is_done:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        return self._value

    def set(self, value: Any = None) -> None:
        self._finish(value, None)

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        kind, error, _ = exc_info or sys.exc_info()
        if error is None:
            error = kind() if kind is not None else RuntimeError("set_exception() outside of an except block")
        self._finish(None, error)

    def set_get_hook(self, func: Callable[[float | None], Any]) -> None:
        with self._lock:
            if self._is_done:
                raise queue.Full
            super().set_get_hook(func)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._get_hook is None and not self._is_done:
            loop = asyncio.get_running_loop()
            waiter = loop.create_future()
            thread = threading.get_ident()

            def wake(_: LoopFuture) -> None:
                if threading.get_ident() == thread:
                    _resolve(waiter)
                else:
                    loop.call_soon_threadsafe(_resolve, waiter)

            self.add_done_callback(wake)
            yield from waiter
        return self.get()

    __iter__ = __await__

    def _wait(self, timeout: float | None) -> None:
        if self._on is not None and threading.get_ident() == self._on.thread_id:
            raise BlockingAskError(
                "get() on the event loop's own thread would wait for ever: the actor that must answer runs on this "
                "thread. In a handler, let the answer come as a message; in a coroutine, `await ref.ask(...)`"
            )
        is_set = threading.Event()
        self.add_done_callback(lambda _: is_set.set())
        if not is_set.wait(timeout):
            raise pykka.Timeout(f"{timeout} seconds")

    def _finish(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._is_done or self._get_hook is not None:
                raise queue.Full
            self._value, self._error = value, error
            self._is_done = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
