"""One member of a group: what it said of itself, what it owns, what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import NamedTuple

from ...errors import ErrorCode
from ...transport.group_messages import TopicPartitions
from ...transport.shapes import Reply as AnyReply
from .events import GroupPartition
from .records import MemberValue, packed, unpacked

NEVER_MS = 1 << 62


class Refused(NamedTuple):
    """Why a request is refused; nothing has changed."""

    code: ErrorCode
    detail: str


class Gone(NamedTuple):
    """One that was a member: so that it hears why it is none any more, and a late duplicate of its join is no join."""

    code: ErrorCode  # UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID: another one has its instance id
    why: str
    at_ms: int

    def refused(self, now_ms: int) -> Refused:
        return Refused(self.code, f"{self.why} ({max(0, now_ms - self.at_ms) / 1_000:.1f} s ago)")


class Parked(NamedTuple):
    """A heartbeat that waits for news."""

    ticket: Hashable
    request_id: int
    known_epoch: int  # the member's, as it knows it
    until_ms: int


class Stall(NamedTuple):
    """A partition that its owner does not fetch (``watchdog.py``)."""

    for_ms: int  # that count
    leader_epoch: int  # in which it was led meanwhile; -1: it was not, for sure


class Resets(NamedTuple):
    """How often a client was reset in a row, and when last."""

    times: int
    at_ms: int


Complete = Callable[[AnyReply], AnyReply]


class Held:
    """A reply that waits for records to survive."""

    __slots__ = ("complete", "member", "reply", "ticket")

    def __init__(
        self, ticket: Hashable, reply: AnyReply, member: Member | None = None, complete: Complete | None = None
    ) -> None:
        self.ticket = ticket
        self.reply = reply
        self.member = member  # whose session goes on when the reply is sent
        self.complete = complete  # adds what is only known then

    def final(self) -> AnyReply:
        """Return the reply as it goes out, once what it waits for survives."""
        return self.reply if self.complete is None or self.reply.error else self.complete(self.reply)


class Member:
    """Moved by ``Group`` alone, but for what is said below to be moved by ``Coordinating``."""

    __slots__ = (
        "asked",
        "assignors",
        "beat_ms",
        "client_id",
        "epoch",
        "far_ms",
        "fetching_ms",
        "has_spoken",
        "held",
        "holds",
        "host",
        "instance_id",
        "is_away",
        "look_ms",
        "member_id",
        "parked",
        "pattern",
        "rebalance_timeout_ms",
        "reset_ms",
        "reset_why",
        "said",
        "seen_ms",
        "session_timeout_ms",
        "stalled",
        "target",
        "told_complete",
        "told_topics",
        "topics",
    )

    def __init__(
        self,
        member_id: str,
        *,
        instance_id: str = "",
        client_id: str = "",
        host: str = "",
        topics: Iterable[str] = (),
        pattern: str = "",
        assignors: Iterable[str] = (),
        session_timeout_ms: int,
        rebalance_timeout_ms: int,
        now_ms: int,
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.client_id = client_id
        self.host = host
        self.topics = tuple(sorted(set(topics)))
        self.pattern = pattern  # that its topics match; members with the same one have the same topics
        self.assignors = tuple(assignors)  # in its order; none: it takes any
        self.session_timeout_ms = session_timeout_ms
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.epoch = 0  # >= 1 once it is in the group; grows with each change of what it is given
        self.holds: dict[GroupPartition, int] = {}  # what it owns -> its epoch when it was given; nobody else's
        self.asked: dict[GroupPartition, int] = {}  # within holds: to be given back -> since when, now_ms
        self.target: frozenset[GroupPartition] = frozenset()  # holds - asked is within it
        self.is_away = False  # static, and left for a while: owns in name only
        self.said = -1  # the number of the heartbeat that it said all that with; written when that has changed
        # What follows is not written, and moved by Coordinating.
        # When its last request came, or the answer that waited for the disk went out; after loading, in the future.
        self.seen_ms = now_ms
        self.look_ms = NEVER_MS  # when it is looked at next
        self.far_ms = 0  # when it would be looked at besides, if that is to come: a session's end, mostly
        self.parked: Parked | None = None
        self.held: list[Held] = []  # its heartbeats' answers that wait for records to survive
        self.has_spoken = False  # it has named an epoch: so it has heard that it is a member
        self.told_complete = False  # its last answer said so
        # Moved by Watchdog:
        self.beat_ms = now_ms  # when its last heartbeat came, whatever was waited for since
        self.fetching_ms = -1  # when it said last that it fetches all that it owns; -1: it has not
        self.stalled: dict[GroupPartition, Stall] = {}  # within what it held when it beat last
        self.reset_why = ""  # it is told to leave and to join anew, and this is why; "": it is not
        self.reset_ms = 0  # since when
        self.told_topics = 0  # the ``topics_version`` of its last answer

    @property
    def rank(self) -> str:
        """Its name for assignors: a static member keeps it when it comes back."""
        return f"i:{self.instance_id}" if self.instance_id else f"m:{self.member_id}"

    @property
    def is_complete(self) -> bool:
        """It has all of its target, and nothing to give back."""
        return not self.asked and len(self.holds) == len(self.target)

    @property
    def state(self) -> str:
        if self.reset_why:
            return "reset"
        return "revoking" if self.asked else "stable" if self.is_complete else "waiting"

    @property
    def due_ms(self) -> int:
        """When something of it must be looked at: its parked heartbeat, its silence, what it does not give back."""
        due = self.seen_ms + self.session_timeout_ms
        if self.parked is not None and self.parked.until_ms < due:
            due = self.parked.until_ms
        if self.asked:
            due = min(due, min(self.asked.values()) + self.rebalance_timeout_ms)
        return due

    def heard(self, now_ms: int) -> None:
        """It was heard of, or was told late because of us. Never shortens what a loading coordinator gave it."""
        self.seen_ms = max(self.seen_ms, now_ms)

    def has_news(self, known_epoch: int) -> bool:
        """Something to say to the member that knows this epoch."""
        is_completed = not self.told_complete and self.is_complete
        return known_epoch != self.epoch or is_completed or bool(self.reset_why)

    def given(self) -> list[GroupPartition]:
        """What it may own: all that it holds and has not been asked for. Sorted."""
        return sorted(partition for partition in self.holds if partition not in self.asked)

    def newly_given(self, known_epoch: int) -> list[GroupPartition]:
        """What it was given since the epoch that it knows. Sorted."""
        return sorted(part for part, since in self.holds.items() if since > known_epoch and part not in self.asked)

    def described(self) -> str:
        """The member as a person may be told of it."""
        name = f"{self.member_id} (instance {self.instance_id})" if self.instance_id else self.member_id
        where = " at ".join(part for part in (self.client_id, self.host) if part)
        return f"{name} of {where}" if where else name

    # -- as it is written

    def value(self) -> MemberValue:
        return MemberValue(
            epoch=self.epoch,
            instance_id=self.instance_id,
            client_id=self.client_id,
            host=self.host,
            topics=list(self.topics),
            pattern=self.pattern,
            assignors=list(self.assignors),
            session_timeout_ms=self.session_timeout_ms,
            rebalance_timeout_ms=self.rebalance_timeout_ms,
            given=packed({part: epoch for part, epoch in self.holds.items() if part not in self.asked}),
            asked=packed({part: self.holds[part] for part in self.asked}),
            target=packed(dict.fromkeys(self.target, 0)),
            is_away=self.is_away,
            said=self.said,
        )

    @classmethod
    def of(cls, member_id: str, value: MemberValue, now_ms: int, grace_ms: int = 0) -> Member:
        """Return the member that was written; its times begin now, its session ``grace_ms`` later (``proof.py``)."""
        member = cls(
            member_id,
            instance_id=value.instance_id,
            client_id=value.client_id,
            host=value.host,
            topics=value.topics,
            pattern=value.pattern,
            assignors=value.assignors,
            session_timeout_ms=value.session_timeout_ms,
            rebalance_timeout_ms=value.rebalance_timeout_ms,
            now_ms=now_ms,
        )
        asked = unpacked(value.asked)
        member.epoch = value.epoch
        member.seen_ms = now_ms + grace_ms
        member.holds = {**unpacked(value.given), **asked}
        member.asked = dict.fromkeys(asked, now_ms)
        member.target = frozenset(unpacked(value.target))
        member.is_away, member.said = value.is_away, value.said
        member.has_spoken = member.told_complete = True
        return member


def as_message(partitions: Collection[GroupPartition]) -> list[TopicPartitions]:
    """Return sorted partitions as messages name them: together by topic."""
    found: dict[tuple[str, str], list[int]] = {}
    for topic, topic_id, partition in partitions:
        found.setdefault((topic, topic_id), []).append(partition)
    return [
        TopicPartitions(topic=topic, topic_id=topic_id, partitions=numbers)
        for (topic, topic_id), numbers in found.items()
    ]
