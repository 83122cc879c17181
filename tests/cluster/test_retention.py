"""Retention by time and size, and delete_records: what goes, what stays, and what readers are told (B36, F21)."""

import errno

import pytest

from callboard.actors.lifecycle import Fail
from callboard.actors.partition.retention import RetentionClock
from callboard.config import BrokerSettings, ClusterConfig
from callboard.errors import ErrorCode
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m

from .sim import describe, fetch, find, partition_of, produce, values_of

HOUR_MS = 3_600_000
CHECK_MS = 1_000


@pytest.fixture
def cluster():
    settings = BrokerSettings(retention_check_ms=CHECK_MS, checkpoint_ms=500)
    return SimulatedCluster(config=ClusterConfig(brokers=1, data_dir="/data", broker=settings)).start()


def now_ms(cluster):
    return cluster.processes["broker-1"].context.clock.wall_ms()


def fill(cluster, topic, count, size=600):
    for number in range(count):
        entry = produce(cluster, topic, [b"%0*d" % (size, number)], timestamp_ms=now_ms(cluster))
        assert entry.error == 0


def look(cluster, times=3):
    cluster.loop.advance(times * 1.3 * CHECK_MS)


def first_offset(cluster):
    return describe(cluster).replicas[0].log_start_offset


def delete(cluster, topic, before, *, epoch=-1, number=0):
    entry = m.DeleteRecordsEntry(topic_id=topic.topic_id, partition=number, leader_epoch=epoch, before_offset=before)
    return cluster.ask(cluster.client_endpoint(1), m.DeleteRecordsRequest(entries=[entry])).entries[0]


# -- by time -------------------------------------------------------------------------------------------


def test_records_past_their_retention_go_and_their_files_with_them(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_ms=HOUR_MS)
    fill(cluster, topic, 6)
    look(cluster)
    assert first_offset(cluster) == 0, "nothing is old yet"

    cluster.loop.advance(HOUR_MS / 2)
    fill(cluster, topic, 3)
    cluster.loop.advance(HOUR_MS / 2)
    look(cluster)

    assert first_offset(cluster) == 6
    assert len(values_of(cluster, topic, offset=6)) == 3
    home = f"/data/broker-1/{topic.topic_id}-0"
    names = [name for name in cluster.disks["broker-1"].list_dir(home) if name.endswith(".log")]
    assert len(names) <= 4


def test_minus_one_keeps_records_for_ever(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_ms=-1)
    fill(cluster, topic, 4)
    clock = find(cluster, "partitions/orders-0").actor._retention_clock
    clock._offset_ms = cluster.processes["broker-1"].context.clock.wall_offset_ms = 1 << 50  # ages have passed
    look(cluster)

    assert first_offset(cluster) == 0


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, 10 * 365 * 24 * HOUR_MS])
def test_a_jump_of_the_wall_clock_deletes_nothing(cluster, jump_ms):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_ms=HOUR_MS // 2)
    fill(cluster, topic, 4)
    clock = cluster.processes["broker-1"].context.clock

    clock.wall_offset_ms += jump_ms
    look(cluster, 10)
    assert first_offset(cluster) == 0
    clock.wall_offset_ms -= jump_ms
    look(cluster, 10)

    assert first_offset(cluster) == 0
    assert len(values_of(cluster, topic)) == 4


