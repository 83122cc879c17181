"""The public names, pinned: what disappears from here breaks somebody's import."""

from __future__ import annotations

import callboard

PUBLIC = """
AdminClient AsyncAdminClient AsyncConsumer AsyncConsumerRebalanceListener AsyncProducer BrokerResponseError
BufferExhaustedError CallboardError CallboardTimeoutError ClientError CommitFailedError ConfigurationError
ConnectionFailedError ConnectionLostError Consumer ConsumerGroupMetadata ConsumerRebalanceListener ConsumerRecord
Crc32Partitioner DeliveryError Deserializer ErrorCode ForkedClientError FutureBatchMetadata FutureRecordMetadata
IllegalArgumentError IllegalStateError JsonSerializer MemberToRemove Murmur2Partitioner NewTopic
LogTruncationError MembershipLostError NoOffsetForPartitionError OffsetAndMetadata OffsetAndTimestamp OffsetReset
OffsetShift OffsetSpec
OffsetTimestamp PartitionLag Partitioner Producer RecordColumns RecordMetadata RoundRobinPartitioner SerializationError
Serializer StringSerializer TopicPartition __version__ dlq error_for_code
""".split()  # noqa: SIM905 - forty names are read more easily like this


def test_the_public_names_are_these():
    assert sorted(callboard.__all__) == sorted(PUBLIC)


def test_every_public_name_is_there_and_listed():
    for name in PUBLIC:
        assert getattr(callboard, name) is not None
        assert name in dir(callboard)


def test_all_errors_are_reached_by_their_module(run):
    ended = run(["import callboard; print(callboard.errors.FencedInstanceIdError.__name__)"], program=["-c"])

    assert (ended.stdout, ended.stderr) == ("FencedInstanceIdError\n", "")


def test_a_name_that_is_not_there_is_an_attribute_error():
    assert not hasattr(callboard, "KafkaProducer")


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert callboard.__version__ == version("callboard")
