"""Several directories a broker: where logs go, where they are found, and what happens when a disk fails (F17)."""

import errno
from collections import Counter

import pytest

from callboard.actors.lifecycle import Fail
from callboard.config import ClusterConfig
from callboard.errors import ErrorCode
from callboard.storage.checkpoint import FAILED_FILE
from callboard.testing.simulated import METADATA, SimulatedCluster

from .sim import describe, fetch, find, partition_of, produce, values_of

DIRECTORIES = ("/data/broker-1", "/second/broker-1", "/third/broker-1")


def a_cluster(*more, brokers=1):
    return SimulatedCluster(config=ClusterConfig(brokers=brokers, data_dir="/data", data_dirs=more or ("/second",)))


@pytest.fixture
def cluster():
    return a_cluster().start()


def homes(cluster):
    return {replica.partition: replica.directory for replica in describe(cluster).replicas}


def states(cluster):
    return {each.path: each.state for each in describe(cluster).directories}


def in_directory(cluster, path):
    return sorted(number for number, home in homes(cluster).items() if home == path)


def break_sync(cluster, topic, number):
    """Let the next sync of a partition fail, and produce to it; return the entry of the reply."""
    cluster.disks["broker-1"].fail("datasync", errno.EIO, path_contains=f"{topic.topic_id}-{number}")
    return produce(cluster, topic, [b"lost, perhaps"], number=number)


def two_partitions(cluster):
    """Return a topic, the number of a partition in the first directory and of one in the second."""
    topic = cluster.create_topic("orders", 4)
    return topic, in_directory(cluster, DIRECTORIES[0])[0], in_directory(cluster, DIRECTORIES[1])[0]


# -- placing -------------------------------------------------------------------------------------------


def test_new_replicas_go_where_there_are_fewest():
    cluster = a_cluster("/second", "/third").start()

    topic = cluster.create_topic("orders", 6)

    assert Counter(homes(cluster).values()) == dict.fromkeys(DIRECTORIES, 2)
    for number, home in homes(cluster).items():
        assert cluster.disks["broker-1"].exists(f"{home}/{topic.topic_id}-{number}")
    assert [each.replicas for each in describe(cluster).directories] == [2, 2, 2]


def test_logs_are_found_where_they_are(cluster):
    topic = cluster.create_topic("orders", 4)
    for number in range(4):
        produce(cluster, topic, [b"%d" % number], number=number)
    before = homes(cluster)
    cluster.crash("broker-1")
    cluster.restart("broker-1")
    cluster.wait_for_leaders("orders")

    assert homes(cluster) == before
    assert [values_of(cluster, topic, number=number) for number in range(4)] == [[b"0"], [b"1"], [b"2"], [b"3"]]


def test_logs_stay_where_they_are_when_hosting_restarts(cluster):
    topic = cluster.create_topic("orders", 4)
    before = homes(cluster)
    hosting = find(cluster, "hosting")

    hosting.post(Fail())
    cluster.run_until(lambda: find(cluster, "hosting") not in (None, hosting))
    cluster.loop.advance(1_000)

    assert homes(cluster) == before
    assert produce(cluster, topic, [b"a"], number=3).error == 0


def test_a_directory_that_is_added_gets_the_next_replicas():
    cluster = SimulatedCluster(config=ClusterConfig(brokers=1, data_dir="/data")).start()
    cluster.create_topic("old", 2)
    cluster.crash("broker-1")
    cluster.config = ClusterConfig(brokers=1, data_dir="/data", data_dirs=("/second",))
    cluster.restart("broker-1")
    cluster.wait_for_leaders("old")

    cluster.create_topic("new", 2)

    assert Counter(each.directory for each in describe(cluster).replicas) == dict.fromkeys(DIRECTORIES[:2], 2)


def test_a_deleted_topic_leaves_no_log_in_any_directory(cluster):
    from callboard.transport import messages as m

    topic = cluster.create_topic("orders", 4)
    logs = [f"{home}/{topic.topic_id}-{number}" for number, home in homes(cluster).items()]

    cluster.ask(cluster.client_endpoint(1), m.DeleteTopicsRequest(names=["orders"]))

    cluster.run_until(lambda: not any(map(cluster.disks["broker-1"].exists, logs)))
    cluster.loop.advance(100)
    assert [each.replicas for each in describe(cluster).directories] == [0, 0]


