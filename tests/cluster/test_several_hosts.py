"""Several hosts in one cluster, with a proxy between them whose links are cut and healed.

One pair of hosts for all tests: each begins when it is whole again, and has a topic of its own.
"""

import os
import signal
import time

import pytest

from callboard import AdminClient, Producer
from callboard.testing.hosts import joined_hosts

from .joined import DEADLINE_S, leader, live, placed, read_all, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def pair():
    with joined_hosts({"a": 2, "b": 2}) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def admin(pair):
    with AdminClient(bootstrap_servers=pair["a"].running.bootstrap_servers) as admin:
        yield admin


@pytest.fixture
def hosts(pair, admin):
    """The pair with no link cut, all its brokers there: whatever the test before has broken."""
    for host in pair.values():
        host.heal()
    wait_for(lambda: live(admin) == {1, 2, 3, 4}, "all brokers to be there")
    wait_for(lambda: {host.name for host in admin.describe_cluster().hosts} == {"a", "b"}, "both hosts to be there")
    return pair


def test_the_death_of_a_joined_broker_is_reported_by_its_host_at_once(hosts, admin):
    pid = hosts["b"].running.broker_pid(3)
    log = hosts["a"].running.data_dir / "log" / "metadata.log"
    before = len(log.read_text())

    hosts["b"].running.kill_broker(3)
    hosts["b"].running.wait_for_new_pid(3, pid)

    said = log.read_text()[before:]
    assert "session.ended name=broker-3" in said
    assert 'reason="its process was ended by SIGKILL"' in said
    wait_for(lambda: live(admin) == {1, 2, 3, 4}, "broker 3 to be back")


def test_a_host_that_was_cut_off_comes_back_by_itself_and_loses_nothing(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [3], [1])
    servers = hosts["a"].running.bootstrap_servers + hosts["b"].running.bootstrap_servers
    with Producer(bootstrap_servers=servers, linger_ms=0) as producer:
        producer.send(topic, b"before", partition=0).get(timeout=DEADLINE_S)
        epoch = admin.describe_topics([topic])[0].partitions[0].leader_epoch

        hosts["b"].cut()
        begin = time.monotonic()
        wait_for(lambda: live(admin) == {1, 2}, "the sessions of host b to end")
        assert time.monotonic() - begin > 1.0  # by silence, not by a report
        wait_for(lambda: leader(admin, topic) == -1, "partition 0 to be without leader")

        waiting = producer.send(topic, b"during", partition=0)
        producer.send(topic, b"elsewhere", partition=1).get(timeout=DEADLINE_S)
        assert not waiting.is_done

        hosts["b"].heal()
        waiting.get(timeout=DEADLINE_S)

    wait_for(lambda: live(admin) == {1, 2, 3, 4}, "host b to be back")
    wait_for(lambda: {host.name for host in admin.describe_cluster().hosts} == {"a", "b"}, "its host session too")
    assert admin.describe_topics([topic])[0].partitions[0].leader_epoch > epoch
    assert sorted(read_all(servers, topic, 3)) == [(0, b"before"), (0, b"elsewhere"), (1, b"during")]


def test_a_death_after_a_cut_is_reported_at_once_too(hosts, admin):
    """The brokers have other incarnations then than those that their host started."""
    hosts["b"].links["metadata"].cut()
    wait_for(lambda: live(admin) == {1, 2}, "the sessions of host b to end")
    hosts["b"].links["metadata"].heal()
    wait_for(lambda: live(admin) == {1, 2, 3, 4}, "host b to be back")
    log = hosts["a"].running.data_dir / "log" / "metadata.log"
    ended = log.read_text().count("session.ended name=broker-4")
    pid = hosts["b"].running.broker_pid(4)

    os.kill(pid, signal.SIGKILL)
    hosts["b"].running.wait_for_new_pid(4, pid)
    wait_for(lambda: log.read_text().count("session.ended name=broker-4") > ended, "the end of its session")

    last = [line for line in log.read_text().splitlines() if "session.ended name=broker-4" in line][-1]
    assert "SIGKILL" in last


def test_a_flapping_line_to_the_metadata_process_ends_well(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [3])
    servers = hosts["b"].running.bootstrap_servers
    with Producer(bootstrap_servers=servers, linger_ms=0) as producer:
        flapping = hosts["b"].links["metadata"].flap(4, down_ms=700, up_ms=300)
        sent = 0
        while not flapping.done():
            producer.send(topic, b"%d" % sent, partition=0).get(timeout=DEADLINE_S)
            sent += 1
        producer.send(topic, b"%d" % sent, partition=0).get(timeout=DEADLINE_S)

    assert read_all(servers, topic, sent + 1) == [(number, b"%d" % number) for number in range(sent + 1)]


