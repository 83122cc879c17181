"""The rules of commits on their way, and of finding a group's coordinator."""

from __future__ import annotations

from collections import deque

from callboard.client.commits import UNKNOWN_TRIES, Commit, Commits, Ended, FindAgain, SendCommit
from callboard.client.coordinator import Coordinator
from callboard.errors import (
    CallboardTimeoutError,
    CommitFailedError,
    ConnectionLostError,
    ErrorCode,
    OffsetMetadataTooLargeError,
    UnknownTopicOrPartitionError,
    error_for_code,
)
from callboard.model import OffsetAndMetadata, TopicPartition
from callboard.transport.group_messages import CoordinatorEntry, OffsetCommitEntryReply

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
LOST = ConnectionLostError("cut")


def a_commit(offset, key=A, *, waits=False, member="m", epoch=1, until=1_000) -> Commit:
    return Commit({key: OffsetAndMetadata(offset)}, member, epoch, is_waiting=waits, until_ms=until)


def commits(*given: Commit) -> Commits:
    made = Commits()
    for commit in given:
        made.on_commit(commit)
    return made


def drained(queue, now=0, member="m", epoch=1, known=True):
    return queue.drain(now, member, epoch, has_coordinator=known)


def answered(queue, send, error=ErrorCode.NONE, detail="", *, now=0, member="m", epoch=1, entries=()):
    failure = error_for_code(error, detail) if error else None
    return queue.on_answer(send.number, failure, entries, now, member, epoch)


def test_commits_wait_until_a_coordinator_is_known():
    queue = commits(a_commit(1))

    assert drained(queue, known=False) == []
    assert [type(effect) for effect in drained(queue)] == [SendCommit]


def test_what_is_asked_for_while_one_is_under_way_goes_together_and_ends_in_order():
    first, second, third = a_commit(1), a_commit(2), a_commit(7, B)
    queue = commits(first)
    (send,) = drained(queue)
    queue.on_commit(second)
    queue.on_commit(third)
    assert drained(queue) == []

    assert answered(queue, send) == [Ended(first, None)]
    (send,) = drained(queue)

    assert send.offsets == {A: OffsetAndMetadata(2), B: OffsetAndMetadata(7)}
    assert answered(queue, send) == [Ended(second, None), Ended(third, None)]
    assert queue.is_idle


def test_one_that_does_not_wait_ends_with_the_first_error_and_the_coordinator_is_looked_up():
    commit = a_commit(1)
    queue = commits(commit)
    (send,) = drained(queue)

    effects = queue.on_silence(send.number, LOST, 5)

    assert effects == [Ended(commit, LOST), FindAgain(LOST)]


def test_one_that_waits_is_tried_until_it_succeeds():
    commit = a_commit(1, waits=True)
    queue = commits(commit)
    (send,) = drained(queue)
    assert answered(queue, send, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS) == []
    assert drained(queue) == []  # after a pause
    assert queue.next_event_ms(has_coordinator=True) == 10

    (send,) = drained(queue, 10)

    assert answered(queue, send, now=11) == [Ended(commit, None)]


def test_one_that_waits_is_sent_alone_again_when_those_before_it_have_ended_with_the_error():
    asynchronous, waiting = a_commit(1), a_commit(2, waits=True)
    queue = commits(asynchronous, waiting)
    (send,) = drained(queue)

    effects = queue.on_silence(send.number, LOST, 5)

    assert effects == [Ended(asynchronous, LOST), FindAgain(LOST)]
    (send,) = drained(queue, 15)
    assert send.offsets == {A: OffsetAndMetadata(2)}


def test_one_that_waits_ends_when_its_time_is_over_and_says_what_stood_in_the_way():
    commit = a_commit(1, waits=True)
    queue = commits(commit)
    (send,) = drained(queue)
    answered(queue, send, ErrorCode.NOT_COORDINATOR, "it is broker 3")

    (ended,) = drained(queue, 1_000)

    assert isinstance(ended.error, CallboardTimeoutError)
    assert "it is broker 3" in str(ended.error)


