"""What a future waits on."""

import threading

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
