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
from ..transport.loop import Timer
from ..transport.seam import Inbound, PeerInfo, Server
from .controller.controller import AdminCommand
from .controller.image import ClusterImage
from .inspect import REQUESTS as INSPECTIONS
from .inspect import Inspection
from .log import event
from .logdirs import LogDirectories
from .metadata.client import MetadataChanged, NewProducerId, SessionLost, SessionOpened, Subscribe
from .partition.events import (
    AnnounceReplicas,
    Answers,
    DeleteRecords,
    DescribeReplica,
    Discarded,
    Fetch,
    ForController,
    Hosted,
    ListOffset,
    Produce,
    ReplicaGone,
    Ticket,
    Unpark,
)
from .partition.leader import refusal_of_fetch, refusal_of_produce
from .runtime import Context, LoopActor, LoopRef
from .sessions import FetchSession, GatherSession, ProduceSession, Session

logger = logging.getLogger(__name__)

NO_ANSWER = 0  # session number of a produce with acks=0
SWEEP_MS = 50  # how late a timed-out produce may be answered
CLIENTS_SHOWN = 5  # in the tree
PATIENCE_MS = 10_000  # for requests that give no deadline of their own


class Requests(msgspec.Struct, frozen=True, gc=False):
    """All that one wakeup of the socket brought."""

    inbound: list[Inbound]


class Sweep(msgspec.Struct, frozen=True, gc=False):
    """Time to look for sessions past their deadline."""


class FetchWaited(msgspec.Struct, frozen=True, gc=False):
    """A fetch has waited for ``max_wait_ms``."""

    session: int


