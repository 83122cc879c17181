"""A broker's line to the metadata process: its session, its picture of the cluster, its commits.

One actor a broker. It keeps the connection, opens the session and keeps it with heartbeats, watches, and
publishes each picture to whoever subscribed. Rules of this file:

1. **Away is not over.** While the metadata process cannot be reached the last picture stays published and
   everybody serves on with it. Back again, the same incarnation opens its session again by itself.
2. **Over is over.** When the store says that the session has ended (STALE_BROKER_EPOCH), what this life was
   entrusted with is being given to others. ``SessionLost`` is published, and a session of a *new* incarnation is
   opened: by that, everything that was led under the old one must be elected anew. If the name has a newer life
   already, that one is not displaced.
3. **A picture never goes back** in version, a gap brings a whole snapshot (B29).
4. **Every question gets one answer**: the store's word, a refusal, or ``Unknown``: it may have happened. Nothing
   is decided from a picture; the store compares (B28).
5. **Behind is heard.** The answer to a watch may be lost on a connection that lives. The store's version comes with
   each heartbeat's answer; who asked it *after* the watch and hears of a newer version has lost that answer (messages
   of a connection keep their order), and watches anew at once.
6. Producer ids come in blocks (``producer_ids.py``).

Callbacks and subscribers run on the loop; a callable subscriber must not raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...config import BrokerSettings
from ...errors import BrokerResponseError, CallboardError, ErrorCode
from ...transport import messages as m
from ...transport.loop import Timer
from ...transport.seam import Connection, ConnectionState, ConnectOptions
from ..controller.image import ClusterImage
from ..log import code_text, event
from ..runtime import Context, LoopActor, LoopRef
from .producer_ids import PRODUCER_IDS_BLOCK, ProducerIds
from .sessions import later_life

logger = logging.getLogger(__name__)

Subscriber = LoopRef | Callable[[Any], Any]

# Quick to come back: the session's timeout runs meanwhile.
CONNECT = ConnectOptions(attempt_timeout_ms=1_000, backoff_min_ms=20, backoff_max_ms=200)
WATCH_WAIT_MS = 30_000
WATCH_TIMEOUT_MS = WATCH_WAIT_MS + 5_000
ASK_TIMEOUT_MS = 5_000  # commits, sessions, lease: after that the outcome is unknown
FAREWELL_MS = 1_000  # how long a stop waits for the end of the session to be stored
RETRY_MS = 100  # of a watch that was refused
OPEN_RETRY_MS = 500  # of a session that was refused for now (its name is alive on another machine, …)
ANOTHERS_RETRY_MS = 1_000  # where another cluster answered


# -- told to subscribers ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """The picture now. ``keys``: the documents that changed since the last one; None: look at everything."""

    image: ClusterImage
    keys: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The session of this incarnation is stored: from now on the broker can be chosen for something."""

    name: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class PictureConfirmed:
    """The session of this incarnation stood at that time, and no picture was newer than the last one published."""

    incarnation: str
    at_ms: int  # monotonic: when it was asked


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The store has ended this incarnation's session, or will not open it."""

    name: str
    incarnation: str
    error: int
    detail: str


# -- the answers to what it is asked ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    """On disk, as ``version``."""

    version: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease is the asker's, or still is."""

    controller_epoch: int


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not happen. ``holder``, ``controller_epoch``: of a lease question, as they are now."""

    error: int
    detail: str = ""
    holder: str = ""
    controller_epoch: int = -1


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer: it may have happened."""

    detail: str


CommitOutcome = Committed | Refused | Unknown
LeaseOutcome = Granted | Refused | Unknown


