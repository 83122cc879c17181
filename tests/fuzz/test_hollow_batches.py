"""Batches whose checksum is right and whose columns are not: brokers store them unread, every reader must bear it."""

import struct

import google_crc32c

from callboard.errors import ErrorCode
from callboard.storage.batch import encode_batch
from callboard.testing.simulated import SimulatedCluster
from callboard.transport import messages as m


def hollow_batch():
    """Return a batch of two records with timestamps whose compressed block is not of its codec."""
    prefix, body = encode_batch(None, [b"a" * 500, b"b" * 500], [1_000, 2_000], compression="zstd")
    body = body[:75] + b"\xff" * (len(body) - 75)
    length = struct.unpack_from(">i", prefix, 8)[0]
    return [struct.pack(">qiibI", 0, length, -1, 0x43, google_crc32c.value(body)), body]


def ask(cluster, topic, request, frames=()):
    return cluster.ask(cluster.client_endpoint(topic.partitions[0].leader), request, list(frames))


def test_looking_for_a_time_in_a_hollow_batch_is_an_answer_and_no_crash():
    cluster = SimulatedCluster(brokers=1).start()
    topic = cluster.create_topic("orders", 1)
    lead = topic.partitions[0]
    place = {"topic_id": topic.topic_id, "partition": 0, "leader_epoch": lead.leader_epoch}
    frames = hollow_batch()

    stored = ask(cluster, topic, m.ProduceRequest(entries=[m.ProduceEntry(**place, frames=len(frames))]), frames)
    found = ask(cluster, topic, m.ListOffsetsRequest(entries=[m.ListOffsetsEntry(**place, timestamp_ms=1_500)]))

    assert stored.entries[0].base_offset == 0
    assert found.entries[0].error == ErrorCode.CORRUPT_RECORD
    tree = ask(cluster, topic, m.DescribeTreeRequest()).tree
    assert [line.restarts for group in tree.children for line in group.children] == [0]
