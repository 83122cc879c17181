"""Actors on real loops: asyncio's and uvloop's, with other threads knocking."""

import asyncio
import random
import threading
from contextlib import contextmanager

import pykka
import pytest
import uvloop

from callboard.actors.runtime import ActorDeadError, BlockingAskError, Context, LoopActor, ThreadPool
from callboard.actors.turns import Turns
from callboard.testing.context import Absent
from callboard.transport.loop import SystemClock


class Counter(LoopActor):
    handlers = {int: "on_number", str: "on_text"}

    def __init__(self, context, address, parent=None):
        super().__init__(context, address, parent)
        self.total, self.threads = 0, set()

    def on_number(self, number):
        self.total += number
        self.threads.add(threading.get_ident())
        return self.total

    def on_text(self, text):
        if text == "job":
            self.in_pool(threading.get_ident, lambda result, error: int(result != threading.get_ident()))
        elif text == "boom":
            raise ValueError(text)
        return self.total


@contextmanager
def running(make_loop, *, has_turns=True):
    """Yield a context whose loop runs on a thread of its own."""
    loop = make_loop()
    turns = Turns(loop) if has_turns else None
    pool = ThreadPool(loop, 2, turns=turns)
    context = Context(
        name="test",
        loop=loop,
        clock=SystemClock(),
        random=random.Random(0),
        new_id=lambda: "",
        transport=Absent("transport"),
        files=Absent("files"),
        pool=pool,
        turns=turns,
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield context
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        pool.close()
        loop.close()


@pytest.fixture(
    params=[(asyncio.new_event_loop, True), (asyncio.new_event_loop, False), (uvloop.new_event_loop, True)],
    ids=["asyncio", "asyncio, a callback for each drain", "uvloop"],
)
def context(request):
    make_loop, has_turns = request.param
    with running(make_loop, has_turns=has_turns) as context:
        yield context


def test_no_tell_from_any_thread_is_lost(context):
    ref = Counter.start(context, "counter")

    def tell_many():
        for _ in range(5_000):
            ref.tell(1)

    threads = [threading.Thread(target=tell_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ref.ask(0, block=True, timeout=30) == 20_000
    assert len(ref.actor.threads) == 1


def test_other_threads_may_block_on_an_ask(context):
    ref = Counter.start(context, "counter")

    assert [ref.ask(2, block=True, timeout=30) for _ in range(100)][-1] == 200
    assert ref.stop(block=True, timeout=30) is True
    with pytest.raises(ActorDeadError):
        ref.ask(1, block=True, timeout=30)


def test_a_blocking_ask_that_is_not_answered_in_time_says_so(context):
    ref = Counter.start(context, "counter")
    is_blocked, blocker = threading.Event(), threading.Event()
    context.loop.call_soon_threadsafe(lambda: (is_blocked.set(), blocker.wait()))
    is_blocked.wait()
    try:
        with pytest.raises(pykka.Timeout):
            ref.ask(1, block=True, timeout=0.01)
    finally:
        blocker.set()


def test_an_ask_can_be_awaited_on_the_loop(context):
    async def main():
        ref = Counter.start(context, "counter")
        numbers = [await ref.ask(1) for _ in range(10)]
        with pytest.raises(BlockingAskError):
            ref.ask(1, block=True)
        with pytest.raises(ValueError, match="boom"):
            await ref.ask("boom")
        return numbers, await ref.stop()

    assert asyncio.run_coroutine_threadsafe(main(), context.loop).result(30) == (list(range(1, 11)), False)


def test_an_answer_from_one_loop_can_be_awaited_on_another(context):
    ref = Counter.start(context, "counter")

    async def elsewhere():
        return [await ref.ask(1) for _ in range(50)]

    assert asyncio.run(elsewhere()) == list(range(1, 51))


def test_a_pool_job_runs_on_another_thread_and_ends_on_the_loop(context):
    ref = Counter.start(context, "counter")
    ref.tell("job")
    done = threading.Event()

    async def wait():
        while not ref.actor.total:
            await asyncio.sleep(0)
        done.set()

    asyncio.run_coroutine_threadsafe(wait(), context.loop).result(30)
    assert ref.actor.total == 1
    assert len(ref.actor.threads) == 1


def test_no_asker_is_left_without_an_answer_when_the_actor_ends_meanwhile(context):
    answers = []

    def ask_until_dead(ref):
        while True:
            future = ref.ask(1)
            answers.append(future)
            if not ref.is_alive():
                return

    ref = Counter.start(context, "counter")
    threads = [threading.Thread(target=ask_until_dead, args=(ref,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    ref.stop()
    for thread in threads:
        thread.join()

    for answer in answers:
        try:
            answer.get(timeout=30)
        except ActorDeadError:
            continue


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_after_the_loop_is_closed_actors_are_dead_to_other_threads(make_loop):
    with running(make_loop) as context:
        ref = Counter.start(context, "counter")
        assert ref.ask(1, block=True, timeout=30) == 1

    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(ref.post(1)))
    thread.start()
    thread.join()
    assert outcome == [False]
    with pytest.raises(ActorDeadError):
        ref.ask(1, block=False).get(timeout=30)
