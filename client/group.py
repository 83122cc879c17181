"""The I/O side of a consumer with a group: performs what a ``Member`` and its ``Commits`` decide.

Everything here runs on the I/O thread, so a member lives as long as its process does, however seldom the application
polls. What the application must do (take partitions, give them back) is told it as a ``Change``; it performs it in
``poll`` and reports here. A member that is quiet wakes the thread once a heartbeat interval, when its heartbeat is
answered.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from ..errors import CallboardError, ConnectionLostError, IllegalStateError, MembershipLostError
from ..model import OffsetAndMetadata, TopicPartition
from ..transport.group_messages import (
    NO_MEMBER,
    CoordinatorsReply,
    FindCoordinatorsRequest,
    GroupHeartbeatReply,
    OffsetCommitEntry,
    OffsetCommitReply,
    OffsetCommitRequest,
)
from ..transport.loop import Clock, Loop, Timer
from ..transport.messages import EARLIEST_TIMESTAMP, Reply
from ..transport.seam import Connection
from .applicant import Applicant, Change, Granted
from .cluster import Cluster, error_of
from .commits import Commit, Commits, Ended, FindAgain, SendCommit
from .commits import Effect as CommitEffect
from .committed import CommittedQuestion, Found
from .config import ConsumerConfig
from .coordinator import Coordinator
from .evidence import Evidence
from .fetch_state import Credit
from .fetcher import Effect as FetchEffect
from .fetcher import Fetcher, TellError
from .io import Done
from .membership import (
    Assign,
    FindCoordinator,
    Lose,
    Member,
    MemberSettings,
    Phase,
    Revoke,
    SendHeartbeat,
)
from .membership import Effect as MemberEffect

ASK_MS = 2_000  # of one question who coordinates
COMMIT_MS = 5_000  # of one attempt to commit
BEGIN_MS = 60_000  # of one look-up of where to begin; then again


class GroupSide:
    """One consumer's group: its coordinator, its member, its commits. All methods on the I/O thread."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        cluster: Cluster,
        fetcher: Fetcher,
        config: ConsumerConfig,
        client_id: str,
        generations: itertools.count[int],
        put: Callable[[Granted], None],
        perform_fetching: Callable[[list[FetchEffect]], None],
        pump_fetching: Callable[[], None],
        applicant: Applicant,
        *,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self.loop, self.clock, self.cluster = loop, clock, cluster
        self.group_id = config.group_id or ""
        self.coordinator = Coordinator()
        new_id = new_id or (lambda: f"{client_id[:100]}-{secrets.token_hex(12)}")
        self.evidence = Evidence(fetcher, applicant)
        self.member = Member(_member_settings(config), new_id, self.evidence.stalled)
        self.commits = Commits()
        self.begun: dict[TopicPartition, int] = {}  # where each partition began; for explain
        self._committer = f"{client_id[:100]}-{secrets.token_hex(12)}"  # of partitions that are assigned by hand
        self._config, self._fetcher = config, fetcher
        self._generations = generations
        self._put, self._perform_fetching, self._pump_fetching = put, perform_fetching, pump_fetching
        self._applicant = applicant
        self._questions: list[CommittedQuestion] = []
        self._enders: dict[int, Callable[[CallboardError | None], None]] = {}  # of commits, by their id()
        self._seen_partitions: dict[str, int] = {}  # subscribed topics, as they were when first seen
        self._step: object = None  # of the application's iteration, at the last look
        self._subscribed: tuple[str, ...] | None = None  # what the member will read; None: it knows
        self._pattern = ""  # that goes with it
        self._life = 0  # of the application that subscribed
        self._moved_from = -1  # the broker that coordinated last
        self._timer: Timer | None = None
        self._waiting_to_leave: Done[None] | None = None
        self._farewell = 0  # the number of the heartbeat that it waits for
        self._last: Commit | None = None  # in the farewell that is under way
        self._is_ended = False

    # -- what the consumer says --------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], pattern: str = "", life: int = 0) -> None:
        """Be a member that reads these topics, from the application's next poll on: before that it would own
        partitions that nobody reads. The coordinator is looked up already. ``pattern``: that the topics match."""
        self._subscribed, self._pattern, self._life = tuple(topics), pattern, life
        self.coordinator.want()
        self._join()
        self._pump()

    def _join(self) -> None:
        if self._subscribed is not None and self._applicant.has_come:
            self.member.on_subscribe(self._subscribed, self.clock.monotonic_ms(), self._pattern)
            self._subscribed = None

    def on_topics(self, topics: Iterable[str]) -> None:
        """The pattern that is subscribed means these topics now."""
        if self._subscribed is not None:
            self._subscribed = tuple(topics)
        elif tuple(topics) != self.member.topics:
            self.member.on_topics(topics)
            self._pump()

    def look(self) -> None:
        """The application has come: for the first time, or after it was away for too long."""
        self._join()
        self._pump()

    def on_performed(self, change: Change) -> None:
        """The application has performed it."""
        if change.kind == "revoked" and change.member_id == self.member.member_id:
            self._fetcher.on_unassign(change.partitions)
            self._perform(self.member.on_revoked(change.partitions))
        self._pump()

    def leave(self, done: Done[None], last: Commit | None = None) -> None:
        """Leave the group; ``done`` when that has been answered, or nobody answers.

        ``last`` is committed before, in the same request if it can be: its error is ``done``'s. If that one is refused,
        or there is something under way that must come before it, it is committed as ever, and the farewell follows.
        """
        member, self._subscribed, self._last = self.member, None, None
        self._fetcher.on_unassign(list(member.owned))
        if last is None:
            self._say_farewell(member.on_leave(self.clock.monotonic_ms()), done)
        elif (
            self.commits.is_idle
            and (member.phase, member.member_id) == (Phase.JOINED, last.member_id)
            and self.connection() is not None
        ):
            self._last = last
            self._say_farewell(member.on_leave(self.clock.monotonic_ms(), self._entries(last.offsets)), done)
        else:
            self._commit_and_leave(last, member.on_leave, done)

    def _commit_and_leave(self, last: Commit, leave: Callable[[int], list[MemberEffect]], done: Done[None]) -> None:
        def on_committed(_: None, error: BaseException | None) -> None:
            self._say_farewell(leave(self.clock.monotonic_ms()), lambda *_: done(None, error))
            if self.clock.monotonic_ms() >= last.until_ms:
                done(None, error)  # who leaves has no time to hear that it has left

        self._commit(last, on_committed)

    def _say_farewell(self, effects: list[MemberEffect], done: Done[None]) -> None:
        self._perform(effects)
        self._pump()
        sent = [effect.number for effect in effects if isinstance(effect, SendHeartbeat)]
        if sent and self.member.phase is Phase.LEAVING:
            self._waiting_to_leave, self._farewell = done, sent[0]
        else:  # it has left, or another farewell is under way
            done(None, None)

    def begin_at_committed(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Partitions assigned by hand, with their generations: begin where the group has committed."""
        keys = dict.fromkeys(wanted, "")
        self._ask_committed(keys, None, BEGIN_MS, partial(self._on_begin, dict(wanted), None))

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        member_id: str,
        member_epoch: int,
        is_waiting: bool,
        timeout_ms: int,
        done: Done[None],
    ) -> None:
        """Commit; ``done`` in the order of the calls."""
        until = self.clock.monotonic_ms() + timeout_ms
        self._commit(Commit(offsets, member_id, member_epoch, is_waiting=is_waiting, until_ms=until), done)

    def _commit(self, commit: Commit, done: Done[None]) -> None:
        refused = IllegalStateError("the consumer is closed") if self._is_ended else self.coordinator.fatal
        if refused is not None:
            done(None, refused)
            return
        self._enders[id(commit)] = lambda error: done(None, error)
        self.commits.on_commit(commit)
        self.coordinator.want()
        self._pump()

    def committed(self, keys: Iterable[TopicPartition], timeout_ms: int, done: Done[Found]) -> None:
        """Look committed offsets up."""
        self._ask_committed({key: self._topic_id(key) for key in keys}, None, timeout_ms, done)

    def shut_down(self) -> None:
        """Nobody will be asked any more."""
        self._is_ended = True
        if self._timer is not None:
            self._timer.cancel()
        for question in self._questions:
            question.cancel()
        self._questions = []
        self._perform_commits(self.commits.on_closed(IllegalStateError("the consumer was closed")))

    # -- what the cluster says ---------------------------------------------------------------------

    def on_metadata(self) -> None:
        self._step_questions()  # where the coordinator is may be known only now
        self._look_for_topics()
        self._pump()

    def _look_for_topics(self) -> None:
        """The coordinator knows of other topics than we do, and some may match the pattern."""
        if self.member.pattern and self.member.topics_version > self.cluster.metadata.version:
            self.cluster.refresh()

    def on_connected(self, broker_id: int) -> None:
        if broker_id == self.coordinator.broker_id:
            self._step_questions()
            self._pump()

    def on_disconnected(self, broker_id: int) -> None:
        if broker_id != self.coordinator.broker_id:
            return
        self.coordinator.doubt()
        error = ConnectionLostError(f"the connection to broker {broker_id}, the group's coordinator, ended")
        self._perform(self.member.on_coordinator_lost(error, self.clock.monotonic_ms()))
        self._pump()

    def connection(self) -> Connection | None:
        """Return the connection to the coordinator; None: not known yet, and being looked for."""
        broker_id = self.coordinator.broker_id
        if broker_id is None:
            return None
        connection = self.cluster.connection(broker_id)
        if connection is None:
            self.cluster.refresh()
        return connection

    def want_coordinator(self) -> None:
        self.coordinator.want()
        self._pump()

    def doubt_coordinator(self, error: CallboardError) -> None:
        """Whoever is known did not answer, or says that it is another one."""
        broker_id = self.coordinator.broker_id
        if broker_id is not None and isinstance(error, TimeoutError):
            self.cluster.doubt([broker_id])
        self.coordinator.doubt()
        self._pump()

    # -- performing --------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._is_ended:
            return
        now = self.clock.monotonic_ms()
        self._look_at_application(now)
        self._find()
        connection = self.connection()
        is_known = connection is not None
        self._perform(self.member.drain(now, has_coordinator=is_known))
        self.commits.last_error = self.coordinator.error or self.commits.last_error
        self._perform_commits(
            self.commits.drain(now, self.member.member_id, self.member.epoch, has_coordinator=is_known)
        )
        self._find()
        self._set_timer(now, is_known)

    def _look_at_application(self, now: int) -> None:
        member, applicant, before = self.member, self._applicant, self._step
        member.is_application_here, self._step = applicant.is_waiting, applicant.step()
        if member.is_application_here or self._step not in (None, before):
            member.on_poll(now)  # of the steps of an iteration nobody knows more: they look at no clock
        elif applicant.left_ms > member.polled_ms:
            member.on_poll(applicant.left_ms)

    def _set_timer(self, now: int, is_known: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = [
            self.member.next_event_ms(has_coordinator=is_known),
            self.commits.next_event_ms(has_coordinator=is_known),
            self.coordinator.next_event_ms(),
        ]
        if self.member.is_application_here:  # it may leave its poll now, and be stuck so much later
            times.append(now + self._config.max_poll_interval_ms)
        due = min((time for time in times if time is not None), default=None)
        if due is not None:
            self._timer = self.loop.call_later(max(1, due - now) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _find(self) -> None:
        if self.coordinator.should_ask(self.clock.monotonic_ms()):
            request = FindCoordinatorsRequest(group_ids=[self.group_id])
            self.cluster.ask_any(request, self._on_found, ASK_MS)

    def _on_found(self, reply: Reply | CallboardError, _payload: list[bytes]) -> None:
        if self._is_ended:
            return
        now = self.clock.monotonic_ms()
        error = error_of(reply)
        if error is not None or not isinstance(reply, CoordinatorsReply) or not reply.coordinators:
            self.coordinator.on_failure(error or ConnectionLostError("no answer"), now)
        elif self.coordinator.on_answer(reply.coordinators[0], reply.version, now):
            self._on_coordinator(now)
        if self.coordinator.fatal is not None:
            self._perform(self.member.on_barred(self.coordinator.fatal))
            self._perform_commits(self.commits.on_closed(self.coordinator.fatal))
            self._step_questions()
        self._pump()

    def _on_coordinator(self, now: int) -> None:
        broker_id = self.coordinator.broker_id
        if broker_id is not None and broker_id != self._moved_from:
            self._moved_from = broker_id
            self.member.on_coordinator_moved(now)
        self._step_questions()

    def _step_questions(self) -> None:
        for question in list(self._questions):
            question.step()

    def _perform(self, effects: Iterable[MemberEffect]) -> None:
        for effect in effects:
            if isinstance(effect, SendHeartbeat):
                self._send_heartbeat(effect)
            elif isinstance(effect, FindCoordinator):
                self.coordinator.doubt()
            elif isinstance(effect, Assign):
                self._assign(effect)
            elif isinstance(effect, Revoke):
                keys = tuple(sorted(effect.partitions))
                self._tell("revoked", effect, {}, keys)
            else:
                self._lose(effect)

    def _send_heartbeat(self, effect: SendHeartbeat) -> None:
        connection = self.connection()
        if connection is None:
            unreachable = self.cluster.unreachable_error()
            self.loop.call_soon(self._on_heartbeat, effect.number, unreachable, [])
            return
        timeout_ms = effect.timeout_ms
        if self._last is not None:  # the farewell, and there is no time after this
            timeout_ms = max(1, min(timeout_ms, self._last.until_ms - self.clock.monotonic_ms()))
        connection.request(effect.request, partial(self._on_heartbeat, effect.number), timeout_ms=timeout_ms)

    def _on_heartbeat(self, number: int, reply: Reply | CallboardError, _payload: list[bytes]) -> None:
        if self._is_ended:
            return
        now = self.clock.monotonic_ms()
        if isinstance(reply, CallboardError):
            if isinstance(reply, TimeoutError) and self.coordinator.broker_id is not None:
                self.cluster.doubt([self.coordinator.broker_id])
            self._perform(self.member.on_silence(number, reply, now))
        elif reply.error or isinstance(reply, GroupHeartbeatReply):
            self._perform(self.member.on_answer(number, reply, now))
            self._look_for_topics()
        if number == self._farewell and self._waiting_to_leave is not None:  # whatever it may have begun meanwhile
            done, self._waiting_to_leave = self._waiting_to_leave, None
            last, self._last = self._last, None
            if last is None or error_of(reply) is None:
                done(None, None)
            else:
                last.is_in_doubt = isinstance(reply, CallboardError)  # it may be committed, and the member gone
                self._commit_and_leave(last, self.member.on_leave_again, done)
        self._applicant.on_heartbeat()
        self._pump()

    # -- partitions --------------------------------------------------------------------------------

    def _assign(self, effect: Assign) -> None:
        """Begin to fetch what the member owns now, and have the application take it."""
        generations = {}
        for key in sorted(effect.partitions):
            self.begun.pop(key, None)
            generation, credit = next(self._generations), Credit()
            generations[key] = generation
            self._put(Granted(key, generation, credit))
            self._fetcher.on_assign(key, generation, credit, offset=None, reset_to=None)
        self._tell("assigned", effect, generations, tuple(generations))
        self.cluster.add_interest({key.topic for key in generations})
        self._begin({key: generations[key] for key in effect.committed}, effect.committed)
        if asked := {key: topic_id for key, topic_id in effect.partitions.items() if key not in effect.committed}:
            done = partial(self._on_begin, {key: generations[key] for key in asked}, effect.member_id)
            self._ask_committed(asked, self._identity, BEGIN_MS, done)
        self._pump_fetching()

    def _lose(self, effect: Lose) -> None:
        """Nothing is kept of how it was fetched: if that was why, it begins with new states, and by newer metadata."""
        self._fetcher.on_unassign(effect.partitions)
        self.cluster.refresh()
        keys = tuple(sorted(effect.partitions))
        self._tell("lost", effect, {}, keys)
        self.member.is_losing = False
        if self.member.phase is Phase.BARRED and self.member.error is not None:
            self.cluster.hook.tell(self.member.error)
        elif keys:
            lost = f"group {self.group_id}: lost {', '.join(map(str, keys))}: {effect.why}"
            self.cluster.hook.tell(MembershipLostError(lost, keys))
        if self.member.phase is Phase.STUCK:
            self.loop.call_soon(self._pump)  # the application may have come just now, and seen that it need not say so

    def _tell(
        self,
        kind: str,
        effect: Assign | Revoke | Lose,
        generations: Mapping[TopicPartition, int],
        keys: tuple[TopicPartition, ...],
    ) -> None:
        change = Change(kind, effect.member_id, effect.member_epoch, generations, keys, effect.why, self._life)
        self._applicant.on_change(change)

    def _identity(self) -> tuple[str, int]:
        return self.member.member_id, self.member.epoch

    def _on_begin(
        self,
        generations: Mapping[TopicPartition, int],
        member_id: str | None,
        found: Found | None,
        error: BaseException | None,
    ) -> None:
        """Where to begin is known, or cannot be learnt."""
        if self._is_ended or (member_id is not None and member_id != self.member.member_id):
            return
        if found is None:
            self._on_no_beginning(generations, member_id, error)
            return
        self._begin(generations, {key: at.offset for key, at in found.items() if at is not None})
        self._pump_fetching()

    def _begin(self, generations: Mapping[TopicPartition, int], committed: Mapping[TopicPartition, int]) -> None:
        """Where nothing was committed the policy says."""
        effects: list[FetchEffect] = []
        for key, generation in generations.items():
            if (offset := committed.get(key, -1)) >= 0:
                self.begun[key] = offset
            begins_at = offset if offset >= 0 else None
            effects += self._fetcher.on_begin(key, generation, offset=begins_at, reset_to=self._reset_to(key))
        self._perform_fetching(effects)

    def _on_no_beginning(
        self, generations: Mapping[TopicPartition, int], member_id: str | None, error: BaseException | None
    ) -> None:
        """An epoch that was too old, or no answer for long: again, while the partitions are still ours."""
        wanted = {key: generation for key, generation in generations.items() if key in self._fetcher.states}
        if member_id is not None:
            wanted = {key: generation for key, generation in wanted.items() if key in self.member.owned}
        if not wanted:
            return
        if self.coordinator.fatal is not None and isinstance(error, CallboardError):
            self._perform_fetching([TellError(key, generation, error) for key, generation in wanted.items()])
            return
        keys = {key: self.member.owned.get(key, "") for key in wanted}
        identity = self._identity if member_id is not None else None
        again = partial(self._ask_committed, keys, identity, BEGIN_MS, partial(self._on_begin, wanted, member_id))
        self.loop.call_later(self._config.retry_backoff_ms / 1000, again)

    def _reset_to(self, key: TopicPartition) -> int | None:
        """Return where a partition without a committed offset begins. One that was added later: at its beginning."""
        known = self._seen_partitions.get(key.topic)
        if known is not None and key.partition >= known:
            return EARLIEST_TIMESTAMP
        return self._fetcher.settings.reset_timestamp

    def on_topics_seen(self, partitions: Mapping[str, int]) -> None:
        """Subscribed topics, and how many partitions each has now."""
        for topic, count in partitions.items():
            self._seen_partitions.setdefault(topic, count)

    # -- offsets -----------------------------------------------------------------------------------

    def _ask_committed(
        self,
        keys: Mapping[TopicPartition, str],
        member: Callable[[], tuple[str, int]] | None,
        timeout_ms: int,
        done: Done[Found],
    ) -> None:
        if self._is_ended:
            return
        self._questions = [question for question in self._questions if not question.is_over]
        question = CommittedQuestion(self, keys, member, timeout_ms, done)
        self._questions.append(question)
        question.step()

    def _perform_commits(self, effects: Sequence[CommitEffect]) -> None:
        for effect in effects:
            if isinstance(effect, SendCommit):
                self._send_commit(effect)
            elif isinstance(effect, Ended):
                ender = self._enders.pop(id(effect.commit), None)
                if ender is not None:
                    ender(effect.error)
            elif isinstance(effect, FindAgain):
                self.doubt_coordinator(effect.error)

    def _send_commit(self, effect: SendCommit) -> None:
        connection = self.connection()
        if connection is None:
            unreachable = self.cluster.unreachable_error()
            self.loop.call_soon(self._on_commit_reply, effect.number, unreachable, [])
            return
        request = OffsetCommitRequest(
            group_id=self.group_id,
            member_id=effect.member_id,
            member_epoch=effect.member_epoch if effect.member_id else NO_MEMBER,
            instance_id=(self._config.group_instance_id or "") if effect.member_id else "",
            entries=self._entries(effect.offsets),
            number=effect.number,
            committer="" if effect.member_id else self._committer,
        )
        connection.request(request, partial(self._on_commit_reply, effect.number), timeout_ms=COMMIT_MS)

    def _entries(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> list[OffsetCommitEntry]:
        return [
            OffsetCommitEntry(
                topic=key.topic,
                topic_id=self._topic_id(key),
                partition=key.partition,
                offset=given.offset,
                leader_epoch=given.leader_epoch,
                metadata=given.metadata,
            )
            for key, given in sorted(offsets.items())
        ]

    def _on_commit_reply(self, number: int, reply: Reply | CallboardError, _payload: list[bytes]) -> None:
        if self._is_ended:
            return
        now = self.clock.monotonic_ms()
        error = error_of(reply)
        if isinstance(reply, CallboardError):
            self._perform_commits(self.commits.on_silence(number, reply, now))
        else:
            entries = reply.entries if isinstance(reply, OffsetCommitReply) else []
            self._perform_commits(
                self.commits.on_answer(number, error, entries, now, self.member.member_id, self.member.epoch)
            )
        self._pump()

    def _topic_id(self, key: TopicPartition) -> str:
        owned = self.member.owned.get(key)
        if owned is not None:
            return owned
        topic = self.cluster.metadata.topics.get(key.topic)
        return topic.topic_id if topic is not None else ""


def _member_settings(config: ConsumerConfig) -> MemberSettings:
    return MemberSettings(
        group_id=config.group_id or "",
        instance_id=config.group_instance_id or "",
        assignors=config.assignors,
        session_timeout_ms=config.session_timeout_ms,
        heartbeat_interval_ms=config.heartbeat_interval_ms,
        max_poll_interval_ms=config.max_poll_interval_ms,
    )
