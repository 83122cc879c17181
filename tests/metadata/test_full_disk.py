"""The disk of the metadata process is full: nobody dies of it, and all goes on when there is room."""

import logging

import pytest

from callboard.actors.entry import LogFile
from callboard.errors import ErrorCode, StorageFull
from callboard.testing.metadata_cluster import MetadataCluster
from callboard.transport import messages as m


def no_room():
    raise StorageFull("metadata.db: database or disk is full")


def test_nobody_dies_while_there_is_no_room_and_a_controller_acts_again_when_there_is_some():
    cluster = MetadataCluster()
    cluster.start(brokers=1)
    cluster.run_until(lambda: cluster.active)
    version = cluster.disk.version
    cluster.disk.before_write = no_room
    cluster.command(1, m.CreateTopicsRequest(topics=[m.NewTopic(name="orders", num_partitions=1)]))

    cluster.advance(20_000)

    assert cluster.metadata_ref.is_alive()
    assert (cluster.disk.version, list(cluster.image.sessions)) == (version, ["broker-1"])
    cluster.disk.before_write = None
    cluster.advance(5_000)  # what waited is written, the leases that ended meanwhile among them
    assert cluster.create_topic("payments").name == "payments"


CREATE = m.CreateTopicsRequest(topics=[m.NewTopic(name="orders", num_partitions=1, replication_factor=1)])


def test_who_asks_for_a_topic_where_there_is_no_room_hears_why_and_the_controller_stays():
    cluster = MetadataCluster()
    cluster.start(brokers=1)
    epoch = cluster.active.controller.controller_epoch
    cluster.disk.before_write = no_room

    for _ in range(3):
        replies = cluster.command(1, CREATE)
        cluster.advance(50)
        (refused,) = replies  # at once, also while the controller waits for room
        assert (refused.error, refused.detail) == (
            ErrorCode.STORAGE_FULL,
            "the metadata process has no room left on its disk",
        )
    cluster.advance(20_000)
    assert cluster.active.controller.controller_epoch == epoch, "the lease is renewed without writing"

    cluster.disk.before_write = None
    cluster.advance(1_000)
    assert cluster.ask_controller(CREATE).topics[0].error == 0


def test_a_commit_is_refused_while_what_must_be_written_waits_for_room_and_is_then_written():
    cluster = MetadataCluster()
    cluster.start(brokers=2)
    other = next(one for one in cluster.brokers.values() if one is not cluster.active)
    cluster.disk.before_write = no_room
    other.die()
    cluster.advance(5_000)  # its session has ended, which waits
    assert other.name in cluster.image.sessions

    assert cluster.ask_controller(CREATE).error == ErrorCode.STORAGE_FULL

    cluster.disk.before_write = None
    cluster.advance(1_000)
    assert other.name not in cluster.image.sessions
    assert cluster.ask_controller(CREATE).topics[0].error == 0


def test_who_is_elected_where_there_is_no_room_is_elected_when_there_is_some():
    cluster = MetadataCluster()
    cluster.start(brokers=2)
    cluster.create_topic("orders", replication_factor=2)
    (partition,) = next(iter(cluster.image.topics.values())).partitions.values()
    cluster.disk.before_write = no_room
    cluster.brokers[partition.leader].die()
    cluster.advance(10_000)

    cluster.disk.before_write = None

    def has_another():
        (now,) = next(iter(cluster.image.topics.values())).partitions.values()
        return now.leader not in (-1, partition.leader)

    cluster.run_until(has_another)


def test_a_write_that_found_no_room_is_answered_when_there_is_some(caplog):
    cluster = MetadataCluster()
    cluster.start_metadata()
    cluster.settle()
    cluster.disk.before_write = no_room
    cluster.loop.call_later(3, lambda: setattr(cluster.disk, "before_write", None))

    with caplog.at_level(logging.WARNING, "callboard"):
        answer = cluster.ask_store(m.AllocateProducerIdsRequest(count=5), timeout_ms=10_000)

    assert (answer.first, answer.count) == (0, 5)
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said == ["metadata.full", "metadata.has_room"]  # once each, however often it was tried


def test_a_new_store_waits_for_room_before_it_serves():
    cluster = MetadataCluster()
    cluster.disk.before_write = no_room
    cluster.start_metadata()
    cluster.advance(5_000)
    assert cluster.metadata_ref.is_alive()

    cluster.disk.before_write = None
    cluster.advance(1_000)

    assert cluster.ask_store(m.StoreLoadRequest()).version == 1


class Full:
    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        pass


class Gone(Full):
    def write(self, text):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(("stream", "is_silent"), [(Full(), True), (Gone(), False)])
def test_events_that_find_no_room_are_lost_without_a_word(capsys, stream, is_silent):
    LogFile(stream).handle(logging.LogRecord("callboard", logging.ERROR, "here", 1, "said", (), None))

    assert (capsys.readouterr().err == "") == is_silent
