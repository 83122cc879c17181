"""The rules of fetching: credit, generations, resets, leaders that move."""

from __future__ import annotations

from fetchers import EPOCH, SETTINGS, A, AView, B, a_fetcher, data, fetch, reply

from callboard.client.fetch_state import Credit
from callboard.client.fetcher import (
    WAIT_MS_MIN,
    Deliver,
    Fetcher,
    Hint,
    LookUpOffset,
    Refresh,
    TellError,
    TellPosition,
    TellReset,
    TellTruncated,
)
from callboard.client.metadata import PartitionLeader
from callboard.client.patience import LOOK_AGAIN_MS, SLOW_ANSWER_MS, DoubtBrokers
from callboard.errors import (
    ConnectionLostError,
    ErrorCode,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from callboard.transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, FetchEntryReply


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


def test_where_a_paused_partition_begins_is_looked_up_all_the_same():
    fetcher = a_fetcher()
    fetcher.on_pause([A], True)
    fetcher.on_seek(A, 2, offset=None, reset_to=-2)
    fetcher.view.leaders.clear()
    assert fetcher.needs_leaders()
    fetcher.view = AView()

    assert fetcher.drain(0) == [LookUpOffset(A, 2, -2)]
    assert fetcher.on_offset(A, 2, 7, None, 0) == [TellPosition(A, 2, 7)]
    assert fetcher.drain(0) == []  # and nothing is fetched


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


def test_an_unknown_position_is_looked_up_as_soon_as_the_leader_is_connected():
    fetcher = Fetcher(SETTINGS, AView())
    fetcher.on_assign(A, 1, Credit(), offset=None, reset_to=EARLIEST_TIMESTAMP)
    fetcher.view.connected = False
    assert fetcher.drain(0) == []

    fetcher.view.connected = True
    fetcher.on_connected(1)

    assert fetcher.drain(0) == [LookUpOffset(A, 1, EARLIEST_TIMESTAMP)]


def test_a_look_up_that_ends_after_a_seek_changes_nothing():
    fetcher = Fetcher(SETTINGS, AView())
    fetcher.on_assign(A, 1, Credit(), offset=None, reset_to=EARLIEST_TIMESTAMP)
    fetcher.drain(0)
    fetcher.on_seek(A, 2, offset=7, reset_to=None)

    assert fetcher.on_offset(A, 1, 42, None, 0) == []
    assert fetch(fetcher).entries[0].fetch_offset == 7


def test_an_offset_outside_the_log_is_reset_by_policy():
    fetcher = a_fetcher(offset=1_000)

    effects = reply(fetcher, fetch(fetcher), error=ErrorCode.OFFSET_OUT_OF_RANGE, log_start_offset=1_200)

    assert effects == [TellReset(A, 1_000, 1_200)]
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
    assert fetcher.next_event_ms(100) == 105, "an election takes milliseconds"
    assert fetch(fetcher, now=105)


def test_who_is_said_to_lead_instead_is_taken_from_the_answer():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    refusal = FetchEntryReply(
        topic_id="id", partition=0, error=ErrorCode.NOT_LEADER_FOR_PARTITION, leader=2, leader_epoch=7
    )

    effects = fetcher.on_reply(request.request_id, [refusal], {}, None, 100)

    assert effects[0] == Hint("id", 0, 2, 7)
    fetcher.view.leaders[A] = PartitionLeader("t", "id", 0, 2, 7)
    fetcher.on_metadata(100)
    assert fetch(fetcher, now=100).broker_id == 2


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

    assert pauses == [5, 10, 20, 40]


def test_an_answer_without_a_partition_is_no_failure_nothing_was_new_there():
    """Brokers tell of partitions that have something. The others were paused, up to a second, and called in trouble."""
    fetcher = a_fetcher(A, B)

    for now in range(0, 5_000, 500):
        reply(fetcher, fetch(fetcher, now), now=now)
        fetcher.on_reply(fetch(fetcher, now).request_id, [], {}, None, now)

    assert [entry.partition for entry in fetch(fetcher, now).entries] == [0, 1]
    assert [state.failures for state in fetcher.states.values()] == [0, 0]


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


PARKING = SETTINGS._replace(wait_ms=30_000)


def test_nothing_is_due_while_a_fetch_is_parked_before_its_answer_is_late():
    fetcher = a_fetcher()
    request = fetch(fetcher)

    assert fetcher.next_event_ms(0) == request.wait_ms + SLOW_ANSWER_MS
    assert fetcher.on_tick(request.wait_ms + SLOW_ANSWER_MS - 1) == []
    assert not fetcher.needs_leaders()


def test_an_idle_fetch_waits_longer_each_time_and_briefly_again_when_something_has_come():
    fetcher = a_fetcher(settings=PARKING)
    now, waits = 0, []
    for _ in range(8):
        request = fetch(fetcher, now)
        waits.append(request.wait_ms)
        now += request.wait_ms
        reply(fetcher, request, now=now)
    assert waits == [WAIT_MS_MIN, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000]

    reply(fetcher, fetch(fetcher, now), data(10), now=now)

    assert fetch(fetcher, now).wait_ms == WAIT_MS_MIN


def test_what_the_application_asks_to_wait_for_is_waited_for_as_long_as_it_says():
    fetcher = a_fetcher(settings=SETTINGS._replace(min_bytes=10_000, wait_ms=7_000))

    assert fetch(fetcher).wait_ms == 7_000


def test_a_leader_that_was_stopped_is_doubted_and_its_partitions_are_read_where_they_are_led_instead():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    late = request.wait_ms + SLOW_ANSWER_MS

    assert fetcher.on_tick(late) == [DoubtBrokers((1,))]
    assert fetcher.next_event_ms(late) == late + LOOK_AGAIN_MS
    assert fetcher.drain(late) == [], "it may still answer"
    fetcher.view.leaders[A] = PartitionLeader("t", "id", 0, 2, 1)
    fetcher.on_metadata(late)
    again = fetch(fetcher, late)

    assert again.broker_id == 2
    assert fetcher.on_tick(late + LOOK_AGAIN_MS) == [], "nobody waits for the first any more"
    assert reply(fetcher, request, data(10), now=late + 300) == []


def test_nobody_is_doubted_for_a_partition_that_nobody_reads_any_more():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    fetcher.on_unassign([A])

    assert fetcher.on_tick(request.wait_ms + SLOW_ANSWER_MS) == []
    assert fetcher.next_event_ms(0) is None


def test_a_partition_that_was_unassigned_gets_nothing_more():
    fetcher = a_fetcher()
    request = fetch(fetcher)
    fetcher.on_unassign([A])

    assert reply(fetcher, request, data(10)) == []
    assert fetcher.total.buffered == 0


# -- a log that has lost what was read (B13) ---------------------------------------------------------


def a_fetcher_that_has_read(offset, settings=SETTINGS):
    fetcher = a_fetcher(settings=settings)
    reply(fetcher, fetch(fetcher), data(offset), high_watermark=offset)
    return fetcher


def test_b13_a_fetch_says_of_which_epoch_the_record_before_it_was():
    fetcher = a_fetcher()
    assert fetch(fetcher).entries[0].last_fetched_epoch == -1

    assert fetch(a_fetcher_that_has_read(100)).entries[0].last_fetched_epoch == EPOCH


def test_b13_after_a_seek_nothing_was_read_before_it():
    fetcher = a_fetcher_that_has_read(100)

    fetcher.on_seek(A, 2, offset=40, reset_to=None)

    assert fetch(fetcher).entries[0].last_fetched_epoch == -1


def test_b13_a_truncated_log_has_the_consumer_go_back_and_fetches_nothing_before_it_has():
    fetcher = a_fetcher_that_has_read(100)

    effects = reply(fetcher, fetch(fetcher), diverging_epoch=3, diverging_end_offset=60, high_watermark=120)

    assert effects == [TellTruncated(A, 1, 60)]
    assert fetcher.drain(0) == []
    fetcher.on_seek(A, 2, offset=60, reset_to=None)
    assert fetch(fetcher).entries[0].fetch_offset == 60


def test_b13_without_a_reset_policy_the_application_is_told():
    fetcher = a_fetcher_that_has_read(100, SETTINGS._replace(reset_timestamp=None))

    (told,) = reply(fetcher, fetch(fetcher), diverging_epoch=3, diverging_end_offset=60, high_watermark=120)

    assert isinstance(told, TellError)
    assert isinstance(told.error, LogTruncationError)
    assert told.error.divergent_offsets == {A: 60}
    assert "from offset 60 on were read, up to 100" in str(told.error)
