"""The client's connections: first contact, one connection a broker, metadata. A shell on the I/O thread.

First contact: all bootstrap endpoints are tried at once, the first that answers is asked for metadata. From then on
brokers are reached where the metadata says (ipc on the same machine), each connected when it is first needed; the
bootstrap connections are closed, and come back only when no known broker can be reached.

Every failed attempt is remembered by endpoint with its stage, so that an error can say: which endpoints, how far each
came, what to try. A call raises it only when its time is over, for a broker may just be restarting; the log says it
after a second (``_tell_unreachable``), so that nobody who has mistyped an address sits and wonders.

A broker that dies ends its connections, which is heard within milliseconds; one that hangs or was stopped keeps them.
Who misses an answer says so (``doubt``): others are asked for metadata first, until it has had time to come back, or
has answered. When all are in doubt (a leader that waits for a follower that was stopped does not answer either) all are
asked, and the first answer counts: to ask one by chance may mean to wait for the one that is stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from ..errors import CallboardError, CallboardTimeoutError, ConfigurationError, ConnectionFailedError, error_for_code
from ..transport.addresses import choose_endpoint, parse_addresses
from ..transport.loop import Clock, Loop, Timer
from ..transport.messages import ErrorReply, MetadataReply, MetadataRequest, Reply, Request
from ..transport.seam import Connection, ConnectionState, OnReply, Stage, Transport
from .config import ClientConfig
from .error_hook import ErrorHook
from .metadata import Metadata, RefreshPolicy

ASK_TIMEOUT_MS = 5_000  # of one metadata request to one broker, at most; another is asked then
ASK_TIMEOUT_MS_FIRST = 500  # … of the first; a broker that has stopped must not hold up the news of who leads instead
ASKED_MAX = 5  # brokers at once
DOUBT_MS = 2_000  # how long a broker that did not answer is asked only when there is no other
TELL_AFTER_MS = 1_000  # without any broker; once lost, a broker needs about two seconds to come back …
TELL_LOST_AFTER_MS = 5_000  # … so that is told later


class Listener(Protocol):
    """Who is told what happens to the cluster's picture."""

    def on_metadata(self) -> None:
        """The metadata has been refreshed (changed or not)."""

    def on_connected(self, broker_id: int) -> None: ...

    def on_disconnected(self, broker_id: int) -> None: ...


class _Ask:
    """A request that any broker can answer and none can be asked yet."""

    __slots__ = ("expires", "message", "on_reply", "timeout_ms")

    def __init__(self, message: Request, on_reply: OnReply, timeout_ms: int) -> None:
        self.message, self.on_reply, self.timeout_ms = message, on_reply, timeout_ms
        self.expires: Timer | None = None


class _Round:
    """One question for metadata, put to one broker or to several. Over with the first good answer, or the last bad."""

    __slots__ = ("is_over", "unanswered")

    def __init__(self, unanswered: int) -> None:
        self.unanswered = unanswered
        self.is_over = False

    def ends_with(self, *, is_good: bool) -> bool:
        """Take in an answer; say whether it is the one that counts."""
        self.unanswered -= 1
        if self.is_over or not (is_good or self.unanswered == 0):
            return False
        self.is_over = True
        return True


