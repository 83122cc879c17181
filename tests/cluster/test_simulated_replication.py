"""Three brokers, three replicas, on a virtual loop: the real actors, and what happens to them one after the other."""

from __future__ import annotations

import pytest

from callboard.actors.lifecycle import Fail
from callboard.actors.partition.housekeeping import CHECKPOINT_LOOKS
from callboard.config import BrokerSettings, ClusterConfig
from callboard.errors import CallboardError, CallboardTimeoutError, ErrorCode
from callboard.model import PartitionKey
from callboard.testing.logs import contents
from callboard.testing.simulated import METADATA, SimulatedCluster
from callboard.transport import messages as m

from .sim import fetch, find, produce

BROKERS = (1, 2, 3)
TOPIC = "orders"
LOST = {ErrorCode.NOT_LEADER_FOR_PARTITION, ErrorCode.LEADER_NOT_AVAILABLE, ErrorCode.INTERNAL}


class Replicated:
    """A cluster, its one partition, and what was acknowledged of it."""

    def __init__(self, *, seed=0, broker=None, **configs):
        settings = BrokerSettings(leader_rebalance_ms=0, **(broker or {}))
        self.cluster = SimulatedCluster(
            seed=seed, config=ClusterConfig(brokers=3, data_dir="/data", broker=settings)
        ).start()
        new = m.NewTopic(name=TOPIC, num_partitions=1, replication_factor=3, configs=configs)
        self.cluster.run_until(lambda: self.metadata().controller_id >= 0)
        controller = self.cluster.client_endpoint(self.metadata().controller_id)
        reply = self.cluster.ask(controller, m.CreateTopicsRequest(topics=[new]))
        assert not reply.topics[0].error, reply.topics[0].detail
        self.cluster.run_until(lambda: any(topic.name == TOPIC for topic in self.metadata().topics))
        self.topic = next(topic for topic in self.metadata().topics if topic.name == TOPIC)
        self.sequence = 0
        self.acknowledged: dict[int, bytes] = {}
        self.until_in_sync()

    # -- who is what -----------------------------------------------------------------------------------

    @property
    def live(self):
        return [broker for broker in BROKERS if f"broker-{broker}" in self.cluster.processes]

    def metadata(self):
        return self.cluster.metadata(self.live[0])

    @property
    def partition(self):
        found = []

        def is_known():  # a broker that has just begun knows nothing yet
            found[:] = [topic for topic in self.metadata().topics if topic.name == TOPIC and topic.partitions]
            return found

        self.cluster.run_until(is_known)
        return found[0].partitions[0]

    @property
    def leader(self):
        """The broker that leads and knows it."""
        found = []

        def is_led():
            leader = self.partition.leader
            found[:] = [leader]
            return leader in self.live and (replica := self.replica(leader)) is not None and replica.role == "leader"

        self.cluster.run_until(is_led)
        return found[0]

    def followers(self):
        leader = self.leader
        return [broker for broker in self.live if broker != leader]

    def replica(self, broker):
        ref = find(self.cluster, f"partitions/{TOPIC}-0", f"broker-{broker}")
        return ref.actor if ref is not None else None

    def until_in_sync(self, count=None):
        wanted = set(self.live) if count is None else None
        self.cluster.run_until(
            lambda: set(self.partition.isr) == wanted if count is None else len(self.partition.isr) == count
        )
        return self

    # -- what is written and read ------------------------------------------------------------------------

    def produce(self, count=1, *, is_patient=True):
        """Produce batches one by one, each until it is acknowledged, as a client does."""
        for _ in range(count):
            values = [b"value-%d" % self.sequence]
            self.cluster.run_until(lambda values=values: self._acknowledged(values), timeout_ms=60_000)
        return self

    def _acknowledged(self, values):
        leader = self.partition.leader
        if leader not in self.live:
            return False
        try:
            reply = produce(self.cluster, self.topic, values, sequence=self.sequence, broker=leader)
        except CallboardError:
            return False
        if reply.error:
            return False
        assert self.acknowledged.get(reply.base_offset, values[0]) == values[0], "two records at one offset"
        self.acknowledged[reply.base_offset] = values[0]
        self.sequence += len(values)
        return True

    def read(self):
        leader, found = self.leader, []
        while some := fetch(self.cluster, self.topic, len(found), broker=leader)[1]:
            found += some
        return found

    def check(self):
        """All that was acknowledged is read, once and in order; the logs of all live replicas become equal."""
        written = [value for _, value in sorted(self.acknowledged.items())]
        assert len(set(written)) == len(written) == self.sequence
        self.cluster.run_until(lambda: self.read() == written)
        self.cluster.run_until(lambda: len({tuple(self.contents(broker)) for broker in self.live}) == 1)
        assert [value for _, value in self.contents(self.leader)] == written

    def contents(self, broker):
        replica = self.replica(broker)
        return contents(replica.log) if replica is not None and replica.log is not None else [None]

    # -- what happens to it ------------------------------------------------------------------------------

    def crash(self, broker, **how):
        self.cluster.crash(f"broker-{broker}", **how)

    def restart(self, broker):
        self.cluster.restart(f"broker-{broker}")

    def fail(self, broker, name):
        """Let an actor of a broker fail, when it is there."""
        self.cluster.run_until(lambda: find(self.cluster, name, f"broker-{broker}") is not None)
        find(self.cluster, name, f"broker-{broker}").post(Fail("raise"))

    def until_serving(self, broker):
        self.cluster.run_until(lambda: find(self.cluster, "router", f"broker-{broker}") is not None)


