"""A follower's end of a fetch session: what is asked, what is owed, what is void."""

import pytest

from callboard.actors.replication.line import Line
from callboard.model import PartitionKey
from callboard.transport.messages import FetchEntry, FetchEntryReply, FetchReply

TOPIC = "a" * 32
A, B, C = (PartitionKey(TOPIC, number) for number in range(3))


def an_entry(key, offset=0, *, epoch=1, durable=0):
    return FetchEntry(
        topic_id=key.topic_id, partition=key.partition, leader_epoch=epoch, fetch_offset=offset, durable_offset=durable
    )


def a_reply(*keys):
    return FetchReply(entries=[FetchEntryReply(topic_id=key.topic_id, partition=key.partition) for key in keys])


def a_line(*keys):
    line = Line(2, wait_ms=1_000, max_bytes=1 << 20, entries_max=3)
    for key in keys:
        line.follow(key, an_entry(key))
    return line


def named(request):
    return [PartitionKey(entry.topic_id, entry.partition) for entry in request.entries]


def answer(line, request, *keys):
    answers = line.on_reply(request.session, request.sequence, a_reply(*keys))
    return None if answers is None else [PartitionKey(one.topic_id, one.partition) for one in answers]


def test_the_first_request_of_a_session_names_everything():
    line = a_line(A, B)

    request = line.next_request()

    assert (request.session, request.sequence, named(request)) == (1, 0, [A, B])
    assert line.next_request() is None, "one waits at the leader"


def test_only_who_was_answered_is_named_again():
    line = a_line(A, B)
    first = line.next_request()

    assert answer(line, first, A) == [A]
    assert line.is_owed
    line.follow(A, an_entry(A, 5))
    assert not line.is_owed
    second = line.next_request()

    assert (second.sequence, named(second)) == (1, [A])
    assert second.entries[0].fetch_offset == 5


def test_a_request_that_names_nothing_goes_on_waiting_for_the_others():
    line = a_line(A, B)
    first = line.next_request()
    answer(line, first)

    second = line.next_request()

    assert (second.sequence, named(second)) == (1, [])


def test_a_partition_that_begins_to_follow_does_not_wait_for_the_request_under_way():
    line = a_line(A)
    line.next_request()
    line.follow(B, an_entry(B))

    assert named(line.next_request()) == [B]
    line.follow(C, an_entry(C))
    assert line.next_request() is None, "two at most: the older one is answered at once"


def test_who_is_not_followed_any_more_is_forgotten_and_its_answer_dropped():
    line = a_line(A, B)
    first = line.next_request()
    line.unfollow(A)
    second = line.next_request()

    assert [entry.partition for entry in second.forgotten] == [A.partition]
    assert answer(line, first, A, B) == [B]


def test_an_answer_to_an_older_wish_is_dropped():
    line = a_line(A, B)
    first = line.next_request()
    line.follow(A, an_entry(A, 7, epoch=2))

    assert answer(line, first, A, B) == [B]


def test_after_any_doubt_the_next_session_names_everything_that_is_wanted():
    line = a_line(A, B)
    first = line.next_request()
    answer(line, first, A)
    line.follow(A, an_entry(A, 5))
    line.unfollow(B)
    line.follow(C, an_entry(C))

    line.end_session()
    request = line.next_request()

    assert (request.session, request.sequence, named(request), request.forgotten) == (2, 0, [A, C], [])
    assert answer(line, first, A) is None, "of the session that is over"
    assert answer(line, request, C) == [C]


def test_whoever_is_owed_is_not_waited_for_for_ever():
    line = a_line(A, B)
    answer(line, line.next_request(), A)

    line.give_up_waiting()

    assert not line.is_owed
    assert named(line.next_request()) == [], "B goes on; A is named when it asks"
    line.follow(A, an_entry(A, 3))
    assert named(line.next_request()) == [A]


# -- progress ----------------------------------------------------------------------------------------


