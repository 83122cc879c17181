"""Settings, serializers and partitioners: what is taken, and what is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import (
    ConfigurationError,
    Crc32Partitioner,
    JsonSerializer,
    Murmur2Partitioner,
    RoundRobinPartitioner,
    SerializationError,
    StringSerializer,
)
from callboard.client.config import AdminConfig, ConsumerConfig, ProducerConfig, from_keywords
from callboard.client.partitioners import ClusterView, make_partitioner, murmur2
from callboard.client.serializers import decoder, encoder


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (ProducerConfig, {"bootstrap_server": "x"}, "no setting 'bootstrap_server'; did you mean 'bootstrap_servers'"),
        (ProducerConfig, {"acks": "al"}, r"acks: expected one of 0, 1, -1, all \(given: 'al'\); did you mean 'all'"),
        (ProducerConfig, {"compression_type": "zsdt"}, "expected one of none, gzip, snappy, lz4, zstd .*mean 'zstd'"),
        (ProducerConfig, {"batch_size": -1}, "batch_size"),
        (ProducerConfig, {"linger_ms": 1.5}, "linger_ms: expected int, got float"),
        (ProducerConfig, {"max_in_flight_requests_per_connection": 6}, "above 5 needs enable_idempotence=False"),
        (ProducerConfig, {"acks": 0, "enable_idempotence": True}, "enable_idempotence"),
        (ProducerConfig, {"batch_size": 2_000, "buffer_memory": 1_024}, "batch_size"),
        (ConsumerConfig, {"auto_offset_reset": "first"}, "expected one of latest, earliest, none"),
        (ConsumerConfig, {"group_id": ""}, "group_id: 1 to 249 characters"),
        (ConsumerConfig, {"group_id": "g\udc80"}, "group_id: 'g.udc80' is no text"),
        (ConsumerConfig, {"group_instance_id": "i"}, "group_instance_id needs a group_id"),
        (
            ConsumerConfig,
            {"group_id": "g", "partition_assignment_strategy": "rang"},
            "use range, round_robin, sticky.*'range'",
        ),
        (ConsumerConfig, {"partition_assignment_strategy": ["sticky", "rang"]}, "given: 'rang'"),
        (ConsumerConfig, {"partition_assignment_strategy": []}, "given: none"),
        (ConsumerConfig, {"partition_assignment_strategy": 5}, "given: '5'"),
        (ConsumerConfig, {"partition_assignment_strategy": (object,)}, "given: .*object"),
        (ConsumerConfig, {"group_id": "g", "session_timeout_ms": 1_500}, "at most half of session_timeout_ms"),
        (ConsumerConfig, {"group_id": "g", "max_poll_interval_ms": 1_999}, "at most half of max_poll_interval_ms"),
        (ConsumerConfig, {"max_poll_record": 5}, "did you mean 'max_poll_records'"),
        (AdminConfig, {"request_timeout_ms": 0}, "request_timeout_ms"),
    ],
)
def test_bad_settings_are_refused_in_one_line(kind, settings, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        from_keywords(kind, settings, "client")
    assert "\n" not in str(caught.value)


def test_settings_have_kafka_pythons_names_and_meanings():
    config = from_keywords(ProducerConfig, {"acks": -1, "retries": 3, "compression_type": "lz4"}, "producer")

    assert (config.acks_code, config.retries_max, config.compression, config.is_idempotent) == (-1, 3, "lz4", True)
    assert from_keywords(ProducerConfig, {"acks": "all", "retries": float("inf")}, "p").retries_max == float("inf")
    assert not from_keywords(ProducerConfig, {"acks": 0}, "p").is_idempotent


class RoundRobinPartitionAssignor:
    """As kafka-python's: a class, or an instance of it, whose name is Kafka's."""

    name = "roundrobin"


class HomeMadeAssignor:
    name = "home-made"


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("roundrobin", ("round_robin",)),
        ("cooperative-sticky", ("sticky",)),
        (RoundRobinPartitionAssignor, ("round_robin",)),
        (RoundRobinPartitionAssignor(), ("round_robin",)),
        ((HomeMadeAssignor, RoundRobinPartitionAssignor, "sticky"), ("round_robin", "sticky")),
        (["round_robin", RoundRobinPartitionAssignor], ("round_robin",)),
    ],
)
def test_an_assignor_may_be_called_as_in_kafka_and_given_as_to_kafka_python(given, means):
    assert from_keywords(ConsumerConfig, {"partition_assignment_strategy": given}, "consumer").assignors == means


def test_an_assignor_of_ones_own_alone_is_refused_by_its_name():
    with pytest.raises(ConfigurationError, match=r"use range, round_robin, sticky.*given: 'home-made'"):
        from_keywords(ConsumerConfig, {"partition_assignment_strategy": [HomeMadeAssignor]}, "consumer")


def test_an_idle_fetch_parks_long_unless_bytes_are_waited_for():
    assert ConsumerConfig().park_ms == 30_000
    assert ConsumerConfig(fetch_min_bytes=100).park_ms == 500


@pytest.mark.parametrize(
    ("key", "hash_"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_murmur2_is_javas(key, hash_):
    assert murmur2(key) == hash_ & 0xFFFFFFFF


def test_partitioners_go_by_key_and_leave_the_rest_to_the_producer():
    for partitioner in (Crc32Partitioner(), Murmur2Partitioner()):
        assert partitioner.partition("t", None, b"", 10, range(10)) is None
        assert partitioner.partition("t", b"k", b"", 10, range(10)) == partitioner.partition("t", b"k", b"", 10, [])
    assert Crc32Partitioner().partition("t", b"123456789", None, 1_000, range(1_000)) == 0xCBF43926 % 1_000


@given(st.binary(max_size=40), st.integers(1, 1_000))
def test_partitioners_stay_in_range(key, partitions):
    for partitioner in (Crc32Partitioner(), Murmur2Partitioner()):
        assert 0 <= partitioner.partition("t", key, None, partitions, range(partitions)) < partitions


def test_round_robin_takes_turns_among_those_with_a_leader():
    partitioner = RoundRobinPartitioner()

    assert [partitioner.partition("t", b"k", None, 4, [1, 3]) for _ in range(4)] == [1, 3, 1, 3]


def test_partitioners_are_named_or_given():
    assert isinstance(make_partitioner("murmur2"), Murmur2Partitioner)
    assert make_partitioner(lambda key, everything, available: 7).partition("t", b"", b"", 9, []) == 7
    for bad, says in (("murmur", "did you mean 'murmur2'"), (5, "partitioner"), (Murmur2Partitioner, "call it")):
        with pytest.raises(ConfigurationError, match=says):
            make_partitioner(bad)


class KafkaPythons:
    """As kafka-python 3's documents say to write one."""

    def __init__(self):
        self.asked = []

    def partition(self, topic, key, serialized_key, value, serialized_value, cluster):
        if topic not in cluster.topics():
            raise ValueError(topic)
        self.asked.append((key, serialized_key, value, serialized_value))
        return max(cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(topic))


