"""What a request must be before it reaches an actor, and how long its sender waits. Pure."""

from __future__ import annotations

from ..errors import ErrorCode
from ..transport import messages as m
from ..transport.seam import Inbound

PATIENCE_MS = 10_000  # for requests that give no deadline of their own

Problem = tuple[ErrorCode, str]


def patience(inbound: Inbound) -> int:
    """How long the sender of a request still waits for it, in ms."""
    deadline_ms = inbound.message.deadline_ms
    return max(0, deadline_ms - inbound.received_ms) if deadline_ms else PATIENCE_MS


def problem_with_produce(request: m.ProduceRequest, payload_frames: int) -> Problem | None:
    if request.acks not in (m.ACKS_NONE, m.ACKS_LEADER, m.ACKS_ALL):
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks={request.acks}"
    if not request.entries:
        return ErrorCode.INVALID_REQUEST, "a produce request without entries"
    if any(entry.frames < 2 for entry in request.entries):
        return (
            ErrorCode.INVALID_REQUEST,
            "each entry has at least 2 frames: the 21 bytes outside the checksum, then the rest",
        )
    declared = sum(entry.frames for entry in request.entries)
    if declared != payload_frames:
        return ErrorCode.INVALID_REQUEST, f"the entries declare {declared} payload frames, {payload_frames} came"
    return None


def problem_with_fetch(request: m.FetchRequest) -> Problem | None:
    if not request.entries:
        return ErrorCode.INVALID_REQUEST, "a fetch request without entries"
    if request.max_wait_ms < 0 or request.min_bytes < 0 or request.max_bytes < 1:
        return ErrorCode.INVALID_REQUEST, "max_wait_ms and min_bytes are not negative, max_bytes is at least 1"
    if len({(entry.topic_id, entry.partition) for entry in request.entries}) < len(request.entries):
        return ErrorCode.INVALID_REQUEST, "a fetch names each partition once"
    return None


def problem_with_follower_fetch(request: m.FetchRequest, door: str) -> Problem | None:
    if door != "peers":
        return ErrorCode.INVALID_REQUEST, "followers fetch at the door for brokers"
    if request.session < 1 or request.sequence < 0:
        return ErrorCode.INVALID_REQUEST, "a follower fetches in a session: session >= 1, sequence >= 0"
    if request.max_wait_ms < 0 or request.max_bytes < 1:
        return ErrorCode.INVALID_REQUEST, "max_wait_ms is not negative, max_bytes is at least 1"
    return None
