"""Whose turn it is to call the application, and what is within a call of it."""

from __future__ import annotations

import asyncio
import sys
import threading

from callboard.client import turn as module
from callboard.client.turn import Calls, Turn


def test_there_is_one_turn_at_a_time_and_who_waits_has_the_next():
    ended, has_begun = [], threading.Event()
    turn = Turn(lambda: ended.append(turn.is_taken))

    def wait():
        has_begun.set()
        with turn.taken(20) as is_taken:
            found.append((is_taken, turn.is_ours))

    found = []
    other = threading.Thread(target=wait)
    with turn.taken() as is_taken:
        assert is_taken
        assert turn.is_ours
        other.start()
        assert has_begun.wait(20)
        assert in_a_thread(lambda: taken_now(turn)) is False
        assert in_a_thread(lambda: turn.is_ours) is False
    other.join()

    assert found == [(True, True)]
    assert ended == [False, False], "whoever is told finds that it has ended"
    assert not turn.is_taken
    assert not turn.is_ours


def taken_now(turn):
    with turn.taken() as is_taken:
        return is_taken


def in_a_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_an_interrupt_while_a_turn_is_taken_leaves_none_behind():
    turn = Turn(lambda: None)
    line = 0
    while interrupted_at(line, turn):
        assert not turn.is_taken, f"the {line}th line"
        assert taken_now(turn)
        line += 1

    assert line > 5


def interrupted_at(line, turn):
    """Take a turn, and be interrupted before that line of ``turn.py``; False: there are fewer."""
    left = [line]

    def trace(frame, event, _):
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with turn.taken():
            sys.settrace(before)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)


def test_what_a_call_awaits_and_runs_in_threads_is_within_it_and_what_outlives_it_is_not():
    calls, found = Calls(), []

    async def inner():
        found.append((calls.is_ours, await asyncio.to_thread(lambda: calls.is_ours)))
        return asyncio.ensure_future(later())

    async def later():
        await is_over.wait()
        found.append(calls.is_ours)

    async def main():
        with calls.calling():
            task = await asyncio.ensure_future(inner())
        found.append(calls.is_ours)
        is_over.set()
        await task

    is_over = asyncio.Event()
    asyncio.run(main())

    assert found == [(True, True), False, False]
