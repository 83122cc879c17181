"""What a future waits on."""

import signal
import threading
import time

import pytest

from callboard.client.latch import Latch


def test_it_is_not_set_before_it_is_set_and_stays_so():
    latch = Latch()
    assert not latch.is_set()
    assert latch.wait(0) is False
    assert latch.wait(-1) is False
    assert latch.wait(0.001) is False

    latch.set()
    latch.set()

    assert latch.is_set()
    assert [latch.wait(), latch.wait(0), latch.wait(1e12)] == [True, True, True]


def test_everybody_who_waits_is_let_through():
    latch, through = Latch(), []
    threads = [threading.Thread(target=lambda: through.append(latch.wait(60))) for _ in range(8)]
    for thread in threads:
        thread.start()

    latch.set()
    for thread in threads:
        thread.join(60)

    assert through == [True] * 8


def test_no_waiter_is_lost_between_set_and_wait():
    for _ in range(2_000):
        latch = Latch()
        thread = threading.Thread(target=latch.set)
        thread.start()
        assert latch.wait(60)
        thread.join()


def test_a_timeout_beyond_what_locks_can_wait_is_taken_as_the_greatest():
    latch = Latch()
    setter = threading.Timer(0.01, latch.set)
    setter.start()

    assert latch.wait(threading.TIMEOUT_MAX * 2)
    setter.join()


class _Interrupted(Exception):
    pass


class _InterruptedLock:
    """A lock of which one thread gets a signal the moment it has it."""

    def __init__(self, lock):
        self._lock = lock
        self.victim = 0

    def acquire(self, timeout=-1):
        got = self._lock.acquire(timeout=timeout)
        if got and threading.get_ident() == self.victim:
            raise _Interrupted
        return got

    def release(self):
        self._lock.release()


def test_a_waiter_that_a_signal_ends_with_the_lock_in_its_hands_passes_it_on():
    latch, through = Latch(), []
    latch._lock = lock = _InterruptedLock(latch._lock)
    lock.victim = threading.get_ident()
    setter = threading.Timer(0.02, latch.set)
    setter.start()
    with pytest.raises(_Interrupted):
        latch.wait(60)
    latch._is_set = False  # so that this waits on the lock, as one does that came before it was set

    thread = threading.Thread(target=lambda: through.append(latch._lock.acquire(timeout=10)))
    thread.start()
    thread.join()
    setter.join()

    assert through == [True]


def test_set_and_waiters_whose_time_is_over_get_along():
    for _ in range(3_000):
        latch, through = Latch(), []
        waiters = [
            threading.Thread(target=lambda latch=latch, through=through: through.append(latch.wait(1e-5)))
            for _ in range(2)
        ]
        for waiter in waiters:
            waiter.start()
        latch.set()
        for waiter in waiters:
            waiter.join()
        assert len(through) == 2
        assert latch.wait(0)


def test_waiting_is_ended_by_a_signal():
    latch = Latch()
    before = signal.signal(signal.SIGUSR1, lambda *_: (_ for _ in ()).throw(_Interrupted()))
    begun = time.monotonic()
    thread = threading.Timer(0.02, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
    try:
        thread.start()
        with pytest.raises(_Interrupted):
            latch.wait(60)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - begun < 50
    assert latch.wait(0) is False
