"""The clock of leases, sessions and deadlines is the machine's since its boot, sleep included (B27, F21)."""

import time

import pytest

from callboard.transport.loop import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts its sleep")
def test_leases_and_deadlines_go_by_the_time_since_boot_which_no_person_sets(monkeypatch):
    monkeypatch.setattr(time, "clock_gettime_ns", {time.CLOCK_BOOTTIME: 5_000_000}.__getitem__)

    assert SystemClock().monotonic_ms() == 5
