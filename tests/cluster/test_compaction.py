"""Compaction in a cluster: leader and followers each compact, nobody loses a key, readers notice nothing (B24)."""

import errno

import pytest

from callboard.config import BrokerSettings, ClusterConfig
from callboard.errors import ErrorCode
from callboard.storage.batch import decode_batch, encode_batch, iter_batches
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m

from .sim import find, partition_of

CHECK_MS = 1_000
CONFIG = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.0, "segment_bytes": 1_024}


def a_cluster(brokers):
    settings = BrokerSettings(compaction_check_ms=CHECK_MS, checkpoint_ms=200, retention_check_ms=CHECK_MS)
    return SimulatedCluster(config=ClusterConfig(brokers=brokers, data_dir="/data", broker=settings)).start()


@pytest.fixture
def cluster():
    return a_cluster(1)


def put(cluster, topic, *records, acks=-1):
    frames = encode_batch([key for key, _ in records], [value for _, value in records], 1_000)
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=0, frames=len(frames))
    broker = cluster.client_endpoint(partition_of(cluster, topic).leader)
    return cluster.ask(broker, m.ProduceRequest(acks=acks, entries=[entry]), frames).entries[0]


def fill(cluster, topic, count, keys=5, size=100):
    for number in range(count):
        assert put(cluster, topic, (b"%d" % (number % keys), b"%0*d" % (size, number))).error == 0


def read(cluster, topic, offset=0, end=None):
    """Return all records from an offset on: (offset, key, value), as a consumer at the leader gets them."""
    broker = cluster.client_endpoint(partition_of(cluster, topic).leader)
    found = []
    while True:
        entry = m.FetchEntry(topic_id=topic.topic_id, partition=0, fetch_offset=offset)
        answer = cluster.ask(broker, m.FetchRequest(max_wait_ms=100, entries=[entry]))
        _, frames = answer if isinstance(answer, tuple) else (answer, [])
        data = b"".join(frames)
        if not data:
            return found
        for header, at in iter_batches(data):
            one = decode_batch(data, at)
            found += [each for each in zip(one.offsets, one.keys, one.values, strict=True) if each[0] >= offset]
            end = header.next_offset
        offset = end


def look(cluster, times=4):
    cluster.loop.advance(times * 1.3 * CHECK_MS)


def log_of(cluster, broker="broker-1"):
    return find(cluster, "partitions/orders-0", broker).actor.log


def test_of_each_key_the_last_record_is_left_and_older_files_go(cluster):
    topic = cluster.create_topic("orders", **CONFIG)
    fill(cluster, topic, 60)
    before = log_of(cluster).size_bytes
    look(cluster)

    records = read(cluster, topic)

    assert {key: value for _, key, value in records} == {b"%d" % (n % 5): b"%0100d" % n for n in range(55, 60)}
    assert len(records) < 20
    assert log_of(cluster).size_bytes < before / 3
    disk, home = cluster.disks["broker-1"], f"/data/broker-1/{topic.topic_id}-0"
    names = [name for name in disk.list_dir(home) if name.endswith((".log", ".swap", ".cleaned"))]
    assert len(names) == log_of(cluster).segment_count


def test_a_reader_within_what_was_compacted_goes_on_with_the_next_record(cluster):
    topic = cluster.create_topic("orders", **CONFIG)
    fill(cluster, topic, 60)
    look(cluster)
    everything = read(cluster, topic)

    for offset in range(0, 60, 7):
        assert read(cluster, topic, offset) == [record for record in everything if record[0] >= offset]


def test_records_without_a_key_are_refused(cluster):
    topic = cluster.create_topic("orders", **CONFIG)

    refused = put(cluster, topic, (b"a", b"1"), (None, b"2"))

    assert refused.error == ErrorCode.INVALID_RECORD
    assert "needs a key" in refused.detail
    assert put(cluster, topic, (b"a", None), (b"", b"2")).error == 0
    change = m.TopicConfigChange(name="orders", set={"cleanup_policy": "delete"})
    cluster.ask(cluster.client_endpoint(1), m.AlterTopicsRequest(topics=[change]))
    cluster.loop.advance(500)
    assert put(cluster, topic, (None, b"2")).error == 0


