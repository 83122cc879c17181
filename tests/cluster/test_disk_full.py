"""A disk that is full, or nearly (F16): records are refused before they are appended, all else goes on, and heals."""

import errno

import pytest

from callboard.config import BrokerSettings, ClusterConfig, TopicConfig
from callboard.errors import ErrorCode
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m

from .sim import describe, find, partition_of, produce, values_of

KIB = 1_024
CAPACITY = 256 * KIB
RESERVE = 64 * KIB


def a_cluster(reserve=RESERVE):
    settings = BrokerSettings(storage_min_free_bytes=reserve, retention_check_ms=2_000)
    config = ClusterConfig(brokers=1, data_dir="/data", broker=settings, topic=TopicConfig(retention_ms=-1))
    return SimulatedCluster(config=config).start()


def limit(cluster, capacity=CAPACITY):
    cluster.disks["broker-1"].capacity_bytes = capacity
    cluster.loop.advance(1_100)


def fill_up(cluster, topic, value=b"x" * 8 * KIB):
    """Produce until it is refused; return how many were taken, and the refusal."""
    for taken in range(1_000):
        entry = produce(cluster, topic, [value], sequence=taken)
        if entry.error:
            return taken, entry
    raise AssertionError("never full")


def test_records_are_refused_before_the_disk_is_full_and_taken_when_there_is_room():
    cluster = a_cluster()
    topic = cluster.create_topic("orders")
    limit(cluster)
    partition = find(cluster, "partitions/orders-0")

    taken, refused = fill_up(cluster, topic)

    disk = cluster.disks["broker-1"]
    assert refused.error == ErrorCode.STORAGE_FULL
    assert RESERVE - 16 * KIB < disk.free_bytes("/data") < RESERVE + 16 * KIB, "the reserve is kept"
    (directory,) = describe(cluster).directories
    assert (directory.state, directory.reason) == (
        "full",
        "less than storage_min_free_bytes (65,536) is free; it goes on when there is room",
    )
    assert len(values_of(cluster, topic)) == taken, "what is there can be read"

    limit(cluster, 2 * CAPACITY)
    assert produce(cluster, topic, [b"x"], sequence=taken).base_offset == taken
    assert describe(cluster).directories[0].state == "online"
    assert find(cluster, "partitions/orders-0") is partition, "nothing was restarted"
    assert partition_of(cluster, topic).leader_epoch == 0


def test_a_retry_of_what_is_there_is_acknowledged_although_the_disk_is_full():
    cluster = a_cluster()
    topic = cluster.create_topic("orders")
    limit(cluster)
    taken, _ = fill_up(cluster, topic)

    again = produce(cluster, topic, [b"x" * 8 * KIB], sequence=taken - 1)

    assert (again.error, again.base_offset) == (0, taken - 1)


@pytest.mark.parametrize("acks", [1, -1])
def test_a_write_that_finds_no_room_is_taken_back_and_nothing_restarts(acks):
    cluster = a_cluster(reserve=0)
    topic = cluster.create_topic("orders")
    limit(cluster)
    partition = find(cluster, "partitions/orders-0")

    taken, refused = fill_up(cluster, topic)

    assert refused.error == ErrorCode.STORAGE_FULL
    for _ in range(20):
        assert produce(cluster, topic, [b"y" * 8 * KIB], acks=acks, sequence=taken).error == ErrorCode.STORAGE_FULL
    assert find(cluster, "partitions/orders-0") is partition
    assert len(values_of(cluster, topic)) == taken

    limit(cluster, None)
    assert produce(cluster, topic, [b"z"], sequence=taken).base_offset == taken
    cluster.crash("broker-1", power_loss=True)
    cluster.restart("broker-1")
    again = cluster.wait_for_leaders("orders")
    cluster.run_until(lambda: values_of(cluster, again)[-1:] == [b"z"])


def test_retention_and_delete_records_go_on_and_make_room():
    cluster = a_cluster()
    topic = cluster.create_topic("orders", segment_bytes=32 * KIB)
    limit(cluster)
    taken, _ = fill_up(cluster, topic)

    entry = m.DeleteRecordsEntry(topic_id=topic.topic_id, partition=0, before_offset=taken // 2)
    reply = cluster.ask(cluster.client_endpoint(1), m.DeleteRecordsRequest(entries=[entry])).entries[0]
    assert reply.error == 0
    cluster.loop.advance(1_100)
    assert produce(cluster, topic, [b"x" * 8 * KIB], sequence=taken).error == 0

    taken += 1
    while produce(cluster, topic, [b"x" * 8 * KIB], sequence=taken).error == 0:
        taken += 1
    change = m.TopicConfigChange(name="orders", set={"retention_bytes": 64 * KIB})
    cluster.ask(cluster.client_endpoint(1), m.AlterTopicsRequest(topics=[change]))
    cluster.loop.advance(6_000)
    assert produce(cluster, topic, [b"x" * 8 * KIB], sequence=taken).error == 0


def test_a_full_directory_gets_no_records_and_another_goes_on():
    """The other directory is on the same simulated disk: only what the broker thinks of its room differs."""
    config = ClusterConfig(brokers=1, data_dir="/data", data_dirs=("/second",))
    cluster = SimulatedCluster(config=config).start()
    topic = cluster.create_topic("orders", 2)
    homes = {each.partition: each.directory for each in describe(cluster).replicas}
    full = next(number for number, home in homes.items() if home == "/data/broker-1")
    find(cluster, f"partitions/orders-{full}").actor.home.ran_out()

    assert produce(cluster, topic, [b"a"], number=full).error == ErrorCode.STORAGE_FULL
    assert produce(cluster, topic, [b"a"], number=1 - full).error == 0


def test_a_log_that_cannot_be_opened_for_want_of_room_waits_for_it():
    cluster = a_cluster()
    cluster.disks["broker-1"].fail("open", errno.ENOSPC, path_contains=".log", times=3)
    topic = cluster.create_topic("orders")

    cluster.run_until(lambda: produce(cluster, topic, [b"a"]).error == 0)

    assert partition_of(cluster, topic).leader_epoch == 0, "it waited, it did not fail"
