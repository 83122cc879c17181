"""kill -9 of brokers under load: what was acknowledged is there, once, in order."""

import os
import signal
import threading
import time

import pytest

from callboard import AdminClient, Consumer, Producer, TopicPartition
from callboard.testing.clusters import cluster, is_alive
from callboard.testing.history import History, Polled, Send, anomalies

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

KILLS = 20
KILLS_OF_ONE = 12  # a process that dies by itself more often than ten times in 30 s is given up
METADATA_KILLS = (5, 10)  # before these kills of a broker the metadata process is killed as well
PARTITIONS = 6
KEYS = 12
AT_ONCE = 25  # records, every PAUSE_S: a kill finds some under way
PAUSE_S = 0.005


class Load:
    """Sends numbered records, keyed, from a thread of its own until told to stop; knows what was acknowledged."""

    def __init__(self, bootstrap_servers, topic):
        self.sent = []  # (key, value, future)
        self._stop = threading.Event()
        self._producer = Producer(bootstrap_servers=bootstrap_servers, acks="all", linger_ms=2)
        self._topic = topic
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        number = 0
        while not self._stop.is_set():
            key = b"key-%d" % (number % KEYS)
            value = b"%d" % number
            self.sent.append((key, value, self._producer.send(self._topic, value, key=key)))
            number += 1
            if number % AT_ONCE == 0:
                self._stop.wait(PAUSE_S)

    def stop(self):
        self._stop.set()
        self._thread.join()
        self._producer.flush(timeout=120)
        self._producer.close()


class Follower:
    """Reads all partitions from their beginning, from a thread of its own, through everything that happens."""

    def __init__(self, bootstrap_servers, topic):
        self.polled = []
        self._stop = threading.Event()
        self._arguments = bootstrap_servers, topic
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        bootstrap_servers, topic = self._arguments
        with Consumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
            while not self._stop.is_set():
                for partition, records in consumer.poll(timeout_ms=100).items():
                    self.polled += [Polled(partition, record.offset, record.value) for record in records]

    def stop(self):
        self._stop.set()
        self._thread.join()


def read_everything(bootstrap_servers, topic):
    """Return every record of a topic, in the order they were polled."""
    with Consumer(bootstrap_servers=bootstrap_servers) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records = []
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=1_000).values():
                records += batch
        return records


@pytest.mark.parametrize(("victims", "kills"), [("each in turn", KILLS), ("always the same", KILLS_OF_ONE)])
def test_kills_under_load_lose_nothing_and_repeat_nothing(victims, kills):
    with cluster(brokers=3) as running:
        with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
            admin.create_topics({"storm": {"num_partitions": PARTITIONS}})
        follower = Follower(running.bootstrap_servers, "storm")
        load = Load(running.bootstrap_servers, "storm")
        for kill in range(kills):
            if kill in METADATA_KILLS:
                os.kill(running.ready()["metadata"]["pid"], signal.SIGKILL)
            broker_id = 1 + kill % 3 if victims == "each in turn" else 2
            old_pid = running.kill_broker(broker_id)
            running.wait_for_new_pid(broker_id, old_pid)
            _wait_for_progress(load)
        load.stop()
        follower.stop()
        polled = read_everything(running.bootstrap_servers, "storm")
        pids = [running.pid, *running.pids()]
        status = running.stop()

    history = History()
    for _, value, future in load.sent:
        metadata = future.value
        place = TopicPartition("storm", metadata.partition)
        history.sends.append(Send("load", place, value, "ok", metadata.offset))
    for record in polled:
        history.polls["reader"].append(Polled(TopicPartition("storm", record.partition), record.offset, record.value))
    history.polls["follower"] = follower.polled
    assert anomalies(history) == []
    assert follower.polled
    assert len(polled) == len(load.sent)
    assert _per_key(polled) == _per_key_sent(load.sent)
    assert status == 0
    assert not [pid for pid in pids if is_alive(pid)]


def _wait_for_progress(load):
    """Wait until something sent after the kill has been acknowledged."""
    target, until = len(load.sent), time.monotonic() + 60
    while len(load.sent) <= target:
        assert time.monotonic() < until, "nothing was sent after a kill"
        time.sleep(PAUSE_S)
    load.sent[target][2].get(timeout=60)


def _per_key(records):
    order = {}
    for record in records:
        order.setdefault(record.key, []).append(record.value)
    return order


def _per_key_sent(sent):
    order = {}
    for key, value, _ in sent:
        order.setdefault(key, []).append(value)
    return order


def test_a_killed_host_leaves_no_process_and_a_second_start_has_everything():
    with cluster(brokers=2) as running:
        with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
            with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
                admin.create_topics({"kept": {"num_partitions": 4}})
            for number in range(500):
                producer.send("kept", b"%d" % number, key=b"%d" % (number % 7))
            producer.flush(timeout=60)
        running.kill()
        running.start()
        with Consumer("kept", bootstrap_servers=running.bootstrap_servers, auto_offset_reset="earliest") as consumer:
            values = set()
            while len(values) < 500:
                values |= {record.value for batch in consumer.poll(timeout_ms=5_000).values() for record in batch}
        assert values == {b"%d" % number for number in range(500)}
        assert os.path.isdir(running.data_dir)


def test_a_cluster_whose_onlooker_has_gone_still_stops_on_sigterm():
    with cluster(brokers=1) as running:
        running._process.stdout.close()  # nobody reads what it announces any more
        running.wait_for_new_pid(1, running.kill_broker(1))
        pids = [running.pid, *running.pids()]

        assert running.stop() == 0
    assert not [pid for pid in pids if is_alive(pid)]