def test_while_the_first_host_is_down_stable_partitions_of_the_others_are_served(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [3])
    servers = hosts["b"].running.bootstrap_servers
    with Producer(bootstrap_servers=servers, linger_ms=0) as producer:
        producer.send(topic, b"before", partition=0).get(timeout=DEADLINE_S)

        hosts["a"].running.stop()
        producer.send(topic, b"meanwhile", partition=0).get(timeout=DEADLINE_S)
        assert read_all(servers, topic, 2) == [(0, b"before"), (1, b"meanwhile")]

        hosts["a"].running.start()
        wait_for(lambda: live(admin) == {1, 2, 3, 4}, "all brokers to be back")
        producer.send(topic, b"after", partition=0).get(timeout=DEADLINE_S)

    assert read_all(servers, topic, 3) == [(0, b"before"), (1, b"meanwhile"), (2, b"after")]


def test_a_host_that_was_stopped_comes_back_with_its_ids_and_its_records(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [4])
    with Producer(bootstrap_servers=hosts["a"].running.bootstrap_servers) as producer:
        producer.send(topic, b"kept", partition=0).get(timeout=DEADLINE_S)

    assert hosts["b"].running.stop() == 0
    hosts["b"].running.start()

    assert hosts["b"].broker_ids == [3, 4]
    assert read_all(hosts["a"].running.bootstrap_servers, topic, 1) == [(0, b"kept")]


def test_leadership_moves_off_a_host_that_is_cut_off_and_its_replica_catches_up_after(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [3, 1], [1, 3])  # nothing is ever written to the second one
    servers = hosts["a"].running.bootstrap_servers + hosts["b"].running.bootstrap_servers

    def partition(number=0):
        return admin.describe_topics([topic])[0].partitions[number]

    with Producer(bootstrap_servers=servers, linger_ms=0, acks="all") as producer:
        for number in range(10):
            producer.send(topic, b"%d" % number, partition=0).get(timeout=DEADLINE_S)
        wait_for(lambda: sorted(partition().isr) == [1, 3], "both in sync")

        for host in hosts.values():  # what b's brokers fetch from a's passes a's links
            for name, link in host.links.items():
                if host.name == "b" or name.startswith("peers-"):
                    link.cut()
        wait_for(lambda: partition().leader == 1, "broker 1 to lead")
        for number in range(10, 20):
            producer.send(topic, b"%d" % number, partition=0).get(timeout=DEADLINE_S)
        assert partition(0).isr == partition(1).isr == [1]

        for host in hosts.values():
            host.heal()
        wait_for(lambda: sorted(partition().isr) == [1, 3], "broker 3 to be in sync again")
        wait_for(lambda: sorted(partition(1).isr) == [1, 3], "broker 3 to be in sync again where nothing is written")
        for number in range(20, 30):
            producer.send(topic, b"%d" % number, partition=0).get(timeout=DEADLINE_S)

    assert read_all(servers, topic, 30) == [(number, b"%d" % number) for number in range(30)]


def test_a_leader_that_is_cut_off_acknowledges_nothing_that_needs_the_others(hosts, admin, topic_name):
    topic = placed(admin, topic_name, [3, 1])

    def partition():
        return admin.describe_topics([topic])[0].partitions[0]

    here, there = hosts["a"].running.bootstrap_servers, hosts["b"].running.bootstrap_servers
    with Producer(bootstrap_servers=there, linger_ms=0, acks="all") as producer:
        producer.send(topic, b"before", partition=0).get(timeout=DEADLINE_S)
        wait_for(lambda: sorted(partition().isr) == [1, 3], "both in sync")

        for host in hosts.values():  # whoever is on b's side still reaches b's brokers
            for name, link in host.links.items():
                if name.startswith("peers-") or (host.name == "b" and name == "metadata"):
                    link.cut()
        deposed = producer.send(topic, b"to the deposed leader", partition=0)
        wait_for(lambda: partition().leader == 1, "broker 1 to lead")
        with Producer(bootstrap_servers=here[:1], linger_ms=0, acks="all") as other:
            at = other.send(topic, b"to the new leader", partition=0).get(timeout=DEADLINE_S).offset
        acknowledged = {0: b"before", at: b"to the new leader"}
        if deposed.is_done:  # by the new leader: a producer that gets no answer for a second goes on there
            acknowledged[deposed.get(timeout=0).offset] = b"to the deposed leader"
        held = dict(read_all(here, topic, len(acknowledged)))
        assert {offset: held.get(offset) for offset in acknowledged} == acknowledged

        for host in hosts.values():
            host.heal()
        acknowledged[deposed.get(timeout=DEADLINE_S).offset] = b"to the deposed leader"
    wait_for(lambda: sorted(partition().isr) == [1, 3], "broker 3 to be in sync again")

    assert len(acknowledged) == 3
    assert read_all(here, topic, 3) == sorted(acknowledged.items())
