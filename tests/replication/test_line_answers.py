"""What one broker fetches from another: an answer counts for the fetch it belongs to."""

from msgspec.structs import replace

from callboard.actors.replication.line import Line
from callboard.actors.replication.sessions import FollowerSession
from callboard.model import PartitionKey, TopicId
from callboard.transport.messages import FetchEntry, FetchEntryReply, FetchReply

TOPIC = "0" * 32
KEY = PartitionKey(TopicId(TOPIC), 0)
OTHER = PartitionKey(TopicId(TOPIC), 1)


def an_entry(key: PartitionKey, fetch_offset: int) -> FetchEntry:
    return FetchEntry(
        topic_id=key.topic_id, partition=key.partition, leader_epoch=1, fetch_offset=fetch_offset, max_bytes=1
    )


def an_answer(*keys: PartitionKey) -> FetchReply:
    return FetchReply(
        entries=[FetchEntryReply(topic_id=key.topic_id, partition=key.partition, leader_epoch=1) for key in keys]
    )


def test_a_fetch_whose_answer_is_on_its_way_is_not_asked_again_with_its_progress():
    """It would be answered twice, and the second answer be taken for that of the next fetch: "the leader sent offset
    10, this log ends at 11". Where the leader's door takes two requests at once nothing else tells them apart."""
    line = Line(2, wait_ms=1_000, max_bytes=1_000, entries_max=1_000)
    line.follow(KEY, an_entry(KEY, 10))
    first = line.next_request()
    assert first is not None
    session = FollowerSession(b"peer", first, 0)
    ((number, _),) = session.on_request(first, 0, 1_000)
    session.on_answer(number, an_answer(KEY).entries[0], ())
    line.durable(KEY, 1, 10)
    line.progress()
    line.follow(OTHER, an_entry(OTHER, 0))
    second = line.next_request()
    assert second is not None
    assert [entry.durable_offset for entry in second.progress] == [10]

    assert line.on_reply(1, 0, session.reply()[0]) == an_answer(KEY).entries
    line.follow(KEY, an_entry(KEY, 11))
    third = line.next_request()
    assert third is not None
    asked = [entry for request in (second, third) for _, entry in session.on_request(request, 0, 1_000)]

    assert [(entry.partition, entry.fetch_offset) for entry in asked] == [(1, 0), (0, 11)]


def test_the_answer_to_a_fetch_of_an_earlier_epoch_is_not_taken_for_that_of_the_next_one():
    line = Line(2, wait_ms=1_000, max_bytes=1_000, entries_max=1_000)
    line.follow(KEY, an_entry(KEY, 10))
    first = line.next_request()
    assert first is not None
    session = FollowerSession(b"peer", first, 0)
    ((number, _),) = session.on_request(first, 0, 1_000)
    line.follow(KEY, replace(an_entry(KEY, 11), leader_epoch=3))
    second = line.next_request()
    assert second is not None
    session.on_request(second, 0, 1_000)
    answer = an_answer(KEY).entries[0]

    session.on_answer(number, answer, ())
    assert not session.is_complete
    session.on_answer(number, replace(answer, leader_epoch=3), ())
    assert session.is_complete