def test_what_is_acknowledged_is_on_all_three():
    replicated = Replicated().produce(20)

    replicated.check()
    assert len(replicated.read()) == 20


@pytest.mark.parametrize("is_power", [False, True])
def test_a_killed_leader_is_replaced_and_comes_back_as_a_follower(is_power):
    replicated = Replicated().produce(5)
    first = replicated.leader
    epoch = replicated.partition.leader_epoch

    replicated.crash(first, power_loss=is_power)
    replicated.produce(5)

    assert replicated.leader != first
    assert replicated.partition.leader_epoch > epoch
    assert first not in replicated.partition.isr
    replicated.restart(first)
    replicated.until_in_sync()
    replicated.check()


@pytest.mark.parametrize("is_power", [False, True])
def test_a_killed_follower_is_not_waited_for_and_catches_up(is_power):
    replicated = Replicated().produce(5)
    victim = replicated.followers()[0]

    replicated.crash(victim, power_loss=is_power)
    replicated.produce(5)

    assert victim not in replicated.partition.isr
    replicated.restart(victim)
    replicated.until_in_sync()
    replicated.check()


@pytest.mark.parametrize("order", [("leader", "follower"), ("follower", "leader")])
def test_of_two_killed_brokers_the_first_that_is_back_is_enough(order):
    """With one of three in sync nothing is acknowledged; the other dead one must not keep the live one out."""
    replicated = Replicated().produce(5)
    leader, follower = replicated.leader, replicated.followers()[0]
    victims = [leader if one == "leader" else follower for one in order]

    for victim in victims:
        replicated.crash(victim)
    replicated.until_in_sync()
    survivor = replicated.leader
    assert produce(replicated.cluster, replicated.topic, [b"x"], broker=survivor).error == (
        ErrorCode.NOT_ENOUGH_REPLICAS
    )
    replicated.restart(victims[1])
    replicated.until_in_sync(2)
    replicated.produce(5)
    replicated.restart(victims[0])
    replicated.until_in_sync()
    replicated.check()


@pytest.mark.parametrize("flush", ["ack", "os"])
def test_an_idle_partition_takes_the_first_that_is_back_while_another_is_dead(flush):
    """The dead one holds all there is, so it is eligible by what the leader knows: it was proposed for ever."""
    replicated = Replicated(flush=flush).produce(3)
    dead, back = replicated.followers()
    replicated.crash(dead)
    replicated.crash(back)
    replicated.until_in_sync()

    replicated.restart(back)

    replicated.until_in_sync()
    assert dead not in replicated.partition.isr


