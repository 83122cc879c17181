"""What a partition's leader deletes from the front: by whose word, by which clock, and when it may say so.

Pure. Which segments are due is the log's business (``storage/retention.py``); here stand the two questions that are
not about files.

1. *What time is it?* The wall clock may jump, and a jump must not delete. So age is reckoned by a time that follows
   the boot clock: it starts with the wall clock and then takes in at most a tenth of what has passed of any
   difference between the two. Where the wall clock is behind it, the wall clock counts. A clock that was set right
   after a jump only makes records stay longer.
2. *Is it deleted?* A log start offset is told to nobody before it would survive power loss, and any failover.
"""

from __future__ import annotations

from ...errors import ErrorCode
from ...model import Offset, PartitionKey
from ...transport.messages import DeleteRecordsEntryReply
from .events import Answer, DeleteRecords, Effect, Ticket, epoch_error
from .leader import Leader

CATCH_UP = 10  # of the time since the last look, the part by which a difference is taken in
TO_HIGH_WATERMARK = -1


class RetentionClock:
    """Tells the time by which records age. Looked at now and then; each look teaches it."""

    def __init__(self, wall_ms: int, boot_ms: int) -> None:
        self._offset_ms = wall_ms - boot_ms  # of the trusted time to the boot clock
        self._boot_ms = boot_ms  # of the last look

    def now(self, wall_ms: int, boot_ms: int) -> int:
        """Return the trusted time: never after the wall clock, never moved by a jump of it."""
        allowed_ms = max(boot_ms - self._boot_ms, 0) // CATCH_UP
        difference_ms = wall_ms - boot_ms - self._offset_ms
        self._offset_ms += max(-allowed_ms, min(difference_ms, allowed_ms))
        self._boot_ms = boot_ms
        return min(boot_ms + self._offset_ms, wall_ms)


class Deletions:
    """The delete_records that are not known to be on all disks: who waits for which log start offset."""

    def __init__(self, key: PartitionKey) -> None:
        self._key = key
        self._waiting: list[tuple[Offset, Ticket]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def judge(self, request: DeleteRecords, leader: Leader) -> Offset | list[Effect]:
        """Return the log start offset that is asked for, or a refusal: nothing above the high watermark goes."""
        if error := epoch_error(request.leader_epoch, leader.epoch):
            detail = f"request is of epoch {request.leader_epoch}, leader of {leader.epoch}"
            return [self.refusal(request.ticket, error, detail, leader.log_start_offset)]
        if request.before_offset == TO_HIGH_WATERMARK:
            return leader.high_watermark
        if not 0 <= request.before_offset <= leader.high_watermark:
            detail = f"cannot delete below {request.before_offset}, the high watermark is {leader.high_watermark}"
            return [self.refusal(request.ticket, ErrorCode.OFFSET_OUT_OF_RANGE, detail, leader.log_start_offset)]
        return Offset(request.before_offset)

    def wait(self, offset: Offset, ticket: Ticket) -> None:
        self._waiting.append((offset, ticket))

    def on_durable(self, log_start_offset: int, leader: Leader) -> list[Effect]:
        """Answer those whose log start offset has come to disk wherever it must (``Leader.deleted_offset``)."""
        done = [ticket for offset, ticket in self._waiting if offset <= log_start_offset]
        self._waiting = [(offset, ticket) for offset, ticket in self._waiting if offset > log_start_offset]
        return [
            Answer(
                ticket,
                DeleteRecordsEntryReply(
                    topic_id=self._key.topic_id,
                    partition=self._key.partition,
                    log_start_offset=leader.log_start_offset,
                    leader_epoch=leader.epoch,
                ),
            )
            for ticket in done
        ]

    def refuse_all(self, error: ErrorCode) -> list[Effect]:
        waiting, self._waiting = self._waiting, []
        return [self.refusal(ticket, error) for _, ticket in waiting]

    def refusal(self, ticket: Ticket, error: int, detail: str = "", log_start_offset: int = -1) -> Answer:
        return refusal_of_deletion(self._key, ticket, error, detail, log_start_offset)


def refusal_of_deletion(
    key: PartitionKey, ticket: Ticket, error: int, detail: str = "", log_start_offset: int = -1
) -> Answer:
    reply = DeleteRecordsEntryReply(
        topic_id=key.topic_id,
        partition=key.partition,
        error=error,
        detail=detail,
        log_start_offset=log_start_offset,
    )
    return Answer(ticket, reply)
