"""A link between two brokers is cut in silence, and heals: what was lost on it must not show seconds later."""

import pytest

from callboard.config import BrokerSettings, ClusterConfig
from callboard.testing.simulated import SimulatedCluster

from .sim import find, produce

BROKERS = (1, 2)
PARTITIONS = 4
ABOUT_A_SECOND_MS = 1_300  # one attempt to connect that was lost, the pause behind it, and a commit
LATER_MS = 8_000


class Link:
    """Two brokers that lead two partitions each and follow the other's, and what lies between them."""

    def __init__(self, seed):
        settings = BrokerSettings(leader_rebalance_ms=0)
        config = ClusterConfig(brokers=2, data_dir="/data", broker=settings)
        self.cluster = SimulatedCluster(seed=seed, config=config).start()
        self.topic = self.cluster.create_topic("t", PARTITIONS, replication_factor=2, min_insync_replicas=1)
        self.pass_by(1_000)

    @property
    def image(self):
        return find(self.cluster, "hosting").actor._image

    @property
    def endpoints(self):
        return [one for broker in BROKERS for one in self.image.sessions[f"broker-{broker}"].peer_endpoints]

    def cut(self):
        for endpoint in self.endpoints:
            self.cluster.network.cut(endpoint, is_silent=True)

    def heal(self):
        for endpoint in self.endpoints:
            self.cluster.network.heal(endpoint)

    def pass_by(self, for_ms):
        """Let time pass while every partition is written to."""
        for _ in range(for_ms // 50):
            for number, partition in self.partitions.items():
                produce(self.cluster, self.topic, [b"v"], number=number, acks=1, broker=partition.leader)
            self.cluster.loop.advance(50)

    @property
    def partitions(self):
        return self.image.topic(self.topic.topic_id).partitions

    def out_of_sync(self):
        return [number for number, partition in self.partitions.items() if len(partition.isr) < len(BROKERS)]


@pytest.mark.parametrize("cut_ms", [2_500, 3_050, 3_500, 6_000])
def test_a_second_after_a_link_has_healed_all_are_in_sync_and_nobody_leaves_later(cut_ms):
    link = Link(seed=cut_ms)
    assert link.out_of_sync() == []

    link.cut()
    link.pass_by(cut_ms)
    link.heal()
    link.pass_by(ABOUT_A_SECOND_MS)
    assert link.out_of_sync() == []

    before = link.partitions
    link.pass_by(LATER_MS)
    assert link.partitions == before, "a proposal of the time before the link healed was taken"
