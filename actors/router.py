"""The door of a broker: frames in, the right actor, replies out.

One router owns the sockets that clients talk to. It decides nothing about records: a request is split into
entries (``sessions``), each entry told to its partition's actor, the answers gathered into one reply. What is
not about records goes to the controller, the metadata client or the inspector.

Rules of this file:

1. Every request that may have an answer gets exactly one: the gathered reply, or one error.
2. Admission is bounded (``limits.requests_waiting``, parked fetches apart) and refuses with OVERLOADED; nothing
   behind the door is.
3. When a partition's actor ends, the entries that wait for it are answered INTERNAL: outcome unknown, retriable.
4. A request that cannot be understood is refused here and never reaches an actor.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from ..config import ClusterConfig
from ..errors import ErrorCode
from ..model import PartitionKey, TopicId
from ..transport import messages as m
from ..transport.group_messages import GroupHeartbeatRequest
from ..transport.loop import Timer
from ..transport.seam import Inbound, PeerInfo, Server
from .admission import patience, problem_with_fetch, problem_with_follower_fetch, problem_with_produce
from .controller.controller import AdminCommand
from .controller.image import ClusterImage
from .controller.internal import is_for_cluster
from .controller.topics import INTERNAL_PREFIX
from .groups.asking import CoordinatorGone, GroupAnswers
from .groups.door import GroupDoor
from .inspect import REQUESTS as INSPECTIONS
from .inspect import Inspection, described_client
from .log import event
from .logdirs import LogDirectories
from .metadata.client import MetadataChanged, NewProducerId, SessionLost, SessionOpened, Subscribe
from .metadata.documents import kind_of
from .partition.events import (
    AnnounceReplicas,
    Answers,
    Discarded,
    Fetch,
    ForController,
    Hosted,
    Produce,
    Progress,
    ReplicaGone,
    Ticket,
    Unpark,
)
from .partition.leader import refusal_of_fetch, refusal_of_produce
from .questions import Questions, delete_records, describe_replicas, list_offsets
from .replication.sessions import FollowerSession
from .runtime import Context, LoopActor, LoopRef
from .sessions import FetchSession, GatherSession, ProduceSession, Session

logger = logging.getLogger(__name__)

LOOK_MS = 5_000  # between looks for followers' sessions that are over
NO_ANSWER = 0  # session number of a produce with acks=0
SWEEP_MS = 50  # how late a timed-out produce may be answered
INTERNAL = "the topic is the cluster's own: it may be read, not written"
CLIENTS_SHOWN = 5  # in the tree


class Requests(msgspec.Struct, frozen=True, gc=False):
    """All that one wakeup of the socket brought."""

    inbound: list[Inbound]


class Sweep(msgspec.Struct, frozen=True, gc=False):
    """Time to look for sessions past their deadline."""


class FetchWaited(msgspec.Struct, frozen=True, gc=False):
    """A fetch has waited for ``max_wait_ms``. ``sequence``: of a follower's session, which one."""

    session: int
    sequence: int = 0


class LookAtSessions(msgspec.Struct, frozen=True, gc=False):
    """Time to look for followers that have not come back to their sessions."""


