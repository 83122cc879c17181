"""When a partition looks after its log: about a period from now, at moments that others share."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.partition.housekeeping import SLOTS, SPREAD, next_look_ms


@given(st.integers(0, 1 << 45), st.integers(1, 1 << 33), st.floats(0, 1))
def test_the_next_look_is_about_a_period_away(now_ms, period_ms, chance):
    away_ms = next_look_ms(now_ms, period_ms, chance)

    assert away_ms > 0 or period_ms < 3
    assert (1 - SPREAD) * period_ms - 1 <= away_ms <= (1 + SPREAD) * period_ms + period_ms / SLOTS + 1


def test_a_thousand_partitions_share_some_forty_moments_evenly():
    looks = Counter(
        begun_ms + next_look_ms(begun_ms, 40_000, number / 1_000)
        for number in range(1_000)
        for begun_ms in (1_000_000 + number % 7,)
    )

    assert 2 * SPREAD * SLOTS - 1 <= len(looks) <= 2 * SPREAD * SLOTS + 2
    assert max(looks.values()) <= 30
