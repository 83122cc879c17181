"""What counts as fetching what is owned, and what does not."""

from __future__ import annotations

import pytest
from fetchers import EPOCH, SETTINGS, A, AView, B, a_fetcher, data, fetch, reply

from callboard.client.applicant import Granted
from callboard.client.evidence import Evidence
from callboard.client.fetch_state import Credit
from callboard.client.fetcher import GRACE_MS, WAIT_MS_MIN, Deliver
from callboard.client.inbox import Inbox
from callboard.client.metadata import PartitionLeader
from callboard.client.patience import SLOW_ANSWER_MS
from callboard.client.reading import Decoding
from callboard.errors import ConnectionLostError, ErrorCode, OverloadedError
from callboard.transport.messages import EARLIEST_TIMESTAMP

LATE_MS = SETTINGS.wait_ms + SLOW_ANSWER_MS  # when the answer to a fetch that was sent at 0 is late


class Rig:
    """A fetcher of A (in generation 1) and perhaps B, with the inbox that its partitions are read from."""

    def __init__(self, *keys, **more):
        self.fetcher = a_fetcher(*(keys or (A,)), **more)
        self.inbox = Inbox(Decoding(None, None, is_verifying=False, skips_bad=False))
        self.inbox.connect(self.fetcher.total, lambda: None)
        for key, state in self.fetcher.states.items():
            self.inbox.items.append(Granted(key, state.generation, state.credit))
            self.inbox.sort()
            self.inbox.take_over([state.generation])
        self.owned = list(self.fetcher.states)
        self.evidence = Evidence(self.fetcher, self.inbox)

    def stalled(self, now_ms):
        return self.evidence.stalled(self.owned, now_ms)

    def put(self, effects):
        self.inbox.items.extend(effect for effect in effects if isinstance(effect, Deliver))
        self.inbox.sort()


def test_a_partition_that_is_asked_for_is_fetched_until_the_answer_is_late():
    rig = Rig()
    assert rig.stalled(0) == [A], "nobody has asked yet"

    fetch(rig.fetcher, now=0)

    assert rig.stalled(LATE_MS) == []
    assert rig.stalled(LATE_MS + 1) == [A]


def test_an_answer_without_records_is_one():
    rig = Rig(A, B)
    now = 0
    for _ in range(20):  # an idle topic: the broker has nothing, again and again
        request = fetch(rig.fetcher, now=now)
        now += SETTINGS.wait_ms
        reply(rig.fetcher, request, now=now)  # … and leaves B out
        assert rig.stalled(now) == []


def test_a_partition_that_the_fetch_layer_knows_nothing_of_is_stalled():
    rig = Rig(A, B)
    fetch(rig.fetcher)

    rig.fetcher.states.pop(B)

    assert rig.stalled(0) == [B]


def test_a_partition_that_is_not_asked_for_again_is_stalled_soon():
    rig = Rig()
    reply(rig.fetcher, fetch(rig.fetcher), now=10)

    assert rig.stalled(LATE_MS + GRACE_MS) == [A]


def test_asking_in_vain_again_and_again_is_no_fetching():
    rig, now = Rig(), 0
    for _ in range(40):
        for effect in rig.fetcher.drain(now):
            rig.fetcher.on_reply(effect.request_id, [], {}, ConnectionLostError("cut"), now + 100)
        now += 1_000

    assert rig.stalled(now) == [A]


@pytest.mark.parametrize("is_of_all", [True, False])
def test_a_broker_that_has_too_much_to_do_is_not_the_members_fault(is_of_all):
    rig, now = Rig(), 0
    for _ in range(40):
        for effect in rig.fetcher.drain(now):
            if is_of_all:
                rig.fetcher.on_reply(effect.request_id, [], {}, OverloadedError("too much"), now)
            else:
                reply(rig.fetcher, effect, error=ErrorCode.OVERLOADED, now=now)
        now += 1_000

    assert rig.stalled(now) == []


def test_an_idle_partition_that_is_led_by_another_one_now_is_fetched_soon():
    """Its fetch could wait at the new leader for as long as a stall is borne with, unanswered."""
    rig = Rig(settings=SETTINGS._replace(wait_ms=30_000))
    now = 100_000  # since when that broker is quiet
    rig.fetcher._fed_ms[1] = 0
    reply(rig.fetcher, fetch(rig.fetcher, now=now), error=ErrorCode.NOT_LEADER_FOR_PARTITION, now=now)
    now += 100
    request = fetch(rig.fetcher, now=now)
    now += request.wait_ms
    rig.fetcher.on_reply(request.request_id, [], {}, None, now)

    assert request.wait_ms == WAIT_MS_MIN
    assert rig.stalled(now) == []
    again = fetch(rig.fetcher, now=now)
    assert again.wait_ms == 30_000
    assert rig.stalled(now + again.wait_ms) == []


def test_a_broker_that_says_for_ever_that_it_does_not_lead_feeds_nobody():
    rig, now = Rig(), 0
    for _ in range(40):
        for effect in rig.fetcher.drain(now):
            reply(rig.fetcher, effect, error=ErrorCode.NOT_LEADER_FOR_PARTITION, now=now)
        now += 1_000

    assert rig.stalled(now) == [A]