# -- what it can be asked -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Tell ``subscriber`` of every change from now on; at once of the present picture, if there is one.

    ``with_sessions``: of SessionOpened and SessionLost too; ``with_confirmations``: and of PictureConfirmed.
    """

    subscriber: Subscriber
    with_sessions: bool = False
    with_confirmations: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """Write documents, in the name of the controller of that epoch."""

    puts: Sequence[m.Put]
    controller_epoch: int
    reply: Callable[[CommitOutcome], Any]


@dataclass(frozen=True, slots=True)
class Campaign:
    """Ask for the controller lease, in the name of this session."""

    reply: Callable[[LeaseOutcome], Any]


@dataclass(frozen=True, slots=True)
class Renew:
    controller_epoch: int
    reply: Callable[[LeaseOutcome], Any]


@dataclass(frozen=True, slots=True)
class Resign:
    controller_epoch: int


@dataclass(frozen=True, slots=True)
class NewProducerId:
    """Hand out a producer id: ``reply`` gets an InitProducerIdReply, with an error when there is none to be had."""

    reply: Callable[[m.InitProducerIdReply], Any]


@dataclass(frozen=True, slots=True)
class Reopen:
    """Have a session of this incarnation, saying this of itself (None: as before).

    After a loss the incarnation is chosen here (rule 2): then only the document counts.
    """

    incarnation: str
    document: Mapping[str, Any] | None = None


# -- told to itself -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _StateChanged:
    state: ConnectionState


@dataclass(frozen=True, slots=True)
class _Answered:
    """``attempt``: of the session it was asked in; an answer from before a Reopen is void."""

    handler: Callable[[Any], None]
    answer: m.Reply | CallboardError
    attempt: int


@dataclass(frozen=True, slots=True)
class _HeartbeatDue:
    pass


@dataclass(frozen=True, slots=True)
class _OpenDue:
    pass


@dataclass(frozen=True, slots=True)
class _WatchDue:
    pass


@dataclass(frozen=True, slots=True)
class _ConnectDue:
    pass


@dataclass(frozen=True, slots=True)
class _FarewellOver:
    pass


class MetadataClient(LoopActor):
    """See the top of the file."""

    handlers: ClassVar[Mapping[type, str]] = {
        Subscribe: "on_subscribe",
        Commit: "on_commit",
        Campaign: "on_campaign",
        Renew: "on_renew",
        Resign: "on_resign",
        NewProducerId: "on_new_producer_id",
        Reopen: "on_reopen",
        _StateChanged: "on_state_changed",
        _Answered: "on_answered",
        _HeartbeatDue: "on_heartbeat_due",
        _OpenDue: "on_open_due",
        _WatchDue: "on_watch_due",
        _ConnectDue: "on_connect_due",
        _FarewellOver: "on_farewell_over",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None = None,
        *,
        endpoint: str,
        session_name: str,
        incarnation: str,
        document: Mapping[str, Any] | None,
        settings: BrokerSettings,
        cluster_id: str = "",
        subscribers: Sequence[Subscriber] = (),
    ) -> None:
        """Keep a session called ``session_name``.

        Args:
            document: what others see of it: kind, broker_id, endpoints, peer_endpoints, machine, host. None:
                only the picture is kept; the session is opened when ``Reopen`` brings it.
            cluster_id: whoever answers for another one is not listened to ("": whichever).
            subscribers: told everything; others come and go by ``Subscribe``.
        """
        super().__init__(context, address, parent)
        self.image = ClusterImage.empty()  # version only grows within a store
        self._endpoint = endpoint
        self._name, self._incarnation, self._document = session_name, incarnation, document
        self._settings, self._cluster_id = settings, cluster_id
        self._subscriptions = [Subscribe(one, with_sessions=True) for one in subscribers]
        self._connection: Connection | None = None
        self._attempt = 0  # grows with each loss of the connection and each Reopen
        self._is_open = False  # the store has said so, on this connection
        self._lost: list[str] = []  # incarnations of this process whose sessions have ended
        self._heartbeat_timer: Timer | None = None
        self._watch_under_way = 0  # its number; 0: none
        self._watches = 0  # asked so far
        self._producer_ids = ProducerIds()

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self._connection = self.context.transport.connect(
            self._endpoint,
            client_id=self._name,
            on_state=lambda state: self.tell_self(_StateChanged(state)),
            options=CONNECT,
        )

    def on_stop_request(self) -> None:
        """Say farewell, so that nobody has to wait for the silence; not for long, if nobody answers."""
        if not self._is_open:
            self.finish()
            return
        self._is_open = False
        farewell = m.EndSessionRequest(name=self._name, incarnation=self._incarnation, reason="stopped")
        self._ask_for(farewell, lambda _: self.finish())
        self.set_timer(FAREWELL_MS, _FarewellOver())

    def on_farewell_over(self, _: _FarewellOver) -> None:
        self.finish()

    def on_stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._producer_ids.refuse(ErrorCode.BROKER_NOT_AVAILABLE, "the broker is stopping")

    def on_failure(self, *_: Any) -> None:
        # No farewell: whoever is started in its place keeps the session.
        if self._connection is not None:
            self._connection.close()
        self._producer_ids.refuse(ErrorCode.STORE_UNAVAILABLE, "the metadata client is being restarted")

    # -- the session -----------------------------------------------------------------------------------

    def on_state_changed(self, changed: _StateChanged) -> None:
        state = changed.state
        if state.is_ready:
            event(logger, "metadata.connected", endpoint=state.endpoint)
            if self._is_another_clusters():
                self._turn_away()
            else:
                self._begin_again()
            return
        if self._is_open:
            event(logger, "metadata.away", logging.WARNING, endpoint=state.endpoint, detail=state.detail)
        self._forget_what_was_asked()
        self._producer_ids.refuse(ErrorCode.STORE_UNAVAILABLE, "the metadata process is away")

    def _is_another_clusters(self) -> bool:
        hello = self._connection.hello if self._connection is not None else None
        return bool(hello and self._cluster_id and hello.cluster_id != self._cluster_id)

    def _turn_away(self) -> None:
        """Whoever answers there now is another cluster's: look again later, and do nothing that it says."""
        if self._connection is not None and self._connection.hello is not None:
            found = self._connection.hello.cluster_id
            event(logger, "metadata.other_cluster", logging.ERROR, endpoint=self._endpoint, found=found)
            self._connection.close()
            self._connection = None
        self.set_timer(ANOTHERS_RETRY_MS, _ConnectDue())

    def on_connect_due(self, _: _ConnectDue) -> None:
        self._connect()

    def on_reopen(self, reopen: Reopen) -> None:
        if not self._lost:
            self._incarnation = reopen.incarnation
        if reopen.document is not None:
            self._document = reopen.document
        self._begin_again()

    def _begin_again(self) -> None:
        self._forget_what_was_asked()
        self.on_open_due(_OpenDue())
        self._watch()
        if self._producer_ids.is_anybody_waiting:
            self._ask_for_block()

    def _forget_what_was_asked(self) -> None:
        self._attempt += 1
        self._is_open = self._producer_ids.is_asking = False
        self._watch_under_way = 0

    def on_open_due(self, _: _OpenDue) -> None:
        if self._is_open or self._document is None or self._connection is None or not self._connection.is_ready:
            return
        request = m.OpenSessionRequest(
            name=self._name,
            incarnation=self._incarnation,
            timeout_ms=self._settings.session_timeout_ms,
            document=dict(self._document),
            if_vacant=bool(self._lost),
        )
        self._ask(request, self._on_opened)

    def _on_opened(self, answer: m.Reply | CallboardError) -> None:
        if isinstance(answer, m.SessionReply) and not answer.error:
            self._is_open = True
            event(logger, "session.opened", name=self._name, incarnation=self._incarnation)
            self._publish(SessionOpened(self._name, self._incarnation))
            self._schedule_heartbeat()
        elif isinstance(answer, m.Reply) and answer.error in _SESSION_IS_OVER:
            self._lose(answer)
        else:
            event(logger, "session.refused", logging.WARNING, name=self._name, detail=_said(answer))
            self.set_timer(OPEN_RETRY_MS, _OpenDue())

    def _schedule_heartbeat(self) -> None:
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
        self._heartbeat_timer = self.set_timer(self._settings.heartbeat_ms, _HeartbeatDue())

    def on_heartbeat_due(self, _: _HeartbeatDue) -> None:
        if not self._is_open:
            return
        # Not waited for: a slow answer must not slow the next heartbeat down.
        watch, request = self._watch_under_way, m.HeartbeatRequest(name=self._name, incarnation=self._incarnation)
        sent_ms = self.context.clock.monotonic_ms()
        self._ask(request, lambda answer: self._on_heartbeat_answered(answer, watch, sent_ms))
        self._schedule_heartbeat()

    def _on_heartbeat_answered(self, answer: m.Reply | CallboardError, watch: int, sent_ms: int) -> None:
        """``watch``: the one that was under way when the heartbeat was sent."""
        if isinstance(answer, m.Reply) and answer.error in _SESSION_IS_OVER and self._is_open:
            self._lose(answer)
            return
        ours, theirs = self.image.version, answer.version if isinstance(answer, m.SessionReply) else 0
        if self._is_open and isinstance(answer, m.SessionReply) and not answer.error and theirs == ours:
            confirmed = PictureConfirmed(self._incarnation, sent_ms)
            for one in self._subscriptions:
                if one.with_confirmations:
                    _tell(one.subscriber, confirmed)
        if theirs > ours and watch and watch == self._watch_under_way:  # rule 5
            event(logger, "metadata.watch_lost", logging.WARNING, ours=ours, theirs=theirs)
            self._watch_under_way = 0
            self._watch()

    def _lose(self, answer: m.Reply) -> None:
        self._is_open = False
        of = {"name": self._name, "incarnation": self._incarnation}
        event(logger, "session.lost", logging.WARNING, **of, error=code_text(answer.error))
        self._lost.append(self._incarnation)
        self._publish(SessionLost(self._name, self._incarnation, answer.error, answer.detail))
        self._incarnation = later_life(self._lost[0], len(self._lost))
        self._begin_again()

    # -- the picture -----------------------------------------------------------------------------------

    def on_watch_due(self, _: _WatchDue) -> None:
        self._watch()

    def _watch(self) -> None:
        if self._watch_under_way or self._connection is None or not self._connection.is_ready:
            return
        self._watches += 1
        number = self._watch_under_way = self._watches
        request = m.StoreWatchRequest(
            store_incarnation=self.image.store_incarnation, after_version=self.image.version, max_wait_ms=WATCH_WAIT_MS
        )
        self._ask(request, lambda answer: self._on_watched(answer, number), timeout_ms=WATCH_TIMEOUT_MS)

    def _on_watched(self, answer: m.Reply | CallboardError, number: int) -> None:
        if number != self._watch_under_way:
            return  # of one that was believed lost: another one is under way
        self._watch_under_way = 0
        if isinstance(answer, m.StoreDeltaReply) and not answer.error:
            if answer.version > self.image.version:
                self._show(
                    self.image.with_changes(answer.version, answer.documents),
                    frozenset(document.key for document in answer.documents),
                )
            self._watch()
        elif isinstance(answer, m.StoreSnapshotReply) and not answer.error:
            image = ClusterImage.of(answer.version, answer.documents, answer.store_incarnation)
            if image.version >= self.image.version:
                self._show(image, None)
                self._watch()
            else:  # another store, or an old copy of it: to go back would undo what was promised
                event(logger, "metadata.went_back", logging.ERROR, ours=self.image.version, theirs=image.version)
                self.set_timer(WATCH_WAIT_MS, _WatchDue())
        else:
            self.set_timer(RETRY_MS, _WatchDue())

    def _show(self, image: ClusterImage, keys: frozenset[str] | None) -> None:
        self.image = image
        self._publish(MetadataChanged(image, keys))

    def on_subscribe(self, subscribe: Subscribe) -> None:
        if subscribe not in self._subscriptions:
            self._subscriptions.append(subscribe)
        if self._is_open and subscribe.with_sessions:  # first: what a picture says of this broker depends on who it is
            _tell(subscribe.subscriber, SessionOpened(self._name, self._incarnation))
        if self.image.version:
            _tell(subscribe.subscriber, MetadataChanged(self.image, None))

    def _publish(self, news: MetadataChanged | SessionOpened | SessionLost) -> None:
        is_picture = isinstance(news, MetadataChanged)
        self._subscriptions = [
            one
            for one in self._subscriptions
            if (not is_picture and not one.with_sessions) or _tell(one.subscriber, news)
        ]

    # -- commits and the lease ---------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        request = m.StoreCommitRequest(controller_epoch=commit.controller_epoch, puts=list(commit.puts))
        self._ask_for(request, lambda answer: commit.reply(_commit_outcome(answer)))

    def on_campaign(self, campaign: Campaign) -> None:
        ttl_ms = self._settings.lease_ttl_ms
        request = m.CampaignRequest(name=self._name, incarnation=self._incarnation, ttl_ms=ttl_ms)
        self._ask_for(request, lambda answer: campaign.reply(_lease_outcome(answer)))

    def on_renew(self, renew: Renew) -> None:
        request = m.RenewRequest(name=self._name, controller_epoch=renew.controller_epoch)
        self._ask_for(request, lambda answer: renew.reply(_lease_outcome(answer)))

    def on_resign(self, resign: Resign) -> None:
        request = m.ResignRequest(name=self._name, controller_epoch=resign.controller_epoch)
        self._ask_for(request, lambda _: None)

    # -- producer ids ------------------------------------------------------------------------------------

    def on_new_producer_id(self, wanted: NewProducerId) -> None:
        ids = self._producer_ids
        ids.on_wanted(wanted.reply)
        self._ask_for_block()
        if ids.is_anybody_waiting and (self._connection is None or not self._connection.is_ready):
            ids.refuse(ErrorCode.STORE_UNAVAILABLE, "no producer ids are left and the metadata process is away")

    def _ask_for_block(self) -> None:
        if not self._producer_ids.needs_block or self._connection is None or not self._connection.is_ready:
            return
        self._producer_ids.is_asking = True
        self._ask(m.AllocateProducerIdsRequest(count=PRODUCER_IDS_BLOCK), self._on_block)

    def _on_block(self, answer: m.Reply | CallboardError) -> None:
        self._producer_ids.is_asking = False
        if isinstance(answer, m.AllocateProducerIdsReply) and not answer.error:
            self._producer_ids.on_block(answer.first, answer.count)
            self._ask_for_block()
        else:
            self._producer_ids.refuse(ErrorCode.STORE_UNAVAILABLE, f"no producer ids: {_said(answer)}")

    # -- asking ------------------------------------------------------------------------------------------

    def on_answered(self, answered: _Answered) -> None:
        if answered.attempt == self._attempt:
            answered.handler(answered.answer)

    def _ask(self, request: m.Request, handler: Callable[[Any], None], *, timeout_ms: int = ASK_TIMEOUT_MS) -> None:
        """Ask something of this session's: void when the connection is lost, or the session reopened, meanwhile."""
        if self._connection is None:
            return
        attempt = self._attempt
        self._connection.request(
            request, lambda answer, _: self.tell_self(_Answered(handler, answer, attempt)), timeout_ms=timeout_ms
        )

    def _ask_for(self, request: m.Request, reply: Callable[[m.Reply | CallboardError], Any]) -> None:
        """Ask something in somebody's name: answered once, whatever happens to the connection."""
        if self._connection is None or not self._connection.is_ready:
            reply(m.ErrorReply(error=ErrorCode.BROKER_NOT_AVAILABLE, detail="the metadata process is away"))
            return
        self._connection.request(request, lambda answer, _: reply(answer), timeout_ms=ASK_TIMEOUT_MS)


