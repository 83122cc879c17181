"""Supervision's arithmetic, by properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.restarts import (
    Backoff,
    ChildPolicy,
    Ended,
    GiveUp,
    LetGo,
    OnGiveUp,
    Policy,
    Restart,
    RestartAfter,
    Strategy,
    Tally,
    group_of,
    on_end,
)
from callboard.errors import IllegalArgumentError

chances = st.floats(0, 1, exclude_max=True)
backoffs = st.builds(
    lambda low, more, jitter, reset: Backoff(low, low + more, jitter, reset),
    st.integers(0, 1000),
    st.integers(0, 100_000),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
failures = st.lists(st.tuples(st.integers(0, 3_000), st.booleans()), max_size=40)  # (ms since the last, chaos)


def run(policy, child, steps, chance=0.5):
    """Fail a child again and again; return each decision with its time, up to the first give-up."""
    shared, own, now_ms, seen = Tally(), Tally(), 0, []
    for gap_ms, chaos in steps:
        now_ms += gap_ms
        ended = Ended(is_failure=True, is_chaos=chaos)
        outcome = on_end(policy, child, ended, shared=shared, own=own, now_ms=now_ms, chance=chance)
        shared, own = outcome.shared, outcome.own
        seen.append((now_ms, chaos, outcome.decision))
        if isinstance(outcome.decision, GiveUp):
            break
    return seen


@given(backoffs, st.integers(1, 10_000), chances)
def test_a_backoff_stays_within_its_bounds(backoff, attempt, chance):
    assert backoff.min_ms <= backoff.delay_ms(attempt, chance) <= backoff.max_ms


@given(backoffs, st.integers(1, 100), chances)
def test_a_backoff_never_shrinks_from_one_attempt_to_the_next(backoff, attempt, chance):
    assert backoff.delay_ms(attempt, chance) <= backoff.delay_ms(attempt + 1, chance)


def test_a_backoff_doubles_from_its_least_to_its_greatest():
    backoff = Backoff(50, 5_000, jitter=0.0)

    assert [backoff.delay_ms(n, 0.9) for n in range(1, 10)] == [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]


@given(failures, st.integers(0, 5), st.integers(1, 5_000), st.booleans())
def test_it_gives_up_exactly_when_more_than_intensity_failures_fall_within_a_period(steps, intensity, period_ms, own):
    policy = Policy(intensity=intensity, period_ms=period_ms, intensity_per_child=own)
    seen = run(policy, ChildPolicy(), steps)

    counted = []
    for now_ms, chaos, decision in seen:
        if not chaos:
            counted.append(now_ms)
        in_period = [time for time in counted if time > now_ms - period_ms]
        assert isinstance(decision, GiveUp) == (not chaos and len(in_period) > intensity)


def test_a_failure_is_forgotten_exactly_one_period_later():
    policy, child = Policy(intensity=1, period_ms=1_000), ChildPolicy()

    assert isinstance(run(policy, child, [(0, False), (999, False)])[-1][2], GiveUp)
    assert isinstance(run(policy, child, [(0, False), (1_000, False)])[-1][2], RestartAfter)


@given(st.lists(st.integers(0, 10), max_size=50))
def test_chaos_never_makes_it_give_up_and_waits_only_the_least_backoff(gaps):
    policy, child = Policy(intensity=0, period_ms=60_000), ChildPolicy(backoff=Backoff(7, 1000, 0.0))

    assert all(decision == RestartAfter(7) for _, _, decision in run(policy, child, [(gap, True) for gap in gaps]))


def test_a_child_that_served_long_enough_begins_again_at_the_least_backoff():
    policy, child = Policy(intensity=100), ChildPolicy(backoff=Backoff(10, 1000, 0.0, reset_after_ms=2_000))

    def after(served_ms, own):
        ended = Ended(is_failure=True, served_ms=served_ms)
        return on_end(policy, child, ended, shared=Tally(), own=own, now_ms=0, chance=0.0).decision

    assert after(1_999, Tally(attempts=3)) == RestartAfter(80)
    assert after(2_000, Tally(attempts=3)) == RestartAfter(10)


@pytest.mark.parametrize(
    ("kind", "is_failure", "comes_back"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.PERMANENT, False, True),
        (Restart.TRANSIENT, True, True),
        (Restart.TRANSIENT, False, False),
        (Restart.TEMPORARY, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
def test_the_kind_says_who_comes_back(kind, is_failure, comes_back):
    ended = Ended(is_failure=is_failure)
    outcome = on_end(Policy(), ChildPolicy(kind), ended, shared=Tally(), own=Tally(), now_ms=0, chance=0.0)

    assert isinstance(outcome.decision, RestartAfter if comes_back else LetGo)


def test_a_child_that_is_left_offline_is_counted_alone_and_does_not_escalate():
    policy, child = Policy(intensity=1, period_ms=1000), ChildPolicy(on_give_up=OnGiveUp.LEAVE_OFFLINE)
    busy = Tally(failures=(0, 0, 0, 0))  # what its siblings did
    first = on_end(policy, child, Ended(is_failure=True), shared=busy, own=Tally(), now_ms=1, chance=0.0)
    second = on_end(policy, child, Ended(is_failure=True), shared=busy, own=first.own, now_ms=2, chance=0.0)

    assert isinstance(first.decision, RestartAfter)
    assert second.decision == GiveUp(escalates=False)
    assert second.shared == busy


@given(
    st.sampled_from(Strategy),
    st.lists(st.sampled_from(Restart), min_size=1, max_size=8).flatmap(
        lambda kinds: st.tuples(st.just(kinds), st.integers(0, len(kinds) - 1))
    ),
)
def test_a_group_is_stopped_backwards_and_started_forwards(strategy, kinds_and_ended):
    kinds, ended = kinds_and_ended
    names = [f"child-{number}" for number in range(len(kinds))]
    stop, start = group_of(strategy, list(zip(names, kinds, strict=True)), names[ended])

    first = {Strategy.ONE_FOR_ONE: ended, Strategy.REST_FOR_ONE: ended, Strategy.ONE_FOR_ALL: 0}[strategy]
    last = ended if strategy is Strategy.ONE_FOR_ONE else len(names) - 1
    members = range(first, last + 1)
    assert list(stop) == [names[n] for n in reversed(members) if n != ended]
    assert list(start) == [names[n] for n in members if n == ended or kinds[n] is not Restart.TEMPORARY]


@pytest.mark.parametrize("wrong", [{"min_ms": -1}, {"min_ms": 9, "max_ms": 8}, {"jitter": 1.5}, {"reset_after_ms": -1}])
def test_a_backoff_out_of_bounds_is_refused(wrong):
    with pytest.raises(IllegalArgumentError):
        Backoff(**wrong)


def test_a_policy_out_of_bounds_is_refused():
    with pytest.raises(IllegalArgumentError):
        Policy(intensity=-1)
