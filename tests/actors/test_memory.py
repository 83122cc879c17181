"""A process that grows past its limit is told of once, and nobody looks where there is none."""

import mmap

from callboard.actors.memory import CHECK_MS, HURRY_MS, resident_bytes, watch_memory


class FakeLoop:
    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, callback, *args):
        self.timers.append((delay_s, callback, args))

    def turn(self):
        (_, callback, args), *self.timers = self.timers
        callback(*args)


def test_growth_past_the_limit_is_told_once():
    loop, told, sizes = FakeLoop(), [], iter([10, 100, 101, 102, 40, 103])

    watch_memory(loop, 100, told.append, lambda: next(sizes))
    assert [delay_s for delay_s, _, _ in loop.timers] == [CHECK_MS / 1_000]
    for _ in range(3):
        loop.turn()
    assert told == [101]
    loop.turn()
    loop.turn()

    assert told == [101, 103]


def test_past_half_of_the_limit_something_is_done_at_shorter_intervals():
    loop, calls, sizes = FakeLoop(), [], iter([50, 51, 52, 10])

    watch_memory(loop, 100, lambda held: None, lambda: next(sizes), on_half=lambda: calls.append(1))
    assert calls == []
    loop.turn()
    loop.turn()
    assert calls == [1, 1]
    assert [delay_s for delay_s, _, _ in loop.timers] == [HURRY_MS / 1_000]
    loop.turn()

    assert calls == [1, 1]


def test_without_a_limit_nobody_looks():
    loop = FakeLoop()

    watch_memory(loop, 0, lambda held: None, lambda: 1 / 0)

    assert loop.timers == []


def test_what_is_held_is_measured():
    before = resident_bytes()
    with mmap.mmap(-1, 32 << 20) as held:  # not from the heap, which may have as much to spare
        held.write(b"x" * (32 << 20))

        assert resident_bytes() - before > 16 << 20
