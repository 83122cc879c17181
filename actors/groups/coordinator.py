"""The coordinator of the groups of one partition of ``__consumer_offsets``: beside its leader, in one leader epoch.

It decides nothing: requests, time and topics go to the rules (``Coordinating``), and what they answer is carried out.
What they want remembered is appended to the partition as anybody's records are, by telling the replica's actor.
Rules of this file:

1. **Load, then serve.** Marker, acknowledged; read up to it; serve (``loading.py``). Until then requests are refused
   as COORDINATOR_LOAD_IN_PROGRESS; heartbeats not at once: mostly it is over within ``EARLY_MS``, and who was refused
   would come back later than that.
2. **One question at a time** is under way at the replica: the marker, a fetch, or a batch (``journal.py``). Tickets are
   numbered through all coordinators that this process ever has: an answer to an earlier one finds nobody.
3. **What does not surely survive is forgotten.** An append that is refused, or not answered for ``ASK_MS``: the rules'
   whole state is thrown away, with whatever was decided since, and loaded again. Nobody was told of it: replies that
   reveal a decision wait in the rules until its batch is acknowledged.
   If it was nothing but a marker (rule 4), and is surely not there, only those who waited for it are refused.
4. **Fenced by the leader epoch.** Every question carries it. A coordinator whose broker was deposed can append nothing,
   so it acknowledges nothing; what it says without an append waits for a proof that it leads (``proof.py``). Who hosts
   it stops it when the picture says so, and starts one for each new epoch.
5. A turn of the mailbox is one batch, and one message to each door.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ...config import BrokerSettings
from ...errors import ErrorCode, InvariantViolated
from ...model import OFFSETS_TOPIC, LeaderEpoch, TopicPartition
from ...storage.batch import encode_batch
from ...transport import messages as m
from ...transport.group_messages import GroupHeartbeatRequest
from ...transport.loop import Timer
from ..log import event
from ..partition.events import Answers, Fetch, Produce, Ticket
from ..partition.retention import RetentionClock
from ..runtime import Context, LoopActor, LoopRef
from .asking import Ask, CoordinatorBegan, CoordinatorGone, GroupAnswers, GroupTicket, TopicsTold
from .coordinating import Coordinating
from .events import Effect, GroupSettings, Notice, Record, Write
from .journal import Journal
from .leaders import Leaders
from .loading import Loading
from .proof import Proofs
from .records import marker

logger = logging.getLogger(__name__)

ASK_MS = 10_000  # for one question to the replica; longer than a follower may lag before the set goes on without it
RETRY_MS = 10  # between attempts to load, at least …
RETRY_SHARE = 4  # … and this part of what has been waited: what passes is noticed late by no more …
RETRY_MS_MAX = 1_000  # … at most
EARLY_MS = 100  # that a heartbeat waits for the end of loading, at most …
EARLY_SHARE = 10  # … and this part of the shortest session: less than any member waits for an answer
EARLY_MAX = 1_000  # heartbeats that do
READ_BYTES = 64 * 1024  # of one fetch: what is replayed in one turn, some milliseconds
DOORS = ("router", "peers")

_MOVED = frozenset(
    {ErrorCode.NOT_LEADER_FOR_PARTITION, ErrorCode.FENCED_LEADER_EPOCH, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
)

_NOT_WRITTEN = frozenset({ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.STORAGE_FULL})


@dataclass(frozen=True, slots=True)
class _LoadDue:
    """Time to try to load again."""


@dataclass(frozen=True, slots=True)
class _AskOverdue:
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class _EarlyOverdue:
    """Who has come before this coordinator serves has waited enough."""


@dataclass(frozen=True, slots=True)
class _RulesDue:
    """Something in the rules waits for this time, or did when the timer was set."""


class Coordinator(LoopActor):
    """See the top of the file."""

    role = "loading"
    handlers: ClassVar[Mapping[type, str]] = {
        Ask: "on_ask",
        Answers: "on_answers",
        TopicsTold: "on_topics_told",
        _LoadDue: "on_load_due",
        _AskOverdue: "on_ask_overdue",
        _EarlyOverdue: "on_early_overdue",
        _RulesDue: "on_rules_due",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        partition: int,
        leader_epoch: LeaderEpoch,
        broker_id: int,
        broker_address: str,
        settings: BrokerSettings,
        numbers: Iterator[int],
        retention_clock: RetentionClock,
        proofs: Proofs,
        leaders: Leaders,
    ) -> None:
        """``numbers``: of questions, through all coordinators of the process (rule 2). ``proofs`` and ``leaders`` are
        only read here."""
        super().__init__(context, address, parent)
        self.partition = partition
        self.leader_epoch = leader_epoch
        self._broker_address = broker_address
        self._replica_address = f"{broker_address}/partitions/{TopicPartition(OFFSETS_TOPIC, partition)}"
        self._settings = group_settings(settings, broker_id)
        self._numbers = numbers
        self._retention_clock = retention_clock
        self._proofs = proofs
        self._leaders = leaders
        self._door = address.removeprefix(f"{broker_address}/")  # where the replica's answers come to
        self._topics: TopicsTold | None = None
        self._rules = self._new_rules()  # of this load
        self._journal = Journal()  # likewise
        self._loading: Loading | None = None  # None: the marker is not acknowledged yet, or it is done
        self._is_serving = False
        self._early: list[Ask] = []  # heartbeats that came before it serves
        self._problem = ""  # why it does not load
        self._waits_since_ms = -1  # that it cannot load; -1: it can, as far as is known
        self._load_began_ms = 0
        self._asked: Ticket | None = None  # the question under way (rule 2)
        self._overdue: Timer | None = None  # of it
        self._due: Timer | None = None
        self._due_ms = 0  # when it rings; at or before what the rules wait for
        self._answers: dict[str, list[tuple[int, m.Reply]]] = {}  # of this turn, by door

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._tell_sibling("groups", CoordinatorBegan(self.actor_ref))
        self._load()

    def on_stop(self) -> None:
        self._perform(self._rules.give_up(ErrorCode.NOT_COORDINATOR, "another broker coordinates this group now"))
        self._send_answers()
        self._tell_doors(CoordinatorGone(self.partition))

    def on_failure(self, *_: Any) -> None:
        self._tell_doors(CoordinatorGone(self.partition))

    def describe(self) -> m.ActorDescription:
        """Say in the tree how many groups it has."""
        role = f"loading: {self._problem}" if self._problem else "loading"
        if self._is_serving:
            count = self._rules.group_count
            role = f"{count:,} group" if count == 1 else f"{count:,} groups"
        return msgspec.structs.replace(super().describe(), role=role)

    # -- loading -------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Begin anew, with the marker (rule 1)."""
        self._rules, self._journal, self._loading = self._new_rules(), Journal(), None
        self._is_serving, self._load_began_ms = False, self._now_ms()
        if self._topics is not None:
            self.on_topics_told(self._topics)
        self._append([marker(self.leader_epoch)])

    def on_load_due(self, _: _LoadDue) -> None:
        self._load()

    def _load_later(self, problem: str) -> None:
        if problem != self._problem:
            event(logger, "coordinator.waits", partition=self.partition, epoch=self.leader_epoch, why=problem)
        self._problem = problem
        if self._waits_since_ms < 0:
            self._waits_since_ms = self._now_ms()
        waited_ms = self._now_ms() - self._waits_since_ms
        self.set_timer(min(RETRY_MS_MAX, max(RETRY_MS, waited_ms // RETRY_SHARE)), _LoadDue())

    def _on_marker(self, reply: m.ProduceEntryReply) -> None:
        self._loading = Loading(reply.log_start_offset, reply.base_offset)
        self._read_on(self._loading)

    def _on_read(self, loading: Loading, frames: Iterable[bytes]) -> None:
        before = loading.next_offset
        for key, value in loading.on_read(list(frames)):
            self._rules.replay(key, value)
        if loading.next_offset == before:
            raise InvariantViolated(f"{self.address}: nothing at {before}, below the high watermark")
        self._read_on(loading)

    def _read_on(self, loading: Loading) -> None:
        if loading.is_complete:
            self._serve(loading)
            return
        ticket = self._next_ticket()
        fetch = Fetch(ticket, self.leader_epoch, fetch_offset=loading.next_offset, max_bytes=READ_BYTES)
        self._ask(ticket, fetch)

    def _serve(self, loading: Loading) -> None:
        now_ms = self._now_ms()
        self._loading, self._is_serving, self._problem, self._waits_since_ms = None, True, "", -1
        self._rules.on_proven(self._load_began_ms)  # by the marker
        self._perform(self._rules.loaded(now_ms, self.context.clock.wall_ms()))
        self._answer_early()
        event(
            logger,
            "coordinator.serves",
            partition=self.partition,
            epoch=self.leader_epoch,
            groups=self._rules.group_count,
            records=loading.records,
            ms=now_ms - self._load_began_ms,
        )

    # -- requests, topics, time ----------------------------------------------------------------------

    def on_ask(self, ask: Ask) -> None:
        is_heartbeat = isinstance(ask.request, GroupHeartbeatRequest)
        if is_heartbeat and not self._is_serving and len(self._early) < EARLY_MAX:
            if not self._early:
                shortest_ms = self._settings.group_session_timeout_ms_min
                self.set_timer(min(EARLY_MS, shortest_ms // EARLY_SHARE), _EarlyOverdue())
            self._early.append(ask)
        else:
            self._answer(ask)

    def on_early_overdue(self, _: _EarlyOverdue) -> None:
        self._answer_early()

    def _answer_early(self) -> None:
        """Who has waited is served, or refused."""
        early, self._early = self._early, []
        for ask in early:
            self._answer(ask)

    def _answer(self, ask: Ask) -> None:
        self._rules.on_proven(self._proofs.proven_ms(self.partition, self.leader_epoch))
        self._perform(self._rules.on_request(ask.request, ask.caller, self._now_ms(), self.context.clock.wall_ms()))

    def on_topics_told(self, told: TopicsTold) -> None:
        self._topics = told
        now_ms, wall_ms = self._now_ms(), self.context.clock.wall_ms()
        self._perform(self._rules.on_topics(told.topics, now_ms, wall_ms, told.deleted, told.version))

    def on_rules_due(self, _: _RulesDue) -> None:
        self._due = None
        due_ms, now_ms = self._rules.next_due_ms, self._now_ms()
        if self._is_serving and due_ms is not None and due_ms <= now_ms:
            # offsets do not expire because the wall clock jumps
            trusted_ms = self._retention_clock.now(self.context.clock.wall_ms(), now_ms)
            self._rules.on_proven(self._proofs.proven_ms(self.partition, self.leader_epoch))
            self._perform(self._rules.on_due(now_ms, trusted_ms))

    # -- the replica ---------------------------------------------------------------------------------

    def on_answers(self, answers: Answers) -> None:
        for answer in answers.answers:
            if answer.ticket != self._asked:
                continue  # to a question that was given up, or of an earlier coordinator
            self._asked = None
            if self._overdue is not None:
                self._overdue.cancel()
            reply: Any = answer.reply
            if reply.error:
                self._refused(ErrorCode(reply.error), reply.detail)
            elif self._is_serving:
                self._perform(self._rules.on_written(self._journal.on_survived(), self._now_ms()))
            elif self._loading is not None:
                self._on_read(self._loading, answer.frames)
            else:
                self._on_marker(reply)

    def on_ask_overdue(self, overdue: _AskOverdue) -> None:
        if overdue.ticket == self._asked:
            self._asked = None
            self._refused(ErrorCode.REQUEST_TIMED_OUT, f"the partition's leader has not answered for {ASK_MS} ms")

    def _refused(self, error: ErrorCode, detail: str) -> None:
        """Nothing was written, or nobody knows: throw away what was decided, and load again (rule 3)."""
        problem = f"{error.name}: {detail}" if detail else error.name
        if self._is_serving and error in _NOT_WRITTEN:
            told = self._rules.on_unproven(f"it cannot be shown that these groups are coordinated here: {problem}")
            if told is not None:
                self._journal.on_survived()
                self._perform(told)
                return
        if self._is_serving:
            event(
                logger,
                "coordinator.gives_up",
                logging.WARNING,
                partition=self.partition,
                epoch=self.leader_epoch,
                why=problem,
            )
            code = ErrorCode.NOT_COORDINATOR if error in _MOVED else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            self._perform(self._rules.give_up(code, f"what was decided could not be stored: {problem}"))
            self._rules, self._is_serving = self._new_rules(), False  # refuses until it is loaded
        self._load_later(problem)

    def _append(self, records: list[Record]) -> None:
        keys, values = [key for key, _ in records], [value for _, value in records]
        frames = encode_batch(keys, values, self.context.clock.wall_ms())
        ticket = self._next_ticket()
        self._ask(ticket, Produce(ticket, self.leader_epoch, m.ACKS_ALL, frames))

    def _ask(self, ticket: Ticket, question: Produce | Fetch) -> None:
        replica = self.context.directory.find(self._replica_address)
        if replica is None or not replica.post(question):
            self._refused(ErrorCode.LEADER_NOT_AVAILABLE, "the partition's actor is being restarted")
            return
        self._asked = ticket
        self._overdue = self.set_timer(ASK_MS, _AskOverdue(ticket))

    def _next_ticket(self) -> Ticket:
        return Ticket(next(self._numbers), 0, self._door)

    # -- the end of a turn ---------------------------------------------------------------------------

    def on_drained(self) -> None:
        if self._is_serving:
            if self._asked is None and (records := self._journal.next_batch()):
                self._rules.on_sent(self._journal.under_way, self._now_ms())
                self._append(records)
            self._set_due()
        self._send_answers()

    def _set_due(self) -> None:
        """Have a timer that rings when the rules wait for it. One that rings too early just sets the next."""
        due_ms = self._rules.next_due_ms
        if due_ms is None or (self._due is not None and self._due_ms <= due_ms):
            return
        if self._due is not None:
            self._due.cancel()
        self._due_ms = due_ms
        self._due = self.set_timer(max(0, due_ms - self._now_ms()), _RulesDue())

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                self._journal.add(effect)
            elif isinstance(effect, Notice):
                event(logger, effect.name, logging.WARNING, **effect.values)
            elif isinstance(effect.ticket, GroupTicket):
                self._answers.setdefault(effect.ticket.door, []).append((effect.ticket.number, effect.reply))

    def _send_answers(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, {}
            for door, some in answers.items():
                self._tell_sibling(door, GroupAnswers(some))

    # -- inside --------------------------------------------------------------------------------------

    def _new_rules(self) -> Coordinating:
        return Coordinating(self._settings, self._leaders.leader_epoch_of)

    def _now_ms(self) -> int:
        return self.context.clock.monotonic_ms()

    def _tell_doors(self, message: Any) -> None:
        for door in DOORS:
            self._tell_sibling(door, message)

    def _tell_sibling(self, name: str, message: Any) -> bool:
        sibling = self.context.directory.find(f"{self._broker_address}/{name}")
        return sibling is not None and sibling.post(message)


def group_settings(settings: BrokerSettings, broker_id: int) -> GroupSettings:
    """Return the settings of a broker that concern groups: they bear the same names."""
    names = [name for name in GroupSettings.__struct_fields__ if name != "broker_id"]
    return GroupSettings(broker_id=broker_id, **{name: getattr(settings, name) for name in names})
