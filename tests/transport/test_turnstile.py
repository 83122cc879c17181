"""The rules of a door that is shut when too many connections come to nothing."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.transport.turnstile import BRIEF_MS, DEBT_S, OPENING_S, Turnstile

PER_S, BURST = 100, 20


def a_turnstile():
    return Turnstile(PER_S, BURST, now_ms=0)


def crowd(turnstile, count, now_ms=0, first=0):
    for descriptor in range(first, first + count):
        turnstile.arrived(descriptor, now_ms)


def test_a_door_is_shut_after_as_many_silent_arrivals_as_may_come_at_once():
    turnstile = a_turnstile()

    crowd(turnstile, BURST - 1)
    assert not turnstile.is_shut
    turnstile.arrived(BURST, 0)
    assert turnstile.is_shut


def test_any_number_of_those_who_say_hello_and_stay_is_free():
    turnstile = a_turnstile()

    for descriptor in range(100 * BURST):
        turnstile.arrived(descriptor, 0)
        turnstile.greeted(descriptor, 0)
        turnstile.greeted(descriptor, 0)

    assert not turnstile.is_shut
    crowd(turnstile, BURST - 1, first=1_000_000)
    assert not turnstile.is_shut


def test_a_door_that_was_shut_opens_by_itself():
    turnstile = a_turnstile()
    crowd(turnstile, BURST)

    wait_ms = turnstile.opens_in_ms(0)
    assert 0 < wait_ms <= OPENING_S * 1_000 + 1
    assert turnstile.opens_in_ms(wait_ms - 2) > 0
    assert turnstile.opens_in_ms(wait_ms) == 0
    assert not turnstile.is_shut


def test_a_hello_that_comes_late_opens_it():
    turnstile = a_turnstile()
    crowd(turnstile, BURST)

    for descriptor in range(BURST):
        turnstile.greeted(descriptor, 0)

    assert not turnstile.is_shut


def test_who_says_hello_and_is_gone_at_once_has_come_to_nothing():
    turnstile = a_turnstile()
    for descriptor in range(BURST):
        turnstile.arrived(descriptor, 0)
        turnstile.greeted(descriptor, 0)
        turnstile.ended(descriptor, 0)
        turnstile.ended(descriptor, 0)

    assert turnstile.is_shut


def test_the_end_of_connections_that_have_lasted_costs_nothing():
    turnstile = a_turnstile()
    for descriptor in range(10 * BURST):
        turnstile.arrived(descriptor, 0)
        turnstile.greeted(descriptor, 0)
    for descriptor in range(10 * BURST):
        turnstile.ended(descriptor, BRIEF_MS)

    assert not turnstile.is_shut


def test_an_arrival_that_never_says_hello_is_paid_for_once():
    turnstile = a_turnstile()
    for descriptor in range(BURST - 1):
        turnstile.arrived(descriptor, 0)
        turnstile.ended(descriptor, 0)

    assert not turnstile.is_shut


def test_after_any_crowd_the_door_opens_within_the_time_of_the_debt():
    turnstile = a_turnstile()

    crowd(turnstile, 1_000 * BURST)

    assert turnstile.opens_in_ms(0) <= (DEBT_S + OPENING_S) * 1_000 + 1


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 50)), min_size=1, max_size=60))
def test_through_a_door_that_is_obeyed_no_more_come_to_nothing_than_its_rate_allows(steps):
    """Whenever it is open, ``batch`` knock at once; those who came before it was shut are at most that many."""
    turnstile, now_ms, come, batch_max = a_turnstile(), 0, 0, 0
    for pause_ms, batch in steps:
        now_ms += pause_ms
        if turnstile.opens_in_ms(now_ms):
            continue
        crowd(turnstile, batch, now_ms, first=come)
        come, batch_max = come + batch, max(batch_max, batch)

    forgiven = max(0, batch_max - PER_S * DEBT_S)
    assert come <= BURST + PER_S * now_ms / 1_000 + batch_max + forgiven * len(steps)
