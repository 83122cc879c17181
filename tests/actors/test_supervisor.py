"""The promises of actors/supervisor.py, on virtual time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.runtime import ActorKilled, ChildFailed, ChildStarted, ChildStopped, Fail
from callboard.actors.supervisor import (
    GaveUp,
    OnGiveUp,
    Restart,
    RestartLimitReached,
    StartChild,
    StopChild,
    Strategy,
    SupervisorSpec,
    supervisor,
)
from callboard.errors import IllegalArgumentError
from callboard.testing.probe import Probe, probe

from .supervised import BACKOFF, World, abc


@pytest.fixture
def world():
    return World()


# -- start and stop ------------------------------------------------------------------------------------


def test_children_start_in_order_each_when_the_one_before_serves(world):
    world.start(*abc(world, start_ms=10))
    assert world.journal == ["+a"]
    assert not world.parent.all_of(ChildStarted)

    world.loop.advance(10)
    assert world.journal == ["+a", "+b"]
    world.loop.advance(20)
    assert world.journal == ["+a", "+b", "+c"]
    assert world.parent.all_of(ChildStarted) == [ChildStarted(world.ref)]


def test_a_child_that_does_not_wait_lets_the_next_one_start_but_all_must_serve(world):
    world.start(world.child("a"), *(world.child(name, start_ms=10, waits=False) for name in "bc"))

    assert world.journal == ["+a", "+b", "+c"]
    assert not world.parent.all_of(ChildStarted)
    world.loop.advance(10)
    assert world.parent.all_of(ChildStarted)


def test_children_stop_in_reverse_order_one_at_a_time(world):
    world.start(*abc(world, stop_ms=10))
    world.journal.clear()
    stopped = world.ref.stop()
    world.loop.advance(10)
    assert world.journal == ["-c"]

    world.loop.advance(20)
    assert world.journal == ["-c", "-b", "-a"]
    assert stopped.get() is True
    assert world.parent.all_of(ChildStopped)
    assert world.alive() == []


def test_neighbours_that_do_not_wait_are_stopped_together(world):
    world.start(world.child("a"), *(world.child(name, stop_ms=10, waits=False) for name in "bc"), world.child("z"))
    world.journal.clear()
    world.ref.stop()
    world.loop.run_until_idle()
    assert world.journal == ["-z"]

    world.loop.advance(10)
    assert world.journal == ["-z", "-c", "-b", "-a"]


def test_a_stop_during_the_start_stops_what_was_started(world):
    world.start(*abc(world, start_ms=10))
    world.loop.advance(10)
    world.ref.stop()
    world.loop.advance(1_000)

    assert world.journal == ["+a", "+b", "-b", "-a"]
    assert world.parent.all_of(ChildStopped)


def test_a_child_that_does_not_stop_in_time_is_killed(world):
    world.start(*abc(world))
    world.find("b").actor.stop_ms = 60_000
    world.journal.clear()
    world.ref.stop()
    world.loop.advance(499)
    assert world.journal == ["-c"]

    world.loop.advance(1)
    assert world.journal == ["-c", "!b", "-a"]
    assert world.parent.all_of(ChildStopped)


def test_a_child_with_no_time_to_stop_is_killed_at_once(world):
    world.start(world.child("a", shutdown_ms=0))
    world.ref.stop()
    world.loop.run_until_idle()

    assert world.journal == ["+a", "!a"]


def test_a_child_that_fails_to_start_is_tried_again_and_holds_up_the_next(world):
    world.start(world.child("a", fails_to_start="on_start"), world.child("b"), intensity=10)

    assert world.journal == ["+a", "!a"]
    world.loop.advance(100)
    assert world.journal == ["+a", "!a", "+a", "!a"]
    world.loop.advance(200)
    assert world.journal.count("+a") == 3
    assert "+b" not in world.journal


def test_a_constructor_that_raises_counts_as_a_failed_start(world):
    world.start(world.child("a", fails_to_start="constructor"), intensity=1)
    assert world.lines()["a"].last_failure == "OSError: in the constructor"

    world.loop.advance(100)
    [failed] = world.parent.all_of(ChildFailed)
    assert isinstance(failed.exception, RestartLimitReached)


def test_two_children_of_one_name_are_refused(world):
    with pytest.raises(IllegalArgumentError, match="two children named 'a'"):
        world.start(world.child("a"), world.child("a"))


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_would_break_addresses_is_refused(world, name):
    with pytest.raises(IllegalArgumentError):
        world.child(name)


# -- strategies ----------------------------------------------------------------------------------------


def test_one_for_one_restarts_the_one_that_failed_after_its_backoff(world):
    world.start(*abc(world))
    assert world.journal_of(world.tell, "b") == ["!b"]
    assert world.alive() == ["a", "c"]
    assert world.lines()["b"].state == "restarting"

    assert world.journal_of(world.loop.advance, 100) == ["+b"]
    line = world.lines()["b"]
    assert (line.state, line.restarts, line.last_failure) == ("running", 1, "ValueError: boom")


def test_rest_for_one_restarts_those_after_it_too(world):
    world.start(*abc(world), strategy=Strategy.REST_FOR_ONE)

    assert world.journal_of(world.tell, "b") == ["!b", "-c"]
    assert world.journal_of(world.loop.advance, 100) == ["+b", "+c"]


def test_one_for_all_restarts_everybody_in_order(world):
    world.start(*abc(world), strategy=Strategy.ONE_FOR_ALL)

    assert world.journal_of(world.tell, "b") == ["!b", "-c", "-a"]
    assert world.journal_of(world.loop.advance, 100) == ["+a", "+b", "+c"]


def test_a_group_starts_one_by_one_each_when_the_one_before_serves(world):
    world.start(*abc(world, start_ms=10), strategy=Strategy.ONE_FOR_ALL)
    world.loop.advance(30)
    world.tell("a")

    assert world.journal_of(world.loop.advance, 100) == ["+a"]
    assert world.journal_of(world.loop.advance, 10) == ["+b"]
    assert world.journal_of(world.loop.advance, 10) == ["+c"]


def test_a_second_failure_while_a_group_is_stopped_ends_in_everybody_running(world):
    world.start(*abc(world, stop_ms=50), strategy=Strategy.REST_FOR_ONE, intensity=10)
    world.tell("b")
    world.loop.advance(20)  # c is stopping
    world.tell("a")
    world.loop.advance(1_000)

    assert world.alive() == ["a", "b", "c"]
    assert all(line.state == "running" for line in world.lines().values())


def test_a_sibling_that_fails_while_it_is_stopped_is_just_stopped(world):
    world.start(*abc(world, stop_ms=50), strategy=Strategy.ONE_FOR_ALL, intensity=1)
    world.tell("a")
    world.tell("c")
    world.loop.advance(1_000)

    assert world.alive() == ["a", "b", "c"]
    assert not world.parent.all_of(ChildFailed)


def test_a_temporary_sibling_does_not_come_back_with_its_group(world):
    world.start(world.child("a"), world.child("b", restart=Restart.TEMPORARY), strategy=Strategy.ONE_FOR_ALL)
    world.tell("a")
    world.loop.advance(1_000)

    assert world.alive() == ["a"]


# -- kinds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "order", "comes_back"),
    [
        (Restart.PERMANENT, "end", True),
        (Restart.TRANSIENT, "end", False),
        (Restart.TRANSIENT, "boom", True),
        (Restart.TEMPORARY, "boom", False),
    ],
)
def test_the_kind_says_whether_a_child_comes_back(world, restart, order, comes_back):
    world.start(world.child("a", restart=restart), world.child("b"))
    world.tell("a", order)
    world.loop.advance(1_000)

    assert world.alive() == (["a", "b"] if comes_back else ["b"])


# -- backoff and intensity -----------------------------------------------------------------------------


def test_each_failure_in_a_row_waits_twice_as_long(world):
    world.start(world.child("a"), intensity=10)
    for wait_ms in (100, 200, 400):
        world.tell("a")
        world.loop.advance(wait_ms - 1)
        assert world.alive() == []
        world.loop.advance(1)
        assert world.alive() == ["a"]


def test_a_good_service_resets_the_backoff(world):
    world.start(world.child("a"), intensity=10, period_ms=1)
    for _ in range(3):
        world.loop.advance(2_000)
        world.tell("a")
        world.loop.advance(100)
        assert world.alive() == ["a"]


def test_past_its_intensity_a_supervisor_stops_its_children_and_fails_upwards(world):
    world.start(*abc(world), intensity=1, period_ms=10_000)
    world.tell("b")
    world.loop.advance(100)
    assert world.journal_of(world.tell, "b") == ["!b", "-c", "-a"]

    [failed] = world.parent.all_of(ChildFailed)
    assert isinstance(failed.exception, RestartLimitReached)
    assert isinstance(failed.exception.__cause__, ValueError)
    assert "top/b failed more than 1 times in 10000 ms; the last time: ValueError: boom" in str(failed.exception)
    assert world.alive() == []


def test_failures_that_are_far_apart_are_borne_for_ever(world):
    world.start(world.child("a"), intensity=1, period_ms=1_000)
    for _ in range(20):
        world.tell("a")
        world.loop.advance(2_000)

    assert world.alive() == ["a"]


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_chaos_does_not_count(world, how):
    world.start(world.child("a"), intensity=0)
    for _ in range(20):
        world.tell("a", Fail(how))
        world.loop.advance(100)

    assert world.alive() == ["a"]
    assert world.lines()["a"].restarts == 20


def test_a_child_left_offline_takes_nobody_along_and_its_watcher_is_told(world):
    watcher = probe(world.context, "watcher")
    children = [world.child(name, on_give_up=OnGiveUp.LEAVE_OFFLINE) for name in "ab"]
    world.start(*children, intensity=1, watcher="watcher")
    world.tell("a")
    world.loop.advance(100)
    world.tell("b")  # counted alone: does not use up a's
    world.loop.advance(100)
    world.tell("a")
    world.loop.advance(10_000)

    assert world.alive() == ["b"]
    assert world.lines()["a"].state == "given up"
    [gave_up] = watcher.all_of(GaveUp)
    assert (gave_up.name, gave_up.address, str(gave_up.exception)) == ("a", "top/a", "boom")
    assert not world.parent.all_of(GaveUp)


def test_a_child_given_up_during_the_start_does_not_hold_up_the_rest(world):
    bad = world.child("a", fails_to_start="on_start", on_give_up=OnGiveUp.LEAVE_OFFLINE)
    world.start(bad, world.child("b"), intensity=0)

    assert world.alive() == ["b"]
    assert world.parent.all_of(ChildStarted)
    assert [gave_up.name for gave_up in world.parent.all_of(GaveUp)] == ["a"]


# -- trees of supervisors ------------------------------------------------------------------------------


def nested(world, **inner):
    spec = SupervisorSpec(children=abc(world), **inner)
    return supervisor("inner", spec, backoff=BACKOFF)


def test_a_supervisor_below_that_gives_up_is_restarted_by_the_one_above(world):
    world.start(nested(world, intensity=0), world.child("z"))
    world.tell("inner/b")
    assert world.alive() == ["z"]

    world.loop.advance(100)
    assert world.alive() == ["inner", "inner/a", "inner/b", "inner/c", "z"]
    assert world.lines()["inner"].last_failure.startswith("RestartLimitReached: top/inner/b")


def test_a_supervisor_that_fails_takes_its_children_with_it(world):
    world.start(nested(world), world.child("z"))
    assert world.journal_of(world.tell, "inner", Fail()) == ["!c", "!b", "!a"]
    assert world.alive() == ["z"]

    world.loop.advance(100)
    assert world.alive() == ["inner", "inner/a", "inner/b", "inner/c", "z"]


def test_a_supervisor_serves_when_its_whole_branch_serves(world):
    spec = SupervisorSpec(children=abc(world, start_ms=10))
    world.start(supervisor("inner", spec), world.child("z"))
    world.loop.advance(29)
    assert "+z" not in world.journal

    world.loop.advance(1)
    assert world.journal[-1] == "+z"


def test_a_killed_supervisor_below_leaves_no_actor_behind(world):
    spec = SupervisorSpec(children=abc(world, stop_ms=60_000, shutdown_ms=50_000))
    world.start(supervisor("inner", spec, shutdown_ms=100))
    world.ref.stop()
    world.loop.advance(100)

    assert world.alive() == []
    assert world.parent.all_of(ChildStopped)


def test_the_tree_shows_every_actor(world):
    world.start(nested(world), world.child("z", restart=Restart.TRANSIENT), strategy=Strategy.REST_FOR_ONE)
    top = world.ref.actor.describe()

    assert (top.kind, top.strategy, top.state) == ("Supervisor", "rest_for_one", "running")
    inner, z = top.children
    assert [line.address for line in inner.children] == ["top/inner/a", "top/inner/b", "top/inner/c"]
    assert (z.kind, z.restart, z.state) == ("Worker", "transient", "running")


# -- any order of events -------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(st.sampled_from(["boom", "chaos", "end", "start", "stop", "wait"]), st.sampled_from("abcxyz")),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.sampled_from(Strategy), st.integers(0, 1_000_000))
def test_whatever_happens_it_ends_with_all_that_is_wanted_running_and_then_with_nothing(events, strategy, seed):
    world = World(seed, shuffle=True)
    world.start(*(world.child(name, start_ms=3, stop_ms=7) for name in "abc"), strategy=strategy, intensity=1_000)
    wanted = set("abc")
    for kind, name in events:
        ref = world.find(name)
        if kind == "start":
            wanted.add(name)
            world.ref.tell(StartChild(world.child(name, start_ms=5, stop_ms=2)))
        elif kind == "stop":
            wanted.discard(name)
            world.ref.tell(StopChild(name))
        elif kind == "wait":
            world.loop.advance(ord(name))
        elif ref is not None:
            ref.post(Fail() if kind == "chaos" else kind)

    world.loop.advance(100_000)
    assert set(world.alive()) == wanted
    assert all(line.state == "running" for line in world.lines().values())
    assert world.ref.is_alive()

    world.ref.stop()
    world.loop.advance(60_000)
    assert world.alive() == []
    assert not world.ref.is_alive()
    assert not [failed for failed in world.parent.all_of(ChildFailed) if not isinstance(failed.exception, ActorKilled)]


def test_a_probe_is_a_probe(world):
    assert isinstance(world.parent, Probe)
