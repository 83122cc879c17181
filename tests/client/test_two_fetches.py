"""The rules of two fetches under way for one partition: the second begins at an offset that is a guess."""

from __future__ import annotations

import bisect
import random

import pytest
from fetchers import SETTINGS, A, a_fetcher, data, fetch, reply

from callboard.client.fetcher import Deliver, Refresh
from callboard.client.lookahead import Lookahead, Span
from callboard.client.metadata import PartitionLeader
from callboard.errors import ConnectionLostError, ErrorCode, OffsetOutOfRangeError

FULL = 1_000  # bytes of an answer: SETTINGS.partition_bytes
ROOMY = SETTINGS._replace(buffer_bytes=100_000)


def behind(settings=ROOMY, high_watermark=1_000):
    """A fetcher that has read offsets 0 to 99 in a full answer and has two fetches under way: at 100, and a guess."""
    fetcher = a_fetcher(settings=settings)
    reply(fetcher, fetch(fetcher), full(0), high_watermark=high_watermark)
    take(fetcher, FULL)
    exact, guess = fetcher.drain(0)
    return fetcher, exact, guess


def full(first: int, count: int = 100, batches: int = 1) -> bytes:
    return data(first + count, FULL, first, batches)


def take(fetcher, size):
    """The consumer uses up so many bytes."""
    fetcher.credits[A].consumed += size
    fetcher.total.consumed += size


def delivered(effects):
    return [(effect.from_offset, effect.data) for effect in effects if isinstance(effect, Deliver)]


def offsets(requests):
    return [entry.fetch_offset for request in requests for entry in request.entries]


def test_a_partition_that_is_behind_has_two_fetches_under_way_the_second_a_guess():
    _, exact, guess = behind()

    assert offsets([exact, guess]) == [100, 250]  # the middle of the batch behind the one that is being fetched


def test_answers_are_delivered_in_order_and_each_is_followed_by_another_guess():
    fetcher, exact, guess = behind()

    first = delivered(reply(fetcher, exact, full(100), high_watermark=1_000))
    take(fetcher, FULL)
    another = fetcher.drain(0)
    second = delivered(reply(fetcher, guess, full(200), high_watermark=1_000))

    assert first + second == [(100, full(100)), (200, full(200))]
    assert offsets(another) == [350]
    assert fetcher.states[A].fetch_offset == 300


def test_what_came_twice_is_delivered_with_the_offset_to_go_on_from():
    fetcher, exact, guess = behind()
    reply(fetcher, exact, full(100), high_watermark=1_000)

    assert delivered(reply(fetcher, guess, full(150), high_watermark=1_000)) == [(200, full(150))]
    assert fetcher.states[A].fetch_offset == 250


def test_an_answer_with_a_gap_before_it_is_dropped_and_the_gap_is_asked_for():
    fetcher, exact, guess = behind()
    reply(fetcher, exact, data(110, 100, 100), high_watermark=1_000)
    take(fetcher, 100)

    assert reply(fetcher, guess, full(200), high_watermark=1_000) == []
    assert fetcher.total.buffered == 0
    assert offsets(fetcher.drain(0)) == [110]


def test_an_answer_that_holds_nothing_new_is_dropped():
    fetcher, exact, guess = behind()
    reply(fetcher, exact, full(100, 300), high_watermark=1_000)

    assert reply(fetcher, guess, full(200), high_watermark=1_000) == []


def test_who_guesses_wrong_pauses_ever_longer_and_is_forgiven_by_a_right_guess():
    fetcher, exact, guess = behind(high_watermark=1 << 40)
    exact_ones = []
    for _ in range(3):
        reply(fetcher, exact, full(exact.entries[0].fetch_offset), high_watermark=1 << 40)
        reply(fetcher, guess, full(1 << 30), high_watermark=1 << 40)
        exact_ones.append(0)
        take(fetcher, FULL)
        while len(requests := fetcher.drain(0)) == 1:
            exact_ones[-1] += 1
            reply(fetcher, requests[0], full(fetcher.states[A].fetch_offset), high_watermark=1 << 40)
            take(fetcher, FULL)
        exact, guess = requests

    assert exact_ones == [1, 2, 4]
    reply(fetcher, exact, full(fetcher.states[A].fetch_offset), high_watermark=1 << 40)
    reply(fetcher, guess, full(fetcher.states[A].fetch_offset), high_watermark=1 << 40)
    take(fetcher, 2 * FULL)
    assert len(fetcher.drain(0)) == 2


def test_a_seek_drops_both_fetches_under_way():
    fetcher, exact, guess = behind()
    fetcher.on_seek(A, 2, offset=700, reset_to=None)

    sought, _ = fetcher.drain(0)
    assert reply(fetcher, exact, full(100), high_watermark=1_000) == []
    assert reply(fetcher, guess, full(200), high_watermark=1_000) == []

    assert fetcher.total.buffered == 0
    assert delivered(reply(fetcher, sought, full(700), high_watermark=1_000)) == [(700, full(700))]


def test_an_unassigned_partition_gets_neither():
    fetcher, exact, guess = behind()
    fetcher.on_unassign([A])

    assert reply(fetcher, exact, full(100), high_watermark=1_000) == []
    assert reply(fetcher, guess, full(200), high_watermark=1_000) == []
    assert fetcher.total.buffered == 0


def test_a_pause_stops_guessing_and_keeps_what_is_under_way():
    fetcher, exact, guess = behind()
    fetcher.on_pause([A], True)

    came = delivered(reply(fetcher, exact, full(100), high_watermark=1_000))
    came += delivered(reply(fetcher, guess, full(200), high_watermark=1_000))

    assert [offset for offset, _ in came] == [100, 200]
    assert fetcher.drain(0) == []