def test_one_that_waits_ends_at_its_time_also_while_it_is_under_way_and_what_shares_the_request_is_still_told():
    first, asynchronous, waiting = a_commit(1), a_commit(2), a_commit(3, waits=True, until=500)
    queue = commits(first)
    (before,) = drained(queue)
    queue.on_commit(asynchronous)
    queue.on_commit(waiting)
    answered(queue, before)
    (send,) = drained(queue)
    assert queue.next_event_ms(has_coordinator=True) == 500

    (ended,) = drained(queue, 500)

    assert (ended.commit, ended.error.outcome_unknown) == (waiting, True)
    assert "the coordinator has not answered yet" in str(ended.error)
    assert queue.next_event_ms(has_coordinator=True) is None
    assert not queue.is_idle  # a farewell must not overtake it
    assert answered(queue, send, now=600) == [Ended(asynchronous, None)]


class Counted(deque):
    """Counts how often all of it is looked at."""

    looks = 0

    def __iter__(self):
        self.looks += 1
        return super().__iter__()


def test_many_that_nobody_waits_for_are_not_looked_at_one_by_one():
    queue = commits(*(a_commit(number) for number in range(5)))
    queue.queue = Counted(queue.queue)

    for _ in range(10):
        drained(queue, known=False)
        assert queue.next_event_ms(has_coordinator=False) == 1_000

    assert queue.queue.looks == 0


def test_one_that_waits_ends_at_its_time_behind_one_that_has_more_and_no_timer_rings_for_nothing():
    asynchronous, waiting = a_commit(1, until=30_000), a_commit(2, waits=True, until=500)
    queue = commits(asynchronous, waiting)
    assert drained(queue, known=False) == []

    (ended,) = drained(queue, 500, known=False)

    assert ended.commit is waiting
    assert queue.next_event_ms(has_coordinator=False) == 30_000


def test_a_fenced_commit_fails_with_what_the_coordinator_says_of_the_owner():
    for waits in (False, True):
        queue = commits(a_commit(1, waits=waits))
        (send,) = drained(queue)

        (ended,) = answered(queue, send, ErrorCode.FENCED_MEMBER_EPOCH, "t-0 belongs to m-9 since generation 7")

        assert isinstance(ended.error, CommitFailedError)
        assert "t-0 belongs to m-9 since generation 7" in str(ended.error)


def test_a_commit_that_is_refused_after_an_attempt_that_may_have_taken_effect_says_so():
    commit = a_commit(1, waits=True)
    queue = commits(commit)
    (send,) = drained(queue)
    queue.on_silence(send.number, LOST, 5)
    (send,) = drained(queue, 15)

    (ended,) = answered(queue, send, ErrorCode.UNKNOWN_MEMBER_ID, "b owns t-0", now=16)

    assert isinstance(ended.error, CommitFailedError)
    assert ended.error.outcome_unknown
    assert "may have taken effect" in str(ended.error)


def test_only_an_epoch_that_has_grown_meanwhile_is_no_failure():
    commit = a_commit(1)
    queue = commits(commit)
    (send,) = drained(queue, epoch=1)

    assert answered(queue, send, ErrorCode.FENCED_MEMBER_EPOCH, epoch=3) == []
    (send,) = drained(queue, 10, epoch=3)

    assert send.member_epoch == 3
    assert answered(queue, send, epoch=3) == [Ended(commit, None)]


def test_a_commit_of_a_name_of_before_goes_out_under_that_name():
    old, new = a_commit(1, member="old", epoch=4), a_commit(2, B, member="m", epoch=1)
    queue = commits(old, new)

    (send,) = drained(queue, member="m", epoch=2)

    assert (send.member_id, send.member_epoch, set(send.offsets)) == ("old", 4, {A})
    (ended,) = answered(queue, send, ErrorCode.UNKNOWN_MEMBER_ID, "t-0 is m's", epoch=2)
    assert isinstance(ended.error, CommitFailedError)
    (send,) = drained(queue, epoch=2)
    assert (send.member_id, send.member_epoch) == ("m", 2)


def test_an_error_of_one_partition_is_only_of_the_commits_that_name_it():
    bad, good = a_commit(1), a_commit(1, B)
    queue = commits(bad, good)
    (send,) = drained(queue)
    entry = OffsetCommitEntryReply(topic="t", partition=0, error=ErrorCode.OFFSET_METADATA_TOO_LARGE)

    first, second = answered(queue, send, entries=[entry])

    assert isinstance(first.error, OffsetMetadataTooLargeError)
    assert second == Ended(good, None)