@pytest.mark.parametrize("leader", [None, PartitionLeader("t", "id", 0, -1, 0)])
def test_a_partition_whose_leader_is_not_known_is_stalled(leader):
    rig = Rig()
    rig.fetcher.view.leaders[A] = leader

    assert rig.fetcher.drain(0) == []
    assert rig.stalled(0) == [A]


def test_a_partition_of_which_nobody_knows_where_it_begins_is_stalled():
    rig = Rig(offset=None)
    rig.fetcher.drain(0)

    assert rig.stalled(0) == [A]


def test_nothing_is_wanted_of_a_paused_partition():
    rig = Rig()
    rig.fetcher.on_pause([A], True)

    assert rig.stalled(10**9) == []

    rig.fetcher.on_pause([A], False)
    fetch(rig.fetcher, now=10**9)
    assert rig.stalled(10**9) == []


def test_an_application_that_was_told_of_an_error_has_to_act_first():
    rig = Rig(settings=SETTINGS._replace(reset_timestamp=None), offset=None)
    rig.fetcher.on_begin(A, 1, offset=None, reset_to=None)  # nothing is committed, and no policy

    assert rig.stalled(10**9) == []


def test_a_consumer_that_has_to_go_back_does_so_when_it_polls():
    rig = Rig(settings=SETTINGS._replace(reset_timestamp=EARLIEST_TIMESTAMP))
    reply(rig.fetcher, fetch(rig.fetcher), data(9))
    reply(rig.fetcher, fetch(rig.fetcher), diverging_end_offset=4, diverging_epoch=EPOCH)

    assert rig.stalled(10**9) == []

    rig.fetcher.on_seek(A, 2, offset=4, reset_to=None)
    rig.inbox.move(A, 2, 4)
    assert rig.stalled(10**9) == [A], "until it is asked for"


def test_a_slow_application_has_its_buffer_full():
    rig = Rig()
    rig.put(reply(rig.fetcher, fetch(rig.fetcher), data(9, size=1_000)))
    assert rig.fetcher.drain(0) == []

    assert rig.stalled(10**9) == []


def test_also_while_it_is_busy_with_the_last_record_of_what_was_fetched():
    rig = Rig()
    rig.put(reply(rig.fetcher, fetch(rig.fetcher), data(9, size=1_000)))
    reader = rig.inbox.readers[A]
    reader.chunk = reader.chunks.popleft()  # as an iteration holds it until its next step

    assert rig.stalled(10**9) == []


def test_so_it_has_with_what_it_has_not_taken_over_yet():
    rig = Rig()
    state = rig.fetcher.states[A]
    rig.inbox.give_up([A])
    rig.inbox.items.append(Granted(A, state.generation, state.credit))
    rig.put(reply(rig.fetcher, fetch(rig.fetcher), data(9, size=1_000)))

    assert list(rig.inbox.arrivals) == [1]
    assert rig.stalled(10**9) == []


def test_a_buffer_that_counts_as_full_and_holds_nothing_is_no_excuse():
    rig = Rig()
    reply(rig.fetcher, fetch(rig.fetcher), data(9, size=1_000))  # … which never gets to the inbox

    assert rig.stalled(10**9) == [A]


def test_when_all_that_may_be_is_fetched_nothing_is_wanted_of_the_others():
    rig = Rig(A, B, settings=SETTINGS._replace(buffer_bytes=900))
    rig.put(reply(rig.fetcher, fetch(rig.fetcher), data(9, size=950)))

    assert rig.stalled(10**9) == []

    rig.inbox.readers[A].chunks.clear()
    assert rig.stalled(10**9) == [A, B]


def test_what_is_fetched_for_nobody_is_stalled():
    rig = Rig()
    fetch(rig.fetcher)
    rig.inbox.readers.pop(A)

    assert rig.stalled(0) == [A]


def test_what_is_fetched_for_another_position_than_is_read_is_stalled():
    rig = Rig()
    fetch(rig.fetcher)
    rig.inbox.readers[A].move_to(7, 0)

    assert rig.stalled(0) == [A]


def test_before_all_that_has_come_is_sorted_nobody_can_say_that_there_is_no_reader():
    rig = Rig()
    fetch(rig.fetcher)
    rig.inbox.readers.pop(A)

    rig.inbox.items.append(Granted(A, 1, Credit()))

    assert rig.stalled(0) == []


def test_a_gap_that_compaction_has_left_is_fetched_over():
    rig = Rig()
    rig.put(reply(rig.fetcher, fetch(rig.fetcher), data(5_000, first=0), high_watermark=9_000))
    reply(rig.fetcher, fetch(rig.fetcher, now=100), data(9_000, first=8_000), now=100)

    assert rig.stalled(100 + GRACE_MS) == []


def test_a_thousand_partitions_are_looked_at_in_milliseconds():
    """Once a heartbeat interval."""
    import time

    from callboard.model import TopicPartition

    keys = [TopicPartition("t", number) for number in range(1_000)]
    rig = Rig(*keys)
    rig.fetcher.view = AView()
    rig.fetcher.view.leaders = {key: PartitionLeader("t", "id", key.partition, 1, 0) for key in keys}
    rig.fetcher.drain(0)

    begin = time.process_time()
    for _ in range(20):
        assert rig.stalled(0) == []
    assert (time.process_time() - begin) / 20 < 0.02
