"""Somebody removes a directory under a running cluster: open files live on without it, so it must be looked for."""

import errno
import shutil

import pytest

from callboard import AdminClient, Producer
from callboard.config import ClusterConfig
from callboard.errors import ErrorCode
from callboard.testing.clusters import RunningCluster, is_alive
from callboard.testing.simulated import SimulatedCluster

from .sim import describe, produce, values_of


@pytest.fixture
def running(tmp_path):
    started = RunningCluster(tmp_path, brokers=2)
    try:
        yield started.start()
    finally:
        started.stop()


def ended(running):
    """Wait until the host has ended by itself; return its status, what it said, and which processes it left."""
    process, pids = running._process, running.pids()
    status = process.wait(60)
    return status, (running.directory / "up.log").read_text(), [pid for pid in pids if is_alive(pid)]


@pytest.mark.processes
def test_a_cluster_whose_data_directory_was_removed_stops_and_says_why(running):
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        admin.create_topics(["t"])
    with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
        producer.send("t", b"x").get(30)

    shutil.rmtree(running.data_dir)

    status, said, left = ended(running)
    assert status != 0
    assert f"{running.data_dir} was removed or replaced while the cluster ran: stopped" in said
    assert said.count("\n") == 1
    assert left == []


@pytest.mark.processes
def test_what_took_the_place_of_a_data_directory_is_left_alone(running):
    running.data_dir.rename(running.directory / "elsewhere")
    (running.data_dir / "run").mkdir(parents=True)
    (running.data_dir / "run" / "another.sock").write_text("another cluster's")

    status, said, left = ended(running)

    assert status != 0
    assert "was removed or replaced" in said
    assert left == []
    assert (running.data_dir / "run" / "another.sock").exists()
    shutil.rmtree(running.directory / "elsewhere")  # with the sockets, whose place nobody knows any more


def test_a_broker_directory_that_is_gone_goes_offline_alone():
    cluster = SimulatedCluster(config=ClusterConfig(brokers=1, data_dir="/data", data_dirs=("/second",))).start()
    topic = cluster.create_topic("orders", 4)
    homes = {replica.partition: replica.directory for replica in describe(cluster).replicas}
    gone = [number for number, home in homes.items() if home == "/second/broker-1"]

    cluster.disks["broker-1"].remove_tree("/second/broker-1")
    cluster.loop.advance(3_000)

    first, second = describe(cluster).directories
    assert (first.state, second.state) == ("online", "failed")
    assert "it is gone: somebody removed it" in second.reason
    for number in homes:
        answer = produce(cluster, topic, [b"%d" % number], number=number)
        assert answer.error == (ErrorCode.LEADER_NOT_AVAILABLE if number in gone else 0)
    assert [values_of(cluster, topic, number=n) for n in homes if n not in gone] == [
        [b"%d" % n] for n in homes if n not in gone
    ]


def test_a_directory_whose_room_cannot_be_told_serves_on(monkeypatch):
    cluster = SimulatedCluster(config=ClusterConfig(brokers=1, data_dir="/data")).start()
    topic = cluster.create_topic("orders", 1)

    def fails(path):
        raise OSError(errno.EIO, "no answer", path)

    monkeypatch.setattr(cluster.disks["broker-1"], "free_bytes", fails)
    cluster.loop.advance(3_000)

    assert produce(cluster, topic, [b"a"], number=0).error == 0
