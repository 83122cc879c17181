"""What a replica tells of itself to whoever looks (``callboard topics describe --verbose``, ``tree``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...transport.messages import ReplicaDescription

if TYPE_CHECKING:
    from .replica import Replica


def described(replica: Replica, leader_epoch: int) -> ReplicaDescription:
    """Return what the replica's log and part are like; without a log, where it would be."""
    log, part = replica.log, replica.part
    description: dict[str, Any] = {
        "topic_id": replica.key.topic_id,
        "partition": replica.key.partition,
        "role": replica.role,
        "directory": replica.home.path,
    }
    if log is not None:
        description |= {
            "leader_epoch": leader_epoch,
            "log_start_offset": log.log_start_offset,
            "log_end_offset": log.log_end_offset,
            "high_watermark": part.high_watermark if part else -1,
            "durable_offset": log.durable_offset,
            "size_bytes": log.size_bytes,
            "segments": log.segment_count,
            "producers": len(log.producers),
        }
    return part.describe(description) if part is not None else ReplicaDescription(**description)
