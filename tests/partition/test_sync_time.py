"""How long a sync has taken: not counted is what the process slept."""

from __future__ import annotations

from callboard.actors.partition.sync_time import SLEPT_MS_MIN, SyncTime


def test_a_sync_is_timed_from_its_begin():
    time = SyncTime()
    time.began(1_000)

    assert time.on_look(2_500, due_ms=2_500) == 1_500
    assert time.on_look(3_000 + SLEPT_MS_MIN - 1, due_ms=3_000) == 2_000 + SLEPT_MS_MIN - 1


def test_whoever_comes_late_to_look_times_it_anew():
    time = SyncTime()
    time.began(1_000)

    assert time.on_look(31_000, due_ms=2_000) == 0
    assert time.on_look(32_000, due_ms=32_000) == 1_000


def test_without_a_sync_under_way_nothing_has_taken_time():
    time = SyncTime()
    assert (time.is_running, time.on_look(5_000, due_ms=5_000)) == (False, 0)

    time.began(6_000)
    time.ended()

    assert (time.is_running, time.on_look(9_000, due_ms=9_000)) == (False, 0)
