"""Since when it is known that this broker leads what its coordinators stand on.

A coordinator that was deposed and has not heard of it believes all that it knows. It can acknowledge nothing, its
appends are fenced; but an answer that needs no append would go out, of a state that is past: an offset from before a
commit that its successor has acknowledged, or a heartbeat that keeps a member alive whose partitions are given away.
So such an answer needs a proof of leadership, and there are two:

1. *An append that was acknowledged*, with ``acks=all``, in this leader epoch: nobody led in a later one when the last
   in-sync replica took it; so it proves leadership at the moment it was handed to the replica.
2. *The store's word.* A session's heartbeat was answered, and no picture is newer than the one that is known here: so
   what that picture says was true when the heartbeat was sent.

Who reads a committed offset waits for a proof that is younger than his question: the next append, and if nothing is to
be written, a marker. Who beats may be told by a proof that is ``session_timeout_ms`` old (of brokers): the second kind
comes all the time, and costs nothing; and with the metadata process away, markers. In return a coordinator that loads
gives every member so much more time before it is silent: whoever was told by the one before is alive until then.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...model import LeaderEpoch

NEVER_PROVEN_MS = -(1 << 62)


class Proofs:
    """The second kind, of one broker's coordinators. Written by who hosts them, read by them."""

    def __init__(self) -> None:
        self._led: dict[int, LeaderEpoch] = {}  # as the store said at ``_at_ms``
        self._at_ms = NEVER_PROVEN_MS  # only grows

    def confirm(self, led: Mapping[int, LeaderEpoch], at_ms: int) -> None:
        """These partitions were led here, in these epochs, at that time."""
        self._led, self._at_ms = dict(led), max(self._at_ms, at_ms)

    def proven_ms(self, partition: int, epoch: LeaderEpoch) -> int:
        """Return when it was known last that this partition is led here in this epoch."""
        return self._at_ms if self._led.get(partition) == epoch else NEVER_PROVEN_MS