def test_every_directory_says_whose_it_is(cluster):
    disk = cluster.disks["broker-1"]

    assert disk.read_bytes("/data/broker-1/broker.json") == disk.read_bytes("/second/broker-1/broker.json")


# -- a disk that fails -----------------------------------------------------------------------------------


def test_a_sync_that_failed_takes_its_directory_offline_and_no_other(cluster):
    topic, here, there = two_partitions(cluster)
    neighbour = in_directory(cluster, DIRECTORIES[0])[1]
    produce(cluster, topic, [b"kept"], number=there)

    assert break_sync(cluster, topic, here).error == ErrorCode.INTERNAL, "the outcome is unknown"
    cluster.run_until(lambda: partition_of(cluster, topic, neighbour).leader == -1)

    assert states(cluster) == {DIRECTORIES[0]: "failed", DIRECTORIES[1]: "online"}
    assert partition_of(cluster, topic, here).leader == -1
    assert produce(cluster, topic, [b"no"], number=neighbour).error == ErrorCode.LEADER_NOT_AVAILABLE
    assert produce(cluster, topic, [b"more"], number=there).error == 0
    assert values_of(cluster, topic, number=there) == [b"kept", b"more"]
    roles = {each.partition: each.role for each in describe(cluster).replicas}
    assert roles[here] == roles[neighbour] == "offline"


def test_whoever_waits_in_a_failed_directory_learns_that_the_outcome_is_unknown(cluster):
    topic, here, _ = two_partitions(cluster)
    neighbour = in_directory(cluster, DIRECTORIES[0])[1]
    held = find(cluster, f"partitions/orders-{neighbour}").actor
    held._flush = lambda: None  # its acknowledgements wait for the disk
    cluster.loop.call_later(0.05, break_sync, cluster, topic, here)

    assert produce(cluster, topic, [b"waits"], number=neighbour).error == ErrorCode.INTERNAL


def test_nothing_in_a_failed_directory_is_synced_or_opened_again(cluster):
    topic, here, _ = two_partitions(cluster)
    neighbour = in_directory(cluster, DIRECTORIES[0])[1]
    produce(cluster, topic, [b"in the page cache"], number=neighbour, acks=1)
    break_sync(cluster, topic, here)
    cluster.loop.advance(1_000)
    seen = []
    cluster.disks["broker-1"].before = lambda what, path: seen.append((what, path))

    for number in (here, neighbour):
        ref = find(cluster, f"partitions/orders-{number}")
        ref.post(Fail())
    cluster.loop.advance(30_000)

    touched = {(what, path) for what, path in seen if path.startswith(DIRECTORIES[0])}
    assert touched == set()


def test_new_replicas_avoid_a_failed_directory(cluster):
    topic, here, _ = two_partitions(cluster)
    break_sync(cluster, topic, here)
    cluster.loop.advance(1_000)

    cluster.create_topic("new", 3)

    new = {each.directory for each in describe(cluster).replicas if each.topic_id != topic.topic_id}
    assert new == {DIRECTORIES[1]}


@pytest.mark.parametrize("power_loss", [False, True])
def test_a_failed_directory_stays_offline_until_a_person_removes_the_mark(cluster, power_loss):
    topic, here, there = two_partitions(cluster)
    produce(cluster, topic, [b"kept"], number=here)
    break_sync(cluster, topic, here)
    cluster.loop.advance(1_000)
    disk = cluster.disks["broker-1"]
    disk.sync_dir(DIRECTORIES[0])  # the mark may be lost with the power: then the log is recovered as after any

    cluster.crash("broker-1", power_loss=power_loss)
    cluster.restart("broker-1")
    cluster.run_until(lambda: partition_of(cluster, topic, there).leader == 1)
    cluster.loop.advance(5_000)

    assert states(cluster) == {DIRECTORIES[0]: "failed", DIRECTORIES[1]: "online"}
    assert partition_of(cluster, topic, here).leader == -1

    cluster.crash("broker-1")
    for name in (FAILED_FILE, f"{topic.topic_id}-{here}/{FAILED_FILE}"):
        if cluster.disks["broker-1"].exists(f"{DIRECTORIES[0]}/{name}"):
            cluster.disks["broker-1"].erase(f"{DIRECTORIES[0]}/{name}")
    cluster.restart("broker-1")
    cluster.wait_for_leaders("orders")

    assert values_of(cluster, topic, number=here)[0] == b"kept"
    assert produce(cluster, topic, [b"again"], number=here).error == 0


