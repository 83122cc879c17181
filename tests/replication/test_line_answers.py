"""What one broker fetches from another: an answer counts for the fetch it belongs to."""

from callboard.actors.replication.line import Line
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
    return FetchReply(entries=[FetchEntryReply(topic_id=key.topic_id, partition=key.partition) for key in keys])


def test_a_fetch_that_was_named_twice_is_answered_once():
    """Told again with its progress while the answer is on its way: the second answer is of the fetch before."""
    line = Line(2, wait_ms=1_000, max_bytes=1_000)
    line.follow(KEY, an_entry(KEY, 10))
    line.next_request()
    line.durable(KEY, 1, 10)
    line.progress()
    line.follow(OTHER, an_entry(OTHER, 0))
    again = line.next_request()
    assert again is not None
    assert {entry.partition for entry in again.entries} == {0, 1}

    assert line.on_reply(1, 0, an_answer(KEY)) == an_answer(KEY).entries
    line.follow(KEY, an_entry(KEY, 11))
    third = line.next_request()
    assert third is not None
    assert third.sequence == 2

    assert line.on_reply(1, 1, an_answer(KEY)) == []
    assert line.on_reply(1, 2, an_answer(KEY)) == an_answer(KEY).entries
