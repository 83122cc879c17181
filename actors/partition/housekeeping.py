"""When a partition looks after its log. Pure.

The problem: a thousand idle partitions look now and then whether there is something to sync, to roll or to delete. All
at once they would hold up the loop; each at a time of its own they wake up the process a thousand times, and a wake-up
costs more than the look.

So the moments are spread by chance, and then put on a grid: some forty moments, each shared by a few dozen partitions.
"""

from __future__ import annotations

CHECKPOINT_LOOKS = 6  # checkpoint_ms apart: after so many a small change is noted, too
SPREAD = 0.2  # of the period, to either side
SLOTS = 100  # of the grid in a period; two fifths of them are used, for the spread


def next_look_ms(now_ms: int, period_ms: int, chance: float) -> int:
    """Return in how many milliseconds to look next: about a period, a moment that others share.

    Args:
        now_ms: monotonic, of the clock that all partitions share.
        chance: in 0..1.
    """
    slot_ms = max(1, period_ms // SLOTS)
    due_ms = now_ms + round(period_ms * (1 - SPREAD + 2 * SPREAD * chance))
    return -(-due_ms // slot_ms) * slot_ms - now_ms
