"""A replica whose log is gone (a new disk, a directory that somebody removed) does not lead, in none of its lives."""

import pytest

from callboard.actors.broker import Broker
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m

from .sim import describe, produce_at_leader, values_at_leader


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=3).start()


def alive(cluster):
    return [number for number in (1, 2, 3) if f"broker-{number}" in cluster.processes]


def partition(cluster):
    (topic,) = cluster.metadata(alive(cluster)[0]).topics
    return topic.partitions[0]


def wipe(cluster, broker):
    """Remove the logs of a broker that does not run."""
    disk = cluster.disks[f"broker-{broker}"]
    for name in disk.list_dir(f"/data/broker-{broker}"):
        if name.endswith("-0"):
            disk.remove_tree(f"/data/broker-{broker}/{name}")


def role(cluster, broker):
    (replica,) = describe(cluster, broker).replicas
    return replica.role


def with_one_in_sync(cluster, replication_factor):
    """Have a record on every replica, and a later one on the last in-sync one alone; return it and the others."""
    topic = cluster.create_topic("orders", replication_factor=replication_factor, min_insync_replicas=1)
    assert produce_at_leader(cluster, topic, [b"early"]).error == 0
    last, *others = partition(cluster).replicas
    for other in others:
        cluster.crash(f"broker-{other}")
    cluster.run_until(lambda: partition(cluster).isr == [last])
    assert produce_at_leader(cluster, topic, [b"late"]).error == 0
    return topic, last, others


def test_the_last_in_sync_replica_without_its_log_leads_in_no_life(cluster):
    _, last, _ = with_one_in_sync(cluster, 3)
    cluster.crash(f"broker-{last}")
    wipe(cluster, last)

    for _ in range(3):
        cluster.restart(f"broker-{last}")
        cluster.run_until(lambda: role(cluster, last) == "lost its log")
        cluster.loop.advance(2_000)
        assert partition(cluster).leader == -1
        assert partition(cluster).isr == [last]
        cluster.crash(f"broker-{last}")


def test_an_unclean_election_lets_it_copy_what_the_others_have(cluster):
    topic, last, others = with_one_in_sync(cluster, 3)
    cluster.crash(f"broker-{last}")
    wipe(cluster, last)
    for number in (last, *others):
        cluster.restart(f"broker-{number}")
    cluster.run_until(lambda: role(cluster, last) == "lost its log")
    cluster.loop.advance(2_000)
    assert partition(cluster).leader == -1

    cluster.run_until(lambda: cluster.metadata(last).controller_id >= 0)
    controller = cluster.client_endpoint(cluster.metadata(last).controller_id)
    (elected,) = cluster.ask(controller, m.ElectLeadersRequest(election="unclean")).entries
    assert elected.error == 0
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])

    assert values_at_leader(cluster, topic) == [b"early"], "what only the lost log had is lost, and nothing else"


def test_one_of_several_in_sync_replicas_copies_its_lost_log_anew(cluster):
    topic = cluster.create_topic("orders", replication_factor=3)
    assert produce_at_leader(cluster, topic, [b"one"]).error == 0
    lost = partition(cluster).replicas[0]
    cluster.crash(f"broker-{lost}")
    wipe(cluster, lost)

    cluster.restart(f"broker-{lost}")
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])

    assert produce_at_leader(cluster, topic, [b"two"]).error == 0
    assert values_at_leader(cluster, topic) == [b"one", b"two"]


def test_a_single_replica_without_its_log_leads_with_nothing(cluster):
    """Nobody has a better copy; the log says log.lost where there are others."""
    topic = cluster.create_topic("orders", replication_factor=1)
    produce_at_leader(cluster, topic, [b"one"])
    only = partition(cluster).leader
    cluster.crash(f"broker-{only}")
    wipe(cluster, only)

    cluster.restart(f"broker-{only}")
    cluster.run_until(lambda: partition(cluster).leader == only)

    assert values_at_leader(cluster, topic) == []


def test_a_mark_that_comes_when_nobody_counts_the_lost_log_any_more_is_taken_back(cluster, monkeypatch):
    topic = cluster.create_topic("orders", replication_factor=3, min_insync_replicas=2)
    assert produce_at_leader(cluster, topic, [b"one"]).error == 0
    leader, other, lost = partition(cluster).replicas
    for number in (other, lost):
        cluster.crash(f"broker-{number}")
    cluster.run_until(lambda: partition(cluster).isr == [leader])  # the two others are eligible still
    wipe(cluster, lost)
    ask, held = Broker._ask_controller, []

    def hold(broker, request, *more, **how):
        if getattr(request, "is_offline", False):
            held.append((broker, request))
        else:
            ask(broker, request, *more, **how)

    monkeypatch.setattr(Broker, "_ask_controller", hold)
    cluster.restart(f"broker-{lost}")
    cluster.run_until(lambda: held)
    cluster.restart(f"broker-{other}")
    cluster.run_until(lambda: other in partition(cluster).isr)  # so that nobody else needs to be eligible

    monkeypatch.undo()
    ask(*held[0])
    cluster.loop.advance(500)
    cluster.run_until(lambda: sorted(partition(cluster).isr) == [1, 2, 3])
    cluster.loop.advance(2_000)

    assert sorted(partition(cluster).isr) == [1, 2, 3]
    (hosting,) = [
        ref.actor
        for ref in cluster.processes[f"broker-{lost}"].context.directory.refs()
        if isinstance(ref.actor, Broker)
    ]
    assert not hosting._reelections, "and nobody asks any more"


@pytest.mark.parametrize("power_loss", [False, True])
def test_a_topic_whose_brokers_all_die_before_they_have_made_its_logs_is_led_when_they_are_back(
    cluster, power_loss, caplog
):
    for number in (1, 2, 3):
        cluster.processes[f"broker-{number}"].pool.delay_ms = 10_000  # where logs are made
    topic = cluster.create_topic("orders", 2, replication_factor=3, min_insync_replicas=2)
    for number in (1, 2, 3):
        cluster.crash(f"broker-{number}", power_loss=power_loss)
    assert not [name for disk in cluster.disks.values() for name in disk.paths() if topic.topic_id in name]

    for number in (2, 3, 1):
        cluster.restart(f"broker-{number}")
        cluster.loop.advance(100)
    cluster.run_until(lambda: cluster.metadata(1).controller_id >= 0)
    assert min(one.leader for one in cluster.wait_for_leaders("orders").partitions) > 0
    cluster.run_until(lambda: produce_at_leader(cluster, topic, [b"one"]).error == 0)

    assert values_at_leader(cluster, topic) == [b"one"]
    assert "log.lost" not in caplog.text
    assert "unclean" not in caplog.text