def test_a_partitioner_that_was_written_for_kafka_python_is_asked_as_there():
    theirs = KafkaPythons()

    made = make_partitioner(theirs)

    assert made.partition("t", b"k", b"v", 9, [2, 4]) == 4
    assert made.partition("t", b"k", None, 9, []) == 8
    assert theirs.asked == [(b"k", b"k", b"v", b"v"), (b"k", b"k", None, None)]
    assert ClusterView("t", 3, range(3)).partitions_for_topic("another") is None


def test_a_partitioner_with_other_arguments_is_refused_when_the_producer_is_made():
    class Other:
        def partition(self, key): ...

    with pytest.raises(
        ConfigurationError, match=r"Other.partition must take \(topic, key, value, partitions, available"
    ):
        make_partitioner(Other())


def test_serializers_are_functions_or_objects():
    assert encoder(str.encode, "s")("t", None, "ä") == "ä".encode()
    assert encoder(StringSerializer("latin-1"), "s")("t", None, "ä") == b"\xe4"
    assert encoder(JsonSerializer(), "s")("t", None, [1]) == b"[1]"
    assert encoder(lambda _: bytearray(b"x"), "s")("t", None, 1) == b"x"
    assert encoder(JsonSerializer(), "s")("t", None, None) is None
    assert decoder(JsonSerializer(), "d")("t", [], b"[1]") == [1]
    assert encoder(None, "s") is None


def test_a_serializer_that_fails_or_returns_no_bytes_is_told_with_the_data():
    for function in (lambda _: 1 / 0, lambda _: "text"):
        with pytest.raises(SerializationError, match="value_serializer") as caught:
            encoder(function, "value_serializer")("t", None, 42)
        assert caught.value.data == 42


@pytest.mark.parametrize("bad", [5, "utf-8", JsonSerializer])
def test_what_is_no_serializer_is_refused(bad):
    with pytest.raises(ConfigurationError, match="key_serializer"):
        encoder(bad, "key_serializer")