def test_progress_is_told_once_between_fetches_and_said_again_by_the_next_request():
    line = a_line(A, B)
    first = line.next_request()
    line.durable(A, 1, 4)

    told = line.progress()
    assert [(entry.partition, entry.durable_offset) for entry in told.entries] == [(0, 4)]
    assert line.progress() is None
    answer(line, first)
    second = line.next_request()

    assert [(entry.partition, entry.durable_offset) for entry in second.progress] == [(0, 4)], "it may have been lost"
    assert named(second) == [], "its fetch is parked: asked again it would be answered twice"
    answer(line, second)
    assert line.next_request().progress == []


@pytest.mark.parametrize(("epoch", "offset"), [(2, 9), (1, 0)])
def test_progress_of_another_epoch_or_of_nothing_new_is_not_told(epoch, offset):
    line = a_line(A)
    line.next_request()

    line.durable(A, epoch, offset)

    assert line.progress() is None


def test_progress_before_the_fetch_goes_out_goes_with_it():
    line = a_line(A)
    line.durable(A, 1, 6)

    assert line.progress() is None
    assert line.next_request().entries[0].durable_offset == 6


def test_what_was_told_of_an_older_fetch_is_not_said_again_after_a_newer_one():
    """It may have been cut since: what the disk held is void then."""
    line = a_line(A)
    first = line.next_request()
    line.durable(A, 1, 9)
    line.progress()
    answer(line, first, A)
    line.follow(A, an_entry(A, 3, durable=3))

    request = line.next_request()
    assert [entry.durable_offset for entry in request.entries] == [3]
    assert request.progress == []


def test_where_the_log_begins_on_disk_is_told_likewise():
    line = a_line(A)
    line.next_request()

    line.durable(A, 1, 0, 7)

    assert [(one.durable_offset, one.log_start_offset) for one in line.progress().entries] == [(0, 7)]


# -- limits ------------------------------------------------------------------------------------------


def test_no_request_names_more_than_a_door_lets_in():
    many = [PartitionKey(TOPIC, number) for number in range(8)]
    line = a_line(*many)

    first, second = line.next_request(), line.next_request()
    assert named(first) + named(second) == many[:6]
    assert line.next_request() is None, "two at most: the older one is answered at once"
    answer(line, first)
    assert named(line.next_request()) == many[6:]

    for key in many:
        line.durable(key, 1, 4)
    assert len(line.progress().entries) == 3
    for key in many[:4]:
        line.unfollow(key)
    answer(line, second)
    third = line.next_request()
    answer(line, third)
    fourth = line.next_request()
    assert [len(one.forgotten) for one in (third, fourth)] == [3, 1]
    assert [len(one.progress) for one in (third, fourth)] == [3, 1]


def test_who_follows_again_is_not_forgotten_by_a_later_request():
    many = [PartitionKey(TOPIC, number) for number in range(4)]
    line = a_line(*many)
    answer(line, line.next_request())
    line.next_request()
    for key in many:
        line.unfollow(key)
    for key in many:
        line.follow(key, an_entry(key, 5))

    requests = []
    while (request := line.next_request()) is not None:
        requests.append(request)
        answer(line, request)
    assert sorted(key.partition for request in requests for key in named(request)) == [0, 1, 2, 3]
    assert not any(request.forgotten for request in requests)


def test_a_line_that_nobody_needs_is_idle():
    line = a_line(A)
    assert not line.is_idle
    line.unfollow(A)
    assert line.is_idle, "it was never sent: nothing is to be forgotten"

    line.follow(A, an_entry(A))
    line.next_request()
    line.unfollow(A)
    assert not line.is_idle
    line.next_request()
    assert line.is_idle


def test_the_answer_to_a_fetch_that_was_named_again_meanwhile_is_dropped():
    """It may tell of a place where the logs part no more: the follower has cut there, and copied on."""
    line = a_line(A)
    first = line.next_request()
    line.unfollow(A)
    line.follow(A, an_entry(A, 7))
    second = line.next_request()

    assert answer(line, first, A) == []
    assert answer(line, second, A) == [A]