def test_a_directory_that_cannot_be_read_at_the_start_takes_only_its_logs_away(cluster):
    topic, here, there = two_partitions(cluster)
    produce(cluster, topic, [b"kept"], number=there)
    cluster.crash("broker-1")
    cluster.disks["broker-1"].fail("list_dir", errno.EIO, path_contains=DIRECTORIES[0], times=1_000)
    cluster.restart("broker-1")
    cluster.run_until(lambda: partition_of(cluster, topic, there).leader == 1)
    cluster.loop.advance(3_000)

    assert values_of(cluster, topic, number=there) == [b"kept"]
    assert partition_of(cluster, topic, here).leader == -1, "its log may lie in the directory that cannot be read"
    assert cluster.create_topic("new", 1).partitions[0].leader == 1


def test_a_broker_whose_only_directory_failed_lives_on():
    cluster = SimulatedCluster(brokers=1).start()
    topic = cluster.create_topic("orders")
    break_sync(cluster, topic, 0)
    cluster.run_until(lambda: partition_of(cluster, topic).leader == -1)
    cluster.loop.advance(20_000)

    assert cluster.metadata().controller_id == 1
    assert states(cluster) == {DIRECTORIES[0]: "failed"}


def test_a_partition_that_fails_for_another_reason_leaves_its_directory_alone(cluster):
    cluster.create_topic("orders", 2)
    for _ in range(8):
        if (partition := find(cluster, "partitions/orders-0")) is not None:
            partition.kill(RuntimeError("a bug"))
        cluster.loop.advance(2_000)

    assert set(states(cluster).values()) == {"online"}


def test_a_failed_directory_is_not_elected_into_again_by_the_next_session(cluster):
    from callboard.transport import messages as m

    topic, here, _ = two_partitions(cluster)
    break_sync(cluster, topic, here)
    cluster.run_until(lambda: partition_of(cluster, topic, here).leader == -1)

    cluster.ask("ipc:///sim/metadata.sock", m.EndSessionRequest(name="broker-1", reason="silent for too long"))
    cluster.loop.advance(10_000)

    assert partition_of(cluster, topic, here).leader == -1


def test_hosting_that_restarts_while_a_disk_fails_learns_of_it(cluster):
    topic, here, _ = two_partitions(cluster)
    neighbour = in_directory(cluster, DIRECTORIES[0])[1]
    home = find(cluster, f"partitions/orders-{here}").actor.home
    find(cluster, "hosting").post(Fail())
    home.fail("said while nobody listened")
    cluster.loop.advance(3_000)

    assert partition_of(cluster, topic, here).leader == partition_of(cluster, topic, neighbour).leader == -1
    assert fetch(cluster, topic, number=neighbour)[0].error == ErrorCode.LEADER_NOT_AVAILABLE


def test_a_log_that_lies_in_two_directories_is_refused(cluster):
    topic, here, _ = two_partitions(cluster)
    cluster.crash("broker-1")
    cluster.disks["broker-1"].make_dir(f"{DIRECTORIES[1]}/{topic.topic_id}-{here}")
    process = cluster.restart("broker-1")
    cluster.loop.advance(60_000)

    assert not process.is_alive, "both cannot be right; the process ends and says so"


def test_the_metadata_process_is_not_concerned(cluster):
    topic, here, _ = two_partitions(cluster)
    break_sync(cluster, topic, here)
    cluster.loop.advance(1_000)
    cluster.crash(METADATA)
    cluster.restart(METADATA)
    cluster.loop.advance(3_000)

    assert partition_of(cluster, topic, here).leader == -1
