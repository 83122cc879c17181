"""Bugs that the simulation has found, each as the few steps that it takes."""

import pytest

from callboard.actors.lifecycle import Fail
from callboard.testing.loop import SimLoop
from callboard.testing.simulated import METADATA_ENDPOINT, SimulatedCluster
from callboard.transport import messages as m


def a_cluster(brokers, replication_factor, loop=None):
    cluster = SimulatedCluster(brokers=brokers, loop=loop).start()
    new = m.NewTopic(name="orders", num_partitions=1, replication_factor=replication_factor)
    cluster.run_until(lambda: cluster.metadata().controller_id >= 0)
    endpoint = cluster.client_endpoint(cluster.metadata().controller_id)
    assert cluster.ask(endpoint, m.CreateTopicsRequest(topics=[new])).topics[0].error == 0
    cluster.wait_for_leaders("orders")
    return cluster


def the_partition(cluster, broker_id):
    topic = next(one for one in cluster.metadata(broker_id).topics if one.name == "orders")
    return topic.partitions[0]


def the_replica(cluster, broker_id):
    ref = cluster.processes[f"broker-{broker_id}"].context.directory.find(f"broker-{broker_id}/partitions/orders-0")
    return None if ref is None else ref.actor


def test_a_broker_does_not_lead_on_in_an_epoch_of_its_earlier_life_whose_session_still_stands():
    """What that life had appended and not synced may be gone: one epoch would have two records at one offset."""
    cluster = a_cluster(1, 1)
    before = the_replica(cluster, 1).part.rules.epoch

    cluster.kill("broker-1")  # nobody tells the metadata process: the session stands for a while
    cluster.restart("broker-1")
    led = []

    def leads():
        replica = the_replica(cluster, 1)
        if replica is not None and replica.role == "leader":
            led.append(replica.part.rules.epoch)
        return led

    cluster.loop.run_until(leads, timeout_ms=10_000)

    assert led[0] > before


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_follower_of_an_idle_partition_joins_the_isr_in_its_present_life(is_noticed):
    """Its first fetch, sent before its session was stored, named no life or an old one, and stayed parked for ever."""
    cluster = a_cluster(3, 3)
    leader = the_partition(cluster, 1).leader
    follower = next(one for one in (1, 2, 3) if one != leader)

    def isr():
        documents = cluster.ask(METADATA_ENDPOINT, m.StoreLoadRequest()).documents
        return next(one.value["isr"] for one in documents if one.key.startswith("partition/"))

    cluster.run_until(lambda: sorted(isr()) == [1, 2, 3])
    if is_noticed:
        cluster.crash(f"broker-{follower}")
        cluster.run_until(lambda: follower not in isr())
    else:
        cluster.kill(f"broker-{follower}")
    cluster.restart(f"broker-{follower}")
    cluster.loop.advance(5_000)

    assert sorted(isr()) == [1, 2, 3]
    leading = the_replica(cluster, leader).part.rules.insync
    now = cluster.processes[f"broker-{follower}"].options.incarnation
    assert leading.followers[follower].incarnation == now


@pytest.mark.parametrize("seed", range(6))
def test_doors_that_were_restarted_know_the_replicas_that_went_on_in_whatever_order_all_is_told(seed):
    """They asked who is here before the broker had its metadata, and were never told: it led, and nobody reached it."""
    cluster = a_cluster(1, 1, loop=SimLoop(seed, shuffle=True))
    replica, directory = the_replica(cluster, 1).actor_ref, cluster.processes["broker-1"].context.directory

    directory.find("broker-1/replication").post(Fail())
    cluster.loop.advance(1_000)

    topic = cluster.metadata(1).topics[0]
    epoch = topic.partitions[0].leader_epoch
    entry = m.ListOffsetsEntry(topic_id=topic.topic_id, partition=0, leader_epoch=epoch, timestamp_ms=-2)
    reply = cluster.ask(cluster.client_endpoint(1), m.ListOffsetsRequest(entries=[entry]))
    assert replica.is_alive()
    assert reply.entries[0].error == 0
