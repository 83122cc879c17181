"""Judge what members of groups saw: commits, reads of committed offsets, who owned what; named anomalies out.

Times are of one clock. A commit's outcome is one of three, as a send's is (``history``): ``ok``, ``fail`` (definitely
not done), ``info`` (unknown). A committed offset is a register, a commit writes it, so what a read may return is known
without a search: something that was written, by a write that had begun, and that no later acknowledged write had
replaced before the read began.

| anomaly | what happened |
|---|---|
| offset-regression | a read returned an offset that an acknowledged commit had replaced before, or none at all |
| offset-phantom | a read returned an offset that nobody had committed, or that was definitely refused |
| fenced-commit | a commit for a partition succeeded after another member had been given that partition |
| two-owners | two members of a group held a partition at the same time |
| unprocessed-commit | an offset was committed although a record below it had not been dealt with by any owner (B25) |
| poll-skip | successive polls of a member, while it held the partition, left records out |
| nonmonotonic-poll | … went back |
| int-poll-skip, int-nonmonotonic-poll | the same within one poll |
| unprocessed | at the end, a record below the committed offset was never dealt with |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from ..model import TopicPartition
from .history import Anomaly, Outcome

NOT_COMMITTED = -1


class Commit(NamedTuple):
    group: str
    partition: TopicPartition
    offset: int  # the next record to read
    member: str
    outcome: Outcome
    invoked_ns: int
    completed_ns: int  # of an ok


class CommittedRead(NamedTuple):
    """A member, or an administrator, asked what is committed. ``offset`` ``NOT_COMMITTED``: nothing."""

    group: str
    partition: TopicPartition
    offset: int
    invoked_ns: int
    completed_ns: int


class Owned(NamedTuple):
    """A member held a partition: from when it was told until it had given it back, lost it, closed or ended.

    ``until_ns`` ``None``: still. What a *paused* process believes does not count: its time ends with the pause.
    """

    group: str
    partition: TopicPartition
    member: str
    since_ns: int
    until_ns: int | None = None


class Processed(NamedTuple):
    """The application was done with a record."""

    group: str
    partition: TopicPartition
    offset: int
    at_ns: int


class MemberPolled(NamedTuple):
    """A poll gave a member records of a partition. ``span``: which time of holding it, of that partition."""

    group: str
    partition: TopicPartition
    member: str
    span: int
    offsets: tuple[int, ...]


@dataclass
class GroupHistory:
    polls: list[MemberPolled] = field(default_factory=list)  # of one member in the order of time
    commits: list[Commit] = field(default_factory=list)
    reads: list[CommittedRead] = field(default_factory=list)
    owned: list[Owned] = field(default_factory=list)
    processed: list[Processed] = field(default_factory=list)
    starts: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)  # where the group began; else 0


def group_anomalies(history: GroupHistory) -> list[Anomaly]:
    """Return everything that must never happen and did; empty is the only good answer."""
    places = _by_place(history)
    found: list[Anomaly] = []
    for (group, partition), place in sorted(places.items()):
        start = history.starts.get((group, partition), 0)
        found += _bad_reads(place)
        found += _two_owners(place)
        found += _fenced_commits(place)
        found += _unprocessed(place, start)
    return found + list(_bad_polls(history.polls))


def _bad_polls(polls: Iterable[MemberPolled]) -> Iterable[Anomaly]:
    """While a member holds a partition, and seeks nowhere, it is handed out record by record."""
    following: dict[tuple[str, TopicPartition, str, int], int] = {}
    for poll in polls:
        span = poll[:4]
        expected = following.get(span)
        for place, offset in enumerate(poll.offsets):
            if expected is not None and offset != expected:
                name = "poll-skip" if offset > expected else "nonmonotonic-poll"
                detail = f"group {poll.group}: {poll.member} was handed {offset}, {expected} was next"
                yield Anomaly(f"int-{name}" if place else name, poll.partition, detail)
            expected = offset + 1
        if expected is not None:
            following[span] = expected


@dataclass
class _Place:
    """Everything about one partition in one group."""

    group: str
    partition: TopicPartition
    commits: list[Commit] = field(default_factory=list)
    reads: list[CommittedRead] = field(default_factory=list)
    owned: list[Owned] = field(default_factory=list)
    processed: list[Processed] = field(default_factory=list)

    def anomaly(self, name: str, detail: str) -> Anomaly:
        return Anomaly(name, self.partition, f"group {self.group}: {detail}")


def _by_place(history: GroupHistory) -> dict[tuple[str, TopicPartition], _Place]:
    places: dict[tuple[str, TopicPartition], _Place] = {}

    def place(item: Commit | CommittedRead | Owned | Processed) -> _Place:
        key = item.group, item.partition
        return places.setdefault(key, _Place(*key))

    for commit in history.commits:
        place(commit).commits.append(commit)
    for read in history.reads:
        place(read).reads.append(read)
    for owned in history.owned:
        place(owned).owned.append(owned)
    for processed in history.processed:
        place(processed).processed.append(processed)
    return places


def _bad_reads(place: _Place) -> Iterable[Anomaly]:
    acknowledged = [commit for commit in place.commits if commit.outcome == "ok"]
    possible = [commit for commit in place.commits if commit.outcome != "fail"]
    for read in place.reads:
        before = [commit for commit in acknowledged if commit.completed_ns < read.invoked_ns]
        newest_invoked_ns = max((commit.invoked_ns for commit in before), default=-1)
        writers = [
            commit for commit in possible if commit.offset == read.offset and commit.invoked_ns <= read.completed_ns
        ]
        if read.offset == NOT_COMMITTED:
            if before:
                yield place.anomaly("offset-regression", f"none was read, {before[-1].offset} had been acknowledged")
        elif not writers:
            yield place.anomaly("offset-phantom", f"{read.offset} was read, and never committed")
        elif not any(commit.outcome == "info" or commit.completed_ns >= newest_invoked_ns for commit in writers):
            newest = max(before, key=lambda commit: commit.invoked_ns)
            yield place.anomaly("offset-regression", f"{read.offset} was read, {newest.offset} had been acknowledged")


def _two_owners(place: _Place) -> Iterable[Anomaly]:
    spans = sorted(place.owned, key=lambda owned: (owned.since_ns, owned.until_ns or owned.since_ns))
    for one, other in pairwise(spans):
        if one.member != other.member and (one.until_ns is None or one.until_ns > other.since_ns):
            yield place.anomaly("two-owners", f"{one.member} still held it when {other.member} was given it")


def _fenced_commits(place: _Place) -> Iterable[Anomaly]:
    """The latest owner when a commit begins is the only one that may succeed, until the next one is told."""
    spans = sorted(place.owned, key=lambda owned: owned.since_ns)
    for commit in place.commits:
        if commit.outcome != "ok" or not commit.member:
            continue
        before = [owned for owned in spans if owned.since_ns <= commit.invoked_ns]
        if before and before[-1].member != commit.member:
            owner = before[-1].member
            yield place.anomaly("fenced-commit", f"{commit.member} committed {commit.offset}, {owner} owned it already")


def _unprocessed(place: _Place, start: int) -> Iterable[Anomaly]:
    """Every record below a committed offset had been dealt with before the commit was asked for."""
    done_ns: dict[int, int] = {}
    for processed in place.processed:
        at_ns = done_ns.get(processed.offset, processed.at_ns)
        done_ns[processed.offset] = min(at_ns, processed.at_ns)
    if not done_ns:
        return
    told: set[int] = set()
    by_offset = defaultdict(list)
    for commit in place.commits:
        if commit.outcome != "fail":
            by_offset[commit.offset].append(commit)
    latest_ns, position = -1, start  # when the last of the records below ``position`` was dealt with
    for offset in sorted(by_offset):
        while position < offset:
            latest_ns = max(latest_ns, done_ns.get(position, 1 << 63))
            position += 1
        for commit in by_offset[offset]:
            if latest_ns > commit.invoked_ns and offset not in told:
                told.add(offset)
                missing = next(at for at in range(start, offset) if done_ns.get(at, 1 << 63) > commit.invoked_ns)
                name = "unprocessed-commit" if missing in done_ns else "unprocessed"
                yield place.anomaly(name, f"{commit.member} committed {offset}, {missing} had not been dealt with")