def test_an_actor_that_begins_after_a_jump_deletes_nothing(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_ms=HOUR_MS // 2)
    fill(cluster, topic, 4)
    cluster.processes["broker-1"].context.clock.wall_offset_ms += 10 * 365 * 24 * HOUR_MS

    find(cluster, "partitions/orders-0").post(Fail("raise"))
    cluster.run_until(
        lambda: partition_of(cluster, topic).leader_epoch > 0 and describe(cluster).replicas[0].role == "leader"
    )
    look(cluster, 10)

    assert first_offset(cluster) == 0
    assert len(values_of(cluster, topic)) == 4


def test_the_time_by_which_records_age_follows_a_clock_that_was_set_right_slowly():
    clock = RetentionClock(wall_ms=1_000_000, boot_ms=0)

    assert clock.now(1_060_000, 60_000) == 1_060_000
    assert clock.now(1_120_000 + HOUR_MS, 120_000) == 1_126_000, "a tenth of the minute that has passed"
    assert clock.now(1_000, 120_000) == 1_000, "a wall clock behind counts"


# -- by size -------------------------------------------------------------------------------------------


def test_the_oldest_segments_go_when_a_partition_is_too_large(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_bytes=3_000)
    fill(cluster, topic, 20)
    look(cluster)

    replica = describe(cluster).replicas[0]
    assert 3_000 <= replica.size_bytes < 3_000 + 2 * 1_024
    assert values_of(cluster, topic, offset=replica.log_start_offset)[-1].endswith(b"19")


def test_nothing_above_the_high_watermark_goes(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_bytes=0)
    fill(cluster, topic, 3)
    partition = find(cluster, "partitions/orders-0").actor
    partition._flush = lambda: None  # nothing becomes durable, the high watermark stands still
    for _ in range(5):
        produce(cluster, topic, [b"x" * 600], acks=1, timestamp_ms=now_ms(cluster))
    watermark = partition.part.high_watermark
    partition.on_retention_due(None)

    assert partition._log.log_start_offset <= watermark


def test_settings_that_are_altered_hold_at_the_next_look(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024)
    fill(cluster, topic, 10)
    change = m.TopicConfigChange(name="orders", set={"retention_bytes": 2_000})
    cluster.ask(cluster.client_endpoint(1), m.AlterTopicsRequest(topics=[change]))
    look(cluster)

    assert first_offset(cluster) > 0


# -- readers -------------------------------------------------------------------------------------------


def test_a_reader_behind_the_log_start_is_told_where_the_log_begins(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_bytes=2_000)
    fill(cluster, topic, 10)
    look(cluster)

    entry, values = fetch(cluster, topic, 0)

    assert (entry.error, values) == (ErrorCode.OFFSET_OUT_OF_RANGE, [])
    assert entry.log_start_offset == first_offset(cluster) > 0
    earliest = m.ListOffsetsEntry(topic_id=topic.topic_id, partition=0, timestamp_ms=m.EARLIEST_TIMESTAMP)
    reply = cluster.ask(cluster.client_endpoint(1), m.ListOffsetsRequest(entries=[earliest]))
    assert reply.entries[0].offset == entry.log_start_offset
    assert produce(cluster, topic, [b"next"]).log_start_offset == entry.log_start_offset


# -- delete_records --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", ["ack", "os"])
def test_records_are_deleted_up_to_an_offset_and_that_survives_power_loss(cluster, flush):
    topic = cluster.create_topic("orders", segment_bytes=1_024, flush=flush)
    fill(cluster, topic, 10)
    look(cluster)  # with flush=os only a checkpoint makes records durable

    reply = delete(cluster, topic, 5)

    assert (reply.error, reply.log_start_offset) == (0, 5)
    assert fetch(cluster, topic, 4)[0].error == ErrorCode.OFFSET_OUT_OF_RANGE
    assert len(values_of(cluster, topic, offset=5)) == 5
    cluster.crash("broker-1", power_loss=True)
    cluster.restart("broker-1")
    again = cluster.wait_for_leaders("orders")
    assert first_offset(cluster) == 5
    assert len(values_of(cluster, again, offset=5)) == 5


def test_minus_one_deletes_all_that_is_committed(cluster):
    topic = cluster.create_topic("orders")
    fill(cluster, topic, 3)

    assert delete(cluster, topic, -1).log_start_offset == 3
    assert delete(cluster, topic, -1).log_start_offset == 3, "again: nothing more"
    assert produce(cluster, topic, [b"next"]).base_offset == 3
    assert values_of(cluster, topic, offset=3) == [b"next"]


def test_an_offset_below_the_log_start_changes_nothing(cluster):
    topic = cluster.create_topic("orders")
    fill(cluster, topic, 5)
    delete(cluster, topic, 4)

    reply = delete(cluster, topic, 2)

    assert (reply.error, reply.log_start_offset) == (0, 4)


@pytest.mark.parametrize("before", [4, -2])
def test_an_offset_out_of_range_deletes_nothing(cluster, before):
    topic = cluster.create_topic("orders")
    fill(cluster, topic, 3)

    reply = delete(cluster, topic, before)

    assert (reply.error, reply.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 0)
    assert len(values_of(cluster, topic)) == 3


def test_a_stale_leader_epoch_deletes_nothing(cluster):
    topic = cluster.create_topic("orders")
    fill(cluster, topic, 3)

    assert delete(cluster, topic, 3, epoch=9).error == ErrorCode.UNKNOWN_LEADER_EPOCH
    assert first_offset(cluster) == 0


def test_a_partition_that_is_not_there_is_refused(cluster):
    topic = cluster.create_topic("orders")

    assert delete(cluster, topic, 0, number=7).error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_a_deletion_that_never_came_to_disk_is_not_confirmed(cluster):
    topic = cluster.create_topic("orders")
    fill(cluster, topic, 3)
    cluster.disks["broker-1"].fail("datasync", errno.EIO, path_contains="checkpoint", times=100)

    assert delete(cluster, topic, 2).error != 0
    cluster.run_until(lambda: partition_of(cluster, topic).leader == -1)
