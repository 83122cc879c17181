"""One member of a consumer group, as the client plays it. Pure: ``(state, event, now) → effects``.

The problem: own exactly the partitions that the coordinator thinks this member owns, or fewer; learn of changes at
once; and never do work for partitions that somebody else may have been given.

Rules of this file:

1. Joining, living and giving back are one request, the heartbeat. One is always at the coordinator, which keeps it
   while there is nothing to say. What is news for the coordinator (partitions given back, other topics) goes out at
   once, beside the one that is kept; answers are told apart by their numbers.
2. A partition is owned from the answer that grants it until the application has given it back: it is told (``Revoke``),
   says so (``on_revoked``), and the next heartbeat's ``owned`` goes without it. What was revoked comes before what is
   granted; an application sees both in the order of the effects.
3. A session runs from when the last heartbeat that was answered was *sent*: the coordinator's runs from later. When it
   is over without another answer, everything is lost (``Lose``): others may own it by now. Until then a coordinator
   that is silent, moves or loads costs nothing: it is looked up again, and the member goes on under its name.
   Likewise with what it was asked to give back: ``max_poll_interval_ms`` later the coordinator puts it out, unless it
   has heard that it was given back. So by then, counted from a time before it was asked, the member has an answer to a
   heartbeat that said so, or has left by itself. What it owns counts only if it knows its epoch, so it is said anew
   under each: it may have been given, and asked for, what it never heard of.
4. A member that is out (fenced, unknown, silent for too long) never comes back: it joins anew under another name.
   One whose instance id was taken by another never does: that is for a person. So when a member joins anew, and not
   itself under an earlier name has its place, it is out for good; one that has not been a member yet takes the place.
5. An application that has not come for ``max_poll_interval_ms`` is stuck: the member leaves, so that others go on
   with its partitions, and joins again when the application comes back.
6. Each heartbeat says whether all that is owned is fetched, or what is not. It is not the member that knows that: it
   asks those who fetch (``evidence``). One that owns and does not fetch is told so: it leaves, and joins anew (rule 4).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..errors import CallboardError, ErrorCode, error_for_code
from ..model import TopicPartition
from ..transport.group_messages import (
    JOINING,
    LEAVING,
    LEAVING_FOR_A_WHILE,
    NO_MEMBER,
    GroupHeartbeatReply,
    GroupHeartbeatRequest,
    OffsetCommitEntry,
    TopicPartitions,
)
from ..transport.messages import Reply
from .coordinator import is_coordinator_wrong

ANSWER_MS_MAX = 2_000  # how long after it should have answered a coordinator counts as silent …
ANSWER_SHARE = 5  # … or this part of a session, if that is less
FIRST_PAUSE_MS = 5  # after a failure: another coordinator is elected within milliseconds …
PAUSE_MS_MAX = 250  # … the pauses double up to this
FORMERS_MAX = 8  # names of before that are remembered: of joins that nobody may have heard of
LEAVE_MS = 2_000  # how long an answer to leaving is waited for …
LAST_COMMIT_MS = 5_000  # … with a commit, as one by itself

OUT_OF_GROUP = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.ILLEGAL_GENERATION)

Partitions = Mapping[TopicPartition, str]  # each with the id of its topic
Stalled = Callable[[Collection[TopicPartition], int], Collection[TopicPartition]]  # (owned, now_ms) → of these


class Phase(StrEnum):
    """Where a member stands. Only a JOINED one owns partitions."""

    OUT = "out"  # nobody wants to be a member
    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"
    STUCK = "stuck"  # has left: the application does not come
    BARRED = "barred"  # an error that will not pass; see ``error``


class MemberSettings(NamedTuple):
    group_id: str
    instance_id: str  # "": a member like any other
    assignors: tuple[str, ...]
    session_timeout_ms: int
    heartbeat_interval_ms: int
    max_poll_interval_ms: int

    @property
    def answer_ms(self) -> int:
        """How long after it should have answered the coordinator counts as silent."""
        return min(ANSWER_MS_MAX, self.session_timeout_ms // ANSWER_SHARE)


# -- effects ---------------------------------------------------------------------------------------


class SendHeartbeat(NamedTuple):
    """Send it to the coordinator; report under ``number``, once: ``on_answer`` or ``on_silence``."""

    number: int
    request: GroupHeartbeatRequest
    timeout_ms: int


class Assign(NamedTuple):
    """The member owns these too. ``committed``: what is committed there, -1 for nothing; else it is to be asked."""

    member_id: str
    member_epoch: int
    partitions: Partitions
    why: str
    committed: Mapping[TopicPartition, int] = {}


class Revoke(NamedTuple):
    """The application must give these back, and then say so with ``on_revoked``."""

    member_id: str
    member_epoch: int
    partitions: Partitions
    why: str


class Lose(NamedTuple):
    """Everything that was owned is gone; others may have it already. ``partitions`` may be empty."""

    member_id: str
    member_epoch: int
    partitions: Partitions
    why: str


class FindCoordinator(NamedTuple):
    """The one that is known is silent, or is it no more."""

    reason: str


Effect = SendHeartbeat | Assign | Revoke | Lose | FindCoordinator


class _Sent(NamedTuple):
    """A heartbeat that has not been answered."""

    sent_ms: int
    epoch: int
    subscribed: tuple[str, tuple[str, ...]]  # pattern and topics
    owned: frozenset[tuple[TopicPartition, str]]


class Member:
    """A member's state. ``new_id`` gives a name that was never used before.

    ``stalled``: says of which partitions it cannot be shown that they are fetched (rule 6); ``None``: nobody can say.
    """

    def __init__(self, settings: MemberSettings, new_id: Callable[[], str], stalled: Stalled | None = None) -> None:
        self.settings = settings
        self._new_id, self._stalled = new_id, stalled
        self.phase = Phase.OUT
        self.member_id = ""
        self.epoch = JOINING  # as the last answer said; it only grows under one name
        self.group_epoch = 0
        self.topics: tuple[str, ...] = ()
        self.pattern = ""  # that they match; "": they were named
        self.topics_version = 0  # of metadata: older ones may lack topics that match; only grows
        self.owned: dict[TopicPartition, str] = {}  # granted and not given back; moved by ``_own``
        self._owned_items: frozenset[tuple[TopicPartition, str]] = frozenset()  # the same, to compare
        self.granted: dict[TopicPartition, str] = {}  # what the last answer allows; owned ⊇ granted ∩ owned
        self.revoking: dict[TopicPartition, None] = {}  # ⊆ owned: told to the application, not given back yet
        # What the coordinator may wait for, ⊇ revoking, each since when at the earliest; None: what was never heard of.
        self._awaited: dict[tuple[TopicPartition, str] | None, int] = {}
        self.give_back_by_ms = -1  # when the coordinator must have heard of all that, else all is lost; -1: of nothing
        self.is_complete = False  # nothing more will follow for the group's epoch
        self.why = ""  # of the last change
        self.error: CallboardError | None = None  # why it is BARRED, or what stands in the way of joining
        self.session_from_ms = -1  # when the last answered heartbeat was sent; -1: no session
        self.answered_ms = -1  # when an answer came last
        self.polled_ms = 0  # when the application came last
        self.is_application_here = False  # it is inside a poll, for as long as it likes
        self.failures = 0  # in a row
        self.is_losing = False  # it lost all that it owned, and the application is not told yet
        self.lost_ms = -1  # when it lost all that it owned last, if it ever did, …
        self.lost_why = ""  # … and why
        self.joined_ms = -1  # when it joined last, under its present name or one of before
        self._formers: dict[str, None] = {}  # its names of before, since a person had it join; the last few
        self._was_member = False  # under one of them, as far as it has heard
        self._replaces = ""  # with an instance id: who has its place, as far as it knows
        self._not_before_ms = 0
        self._sent: dict[int, _Sent] = {}
        self._last_number = 0
        self._known_number = 0  # of the heartbeat that said it
        self._known_subscribed: tuple[str, tuple[str, ...]] | None = (
            None  # what the coordinator is sure to know; None: nothing
        )
        self._known_owned: frozenset[tuple[TopicPartition, str]] | None = None  # likewise, under this epoch

    # -- what the application says -----------------------------------------------------------------

    def on_subscribe(self, topics: Iterable[str], now_ms: int, pattern: str = "") -> None:
        """Be a member that reads these topics, which match a pattern, or were named."""
        self.on_topics(topics)
        self.pattern = pattern
        self.polled_ms = max(self.polled_ms, now_ms)
        if self.phase not in (Phase.JOINING, Phase.JOINED):
            self._begin(now_ms)

    def on_topics(self, topics: Iterable[str]) -> None:
        """What is subscribed means these topics now."""
        self.topics = tuple(sorted(set(topics)))

    def on_poll(self, now_ms: int) -> None:
        """The application has come, or shows otherwise that it goes on."""
        self.polled_ms = max(self.polled_ms, now_ms)
        if self.phase is Phase.STUCK:
            self._begin(now_ms)

    def on_revoked(self, partitions: Iterable[TopicPartition]) -> list[Effect]:
        """The application has given these back."""
        given = {key for key in partitions if key in self.revoking}
        self.revoking = {key: None for key in self.revoking if key not in given}
        self._own({key: topic_id for key, topic_id in self.owned.items() if key not in given})
        return self._reconcile(self.session_from_ms)

    def on_barred(self, error: CallboardError) -> list[Effect]:
        """There is no such group to join, and never will be."""
        if self.phase is Phase.OUT:
            return []
        lost = self._lost(str(error))
        self._forget()
        self._sent.clear()
        self.phase, self.error, self.why = Phase.BARRED, error, str(error)
        return [lost]

    def on_leave(self, now_ms: int, last: Sequence[OffsetCommitEntry] = ()) -> list[Effect]:
        """Leave the group, with everything. What it owned goes to others at once, or waits for its instance id.

        ``last``: to be committed with it; by a member that has joined.
        """
        effects: list[Effect] = []
        if self.phase is Phase.JOINED or (self.phase is Phase.JOINING and self._sent):
            self.phase = Phase.LEAVING
            effects.append(self._farewell(now_ms, is_stuck=False, last=last))
        else:
            self.phase = Phase.OUT
        self._forget()
        self._formers.clear()
        self._was_member = False
        return effects

    def on_leave_again(self, now_ms: int) -> list[Effect]:
        """The farewell was refused for what was to be committed with it, or not answered: say it once more, alone."""
        if self.phase is not Phase.OUT or not self.member_id:
            return []
        self.phase = Phase.LEAVING
        return [self._farewell(now_ms, is_stuck=False)]

    # -- what the coordinator says -----------------------------------------------------------------

    def on_answer(self, number: int, reply: Reply, now_ms: int) -> list[Effect]:
        """A heartbeat was answered."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return []  # of a name or a coordinator of before
        if self.phase is Phase.LEAVING:
            self.phase = Phase.OUT
            return []
        if reply.error:
            return self._on_refusal(number, error_for_code(reply.error, reply.detail), now_ms)
        if not isinstance(reply, GroupHeartbeatReply) or reply.member_epoch < self.epoch:
            return []  # of before
        if reply.taken_by:
            return self._on_taken(reply, now_ms)
        self.failures, self.error = 0, None
        self.answered_ms = now_ms
        told_from_ms = self.session_from_ms if self.session_from_ms >= 0 else sent.sent_ms
        self.session_from_ms = max(self.session_from_ms, sent.sent_ms)
        if number > self._known_number:
            self._known_number, self._known_subscribed = number, sent.subscribed
            self._known_owned = sent.owned if sent.epoch == reply.member_epoch else None
        if sent.epoch == reply.member_epoch:
            self._on_heard(sent.owned)
        return self._on_reset(reply, now_ms) if reply.is_reset else self._take(reply, sent, told_from_ms, now_ms)

    def on_silence(self, number: int, error: CallboardError, now_ms: int) -> list[Effect]:
        """A heartbeat was not answered: its time is over, or the connection ended."""
        sent = self._sent.pop(number, None)
        if sent is None or number != self._last_number:
            return []  # … or what was sent after it will tell
        if self.phase is Phase.LEAVING:
            self.phase = Phase.OUT
            return []
        return self._try_again(error, now_ms)

    def on_coordinator_moved(self, now_ms: int) -> None:
        """Another coordinator is known: what was asked of the one before will not be answered."""
        if self.phase in (Phase.JOINING, Phase.JOINED):
            self._sent.clear()
            self._known_subscribed = self._known_owned = None
            self._not_before_ms = min(self._not_before_ms, now_ms)

    def on_coordinator_lost(self, error: CallboardError, now_ms: int) -> list[Effect]:
        """The connection to the coordinator ended: nothing that is under way will be answered there."""
        if self.phase not in (Phase.JOINING, Phase.JOINED):
            return []
        self._sent.clear()
        return self._try_again(error, now_ms)

    # -- time --------------------------------------------------------------------------------------

    def drain(self, now_ms: int, *, has_coordinator: bool) -> list[Effect]:
        """Return what is due."""
        effects = self._expire(now_ms)
        if self.phase not in (Phase.JOINING, Phase.JOINED) or not has_coordinator or now_ms < self._not_before_ms:
            return effects
        if not self._sent or self._has_news():
            effects.append(self._heartbeat(now_ms))
        return effects

    def next_event_ms(self, *, has_coordinator: bool) -> int | None:
        """Return when to call ``drain`` again if nothing else happens."""
        if self.phase not in (Phase.JOINING, Phase.JOINED):
            return None
        times = []
        if not self.is_application_here:
            times.append(self.polled_ms + self.settings.max_poll_interval_ms)
        if self.session_from_ms >= 0:
            times.append(self.session_ends_ms)
        if self.give_back_by_ms >= 0:
            times.append(self.give_back_by_ms)
        if has_coordinator and not self._sent:
            times.append(self._not_before_ms)
        return min(times, default=None)

    @property
    def session_ends_ms(self) -> int:
        """When this side takes its session for over, if no answer comes; only with a session."""
        return self.session_from_ms + self.settings.session_timeout_ms

    def may_work(self, now_ms: int) -> bool:
        """Say whether records of what is owned may be handed out. From any thread."""
        is_late = 0 <= self.give_back_by_ms <= now_ms
        is_in_time = not is_late and (self.session_from_ms < 0 or now_ms < self.session_ends_ms)
        return is_in_time and not self.is_losing  # in this order: what forgets the times has said so before

    # -- inside ------------------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> None:
        """Join, under a new name."""
        self._forget()
        self._sent.clear()
        self.phase = Phase.JOINING
        self._replaces = next(reversed(self._formers), "")
        self.member_id = self._new_id()
        self._formers[self.member_id] = None
        while len(self._formers) > FORMERS_MAX:
            del self._formers[next(iter(self._formers))]
        self.error = None
        self._not_before_ms = now_ms

    def _forget(self) -> None:
        if self.phase is not Phase.LEAVING:
            self._sent.clear()
        self.epoch = JOINING
        self._own({})
        self.granted, self.revoking, self._awaited = {}, {}, {}
        self.give_back_by_ms = -1
        self.is_complete = False
        self.session_from_ms = -1
        self._known_subscribed = self._known_owned = None
        self.failures = 0

    def _expire(self, now_ms: int) -> list[Effect]:
        if self.phase not in (Phase.JOINING, Phase.JOINED):
            return []
        if self.session_from_ms >= 0 and now_ms >= self.session_ends_ms:
            silent_ms = now_ms - self.session_from_ms
            return self._lose(
                f"the coordinator has not answered for {silent_ms / 1000:.1f} s: the session is over", now_ms
            )
        away_ms = now_ms - self.polled_ms
        if not self.is_application_here and away_ms >= self.settings.max_poll_interval_ms:
            why = f"the application has not polled for {away_ms / 1000:.1f} s (max_poll_interval_ms)"
            is_known = self.phase is Phase.JOINED or bool(self._sent)
            farewells = [self._farewell(now_ms, is_stuck=True)] if is_known else []
            lost = self._lost(why)
            self.phase, self.why = Phase.STUCK, why
            self.lost_ms, self.lost_why = now_ms, why
            self._forget()
            return [lost, *farewells]  # in this order: when others hear of it the application has
        if 0 <= self.give_back_by_ms <= now_ms:
            within = f"within {self.settings.max_poll_interval_ms} ms (max_poll_interval_ms)"
            why = f"the coordinator has not answered what was given back {within}"
            if self.revoking:
                why = f"{', '.join(map(str, sorted(self.revoking)))} was to be given back {within}"
            farewell = self._farewell(now_ms, is_stuck=True)
            return [*self._lose(why, now_ms), farewell]
        return []

    def _lose(self, why: str, now_ms: int) -> list[Effect]:
        """The member is out: join again under another name."""
        lost = self._lost(why)
        failures = self.failures
        self._begin(now_ms)
        self.why, self.failures = why, failures
        self.lost_ms, self.lost_why = now_ms, why
        return [lost]

    def _lost(self, why: str) -> Lose:
        self.is_losing = True  # before anything is forgotten: other threads look on
        return Lose(self.member_id, self.epoch, dict(self.owned), why)

    def _on_reset(self, reply: GroupHeartbeatReply, now_ms: int) -> list[Effect]:
        """It owned what it did not fetch (rule 6): nothing is worked on any more, and others may have it."""
        farewell = self._farewell(now_ms, is_stuck=False)
        return [*self._lose(reply.why, now_ms), farewell]

    def _on_refusal(self, number: int, error: CallboardError, now_ms: int) -> list[Effect]:
        code = getattr(error, "errno", ErrorCode.UNKNOWN)
        if code in OUT_OF_GROUP:
            self.failures += 1
            effects = self._lose(str(error), now_ms)
            if self.failures > 1:
                self._pause(now_ms)
            return effects
        if error.retriable:
            if number != self._last_number:
                return []  # what was sent after it will tell
            return self._try_again(error, now_ms)
        return self.on_barred(error)

    def _on_taken(self, reply: GroupHeartbeatReply, now_ms: int) -> list[Effect]:
        """Somebody has our place: ourselves, once; or who was there before we came; or who has come since."""
        if self._was_member and reply.taken_by not in self._formers:
            detail = f"{self.member_id} is fenced: {reply.why or reply.taken_by}"
            return self.on_barred(error_for_code(ErrorCode.FENCED_INSTANCE_ID, detail))
        self._replaces, self._not_before_ms = reply.taken_by, now_ms
        return []

    def _try_again(self, error: CallboardError, now_ms: int) -> list[Effect]:
        """What is under way will not be answered: once more, after a pause, and perhaps elsewhere."""
        self._sent.clear()
        self._known_subscribed = self._known_owned = None  # perhaps it arrived, perhaps not
        self.error = error
        self.failures += 1
        self._pause(now_ms)
        return [FindCoordinator(str(error))] if is_coordinator_wrong(error) else []

    def _pause(self, now_ms: int) -> None:
        self._not_before_ms = now_ms + min(PAUSE_MS_MAX, FIRST_PAUSE_MS << min(self.failures - 1, 10))

    def _take(self, reply: GroupHeartbeatReply, sent: _Sent, told_from_ms: int, now_ms: int) -> list[Effect]:
        """``told_from_ms``: what the answer says that is new was decided after that."""
        if is_joining := self.phase is Phase.JOINING:
            self.joined_ms, self._was_member = now_ms, True
        is_news = is_joining or reply.member_epoch > self.epoch
        if is_news:
            self._known_owned = None
            if not reply.is_complete:
                self._awaited.setdefault(None, told_from_ms)
        self.epoch, self.group_epoch = reply.member_epoch, reply.group_epoch
        if reply.assignment is not None:
            granted = {
                TopicPartition(of.topic, partition): of.topic_id
                for of in reply.assignment
                for partition in of.partitions
            }
            is_news = is_news or granted != self.granted
            self.granted = granted
        self.is_complete = reply.is_complete
        if reply.topics_version > self.topics_version:
            is_news, self.topics_version = True, reply.topics_version
        self.why = reply.why or self.why
        # A coordinator that answers at once without news must not be asked without end.
        self._not_before_ms = now_ms if is_news else sent.sent_ms + self.settings.heartbeat_interval_ms
        effects = self._reconcile(told_from_ms, self._beginnings(reply))
        self.phase = Phase.JOINED  # last: another thread looks whether what it will own is known
        return effects

    def _beginnings(self, reply: GroupHeartbeatReply) -> dict[TopicPartition, int]:
        """Return where partitions begin, of those that the answer says it of."""
        found = {}
        for some in reply.committed:
            for partition, offset in zip(some.partitions, some.offsets, strict=False):
                key = TopicPartition(some.topic, partition)
                if self.granted.get(key) == some.topic_id:
                    found[key] = offset
        return found

    def _reconcile(self, since_ms: int, committed: Mapping[TopicPartition, int] | None = None) -> list[Effect]:
        """Make what is owned equal to what is granted: first out, then in. It was not asked for before ``since_ms``."""
        out = {
            key: topic_id
            for key, topic_id in self.owned.items()
            if self.granted.get(key) != topic_id and key not in self.revoking
        }
        self.revoking.update(dict.fromkeys(out))
        self._awaited.update(dict.fromkeys(out.items(), since_ms))
        for item in list(self._awaited):
            if item is not None and self.granted.get(item[0]) == item[1] and item[0] not in self.revoking:
                del self._awaited[item]  # it was granted again
        self._look_at_awaited()
        new = {key: topic_id for key, topic_id in self.granted.items() if key not in self.owned}
        if new:
            self._own(self.owned | new)
        effects: list[Effect] = []
        if out:
            effects.append(Revoke(self.member_id, self.epoch, out, self.why))
        if new:
            told = {key: offset for key, offset in (committed or {}).items() if key in new}
            effects.append(Assign(self.member_id, self.epoch, new, self.why, told))
        return effects

    def _on_heard(self, owned: frozenset[tuple[TopicPartition, str]]) -> None:
        """The coordinator knows that this, and nothing else, was owned under the present epoch."""
        self._awaited = {item: since_ms for item, since_ms in self._awaited.items() if item in owned}
        self._look_at_awaited()

    def _look_at_awaited(self) -> None:
        by_ms = min(self._awaited.values(), default=0) + self.settings.max_poll_interval_ms
        self.give_back_by_ms = by_ms if self._awaited else -1

    @property
    def _subscribed(self) -> tuple[str, tuple[str, ...]]:
        return self.pattern, self.topics

    def _has_news(self) -> bool:
        """Say whether the coordinator does not know, and will not learn from what is under way, what we are and own."""
        last = self._sent.get(self._last_number)
        subscribed = last.subscribed if last is not None else self._known_subscribed
        owned = last.owned if last is not None and last.epoch == self.epoch else self._known_owned
        now = self._owned_items
        return subscribed != self._subscribed or (owned is not now and owned != now)  # mostly it is: all look often

    def _own(self, partitions: dict[TopicPartition, str]) -> None:
        """Own these and no others, from now on."""
        self.owned, self._owned_items = partitions, frozenset(partitions.items())

    def _heartbeat(self, now_ms: int) -> SendHeartbeat:
        settings = self.settings
        is_joining = self.phase is Phase.JOINING
        later = [one for number, one in self._sent.items() if number > self._known_number]  # may be what is known next
        subscribed = {self._known_subscribed, *(one.subscribed for one in later)}
        is_subscription_news = is_joining or subscribed != {self._subscribed}
        owned = self._owned_items
        is_owned_news = is_joining or {self._known_owned, *(one.owned for one in later)} != {owned}
        wait_ms = 0 if is_joining else settings.heartbeat_interval_ms
        stalled = self._stalled(self.owned, now_ms) if self._stalled is not None else ()
        request = GroupHeartbeatRequest(
            group_id=settings.group_id,
            member_id=self.member_id,
            member_epoch=self.epoch,
            instance_id=settings.instance_id,
            topics=list(self.topics) if is_subscription_news else None,
            pattern=self.pattern if is_subscription_news else "",
            assignors=list(settings.assignors) if is_joining else None,
            session_timeout_ms=settings.session_timeout_ms,
            rebalance_timeout_ms=settings.max_poll_interval_ms,
            owned=by_topic(self.owned) if is_owned_news else None,
            max_wait_ms=wait_ms,
            is_fetching=self._stalled is not None and not stalled,
            stalled=by_topic({key: self.owned[key] for key in stalled}),
            replaces=self._replaces if is_joining and settings.instance_id else None,
            number=self._last_number + 1,
        )
        self._last_number += 1
        self._sent[self._last_number] = _Sent(now_ms, self.epoch, self._subscribed, owned)
        return SendHeartbeat(self._last_number, request, wait_ms + settings.answer_ms)

    def _farewell(self, now_ms: int, *, is_stuck: bool, last: Sequence[OffsetCommitEntry] = ()) -> SendHeartbeat:
        settings = self.settings
        request = GroupHeartbeatRequest(
            group_id=settings.group_id,
            member_id=self.member_id,
            member_epoch=LEAVING_FOR_A_WHILE if settings.instance_id else LEAVING,
            instance_id=settings.instance_id,
            session_timeout_ms=settings.session_timeout_ms,
            rebalance_timeout_ms=settings.max_poll_interval_ms,
            is_stuck=is_stuck,
            last_offsets=list(last),
            last_epoch=self.epoch if last else NO_MEMBER,
        )
        self._sent.clear()
        self._last_number += 1
        self._sent[self._last_number] = _Sent(now_ms, self.epoch, self._subscribed, frozenset())
        return SendHeartbeat(self._last_number, request, LAST_COMMIT_MS if last else LEAVE_MS)


def by_topic(partitions: Partitions | Sequence[tuple[TopicPartition, str]]) -> list[TopicPartitions]:
    """Return partitions as they stand in messages, sorted."""
    found: dict[tuple[str, str], list[int]] = {}
    items = partitions.items() if isinstance(partitions, Mapping) else partitions
    for key, topic_id in sorted(items):
        found.setdefault((key.topic, topic_id), []).append(key.partition)
    return [
        TopicPartitions(topic=topic, topic_id=topic_id, partitions=numbers)
        for (topic, topic_id), numbers in found.items()
    ]
