"""Who must go so that others can come. No socket: descriptors in, descriptors out."""

from hypothesis import given
from hypothesis import strategies as st

from callboard.transport.arrivals import Arrivals, Remote


def some_arrivals(*addresses):
    """Return arrivals with one connection an address, on descriptors 10, 11, …"""
    arrivals = Arrivals()
    for number, address in enumerate(addresses):
        arrivals.accepted(10 + number, Remote(address, 1_000 + number))
    return arrivals


def test_of_too_many_silent_ones_of_an_address_the_oldest_goes():
    arrivals = some_arrivals("a", "b", "a", "a")

    assert arrivals.too_many("a", 2) == [10]
    assert arrivals.too_many("a", 2) == []
    assert arrivals.too_many("b", 2) == []


def test_who_has_said_hello_does_not_count_and_is_never_named():
    arrivals = some_arrivals("a", "a", "a", "a")
    arrivals.greeted(10)
    arrivals.greeted(11)

    assert arrivals.too_many("a", 2) == []
    assert arrivals.too_many("a", 1) == [12]
    assert arrivals.for_room(0, 100) == [13]
    assert arrivals.for_room(0, 100) == []
    assert arrivals.count("a") == 4


def test_without_room_the_oldest_of_any_address_go_the_newcomer_last():
    arrivals = some_arrivals("a", "b", "c")

    assert arrivals.for_room(free=3, headroom=5) == [10, 11]
    assert arrivals.for_room(free=1, headroom=5) == [12]


def test_those_who_have_been_told_to_go_count_as_gone():
    arrivals = some_arrivals("a", "b", "c", "d")

    assert arrivals.for_room(free=4, headroom=5) == [10]
    assert arrivals.for_room(free=4, headroom=5) == []
    arrivals.ended(10)
    assert arrivals.for_room(free=4, headroom=5) == [11]


def test_with_room_nobody_goes():
    assert some_arrivals("a", "b").for_room(free=5, headroom=5) == []


def test_a_descriptor_that_is_used_again_is_another_connection():
    arrivals = some_arrivals("a", "a")
    arrivals.greeted(10)
    arrivals.accepted(10, Remote("b", 7))

    assert (arrivals.count("a"), arrivals.count("b")) == (1, 1)
    assert arrivals.remote(10) == Remote("b", 7)
    assert arrivals.too_many("b", 0) == [10]


@given(
    st.lists(
        st.tuples(st.sampled_from(["accepted", "greeted", "ended", "many", "room"]), st.integers(0, 6), st.booleans()),
        max_size=60,
    )
)
def test_the_books_agree_after_any_sequence(steps):
    arrivals, present, silent = Arrivals(), {}, set()
    for what, descriptor, is_a in steps:
        address = "a" if is_a else "b"
        if what == "accepted":
            arrivals.accepted(descriptor, Remote(address, descriptor))
            present[descriptor] = address
            silent.add(descriptor)
        elif what == "greeted":
            arrivals.greeted(descriptor)
            silent.discard(descriptor)
        elif what == "ended":
            arrivals.ended(descriptor)
            present.pop(descriptor, None)
            silent.discard(descriptor)
        else:
            named = arrivals.too_many(address, 2) if what == "many" else arrivals.for_room(1, descriptor)
            assert set(named) <= silent
            assert len(named) == len(set(named))
            silent -= set(named)

        assert len(arrivals) == len(present)
        for each in "ab":
            assert arrivals.count(each) == list(present.values()).count(each)
            assert arrivals.silent(each) == sum(present[one] == each for one in silent)
