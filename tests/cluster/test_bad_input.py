"""What a replicated cluster refuses: each its own error, retriable or not as Kafka has it, and nothing else happens.

The advice and meaning of each stand in docs/errors.md, which ``tests/test_house.py`` compares with the code. Joining
with a wrong cluster id or version: ``tests/cli/test_join.py``.
"""

import pytest

from callboard.errors import ErrorCode, error_for_code
from callboard.storage.batch import encode_batch
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m

from .sim import fetch, partition_of

IS_RETRIABLE = {  # as in Kafka's table of errors
    ErrorCode.INVALID_REPLICATION_FACTOR: False,
    ErrorCode.INVALID_CONFIGURATION: False,
    ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE: True,
    ErrorCode.NOT_ENOUGH_REPLICAS: True,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: True,
    ErrorCode.FENCED_LEADER_EPOCH: True,
    ErrorCode.UNKNOWN_LEADER_EPOCH: True,
    ErrorCode.UNKNOWN_PRODUCER_ID: False,
    ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER: False,
    ErrorCode.INVALID_PRODUCER_EPOCH: False,
    ErrorCode.INCONSISTENT_CLUSTER_ID: False,
    ErrorCode.UNSUPPORTED_VERSION: False,
}
MAY_HAVE_HAPPENED = {ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND}


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=3).start()


@pytest.fixture
def topic(cluster):
    return cluster.create_topic("orders", replication_factor=3)  # min_insync_replicas 2


def administer(cluster, request):
    cluster.run_until(lambda: cluster.metadata().controller_id >= 0)
    return cluster.ask(cluster.client_endpoint(cluster.metadata().controller_id), request)


def refusal(reply, code, *words):
    """Whether a reply is this refusal, and says so in words that help."""
    error = error_for_code(reply.error, reply.detail)
    assert error.errno == code
    assert all(word in str(error) for word in words), str(error)
    assert error.advice in str(error)
    return True


def produce(cluster, topic, *, epoch=-1, producer=(-1, -1, -1), acks=-1):
    """One record to the leader; the entry of the reply."""
    broker = partition_of(cluster, topic).leader
    producer_id, producer_epoch, sequence = producer
    frames = encode_batch(
        [None], [b"x"], 1_000, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=sequence
    )
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=0, leader_epoch=epoch, frames=len(frames))
    request = m.ProduceRequest(acks=acks, timeout_ms=10_000, entries=[entry])
    return cluster.ask(cluster.client_endpoint(broker), request, frames).entries[0]


def log_end(cluster, topic):
    leader = cluster.processes[f"broker-{partition_of(cluster, topic).leader}"]
    replica = leader.context.directory.find(f"{leader.options.name}/partitions/orders-0").actor
    return replica.log.log_end_offset


def kill_followers(cluster, topic):
    """Both followers die; the leader is left alone in the in-sync set."""
    leader = partition_of(cluster, topic).leader
    for broker_id in {1, 2, 3} - {leader}:
        cluster.crash(f"broker-{broker_id}")
    cluster.run_until(lambda: cluster.metadata(leader).controller_id == leader)
    return leader


@pytest.mark.parametrize(("code", "is_retriable"), IS_RETRIABLE.items())
def test_an_error_is_retriable_as_in_kafka_and_says_whether_it_may_have_happened(code, is_retriable):
    error = error_for_code(code, "")

    assert (error.retriable, error.outcome_unknown) == (is_retriable, code in MAY_HAVE_HAPPENED)


def test_a_replication_factor_above_the_number_of_brokers(cluster):
    wish = m.NewTopic(name="orders", replication_factor=4)

    (result,) = administer(cluster, m.CreateTopicsRequest(topics=[wish])).topics

    assert refusal(result, ErrorCode.INVALID_REPLICATION_FACTOR, "4", "3")
    assert cluster.metadata().topics == []


def test_a_minimum_above_the_replication_factor_at_creation(cluster):
    wish = m.NewTopic(name="orders", replication_factor=2, configs={"min_insync_replicas": 3})

    (result,) = administer(cluster, m.CreateTopicsRequest(topics=[wish])).topics

    assert refusal(result, ErrorCode.INVALID_CONFIGURATION, "min_insync_replicas 3", "replication factor 2")
    assert cluster.metadata().topics == []