_SESSION_IS_OVER = frozenset({ErrorCode.STALE_BROKER_EPOCH})


def _tell(subscriber: LoopRef | Callable[[Any], Any], news: Any) -> bool:
    """Tell a subscriber. False: it is an actor that has ended."""
    if isinstance(subscriber, LoopRef):
        return subscriber.post(news)
    subscriber(news)
    return True


def _commit_outcome(answer: m.Reply | CallboardError) -> CommitOutcome:
    if isinstance(answer, m.StoreCommitReply) and not answer.error:
        return Committed(answer.version)
    return _not_done(answer)


def _lease_outcome(answer: m.Reply | CallboardError) -> LeaseOutcome:
    if isinstance(answer, m.LeaseReply):
        if not answer.error:
            return Granted(answer.controller_epoch)
        return Refused(answer.error, answer.detail, answer.holder, answer.controller_epoch)
    return _not_done(answer)


def _not_done(answer: m.Reply | CallboardError) -> Refused | Unknown:
    if isinstance(answer, BrokerResponseError):  # the connection itself refused: a frame too large
        return Refused(answer.errno, _said(answer))
    if isinstance(answer, CallboardError):
        return Unknown(_said(answer)) if answer.outcome_unknown else Refused(ErrorCode.STORE_UNAVAILABLE, _said(answer))
    if answer.error in (ErrorCode.REQUEST_TIMED_OUT, ErrorCode.STORE_UNAVAILABLE, ErrorCode.INTERNAL):
        return Unknown(_said(answer))
    return Refused(answer.error, answer.detail)


def _said(answer: m.Reply | CallboardError) -> str:
    return str(answer) if isinstance(answer, CallboardError) else f"{answer.detail or 'refused'} [code {answer.error}]"
