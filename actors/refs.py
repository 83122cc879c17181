"""What others hold of an actor, and the answers that a dead one gives."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import pykka
from pykka import ActorDeadError
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from .futures import BlockingAskError, LoopFuture
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .runtime import LoopActor


class LoopRef(pykka.ActorRef[Any]):
    """What others hold of a ``LoopActor``. Safe to use from any thread."""

    def __init__(self, actor: LoopActor) -> None:
        super().__init__(actor)
        self.address = actor.address
        self._mailbox = actor.mailbox
        self._queue = actor.mailbox.queue
        self._directory = actor.context.directory

    def __str__(self) -> str:
        return f"{self.actor_class.__name__} {self.address}"

    @property
    def actor(self) -> LoopActor | None:
        """The actor itself, for looking inside from its own loop (the tree); None once it is gone."""
        actor: LoopActor | None = self._actor_weakref()
        return actor

    @property
    def mailbox_length(self) -> int:
        return len(self._queue)

    def is_alive(self) -> bool:
        return not self._mailbox.is_closed

    def tell(self, message: Any) -> None:
        """Put a message into the actor's mailbox; returns at once.

        Raises:
            ActorDeadError: the actor has ended. ``post`` says so without raising.
        """
        mailbox = self._mailbox
        if mailbox.is_closed:
            raise ActorDeadError(f"{self} has ended")
        self._queue.append(message)
        if not mailbox.is_scheduled:
            mailbox.schedule()

    def post(self, message: Any) -> bool:
        """Tell, and say whether the actor was there to be told. Never raises."""
        mailbox = self._mailbox
        if mailbox.is_closed:
            return False
        self._queue.append(message)
        if not mailbox.is_scheduled:
            try:
                mailbox.schedule()
            except ActorDeadError:
                return False
        return True

    def ask(self, message: Any, *, block: bool = False, timeout: float | None = None) -> Any:
        """Return a future of the actor's answer: ``await`` it on the loop, ``.get()`` it on other threads.

        Unlike Pykka's, it does not block unless told to. For start-up, the command line and tests; a handler
        lets the answer come as a message.

        Raises:
            BlockingAskError: ``block=True`` on the loop's own thread; nothing was sent.
        """
        if block and get_ident() == self._directory.thread_id:
            raise BlockingAskError(f"a blocking ask of {self} on the thread of its own loop would wait for ever")
        future = LoopFuture(self._directory)
        if self.post(Envelope(message, reply_to=future)):
            if self._mailbox.is_closed:  # it ended in between, perhaps after its mailbox had been emptied
                refuse_all(self._mailbox, self)
        else:
            refuse(Envelope(message, reply_to=future), self)
        return future.get(timeout=timeout) if block else future

    def stop(self, *, block: bool = False, timeout: float | None = None) -> Any:
        """Ask the actor to stop after what is in its mailbox; a future (or, blocking, a bool): was it alive?

        The future is set when the actor has ended: a supervisor ends after its children.
        """
        return self.ask(_ActorStop(), block=block, timeout=timeout)

    def kill(self, error: BaseException) -> None:
        """End the actor as a failure, now, without asking it. On its loop only."""
        actor = self.actor
        if actor is not None:
            actor.fail("stop", error)


def refuse_all(mailbox: Mailbox, ref: LoopRef) -> None:
    while True:
        try:
            entry = mailbox.queue.popleft()
        except IndexError:
            return
        if type(entry) is Envelope:
            refuse(entry, ref)


def refuse(envelope: Envelope[Any], ref: LoopRef) -> None:
    reply_to: Any = envelope.reply_to
    if isinstance(envelope.message, _ActorStop):
        reply_to.set(False)
    else:
        error = ActorDeadError(f"{ref} ended before it handled the message")
        reply_to.set_exception((ActorDeadError, error, None))
