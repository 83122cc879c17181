"""Commits of one consumer on their way to its group's coordinator. Pure.

The problem: many commits, an order that must hold, and a coordinator that may move. Rules of this file:

1. One request at a time, so that no commit can overtake another. What was asked for meanwhile goes together with the
   next one: of each partition the newest offset, and the outcome is that of all.
2. Commits end in the order in which they were asked for, each once; but one that waits ends when its time is over,
   wherever it stands, and if it is under way nobody knows whether it takes effect.
3. A commit that does not wait is not tried again: it ends with the error. One that waits (``is_waiting``) is tried
   until it has succeeded, or cannot, or its time is over.
4. A commit belongs to the name under which its member owned the partitions. If the member has another name by now it
   goes out under the old one all the same: the coordinator refuses it, and says who owns the partitions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import (
    CallboardError,
    CallboardTimeoutError,
    CommitFailedError,
    ErrorCode,
    UnknownTopicOrPartitionError,
    error_for_code,
)
from ..model import OffsetAndMetadata, TopicPartition
from ..transport.group_messages import OffsetCommitEntryReply
from .coordinator import is_coordinator_wrong

UNKNOWN_TRIES = 6  # of a partition that the coordinator does not know: it may be so new, for some tenths of a second
PAUSE_MS = 10  # the first, after an error that passes …
PAUSE_MS_MAX = 250  # … doubled up to this
NEVER_MS = 1 << 62
FENCED = (
    ErrorCode.UNKNOWN_MEMBER_ID,
    ErrorCode.FENCED_MEMBER_EPOCH,
    ErrorCode.FENCED_INSTANCE_ID,
    ErrorCode.ILLEGAL_GENERATION,
    ErrorCode.PARTITION_NOT_ASSIGNED,
)

Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class Commit:
    """One call of the application, or of the consumer itself."""

    __slots__ = ("is_in_doubt", "is_waiting", "member_epoch", "member_id", "offsets", "unknown", "until_ms")

    def __init__(self, offsets: Offsets, member_id: str, member_epoch: int, *, is_waiting: bool, until_ms: int) -> None:
        self.offsets = offsets
        self.member_id = member_id  # "": of nobody, partitions assigned by hand
        self.member_epoch = member_epoch  # when it was asked for; a later one of the same name is used instead
        self.is_waiting = is_waiting
        self.until_ms = until_ms
        self.unknown = 0  # attempts that met a partition which is not known
        self.is_in_doubt = False  # an attempt has failed that may have taken effect all the same


class SendCommit(NamedTuple):
    """Send it to the coordinator; report under ``number``, once: ``on_answer`` or ``on_silence``."""

    number: int
    member_id: str
    member_epoch: int
    offsets: Offsets


class Ended(NamedTuple):
    """A commit has ended; ``error`` None: it survives whatever happens."""

    commit: Commit
    error: CallboardError | None


class FindAgain(NamedTuple):
    """The coordinator that is known is silent, or is it no more."""

    error: CallboardError


Effect = SendCommit | Ended | FindAgain


class Commits:
    """Those that have not ended."""

    def __init__(self) -> None:
        self.queue: deque[Commit] = deque()  # not under way, in order
        self.last_error: CallboardError | None = None  # of the last attempt
        self._flight: SendCommit | None = None
        self._aboard: list[Commit] = []  # of the request under way, in order
        self._soonest_ms = NEVER_MS  # none that waits is over before that; of most commits nobody waits
        self._last_number = 0
        self._failures = 0
        self._not_before_ms = 0

    @property
    def is_idle(self) -> bool:
        return not self.queue and self._flight is None

    def on_commit(self, commit: Commit) -> None:
        self.queue.append(commit)
        if commit.is_waiting:
            self._soonest_ms = min(self._soonest_ms, commit.until_ms)

    def drain(self, now_ms: int, member_id: str, member_epoch: int, *, has_coordinator: bool) -> list[Effect]:
        """Return what can be done now. ``member_id``, ``member_epoch``: as the member is called now."""
        effects = self._expire(now_ms, has_coordinator=has_coordinator)
        if not self.queue or self._flight is not None or not has_coordinator or now_ms < self._not_before_ms:
            return effects
        first = self.queue[0]
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        while self.queue and self.queue[0].member_id == first.member_id:
            commit = self.queue.popleft()
            self._aboard.append(commit)
            offsets.update(commit.offsets)
        epoch = self._aboard[-1].member_epoch
        if first.member_id == member_id:  # one that is leaving has forgotten its own
            epoch = max(epoch, member_epoch)
        self._last_number += 1
        self._flight = SendCommit(self._last_number, first.member_id, epoch, offsets)
        effects.append(self._flight)
        return effects

    def next_event_ms(self, *, has_coordinator: bool) -> int | None:
        """Return when to call ``drain`` again if nothing else happens; or some time before."""
        if self.is_idle:
            return None
        times = [self._soonest_ms]
        if self.queue:
            times.append(self.queue[0].until_ms)
            if has_coordinator and self._flight is None:
                times.append(self._not_before_ms)
        due = min(times)
        return due if due < NEVER_MS else None

    def on_answer(
        self,
        number: int,
        error: CallboardError | None,
        entries: Sequence[OffsetCommitEntryReply],
        now_ms: int,
        member_id: str,
        member_epoch: int,
    ) -> list[Effect]:
        """The request was answered. ``error``: nothing was committed; ``entries``: which are to blame."""
        if self._flight is None or self._flight.number != number:
            return []
        flight = self._flight
        if error is not None and flight.member_id == member_id and flight.member_epoch < member_epoch:
            return self._again(
                self._land(), now_ms
            )  # perhaps only its epoch was old: the member has learnt a newer one
        errors = {
            TopicPartition(entry.topic, entry.partition): error_for_code(
                entry.error, entry.detail or f"{entry.topic}-{entry.partition}"
            )
            for entry in entries
            if entry.error
        }
        if error is not None:
            return self._refused(error, errors, now_ms)
        self._failures = 0
        return self._end(self._land(), errors, now_ms)

    def on_silence(self, number: int, error: CallboardError, now_ms: int) -> list[Effect]:
        """The request was not answered: it may have taken effect."""
        if self._flight is None or self._flight.number != number:
            return []
        return self._failed(error, now_ms)

    def on_closed(self, error: CallboardError) -> list[Effect]:
        """Nobody will be asked any more."""
        left = [*self._land(), *self.queue]
        self.queue.clear()
        return [Ended(commit, error) for commit in left]

    # -- inside ------------------------------------------------------------------------------------

    def _expire(self, now_ms: int, *, has_coordinator: bool) -> list[Effect]:
        """End those whose time is over (rule 2)."""
        over: list[Commit] = []
        if self._soonest_ms <= now_ms:
            waiting = [commit for commit in (*self._aboard, *self.queue) if commit.is_waiting]
            over = [commit for commit in waiting if commit.until_ms <= now_ms]
            self._aboard = [commit for commit in self._aboard if commit not in over]
            self.queue = deque(commit for commit in self.queue if commit not in over)
            self._soonest_ms = min((one.until_ms for one in waiting if one.until_ms > now_ms), default=NEVER_MS)
        while self.queue and self.queue[0].until_ms <= now_ms:
            over.append(self.queue.popleft())
        return [Ended(commit, self._timeout_error(has_coordinator=has_coordinator)) for commit in over]

    def _land(self) -> list[Commit]:
        self._flight, aboard, self._aboard = None, self._aboard, []
        return aboard

    def _refused(
        self, error: CallboardError, errors: Mapping[TopicPartition, CallboardError], now_ms: int
    ) -> list[Effect]:
        """Nothing was committed: for what is wrong with some partitions, those that name others are not to blame."""
        if errors and all(isinstance(one, UnknownTopicOrPartitionError) for one in errors.values()):
            return self._unknown(errors, now_ms)
        if not errors or error.retriable:
            return self._failed(error, now_ms)
        aboard = self._land()
        blamed = [commit for commit in aboard if not errors.keys().isdisjoint(commit.offsets)]
        if not blamed:
            return self._end(aboard, dict.fromkeys((key for each in aboard for key in each.offsets), error), now_ms)
        self._again([commit for commit in aboard if commit not in blamed], now_ms)
        return self._end(blamed, errors, now_ms)

    def _unknown(self, errors: Mapping[TopicPartition, CallboardError], now_ms: int) -> list[Effect]:
        """Some partitions are not known there: they may be very new, so it is tried again, not for ever; in order."""
        effects: list[Effect] = []
        again: list[Commit] = []
        for commit in self._land():
            error = next((errors[key] for key in commit.offsets if key in errors), None)
            if error is not None:
                self.last_error = error
                commit.unknown += 1
            if error is None or (commit.is_waiting and commit.unknown < UNKNOWN_TRIES):
                again.append(commit)
            else:
                effects.append(Ended(commit, error.as_unknown() if commit.is_in_doubt else error))
        return effects + self._again(again, now_ms)

    def _failed(self, error: CallboardError, now_ms: int) -> list[Effect]:
        aboard = self._land()
        self.last_error = error
        effects = self._end(aboard, dict.fromkeys((key for each in aboard for key in each.offsets), error), now_ms)
        if error.retriable and is_coordinator_wrong(error):
            effects.append(FindAgain(error))
        return effects

    def _end(self, aboard: list[Commit], errors: Mapping[TopicPartition, CallboardError], now_ms: int) -> list[Effect]:
        """End those aboard, but for the ones that are tried again."""
        effects: list[Effect] = []
        again: list[Commit] = []
        for commit in aboard:
            error = next((errors[key] for key in commit.offsets if key in errors), None)
            if error is not None and error.retriable and commit.is_waiting:
                self.last_error = error
                commit.is_in_doubt = True
                again.append(commit)
            else:
                told = None if error is None else as_commit_error(error)
                effects.append(Ended(commit, told.as_unknown() if told is not None and commit.is_in_doubt else told))
        return effects + (self._again(again, now_ms) if again else [])

    def _again(self, commits: list[Commit], now_ms: int) -> list[Effect]:
        self.queue.extendleft(reversed(commits))
        self._failures += 1
        self._not_before_ms = now_ms + min(PAUSE_MS_MAX, PAUSE_MS << min(self._failures - 1, 10))
        return []

    def _timeout_error(self, *, has_coordinator: bool) -> CallboardError:
        why = "the coordinator has not answered yet" if has_coordinator else "no coordinator was found"
        if self.last_error is not None:
            why = f"last error: {self.last_error}"
        error = CallboardTimeoutError(f"commit: not acknowledged in time; {why}")
        error.__cause__ = self.last_error
        return error


def as_commit_error(error: CallboardError) -> CallboardError:
    """Return what the application is told: that its member is out has a name of its own."""
    if getattr(error, "errno", None) in FENCED:
        detail = getattr(error, "detail", "") or str(error)
        failed = CommitFailedError(
            f"commit: this member is no longer in the group, or no longer owns the partitions: {detail}. "
            "The commit was refused; others may be processing these records again. Poll to go on"
        )
        failed.__cause__ = error
        return failed
    return error
