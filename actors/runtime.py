"""Actors on one event loop.

Pykka gives an actor a thread that sleeps on its mailbox. Here the loop drains the mailbox instead: a hop
between actors costs a deque append, not a thread switch, and a batch of messages becomes one write.

Rules of this file:

1. **Run to completion.** A handler is a plain function. It never waits: answers come back as messages.
2. **A batch at a time.** A drain handles up to ``BATCH_MAX`` messages, then calls ``on_drained``: work that is
   cheaper together (one write, one flush) is collected in handlers and done there. A stop sees a drained
   mailbox.
3. **Every failure ends the actor, and only the actor.** Whatever is raised, ``BaseException`` included, in
   whatever phase: an asker gets it as a reply, the actor's ``on_failure`` runs, waiting askers get
   ``ActorDeadError``, the parent is told ``ChildFailed`` once. (Pykka keeps an actor alive after an exception
   under ``ask``, forgets ``on_failure`` when ``on_start`` fails, and stops *every* actor on a BaseException.)
   A refusal is a return value, never an exception.
4. **One end.** A life ends by exactly one ChildStopped or ChildFailed. After that nothing reaches the actor:
   timers, pool jobs and messages under way are void.
5. **Nothing of its own.** Identity, time, chance, sockets and files come from the context. The address is the
   actor's identity (Pykka would take a uuid4).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from threading import Event, get_ident
from types import TracebackType
from typing import Any, ClassVar

import pykka
from pykka import ActorDeadError
from pykka._envelope import Envelope
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr, _ActorStop

from ..errors import InvariantViolated
from ..transport.loop import Timer
from ..transport.messages import ActorDescription
from .context import Context, Directory, Pool, ThreadPool
from .futures import BlockingAskError, LoopFuture
from .lifecycle import (
    ActorKilled,
    ChaosError,
    ChaosExit,
    ChildFailed,
    ChildStarted,
    ChildStopped,
    Fail,
    Phase,
    is_chaos,
)
from .log import error_text, event, where
from .mailbox import ActorTimer, Mailbox, PoolDone
from .refs import LoopRef, refuse_all

__all__ = [
    "BATCH_MAX",
    "ActorDeadError",
    "ActorKilled",
    "BlockingAskError",
    "ChaosError",
    "ChaosExit",
    "ChildFailed",
    "ChildStarted",
    "ChildStopped",
    "Context",
    "Directory",
    "Fail",
    "LoopActor",
    "LoopFuture",
    "LoopRef",
    "Pool",
    "ThreadPool",
    "is_chaos",
]

BATCH_MAX = 256  # messages of one actor in one turn of the loop: sockets and siblings wait no longer than that

logger = logging.getLogger("callboard.actors")

Handler = Callable[[Any, Any], Any]
Starter = Callable[[Context, str, "LoopRef | None"], "LoopRef"]


class LoopActor(pykka.Actor):
    """An actor whose mailbox is drained by its context's loop.

    ``handlers`` maps a message's type to the name of the method that takes it; a subclass inherits its
    parents' and may replace single ones. A message that nobody handles is a bug and fails the actor. What a
    handler returns answers an ``ask``.
    """

    handlers: ClassVar[Mapping[type, str]] = {Fail: "on_fail"}
    starts_later: bool = False  # True: it serves only when it has called ``started()``
    _actor_handlers: ClassVar[dict[type, Handler]] = {}

    role: str = ""  # what it is just now ("leader", "active"), shown by the tree

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names: dict[type, str] = {}
        for base in reversed(cls.__mro__):
            names.update(base.__dict__.get("handlers", {}))
        cls._actor_handlers = {kind: getattr(cls, name) for kind, name in names.items()}

    # Not super().__init__(): it makes a uuid4 and a ref that would be thrown away. A test compares the
    # attributes with those of Pykka's constructor.
    def __init__(self, context: Context, address: str, parent: LoopRef | None = None) -> None:
        self.context = context
        self.address = address
        self.parent = parent
        self.mailbox = self._create_actor_inbox()
        self.actor_urn = address
        self.actor_inbox = self.mailbox
        self.actor_stopped = Event()
        self._actor_ref: LoopRef = LoopRef(self)
        self.handled = 0  # messages, since the start
        self.started_ms = context.clock.monotonic_ms()
        self.state = "starting"  # then "running", "stopping", "stopped" or "failed"
        self._actor_stop_replies: list[LoopFuture] = []

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> LoopRef:
        """Make the actor and have the loop start it: ``start(context, address, parent=None, …)``.

        What the constructor raises is raised here; what ``on_start`` raises fails the actor.
        """
        actor = cls(*args, **kwargs)
        actor.context.directory.registered(actor._actor_ref)
        actor._start_actor_loop()
        return actor._actor_ref

    @classmethod
    def starter(cls, *args: Any, **kwargs: Any) -> Starter:
        """Return a function that starts such an actor under a given context, address and parent: for child specs."""
        return lambda context, address, parent: cls.start(context, address, parent, *args, **kwargs)

    @property
    def actor_ref(self) -> LoopRef:
        return self._actor_ref

    @property
    def has_ended(self) -> bool:
        return self.mailbox.is_closed

    # -- hooks for subclasses -----------------------------------------------------------------------

    def on_drained(self) -> None:
        """Called after each batch of messages, and before a stop: do here what is cheaper together."""

    def on_stop_request(self) -> None:
        """Called when somebody asked the actor to stop; whoever cannot end at once calls ``finish`` later."""
        self.finish()

    def on_fail(self, message: Fail) -> None:
        """Fail as chaos asks."""
        if isinstance(message.how, BaseException):
            raise message.how
        if message.how == "exit":
            raise ChaosExit(f"{self.address} was told to exit")
        raise ChaosError(f"{self.address} was told to fail")

    def describe(self) -> ActorDescription:
        """Return this actor's line of the supervision tree."""
        return ActorDescription(
            address=self.address,
            kind=type(self).__name__,
            role=self.role,
            state=self.state,
            mailbox=len(self.mailbox.queue),
            handled=self.handled,
            uptime_ms=self.context.clock.monotonic_ms() - self.started_ms,
        )

    # -- what an actor can do -----------------------------------------------------------------------

    def started(self) -> None:
        """Tell the parent that this actor serves. Called by the runtime unless ``starts_later``."""
        if self.state == "starting":
            self.state = "running"
            if self.parent is not None:
                self.parent.post(ChildStarted(self._actor_ref))

    def tell_self(self, message: Any) -> None:
        """Put a message into the own mailbox; void once the actor has ended."""
        self._actor_ref.post(message)

    def set_timer(self, delay_ms: float, message: Any) -> Timer:
        """Have ``message`` told to this actor in ``delay_ms``. Void once cancelled, even if it waits in the mailbox."""
        timer = ActorTimer(self, message)
        timer.handle = self.context.loop.call_later(delay_ms / 1000, timer.ring)
        return timer

    def in_pool(self, job: Callable[[], Any], then: Callable[[Any, BaseException | None], Any]) -> None:
        """Run ``job`` off the loop, then tell this actor the message that ``then(result, error)`` makes.

        ``then`` runs on the loop. Void once the actor has ended; the job itself runs on.
        """
        self.context.pool.submit(job, lambda result, error: self.tell_self(PoolDone(then, result, error)))

    def finish(self) -> None:
        """End normally, now: the rest of the mailbox is refused."""
        if self.has_ended:
            return
        self._actor_close("stopped")
        try:
            self.on_stop()
        except BaseException as error:  # noqa: BLE001 - ends this actor only; the parent hears of it
            self._actor_failed("stop", error)
            return
        self._actor_depart(ChildStopped(self._actor_ref))

    def fail(self, phase: Phase, error: BaseException) -> None:
        """End as a failure, now. Handlers simply raise."""
        if self.has_ended:  # a handler that raised after finish(): nobody restarts it, but nobody overlooks it
            event(logger, "actor.failed_after_its_end", logging.ERROR, actor=self.address, phase=phase, error=error)
            return
        self._actor_close("failed")
        self._actor_failed(phase, error)

    # -- the life of the mailbox --------------------------------------------------------------------

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> LoopFuture:
        return LoopFuture()

    def _start_actor_loop(self) -> None:
        self.mailbox.bind(self.context, self._actor_begin)
        self.mailbox.schedule()

    def _actor_begin(self) -> None:
        """Run ``on_start`` as the first thing on the loop."""
        self.context.directory.thread_id = get_ident()
        self.mailbox.bind(self.context, self._actor_drain)
        try:
            self.on_start()
            if not self.starts_later and not self.has_ended:
                self.started()
        except BaseException as error:  # noqa: BLE001 - rule 3
            self.fail("start", error)
            return
        self._actor_drain()

    def _actor_drain(self, batch_max: int = BATCH_MAX) -> None:
        mailbox, table, handled = self.mailbox, self._actor_handlers, 0
        queue, entry, phase = mailbox.queue, None, None
        try:
            while queue and handled < batch_max:  # ending empties the queue
                entry = queue.popleft()
                handled += 1
                handler = table.get(type(entry))
                if handler is not None:
                    handler(self, entry)
                else:
                    self._actor_receive(entry)
            if handled and not mailbox.is_closed:
                phase = "drain"
                self.on_drained()
        except BaseException as error:  # noqa: BLE001 - rule 3
            self.fail("drain" if phase else _phase_of(entry), error)
        finally:
            self.handled += handled
        if mailbox.is_closed:
            return
        if queue:
            mailbox.schedule()
            return
        mailbox.is_scheduled = False
        if queue:  # another thread told us something between the two lines above
            mailbox.schedule()

    def _actor_receive(self, entry: Any) -> None:
        """Handle what is not a plain message of a known type."""
        kind = type(entry)
        if kind is Envelope:
            self._actor_answer(entry)
        elif kind is ActorTimer:
            if not entry.is_cancelled:
                self._actor_dispatch(entry.message)
        elif kind is PoolDone:
            self._actor_dispatch(entry.message())
        else:
            self._actor_dispatch(entry)

    def _actor_answer(self, envelope: Envelope[Any]) -> None:
        reply_to: Any = envelope.reply_to
        if isinstance(envelope.message, _ActorStop):
            self._actor_stop_replies.append(reply_to)
            self._actor_stop_requested()
            return
        try:
            answer = self._actor_dispatch(envelope.message)
        except Exception:
            reply_to.set_exception(sys.exc_info())
            raise
        except BaseException as error:
            # SystemExit would end the asker's thread as well: it gets the fact, not the order.
            dead = ActorDeadError(f"{self._actor_ref} ended by {error_text(error)}")
            dead.__cause__ = error
            reply_to.set_exception((ActorDeadError, dead, None))
            raise
        reply_to.set(answer)

    def _actor_dispatch(self, message: Any) -> Any:
        kind = type(message)
        handler = self._actor_handlers.get(kind) or self._actor_inherited_handler(kind)
        if handler is not None:
            return handler(self, message)
        if kind is _ActorStop:
            return self._actor_stop_requested()
        if kind in (ProxyCall, ProxyGetAttr, ProxySetAttr):
            return self._handle_receive(message)
        raise InvariantViolated(f"{self._actor_ref} has no handler for {kind.__name__}")

    def _actor_inherited_handler(self, kind: type) -> Handler | None:
        for base in kind.__mro__[1:]:
            handler = self._actor_handlers.get(base)
            if handler is not None:
                self._actor_handlers[kind] = handler
                return handler
        return None

    def _actor_stop_requested(self) -> None:
        if self.state not in ("starting", "running"):
            return  # asked before
        try:
            self.on_drained()
        except BaseException as error:  # noqa: BLE001 - rule 3; here, because the phase is not "stop"
            self.fail("drain", error)
            return
        self.state = "stopping"
        self.on_stop_request()

    # -- the end ------------------------------------------------------------------------------------

    def _actor_close(self, state: str) -> None:
        self.state = state
        self.mailbox.close()
        self.actor_stopped.set()

    def _actor_failed(self, phase: Phase, error: BaseException) -> None:
        self.state = "failed"
        level = logging.ERROR
        if is_chaos(error) or isinstance(error, ActorKilled):  # somebody wanted it, and has logged why
            level = logging.WARNING
        trace = error.__traceback__
        event(logger, "actor.failed", level, actor=self.address, phase=phase, error=error, where=where(trace))
        try:
            self.on_failure(type(error), error, trace)
        except BaseException as second:  # noqa: BLE001 - the first failure is the one that counts
            event(logger, "actor.failed", logging.ERROR, actor=self.address, phase="on_failure", error=second)
        self._actor_depart(ChildFailed(self._actor_ref, phase, error))

    def _actor_depart(self, news: ChildStopped | ChildFailed) -> None:
        self.context.directory.gone(self._actor_ref)
        refuse_all(self.mailbox, self._actor_ref)
        for reply_to in self._actor_stop_replies:
            reply_to.set(True)
        if self.parent is not None:
            self.parent.post(news)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clean up after a failure in any phase; ``on_stop`` is not called then."""


LoopActor._actor_handlers = {kind: getattr(LoopActor, name) for kind, name in LoopActor.handlers.items()}


def _phase_of(entry: Any) -> Phase:
    if type(entry) is ActorTimer:
        return "timer"
    message = entry.message if type(entry) is Envelope else entry
    return "stop" if isinstance(message, _ActorStop) else "message"
