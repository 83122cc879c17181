"""The fetcher of a broker: one line to each leader that one of its replicas follows.

Replicas say what they want (``Follow``), the rules say what goes out (``line``), the answers go back to the replicas
(``Fetched``). Rules of this file:

1. Everything that a turn of the mailbox brought goes out together, at its end. A request that should wait for
   partitions still at work on their answers waits ``OWED_MS`` at most.
2. A line that fails in any way begins anew after ``RETRY_MS``, more slowly each time it fails again; without an answer
   in its time on a new connection, at once: a new attempt costs less time than a next request that is lost. Nobody is
   told: what is wanted stays wanted, and who leads is the controller's business.
3. A leader's broker is reached where its session says, in its present life; another life, another line. When this
   broker's own session was lost and opened again, everything is asked anew in the new life: leaders take nobody back
   into the in-sync set for what he said in a life that is over.
4. A line that nobody needs stays for ``LINGER_MS``: a partition that pauses, or changes its leader to and fro, must not
   wait for a connection in the middle of a failover.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from ...config import BrokerSettings, Limits
from ...errors import CallboardError, CallboardTimeoutError, ErrorCode
from ...model import BrokerId, PartitionKey
from ...transport import messages as m
from ...transport.addresses import choose_endpoint
from ...transport.loop import Timer
from ...transport.seam import Connection, ConnectionState, ConnectOptions
from ..controller.image import ClusterImage
from ..log import event
from ..metadata.client import MetadataChanged, SessionLost, SessionOpened, Subscribe
from ..partition.events import Durable, Fetched, FetcherBegan, Follow, Unfollow
from ..runtime import Context, LoopActor, LoopRef
from .line import Line, key_of

logger = logging.getLogger(__name__)

CONNECT = ConnectOptions(attempt_timeout_ms=1_000, backoff_min_ms=20, backoff_max_ms=200)
OWED_MS = 2
RETRY_MS, RETRY_MS_MAX = 20, 500
LINGER_MS = 5_000
NAMED_MAX = 2_000  # partitions in one request: more would hold up the leader's loop, and be refused above its limit
ANSWER_GRACE_MS = 1_000  # beyond what the leader may park a fetch


class _StateChanged(msgspec.Struct, frozen=True):
    leader: int
    life: int  # of the line: an answer to an earlier one is void
    state: ConnectionState


class _Replied(msgspec.Struct, frozen=True):
    leader: int
    life: int
    session: int
    sequence: int
    reply: m.Reply | CallboardError
    payload: list[bytes]


class _OwedLongEnough(msgspec.Struct, frozen=True):
    leader: int


class _LingeredLongEnough(msgspec.Struct, frozen=True):
    leader: int


class _RetryDue(msgspec.Struct, frozen=True):
    leader: int
    life: int


@dataclass(slots=True)
class _Leader:
    """One broker that is followed."""

    line: Line
    life: int
    endpoint: str = ""
    incarnation: str = ""
    connection: Connection | None = None
    owed_timer: Timer | None = None
    linger_timer: Timer | None = None  # while nobody needs it
    failures: int = 0  # in a row
    is_resting: bool = False  # until _RetryDue
    followers: dict[PartitionKey, LoopRef] = field(default_factory=dict)  # all whose _led_by it is


class Fetcher(LoopActor):
    """See the top of the file."""

    handlers: ClassVar[Mapping[type, str]] = {
        Follow: "on_follow",
        Unfollow: "on_unfollow",
        Durable: "on_durable",
        MetadataChanged: "on_metadata_changed",
        SessionOpened: "on_session_opened",
        SessionLost: "on_session_lost",
        _StateChanged: "on_state_changed",
        _Replied: "on_replied",
        _OwedLongEnough: "on_owed_long_enough",
        _LingeredLongEnough: "on_lingered_long_enough",
        _RetryDue: "on_retry_due",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        settings: BrokerSettings,
        limits: Limits,
        broker_id: BrokerId,
        broker_address: str,
    ) -> None:
        super().__init__(context, address, parent)
        self._settings = settings
        self._limits = limits  # as the leaders have them, in one cluster
        self._broker_id = broker_id
        self._broker_address = broker_address
        self._image = ClusterImage.empty()
        self._incarnation = ""  # of the session that this life of the broker has; "": none just now
        self._leaders: dict[int, _Leader] = {}
        self._led_by: dict[PartitionKey, int] = {}  # whom each replica follows
        self._due: set[int] = set()  # leaders to look at when this turn ends
        self._lives = 0

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._tell_sibling("metadata", Subscribe(self.actor_ref, with_sessions=True))
        for ref in self.context.directory:  # this is a restart: they wait for answers to what was asked before
            if ref.address.startswith(f"{self._broker_address}/partitions/"):
                ref.post(FetcherBegan())

    def on_stop(self) -> None:
        for leader in self._leaders.values():
            if leader.connection is not None:
                leader.connection.close()

    def on_failure(self, *_: Any) -> None:
        self.on_stop()

    # -- what replicas want ----------------------------------------------------------------------------

    def on_follow(self, follow: Follow) -> None:
        before = self._led_by.get(follow.key)
        if before is not None and before != follow.leader:
            self._forget(follow.key, before)
        self._led_by[follow.key] = follow.leader
        leader = self._leaders.get(follow.leader) or self._new_leader(follow.leader)
        leader.followers[follow.key] = follow.follower
        leader.line.follow(follow.key, follow.entry)
        self._due.add(follow.leader)

    def on_unfollow(self, unfollow: Unfollow) -> None:
        before = self._led_by.pop(unfollow.key, None)
        if before is not None:
            self._forget(unfollow.key, before)

    def on_durable(self, durable: Durable) -> None:
        leader_id = self._led_by.get(durable.key)
        if leader_id is not None:
            line = self._leaders[leader_id].line
            line.durable(durable.key, durable.leader_epoch, durable.durable_offset, durable.log_start_offset)
            self._due.add(leader_id)

    def _forget(self, key: PartitionKey, leader_id: int) -> None:
        leader = self._leaders[leader_id]
        leader.followers.pop(key, None)
        leader.line.unfollow(key)
        self._due.add(leader_id)

    # -- the lines -------------------------------------------------------------------------------------

    def on_metadata_changed(self, changed: MetadataChanged) -> None:
        self._image = changed.image
        for leader_id, leader in self._leaders.items():
            if self._whereabouts(leader_id) != (leader.endpoint, leader.incarnation):
                self._connect(leader_id, leader)

    def on_session_opened(self, opened: SessionOpened) -> None:
        """Say from now on in which life we fetch, also where a fetch is parked already: only it can join an ISR.

        Not read from the image: what stands there may be the session of an earlier life (B10).
        """
        self._live_as(opened.incarnation)

    def on_session_lost(self, _: SessionLost) -> None:
        self._live_as("")

    def _live_as(self, incarnation: str) -> None:
        if incarnation != self._incarnation:
            self._incarnation = incarnation
            for leader_id, leader in self._leaders.items():
                leader.line.end_session()
                self._due.add(leader_id)

    def _new_leader(self, leader_id: int) -> _Leader:
        settings = self._settings
        line = Line(
            self._broker_id,
            wait_ms=settings.replica_fetch_wait_ms,
            max_bytes=settings.replica_fetch_bytes,
            entries_max=min(NAMED_MAX, self._limits.request_entries),
        )
        leader = self._leaders[leader_id] = _Leader(line, life=0)
        self._connect(leader_id, leader)
        return leader

    def _connect(self, leader_id: int, leader: _Leader) -> None:
        """Open the line to where that broker lives now, if it does."""
        if leader.connection is not None:
            leader.connection.close()
            leader.connection = None
        leader.line.end_session()
        leader.failures, leader.is_resting = 0, False
        leader.endpoint, leader.incarnation = self._whereabouts(leader_id)
        self._lives += 1
        life = leader.life = self._lives
        if leader.endpoint:
            leader.connection = self.context.transport.connect(
                leader.endpoint,
                client_id=self._broker_address,
                on_state=lambda state: self.tell_self(_StateChanged(leader_id, life, state)),
                options=CONNECT,
            )

    def _whereabouts(self, leader_id: int) -> tuple[str, str]:
        session = self._image.brokers.get(BrokerId(leader_id))
        if session is None or not session.peer_endpoints:
            return "", ""
        return choose_endpoint(session.peer_endpoints, session.machine), session.incarnation

    def on_state_changed(self, changed: _StateChanged) -> None:
        leader = self._leaders.get(changed.leader)
        if leader is None or leader.life != changed.life:
            return
        if changed.state.is_ready:
            leader.is_resting = False
            self._due.add(changed.leader)
        else:
            leader.line.end_session()

    # -- what goes out ---------------------------------------------------------------------------------

    def on_drained(self) -> None:
        due, self._due = self._due, set()
        for leader_id in sorted(due):
            leader = self._leaders.get(leader_id)
            if leader is not None:
                self._send(leader_id, leader)

    def _send(self, leader_id: int, leader: _Leader) -> None:
        connection, line = leader.connection, leader.line
        if line.is_idle and not leader.followers:  # one that is long at work on an answer, at its disk, comes back
            if leader.linger_timer is None:
                leader.linger_timer = self.set_timer(LINGER_MS, _LingeredLongEnough(leader_id))
            return
        if leader.linger_timer is not None:
            leader.linger_timer.cancel()
            leader.linger_timer = None
        if connection is None or not connection.is_ready or leader.is_resting:
            return
        request = None
        if not line.is_owed:
            line.incarnation = self._incarnation
            request = line.next_request()
        elif leader.owed_timer is None:
            leader.owed_timer = self.set_timer(OWED_MS, _OwedLongEnough(leader_id))
        if request is None:
            progress = line.progress()
            if progress is not None:
                connection.send(progress)  # not sent or lost: the next request says it
            return
        if leader.owed_timer is not None:
            leader.owed_timer.cancel()
            leader.owed_timer = None
        life, session, sequence = leader.life, request.session, request.sequence

        def replied(reply: m.Reply | CallboardError, payload: list[bytes]) -> None:
            self.tell_self(_Replied(leader_id, life, session, sequence, reply, payload))

        connection.request(request, replied, timeout_ms=line.wait_ms + ANSWER_GRACE_MS)

    def on_owed_long_enough(self, owed: _OwedLongEnough) -> None:
        leader = self._leaders.get(owed.leader)
        if leader is not None:
            leader.owed_timer = None
            leader.line.give_up_waiting()
            self._due.add(owed.leader)

    def on_lingered_long_enough(self, lingered: _LingeredLongEnough) -> None:
        leader = self._leaders.get(lingered.leader)
        if leader is not None and leader.linger_timer is not None and not leader.followers and leader.line.is_idle:
            self._hang_up(lingered.leader, leader)

    def _hang_up(self, leader_id: int, leader: _Leader) -> None:
        if leader.connection is not None:
            leader.connection.close()
        if leader.owed_timer is not None:
            leader.owed_timer.cancel()
        del self._leaders[leader_id]

    # -- what comes back -------------------------------------------------------------------------------

    def on_replied(self, replied: _Replied) -> None:
        leader = self._leaders.get(replied.leader)
        if leader is None or leader.life != replied.life or not leader.line.is_current(replied.session):
            return  # above all the time-out of a request whose session is over must not end the next one
        reply = replied.reply
        if not isinstance(reply, m.FetchReply) or reply.error:
            self._rest(replied.leader, leader, reply)
            return
        answers = leader.line.on_reply(replied.session, replied.sequence, reply)
        if answers is None:
            return
        leader.failures = 0
        wanted = {key_of(answer) for answer in answers}
        first = 0
        for entry in reply.entries:
            frames = replied.payload[first : first + entry.frames]
            first += entry.frames
            key = key_of(entry)
            if key in wanted and key in leader.followers:
                leader.followers[key].post(Fetched(entry, frames))
        self._due.add(replied.leader)

    def _rest(self, leader_id: int, leader: _Leader, reply: m.Reply | CallboardError) -> None:
        """The session is over; the next one begins after a pause."""
        leader.line.end_session()
        is_forgotten = isinstance(reply, m.Reply) and reply.error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        detail = str(reply) if isinstance(reply, CallboardError) else f"{reply.detail} [code {reply.error}]"
        event(logger, "fetch.failed", logging.WARNING, leader=leader_id, detail=detail)
        if isinstance(reply, CallboardTimeoutError):
            self._connect(leader_id, leader)
            return
        leader.failures += 1
        if is_forgotten and leader.failures == 1:
            self._due.add(leader_id)
        elif not leader.is_resting:
            leader.is_resting = True
            pause_ms = min(RETRY_MS << min(leader.failures, 8), RETRY_MS_MAX)
            self.set_timer(pause_ms, _RetryDue(leader_id, leader.life))

    def on_retry_due(self, due: _RetryDue) -> None:
        leader = self._leaders.get(due.leader)
        if leader is not None and leader.life == due.life:
            leader.is_resting = False
            self._due.add(due.leader)

    def _tell_sibling(self, name: str, message: Any) -> bool:
        sibling = self.context.directory.find(f"{self._broker_address}/{name}")
        return sibling is not None and sibling.post(message)
