"""Children that are added to a supervisor while it serves, and removed from it."""

import pytest

from callboard.actors.supervisor import ChildRemoved, OnGiveUp, StartChild, StopChild

from .supervised import World


@pytest.fixture
def world():
    return World()


def test_a_child_is_added_and_removed(world):
    world.start()
    world.ref.tell(StartChild(world.child("a")))
    world.loop.run_until_idle()
    assert world.alive() == ["a"]

    world.ref.tell(StopChild("a", reply_to=world.parent.actor_ref))
    world.loop.run_until_idle()
    assert world.alive() == []
    assert world.parent.all_of(ChildRemoved) == [ChildRemoved("a", "top/a")]
    assert world.lines() == {}


def test_added_children_do_not_wait_for_each_other(world):
    world.start()
    for name in "abc":
        world.ref.tell(StartChild(world.child(name, start_ms=1_000)))
    world.loop.run_until_idle()

    assert world.journal == ["+a", "+b", "+c"]


def test_added_children_are_stopped_together_and_before_the_static_ones(world):
    world.start(world.child("s"))
    for name in "abc":
        world.ref.tell(StartChild(world.child(name, stop_ms=10)))
    world.loop.run_until_idle()
    world.journal.clear()
    world.ref.stop()
    world.loop.advance(10)

    assert world.journal == ["-c", "-b", "-a", "-s"]


def test_an_added_child_is_supervised(world):
    world.start()
    world.ref.tell(StartChild(world.child("a")))
    world.loop.run_until_idle()
    world.tell("a")
    world.loop.advance(100)

    assert world.alive() == ["a"]


def test_starting_a_name_again_replaces_what_runs_there_after_it_has_stopped(world):
    world.start()
    world.ref.tell(StartChild(world.child("a", stop_ms=10)))
    world.loop.run_until_idle()
    world.ref.tell(StartChild(world.child("a", start_ms=5)))
    world.loop.run_until_idle()
    assert world.journal == ["+a"]

    world.loop.advance(10)
    assert world.journal == ["+a", "-a", "+a"]
    assert world.lines()["a"].restarts == 0


def test_stop_then_start_is_a_replacement(world):
    world.start()
    world.ref.tell(StartChild(world.child("a", stop_ms=10)))
    world.ref.tell(StopChild("a"))
    world.ref.tell(StartChild(world.child("a")))
    world.loop.advance(10)

    assert world.journal == ["+a", "-a", "+a"]
    assert world.alive() == ["a"]


def test_start_then_stop_while_the_old_one_stops_leaves_nothing(world):
    world.start()
    world.ref.tell(StartChild(world.child("a", stop_ms=10)))
    world.ref.tell(StartChild(world.child("a")))
    world.ref.tell(StopChild("a", reply_to=world.parent.actor_ref))
    world.loop.advance(10)

    assert world.alive() == []
    assert len(world.parent.all_of(ChildRemoved)) == 1


def test_a_child_that_waits_for_its_backoff_can_be_removed(world):
    world.start(world.child("a"))
    world.tell("a")
    world.ref.tell(StopChild("a", reply_to=world.parent.actor_ref))
    world.loop.advance(10_000)

    assert world.alive() == []
    assert world.parent.all_of(ChildRemoved)


def test_removing_what_is_not_there_is_answered(world):
    world.start()
    world.ref.tell(StopChild("a", reply_to=world.parent.actor_ref))
    world.loop.run_until_idle()

    assert world.parent.all_of(ChildRemoved) == [ChildRemoved("a", "top/a")]


def test_a_child_left_offline_is_revived_by_starting_it_again(world):
    world.start(world.child("a", on_give_up=OnGiveUp.LEAVE_OFFLINE), intensity=0)
    world.tell("a")
    assert world.lines()["a"].state == "given up"

    world.ref.tell(StartChild(world.child("a")))
    world.loop.run_until_idle()
    assert world.lines()["a"].state == "running"


def test_thousands_of_added_children_cost_little_each(world):
    world.start()
    world.loop.advance(1)
    for number in range(3_000):
        world.ref.tell(StartChild(world.child(f"c{number}", on_give_up=OnGiveUp.LEAVE_OFFLINE)))
    world.loop.run_until_idle()
    steps = world.loop.steps
    for number in range(3_000):
        world.find(f"c{number}").tell("boom")
    world.loop.advance(100)

    assert len(world.alive()) == 3_000
    assert world.loop.steps - steps < 10 * 3_000
    stopped = world.ref.stop()
    world.loop.advance(1)
    assert stopped.get() is True
