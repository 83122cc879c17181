"""How the asyncio twins call the application from threads: its coroutines run on its event loop, while a thread waits.

A plain function is called on that thread: it may block without holding up the loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

from ..errors import CallboardError, IllegalStateError
from ..model import TopicPartition
from .application import check_listener


class LoopSide:
    """The event loop on which a twin is used."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # made where no loop runs yet
            self.see()

    def see(self) -> asyncio.AbstractEventLoop:
        """It is used on the running loop now."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Have it run on the loop, and wait. On another thread than the loop's."""

        async def run() -> Any:
            return await awaitable

        if self._loop is None or self._loop.is_closed():
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise IllegalStateError("there is no event loop to run it on")
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def with_hook(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a client's settings with an ``on_error`` that may be a coroutine function."""
        hook = settings.get("on_error")
        if not callable(hook):
            return dict(settings)

        def call(error: CallboardError) -> None:
            result = hook(error)
            if inspect.isawaitable(result):
                self.wait_for(result)

        return {**settings, "on_error": call}


class ListenerOnLoop:
    """A listener of a consumer on an event loop."""

    def __init__(self, listener: Any, side: LoopSide) -> None:
        check_listener(listener)
        self._listener, self._side = listener, side

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._call("on_partitions_revoked", revoked)

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._call("on_partitions_assigned", assigned)

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        has_own = hasattr(self._listener, "on_partitions_lost")
        self._call("on_partitions_lost" if has_own else "on_partitions_revoked", lost)

    def _call(self, name: str, partitions: set[TopicPartition]) -> None:
        result = getattr(self._listener, name)(partitions)
        if inspect.isawaitable(result):
            self._side.wait_for(result)
