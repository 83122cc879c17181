"""How far a partition has got: the high watermark.

The one rule: *a record is committed when every member of the maximal in-sync set holds it, in the sense of the
topic's ``flush``*. Under ``flush="ack"`` holding means durable, so what a consumer has seen survives power
loss; under ``"os"`` it means being in the log. The leader's own copy counts like any other: with one replica
the same rule reads "visible when durable".
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

from ...model import BrokerId, Offset


class Position(NamedTuple):
    """Where one replica's copy ends. 0 <= durable_offset <= log_end_offset."""

    log_end_offset: Offset
    durable_offset: Offset


def high_watermark(positions: Mapping[BrokerId, Position], maximal_isr: Set[BrokerId], *, flush: str) -> Offset:
    """Return the offset below which every replica of ``maximal_isr`` holds the log. Exclusive.

    Never used to *lower* a high watermark: the leader keeps the maximum that it has announced in its epoch.

    Args:
        maximal_isr: the committed in-sync set plus additions not yet committed (R3); removals not yet committed
            still count.
        flush: the topic's ``"ack"`` or ``"os"``.

    Raises:
        ValueError: ``maximal_isr`` is empty. A leader is always in its own ISR.
        KeyError: a member of it has no position: the caller must hold the watermark back, not guess.
    Source: Kafka's replication design; committed means held by all of the ISR, not by a majority as in Raft.
    """
    if not maximal_isr:
        raise ValueError("the in-sync set is empty; a leader is always in its own")
    if flush == "ack":
        return min(positions[broker].durable_offset for broker in maximal_isr)
    return min(positions[broker].log_end_offset for broker in maximal_isr)
