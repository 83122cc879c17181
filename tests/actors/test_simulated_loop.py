"""The simulated loop and its context: one thread, one order to a seed, time that only a test lets pass."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop

from .echoes import Echo, Say


def test_one_seed_gives_one_order_and_other_seeds_give_others():
    def run(seed):
        loop = SimLoop(seed, shuffle=True)
        context = sim_context(seed, loop=loop)
        journal = []

        class Writer(Echo):
            def on_say(self, message):
                journal.append(self.address)

        for number in range(6):
            Writer.start(context, f"writer-{number}").tell(Say("x"))
        loop.run_until_idle()
        return journal

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(10)}) > 1


def test_waiting_for_what_never_happens_ends_with_an_error(loop):
    with pytest.raises(TimeoutError, match="nothing is left to run"):
        loop.run_until(lambda: False)
    loop.call_later(10, lambda: None)
    with pytest.raises(TimeoutError, match="1000 ms have passed"):
        loop.run_until(lambda: False, timeout_ms=1000)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers()), max_size=20))
def test_timers_ring_by_time_and_then_by_age(delays):
    loop, rung = SimLoop(), []
    for age, (delay_ms, _) in enumerate(delays):
        loop.call_later(delay_ms / 1000, rung.append, (delay_ms, age))
    loop.advance(50)

    assert rung == sorted(rung)
    assert len(rung) == len(delays)


def test_new_ids_differ_and_are_the_same_in_each_run_of_a_seed():
    first, again, other = sim_context(1), sim_context(1), sim_context(2)
    ids = [first.new_id(), first.new_id(), other.new_id()]

    assert len(set(ids)) == 3
    assert ids[:2] == [again.new_id(), again.new_id()]
    assert all(len(one) == 32 for one in ids)


def test_the_sim_runs_on_one_thread(echo, loop, context):
    assert context.directory.thread_id == threading.get_ident()
