"""After an unclean election, on real processes: who has read what was lost does not skip what took its place (B13)."""

import time

import pytest

from callboard.errors import LogTruncationError
from callboard.model import TopicPartition
from callboard.testing.clusters import cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

DEADLINE_S = 60.0
ORDERS = TopicPartition("orders", 0)


def send(producer, name, count):
    futures = [producer.send("orders", b"%s-%d" % (name, number), partition=0) for number in range(count)]
    return [future.get(timeout=DEADLINE_S).offset for future in futures]


def read(consumer, count):
    found, until = [], time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < until:
        for records in consumer.poll(timeout_ms=200).values():
            found += [(record.offset, record.value) for record in records]
    return found


def wait_for_leader(admin, leader):
    until = time.monotonic() + DEADLINE_S
    while admin.describe_topics(["orders"])[0].partitions[0].leader != leader:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def after_the_loss():
    """0 to 9 are on both replicas; only the dead leader has the 10 to 14 that were read; now others are there."""
    with cluster(brokers=3) as running, running.admin() as admin:
        admin.create_topics({"orders": {"assignments": {0: [1, 2]}, "configs": {"min_insync_replicas": 1}}})
        wait_for_leader(admin, 1)
        producer = running.producer()
        send(producer, b"kept", 10)
        consumers = [running.consumer(auto_offset_reset=policy) for policy in ("latest", "none")]
        for consumer in consumers:
            consumer.assign([ORDERS])
            consumer.seek(ORDERS, 0)
        running.kill_broker(2, for_s=4.0)
        send(producer, b"lost", 5)
        for consumer in consumers:
            assert [offset for offset, _ in read(consumer, 15)] == list(range(15))
        running.kill_broker(1, for_s=DEADLINE_S)
        wait_for_leader(admin, -1)
        until = time.monotonic() + DEADLINE_S
        while not any(one.error == 0 for one in admin.elect_leaders("unclean", [ORDERS], raise_errors=False).values()):
            assert time.monotonic() < until
            time.sleep(0.1)
        wait_for_leader(admin, 2)
        assert send(running.producer(), b"new", 20) == list(range(10, 30))
        yield consumers


def test_b13_a_consumer_goes_back_to_where_the_log_parts_or_is_told(after_the_loss):
    resetting, told = after_the_loss

    assert read(resetting, 20) == [(10 + number, b"new-%d" % number) for number in range(20)]

    with pytest.raises(LogTruncationError, match="from offset 10 on were read, up to 15") as raised:
        read(told, 1)
    assert raised.value.divergent_offsets == {ORDERS: 10}
    told.seek(ORDERS, 10)
    assert len(read(told, 20)) == 20