class Cluster:
    """The cluster as one client reaches it. All methods on the I/O thread, but those that say so."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        transport: Transport,
        config: ClientConfig,
        client_id: str,
        listener: Listener,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._seeds = [address.endpoint for address in parse_addresses(config.bootstrap_servers)]
        self._loop, self._clock, self._transport = loop, clock, transport
        self._config, self._client_id, self._listener = config, client_id, listener
        self.bootstrap_timeout_ms = config.bootstrap_timeout_ms
        self.hook = ErrorHook(config.on_error, client_id, clock.monotonic_ms)
        self.rng = rng or random.Random()
        self.metadata = Metadata(config.unknown_topic_timeout_ms)
        self.interests: set[str] | None = set()  # topics to ask for; None: all
        self.include_internal = False
        self.knows_all = False  # the last metadata were of all topics
        self.has_contact = False  # a broker has answered at least once
        self.unreachable_since_ms: int | None = clock.monotonic_ms()  # None: some connection is ready
        self._policy = RefreshPolicy(config.metadata_max_age_ms)
        self._refresh_timer: Timer | None = None
        self._seed_connections: dict[str, Connection] = {}
        self._connections: dict[int, Connection] = {}
        self._states: dict[str, ConnectionState] = {}  # the last of each endpoint that was tried
        self._doubted_until_ms: dict[Connection, int] = {}
        self._lost: set[int] = set()  # brokers whose connection ended, or could not be made, and is not ready since
        self._waiting: list[_Ask] = []
        self._is_closed = False
        self._alarm: Timer | None = None

    # -- connections -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for brokers."""
        if self.hook or self.bootstrap_timeout_ms >= 3 * TELL_AFTER_MS:  # else the call itself will say it soon
            self._set_alarm(TELL_AFTER_MS)
        self._connect_seeds()

    def is_connected(self, broker_id: int) -> bool:
        """Say whether a broker can be asked right now; if not, it is being connected."""
        connection = self.connection(broker_id)
        return connection is not None and connection.is_ready

    def connection(self, broker_id: int) -> Connection | None:
        """Return the connection to a broker, ready or not; None: the metadata does not know it."""
        known = self._connections.get(broker_id)
        if known is not None or self._is_closed:
            return known
        broker = self.metadata.brokers.get(broker_id)
        if broker is None:
            return None
        try:
            endpoint = choose_endpoint(broker.endpoints, broker.machine)
        except ConfigurationError as error:
            self._states[f"broker {broker_id}"] = ConnectionState(
                endpoint=f"broker {broker_id}", stage=Stage.RESOLVE, detail=str(error)
            )
            return None
        connection = self._transport.connect(
            endpoint, client_id=self._client_id, on_state=lambda state: self._on_broker_state(broker_id, state)
        )
        self._connections[broker_id] = connection
        return connection

    def connect_to(self, endpoint: str, on_state: Callable[[ConnectionState], None]) -> Connection:
        """Connect to something that is no broker (a host). The caller closes it."""
        return self._transport.connect(endpoint, client_id=self._client_id, on_state=on_state)

    def anyone(self) -> Connection | None:
        """Return a connection that is ready, of a broker if possible; chosen by chance."""
        ready = self._ready()
        trusted = [one for one in ready if one not in self._doubted_until_ms] or ready
        return self.rng.choice(trusted) if trusted else None

    def _ready(self) -> list[Connection]:
        """Return the connections that are ready: of brokers, if there is one. Doubts that are over are forgotten."""
        if self._doubted_until_ms:
            now = self._clock.monotonic_ms()
            self._doubted_until_ms = {one: until for one, until in self._doubted_until_ms.items() if until > now}
        ready = [connection for connection in self._connections.values() if connection.is_ready]
        return ready or [connection for connection in self._seed_connections.values() if connection.is_ready]

    def doubt(self, broker_ids: Iterable[int]) -> None:
        """These do not answer: ask others, now and for a while, whether their partitions are led elsewhere."""
        for broker_id in broker_ids:
            if (connection := self._connections.get(broker_id)) is not None:
                self._doubt(connection)
        self._connect_another()
        self.refresh()

    def _doubt(self, connection: Connection) -> None:
        self._doubted_until_ms[connection] = self._clock.monotonic_ms() + DOUBT_MS

    def _connect_another(self) -> None:
        """Have somebody to ask beside those that do not answer."""
        if all(one in self._doubted_until_ms for one in self._connections.values() if one.is_ready):
            for broker_id in self.metadata.brokers:
                self.connection(broker_id)

    def ask_any(self, message: Request, on_reply: OnReply, timeout_ms: int) -> None:
        """Ask whichever broker can be reached first. ``on_reply`` as in ``Connection.request``."""
        connection = self.anyone()
        if connection is not None:
            connection.request(message, on_reply, timeout_ms=timeout_ms)
            return
        ask = _Ask(message, on_reply, timeout_ms)
        bound_ms = timeout_ms if self.has_contact else min(timeout_ms, self._config.bootstrap_timeout_ms)
        ask.expires = self._loop.call_later(bound_ms / 1000, self._on_ask_expired, ask)
        self._waiting.append(ask)
        self._look_for_anyone()

    def unreachable_error(self) -> ConnectionFailedError:
        """Return the error that says which endpoints were tried, how far each came, and what to try."""
        tried = [str(state) for state in self._states.values() if not state.is_ready]
        tried = tried or [f"{endpoint}: no answer yet" for endpoint in self._seeds]
        return ConnectionFailedError("no broker could be reached; tried " + "; ".join(tried))

    def close(self) -> None:
        self._is_closed = True
        self.hook.close()
        self._set_alarm(None)
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        waiting, self._waiting = self._waiting, []
        for ask in waiting:
            self._end_ask(ask, ConnectionFailedError("the client was closed"))
        for connection in (*self._connections.values(), *self._seed_connections.values()):
            connection.close()
        self._connections.clear()
        self._seed_connections.clear()

    # -- metadata ----------------------------------------------------------------------------------

    def add_interest(self, topics: Iterable[str]) -> None:
        """Ask for these topics too, now if they are new."""
        if self.interests is None:
            return
        new = set(topics) - self.interests
        if new:
            self.interests |= new
            self._policy.is_asking = False  # what is asked just now does not name them
            self.refresh()

    def refresh(self) -> None:
        """Somebody needs newer metadata: ask as soon as the policy allows."""
        self._policy.want(self._clock.monotonic_ms())
        self._schedule_refresh()

    def _schedule_refresh(self) -> None:
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
            self._refresh_timer = None
        if self._is_closed:
            return
        now = self._clock.monotonic_ms()
        due = self._policy.due_ms(now)
        if due is None:
            return
        if due <= now:
            self._ask_metadata()
        else:
            self._refresh_timer = self._loop.call_later((due - now) / 1000, self._on_refresh_due)

    def _on_refresh_due(self) -> None:
        self._refresh_timer = None
        if not self.interests and self.interests is not None and not self._policy.is_wanted:
            return  # nobody uses a topic: old metadata is good enough
        self._ask_metadata()

    def _ask_metadata(self) -> None:
        self._policy.on_asked()
        asked = None if self.interests is None else sorted(self.interests)
        request = MetadataRequest(topics=asked, include_internal=self.include_internal)
        connections = self._whom_to_ask()
        if not connections:
            self.ask_any(request, lambda reply, _: self._on_metadata(reply, asked), ASK_TIMEOUT_MS)
        timeout_ms = min(ASK_TIMEOUT_MS, ASK_TIMEOUT_MS_FIRST << min(self._policy.failures, 10))
        question = _Round(len(connections))
        for connection in connections:
            on_reply = partial(self._on_metadata_answered, asked, connection, question)
            connection.request(request, on_reply, timeout_ms=timeout_ms)

    def _whom_to_ask(self) -> list[Connection]:
        """Return one that is not in doubt; if all are, some of them."""
        one = self.anyone()
        if one is None or one not in self._doubted_until_ms:
            return [one] if one is not None else []
        ready = self._ready()
        return self.rng.sample(ready, min(len(ready), ASKED_MAX))

    def _on_metadata_answered(
        self,
        asked: list[str] | None,
        who: Connection,
        question: _Round,
        reply: Reply | CallboardError,
        _payload: list[bytes],
    ) -> None:
        if isinstance(reply, CallboardTimeoutError):
            self._doubt(who)
            self._connect_another()
        elif isinstance(reply, Reply):
            self._doubted_until_ms.pop(who, None)
        if question.ends_with(is_good=isinstance(reply, MetadataReply) and not reply.error):
            self._on_metadata(reply, asked)

    def _on_metadata(self, reply: Reply | CallboardError, asked: list[str] | None) -> None:
        if self._is_closed:
            return
        now = self._clock.monotonic_ms()
        if not isinstance(reply, MetadataReply) or reply.error:
            self._policy.on_failure(now)
        else:
            before = self.metadata.version
            is_taken = self.metadata.on_reply(reply, asked, now)
            self._policy.on_answer(now, is_news=is_taken and reply.version > before)
            if is_taken:
                self.knows_all = asked is None
                self._follow_brokers()
            if not is_taken or any(self.metadata.leads(broker_id) for broker_id in self._lost):
                self._policy.want(now)  # that broker lags: ask another; or the election is not over yet
        self._listener.on_metadata()
        self._schedule_refresh()

    def _follow_brokers(self) -> None:
        """Drop connections to brokers that are gone or have moved; the seeds, once brokers are known."""
        for broker_id, connection in list(self._connections.items()):
            broker = self.metadata.brokers.get(broker_id)
            if broker is None or (not connection.is_ready and connection.endpoint not in broker.endpoints):
                del self._connections[broker_id]
                self._lost.discard(broker_id)
                connection.close()
                self._listener.on_disconnected(broker_id)
        if self.metadata.brokers and self._seed_connections:
            if not self._connections:  # keep one contact: with the broker nearest to what is asked next
                self.connection(next(iter(self.metadata.brokers)))
            seeds, self._seed_connections = self._seed_connections, {}
            for connection in seeds.values():  # not at once: something may be asked over it just now
                self._loop.call_later(ASK_TIMEOUT_MS / 1000, connection.close)

    # -- what connections tell ---------------------------------------------------------------------

    def _on_seed_state(self, state: ConnectionState) -> None:
        self._note(state)
        if state.is_ready:
            self._on_contact()

    def _on_broker_state(self, broker_id: int, state: ConnectionState) -> None:
        self._note(state)
        if state.is_ready:
            self._lost.discard(broker_id)
            self._on_contact()
            self._listener.on_connected(broker_id)
            return
        if self._is_closed:
            return
        self._lost.add(broker_id)
        self._listener.on_disconnected(broker_id)
        if self._policy.answered_ms >= 0:  # leadership may have moved, or the broker to another endpoint
            if state.stage is Stage.LOST:
                self._policy.on_trouble(self._clock.monotonic_ms())
                self._schedule_refresh()
            else:
                self.refresh()
        self._look_for_anyone()

    def _note(self, state: ConnectionState) -> None:
        self._states[state.endpoint] = state
        connections = (*self._connections.values(), *self._seed_connections.values())
        if state.is_ready or any(connection.is_ready for connection in connections):
            self.unreachable_since_ms = None
            self._set_alarm(None)
        elif self.unreachable_since_ms is None:
            self.unreachable_since_ms = self._clock.monotonic_ms()
            self._set_alarm(TELL_LOST_AFTER_MS)

    def _set_alarm(self, after_ms: int | None) -> None:
        """Have it told once, after a while, that no broker can be reached; None: one can, or nobody wants to know."""
        if self._alarm is not None:
            self._alarm.cancel()
        is_wanted = after_ms is not None and not self._is_closed
        self._alarm = self._loop.call_later((after_ms or 0) / 1000, self._tell_unreachable) if is_wanted else None

    def _tell_unreachable(self) -> None:
        import logging  # the first that this thread has to say

        self._alarm = None
        error = self.unreachable_error()
        logging.getLogger("callboard.client").warning("%s: %s; trying on", self._client_id, error)
        self.hook.tell(error)

    def _on_contact(self) -> None:
        self.has_contact = True
        waiting, self._waiting = self._waiting, []
        for ask in waiting:
            if ask.expires is not None:
                ask.expires.cancel()
            self.ask_any(ask.message, ask.on_reply, ask.timeout_ms)
        if self._policy.answered_ms < 0 and not self._policy.is_asking:
            self.refresh()

    def _look_for_anyone(self) -> None:
        """Nobody can be asked: connect the brokers we know of, and the seeds again."""
        if self._is_closed or self.anyone() is not None:
            return
        for broker_id in self.metadata.brokers:
            self.connection(broker_id)
        self._connect_seeds()

    def _connect_seeds(self) -> None:
        for endpoint in self._seeds:
            if endpoint not in self._seed_connections:
                self._seed_connections[endpoint] = self._transport.connect(
                    endpoint, client_id=self._client_id, on_state=self._on_seed_state
                )

    def _on_ask_expired(self, ask: _Ask) -> None:
        if ask in self._waiting:
            self._waiting.remove(ask)
            self._end_ask(ask, self.unreachable_error())

    def _end_ask(self, ask: _Ask, error: CallboardError) -> None:
        if ask.expires is not None:
            ask.expires.cancel()
        ask.on_reply(error, [])


def error_of(reply: Reply | CallboardError) -> CallboardError | None:
    """Return what went wrong with a request as a whole; None: it has been answered."""
    if isinstance(reply, CallboardError):
        return reply
    if reply.error or isinstance(reply, ErrorReply):
        return error_for_code(reply.error, reply.detail)
    return None


def timed_out(what: str, timeout_ms: float) -> CallboardTimeoutError:
    return CallboardTimeoutError(f"{what}: not within {timeout_ms / 1000:g} s")
