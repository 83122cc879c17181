"""The metadata process: one owner of the store, served to every broker.

    requests ── rules (sessions, lease) ──┐
        │                                 ├── operations ── store, one group at a time, off the loop
        └── commits, producer ids ────────┘                        │
    replies, parked watches  ◄───────── outcomes, the change log ◄─┘

Rules of this file:

1. **Durable first.** Nothing that was decided is told to anybody before it is on disk: replies and watches are
   served when their group is. Heartbeats and renewals decide nothing and are answered from memory at once, so
   a storm of commits cannot end a session.
2. **One group at a time, in order.** Operations wait in one queue. The rules decide who lives and who holds the
   lease when a request is *handled*; the queue keeps that order, so the store compares each commit with the
   lease as it was decided before it (B26).
3. **A refusal is a reply; a failed disk ends the actor.** Its successor opens the store anew, and everybody who
   waited learns only that the outcome is unknown. A full disk is no failure: nothing was written, sessions and the
   lease live in memory. Commits are refused, so that whoever waits for one hears why; all else is tried again.
4. **Bounded**: the queue (commits and campaigns are refused over it, ends of sessions never), puts a commit,
   sessions, watches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ...config import BrokerSettings, Limits
from ...errors import ConfigurationError, ErrorCode, StorageFull
from ...storage.metadata_store import (
    AllocateProducerIds,
    Committed,
    DocumentStore,
    Operation,
    Outcome,
    ProducerIds,
    StoredDocument,
)
from ...transport import messages as m
from ...transport.loop import Timer
from ...transport.seam import Inbound, Server, ServerIdentity
from ..inspect import REQUESTS as INSPECTIONS
from ..inspect import Inspection
from ..log import event
from ..runtime import Context, LoopActor, LoopRef
from .changes import ChangeLog, Watch, Watches
from .documents import (
    CLUSTER_KEY,
    LEASE_KEY,
    ClusterDocument,
    HostDocument,
    LeaseDocument,
    RegistrationDocument,
    SessionDocument,
    brokers_of,
    host_key,
    kind_of,
    read,
    registration_key,
    rest_of,
    session_key,
    written,
)
from .joining import JoinRefused, Wish, claim, wish_of
from .lease import Lease
from .sessions import Opened, Refused, Session, Sessions
from .steps import StoreOpened, Tick, Waiting, Written, turn_away
from .translation import (
    commit_of,
    lease_value,
    own_writes,
    problem_with_commit,
    refusal_of_commit,
    registration,
    sent,
    session_document,
)

logger = logging.getLogger(__name__)

GROUP_MAX = 512  # operations that share one fsync
WAITING_MAX = 20_000  # operations
WATCH_WAIT_MS_MAX = 120_000
PRODUCER_IDS_MAX = 1_000_000  # of one block
TICK_MS_MAX = 250  # between two looks at the deadlines
SLEPT_MS_MIN = 100  # a look that late means that this process was not running


class Requests(msgspec.Struct, frozen=True, gc=False):
    """All that one wakeup of the socket brought."""

    inbound: list[Inbound]


class MetadataServer(LoopActor):
    """See the top of the file. Counts as started when it serves."""

    starts_later = True
    handlers: ClassVar[Mapping[type, str]] = {
        Requests: "on_requests",
        StoreOpened: "on_opened",
        Written: "on_written",
        Tick: "on_tick",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None = None,
        *,
        open_store: Callable[[], DocumentStore],
        binds: Sequence[str],
        incarnation: str,
        cluster_id: str = "",
        settings: BrokerSettings | None = None,
        limits: Limits | None = None,
        insecure: bool = False,
        inspection: Inspection | None = None,
        own_host: Wish | None = None,
        on_serving: Callable[[Server], Any] | None = None,
    ) -> None:
        """Serve the store at ``binds``.

        Args:
            open_store: called in the pool, e.g. ``lambda: SqliteStore(path)``.
            incarnation: of this process, for the hello.
            cluster_id: what a new store is made for, and an old one must have; empty: chosen, whichever.
            own_host: the host that this process lives on, and its brokers: claimed before anybody is served.
        """
        super().__init__(context, address, parent)
        self._open_store, self._binds, self._incarnation = open_store, tuple(binds), incarnation
        self._cluster_id = cluster_id
        self._settings, self._limits = settings or BrokerSettings(), limits or Limits()
        self._insecure, self._inspection, self._on_serving = insecure, inspection, on_serving
        self._store: DocumentStore | None = None
        self._store_incarnation = context.new_id()  # of this actor's life: a watch of an earlier one is a gap
        self._server: Server | None = None
        self._documents: dict[str, StoredDocument] = {}  # as on disk
        self._changes = ChangeLog(0)
        self._watches = Watches()
        self._sessions = Sessions()
        self._own_host = own_host
        self._hosts: dict[str, HostDocument] = {}  # by name; decided, on disk soon
        self._lease = Lease()
        self._waiting: deque[Waiting] = deque()
        self._writing: list[Waiting] = []  # the group at the store now, until its outcomes are handled
        self._is_store_busy = False  # a job is out
        self._is_out_of_room = False  # the group at the store waits for room on the disk
        self._timer: Timer | None = None
        self._timer_due_ms = 0
        self._dispatch: dict[type, Callable[[Inbound, Any], None]] = {
            m.HeartbeatRequest: self._heartbeat,
            m.RenewRequest: self._renew,
            m.StoreCommitRequest: self._commit,
            m.StoreWatchRequest: self._watch,
            m.StoreLoadRequest: self._load,
            m.OpenSessionRequest: self._open_session,
            m.EndSessionRequest: self._end_session,
            m.CampaignRequest: self._campaign,
            m.ResignRequest: self._resign,
            m.AllocateProducerIdsRequest: self._allocate_producer_ids,
            m.JoinRequest: self._join,
            **dict.fromkeys(INSPECTIONS, self._inspect),
        }

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        def job() -> StoreOpened:
            store = self._open_store()
            try:
                return StoreOpened(store, store.load())
            except BaseException:
                store.close()
                raise

        # Submitted here and not by in_pool: a store that comes too late for this actor must be closed, or its
        # lock on the file would keep the successor out.
        self.context.pool.submit(job, self._deliver_opened)

    def _deliver_opened(self, opened: StoreOpened | None, error: BaseException | None) -> None:
        if error is not None:
            self.fail("start", error)
        elif opened is not None and not self.actor_ref.post(opened):
            opened.store.close()

    def on_opened(self, opened: StoreOpened) -> None:
        self._store = opened.store
        self._documents = {document.key: document for document in opened.documents}
        self._changes = ChangeLog(opened.store.version)
        self._restore()
        if CLUSTER_KEY in self._documents:
            self._serve()
        else:
            cluster = ClusterDocument(
                cluster_id=self._cluster_id or self.context.new_id(), created_ms=self.context.clock.wall_ms()
            )
            self._write(own_writes((CLUSTER_KEY, written(cluster))), lambda _: self._serve())

    def _restore(self) -> None:
        """Begin where the store ended: whoever was alive has its time to be heard of."""
        now_ms = self.context.clock.monotonic_ms()
        for key, document in self._documents.items():
            value = document.value or {}
            if kind_of(key) == "session":
                session = read(SessionDocument, value)
                self._sessions.restore(rest_of(key), session.incarnation, session.timeout_ms, session.machine, now_ms)
            elif kind_of(key) == "host":
                self._hosts[rest_of(key)] = read(HostDocument, value)
        for key, document in self._documents.items():
            if kind_of(key) == "broker":
                registration = read(RegistrationDocument, document.value or {})
                if not self._sessions.is_open(registration.name, registration.incarnation):
                    self._sessions.restore_ended(registration.name, registration.incarnation)
        if LEASE_KEY in self._documents:
            lease = read(LeaseDocument, self._documents[LEASE_KEY].value or {})
            ttl_ms = self._settings.lease_ttl_ms
            self._lease.restore(lease.holder, lease.incarnation, lease.controller_epoch, ttl_ms, now_ms)

    def _serve(self) -> None:
        cluster_id = read(ClusterDocument, self._documents[CLUSTER_KEY].value or {}).cluster_id
        if self._cluster_id and self._cluster_id != cluster_id:
            raise ConfigurationError(
                f"the metadata store is of cluster {cluster_id}, not {self._cluster_id}: is this the right --data-dir?"
            )
        self._cluster_id = cluster_id
        if self._own_host and (refused := self._claim(self._own_host, lambda _: None)):
            raise ConfigurationError(f"host {self._own_host.host_name}: {refused.detail}")
        self._server = self.context.transport.serve(
            self._binds,
            m.StoreRequest,
            lambda inbound: self.tell_self(Requests(inbound)),
            identity=ServerIdentity(
                role="metadata", name=self.context.name, cluster_id=cluster_id, incarnation=self._incarnation
            ),
            limits=self._limits,
            insecure=self._insecure,
        )
        event(
            logger,
            "metadata.serving",
            endpoints=self._server.endpoints,
            version=self._changes.version,
            documents=len(self._documents),
            sessions=len(self._sessions),
        )
        self._set_timer()
        self.started()
        if self._on_serving is not None:
            self._on_serving(self._server)

    def on_stop(self) -> None:
        self._close()

    def on_failure(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._close_store()

    def _close_store(self) -> None:
        if self._store is not None and not self._is_store_busy:  # else when the job is done
            self._store.close()

    # -- requests ------------------------------------------------------------------------------------

    def on_requests(self, requests: Requests) -> None:
        for inbound in requests.inbound:
            handler = self._dispatch.get(type(inbound.message))
            if handler is None:
                self._refuse(inbound, ErrorCode.INVALID_REQUEST, "the metadata process does not answer this")
            else:
                handler(inbound, inbound.message)

    def _heartbeat(self, inbound: Inbound, request: m.HeartbeatRequest) -> None:
        if self._sessions.heartbeat(request.name, request.incarnation, self.context.clock.monotonic_ms()):
            self._reply(inbound, self._session_reply())
        else:
            detail = f"the session of {request.name} ({request.incarnation}) has ended"
            self._reply(inbound, m.SessionReply(error=ErrorCode.STALE_BROKER_EPOCH, detail=detail))

    def _open_session(self, inbound: Inbound, request: m.OpenSessionRequest) -> None:
        name, incarnation = request.name, request.incarnation
        try:
            document, value = session_document(request)
        except msgspec.ValidationError as error:
            self._refuse(inbound, ErrorCode.INVALID_REQUEST, f"session {name}: {error}")
            return
        if other := self._other_with_broker_id(name, document.broker_id):
            detail = f"{other} is alive and has broker id {document.broker_id}"
            self._reply(inbound, m.SessionReply(error=ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail=detail))
            return
        now_ms = self.context.clock.monotonic_ms()
        opened = self._sessions.open(
            name, incarnation, request.timeout_ms, document.machine, now_ms, if_vacant=request.if_vacant
        )
        if isinstance(opened, Refused):
            self._reply(inbound, m.SessionReply(error=opened.error, detail=opened.detail))
            return
        stored = self._documents.get(session_key(name))
        if not isinstance(opened, Opened) and stored and stored.value == value:
            self._reply(inbound, self._session_reply())
            return
        changes: list[tuple[str, dict[str, Any] | None]] = [(session_key(name), value)]
        if document.kind == "broker" and document.broker_id >= 0:
            changes.append((registration_key(document.broker_id), written(registration(name, document))))
        if isinstance(opened, Opened):
            event(logger, "session.opened", name=name, incarnation=incarnation, replaced=bool(opened.replaced))
            changes += self._lease_after_end_of(opened.replaced)
        self._set_timer()
        self._write(own_writes(*changes), lambda outcome: self._session_written(inbound, outcome))

    def _other_with_broker_id(self, name: str, broker_id: int) -> str:
        """Return the live session of another name that has this broker id; "": none."""
        stored = self._documents.get(registration_key(broker_id))
        if broker_id < 0 or stored is None:
            return ""
        known = read(RegistrationDocument, stored.value or {})
        return known.name if known.name != name and self._sessions.is_open(known.name, known.incarnation) else ""

    def _end_session(self, inbound: Inbound, request: m.EndSessionRequest) -> None:
        ended = self._sessions.end(request.name, request.incarnation)
        if ended is None:
            self._reply(inbound, self._session_reply())
            return
        self._write_end_of([ended], request.reason or "ended", lambda outcome: self._session_written(inbound, outcome))

    def _session_written(self, inbound: Inbound, outcome: Outcome) -> None:
        if isinstance(outcome, Committed):
            self._reply(inbound, self._session_reply())
        else:
            self._refuse(inbound, ErrorCode.INVALID_REQUEST, refusal_of_commit(outcome).detail)

    def _write_end_of(self, sessions: Sequence[Session], reason: str, then: Callable[[Outcome], None]) -> None:
        changes: list[tuple[str, dict[str, Any] | None]] = []
        for session in sessions:
            event(logger, "session.ended", name=session.name, incarnation=session.incarnation, reason=reason)
            changes.append((session_key(session.name), None))
            changes += self._lease_after_end_of(session)
        self._write(own_writes(*changes), then)

    def _lease_after_end_of(self, session: Session | None) -> list[tuple[str, dict[str, Any] | None]]:
        if session and self._lease.session_ended(session.name, session.incarnation):
            event(logger, "lease.vacant", reason="session ended", holder=session.name)
            return [(LEASE_KEY, lease_value(self._lease))]
        return []

    # -- hosts that join -------------------------------------------------------------------------------

    def _join(self, inbound: Inbound, request: m.JoinRequest) -> None:
        def then(claimed: HostDocument) -> None:
            ids = list(claimed.broker_ids[: request.brokers])
            self._reply(inbound, m.JoinReply(cluster_id=self._cluster_id, broker_ids=ids))

        if refused := self._claim(wish_of(request), then):
            self._reply(inbound, m.JoinReply(error=refused.error, detail=refused.detail))

    def _claim(self, wish: Wish, then: Callable[[HostDocument], None]) -> JoinRefused | None:
        others = () if wish is self._own_host else brokers_of(self._documents)
        claimed = claim(wish, self._cluster_id, self._hosts, others)
        if isinstance(claimed, JoinRefused):
            return claimed
        event(logger, "host.joins", name=wish.host_name, brokers=claimed.broker_ids)
        self._hosts[wish.host_name] = claimed
        self._write(own_writes((host_key(wish.host_name), written(claimed))), lambda _: then(claimed))
        return None

    # -- the lease -------------------------------------------------------------------------------------

    def _campaign(self, inbound: Inbound, request: m.CampaignRequest) -> None:
        name, incarnation, lease = request.name, request.incarnation, self._lease
        if not self._sessions.is_open(name, incarnation):
            self._lease_reply(inbound, ErrorCode.STALE_BROKER_EPOCH, f"{name} ({incarnation}) has no session")
        elif self._is_overloaded(inbound):
            return
        elif lease.campaign(name, incarnation, request.ttl_ms, self.context.clock.monotonic_ms()):
            event(logger, "lease.granted", holder=name, controller_epoch=lease.controller_epoch)
            self._set_timer()
            reply = m.LeaseReply(holder=name, controller_epoch=lease.controller_epoch)
            self._write(own_writes((LEASE_KEY, lease_value(self._lease))), lambda _: self._reply(inbound, reply))
        else:
            self._lease_reply(inbound, ErrorCode.STALE_CONTROLLER_EPOCH, f"{lease.holder} holds the lease")

    def _renew(self, inbound: Inbound, request: m.RenewRequest) -> None:
        if self._lease.renew(request.name, request.controller_epoch, self.context.clock.monotonic_ms()):
            self._lease_reply(inbound)
        else:
            self._lease_reply(inbound, ErrorCode.STALE_CONTROLLER_EPOCH, "the lease is not yours")

    def _resign(self, inbound: Inbound, request: m.ResignRequest) -> None:
        if self._lease.resign(request.name, request.controller_epoch):
            event(logger, "lease.vacant", reason="resigned", holder=request.name)
            self._write(own_writes((LEASE_KEY, lease_value(self._lease))), lambda _: self._lease_reply(inbound))
        else:
            self._lease_reply(inbound, ErrorCode.STALE_CONTROLLER_EPOCH, "the lease is not yours")

    def _lease_reply(self, inbound: Inbound, error: int = 0, detail: str = "") -> None:
        lease = self._lease
        self._reply(
            inbound,
            m.LeaseReply(error=error, detail=detail, holder=lease.holder, controller_epoch=lease.controller_epoch),
        )

    # -- documents -------------------------------------------------------------------------------------

    def _commit(self, inbound: Inbound, request: m.StoreCommitRequest) -> None:
        if self._is_overloaded(inbound):
            return
        if problem := problem_with_commit(request):
            self._refuse(inbound, ErrorCode.INVALID_REQUEST, problem)
            return

        def then(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                self._reply(inbound, m.StoreCommitReply(version=outcome.version))
            else:
                self._reply(inbound, refusal_of_commit(outcome))

        def on_full() -> None:
            self._refuse(inbound, ErrorCode.STORAGE_FULL, "the metadata process has no room left on its disk")

        if self._is_out_of_room and self._writing:
            on_full()
        else:
            self._write(commit_of(request), then, on_full)

    def _allocate_producer_ids(self, inbound: Inbound, request: m.AllocateProducerIdsRequest) -> None:
        if self._is_overloaded(inbound):
            return
        if not 1 <= request.count <= PRODUCER_IDS_MAX:
            self._refuse(inbound, ErrorCode.INVALID_REQUEST, f"{request.count} producer ids")
            return

        def then(outcome: Outcome) -> None:
            if isinstance(outcome, ProducerIds):
                self._reply(inbound, m.AllocateProducerIdsReply(first=outcome.first, count=outcome.count))

        self._write(AllocateProducerIds(request.count), then)

    def _load(self, inbound: Inbound, _: m.StoreLoadRequest) -> None:
        snapshot = m.StoreSnapshotReply(
            store_incarnation=self._store_incarnation,
            cluster_id=self._cluster_id,
            version=self._changes.version,
            documents=sent(self._documents.values()),
        )
        self._reply(inbound, snapshot)

    def _watch(self, inbound: Inbound, request: m.StoreWatchRequest) -> None:
        changed = self._changes.since(request.after_version)
        if changed is None or request.store_incarnation != self._store_incarnation:
            self._load(inbound, m.StoreLoadRequest())
            return
        if changed:
            self._reply(inbound, self._delta(changed))
            return
        wait_ms = min(max(request.max_wait_ms, 0), WATCH_WAIT_MS_MAX)
        deadline_ms = self.context.clock.monotonic_ms() + wait_ms
        watch = Watch(inbound.peer, request.id, request.after_version, deadline_ms)
        if answered := self._watches.park(watch):
            self._answer_watch(answered)
        self._set_timer()

    def _answer_watch(self, watch: Watch) -> None:
        changed = self._changes.since(watch.after_version)
        reply: m.Reply = m.ErrorReply(error=ErrorCode.OVERLOADED) if changed is None else self._delta(changed)
        self._send(watch.peer, watch.request_id, reply)

    def _delta(self, changed: Sequence[StoredDocument]) -> m.StoreDeltaReply:
        return m.StoreDeltaReply(version=self._changes.version, documents=sent(changed))

    # -- the store -------------------------------------------------------------------------------------

    def _write(
        self, operation: Operation, then: Callable[[Outcome], None], on_full: Callable[[], None] | None = None
    ) -> None:
        self._waiting.append(Waiting(operation, then, on_full))

    def on_drained(self) -> None:
        """Send the next group to the store, if it is not busy: everything that came meanwhile shares one fsync."""
        if self._writing or not self._waiting or self._store is None:
            return
        self._writing = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_MAX))]
        self._submit(self._store)

    def _submit(self, store: DocumentStore) -> None:
        operations, self._is_store_busy = [waiting.operation for waiting in self._writing], True
        self.context.pool.submit(lambda: store.apply(operations), self._deliver_written)

    def _deliver_written(self, outcomes: list[Outcome] | None, error: BaseException | None) -> None:
        self._is_store_busy = False
        if self.has_ended:
            self._close_store()
        elif isinstance(error, StorageFull):
            self._note_room(is_full=True)
            self._writing, self._waiting = turn_away(self._writing), deque(turn_away(self._waiting))
            self._set_timer()  # the next tick tries again
        elif error is not None:
            self.fail("message", error)
        elif outcomes is not None:
            self._note_room(is_full=False)
            self.tell_self(Written(outcomes))

    def _note_room(self, *, is_full: bool) -> None:
        if is_full != self._is_out_of_room:
            self._is_out_of_room = is_full
            name, level = ("metadata.full", logging.ERROR) if is_full else ("metadata.has_room", logging.WARNING)
            event(logger, name, level, waiting=len(self._writing) + len(self._waiting))

    def on_written(self, written_: Written) -> None:
        group, self._writing = self._writing, []
        for outcome in written_.outcomes:
            if isinstance(outcome, Committed) and outcome.documents:
                for document in outcome.documents:
                    if document.value is None:
                        self._documents.pop(document.key, None)
                    else:
                        self._documents[document.key] = document
                self._changes.add(outcome.version, outcome.documents)
        for waiting, outcome in zip(group, written_.outcomes, strict=True):
            waiting.then(outcome)
        for watch in self._watches.due(self._changes.version):
            self._answer_watch(watch)

    # -- time ------------------------------------------------------------------------------------------

    def on_tick(self, _: Tick) -> None:
        """End what was not heard of in time. Whoever comes late to look has slept, and cannot judge silence."""
        now_ms = self.context.clock.monotonic_ms()
        late_ms = now_ms - self._timer_due_ms
        if late_ms >= SLEPT_MS_MIN:
            event(logger, "metadata.slept", logging.WARNING, ms=late_ms)
            self._sessions.slept(late_ms)
            self._lease.slept(late_ms)
        if expired := self._sessions.expired(now_ms):
            for session in expired:
                self._sessions.end(session.name, session.incarnation)
            self._write_end_of(expired, "not heard of in time", lambda _: None)
        holder = self._lease.holder
        if self._lease.expire(now_ms):
            event(logger, "lease.vacant", logging.WARNING, reason="not renewed in time", holder=holder)
            self._write(own_writes((LEASE_KEY, lease_value(self._lease))), lambda _: None)
        for watch in self._watches.expired(now_ms):
            self._answer_watch(watch)
        if self._is_out_of_room and self._writing and not self._is_store_busy and self._store is not None:
            self._submit(self._store)
        self._timer = None
        self._set_timer()

    def _set_timer(self) -> None:
        """Look again at the next deadline, and often enough to notice that this process has slept."""
        now_ms = self.context.clock.monotonic_ms()
        deadlines = [now_ms + TICK_MS_MAX, self._sessions.next_deadline_ms(), self._watches.next_deadline_ms()]
        if self._lease.is_held:
            deadlines.append(self._lease.deadline_ms)
        due_ms = max(now_ms + 1, min(deadline for deadline in deadlines if deadline is not None))
        if self._timer is not None:
            if self._timer_due_ms <= due_ms:
                return
            self._timer.cancel()
        self._timer, self._timer_due_ms = self.set_timer(due_ms - now_ms, Tick()), due_ms

    # -- looking inside --------------------------------------------------------------------------------

    def _inspect(self, inbound: Inbound, request: m.Request) -> None:
        if self._inspection is None:
            self._refuse(inbound, ErrorCode.UNKNOWN_ADDRESS, "nobody looks inside here")
        else:
            self._inspection.answer(request, lambda reply: self._reply(inbound, reply))

    # -- replies ---------------------------------------------------------------------------------------

    def _is_overloaded(self, inbound: Inbound) -> bool:
        if len(self._waiting) < WAITING_MAX:
            return False
        self._refuse(inbound, ErrorCode.OVERLOADED, "the metadata store is behind with its writes")
        return True

    def _session_reply(self) -> m.SessionReply:
        return m.SessionReply(
            version=self._changes.version, store_incarnation=self._store_incarnation, cluster_id=self._cluster_id
        )

    def _refuse(self, inbound: Inbound, error: int, detail: str) -> None:
        self._reply(inbound, m.ErrorReply(error=error, detail=detail))

    def _reply(self, inbound: Inbound, reply: m.Reply) -> None:
        self._send(inbound.peer, inbound.message.id, reply)

    def _send(self, peer: bytes, request_id: int, reply: m.Reply) -> None:
        if self._server is not None:
            self._server.reply(peer, msgspec.structs.replace(reply, id=request_id))
