"""The whole tree on a virtual loop: records survive crashes, failures stay where they are, orders are carried out."""

import google_crc32c
import pytest
from pykka import ActorDeadError

from callboard.actors.broker import Broker
from callboard.actors.controller.controller import Controller
from callboard.actors.lifecycle import Fail
from callboard.actors.metadata.client import MetadataClient
from callboard.actors.partition.replica import Replica
from callboard.actors.router import Router
from callboard.config import BrokerSettings, ClusterConfig
from callboard.errors import ErrorCode
from callboard.storage.batch import decode_batch, encode_batch, iter_batches
from callboard.testing.simulated import METADATA, SimulatedCluster
from callboard.transport import messages as m


@pytest.fixture
def cluster():
    return SimulatedCluster(brokers=2).start()


def lead(topic, number=0):
    return topic.partitions[number]


def produce(cluster, topic, values, *, number=0, acks=-1, producer=(-1, -1, -1), epoch=None):
    """Produce one batch at the partition's leader; return the entry of the reply."""
    partition = lead(topic, number)
    producer_id, producer_epoch, sequence = producer
    frames = encode_batch(
        [None] * len(values),
        values,
        1_000,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=sequence,
    )
    entry = m.ProduceEntry(
        topic_id=topic.topic_id,
        partition=number,
        leader_epoch=partition.leader_epoch if epoch is None else epoch,
        frames=len(frames),
    )
    request = m.ProduceRequest(acks=acks, entries=[entry])
    return cluster.ask(cluster.client_endpoint(partition.leader), request, frames).entries[0]


def fetch(cluster, topic, offset=0, *, number=0, max_wait_ms=100):
    partition = lead(topic, number)
    entry = m.FetchEntry(
        topic_id=topic.topic_id, partition=number, leader_epoch=partition.leader_epoch, fetch_offset=offset
    )
    answer = cluster.ask(
        cluster.client_endpoint(partition.leader), m.FetchRequest(max_wait_ms=max_wait_ms, entries=[entry])
    )
    return answer if isinstance(answer, tuple) else (answer, [])


def values_of(frames):
    data = b"".join(frames)
    return [value for _, at in iter_batches(data) for value in decode_batch(data, at).values]


def replica(cluster, topic, number=0):
    broker = f"broker-{lead(topic, number).leader}"
    return cluster.processes[broker].context.directory.find(f"{broker}/partitions/{topic.name}-{number}")


# -- records -----------------------------------------------------------------------------------------


def test_what_is_produced_is_read_back(cluster):
    topic = cluster.create_topic("orders", 2)

    assert produce(cluster, topic, [b"a", b"b"]).base_offset == 0
    assert produce(cluster, topic, [b"c"]).base_offset == 2
    assert produce(cluster, topic, [b"other"], number=1).base_offset == 0

    reply, frames = fetch(cluster, topic)
    assert values_of(frames) == [b"a", b"b", b"c"]
    assert reply.entries[0].high_watermark == 3


def test_what_was_acknowledged_survives_the_crash_of_its_broker(cluster):
    topic = cluster.create_topic("orders")
    for number in range(10):
        produce(cluster, topic, [b"%d" % number])
    name = f"broker-{lead(topic).leader}"

    cluster.crash(name)
    cluster.restart(name)
    again = cluster.wait_for_leaders("orders")

    assert lead(again).leader_epoch > lead(topic).leader_epoch
    assert values_of(fetch(cluster, again)[1]) == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("seed", range(10))
def test_what_was_acknowledged_with_acks_all_survives_power_loss(seed):
    cluster = SimulatedCluster(brokers=1, seed=seed).start()
    topic = cluster.create_topic("orders")
    acknowledged = [b"%d" % number for number in range(12)]
    for value in acknowledged:
        produce(cluster, topic, [value])
    produce(cluster, topic, [b"not promised"], acks=1)

    cluster.crash("broker-1", power_loss=True)
    cluster.crash(METADATA, power_loss=False)
    cluster.start()
    again = cluster.wait_for_leaders("orders")

    kept = values_of(fetch(cluster, again)[1])
    assert kept[:12] == acknowledged
    assert kept[12:] in ([], [b"not promised"])
    assert produce(cluster, again, [b"next"]).base_offset == len(kept)


