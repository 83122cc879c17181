"""Members of groups on a real cluster: sharing, leaving, being killed, and a coordinator whose broker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import callboard
import callboard.testing
from callboard import Consumer, ConsumerRebalanceListener, JsonSerializer, TopicPartition

MEMBER = """
import sys
from callboard import Consumer

with Consumer("orders", group_id=sys.argv[2], bootstrap_servers=sys.argv[1], auto_offset_reset="earliest",
              session_timeout_ms=1_500, heartbeat_interval_ms=200, enable_auto_commit=False) as consumer:
    while True:
        for key, records in consumer.poll(200).items():
            for record in records:
                print(key.partition, record.offset, flush=True)
            consumer.commit()
            print("committed", flush=True)
"""


@pytest.fixture(scope="module")
def running():
    with callboard.testing.cluster(brokers=3) as cluster:
        cluster.create_topic("orders", partitions=4, replication_factor=3)
        yield cluster


@pytest.fixture
def member(running):
    made = []

    def make(group_id, **settings):
        given = {"bootstrap_servers": running.bootstrap_servers, "group_id": group_id, "auto_offset_reset": "earliest"}
        made.append(Consumer(**{**given, "heartbeat_interval_ms": 200, "session_timeout_ms": 1_500, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close(autocommit=False)


def produce(running, count):
    with running.producer() as producer:
        for number in range(count):
            producer.send("orders", b"%d" % number, partition=number % 4)


def ends(running):
    with Consumer(bootstrap_servers=running.bootstrap_servers) as asking:
        return asking.end_offsets([TopicPartition("orders", number) for number in range(4)])


def poll_until(condition, *consumers, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        for consumer in consumers:
            consumer.poll(10)


def test_two_members_share_and_when_one_leaves_the_other_reads_all(running, member):
    first, second = member("share"), member("share")
    for each in (first, second):
        each.subscribe("orders")

    poll_until(lambda: len(first.assignment()) == len(second.assignment()) == 2, first, second)
    assert first.assignment().isdisjoint(second.assignment())

    first.close()
    begin = time.monotonic()
    poll_until(lambda: len(second.assignment()) == 4, second)
    assert time.monotonic() - begin < 1.0  # far less than a session


def test_a_member_that_is_killed_is_replaced_within_its_session_and_nothing_it_had_not_committed_is_missed(
    running, member
):
    produce(running, 400)
    victim = subprocess.Popen(
        [sys.executable, "-c", MEMBER, ",".join(running.bootstrap_servers), "killed"], stdout=subprocess.PIPE, text=True
    )
    said = []
    try:
        for line in victim.stdout:
            said.append(line)
            if said.count("committed\n") == 2:
                break
        survivor = member("killed")
        seen: dict[int, set[int]] = {number: set() for number in range(4)}
        survivor.subscribe("orders")
        survivor.poll(0)

        os.kill(victim.pid, signal.SIGKILL)
        begin = time.monotonic()
        while len(survivor.assignment()) < 4:
            assert time.monotonic() - begin < 30
            take(survivor, seen)
        took_s = time.monotonic() - begin
    finally:
        victim.kill()
        said += victim.communicate()[0].splitlines()

    produce(running, 40)
    until = ends(running)
    poll_until(lambda: all(survivor.position(key) == end for key, end in until.items()), Taking(survivor, seen))
    for line in said:
        if " " in line:
            partition, offset = map(int, line.split())
            seen[partition].add(offset)
    for key, end in until.items():
        assert seen[key.partition] == set(range(end))
    assert took_s < 1.5 + 1.0


class Taking:
    """Polls a consumer and keeps the offsets that came."""

    def __init__(self, consumer, seen):
        self.consumer, self.seen = consumer, seen

    def poll(self, timeout_ms):
        take(self.consumer, self.seen, timeout_ms)


def take(consumer, seen, timeout_ms=10):
    for key, records in consumer.poll(timeout_ms).items():
        seen[key.partition].update(record.offset for record in records)


def test_dead_letters_are_in_their_topic_once_and_a_member_that_comes_later_reads_on_behind_them(running, member):
    running.create_topic("readings", partitions=1, replication_factor=3)
    running.create_topic("readings.dead", partitions=1, replication_factor=3)
    settings = {"value_deserializer": JsonSerializer(), "on_bad_record": callboard.dlq("readings.dead")}
    with running.producer() as producer:
        for value in (b"1", b"{", b"3", b"}"):
            producer.send("readings", value, key=b"k")
    first = member("readings", **settings)
    first.subscribe("readings")
    seen: dict[int, set[int]] = {0: set()}
    poll_until(lambda: first.metrics()["records_handed_on"] == 2, Taking(first, seen))
    first.commit()
    first.close()

    with running.producer() as producer:
        producer.send("readings", b"5")
    second = member("readings", **settings)
    second.subscribe("readings")
    poll_until(lambda: 4 in seen[0], Taking(second, seen))

    assert seen[0] == {0, 2, 4}
    assert second.metrics()["records_handed_on"] == 0
    with Consumer("readings.dead", bootstrap_servers=running.bootstrap_servers, auto_offset_reset="earliest") as dead:
        letters = [record for records in dead.poll(10_000).values() for record in records]
    assert [(letter.key, letter.value) for letter in letters] == [(b"k", b"{"), (b"k", b"}")]
    assert [dict(letter.headers)["callboard.dlq.offset"] for letter in letters] == [b"1", b"3"]


def test_a_coordinator_whose_broker_is_killed_costs_no_partition_and_no_commit_that_was_acknowledged(running, member):
    lost = []

    class Listening(ConsumerRebalanceListener):
        def on_partitions_lost(self, partitions):
            lost.append(partitions)

    consumer = member("failover", session_timeout_ms=10_000, enable_auto_commit=False)
    consumer.subscribe("orders", listener=Listening())
    consumer.poll(0)
    before = consumer.assignment()
    key = TopicPartition("orders", 0)
    consumer.commit({key: 1})
    coordinator = consumer.explain().coordinator
    acknowledged = [1]
    is_over = threading.Event()

    def commit():
        offset = 1
        while not is_over.is_set():
            offset += 1
            consumer.commit({key: offset})
            acknowledged.append(offset)

    committing = threading.Thread(target=commit)
    committing.start()
    try:
        old = running.kill_broker(coordinator)
        count = len(acknowledged)
        poll_until(lambda: consumer.explain().coordinator not in (coordinator, -1), consumer)
        poll_until(lambda: len(acknowledged) > count + 20, consumer)
    finally:
        is_over.set()
        committing.join(60)

    assert consumer.committed(key) == acknowledged[-1]
    assert consumer.assignment() == before
    assert lost == []
    running.wait_for_new_pid(coordinator, old)
