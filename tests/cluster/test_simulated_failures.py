"""Unlucky moments on a virtual loop: actors, disks and the metadata process fail just when it hurts."""

import errno

import pytest

from callboard.actors.controller.controller import AdminCommand
from callboard.actors.lifecycle import Fail
from callboard.errors import ErrorCode
from callboard.storage.batch import decode_batch, encode_batch, iter_batches
from callboard.testing.context import sim_context
from callboard.testing.simulated import METADATA, SimulatedCluster
from callboard.testing.transport import LoopbackTransport
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=1).start()


class Client:
    """A connection that does not wait for its answers: they are in ``answers``, in the order in which they came."""

    def __init__(self, cluster, broker_id=1):
        self.answers = []
        self._cluster = cluster
        context = sim_context(0, "client", loop=cluster.loop)
        transport = LoopbackTransport(cluster.loop, context.clock, network=cluster.network)
        endpoint = cluster.client_endpoint(broker_id)
        self._connection = transport.connect(endpoint, client_id="client", on_state=lambda _: None)

    def send(self, request, payload=()):
        self._connection.request(request, lambda reply, frames: self.answers.append((reply, frames)), payload)
        self._cluster.loop.run_until_idle()


def a_produce(topic, values, *, number=0, acks=-1, sequence=-1):
    producer_id = 7 if sequence >= 0 else -1
    frames = encode_batch(
        [None] * len(values),
        values,
        1_000,
        producer_id=producer_id,
        producer_epoch=0 if sequence >= 0 else -1,
        base_sequence=sequence,
    )
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=number, frames=len(frames))
    return m.ProduceRequest(acks=acks, entries=[entry]), frames


def produce(cluster, topic, values, **how):
    return cluster.ask(cluster.client_endpoint(1), *a_produce(topic, values, **how)).entries[0]


def a_fetch(topic, offset=0, *, number=0, max_wait_ms=100):
    entry = m.FetchEntry(topic_id=topic.topic_id, partition=number, fetch_offset=offset)
    return m.FetchRequest(max_wait_ms=max_wait_ms, entries=[entry])


def fetched_values(cluster, topic, offset=0, *, number=0):
    answer = cluster.ask(cluster.client_endpoint(1), a_fetch(topic, offset, number=number))
    frames = answer[1] if isinstance(answer, tuple) else []
    data = b"".join(frames)
    return [value for _, at in iter_batches(data) for value in decode_batch(data, at).values]


def find(cluster, name):
    return cluster.processes["broker-1"].context.directory.find(f"broker-1/{name}")


def administer(cluster, request):
    return cluster.ask(cluster.client_endpoint(1), request)


def epoch_of(cluster, topic, number=0):
    return next(one for one in cluster.metadata().topics if one.name == topic.name).partitions[number].leader_epoch


# -- asking for a new epoch ------------------------------------------------------------------------------