def test_a_retry_after_a_crash_is_answered_with_the_first_offset(cluster):
    topic = cluster.create_topic("orders")
    first = produce(cluster, topic, [b"once"], producer=(7, 0, 0))
    name = f"broker-{lead(topic).leader}"
    cluster.crash(name)
    cluster.restart(name)
    again = cluster.wait_for_leaders("orders")

    second = produce(cluster, again, [b"once"], producer=(7, 0, 0))

    assert (second.error, second.base_offset) == (0, first.base_offset)
    assert values_of(fetch(cluster, again)[1]) == [b"once"]


def test_the_crash_of_everything_keeps_everything(cluster):
    topic = cluster.create_topic("orders", 2)
    produce(cluster, topic, [b"kept"])
    for name in ("broker-1", "broker-2", METADATA):
        cluster.crash(name)
    cluster.start()

    again = cluster.wait_for_leaders("orders")

    assert again.topic_id == topic.topic_id
    assert values_of(fetch(cluster, again)[1]) == [b"kept"]


def test_brokers_serve_on_while_the_metadata_process_is_away(cluster):
    topic = cluster.create_topic("orders")
    cluster.crash(METADATA)
    cluster.loop.advance(5_000)

    assert produce(cluster, topic, [b"a"]).error == 0
    cluster.restart(METADATA)
    cluster.loop.advance(5_000)
    assert lead(cluster.wait_for_leaders("orders")).leader_epoch == lead(topic).leader_epoch, "nobody was deposed"


# -- refusals ----------------------------------------------------------------------------------------


def test_a_stale_epoch_is_refused(cluster):
    topic = cluster.create_topic("orders")

    assert produce(cluster, topic, [b"a"], epoch=99).error == ErrorCode.UNKNOWN_LEADER_EPOCH


def test_the_wrong_broker_says_who_leads(cluster):
    topic = cluster.create_topic("orders", 2)
    leader = lead(topic).leader
    entry = m.FetchEntry(topic_id=topic.topic_id, partition=0, fetch_offset=0)

    reply = cluster.ask(cluster.client_endpoint(3 - leader), m.FetchRequest(entries=[entry]))

    assert reply.entries[0].error == ErrorCode.NOT_LEADER_FOR_PARTITION
    assert reply.entries[0].leader == leader


def test_an_unknown_topic_id_and_an_unknown_partition_are_told_apart(cluster):
    topic = cluster.create_topic("orders")
    entries = [
        m.FetchEntry(topic_id="f" * 32, partition=0, fetch_offset=0),
        m.FetchEntry(topic_id=topic.topic_id, partition=9, fetch_offset=0),
    ]

    reply = cluster.ask(cluster.client_endpoint(1), m.FetchRequest(entries=entries))

    assert [entry.error for entry in reply.entries] == [
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]


