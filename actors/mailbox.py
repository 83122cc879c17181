"""An actor's mailbox: a queue that the loop drains.

Rules of this file:

1. ``is_scheduled`` is true exactly while a drain is on its way. The drain clears it and *then* looks at the
   queue again: the other way round, a message from another thread that arrives in between is never seen.
2. Off the loop's thread only ``call_soon_threadsafe`` wakes the loop; on it, ``call_soon`` does and is cheaper, and
   ``Turns`` is cheaper still.
3. The mailbox is bound to its loop when the actor starts, because Pykka's inbox factory knows no actor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from pykka import ActorDeadError

from ..transport.loop import Timer
from .context import Context, Directory

if TYPE_CHECKING:
    from .runtime import LoopActor


class Mailbox:
    """Unbounded, first in first out. ``queue`` holds messages as told, and Pykka's envelopes when asked."""

    __slots__ = ("_call_soon", "_call_soon_threadsafe", "_directory", "_drain", "is_closed", "is_scheduled", "queue")

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()
        self.is_closed = False
        self.is_scheduled = True  # until bound, nobody can drain it
        self._directory: Directory | None = None
        self._drain: Callable[[], Any] = _nothing

    def bind(self, context: Context, drain: Callable[[], None]) -> None:
        """Have ``drain`` called on the context's loop whenever there is something in the queue."""
        self._directory = context.directory
        self._call_soon = context.turns.soon if context.turns is not None else context.loop.call_soon
        self._call_soon_threadsafe = context.loop.call_soon_threadsafe
        self._drain = drain

    def schedule(self) -> None:
        """Ask for a drain. From any thread; one too many does no harm."""
        self.is_scheduled = True
        if self._directory is None:
            return
        try:
            if get_ident() == self._directory.thread_id:
                self._call_soon(self._drain)
            else:
                self._call_soon_threadsafe(self._drain)
        except RuntimeError as error:  # asyncio's way of saying that the loop is closed
            self.close()
            raise ActorDeadError(f"the loop is closed: {error}") from None

    def replace_drain(self, drain: Callable[[], Any]) -> None:
        """Have another function called instead, by the next drain that is scheduled. Void once closed."""
        if not self.is_closed:
            self._drain = drain

    def close(self) -> None:
        """Take nothing in any more, and let go of the actor."""
        self.is_closed = True
        self._drain = _nothing

    # -- what Pykka's inbox protocol asks for

    def put(self, envelope: Any) -> None:
        self.queue.append(envelope)
        if not self.is_scheduled:
            self.schedule()

    def get(self) -> Any:
        return self.queue.popleft()

    def empty(self) -> bool:
        return not self.queue


def _nothing() -> None:
    """What a drain does that was on its way when the actor ended."""


class ActorTimer:
    """A message that comes later. It stands in the mailbox as itself, so that even there it can be cancelled."""

    __slots__ = ("_actor", "handle", "is_cancelled", "message")

    def __init__(self, actor: LoopActor, message: Any) -> None:
        self._actor: LoopActor | None = actor
        self.message = message
        self.handle: Timer | None = None
        self.is_cancelled = False

    def ring(self) -> None:
        if self._actor is not None:
            self._actor.tell_self(self)

    def cancel(self) -> None:
        self.is_cancelled = True
        self._actor = None  # a loop keeps cancelled timers until they are due; not the actor with it
        if self.handle is not None:
            self.handle.cancel()


class PoolDone:
    """A pool job's end. Its message is made in the mailbox's turn: so what ``then`` raises fails its actor."""

    __slots__ = ("_error", "_result", "_then")

    def __init__(
        self, then: Callable[[Any, BaseException | None], Any], result: Any, error: BaseException | None
    ) -> None:
        self._then, self._result, self._error = then, result, error

    def message(self) -> Any:
        return self._then(self._result, self._error)