def test_a_partition_that_restarted_while_there_was_no_controller_leads_once_there_is_one(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    cluster.crash(METADATA)
    cluster.loop.advance(3_000)

    find(cluster, "partitions/orders-0").post(Fail())
    cluster.loop.advance(3_000)
    cluster.restart(METADATA)
    cluster.loop.advance(10_000)

    assert epoch_of(cluster, topic) > topic.partitions[0].leader_epoch
    assert fetched_values(cluster, topic) == [b"a"]


def test_many_partitions_that_restart_together_ask_once_each(cluster):
    topic = cluster.create_topic("orders", 50)
    asked = []
    hosting = find(cluster, "hosting").actor
    ask = hosting._ask_controller
    hosting._ask_controller = lambda request: (asked.append(request.partition), ask(request))

    for number in range(50):
        find(cluster, f"partitions/orders-{number}").post(Fail())
    cluster.run_until(lambda: all(epoch_of(cluster, topic, number) > 0 for number in range(50)))

    assert len(asked) <= 2 * 50, "each once, and once more if its answer was slow"


# -- a door that was restarted ---------------------------------------------------------------------------


def test_an_answer_for_a_router_that_is_gone_reaches_no_request_of_its_successor(cluster):
    topic = cluster.create_topic("orders", 2)
    held = find(cluster, "partitions/orders-0").actor, find(cluster, "partitions/orders-1").actor
    for partition in held:
        partition._flush = lambda: None  # acknowledgements wait for the disk
    Client(cluster).send(*a_produce(topic, [b"first"], number=0))
    gone = find(cluster, "router")

    gone.post(Fail())
    cluster.run_until(lambda: find(cluster, "router") not in (None, gone))
    cluster.loop.advance(1_000)
    client = Client(cluster)
    client.send(*a_produce(topic, [b"second"], number=1))
    del held[0]._flush
    held[0]._flush()
    cluster.loop.advance(100)

    assert client.answers == [], "nothing of it is on disk yet"


def test_a_deleted_topic_is_described_no_more(cluster):
    topic = cluster.create_topic("orders", 2)
    administer(cluster, m.DeleteTopicsRequest(names=["orders"]))
    cluster.run_until(lambda: not has_log(cluster, topic, 0) and not has_log(cluster, topic, 1))
    cluster.loop.advance(100)

    assert administer(cluster, m.DescribeReplicasRequest()).replicas == []


# -- disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acks", [1, -1])
def test_a_full_disk_refuses_records_and_is_used_again_when_there_is_room(cluster, acks):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"], sequence=0)
    partition = find(cluster, "partitions/orders-0")
    cluster.disks["broker-1"].fail("append", errno.ENOSPC, path_contains=".log", times=100, written=30)

    refused = [produce(cluster, topic, [b"b"], acks=acks, sequence=1) for _ in range(10)]

    assert {entry.error for entry in refused} == {ErrorCode.STORAGE_FULL}
    assert "full" in refused[0].detail
    assert fetched_values(cluster, topic) == [b"a"], "what is there can be read"
    cluster.disks["broker-1"].heal()
    cluster.loop.advance(1_100)  # the broker looks how much room there is
    assert produce(cluster, topic, [b"b"], acks=acks, sequence=1).base_offset == 1
    cluster.loop.advance(100)
    assert fetched_values(cluster, topic) == [b"a", b"b"]
    assert find(cluster, "partitions/orders-0") is partition


def test_a_sync_that_failed_is_never_tried_again_and_nothing_it_covered_is_acknowledged(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    disk = cluster.disks["broker-1"]
    disk.fail("datasync", errno.EIO, path_contains=f"{topic.topic_id}-0")

    assert produce(cluster, topic, [b"b"]).error == ErrorCode.INTERNAL
    cluster.run_until(lambda: cluster.metadata().topics[0].partitions[0].leader == -1)

    assert produce(cluster, topic, [b"c"]).error == ErrorCode.LEADER_NOT_AVAILABLE
    cluster.loop.advance(60_000)
    assert cluster.metadata().topics[0].partitions[0].leader == -1


def test_a_damaged_segment_refuses_a_search_by_time_and_the_partition_goes_on(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    partition = find(cluster, "partitions/orders-0")
    cluster.disks["broker-1"].corrupt(f"/data/broker-1/{topic.topic_id}-0/{0:020}.log", 16, 0x40)
    entry = m.ListOffsetsEntry(topic_id=topic.topic_id, partition=0, timestamp_ms=1_000)

    replies = [administer(cluster, m.ListOffsetsRequest(entries=[entry])) for _ in range(3)]

    assert [reply.entries[0].error for reply in replies] == [ErrorCode.CORRUPT_RECORD] * 3
    assert find(cluster, "partitions/orders-0") is partition


# -- partitions that are restarted -----------------------------------------------------------------------


class HeldPool:
    """Keeps the jobs of the broker's pool until they are let go."""

    def __init__(self, cluster):
        self.jobs = []
        self._pool = cluster.processes["broker-1"].context.pool
        self._submit = self._pool.submit
        self._pool.submit = self._hold

    def _hold(self, job, on_done):
        if job.__qualname__.startswith("measuring"):  # how much room there is: no log's job
            self._submit(job, on_done)
        else:
            self.jobs.append((job, on_done))

    def let_go(self):
        self._pool.submit = self._submit
        for job, on_done in self.jobs:
            self._submit(job, on_done)


def test_a_partition_that_fails_while_it_recovers_is_not_recovered_twice_at_once(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    pool = HeldPool(cluster)

    for _ in range(2):
        find(cluster, "partitions/orders-0").post(Fail())
        cluster.loop.advance(1_000)

    assert len(pool.jobs) == 1, "the first recovery is still at the files"
    pool.let_go()
    cluster.run_until(lambda: epoch_of(cluster, topic) > 0)
    cluster.run_until(lambda: fetched_values(cluster, topic) == [b"a"])


def test_a_setting_that_was_altered_during_recovery_holds(cluster):
    topic = cluster.create_topic("orders")
    pool = HeldPool(cluster)
    find(cluster, "partitions/orders-0").post(Fail())
    cluster.loop.advance(100)

    change = m.TopicConfigChange(name="orders", set={"segment_bytes": 1_024})
    cluster.processes["broker-1"].context.pool.submit = pool._submit
    administer(cluster, m.AlterTopicsRequest(topics=[change]))
    cluster.loop.advance(100)
    pool.let_go()
    cluster.run_until(lambda: produce(cluster, topic, [b"x" * 800]).error == 0)
    for _ in range(3):
        produce(cluster, topic, [b"x" * 800])

    assert administer(cluster, m.DescribeReplicasRequest()).replicas[0].segments == 4


def test_an_offline_partition_is_not_given_to_this_broker_again_by_its_next_session(cluster):
    topic = cluster.create_topic("orders")
    for _ in range(8):
        partition = find(cluster, "partitions/orders-0")
        if partition is not None:
            partition.kill(RuntimeError("its disk is haunted"))
        cluster.loop.advance(2_000)
    cluster.run_until(lambda: cluster.metadata().topics[0].partitions[0].leader == -1)

    end = m.EndSessionRequest(name="broker-1", reason="silent for too long")
    cluster.ask("ipc:///sim/metadata.sock", end)
    cluster.loop.advance(10_000)

    assert cluster.metadata().topics[0].partitions[0].leader == -1
    assert epoch_of(cluster, topic) > 0


# -- topics that are deleted -----------------------------------------------------------------------------


def has_log(cluster, topic, number=0):
    return cluster.disks["broker-1"].exists(f"/data/broker-1/{topic.topic_id}-{number}")


def test_a_partition_that_fails_while_its_log_is_removed_makes_room_for_a_namesake(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    pool = HeldPool(cluster)
    administer(cluster, m.DeleteTopicsRequest(names=["orders"]))
    cluster.run_until(lambda: pool.jobs)

    find(cluster, "partitions/orders-0").post(Fail())
    cluster.loop.advance(1_000)
    pool.let_go()
    cluster.loop.advance(1_000)
    again = cluster.create_topic("orders")

    cluster.run_until(lambda: produce(cluster, again, [b"new"]).error == 0)
    assert not has_log(cluster, topic)


def test_a_topic_that_is_deleted_while_its_partition_waits_for_a_restart_leaves_nothing(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    for _ in range(4):  # the pause before the restart grows
        cluster.run_until(lambda: find(cluster, "partitions/orders-0"))
        find(cluster, "partitions/orders-0").kill(RuntimeError("its disk is haunted"))

    administer(cluster, m.DeleteTopicsRequest(names=["orders"]))
    cluster.loop.advance(10_000)

    assert not has_log(cluster, topic)
    assert find(cluster, "partitions/orders-0") is None


def test_a_topic_that_is_deleted_while_hosting_restarts_leaves_nothing(cluster):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    controller = find(cluster, "controller")
    for _ in range(3):
        cluster.run_until(lambda: find(cluster, "hosting"))
        find(cluster, "hosting").post(Fail())
        cluster.loop.run_until_idle()

    replies = []
    controller.post(AdminCommand(m.DeleteTopicsRequest(names=["orders"]), replies.append))
    cluster.run_until(lambda: replies)
    assert find(cluster, "hosting") is None, "it waits for its restart"
    cluster.loop.advance(10_000)

    assert find(cluster, "partitions/orders-0") is None
    assert not has_log(cluster, topic)
    assert cluster.create_topic("orders").topic_id != topic.topic_id