@pytest.mark.parametrize(
    ("request_", "payload", "code"),
    [
        (m.ProduceRequest(acks=7), [], ErrorCode.INVALID_REQUIRED_ACKS),
        (m.ProduceRequest(), [], ErrorCode.INVALID_REQUEST),
        (m.ProduceRequest(entries=[m.ProduceEntry(topic_id="a", partition=0)]), [b"x"], ErrorCode.INVALID_REQUEST),
        (m.FetchRequest(), [], ErrorCode.INVALID_REQUEST),
        (
            m.FetchRequest(replica_id=2, entries=[m.FetchEntry(topic_id="a", partition=0, fetch_offset=0)]),
            [],
            ErrorCode.INVALID_REQUEST,
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_the_door(cluster, request_, payload, code):
    assert cluster.ask(cluster.client_endpoint(1), request_, payload).error == code


def test_a_damaged_batch_is_refused_and_the_partition_goes_on(cluster):
    topic = cluster.create_topic("orders")
    frames = encode_batch([None], [b"value"], 1_000)
    damaged = [frames[0], *[bytes(len(frame)) for frame in frames[1:]]]
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=0, frames=len(frames))

    reply = cluster.ask(cluster.client_endpoint(lead(topic).leader), m.ProduceRequest(entries=[entry]), damaged)

    assert reply.entries[0].error == ErrorCode.CORRUPT_RECORD
    assert produce(cluster, topic, [b"a"]).base_offset == 0


def test_a_fetch_at_the_end_waits_and_is_answered_empty(cluster):
    topic = cluster.create_topic("orders")
    before_us = cluster.loop.now_us

    reply, frames = fetch(cluster, topic, max_wait_ms=300)

    assert (reply.entries, frames) == ([], [])
    assert cluster.loop.now_us - before_us >= 300_000


# -- failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_failed_partition_comes_back_under_a_new_epoch_and_its_siblings_do_not_notice(cluster, how):
    topic = cluster.create_topic("orders", 4)
    sibling = next(n for n in range(1, 4) if lead(topic, n).leader == lead(topic).leader)
    produce(cluster, topic, [b"a"])
    untouched = replica(cluster, topic, sibling)

    replica(cluster, topic).post(Fail(how))
    cluster.run_until(lambda: lead(cluster.wait_for_leaders("orders")).leader_epoch > lead(topic).leader_epoch)
    again = cluster.wait_for_leaders("orders")

    assert values_of(fetch(cluster, again)[1]) == [b"a"]
    assert produce(cluster, again, [b"b"]).base_offset == 1
    assert replica(cluster, again, sibling) is untouched
    assert lead(again, sibling).leader_epoch == lead(topic, sibling).leader_epoch


def test_what_waits_for_a_failed_partition_is_answered_with_outcome_unknown(cluster):
    topic = cluster.create_topic("orders")
    failing = replica(cluster, topic)
    failing.actor._flush = lambda: failing.post(Fail("raise"))  # fails between the write and the acknowledgement

    entry = produce(cluster, topic, [b"a"], producer=(7, 0, 0))

    assert entry.error == ErrorCode.INTERNAL
    cluster.run_until(lambda: lead(cluster.wait_for_leaders("orders")).leader_epoch > lead(topic).leader_epoch)
    again = cluster.wait_for_leaders("orders")
    assert produce(cluster, again, [b"a"], producer=(7, 0, 0)).base_offset == 0, "the retry finds it there"


def test_a_partition_past_its_limit_is_offline_and_the_broker_lives(cluster):
    topic = cluster.create_topic("orders", 2)
    address = replica(cluster, topic).address
    process = cluster.processes[f"broker-{lead(topic).leader}"]

    def fail():
        ref = process.context.directory.find(address)
        if ref is not None:
            ref.kill(RuntimeError("its disk is haunted"))

    for _ in range(8):
        fail()
        cluster.loop.advance(2_000)

    cluster.run_until(lambda: lead(cluster.metadata(2).topics[0]).leader == -1)
    assert process.is_alive
    assert produce(cluster, topic, [b"a"], number=1).error == 0


@pytest.mark.parametrize(
    "name", ["metadata", "controller", "hosting", "peers", "router", "partitions", "coordinators", "groups"]
)
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_every_actor_of_a_broker_can_fail_and_the_broker_serves_again(cluster, name, how):
    topic = cluster.create_topic("orders", 2)
    produce(cluster, topic, [b"a"])
    broker = f"broker-{lead(topic).leader}"
    process = cluster.processes[broker]
    failing = process.context.directory.find(f"{broker}/{name}")

    failing.post(Fail(how))
    cluster.run_until(lambda: not failing.is_alive())
    cluster.loop.advance(3_000)

    assert process.is_alive
    assert all(process.context.directory.find(f"{broker}/{child}") for child in ("metadata", "hosting", "router"))
    again = cluster.wait_for_leaders("orders")
    assert values_of(fetch(cluster, again)[1]) == [b"a"]
    assert produce(cluster, again, [b"b"]).base_offset == 1


def test_the_failure_of_hosting_disturbs_no_partition(cluster):
    topic = cluster.create_topic("orders")
    broker = f"broker-{lead(topic).leader}"
    undisturbed = replica(cluster, topic)

    cluster.processes[broker].context.directory.find(f"{broker}/hosting").post(Fail())
    cluster.loop.advance(1_000)

    assert replica(cluster, topic) is undisturbed
    assert produce(cluster, topic, [b"a"]).error == 0


def test_the_failure_of_the_metadata_server_is_survived(cluster):
    topic = cluster.create_topic("orders")
    directory = cluster.processes[METADATA].context.directory

    directory.find(f"{METADATA}/server").post(Fail("exit"))
    cluster.loop.advance(3_000)

    assert directory.find(f"{METADATA}/server") is not None
    assert produce(cluster, topic, [b"a"]).error == 0
    assert cluster.create_topic("more").partitions[0].leader > 0


# -- orders ------------------------------------------------------------------------------------------


def administer(cluster, request):
    controller = cluster.metadata().controller_id
    return cluster.ask(cluster.client_endpoint(controller), request)


def test_a_deleted_topic_loses_its_logs_and_a_namesake_begins_at_zero(cluster):
    topic = cluster.create_topic("orders", 2)
    produce(cluster, topic, [b"a"])
    broker = f"broker-{lead(topic).leader}"
    directory = f"/data/{broker}/{topic.topic_id}-0"
    assert cluster.disks[broker].exists(directory)

    administer(cluster, m.DeleteTopicsRequest(names=["orders"]))
    cluster.run_until(lambda: not cluster.disks[broker].exists(directory))
    again = cluster.create_topic("orders", 2)

    assert again.topic_id != topic.topic_id
    assert fetch(cluster, again)[1] == []
    assert produce(cluster, again, [b"new"]).base_offset == 0


def test_a_topic_deleted_while_its_broker_was_away_loses_its_logs_at_the_next_start(cluster):
    topic = cluster.create_topic("orders", 2)
    broker = f"broker-{3 - cluster.metadata().controller_id}"
    number = next(p.partition for p in topic.partitions if f"broker-{p.leader}" == broker)
    directory = f"/data/{broker}/{topic.topic_id}-{number}"
    other = 3 - int(broker[-1])
    cluster.crash(broker)
    cluster.ask(cluster.client_endpoint(other), m.DeleteTopicsRequest(names=["orders"]))

    cluster.restart(broker)
    cluster.run_until(lambda: not cluster.disks[broker].exists(directory))

    assert not cluster.disks[broker].exists(f"{directory}.stray")


def test_a_log_that_the_metadata_do_not_know_is_set_aside_not_deleted(cluster):
    stray = f"/data/broker-1/{'e' * 32}-0"
    cluster.crash("broker-1")
    cluster.disks["broker-1"].make_dir(stray)

    cluster.restart("broker-1")
    cluster.run_until(lambda: cluster.disks["broker-1"].exists(f"{stray}.stray"))

    assert not cluster.disks["broker-1"].exists(stray)


def test_added_partitions_are_served_and_what_was_there_stays(cluster):
    topic = cluster.create_topic("orders", 1)
    produce(cluster, topic, [b"a"])

    administer(cluster, m.CreatePartitionsRequest(topics=[m.NewPartitions(name="orders", count=3)]))
    cluster.run_until(lambda: len(cluster.wait_for_leaders("orders").partitions) == 3)
    again = cluster.wait_for_leaders("orders")

    assert values_of(fetch(cluster, again)[1]) == [b"a"]
    assert produce(cluster, again, [b"b"], number=2).base_offset == 0


def test_an_altered_setting_holds_for_the_next_request(cluster):
    topic = cluster.create_topic("orders")
    assert produce(cluster, topic, [b"x" * 500]).error == 0

    change = m.TopicConfigChange(name="orders", set={"max_message_bytes": 200})
    administer(cluster, m.AlterTopicsRequest(topics=[change]))
    cluster.loop.advance(100)

    assert produce(cluster, topic, [b"x" * 500]).error == ErrorCode.MESSAGE_SIZE_TOO_LARGE


def test_two_runs_of_one_seed_take_the_same_steps():
    def run():
        cluster = SimulatedCluster(brokers=2, seed=3).start()
        topic = cluster.create_topic("orders", 3)
        produce(cluster, topic, [b"a"])
        cluster.crash("broker-1")
        cluster.restart("broker-1")
        cluster.wait_for_leaders("orders")
        return cluster.loop.steps, cluster.loop.now_us, topic.topic_id

    assert run() == run()


@pytest.mark.parametrize("asked", ["the controller", "another broker"])
def test_a_topic_is_made_by_asking_for_it_where_that_is_allowed(asked):
    config = ClusterConfig(brokers=2, data_dir="/data", broker=BrokerSettings(auto_create_topics=True))
    cluster = SimulatedCluster(config=config).start()
    cluster.run_until(lambda: cluster.metadata().controller_id >= 0)
    controller = cluster.metadata().controller_id
    broker = controller if asked == "the controller" else 3 - controller

    request = m.MetadataRequest(topics=["orders"], allow_auto_create=True)
    assert cluster.ask(cluster.client_endpoint(broker), request).topics[0].error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    assert cluster.wait_for_leaders("orders").partitions[0].leader > 0


def test_a_paused_broker_comes_back_as_somebody_new(cluster):
    topic = cluster.create_topic("orders")
    name = f"broker-{lead(topic).leader}"
    produce(cluster, topic, [b"a"])

    cluster.ask("ipc:///sim/metadata.sock", m.EndSessionRequest(name=name, reason="silent for too long"))
    cluster.run_until(lambda: lead(cluster.wait_for_leaders("orders")).leader_epoch > lead(topic).leader_epoch)
    again = cluster.wait_for_leaders("orders")

    assert produce(cluster, topic, [b"late"]).error == ErrorCode.FENCED_LEADER_EPOCH, "sent in the old epoch"
    assert produce(cluster, again, [b"b"]).base_offset == 1


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [(16, 2, ErrorCode.UNSUPPORTED_VERSION), (22, 7, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)],
)
def test_a_batch_of_an_unknown_layout_or_codec_is_refused_by_name(cluster, at, value, code):
    topic = cluster.create_topic("orders")
    whole = bytearray(b"".join(encode_batch([None], [b"value"], 1_000)))
    whole[at] = value
    whole[17:21] = google_crc32c.value(bytes(whole[21:])).to_bytes(4, "big")
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=0, frames=2)
    before = replica(cluster, topic)

    reply = cluster.ask(
        cluster.client_endpoint(lead(topic).leader),
        m.ProduceRequest(entries=[entry]),
        [bytes(whole[:21]), bytes(whole[21:])],
    )

    assert reply.entries[0].error == code
    assert replica(cluster, topic) is before, "and nobody failed of it"


