"""What tests of a simulated cluster say often: produce, fetch, look at a replica."""

from __future__ import annotations

from callboard.storage.batch import decode_batch, encode_batch, iter_batches
from callboard.transport import messages as m


def produce(cluster, topic, values, *, number=0, acks=-1, sequence=-1, timestamp_ms=1_000, broker=1):
    """Produce one batch at broker 1; return the entry of the reply."""
    frames = encode_batch(
        [None] * len(values),
        values,
        timestamp_ms,
        producer_id=7 if sequence >= 0 else -1,
        producer_epoch=0 if sequence >= 0 else -1,
        base_sequence=sequence,
    )
    entry = m.ProduceEntry(topic_id=topic.topic_id, partition=number, frames=len(frames))
    request = m.ProduceRequest(acks=acks, entries=[entry])
    return cluster.ask(cluster.client_endpoint(broker), request, frames).entries[0]


def fetch(cluster, topic, offset=0, *, number=0, broker=1):
    """Return the entry of the reply, and the values."""
    entry = m.FetchEntry(topic_id=topic.topic_id, partition=number, fetch_offset=offset)
    answer = cluster.ask(cluster.client_endpoint(broker), m.FetchRequest(max_wait_ms=100, entries=[entry]))
    reply, frames = answer if isinstance(answer, tuple) else (answer, [])
    data = b"".join(frames)
    values = [value for _, at in iter_batches(data) for value in decode_batch(data, at).values]
    return (reply.entries[0] if reply.entries else None), values


def values_of(cluster, topic, *, number=0, offset=0):
    """Return all values from an offset on, over as many fetches as it takes."""
    found = []
    while some := fetch(cluster, topic, offset + len(found), number=number)[1]:
        found += some
    return found


def describe(cluster, broker=1):
    return cluster.ask(cluster.client_endpoint(broker), m.DescribeReplicasRequest())


def find(cluster, name, broker="broker-1"):
    return cluster.processes[broker].context.directory.find(f"{broker}/{name}")


def partition_of(cluster, topic, number=0):
    return next(one for one in cluster.metadata().topics if one.name == topic.name).partitions[number]


def produce_at_leader(cluster, topic, values, *, number=0, acks=-1):
    """Produce one batch wherever the partition is led now; return the entry of the reply."""
    broker = partition_of(cluster, topic, number).leader
    return produce(cluster, topic, values, number=number, acks=acks, broker=broker)


def values_at_leader(cluster, topic, *, number=0):
    """Return all values, read wherever the partition is led now."""
    broker, found = partition_of(cluster, topic, number).leader, []
    while some := fetch(cluster, topic, len(found), number=number, broker=broker)[1]:
        found += some
    return found
