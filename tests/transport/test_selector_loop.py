"""The small loop of the client's I/O thread."""

import os
import threading
import time

import pytest

from callboard.transport.descriptors import SelectorDescriptors, descriptors
from callboard.transport.selector_loop import ROUNDS_MAX, SelectorLoop

from .rig import raise_it


@pytest.fixture(params=[descriptors, SelectorDescriptors], ids=["this system's", "portable"])
def loop(request):
    made = SelectorLoop(on_failure=raise_it, make_descriptors=request.param)
    yield made
    made.close()


def run_with(loop, *callbacks):
    for callback in callbacks:
        loop.call_soon(callback)
    loop.run()


def test_callbacks_run_in_order(loop):
    seen = []
    for number in range(5):
        loop.call_soon(seen.append, number)
    run_with(loop, loop.stop)

    assert seen == [0, 1, 2, 3, 4]


def test_what_is_ready_when_it_stops_still_runs(loop):
    seen = []

    def stop_and_more():
        loop.stop()
        loop.call_soon(seen.append, 1)

    run_with(loop, stop_and_more)

    assert seen == [1]


def test_timers_fire_in_the_order_of_their_times_and_not_before(loop):
    seen, start = [], time.monotonic()
    loop.call_later(0.02, lambda: (seen.append("late"), loop.stop()))
    loop.call_later(0.01, seen.append, "early")
    loop.call_later(0, seen.append, "now")
    loop.run()

    assert seen == ["now", "early", "late"]
    assert time.monotonic() - start >= 0.02


def test_a_cancelled_callback_does_not_run(loop):
    seen = []
    loop.call_later(0, seen.append, 1).cancel()
    loop.call_soon(seen.append, 2).cancel()
    loop.call_later(0.005, loop.stop)
    loop.run()

    assert seen == []


def test_cancelled_timers_do_not_pile_up(loop):
    for _ in range(10_000):
        loop.call_later(3_600, print).cancel()

    assert len(loop._timers) < 200


def test_callbacks_that_ask_for_more_do_not_keep_descriptors_waiting(loop):
    out, into = os.pipe()
    generations = []

    def again():
        generations.append(1)
        loop.call_soon(again)

    loop.add_reader(out, loop.stop)
    os.write(into, b"x")
    loop.call_soon(again)
    loop.run()

    assert len(generations) <= 2 * ROUNDS_MAX
    os.close(out)
    os.close(into)


def test_one_turn_runs_what_its_callbacks_ask_for(loop):
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(loop.stop)))
    waits, wait = [], loop._wait
    loop._wait = lambda timeout: (waits.append(timeout), wait(timeout))[1]
    loop.run()

    assert waits == [0.0]


def test_a_wakeup_before_the_loop_sleeps_is_not_lost(loop):
    for _ in range(1_000):
        loop._descriptors.wake()
    assert loop._descriptors.wait(60) == []


def test_a_readable_descriptor_calls_its_reader(loop):
    out, into = os.pipe()
    seen = []
    loop.add_reader(out, lambda: (seen.append(os.read(out, 9)), loop.stop()))
    os.write(into, b"x")
    loop.run()

    assert seen == [b"x"]
    assert loop.remove_reader(out)
    assert not loop.remove_reader(out)
    os.close(out)
    os.close(into)


def test_a_reader_that_was_removed_in_the_same_turn_is_not_called(loop):
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def first_removes_the_other(mine, other):
        seen.append(mine)
        loop.remove_reader(mine)
        loop.remove_reader(other)
        loop.stop()

    (a, into_a), (b, into_b) = pipes
    loop.add_reader(a, first_removes_the_other, a, b)
    loop.add_reader(b, first_removes_the_other, b, a)
    os.write(into_a, b"x")
    os.write(into_b, b"x")
    loop.run()

    assert len(seen) == 1
    for fd in (a, b, into_a, into_b):
        os.close(fd)


def test_a_callback_from_another_thread_wakes_a_sleeping_loop(loop):
    threading.Timer(0.01, lambda: loop.call_soon_threadsafe(loop.stop)).start()
    loop.run()

    assert loop.wakeups >= 1


def test_no_callback_of_many_threads_is_lost(loop):
    count, threads = 2_000, 4
    seen = []

    def one_more():
        seen.append(1)
        if len(seen) == count * threads:
            loop.stop()

    def hammer():
        for _ in range(count):
            loop.call_soon_threadsafe(one_more)

    workers = [threading.Thread(target=hammer) for _ in range(threads)]
    for worker in workers:
        worker.start()
    watchdog = threading.Timer(20, loop.stop)
    watchdog.start()
    loop.run()
    watchdog.cancel()
    watchdog.join()
    for worker in workers:
        worker.join()

    assert len(seen) == count * threads


def test_stop_from_another_thread_ends_a_sleeping_loop(loop):
    threading.Timer(0.01, loop.stop).start()
    loop.run()


def test_a_callback_that_raises_is_reported_and_the_loop_goes_on():
    failures, seen = [], []
    loop = SelectorLoop(on_failure=failures.append)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, 1)
    run_with(loop, loop.stop)
    loop.close()

    assert isinstance(failures[0], ZeroDivisionError)
    assert seen == [1]


def test_a_closed_loop_takes_no_more():
    loop = SelectorLoop()
    loop.close()
    loop.close()
    loop.stop()

    with pytest.raises(RuntimeError):
        loop.call_soon_threadsafe(print)


def test_it_knows_its_own_thread(loop):
    seen = []
    run_with(loop, lambda: seen.append(loop.is_own_thread), loop.stop)

    assert seen == [True]
    assert not loop.is_own_thread


def test_it_needs_no_asyncio():
    import subprocess
    import sys

    script = (
        "import sys, callboard.transport.selector_loop, callboard.transport.endpoint; print('asyncio' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "False", "an asyncio import costs the client 30 ms"


def test_a_signal_in_the_middle_of_a_wake_up_does_not_cost_it():
    """Ctrl-C in the thread that wakes: after it has said that it does, before it has."""
    woken, seen = descriptors(), []
    wake, loop = woken.wake, SelectorLoop(on_failure=raise_it, make_descriptors=lambda: woken)

    def interrupted():
        woken.wake = wake
        raise KeyboardInterrupt

    thread = threading.Thread(target=loop.run)
    thread.start()
    while not loop._is_asleep:
        time.sleep(0.001)
    woken.wake = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop.call_soon_threadsafe(seen.append, 1)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)

    assert not thread.is_alive()
    assert seen == [1]
    loop.close()