def test_an_error_of_the_first_drops_the_second_too():
    fetcher, exact, guess = behind()

    effects = reply(fetcher, exact, error=ErrorCode.NOT_LEADER_FOR_PARTITION, now=100)
    assert reply(fetcher, guess, full(200), high_watermark=1_000, now=100) == []

    assert isinstance(effects[0], Refresh)
    assert fetcher.drain(100) == []
    assert offsets(fetcher.drain(110))[:1] == [100]


def test_an_error_of_the_guess_is_nobodys_until_the_exact_fetch_has_it():
    fetcher, exact, guess = behind(settings=ROOMY._replace(reset_timestamp=None))
    reply(fetcher, exact, full(100), high_watermark=1_000)
    take(fetcher, FULL)

    assert reply(fetcher, guess, error=ErrorCode.OFFSET_OUT_OF_RANGE) == []

    again = fetch(fetcher)
    assert offsets([again]) == [200]
    (told,) = reply(fetcher, again, error=ErrorCode.OFFSET_OUT_OF_RANGE)
    assert isinstance(told.error, OffsetOutOfRangeError)


def test_a_lost_connection_ends_both_and_there_is_one_pause():
    fetcher, exact, guess = behind()

    for request in (exact, guess):
        fetcher.on_reply(request.request_id, [], {}, ConnectionLostError("x"), 0)

    assert fetcher.next_event_ms(0) == 5
    assert offsets(fetcher.drain(5))[:1] == [100]


def test_another_leader_ends_both():
    fetcher, exact, guess = behind()
    fetcher.view.leaders[A] = PartitionLeader("t", "id", 0, 2, 1)
    fetcher.on_metadata(0)

    there = fetcher.drain(0)

    assert {request.broker_id for request in there} == {2}
    assert offsets(there)[:1] == [100]
    assert reply(fetcher, exact, full(100)) == []
    assert reply(fetcher, guess, full(200)) == []


def test_a_second_answer_that_comes_first_is_dropped():
    fetcher, exact, guess = behind()

    assert reply(fetcher, guess, full(200), high_watermark=1_000) == []
    assert delivered(reply(fetcher, exact, full(100), high_watermark=1_000)) == [(100, full(100))]
    take(fetcher, FULL)
    assert offsets(fetcher.drain(0))[:1] == [200]


def test_an_answer_cut_short_does_not_shorten_the_next_guess():
    lookahead = Lookahead()
    lookahead.on_data(Span(0, 10, 2), 200, FULL)  # the end of a segment: two batches of 5 records, ten fit

    assert lookahead.guess(10, 1, 1_000) == 10 + 50 + 2


def test_of_many_batches_some_fewer_are_counted_on():
    lookahead = Lookahead()
    lookahead.on_data(Span(0, 320, 32), FULL, FULL)

    assert lookahead.guess(320, 1, 1_000) == 320 + 300 + 5


def test_nothing_is_guessed_at_or_behind_the_high_watermark():
    fetcher = a_fetcher(settings=ROOMY)
    reply(fetcher, fetch(fetcher), full(0), high_watermark=250)
    take(fetcher, FULL)

    assert offsets(fetcher.drain(0)) == [100]


def test_nothing_is_guessed_while_the_partition_is_out_of_credit():
    fetcher, exact, _ = behind()
    reply(fetcher, exact, full(100), high_watermark=1_000)

    assert fetcher.drain(0) == []
    take(fetcher, FULL)
    assert offsets(fetcher.drain(0)) == [350]


def test_a_guess_leaves_room_for_all_that_is_under_way():
    fetcher = a_fetcher(settings=ROOMY._replace(buffer_bytes=1_999))
    reply(fetcher, fetch(fetcher), full(0), high_watermark=1_000)
    take(fetcher, FULL)

    assert offsets(fetcher.drain(0)) == [100]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_batches_each_record_is_delivered_once_and_in_order(seed):
    rng = random.Random(seed)
    ends, sizes = [0], []
    for _ in range(rng.randrange(1, 80)):
        ends.append(ends[-1] + rng.randrange(1, 50))
        sizes.append(rng.randrange(20, rng.choice((40, 400, 1_500))))
    settings = ROOMY._replace(buffer_bytes=rng.choice((1_000, 3_000, 100_000)))
    fetcher = a_fetcher(settings=settings)
    position, under_way = 0, []

    while position < ends[-1] or under_way:
        under_way += fetcher.drain(0)
        if not under_way or fetcher.states[A].fetch_offset == ends[-1]:
            break
        request = under_way.pop(0)
        for effect in reply(fetcher, request, *answer(request, ends, sizes, rng), high_watermark=ends[-1]):
            if isinstance(effect, Deliver):
                span = fetcher.view.span(effect.data)
                assert effect.from_offset == position
                assert span.first <= position < span.next_offset
                position = span.next_offset
                assert fetcher.total.buffered <= settings.buffer_bytes + max(1_500, 2 * FULL)
                take(fetcher, len(effect.data))

    assert position == ends[-1]


def answer(request, ends, sizes, rng):
    """What a broker answers: whole batches from the one on that holds the offset, at least one; now and then fewer."""
    at = bisect.bisect_right(ends, request.entries[0].fetch_offset) - 1
    if at >= len(sizes):
        return []
    end, size = at + 1, sizes[at]
    while end < len(sizes) and size + sizes[end] <= FULL and rng.random() < 0.95:
        size += sizes[end]
        end += 1
    return [data(ends[end], size, ends[at], end - at)]