def test_closing_ends_whatever_is_left_in_order():
    first, second = a_commit(1), a_commit(2)
    queue = commits(first)
    drained(queue)
    queue.on_commit(second)

    assert queue.on_closed(LOST) == [Ended(first, LOST), Ended(second, LOST)]


# -- the coordinator -------------------------------------------------------------------------------


def test_the_coordinator_is_asked_for_once_when_it_is_wanted():
    finder = Coordinator()
    assert not finder.should_ask(0)

    finder.want()

    assert finder.should_ask(0)
    assert not finder.should_ask(0)
    assert finder.on_answer(CoordinatorEntry(group_id="g", broker_id=2), 5, 1)
    assert finder.broker_id == 2
    assert not finder.should_ask(100)


def test_nobody_being_it_just_now_is_asked_again_with_growing_pauses():
    finder = Coordinator()
    finder.want()
    pauses, now = [], 0
    for _ in range(8):
        assert finder.should_ask(now)
        finder.on_answer(CoordinatorEntry(group_id="g", error=ErrorCode.COORDINATOR_NOT_AVAILABLE), 5, now)
        pauses.append(finder.next_event_ms() - now)
        now = finder.next_event_ms()

    assert pauses == [5, 10, 20, 40, 80, 160, 250, 250]


def test_an_answer_of_older_metadata_is_a_broker_that_lags():
    finder = Coordinator()
    finder.want()
    finder.should_ask(0)
    finder.on_answer(CoordinatorEntry(group_id="g", broker_id=2), 5, 0)
    finder.doubt()

    assert finder.should_ask(5)
    assert not finder.on_answer(CoordinatorEntry(group_id="g", broker_id=1), 4, 6)
    assert finder.broker_id is None


def test_a_group_id_that_is_refused_is_not_asked_for_again():
    finder = Coordinator()
    finder.want()
    finder.should_ask(0)

    finder.on_answer(CoordinatorEntry(group_id="", error=ErrorCode.INVALID_GROUP_ID), 5, 0)

    assert finder.fatal is not None
    assert not finder.should_ask(1_000)
    assert finder.next_event_ms() is None


def test_what_the_coordinator_refuses_for_one_partition_is_tried_again_without_it():
    bad, good = a_commit(1), a_commit(1, B)
    queue = commits(bad, good)
    (send,) = drained(queue)
    entry = OffsetCommitEntryReply(topic="t", partition=0, error=ErrorCode.OFFSET_METADATA_TOO_LARGE)

    (ended,) = answered(queue, send, ErrorCode.OFFSET_METADATA_TOO_LARGE, entries=[entry])
    assert ended.commit is bad

    (send,) = drained(queue, 10)
    assert set(send.offsets) == {B}
    assert answered(queue, send) == [Ended(good, None)]


def unknown(key=B):
    return [
        OffsetCommitEntryReply(
            topic=key.topic,
            partition=key.partition,
            error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            detail="there is no t-1",
        )
    ]


def test_a_commit_to_a_partition_that_is_not_there_ends_soon_and_takes_no_other_along():
    first, bad, last = a_commit(1, waits=True), a_commit(5, B, waits=True), a_commit(2, waits=True)
    queue, now = commits(first, bad, last), 0
    for commit in (first, bad, last):
        commit.until_ms = 60_000
    effects = []

    for _ in range(UNKNOWN_TRIES):
        (send,) = drained(queue, now)
        assert send.offsets == {A: OffsetAndMetadata(2), B: OffsetAndMetadata(5)}, "in their order, each time"
        effects = answered(
            queue, send, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "there is no t-1", now=now, entries=unknown()
        )
        now += 250

    (ended,) = effects
    assert ended.commit is bad
    assert isinstance(ended.error, UnknownTopicOrPartitionError)
    assert not ended.error.outcome_unknown
    (send,) = drained(queue, now)
    assert send.offsets == {A: OffsetAndMetadata(2)}
    assert [one.commit for one in answered(queue, send)] == [first, last]


def test_a_partition_that_is_known_a_moment_later_is_committed():
    commit = a_commit(5, B, waits=True)
    queue = commits(commit)
    (send,) = drained(queue)
    assert answered(queue, send, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, entries=unknown()) == []

    (send,) = drained(queue, 20)

    assert answered(queue, send, now=20) == [Ended(commit, None)]
