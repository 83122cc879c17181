"""What a simulated process runs on: killed, paused, with clocks that are wrong."""

import random

from callboard.testing.loop import SimLoop
from callboard.testing.machine import ProcessClock, ProcessLoop, ProcessPool


def test_a_paused_process_runs_all_that_fell_due_in_a_burst_and_in_order():
    base, ran = SimLoop(), []
    loop = ProcessLoop(base, "broker-1")
    loop.pause()
    for delay_ms in (30, 10, 20):
        loop.call_later(delay_ms / 1000, ran.append, delay_ms)
    base.advance(100)
    assert ran == []

    loop.resume()
    base.run_until_idle()

    assert ran == [10, 20, 30]


def test_a_timer_cancelled_during_the_burst_does_not_ring():
    base, ran = SimLoop(), []
    loop = ProcessLoop(base, "broker-1")
    loop.pause()
    timers = []
    loop.call_soon(lambda: timers[0].cancel())
    timers.append(loop.call_later(0.01, ran.append, 1))
    base.advance(100)

    loop.resume()
    base.advance(100)

    assert ran == []


def test_a_killed_process_does_nothing_more():
    base, ran = SimLoop(), []
    loop = ProcessLoop(base, "broker-1")
    loop.call_soon(ran.append, 1)
    loop.call_later(0.01, ran.append, 2)
    loop.pause()
    base.advance(100)

    loop.kill()
    loop.resume()
    base.advance(100)

    assert ran == []


def test_a_job_may_have_happened_when_its_process_dies_before_it_hears_of_it():
    seen = set()
    for seed in range(50):
        base, told, done = SimLoop(), [], []
        loop = ProcessLoop(base, "broker-1")
        pool = ProcessPool(loop, random.Random(seed), lambda _: 10.0)
        pool.submit(lambda done=done: done.append(1), lambda *result, told=told: told.append(result))
        base.advance(5)
        loop.kill()
        base.advance(100)
        assert told == []
        seen.add(len(done))

    assert seen == {0, 1}


def test_a_fast_clock_makes_timers_ring_early_and_a_jump_moves_the_wall_alone():
    base, ran = SimLoop(), []
    loop, clock = ProcessLoop(base, "broker-1", rate=1.25), ProcessClock(base, rate=1.25, boot_ms=7_000)
    loop.call_later(1.0, lambda: ran.append((base.now_us, clock.monotonic_ms())))
    base.advance(2_000)
    before = clock.monotonic_ms()
    clock.wall_offset_ms -= 3_600_000

    assert ran == [(800_000, 8_000)]
    assert clock.monotonic_ms() == before
