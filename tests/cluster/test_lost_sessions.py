"""A broker that was only silent, and lost its session, follows on in its next life, undisturbed by the old one."""

import logging

from callboard.testing.simulated import METADATA_ENDPOINT, SimulatedCluster
from callboard.transport import messages as m

from .sim import partition_of, produce_at_leader


def test_a_follower_that_lost_its_session_is_in_sync_again_and_its_fetches_are_answered(caplog):
    cluster = SimulatedCluster(brokers=3).start()
    topic = cluster.create_topic("orders", replication_factor=3)
    produce_at_leader(cluster, topic, [b"before"])
    lost = next(one for one in partition_of(cluster, topic).isr if one != partition_of(cluster, topic).leader)
    cluster.loop.advance(300)  # its fetch waits at the leader

    cluster.ask(METADATA_ENDPOINT, m.EndSessionRequest(name=f"broker-{lost}", reason="not heard of in time"))
    cluster.run_until(lambda: lost not in partition_of(cluster, topic).isr)
    cluster.run_until(lambda: lost in partition_of(cluster, topic).isr)

    with caplog.at_level(logging.WARNING):
        caplog.clear()
        cluster.loop.advance(20_000)
    assert [one.message for one in caplog.records if "fetch.failed" in one.message] == []
    assert produce_at_leader(cluster, topic, [b"after"]).error == 0
