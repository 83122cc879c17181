"""Whether a consumer reads on, and if not why: for monitoring, in one call that asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ..model import TopicPartition
from .io import IoThread
from .reading import PartitionReader

if TYPE_CHECKING:
    from .fetching import Fetching


class ConsumerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """``is_ok``: every assigned partition is being read, as far as this side can tell; ``trouble`` says what is not."""

    is_ok: bool
    trouble: list[str]
    assigned: int  # partitions
    paused: int
    fetching: int  # partitions with a fetch at a broker now
    buffered_bytes: int
    unreachable_ms: int  # for how long no broker has been reachable; 0: one is
    last_answer_ms: int  # how long ago a broker answered a fetch; -1: never
    behind: dict[str, int]  # records between position and the last known high watermark, where there are any


def describe_health(
    readers: Mapping[TopicPartition, PartitionReader], fetching: Fetching, io: IoThread
) -> ConsumerHealth:
    """Return the health; called under the consumer's lock, reads what the I/O thread writes."""
    now = io.clock.monotonic_ms()
    cluster, states = fetching.cluster, dict(fetching.fetcher.states)
    trouble = [] if io.is_alive else ["the consumer is closed"]
    unreachable_ms = 0 if cluster.unreachable_since_ms is None else now - cluster.unreachable_since_ms
    if unreachable_ms:
        trouble.append(str(cluster.unreachable_error()))
    for key, reader in readers.items():
        state, leader = states.get(key), cluster.metadata.leader(*key)
        if reader.error is not None or reader.bad is not None:
            trouble.append(f"{key}: {reader.bad or reader.error}")
        elif leader is None or leader.broker_id < 0:
            trouble.append(f"{key}: no leader")
        elif state is not None and state.failures:
            trouble.append(f"{key}: {state.failures} fetches in a row failed")
    behind = {
        str(key): reader.high_watermark - reader.position
        for key, reader in readers.items()
        if reader.high_watermark is not None and reader.position is not None and reader.high_watermark > reader.position
    }
    return ConsumerHealth(
        is_ok=not trouble,
        trouble=trouble,
        assigned=len(readers),
        paused=sum(reader.is_paused for reader in readers.values()),
        fetching=sum(state.in_flight > 0 for state in states.values()),
        buffered_bytes=fetching.fetcher.total.buffered,
        unreachable_ms=unreachable_ms,
        last_answer_ms=-1 if fetching.answered_ms < 0 else now - fetching.answered_ms,
        behind=behind,
    )
