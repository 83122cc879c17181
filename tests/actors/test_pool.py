"""The pool of threads for what blocks."""

import queue
import threading

import pytest

from callboard.actors.context import ThreadPool
from callboard.errors import IllegalStateError


class Told:
    """A loop of which only the threads' side is used: what they post is kept in order."""

    def __init__(self):
        self.calls, self.told = queue.Queue(), 0

    def call_soon_threadsafe(self, call, *args):
        self.told += 1
        self.call_soon(call, *args)

    def call_soon(self, call, *args):
        self.calls.put((call, args))

    def run_one(self):
        call, args = self.calls.get(timeout=60)
        call(*args)

    def run_until(self, ends, count):
        while len(ends) < count:
            self.run_one()


@pytest.fixture
def loop():
    return Told()


def test_results_and_errors_come_back_on_the_loop(loop):
    pool, ends = ThreadPool(loop, 2), []
    pool.submit(lambda: 7, lambda *end: ends.append(end))
    loop.run_one()
    error = OSError("the disk")

    def fail():
        raise error

    pool.submit(fail, lambda *end: ends.append(end))
    loop.run_one()
    pool.close()

    assert ends == [(7, None), (None, error)]


def test_as_many_jobs_run_at_once_as_there_may_be_threads_and_no_more(loop):
    pool, go = ThreadPool(loop, 2), threading.Event()
    begun, threads = queue.Queue(), set()

    def job():
        threads.add(threading.get_ident())
        begun.put(1)
        go.wait(60)

    ends = []
    for _ in range(6):
        pool.submit(job, lambda *end: ends.append(end))
    begun.get(timeout=60), begun.get(timeout=60)
    assert begun.empty()
    go.set()
    loop.run_until(ends, 6)
    pool.close()

    assert len(threads) == 2


def test_jobs_one_after_the_other_need_one_thread(loop):
    pool, threads = ThreadPool(loop, 4), set()
    for _ in range(20):
        pool.submit(threading.get_ident, lambda ident, _: threads.add(ident))
        loop.run_one()
    pool.close()

    assert len(threads) == 1


def test_the_loop_is_told_once_of_all_that_end_before_it_looks(loop):
    pool, ends = ThreadPool(loop, 1), []
    for number in range(3):
        pool.submit(lambda number=number: number, lambda *end: ends.append(end))
    last = threading.Event()
    pool.submit(last.set, lambda *end: ends.append(end))
    assert last.wait(60)
    loop.run_until(ends, 3)

    assert ends[:3] == [(0, None), (1, None), (2, None)]
    loop.run_until(ends, 4)
    assert loop.told <= 2, "one for the three, and one if the fourth ended after that was looked at"
    pool.close()


def test_what_one_end_raises_keeps_the_loop_from_no_other(loop):
    pool, ends, begun = ThreadPool(loop, 1), [], threading.Event()

    def fail(*_):
        raise ValueError("a fault of the actor's")

    pool.submit(lambda: begun.wait(60), fail)
    pool.submit(lambda: 2, lambda *end: ends.append(end))
    begun.set()
    with pytest.raises(ValueError, match="a fault"):
        loop.run_one()
    loop.run_until(ends, 1)

    assert ends == [(2, None)]
    pool.close()


def test_close_waits_for_what_runs_and_drops_what_waits(loop):
    pool, begun, go, ran = ThreadPool(loop, 1), threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(60)
        ran.append("first")

    pool.submit(first, lambda *_: None)
    pool.submit(lambda: ran.append("second"), lambda *_: None)
    begun.wait(60)
    closer = threading.Thread(target=pool.close)
    closer.start()
    while not pool._is_closed:
        threading.Event().wait(0.001)
    go.set()
    closer.join(60)

    assert ran == ["first"]
    with pytest.raises(IllegalStateError):
        pool.submit(print, lambda *_: None)


def test_when_the_system_gives_no_more_threads_those_that_run_do_it(loop, monkeypatch):
    real, refused = threading.Thread.start, []

    def start(thread):
        if refused:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    pool, ends = ThreadPool(loop, 2), []
    refused.append(1)
    with pytest.raises(RuntimeError):
        pool.submit(lambda: 0, lambda *end: ends.append(end))  # nobody could do it: it is refused, not forgotten
    refused.clear()
    gate = threading.Event()
    pool.submit(lambda: gate.wait(60), lambda *end: ends.append(end))
    refused.append(1)
    pool.submit(lambda: 2, lambda *end: ends.append(end))
    gate.set()
    loop.run_until(ends, 2)

    assert ends == [(True, None), (2, None)]
    pool.close()
