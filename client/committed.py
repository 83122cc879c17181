"""Asking a group's coordinator for committed offsets, until it has answered. A shell on the I/O thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import CallboardError, CallboardTimeoutError
from ..model import OffsetAndMetadata, TopicPartition
from ..transport.group_messages import NO_MEMBER, OffsetFetchReply, OffsetFetchRequest
from ..transport.loop import Timer
from ..transport.messages import Reply
from .cluster import error_of
from .coordinator import is_coordinator_wrong
from .io import Done
from .membership import by_topic

if TYPE_CHECKING:
    from .group import GroupSide

ATTEMPT_MS = 3_000
PAUSE_MS = 10  # the first, after an error that passes …
PAUSE_MS_MAX = 250  # … doubled up to this

Found = dict[TopicPartition, "OffsetAndMetadata | None"]  # None: none was committed


class CommittedQuestion:
    """Ask for the offsets of some partitions once; ``done`` gets all of them, or the error that will not pass.

    ``member``: the name and epoch of whoever asks; none of a member: anybody may.
    """

    def __init__(
        self,
        group: GroupSide,
        wanted: Mapping[TopicPartition, str],
        member: Callable[[], tuple[str, int]] | None,
        timeout_ms: int,
        done: Done[Found],
    ) -> None:
        self._group = group
        self._wanted = dict(wanted)
        self._member = member
        self._timeout_ms = timeout_ms
        self._until_ms = group.clock.monotonic_ms() + timeout_ms
        self._done = done
        self._timer: Timer | None = None
        self._failures = 0
        self._is_waiting = False  # for an answer
        self._last_error: CallboardError | None = None
        self.is_over = False

    def step(self) -> None:
        """Ask, if that can be done now. Called when a coordinator is found, and by its own timer."""
        if self.is_over or self._is_waiting:
            return
        now = self._group.clock.monotonic_ms()
        fatal = self._group.coordinator.fatal
        if fatal is not None:
            self._end(None, fatal)
            return
        if now >= self._until_ms:
            self._end(None, self._timeout_error())
            return
        connection = self._group.connection()
        if connection is None:
            self._group.want_coordinator()
            self._again_after(self._until_ms - now)  # whoever finds it calls step()
            return
        member_id, member_epoch = self._member() if self._member is not None else ("", NO_MEMBER)
        request = OffsetFetchRequest(
            group_id=self._group.group_id,
            member_id=member_id,
            member_epoch=member_epoch,
            partitions=by_topic(self._wanted),
        )
        self._is_waiting = True
        connection.request(request, self._on_reply, timeout_ms=max(1, min(ATTEMPT_MS, self._until_ms - now)))

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def _on_reply(self, reply: Reply | CallboardError, _payload: list[bytes]) -> None:
        self._is_waiting = False
        if self.is_over:
            return
        error = error_of(reply)
        if error is None and isinstance(reply, OffsetFetchReply):
            found: Found = dict.fromkeys(self._wanted)
            for entry in reply.entries:
                key = TopicPartition(entry.topic, entry.partition)
                if entry.offset >= 0 and key in self._wanted:
                    found[key] = OffsetAndMetadata(entry.offset, entry.metadata, entry.leader_epoch)
            self._end(found, None)
            return
        if error is None or not error.retriable:
            self._end(None, error)
            return
        self._last_error = error
        if is_coordinator_wrong(error):
            self._group.doubt_coordinator(error)
        self._failures += 1
        self._again_after(min(PAUSE_MS_MAX, PAUSE_MS << min(self._failures - 1, 10)))

    def _again_after(self, pause_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._group.loop.call_later(max(1, pause_ms) / 1000, self.step)

    def _timeout_error(self) -> CallboardError:
        if not self._group.cluster.has_contact:
            return self._group.cluster.unreachable_error()
        last = self._last_error or self._group.coordinator.error
        why = f"; last error: {last}" if last is not None else ""
        names = ", ".join(map(str, list(self._wanted)[:3]))
        error = CallboardTimeoutError(f"committed offsets of {names}: not within {self._timeout_ms / 1000:g} s{why}")
        error.__cause__ = last
        return error

    def _end(self, found: Found | None, error: CallboardError | None) -> None:
        if not self.is_over:
            self.cancel()
            self._done(found, error)