class Router(LoopActor):
    """Serves clients. Started last in a broker, stopped first."""

    handlers: ClassVar[Mapping[type, str]] = {
        Requests: "on_requests",
        Answers: "on_answers",
        FetchWaited: "on_fetch_waited",
        Sweep: "on_sweep",
        Hosted: "on_hosted",
        ReplicaGone: "on_replica_gone",
        Discarded: "on_discarded",
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
        self._completed: list[int] = []  # sessions to answer at the end of this turn
        self._fetch_timers: dict[int, Timer] = {}
        self._session_numbers = session_numbers  # above NO_ANSWER
        self._is_sweeping = False
        self._overloaded = 0
        self._dispatch: dict[type, Callable[[Inbound, Any], None]] = {
            m.ProduceRequest: self._produce,
            m.FetchRequest: self._fetch,
            m.MetadataRequest: self._metadata,
            m.ListOffsetsRequest: self._list_offsets,
            m.DeleteRecordsRequest: self._delete_records,
            m.InitProducerIdRequest: self._init_producer_id,
            m.CreateTopicsRequest: self._administer,
            m.DeleteTopicsRequest: self._administer,
            m.CreatePartitionsRequest: self._administer,
            m.AlterTopicsRequest: self._administer,
            m.ReelectRequest: self._administer,
            m.DescribeReplicasRequest: self._describe_replicas,
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
            if isinstance(session, FetchSession):
                self._unpark(number, session)

    def describe(self) -> m.ActorDescription:
        """Say who is connected, by client id, in the tree."""
        names = sorted(Counter(peer.client_id or "?" for peer in self._server.peers()).items()) if self._server else []
        shown = ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in names[:CLIENTS_SHOWN])
        more = f" and {len(names) - CLIENTS_SHOWN} more" if len(names) > CLIENTS_SHOWN else ""
        return msgspec.structs.replace(super().describe(), role=f"for {shown}{more}" if names else "")

    def _on_socket(self, inbound: list[Inbound]) -> None:
        self.actor_ref.post(Requests(inbound))

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
        if problem := _problem_with_produce(request, len(inbound.payload)):
            self._refuse(inbound, *problem)
            return
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]
        number = NO_ANSWER
        if request.acks != m.ACKS_NONE:
            deadline_ms = inbound.received_ms + min(request.timeout_ms, _patience(inbound))
            number = self._open(ProduceSession(inbound.peer, request, keys, deadline_ms))
        first = 0
        for index, (entry, key) in enumerate(zip(request.entries, keys, strict=True)):
            frames = inbound.payload[first : first + entry.frames]
            first += entry.frames
            produce = Produce(Ticket(number, index, self._door), entry.leader_epoch, request.acks, frames)
            if not self._tell(key, produce) and number != NO_ANSWER:
                error, leader, epoch = self._whereabouts(key)
                refusal = refusal_of_produce(key, error, leader=leader, leader_epoch=epoch)
                self._answered(number, index, refusal, ())

    def _fetch(self, inbound: Inbound, request: m.FetchRequest) -> None:
        if problem := _problem_with_fetch(request):
            self._refuse(inbound, *problem)
            return
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]
        max_wait_ms = min(request.max_wait_ms, _patience(inbound))
        number = self._open(FetchSession(inbound.peer, request, keys, inbound.received_ms + max_wait_ms))
        for index, (entry, key) in enumerate(zip(request.entries, keys, strict=True)):
            fetch = Fetch(
                ticket=Ticket(number, index, self._door),
                leader_epoch=entry.leader_epoch,
                fetch_offset=entry.fetch_offset,
                max_bytes=min(entry.max_bytes, request.max_bytes),
                min_bytes=request.min_bytes,
            )
            if not self._tell(key, fetch):
                error, leader, epoch = self._whereabouts(key)
                self._answered(number, index, refusal_of_fetch(key, error, leader=leader, leader_epoch=epoch), ())
        if number in self._sessions:
            self._fetch_timers[number] = self.set_timer(max_wait_ms, FetchWaited(number))

    def _list_offsets(self, inbound: Inbound, request: m.ListOffsetsRequest) -> None:
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]

        def missing(key: PartitionKey) -> m.ListOffsetsEntryReply:
            error, _, epoch = self._whereabouts(key)
            return m.ListOffsetsEntryReply(
                topic_id=key.topic_id, partition=key.partition, error=error, leader_epoch=epoch
            )

        def reply(entries: list[Any]) -> m.ListOffsetsReply:
            return m.ListOffsetsReply(id=request.id, entries=entries)

        self._gather(
            inbound,
            keys,
            lambda ticket: ListOffset(
                ticket, request.entries[ticket.entry].leader_epoch, request.entries[ticket.entry].timestamp_ms
            ),
            reply,
            missing,
        )

    def _delete_records(self, inbound: Inbound, request: m.DeleteRecordsRequest) -> None:
        keys = [PartitionKey(TopicId(entry.topic_id), entry.partition) for entry in request.entries]

        def missing(key: PartitionKey) -> m.DeleteRecordsEntryReply:
            error, _, epoch = self._whereabouts(key)
            return m.DeleteRecordsEntryReply(
                topic_id=key.topic_id, partition=key.partition, error=error, leader_epoch=epoch
            )

        def reply(entries: list[Any]) -> m.DeleteRecordsReply:
            return m.DeleteRecordsReply(id=request.id, entries=entries)

        def question(ticket: Ticket) -> DeleteRecords:
            entry = request.entries[ticket.entry]
            return DeleteRecords(ticket, entry.leader_epoch, entry.before_offset)

        self._gather(inbound, keys, question, reply, missing)

    def _describe_replicas(self, inbound: Inbound, request: m.DescribeReplicasRequest) -> None:
        wanted = set(request.topic_ids)
        keys = [key for key in self._replicas if not wanted or key.topic_id in wanted]

        def missing(key: PartitionKey) -> m.ReplicaDescription:
            home = self._directories.home_of(key)
            directory = home.path if home is not None else ""
            return m.ReplicaDescription(
                topic_id=key.topic_id, partition=key.partition, role="offline", directory=directory
            )

        def reply(replicas: list[Any]) -> m.DescribeReplicasReply:
            directories = self._directories.describe()
            return m.DescribeReplicasReply(id=request.id, replicas=replicas, directories=directories)

        self._gather(inbound, keys, DescribeReplica, reply, missing)

    def _gather(
        self,
        inbound: Inbound,
        keys: list[PartitionKey],
        question: Callable[[Ticket], Any],
        make_reply: Callable[[list[Any]], m.Reply],
        when_missing: Callable[[PartitionKey], m.Part],
    ) -> None:
        deadline_ms = inbound.received_ms + _patience(inbound)
        session = GatherSession(inbound.peer, inbound.message.id, keys, deadline_ms, make_reply, when_missing)
        number = self._open(session)
        for index, key in enumerate(keys):
            if not self._tell(key, question(Ticket(number, index, self._door))):
                self._answered(number, index, when_missing(key), ())
        if not keys:
            self._completed.append(number)

    def _metadata(self, inbound: Inbound, request: m.MetadataRequest) -> None:
        may_create = request.allow_auto_create and self._config.broker.auto_create_topics
        absent = [name for name in request.topics or () if self._image.topic_named(name) is None]
        if may_create and absent:
            create = m.CreateTopicsRequest(topics=[m.NewTopic(name=name) for name in absent])
            self._tell_sibling("hosting", ForController(create))  # the client asks again until it is there
        self._reply(inbound, self._image.metadata_reply(request))

    def _init_producer_id(self, inbound: Inbound, request: m.InitProducerIdRequest) -> None:
        if not self._tell_sibling("metadata", NewProducerId(lambda reply: self._reply(inbound, reply))):
            self._refuse(inbound, ErrorCode.STORE_UNAVAILABLE, "the metadata client is restarting")

    def _administer(self, inbound: Inbound, request: m.Request) -> None:
        if not self._tell_sibling("controller", AdminCommand(request, lambda reply: self._reply(inbound, reply))):
            self._refuse(inbound, ErrorCode.NOT_CONTROLLER, "the controller of this broker is restarting")

    def _describe_cluster(self, inbound: Inbound, request: m.DescribeClusterRequest) -> None:
        counters: dict[str, int] = {"overloaded": self._overloaded, "requests_waiting": len(self._sessions)}
        clients: list[m.ClientDescription] = []
        if self._server is not None:
            counters.update(self._server.counters)
            now_ms = self.context.clock.monotonic_ms()
            clients = [
                _described(peer, now_ms, self._image.broker_id_of(self._broker_address))
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
        if waited.session in self._sessions:
            self._completed.append(waited.session)

    def on_sweep(self, _: Sweep) -> None:
        """Fetches have timers of their own: while only they wait, nothing wakes the broker."""
        now_ms = self.context.clock.monotonic_ms()
        waiting = [(n, session) for n, session in self._sessions.items() if not isinstance(session, FetchSession)]
        self._completed += [number for number, session in waiting if session.deadline_ms <= now_ms]
        self._is_sweeping = bool(waiting)
        if waiting:
            self.set_timer(SWEEP_MS, Sweep())

    def on_drained(self) -> None:
        """Answer what this turn has completed: a fetch takes along whatever else became ready in it."""
        completed, self._completed = self._completed, []
        for number in completed:
            session = self._sessions.pop(number, None)
            if session is not None:
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

    def _unpark(self, number: int, session: FetchSession) -> None:
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
                if isinstance(session, FetchSession):
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

    def on_session_opened(self, _: SessionOpened) -> None:
        self.started()

    def on_session_lost(self, _: SessionLost) -> None:
        """Nothing to do at the door: the image tells who leads, and a new session is being opened."""

    # -- inside ----------------------------------------------------------------------------------------

    def _tell(self, key: PartitionKey, message: Any) -> bool:
        replica = self._replicas.get(key)
        return replica is not None and replica.post(message)

    def _waiting(self, request: m.Request) -> int:
        """Parked fetches are counted apart: many idle consumers do not keep producers out, nor the reverse."""
        fetches = len(self._fetch_timers)
        return fetches if isinstance(request, m.FetchRequest) else len(self._sessions) - fetches

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
        if self._server is not None:
            msgspec.structs.force_setattr(reply, "id", inbound.message.id)
            self._server.reply(inbound.peer, reply)


def _described(peer: PeerInfo, now_ms: int, broker_id: int) -> m.ClientDescription:
    return m.ClientDescription(
        client_id=peer.client_id,
        software=peer.software,
        broker_id=broker_id,
        connected_ms=now_ms - peer.connected_ms,
        requests=peer.requests,
        bytes_in=peer.bytes_in,
        bytes_out=peer.bytes_out,
        dropped=peer.dropped,
    )


def _patience(inbound: Inbound) -> int:
    """How long the sender of a request still waits for it, in ms."""
    deadline_ms = inbound.message.deadline_ms
    return max(0, deadline_ms - inbound.received_ms) if deadline_ms else PATIENCE_MS


def _problem_with_produce(request: m.ProduceRequest, payload_frames: int) -> tuple[ErrorCode, str] | None:
    if request.acks not in (m.ACKS_NONE, m.ACKS_LEADER, m.ACKS_ALL):
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks={request.acks}"
    if not request.entries:
        return ErrorCode.INVALID_REQUEST, "a produce request without entries"
    if any(entry.frames < 2 for entry in request.entries):
        return (
            ErrorCode.INVALID_REQUEST,
            "each entry has at least 2 frames: the 21 bytes outside the checksum, then the rest",
        )
    declared = sum(entry.frames for entry in request.entries)
    if declared != payload_frames:
        return ErrorCode.INVALID_REQUEST, f"the entries declare {declared} payload frames, {payload_frames} came"
    return None


def _problem_with_fetch(request: m.FetchRequest) -> tuple[ErrorCode, str] | None:
    if not request.entries:
        return ErrorCode.INVALID_REQUEST, "a fetch request without entries"
    if request.replica_id != m.CONSUMER_REPLICA_ID:
        return ErrorCode.INVALID_REQUEST, "followers do not fetch yet: every partition has one replica"
    if request.max_wait_ms < 0 or request.min_bytes < 0 or request.max_bytes < 1:
        return ErrorCode.INVALID_REQUEST, "max_wait_ms and min_bytes are not negative, max_bytes is at least 1"
    if len({(entry.topic_id, entry.partition) for entry in request.entries}) < len(request.entries):
        return ErrorCode.INVALID_REQUEST, "a fetch names each partition once"
    return None
