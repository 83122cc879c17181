"""Directories, deletion and full disks with real processes and real files."""

import os
import re
import shutil
import subprocess
import tempfile
import time

import orjson
import pytest

from callboard import AdminClient, Consumer, Producer, TopicPartition
from callboard.errors import CallboardError, ErrorCode, OffsetOutOfRangeError, StorageFullError
from callboard.testing.clusters import cluster

pytestmark = [pytest.mark.processes]
MIB = 1 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One broker with two directories."""
    directory = tmp_path_factory.mktemp("two")
    with cluster(brokers=1, directory=directory, options=("--data-dir", str(directory / "second"))) as started:
        yield started


@pytest.fixture
def admin(running):
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as client:
        yield client


def fill(running, topic, count, size=100):
    with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
        for number in range(count):
            producer.send(topic, b"%0*d" % (size, number))


def read(running, topic, **settings):
    with Consumer(bootstrap_servers=running.bootstrap_servers, consumer_timeout_ms=1_000, **settings) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), 0)
        return [record.offset for record in consumer]


def test_partitions_are_spread_over_directories_and_found_again(running, admin, run):
    admin.create_topics({"spread": {"num_partitions": 4}})
    fill(running, "spread", 100)

    (directories,) = admin.describe_log_dirs().values()

    assert [each.path for each in directories] == [
        f"{running.data_dir}/broker-1",
        f"{running.directory}/second/broker-1",
    ]
    assert {each.state for each in directories} == {"online"}
    assert all(each.replicas >= 2 and each.free_bytes > 0 for each in directories)
    bootstrap = ["-b", ",".join(running.bootstrap_servers)]
    shown = orjson.loads(run(["topics", "describe", "spread", "--json", *bootstrap]).stdout)
    homes = {each["hosted"]["1"]["directory"] for each in shown[0]["partitions"]}
    assert homes == {each.path for each in directories}
    assert f"{running.directory}/second/broker-1" in run(["cluster", "describe", *bootstrap]).stdout

    old_pid = running.kill_broker(1)
    running.wait_for_new_pid(1, old_pid)
    admin.wait_for_topics(["spread"], timeout_ms=30_000)
    ends = [each.log_end_offset for each in admin.describe_replicas(["spread"])[1]]
    assert sum(ends) == 100


def test_records_are_deleted_and_readers_follow_their_reset(running, admin, run):
    admin.create_topics(["cut"])
    fill(running, "cut", 50)
    partition = TopicPartition("cut", 0)

    assert admin.delete_records({partition: 20}) == {partition: 20}
    assert admin.delete_records({partition: 10}) == {partition: 20}
    with pytest.raises(OffsetOutOfRangeError, match="high watermark is 50"):
        admin.delete_records({partition: 51})

    assert read(running, "cut", auto_offset_reset="earliest") == list(range(20, 50))
    with pytest.raises(OffsetOutOfRangeError):
        read(running, "cut", auto_offset_reset="none")

    bootstrap = ["-b", ",".join(running.bootstrap_servers)]
    ended = run(["topics", "delete-records", "cut", "--partition", "0", "--before", "-1", *bootstrap])
    assert ended.stdout == "partition 0 of cut begins at offset 50 now\n"
    refused = run(["topics", "delete-records", "cut", "--partition", "7", "--before", "1", *bootstrap])
    assert refused.returncode != 0
    assert "partition" in refused.stderr


@pytest.fixture
def small_disk():
    """A real file system of 24 MiB, where it may be mounted."""
    directory = tempfile.mkdtemp(prefix="small-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        shutil.rmtree(directory)
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip() or 'mount failed'}")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True, timeout=30)
    os.rmdir(directory)


@pytest.mark.parametrize("reserve", [4 * MIB, 0])
def test_a_full_file_system_refuses_and_recovers_by_itself(small_disk, tmp_path, reserve):
    config = tmp_path / "cluster.toml"
    config.write_text(f"[broker]\nstorage_min_free_bytes = {reserve}\n[topic]\nsegment_bytes = 1048576\n")
    with (
        cluster(brokers=1, directory=small_disk, options=("--config", str(config))) as running,
        AdminClient(bootstrap_servers=running.bootstrap_servers) as admin,
    ):
        admin.create_topics(["flood"])
        pid = running.broker_pid(1)
        with Producer(bootstrap_servers=running.bootstrap_servers, retries=0, linger_ms=0) as producer:
            taken, error = 0, None
            while error is None and taken < 100:
                try:
                    producer.send("flood", os.urandom(MIB // 2)).get(30)
                    taken += 1
                except CallboardError as refused:
                    error = refused
        assert isinstance(error, StorageFullError), error
        assert not error.outcome_unknown
        assert taken > 10
        assert admin.describe_replicas(["flood"])[1][0].log_end_offset == taken
        assert read(running, "flood", auto_offset_reset="earliest")[-1] == taken - 1

        begin = time.monotonic()
        with Producer(bootstrap_servers=running.bootstrap_servers) as producer:
            waiting = producer.send("flood", os.urandom(MIB // 2))
            admin.delete_records({TopicPartition("flood", 0): taken // 2})
            assert waiting.get(30).offset == taken, "it waited for the room"
        assert time.monotonic() - begin < 20
        assert running.broker_pid(1) == pid, "nothing was restarted"
        log = (running.data_dir / "log" / "broker-1.log").read_text()
        assert not re.search("actor.failed", log)


def test_the_code_of_a_full_disk_is_our_own():
    assert ErrorCode.STORAGE_FULL == 1_007