def test_a_topic_that_becomes_compacted_is(cluster):
    topic = cluster.create_topic("orders", segment_bytes=1_024, retention_ms=-1)
    fill(cluster, topic, 60)
    look(cluster)
    assert len(read(cluster, topic)) == 60

    change = m.TopicConfigChange(name="orders", set={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"})
    assert cluster.ask(cluster.client_endpoint(1), m.AlterTopicsRequest(topics=[change])).topics[0].error == 0
    look(cluster)

    assert len(read(cluster, topic)) < 20


@pytest.mark.parametrize("spelled", ["delete,compact", "compact,delete", "compact, delete"])
def test_both_policies_at_once(cluster, spelled):
    new = {**CONFIG, "retention_bytes": 2_000}
    del new["cleanup_policy"]
    topic = cluster.create_topic("orders", **{"cleanup.policy": spelled}, **new)
    for number in range(120):
        assert put(cluster, topic, (b"%d" % (number // 2), b"%0100d" % number)).error == 0
    look(cluster, 8)

    records = read(cluster, topic, log_of(cluster).log_start_offset)

    assert log_of(cluster).log_start_offset > 0
    assert log_of(cluster).size_bytes < 4_000
    assert all(offset % 2 for offset, _, _ in records[:-20])


def test_without_delete_nothing_goes_by_age_or_size(cluster):
    topic = cluster.create_topic("orders", **CONFIG, retention_bytes=0, retention_ms=1)
    fill(cluster, topic, 30, keys=30)
    look(cluster)

    assert [key for _, key, _ in read(cluster, topic)] == [b"%d" % n for n in range(30)]


@pytest.mark.parametrize("value", ["compress", "compact,", "delete,compact,compact,x", ""])
def test_another_policy_is_refused_by_name(cluster, value):
    new = m.NewTopic(name="orders", configs={"cleanup_policy": value})

    result = cluster.ask(cluster.client_endpoint(1), m.CreateTopicsRequest(topics=[new])).topics[0]

    assert result.error == ErrorCode.INVALID_CONFIGURATION
    assert "cleanup_policy" in result.detail
    assert "compact" in result.detail


def test_deleted_records_and_compaction_go_together(cluster):
    topic = cluster.create_topic("orders", **CONFIG)
    fill(cluster, topic, 60)
    entry = m.DeleteRecordsEntry(topic_id=topic.topic_id, partition=0, leader_epoch=-1, before_offset=30)
    assert cluster.ask(cluster.client_endpoint(1), m.DeleteRecordsRequest(entries=[entry])).entries[0].error == 0
    look(cluster)

    records = read(cluster, topic, 30)

    assert {key for _, key, _ in records} == {b"%d" % n for n in range(5)}
    assert len(records) < 20


def test_the_log_survives_power_loss_while_it_is_compacted(cluster):
    topic = cluster.create_topic("orders", **CONFIG)
    for round_ in range(12):
        fill(cluster, topic, 25)
        cluster.loop.advance(CHECK_MS * (0.3 + 0.13 * round_))
        cluster.crash("broker-1", power_loss=True)
        cluster.restart("broker-1")
        cluster.wait_for_leaders("orders")
        latest = {key: value for _, key, value in read(cluster, topic)}
        assert latest == {b"%d" % (n % 5): b"%0100d" % n for n in range(20, 25)}


def test_a_full_disk_leaves_the_log_as_it_was(cluster):
    topic = cluster.create_topic("orders", **CONFIG)
    fill(cluster, topic, 60)
    cluster.disks["broker-1"].fail("append", errno.ENOSPC, path_contains=".cleaned", times=2)
    look(cluster)

    assert {key for _, key, _ in read(cluster, topic)} == {b"%d" % n for n in range(5)}
    look(cluster, 8)
    assert len(read(cluster, topic)) < 20


def test_followers_compact_by_themselves_and_a_new_leader_has_the_same_latest_values():
    cluster = a_cluster(3)
    topic = cluster.create_topic("orders", replication_factor=3, **CONFIG)
    fill(cluster, topic, 60)
    look(cluster, 6)

    sizes = [log_of(cluster, f"broker-{n}").size_bytes for n in (1, 2, 3)]
    assert max(sizes) < 4_000
    first = partition_of(cluster, topic).leader
    cluster.crash(f"broker-{first}")
    cluster.run_until(lambda: any_leads_but(cluster, topic, first))

    records = read(cluster, topic)
    assert {key: value for _, key, value in records} == {b"%d" % (n % 5): b"%0100d" % n for n in range(55, 60)}


def any_leads_but(cluster, topic, broker):
    alive = next(n for n in (1, 2, 3) if n != broker)
    now = next(one for one in cluster.metadata(alive).topics if one.name == "orders").partitions[0]
    if now.leader in (-1, broker):
        return False
    cluster.metadata = lambda _=0: type(cluster).metadata(cluster, alive)
    return True


def test_a_follower_that_was_away_copies_what_was_compacted_and_its_tombstones():
    cluster = a_cluster(3)
    topic = cluster.create_topic("orders", replication_factor=3, delete_retention_ms=0, **CONFIG)
    fill(cluster, topic, 10)
    leader = partition_of(cluster, topic).leader
    away = next(n for n in (2, 3, 1) if n != leader)
    alive = next(n for n in (1, 2, 3) if n != away)
    cluster.metadata = lambda _=0: type(cluster).metadata(cluster, alive)
    assert log_of(cluster, f"broker-{away}").log_end_offset == 10
    cluster.crash(f"broker-{away}")
    cluster.run_until(lambda: len(partition_of(cluster, topic).isr) == 2)

    put(cluster, topic, (b"3", None))
    fill(cluster, topic, 60, keys=3)
    look(cluster, 10)
    log = log_of(cluster, f"broker-{partition_of(cluster, topic).leader}")
    assert log.size_bytes < 4_000
    assert (10, b"3", None) in read(cluster, topic), "a replica that is away has not seen it"
    cluster.restart(f"broker-{away}")
    cluster.run_until(lambda: len(partition_of(cluster, topic).isr) == 3)
    back = log_of(cluster, f"broker-{away}")
    cluster.run_until(lambda: back.log_end_offset == log.log_end_offset)
    look(cluster, 10)

    assert b"3" not in [key for _, key, _ in read(cluster, topic)]
    assert back.size_bytes < 4_000


def test_a_log_that_is_damaged_is_not_compacted(cluster):
    topic = cluster.create_topic("orders", **CONFIG, flush="os")
    fill(cluster, topic, 60)
    home = f"/data/broker-1/{topic.topic_id}-0"
    cluster.disks["broker-1"].corrupt(f"{home}/{0:020d}.log", 150)
    before = log_of(cluster).size_bytes
    look(cluster, 8)

    assert log_of(cluster).size_bytes == before
    assert [name for name in cluster.disks["broker-1"].list_dir(home) if name.endswith(".cleaned")] == []


def test_what_followers_do_not_have_yet_is_not_touched_and_hides_nothing():
    cluster = a_cluster(3)
    topic = cluster.create_topic("orders", replication_factor=3, min_insync_replicas=2, **CONFIG)
    fill(cluster, topic, 10)
    leader = partition_of(cluster, topic).leader
    cluster.metadata = lambda _=0: type(cluster).metadata(cluster, leader)
    for other in {1, 2, 3} - {leader}:
        cluster.crash(f"broker-{other}")
    cluster.run_until(lambda: len(partition_of(cluster, topic).isr) == 1)

    for number in range(60):  # they are on the leader's disk, and nowhere else
        assert put(cluster, topic, (b"%d" % (number % 5), b"%0100d" % number), acks=1).error == 0
    look(cluster, 8)

    log = log_of(cluster, f"broker-{leader}")
    assert (log.log_end_offset, log.durable_offset) == (70, 70)
    assert offsets_in(log)[-65:] == [*range(5, 70)]


def offsets_in(log):
    """The offsets of all records on disk, also of those that no consumer may see yet."""
    found, at = [], 0
    while at < log.log_end_offset:
        data = b"".join(log.read(at, 1 << 20, log.log_end_offset))
        for header, begin in iter_batches(data):
            found += decode_batch(data, begin).offsets
            at = header.next_offset
    return found