def test_a_minimum_above_the_replication_factor_afterwards(cluster, topic):
    change = m.TopicConfigChange(name="orders", set={"min_insync_replicas": 4})

    (result,) = administer(cluster, m.AlterTopicsRequest(topics=[change])).topics

    assert refusal(result, ErrorCode.INVALID_CONFIGURATION, "min_insync_replicas 4", "replication factor 3")
    assert produce(cluster, topic).error == 0


@pytest.mark.parametrize("election", ["preferred", "unclean"])
def test_an_election_where_no_replica_is_eligible(cluster, election):
    topic = cluster.create_topic("orders", replication_factor=1)
    victim = partition_of(cluster, topic).leader
    asked = next(one for one in (1, 2, 3) if one != victim)
    cluster.crash(f"broker-{victim}")
    cluster.run_until(lambda: cluster.metadata(asked).controller_id not in (-1, victim))
    cluster.run_until(lambda: cluster.metadata(asked).topics[0].partitions[0].leader == -1)
    request = m.ElectLeadersRequest(election=election, partitions=[m.ElectLeadersEntry(topic="orders", partition=0)])

    controller = cluster.client_endpoint(cluster.metadata(asked).controller_id)
    (entry,) = cluster.ask(controller, request).entries

    assert refusal(entry, ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, "broker", f"{victim}")
    assert cluster.metadata(asked).topics[0].partitions[0].leader == -1


def test_too_few_in_sync_before_the_append(cluster, topic):
    leader = kill_followers(cluster, topic)
    cluster.run_until(lambda: cluster.metadata(leader).topics[0].partitions[0].isr == [leader])
    cluster.loop.advance(500)
    before = log_end(cluster, topic)

    entry = produce(cluster, topic)

    assert refusal(entry, ErrorCode.NOT_ENOUGH_REPLICAS, "1 in sync", "min_insync_replicas is 2")
    assert log_end(cluster, topic) == before
    assert fetch(cluster, topic, broker=leader)[1] == []


def test_too_few_in_sync_after_the_append(cluster, topic):
    leader = partition_of(cluster, topic).leader
    before = log_end(cluster, topic)
    for broker_id in {1, 2, 3} - {leader}:  # they hear nothing of the record, and their sessions will end
        cluster.processes[f"broker-{broker_id}"].loop.pause()

    entry = produce(cluster, topic)

    assert refusal(entry, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, "1 in sync", "min_insync_replicas is 2")
    assert log_end(cluster, topic) == before + 1


def test_a_stale_and_a_future_leader_epoch(cluster, topic):
    epoch = partition_of(cluster, topic).leader_epoch
    leader = partition_of(cluster, topic).leader
    cluster.crash(f"broker-{leader}")
    cluster.restart(f"broker-{leader}")
    cluster.run_until(lambda: partition_of(cluster, topic).leader_epoch > epoch)
    cluster.run_until(lambda: partition_of(cluster, topic).leader >= 0)
    cluster.loop.advance(500)
    now = partition_of(cluster, topic).leader_epoch
    before = log_end(cluster, topic)

    assert refusal(produce(cluster, topic, epoch=epoch), ErrorCode.FENCED_LEADER_EPOCH, f"{epoch}", f"{now}")
    assert refusal(produce(cluster, topic, epoch=now + 1), ErrorCode.UNKNOWN_LEADER_EPOCH, f"{now + 1}", f"{now}")
    assert log_end(cluster, topic) == before


def test_an_unknown_producer_and_a_sequence_out_of_order(cluster, topic):  # B16: a past that is forgotten is not new
    assert refusal(produce(cluster, topic, producer=(7, 0, 3)), ErrorCode.UNKNOWN_PRODUCER_ID, "producer 7", "3")
    assert produce(cluster, topic, producer=(7, 0, 0)).error == 0

    assert refusal(produce(cluster, topic, producer=(7, 0, 2)), ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "2")
    assert produce(cluster, topic, producer=(7, 1, 0)).error == 0
    late = produce(cluster, topic, producer=(7, 0, 1))  # B17: of an earlier session of the producer

    assert refusal(late, ErrorCode.INVALID_PRODUCER_EPOCH, "producer 7", "epoch 1")
    assert log_end(cluster, topic) == 2
