"""A process that grows past its limit is told of once, and nobody looks where there is none."""

import mmap

from callboard.actors.memory import CHECK_MS, resident_bytes, watch_memory


class FakeLoop:
    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, callback):
        self.timers.append((delay_s, callback))

    def turn(self):
        (_, callback), *self.timers = self.timers
        callback()


def test_growth_past_the_limit_is_told_once():
    loop, told, sizes = FakeLoop(), [], iter([10, 100, 101])

    watch_memory(loop, 100, told.append, lambda: next(sizes))
    assert [delay_s for delay_s, _ in loop.timers] == [CHECK_MS / 1_000]
    loop.turn()
    assert told == []
    loop.turn()

    assert told == [101]
    assert loop.timers == []


def test_without_a_limit_nobody_looks():
    loop = FakeLoop()

    watch_memory(loop, 0, lambda held: None, lambda: 1 / 0)

    assert loop.timers == []


def test_what_is_held_is_measured():
    before = resident_bytes()
    with mmap.mmap(-1, 32 << 20) as held:  # not from the heap, which may have as much to spare
        held.write(b"x" * (32 << 20))

        assert resident_bytes() - before > 16 << 20
