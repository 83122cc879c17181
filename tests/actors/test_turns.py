"""Mailboxes drained one after the other within one callback of the loop."""

from dataclasses import replace

import pytest

from callboard.actors.runtime import LoopActor
from callboard.actors.turns import DRAINS_MAX, Turns
from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop


@pytest.fixture
def loop():
    return SimLoop()


def test_drains_run_first_in_first_out_in_one_callback(loop):
    turns, seen = Turns(loop), []
    for number in range(5):
        turns.soon(lambda number=number: seen.append(number))
    assert seen == []

    assert loop.run_until_idle() == 1
    assert seen == [0, 1, 2, 3, 4]


def test_what_a_drain_asks_for_follows_in_the_same_callback_and_not_within_it(loop):
    turns, seen = Turns(loop), []

    def first():
        turns.soon(lambda: seen.append("second"))
        turns.run()  # from within: it is running already
        seen.append("first")

    turns.soon(first)

    assert loop.run_until_idle() == 1
    assert seen == ["first", "second"]


def test_a_callback_may_drain_at_once_and_nothing_runs_twice(loop):
    turns, seen = Turns(loop), []
    turns.soon(lambda: seen.append(1))

    turns.run()
    assert seen == [1]
    loop.run_until_idle()
    assert seen == [1]


def test_two_that_never_rest_do_not_keep_the_loop(loop):
    turns, others, rounds = Turns(loop), [], []

    def again():
        rounds.append(1)
        if not others:
            turns.soon(again)

    turns.soon(again)
    loop.call_soon(others.append, "a descriptor's turn")
    loop.run_until_idle()

    assert others
    assert len(rounds) == DRAINS_MAX + 1


def test_what_is_left_behind_one_that_raises_still_runs(loop):
    turns, seen = Turns(loop), []
    turns.soon(lambda: 1 / 0)
    turns.soon(lambda: seen.append("next"))

    with pytest.raises(ZeroDivisionError):
        loop.run_until_idle()
    loop.run_until_idle()

    assert seen == ["next"]


class Relay(LoopActor):
    handlers = {int: "on_number"}

    def __init__(self, context, address, parent=None):
        super().__init__(context, address, parent)
        self.to, self.seen = None, []

    def on_number(self, number):
        self.seen.append(number)
        if number:
            self.to.tell(number - 1)


def test_there_and_back_between_actors_is_one_callback(loop):
    context = sim_context(loop=loop)
    context = replace(context, turns=Turns(loop))
    one, two = Relay.start(context, "one"), Relay.start(context, "two")
    loop.run_until_idle()
    one.actor.to, two.actor.to = two, one

    one.tell(4)
    context.run_turns()

    assert (one.actor.seen, two.actor.seen) == ([4, 2, 0], [3, 1])
    assert not any(actor.mailbox.is_scheduled for actor in (one.actor, two.actor))


def test_a_loop_that_is_closed_refuses_every_drain_and_not_the_first_only():
    class Closed:
        def call_soon(self, *_):
            raise RuntimeError("the loop is closed")

    turns = Turns(Closed())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            turns.soon(lambda: None)