class Router(LoopActor):
    """Serves clients. Started last in a broker, stopped first."""

    handlers: ClassVar[Mapping[type, str]] = {
        Requests: "on_requests",
        Answers: "on_answers",
        FetchWaited: "on_fetch_waited",
        Sweep: "on_sweep",
        LookAtSessions: "on_look_at_sessions",
        Hosted: "on_hosted",
        ReplicaGone: "on_replica_gone",
        Discarded: "on_discarded",
        GroupAnswers: "on_group_answers",
        CoordinatorGone: "on_coordinator_gone",
        MetadataChanged: "on_metadata_changed",
        SessionOpened: "on_session_opened",
        SessionLost: "on_session_lost",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        config: ClusterConfig,
        serve: Callable[[Callable[[list[Inbound]], None]], Server],
        inspection: Inspection,
        directories: LogDirectories,
        broker_address: str,
        session_numbers: Iterator[int],
    ) -> None:
        """``session_numbers``: outlives this actor, so that an answer for an earlier life of it finds nobody here."""
        super().__init__(context, address, parent)
        self._config = config
        self._serve = serve
        self._inspection = inspection
        self._directories = directories  # moved by the broker's actor; only described here
        self._broker_address = broker_address
        self._door = address.rpartition("/")[2]  # "router" or "peers": to whom partitions answer
        self.starts_later = self._door == "router"  # clients are served once the cluster knows this broker
        self._server: Server | None = None
        self._image = ClusterImage.empty()
        self._replicas: dict[PartitionKey, LoopRef] = {}
        self._sessions: dict[int, Session] = {}
        self._followers: dict[tuple[bytes, int], int] = {}  # numbers of followers' sessions, by peer and their own id
        self._is_looking = False
        self._completed: list[int] = []  # sessions to answer at the end of this turn
        self._fetch_timers: dict[int, Timer] = {}
        self._session_numbers = session_numbers  # above NO_ANSWER
        self._is_sweeping = False
        self._overloaded = 0
        self._internal: frozenset[TopicId] = frozenset()  # the cluster's own topics: nobody else writes to them
        self._groups = GroupDoor(
            context,
            config=config,
            broker_address=broker_address,
            door=self._door,
            next_number=session_numbers.__next__,
            reply=self._send,
            peer=self._peer,
        )
        self._dispatch: dict[type, Callable[[Inbound, Any], None]] = {
            m.ProduceRequest: self._produce,
            m.FetchRequest: self._fetch,
            m.ReplicaProgressRequest: self._progress,
            m.MetadataRequest: self._metadata,
            m.ListOffsetsRequest: self._list_offsets,
            m.DeleteRecordsRequest: self._delete_records,
            m.InitProducerIdRequest: self._init_producer_id,
            m.CreateTopicsRequest: self._administer,
            m.DeleteTopicsRequest: self._administer,
            m.CreatePartitionsRequest: self._administer,
            m.AlterTopicsRequest: self._administer,
            m.ElectLeadersRequest: self._administer,
            m.ReelectRequest: self._administer,
            m.AlterPartitionRequest: self._administer,
            m.DescribeReplicasRequest: self._describe_replicas,
            **self._groups.requests,
            m.DescribeClusterRequest: self._describe_cluster,
            **dict.fromkeys(INSPECTIONS, self._inspect),
        }

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._server = self._serve(self._on_socket)
        event(logger, "router.serving", endpoints=",".join(self._server.endpoints))
        self._tell_sibling("metadata", Subscribe(self.actor_ref, with_sessions=True))
        self._tell_sibling("hosting", AnnounceReplicas())

    def on_stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def on_failure(self, *failure: Any) -> None:
        self.on_stop()
        for number, session in self._sessions.items():
            if isinstance(session, (FetchSession, FollowerSession)):
                self._unpark(number, session)

    def describe(self) -> m.ActorDescription:
        """Say who is connected, by client id, in the tree."""
        names = sorted(Counter(peer.client_id or "?" for peer in self._server.peers()).items()) if self._server else []
        shown = ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in names[:CLIENTS_SHOWN])
        more = f" and {len(names) - CLIENTS_SHOWN} more" if len(names) > CLIENTS_SHOWN else ""
        return msgspec.structs.replace(super().describe(), role=f"for {shown}{more}" if names else "")

    def _on_socket(self, inbound: list[Inbound]) -> None:
        self.actor_ref.post(Requests(inbound))
        self.context.run_turns()  # what can be answered at once is, before the loop looks at anything else

    # -- requests ------------------------------------------------------------------------------------

    def on_requests(self, requests: Requests) -> None:
        for inbound in requests.inbound:
            handle = self._dispatch.get(type(inbound.message))
            if handle is None:
                self._refuse(inbound, ErrorCode.INVALID_REQUEST, "a broker does not answer this request")
            elif self._waiting(inbound.message) >= self._config.limits.requests_waiting:
                self._overloaded += 1
                detail = f"{self._waiting(inbound.message)} requests of this kind are waiting"
                self._refuse(inbound, ErrorCode.OVERLOADED, detail)
            else:
                handle(inbound, inbound.message)

    def _produce(self, inbound: Inbound, request: m.ProduceRequest) -> None:
        if problem := problem_with_produce(request, len(inbound.payload)):
            self._refuse(inbound, *problem)
            return
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]
        internal = self._internal_among(keys)
        number = NO_ANSWER
        if request.acks != m.ACKS_NONE:
            deadline_ms = inbound.received_ms + min(request.timeout_ms, patience(inbound))
            number = self._open(ProduceSession(inbound.peer, request, keys, deadline_ms))
        first = 0
        for index, (entry, key) in enumerate(zip(request.entries, keys, strict=True)):
            frames = inbound.payload[first : first + entry.frames]
            first += entry.frames
            if key in internal:
                self._answered(number, index, refusal_of_produce(key, ErrorCode.INVALID_TOPIC, INTERNAL), ())
                continue
            produce = Produce(Ticket(number, index, self._door), entry.leader_epoch, request.acks, frames)
            if not self._tell(key, produce) and number != NO_ANSWER:
                error, leader, epoch = self._whereabouts(key)
                refusal = refusal_of_produce(key, error, leader=leader, leader_epoch=epoch)
                self._answered(number, index, refusal, ())

    def _fetch(self, inbound: Inbound, request: m.FetchRequest) -> None:
        if request.replica_id != m.CONSUMER_REPLICA_ID:
            self._follower_fetch(inbound, request)
            return
        if problem := problem_with_fetch(request):
            self._refuse(inbound, *problem)
            return
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]
        max_wait_ms = min(request.max_wait_ms, patience(inbound))
        number = self._open(FetchSession(inbound.peer, request, keys, inbound.received_ms + max_wait_ms))
        for index, (entry, key) in enumerate(zip(request.entries, keys, strict=True)):
            fetch = Fetch(
                ticket=Ticket(number, index, self._door),
                leader_epoch=entry.leader_epoch,
                fetch_offset=entry.fetch_offset,
                last_fetched_epoch=entry.last_fetched_epoch,
                max_bytes=min(entry.max_bytes, request.max_bytes),
                min_bytes=request.min_bytes,
            )
            if not self._tell(key, fetch):
                error, leader, epoch = self._whereabouts(key)
                self._answered(number, index, refusal_of_fetch(key, error, leader=leader, leader_epoch=epoch), ())
        if number in self._sessions:
            self._fetch_timers[number] = self.set_timer(max_wait_ms, FetchWaited(number))

    def _follower_fetch(self, inbound: Inbound, request: m.FetchRequest) -> None:
        """Take in the next request of a follower's session; see ``replication/sessions.py``."""
        if problem := problem_with_follower_fetch(request, self._door):
            self._refuse(inbound, *problem)
            return
        if request.sequence == 0:
            self._begin_following(inbound, request)
        number = self._followers.get((inbound.peer, request.session), 0)
        session = self._sessions.get(number)
        if not isinstance(session, FollowerSession) or not session.may_follow(request):
            self._refuse(inbound, ErrorCode.FETCH_SESSION_ID_NOT_FOUND, f"no session {request.session} at this point")
            return
        if session.is_waiting:
            self._answer_follower(number, session)
        max_wait_ms = min(request.max_wait_ms, patience(inbound))
        for gone in request.forgotten:
            key = PartitionKey(TopicId(gone.topic_id), gone.partition)
            entry_number = session.forget(key)
            if entry_number is not None:
                self._tell(key, Unpark(Ticket(number, entry_number, self._door)))
        self._tell_progress(request, request.progress)
        for index, entry in session.on_request(request, inbound.received_ms, max_wait_ms):
            key = session.keys[index]
            fetch = Fetch(
                ticket=Ticket(number, index, self._door),
                leader_epoch=entry.leader_epoch,
                fetch_offset=entry.fetch_offset,
                max_bytes=min(entry.max_bytes, request.max_bytes),
                replica_id=request.replica_id,
                replica_incarnation=request.replica_incarnation,
                last_fetched_epoch=entry.last_fetched_epoch,
                durable_offset=entry.durable_offset,
                high_watermark=entry.high_watermark,
                log_start_offset=entry.log_start_offset,
            )
            if not self._tell(key, fetch):
                error, leader, epoch = self._whereabouts(key)
                self._answered(number, index, refusal_of_fetch(key, error, leader=leader, leader_epoch=epoch), ())
        if session.is_complete:
            self._completed.append(number)
        self._fetch_timers[number] = self.set_timer(max_wait_ms, FetchWaited(number, session.sequence))

    def _begin_following(self, inbound: Inbound, request: m.FetchRequest) -> None:
        """A session begins: whatever this follower had before is over."""
        for place, number in list(self._followers.items()):
            session = self._sessions.get(number)
            if isinstance(session, FollowerSession) and session.replica_id == request.replica_id:
                self._end_following(place, number, session)
        number = next(self._session_numbers)
        self._followers[inbound.peer, request.session] = number
        self._sessions[number] = FollowerSession(inbound.peer, request, inbound.received_ms)
        if not self._is_looking:
            self._is_looking = True
            self.set_timer(LOOK_MS, LookAtSessions())

    def _end_following(self, place: tuple[bytes, int], number: int, session: FollowerSession) -> None:
        if session.is_waiting and self._server is not None:
            detail = f"session {place[1]} is over: another one has begun, or nothing came for long"
            reply = m.ErrorReply(id=session.request_id, error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND, detail=detail)
            self._server.reply(session.peer, reply)
        del self._followers[place], self._sessions[number]
        if timer := self._fetch_timers.pop(number, None):
            timer.cancel()
        self._unpark(number, session)

    def _progress(self, inbound: Inbound, request: m.ReplicaProgressRequest) -> None:
        self._tell_progress(request, request.entries)

    def _tell_progress(
        self, request: m.ReplicaProgressRequest | m.FetchRequest, entries: list[m.ReplicaProgressEntry]
    ) -> None:
        for entry in entries:
            progress = Progress(
                replica_id=request.replica_id,
                replica_incarnation=request.replica_incarnation,
                leader_epoch=entry.leader_epoch,
                durable_offset=entry.durable_offset,
                log_start_offset=entry.log_start_offset,
            )
            self._tell(PartitionKey(TopicId(entry.topic_id), entry.partition), progress)

    def _list_offsets(self, inbound: Inbound, request: m.ListOffsetsRequest) -> None:
        self._gather(inbound, list_offsets(request, self._whereabouts))

    def _delete_records(self, inbound: Inbound, request: m.DeleteRecordsRequest) -> None:
        asked = delete_records(request, self._whereabouts)
        if self._internal_among(asked.keys):
            self._refuse(inbound, ErrorCode.INVALID_TOPIC, INTERNAL)
        else:
            self._gather(inbound, asked)

    def _describe_replicas(self, inbound: Inbound, request: m.DescribeReplicasRequest) -> None:
        self._gather(inbound, describe_replicas(request, self._replicas, self._directories))

    def _gather(self, inbound: Inbound, asked: Questions) -> None:
        deadline_ms = inbound.received_ms + patience(inbound)
        session = GatherSession(
            inbound.peer, inbound.message.id, asked.keys, deadline_ms, asked.make_reply, asked.when_missing
        )
        number = self._open(session)
        for index, key in enumerate(asked.keys):
            if not self._tell(key, asked.ask(Ticket(number, index, self._door))):
                self._answered(number, index, asked.when_missing(key), ())
        if not asked.keys:
            self._completed.append(number)

    def _metadata(self, inbound: Inbound, request: m.MetadataRequest) -> None:
        may_create = request.allow_auto_create and self._config.broker.auto_create_topics
        absent = [
            name
            for name in request.topics or ()
            if self._image.topic_named(name) is None and not name.startswith(INTERNAL_PREFIX)
        ]
        if may_create and absent:
            create = m.CreateTopicsRequest(topics=[m.NewTopic(name=name) for name in absent])
            self._tell_sibling("hosting", ForController(create))  # the client asks again until it is there
        self._reply(inbound, self._image.metadata_reply(request))

    def _init_producer_id(self, inbound: Inbound, request: m.InitProducerIdRequest) -> None:
        if not self._tell_sibling("metadata", NewProducerId(lambda reply: self._reply(inbound, reply))):
            self._refuse(inbound, ErrorCode.STORE_UNAVAILABLE, "the metadata client is restarting")

    def _administer(self, inbound: Inbound, request: m.Request) -> None:
        is_internal = self._door == "peers" and is_for_cluster(request)
        command = AdminCommand(request, lambda reply: self._reply(inbound, reply), is_internal=is_internal)
        if not self._tell_sibling("controller", command):
            self._refuse(inbound, ErrorCode.NOT_CONTROLLER, "the controller of this broker is restarting")

    def _describe_cluster(self, inbound: Inbound, request: m.DescribeClusterRequest) -> None:
        if not self._image.cluster_id:  # it is ready, and has not been told yet who else there is
            self._refuse(inbound, ErrorCode.BROKER_NOT_AVAILABLE, "this broker has only begun and knows no cluster yet")
            return
        counters: dict[str, int] = {"overloaded": self._overloaded, "requests_waiting": len(self._sessions)}
        clients: list[m.ClientDescription] = []
        if self._server is not None:
            counters.update(self._server.counters)
            now_ms = self.context.clock.monotonic_ms()
            clients = [
                described_client(peer, now_ms, self._image.broker_id_of(self._broker_address))
                for peer in self._server.peers()
            ]
        reply = self._image.cluster_reply()
        self._reply(inbound, msgspec.structs.replace(reply, clients=clients, counters=counters))

    def _inspect(self, inbound: Inbound, request: m.Request) -> None:
        self._inspection.answer(request, lambda reply: self._reply(inbound, reply))

    # -- answers -------------------------------------------------------------------------------------

    def on_answers(self, answers: Answers) -> None:
        for answer in answers.answers:
            self._answered(answer.ticket.session, answer.ticket.entry, answer.reply, answer.frames)

    def on_fetch_waited(self, waited: FetchWaited) -> None:
        session = self._sessions.get(waited.session)
        if isinstance(session, FollowerSession):
            if session.is_waiting and session.sequence == waited.sequence:
                self._completed.append(waited.session)
        elif session is not None:
            self._completed.append(waited.session)

    def on_look_at_sessions(self, _: LookAtSessions) -> None:
        now_ms = self.context.clock.monotonic_ms()
        for place, number in list(self._followers.items()):
            session = self._sessions.get(number)
            if isinstance(session, FollowerSession) and session.expires_ms <= now_ms:
                self._end_following(place, number, session)
        self._is_looking = bool(self._followers)
        if self._is_looking:
            self.set_timer(LOOK_MS, LookAtSessions())

    def on_sweep(self, _: Sweep) -> None:
        """Fetches have timers of their own: while only they wait, nothing wakes the broker."""
        now_ms = self.context.clock.monotonic_ms()
        fetches = (FetchSession, FollowerSession)
        waiting = [(n, session) for n, session in self._sessions.items() if not isinstance(session, fetches)]
        self._completed += [number for number, session in waiting if session.deadline_ms <= now_ms]
        self._is_sweeping = bool(waiting)
        if waiting:
            self.set_timer(SWEEP_MS, Sweep())

    def on_drained(self) -> None:
        """Answer what this turn has completed: a fetch takes along whatever else became ready in it."""
        completed, self._completed = self._completed, []
        for number in completed:
            session = self._sessions.get(number)
            if isinstance(session, FollowerSession):
                if session.is_waiting:  # else answered in this turn already
                    self._answer_follower(number, session)
            elif session is not None:
                del self._sessions[number]
                self._close(number, session)

    def _answered(self, number: int, entry: int, reply: m.Part, frames: Any) -> None:
        session = self._sessions.get(number)
        if session is None:
            return  # answered meanwhile, or acks=0: nobody waits
        session.on_answer(entry, reply, frames)
        if session.is_complete:
            self._completed.append(number)

    def _open(self, session: Session) -> int:
        number = next(self._session_numbers)
        self._sessions[number] = session
        if not self._is_sweeping and not isinstance(session, FetchSession):
            self._is_sweeping = True
            self.set_timer(SWEEP_MS, Sweep())
        return number

    def _close(self, number: int, session: Session) -> None:
        if self._server is None:
            return
        if isinstance(session, FetchSession):
            if timer := self._fetch_timers.pop(number, None):
                timer.cancel()
            self._unpark(number, session)
            reply, payload = session.reply()
            self._server.reply(session.peer, reply, payload)
        elif isinstance(session, (ProduceSession, GatherSession)):
            self._server.reply(session.peer, session.reply())

    def _answer_follower(self, number: int, session: FollowerSession) -> None:
        if timer := self._fetch_timers.pop(number, None):
            timer.cancel()
        reply, payload = session.reply()
        if self._server is not None:
            self._server.reply(session.peer, reply, payload)

    def _unpark(self, number: int, session: FetchSession | FollowerSession) -> None:
        for entry, key in session.parked_keys():
            self._tell(key, Unpark(Ticket(number, entry, self._door)))

    # -- the broker's word ---------------------------------------------------------------------------

    def on_hosted(self, hosted: Hosted) -> None:
        self._replicas[hosted.key] = hosted.ref

    def on_replica_gone(self, gone: ReplicaGone) -> None:
        detail = "the partition's actor failed and is being restarted"
        for number, session in list(self._sessions.items()):
            for entry in session.entries_of(gone.key):
                error = ErrorCode.INTERNAL
                refusal: m.Part = refusal_of_produce(gone.key, error, detail)
                if isinstance(session, (FetchSession, FollowerSession)):
                    refusal = refusal_of_fetch(gone.key, error, detail)
                elif isinstance(session, GatherSession):
                    refusal = session.missing_reply(entry)
                self._answered(number, entry, refusal, ())

    def on_discarded(self, discarded: Discarded) -> None:
        """The topic was deleted, the partition is no more."""
        self._replicas.pop(discarded.key, None)
        self.on_replica_gone(ReplicaGone(discarded.key))

    def on_metadata_changed(self, changed: MetadataChanged) -> None:
        self._image = changed.image
        self._groups.on_image(changed.image)
        if changed.keys is None or any(kind_of(key) == "topic" for key in changed.keys):
            topics = self._image.topics.values()
            self._internal = frozenset(topic.topic_id for topic in topics if topic.document.is_internal)

    def on_group_answers(self, answers: GroupAnswers) -> None:
        self._groups.on_answers(answers)

    def on_coordinator_gone(self, gone: CoordinatorGone) -> None:
        self._groups.on_coordinator_gone(gone)

    def on_session_opened(self, _: SessionOpened) -> None:
        self.started()

    def on_session_lost(self, _: SessionLost) -> None:
        """Nothing to do at the door: the image tells who leads, and a new session is being opened."""

    # -- inside ----------------------------------------------------------------------------------------

    def _tell(self, key: PartitionKey, message: Any) -> bool:
        replica = self._replicas.get(key)
        return replica is not None and replica.post(message)

    def _waiting(self, request: m.Request) -> int:
        """Parked fetches and heartbeats count apart: idle consumers do not keep producers out, nor the reverse."""
        fetches = len(self._fetch_timers)
        if isinstance(request, m.FetchRequest):
            return fetches
        if isinstance(request, GroupHeartbeatRequest):
            return self._groups.parked
        return len(self._sessions) - fetches + self._groups.others

    def _tell_sibling(self, name: str, message: Any) -> bool:
        sibling = self.context.directory.find(f"{self._broker_address}/{name}")
        return sibling is not None and sibling.post(message)

    def _whereabouts(self, key: PartitionKey) -> tuple[ErrorCode, int, int]:
        """Say why this broker has no actor for a partition, and who leads it: (error, leader, leader epoch)."""
        partition = self._image.partition(key)
        if partition is None:
            known = self._image.topic(key.topic_id) is not None
            return (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if known else ErrorCode.UNKNOWN_TOPIC_ID), -1, -1
        if partition.leader in (-1, self._image.broker_id_of(self._broker_address)):
            return ErrorCode.LEADER_NOT_AVAILABLE, partition.leader, partition.leader_epoch
        return ErrorCode.NOT_LEADER_FOR_PARTITION, partition.leader, partition.leader_epoch

    def _refuse(self, inbound: Inbound, error: ErrorCode, detail: str) -> None:
        self._reply(inbound, m.ErrorReply(error=error, detail=detail))

    def _reply(self, inbound: Inbound, reply: m.Reply) -> None:
        msgspec.structs.force_setattr(reply, "id", inbound.message.id)
        self._send(inbound.peer, reply)

    def _send(self, peer: bytes, reply: m.Reply) -> None:
        if self._server is not None:
            self._server.reply(peer, reply)

    def _peer(self, peer: bytes) -> PeerInfo | None:
        return self._server.peer(peer) if self._server is not None else None

    def _internal_among(self, keys: list[PartitionKey]) -> set[PartitionKey]:
        """Return those of the cluster's own topics: what is in them is not a client's to change."""
        if not self._internal or self._internal.isdisjoint([key.topic_id for key in keys]):
            return set()
        return {key for key in keys if key.topic_id in self._internal}