@pytest.mark.parametrize("is_power", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_all_brokers_killed_at_once_come_back_with_all_that_was_acknowledged(is_power, shift):
    replicated = Replicated().produce(8)

    for broker in BROKERS:
        replicated.crash(broker, power_loss=is_power)
    for place in range(3):
        replicated.restart(BROKERS[(place + shift) % 3])
    replicated.until_in_sync()
    replicated.produce(3)

    replicated.check()


def test_all_brokers_and_the_metadata_process():
    replicated = Replicated().produce(4)

    replicated.cluster.crash(METADATA)
    for broker in BROKERS:
        process = replicated.cluster.processes.pop(f"broker-{broker}")
        process.context.transport.close()
        for ref in reversed(process.context.directory.refs()):
            if ref.actor is not None:
                ref.actor.mailbox.is_closed = True
                ref.actor.mailbox.queue.clear()
        replicated.cluster.disks[f"broker-{broker}"] = replicated.cluster.disks[f"broker-{broker}"].kill()
    replicated.cluster.restart(METADATA)
    for broker in BROKERS:
        replicated.restart(broker)
    replicated.until_in_sync()
    replicated.produce(3)

    replicated.check()


@pytest.mark.parametrize("name", ["hosting", "replication", "peers", "router", "controller", "metadata", "partitions"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_an_actor_of_a_broker_that_fails_loses_nothing(role, name):
    replicated = Replicated().produce(4)
    victim = replicated.leader if role == "leader" else replicated.followers()[0]

    replicated.fail(victim, name)
    replicated.produce(4)
    replicated.fail(victim, name)
    replicated.until_in_sync()
    replicated.produce(4)

    replicated.check()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_replica_that_fails_loses_nothing(role):
    replicated = Replicated().produce(4)
    victim = replicated.leader if role == "leader" else replicated.followers()[0]

    for _ in range(3):
        replicated.fail(victim, f"partitions/{TOPIC}-0")
        replicated.produce(2)
    replicated.until_in_sync()

    replicated.check()


def test_the_preferred_leader_returns():
    replicated = Replicated().produce(3)
    preferred = replicated.partition.replicas[0]
    replicated.crash(preferred)
    replicated.produce(2)
    replicated.restart(preferred)
    replicated.until_in_sync()
    assert replicated.leader != preferred

    request = m.ElectLeadersRequest(election="preferred", partitions=None)
    controller = replicated.metadata().controller_id
    replicated.cluster.ask(replicated.cluster.client_endpoint(controller), request)

    replicated.cluster.run_until(lambda: replicated.leader == preferred)
    replicated.produce(3)
    replicated.check()


@pytest.mark.parametrize("flush", ["ack", "os"])
def test_what_was_deleted_stays_deleted_when_the_leader_dies_with_the_answer(flush):
    """Followers heard of it a while later, and had it on disk later still: the next leader brought the records back."""
    replicated = Replicated(flush=flush).produce(8)
    entry = m.DeleteRecordsEntry(topic_id=replicated.topic.topic_id, partition=0, before_offset=5)
    endpoint = replicated.cluster.client_endpoint(replicated.leader)

    (reply,) = replicated.cluster.ask(endpoint, m.DeleteRecordsRequest(entries=[entry])).entries
    assert (reply.error, reply.log_start_offset) == (0, 5)
    victims = replicated.live
    for victim in victims:  # whoever leads next, from what a kill leaves
        replicated.crash(victim)
        replicated.restart(victim)

    for _ in range(3):
        first = replicated.leader
        assert replicated.replica(first).log.log_start_offset == 5
        replicated.until_in_sync()
        replicated.crash(first)
        replicated.cluster.run_until(lambda first=first: replicated.leader != first)
        replicated.restart(first)


def test_a_deletion_that_followers_have_not_heard_of_is_not_confirmed():
    replicated = Replicated().produce(8)
    leader = replicated.leader
    for follower in replicated.followers():  # they do not ask just now
        replicated.replica(follower).part.end()
    replicated.cluster.loop.run_until_idle()
    entry = m.DeleteRecordsEntry(topic_id=replicated.topic.topic_id, partition=0, before_offset=5)
    endpoint = replicated.cluster.client_endpoint(leader)

    with pytest.raises(CallboardTimeoutError):
        replicated.cluster.ask(endpoint, m.DeleteRecordsRequest(entries=[entry]))

    assert replicated.replica(leader).log.durable_log_start_offset == 5
    for follower in replicated.followers():
        replicated.replica(follower).part.begin()
    (reply,) = replicated.cluster.ask(endpoint, m.DeleteRecordsRequest(entries=[entry])).entries
    assert (reply.error, reply.log_start_offset) == (0, 5)
    assert [replicated.replica(one).log.durable_log_start_offset for one in replicated.live] == [5, 5, 5]


def test_a_follower_that_is_away_keeps_no_deletion_waiting_and_cannot_bring_records_back():
    replicated = Replicated().produce(8)
    away = replicated.followers()[0]
    replicated.crash(away)
    entry = m.DeleteRecordsEntry(topic_id=replicated.topic.topic_id, partition=0, before_offset=5)
    endpoint = replicated.cluster.client_endpoint(replicated.leader)

    (reply,) = replicated.cluster.ask(endpoint, m.DeleteRecordsRequest(entries=[entry])).entries

    assert (reply.error, reply.log_start_offset) == (0, 5)
    assert away not in replicated.partition.isr
    replicated.restart(away)
    replicated.until_in_sync()
    replica = replicated.replica(away)
    assert replica.log.durable_log_start_offset == 5


def test_what_only_a_deposed_leader_has_is_cut_from_it():
    """Written with acks=1, given to nobody: at the next leader there stands something else."""
    replicated = Replicated().produce(3)
    first = replicated.leader
    written_by_it_alone(replicated)
    assert replicated.contents(first)[-1] == (3, b"only here")
    replicated.crash(first)
    replicated.produce(3)
    replicated.restart(first)
    replicated.until_in_sync()

    replicated.check()
    assert b"only here" not in [value for _, value in replicated.contents(first)]


def written_by_it_alone(replicated):
    """Have the leader append a record that no follower copies: they do not ask just now."""
    leader = replicated.leader
    for follower in replicated.followers():
        replicated.replica(follower).part.end()
    replicated.cluster.loop.run_until_idle()
    reply = produce(replicated.cluster, replicated.topic, [b"only here"], acks=1, broker=leader)
    assert not reply.error


def test_a_log_that_is_gone_is_copied_anew():
    replicated = Replicated().produce(6)
    victim = replicated.followers()[0]
    replicated.crash(victim)
    disk = replicated.cluster.disks[f"broker-{victim}"]
    key = PartitionKey(replicated.topic.topic_id, 0)
    directory = next(path for path in (f"/data/broker-{victim}/{key}", f"/data/{key}") if disk.exists(path))
    disk.remove_tree(directory)

    replicated.restart(victim)
    replicated.until_in_sync()
    replicated.produce(2)

    replicated.check()


def test_after_a_full_restart_one_replica_alone_shows_what_was_committed_before():
    """Too few are in sync to commit anything new, but what was committed is read on."""
    it = Replicated(min_insync_replicas=2)
    it.produce(2)
    it.cluster.loop.advance(2 * CHECKPOINT_LOOKS * BrokerSettings().checkpoint_ms)  # they say what was committed
    for broker in BROKERS:
        it.cluster.crash(f"broker-{broker}")

    last = BROKERS[-1]  # of the in-sync set: the others had left it when it ended
    it.cluster.restart(f"broker-{last}")
    it.cluster.run_until(lambda: it.partition.leader == last)

    assert fetch(it.cluster, it.topic, 0, broker=last)[1] == list(it.acknowledged.values())
