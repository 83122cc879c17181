"""The rules of fetching: credit, generations, resets, leaders that move."""

from __future__ import annotations

from callboard.client.fetcher import (
    Credit,
    Deliver,
    Fetcher,
    FetchSettings,
    LookUpOffset,
    Refresh,
    SendFetch,
    TellError,
    TellPosition,
)
from callboard.client.metadata import PartitionLeader
from callboard.errors import (
    ConnectionLostError,
    ErrorCode,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from callboard.model import TopicPartition
from callboard.transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, FetchEntryReply

A, B = TopicPartition("t", 0), TopicPartition("t", 1)

SETTINGS = FetchSettings(
    wait_ms=500,
    min_bytes=1,
    buffer_bytes=10_000,
    partition_bytes=1_000,
    retry_backoff_ms=10,
    retry_backoff_max_ms=1_000,
    reset_timestamp=LATEST_TIMESTAMP,
)


class AView:
    """Broker 1 leads everything; data of n bytes is n records."""

    def __init__(self) -> None:
        self.leaders = {key: PartitionLeader("t", "id", key.partition, 1, 0) for key in (A, B)}
        self.connected = True
        self.error = None

    def leader(self, topic, partition):
        return self.leaders.get((topic, partition))

    def is_connected(self, broker_id):
        return self.connected

    def partition_error(self, key, now_ms):
        return self.error

    def next_offset(self, data):
        return int(data.split(b" ")[0])


def data(next_offset: int, size: int = 20) -> bytes:
    return b"%d " % next_offset + b"x" * (size - 1 - len(str(next_offset)))


def a_fetcher(*keys, settings=SETTINGS, offset=0):
    fetcher = Fetcher(settings, AView())
    credits_ = {}
    for number, key in enumerate(keys or (A,)):
        credits_[key] = Credit()
        fetcher.on_assign(key, number + 1, credits_[key], offset=offset, reset_to=None)
    fetcher.credits = credits_
    return fetcher


def fetch(fetcher, now=0) -> SendFetch:
    (effect,) = fetcher.drain(now)
    assert isinstance(effect, SendFetch)
    return effect


def reply(fetcher, request, *frames, partition=0, error=0, now=0, **more):
    entry = FetchEntryReply(topic_id="id", partition=partition, error=error, frames=len(frames), **more)
    return fetcher.on_reply(request.request_id, [entry], {("id", partition): list(frames)}, None, now)


def test_partitions_of_one_broker_share_a_request():
    request = fetch(a_fetcher(A, B))

    assert [entry.partition for entry in request.entries] == [0, 1]


def test_a_partition_is_in_one_request_at_a_time():
    fetcher = a_fetcher()
    fetch(fetcher)

    assert fetcher.drain(0) == []


def test_a_partition_that_is_behind_does_not_wait_for_an_idle_one():
    fetcher = a_fetcher(A, B)
    fetcher.on_pause([B], True)
    fetch(fetcher)
    fetcher.on_pause([B], False)

    assert [entry.partition for entry in fetch(fetcher).entries] == [1]


def test_what_comes_is_delivered_and_the_next_fetch_follows_it():
    fetcher = a_fetcher()

    effects = reply(fetcher, fetch(fetcher), data(10), data(25), high_watermark=25)

    assert [effect for effect in effects if isinstance(effect, Deliver)] == [
        Deliver(A, 1, 0, data(10)),
        Deliver(A, 1, 10, data(25)),
    ]
    assert fetch(fetcher).entries[0].fetch_offset == 25


def test_no_more_is_fetched_than_there_is_credit_for():
    fetcher = a_fetcher()
    reply(fetcher, fetch(fetcher), data(10, size=1_000))

    assert fetcher.drain(0) == []
    assert fetcher.credits[A].is_wanted
    fetcher.credits[A].consumed += 1_000
    fetcher.total.consumed += 1_000

    assert fetch(fetcher).entries[0].fetch_offset == 10
    assert not fetcher.credits[A].is_wanted


def test_all_partitions_together_stay_within_the_buffer():
    fetcher = a_fetcher(A, B, settings=SETTINGS._replace(buffer_bytes=500, partition_bytes=400))
    reply(fetcher, fetch(fetcher), data(10, size=500))

    assert fetcher.drain(0) == []
    assert fetcher.total.is_wanted


def test_a_paused_partition_is_not_fetched():
    fetcher = a_fetcher()
    fetcher.on_pause([A], True)

    assert fetcher.drain(0) == []


def test_what_was_fetched_before_a_seek_is_dropped():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    fetcher.on_seek(A, 2, offset=100, reset_to=None)

    assert fetch(fetcher).entries[0].fetch_offset == 100
    assert [effect for effect in reply(fetcher, request, data(10)) if isinstance(effect, Deliver)] == []


def test_an_unknown_position_is_looked_up_once_and_told():
    fetcher = Fetcher(SETTINGS, AView())
    fetcher.on_assign(A, 1, Credit(), offset=None, reset_to=EARLIEST_TIMESTAMP)

    assert fetcher.drain(0) == [LookUpOffset(A, 1, EARLIEST_TIMESTAMP)]
    assert fetcher.drain(0) == []
    assert fetcher.on_offset(A, 1, 42, None, 0) == [TellPosition(A, 1, 42)]

    assert fetch(fetcher).entries[0].fetch_offset == 42


def test_a_look_up_that_ends_after_a_seek_changes_nothing():
    fetcher = Fetcher(SETTINGS, AView())
    fetcher.on_assign(A, 1, Credit(), offset=None, reset_to=EARLIEST_TIMESTAMP)
    fetcher.drain(0)
    fetcher.on_seek(A, 2, offset=7, reset_to=None)

    assert fetcher.on_offset(A, 1, 42, None, 0) == []
    assert fetch(fetcher).entries[0].fetch_offset == 7


def test_an_offset_outside_the_log_is_reset_by_policy():
    fetcher = a_fetcher(offset=1_000)

    assert reply(fetcher, fetch(fetcher), error=ErrorCode.OFFSET_OUT_OF_RANGE) == []

    assert fetcher.drain(0) == [LookUpOffset(A, 1, LATEST_TIMESTAMP)]


def test_an_offset_outside_the_log_is_told_without_a_policy():
    fetcher = a_fetcher(settings=SETTINGS._replace(reset_timestamp=None), offset=1_000)

    (effect,) = reply(fetcher, fetch(fetcher), error=ErrorCode.OFFSET_OUT_OF_RANGE)

    assert isinstance(effect, TellError)
    assert isinstance(effect.error, OffsetOutOfRangeError)
    assert fetcher.drain(0) == []


def test_a_moved_leader_is_looked_for_and_tried_again_after_a_pause():
    fetcher = a_fetcher()

    effects = reply(fetcher, fetch(fetcher), error=ErrorCode.NOT_LEADER_FOR_PARTITION, now=100)

    assert isinstance(effects[0], Refresh)
    assert fetcher.drain(100) == []
    assert fetcher.next_event_ms(100) == 110
    assert fetch(fetcher, now=110)


def test_newer_metadata_ends_the_wait_for_an_old_leader():
    fetcher = a_fetcher()
    old = fetch(fetcher)
    fetcher.view.leaders[A] = PartitionLeader("t", "id", 0, 2, 1)

    fetcher.on_metadata(0)

    assert fetch(fetcher).broker_id == 2
    assert reply(fetcher, old, data(10)) == []


def test_a_lost_connection_is_tried_again_and_the_pauses_grow():
    fetcher, pauses, now = a_fetcher(), [], 0
    for _ in range(4):
        request = fetch(fetcher, now)
        fetcher.on_reply(request.request_id, [], {}, ConnectionLostError("x"), now)
        pauses.append(fetcher.next_event_ms(now) - now)
        now += pauses[-1]

    assert pauses == [10, 20, 40, 80]


def test_a_connection_that_is_back_ends_the_pause():
    fetcher = a_fetcher()
    fetcher.on_reply(fetch(fetcher).request_id, [], {}, ConnectionLostError("x"), 0)

    fetcher.on_connected(1)

    assert fetch(fetcher)


def test_a_topic_made_anew_is_read_from_its_beginning():
    fetcher = a_fetcher(offset=1_000)
    fetch(fetcher)
    fetcher.view.leaders[A] = PartitionLeader("t", "other", 0, 1, 0)

    fetcher.on_metadata(0)

    assert fetcher.drain(0) == [LookUpOffset(A, 1, EARLIEST_TIMESTAMP)]


def test_a_topic_that_is_not_there_is_told_until_it_is_there():
    fetcher = a_fetcher()
    leader = fetcher.view.leaders.pop(A)
    fetcher.view.error = UnknownTopicOrPartitionError("t")

    (told,) = fetcher.on_metadata(0)
    assert fetcher.on_metadata(0) == []
    fetcher.view.leaders[A], fetcher.view.error = leader, None

    assert isinstance(told.error, UnknownTopicOrPartitionError)
    assert fetcher.on_metadata(0) == [TellError(A, 1, None)]


def test_nothing_is_due_while_a_fetch_is_parked():
    fetcher = a_fetcher()
    fetch(fetcher)

    assert fetcher.next_event_ms(0) is None
    assert not fetcher.needs_leaders()


def test_a_partition_that_was_unassigned_gets_nothing_more():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    fetcher.on_unassign([A])

    assert reply(fetcher, request, data(10)) == []
    assert fetcher.total.buffered == 0