def test_the_tree_says_who_is_connected(cluster):
    reply = cluster.ask(cluster.client_endpoint(1), m.DescribeTreeRequest())

    (router,) = [child for child in reply.tree.children if child.address == "broker-1/router"]
    assert router.role.startswith("for test")


KINDS = {
    "metadata": MetadataClient,
    "controller": Controller,
    "hosting": Broker,
    "peers": Router,
    "router": Router,
    "partitions/orders-0": Replica,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("error", [RuntimeError("at start"), SystemExit(3)])
def test_every_actor_that_fails_at_its_start_is_started_again(cluster, monkeypatch, name, error):
    topic = cluster.create_topic("orders")
    produce(cluster, topic, [b"a"])
    broker = f"broker-{lead(topic).leader}"
    sound, failures = KINDS[name].on_start, [error]

    def fails_once(actor):
        if failures and actor.address == f"{broker}/{name}":
            raise failures.pop()
        sound(actor)

    monkeypatch.setattr(KINDS[name], "on_start", fails_once)
    cluster.crash(broker)
    process = cluster.restart(broker)
    cluster.run_until(lambda: not failures)

    cluster.run_until(lambda: values_of(fetch(cluster, cluster.wait_for_leaders("orders"))[1]) == [b"a"])

    assert process.is_alive


@pytest.mark.parametrize("name", KINDS)
def test_every_actor_that_fails_while_it_is_asked_answers_and_is_restarted(cluster, name):
    topic = cluster.create_topic("orders")
    broker = f"broker-{lead(topic).leader}"
    directory = cluster.processes[broker].context.directory
    asked = directory.find(f"{broker}/{name}")

    answer = asked.ask(Fail("exit"))
    cluster.run_until(lambda: not asked.is_alive())
    cluster.loop.advance(3_000)

    with pytest.raises(ActorDeadError):
        answer.get(timeout=0)
    assert directory.find(f"{broker}/{name}") not in (None, asked)
    assert produce(cluster, cluster.wait_for_leaders("orders"), [b"a"]).error == 0


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"replication_factor": 9}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"assignments": {0: [1, 9]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_more_replicas_than_there_are_brokers_are_refused(cluster, wish, error):
    cluster.run_until(lambda: cluster.metadata().controller_id >= 0)

    reply = administer(cluster, m.CreateTopicsRequest(topics=[m.NewTopic(name="orders", **wish)]))

    assert reply.topics[0].error == error
