"""A simulated cluster with consumer groups, and what tests of them say often."""

from __future__ import annotations

from callboard.actors.groups.naming import partition_of
from callboard.config import BrokerSettings, ClusterConfig, Limits
from callboard.errors import ErrorCode
from callboard.model import OFFSETS_TOPIC
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import group_messages as said

from .sim import find

GROUP = "billing"
RETRIED = {
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
}


class Grouped:
    """Three brokers (or fewer), a topic "orders" of four partitions, and one group's view of them."""

    def __init__(self, brokers=3, *, seed=0, broker=None, partitions=4, limits=None):
        settings = {
            "leader_rebalance_ms": 0,
            "offsets_topic_partitions": 2,
            "offsets_topic_ahead_ms": 0,
            **(broker or {}),
        }
        self.cluster = SimulatedCluster(
            seed=seed,
            config=ClusterConfig(
                brokers=brokers, data_dir="/data", broker=BrokerSettings(**settings), limits=limits or Limits()
            ),
        ).start()
        self.brokers = brokers
        self.orders = self.cluster.create_topic("orders", partitions, replication_factor=brokers)

    # -- who is what -----------------------------------------------------------------------------------

    @property
    def live(self):
        return [broker for broker in range(1, self.brokers + 1) if f"broker-{broker}" in self.cluster.processes]

    def found(self, group=GROUP, broker=None):
        """Return what one broker says of the coordinator, as it is."""
        request = said.FindCoordinatorsRequest(group_ids=[group])
        return self.cluster.ask(self.cluster.client_endpoint(broker or self.live[0]), request).coordinators[0]

    def coordinator(self, group=GROUP):
        """Return the broker that coordinates the group and is live; the offsets topic is made for it."""
        found = []

        def is_known():
            entry = self.found(group)
            found[:] = [entry.broker_id]
            return not entry.error and entry.broker_id in self.live

        self.cluster.run_until(is_known)
        return found[0]

    def actor(self, broker=None, group=GROUP):
        """Return the group's coordinator itself, on the broker that has it."""
        broker = broker or self.coordinator(group)
        ref = find(self.cluster, f"coordinators/{partition_of(group, 2)}", f"broker-{broker}")
        return ref.actor if ref is not None else None

    def offsets_leader(self, broker, group=GROUP):
        """Return the actor of the replica beside the coordinator."""
        return find(self.cluster, f"partitions/{OFFSETS_TOPIC}-{partition_of(group, 2)}", f"broker-{broker}").actor

    # -- asking ----------------------------------------------------------------------------------------

    def ask(self, request, broker=None):
        """Ask the coordinator once."""
        return self.cluster.ask(self.cluster.client_endpoint(broker or self.coordinator()), request)

    def until_answered(self, request):
        """Ask as a client does: again, and elsewhere, while the answer is that nobody serves just now."""
        replies = []

        def is_answered():
            replies[:] = [self.ask(request)]
            return replies[0].error not in RETRIED

        self.cluster.run_until(is_answered)
        return replies[0]

    def join(self, member="a", **fields):
        fields = {"topics": ["orders"], "assignors": ["range"], **fields}
        return self.until_answered(said.GroupHeartbeatRequest(group_id=GROUP, member_id=member, **fields))

    def heartbeat(self, member, epoch, **fields):
        return said.GroupHeartbeatRequest(group_id=GROUP, member_id=member, member_epoch=epoch, **fields)

    def commit(self, offset, *, partition=0, member="", epoch=said.NO_MEMBER):
        return said.OffsetCommitRequest(
            group_id=GROUP, member_id=member, member_epoch=epoch, entries=[self.entry(partition, offset)]
        )

    def entry(self, partition, offset):
        return said.OffsetCommitEntry(topic="orders", topic_id=self.orders.topic_id, partition=partition, offset=offset)

    def committed(self, broker=None):
        """Return what is committed, by partition."""
        request = said.OffsetFetchRequest(group_id=GROUP)
        reply = self.until_answered(request) if broker is None else self.ask(request, broker)
        assert not reply.error, reply
        return {entry.partition: entry.offset for entry in reply.entries}
