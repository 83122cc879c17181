"""Sound inputs to begin from, made anew each time: one of every message, batches of every codec and shape, files."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from callboard.storage.batch import encode_batch
from callboard.storage.checkpoint import Checkpoint, encode_checkpoint
from callboard.storage.index import SparseIndex
from callboard.storage.producers import ProducerStates
from callboard.testing.logs import a_batch
from callboard.transport import codec, messages

UNIONS = (messages.ClientRequest, messages.PeerRequest, messages.StoreRequest, messages.HostRequest, messages.AnyReply)
TEXTS = ("orders", "", "4171e402aaaa4bbb8cccdddddddddddd", "host/broker-9/none", "ä", "tcp://127.0.0.1:9192", "x" * 300)
INTEGERS = (0, 1, -1, 2, 5, 100, 30_000, -2, -3, (1 << 31) - 1, (1 << 63) - 1, -(1 << 63))


def instance_of(chance: random.Random, kind: Any, depth: int = 0) -> Any:
    """Return a value of a type as ``msgspec.inspect`` describes it."""
    t = msgspec.inspect
    if isinstance(kind, t.StructType):
        return kind.cls(
            **{
                field.name: instance_of(chance, field.type, depth + 1)
                for field in kind.fields
                if field.required or (depth < 6 and chance.random() < 0.7)
            }
        )
    if isinstance(kind, t.IntType):
        return chance.choice(INTEGERS)
    if isinstance(kind, t.StrType):
        return chance.choice(TEXTS)
    if isinstance(kind, t.BoolType):
        return chance.random() < 0.5
    if isinstance(kind, t.FloatType):
        return chance.choice((0.0, -1.5, 1e300))
    if isinstance(kind, (t.ListType, t.VarTupleType)):
        return [instance_of(chance, kind.item_type, depth + 1) for _ in range(chance.randrange(4) if depth < 6 else 0)]
    if isinstance(kind, t.DictType):
        count = chance.randrange(3)
        return {
            instance_of(chance, kind.key_type, depth + 1): instance_of(chance, kind.value_type, depth + 1)
            for _ in range(count)
        }
    if isinstance(kind, t.UnionType):
        return instance_of(chance, chance.choice(kind.types), depth + 1)
    if isinstance(kind, t.NoneType):
        return None
    return chance.choice((None, 1, "x", [1], {"a": 1}, 1.5, True, {"segment_bytes": "1024"}))


def headers(chance: random.Random, union: Any, each: int = 3) -> list[bytes]:
    """Return the encoded header of several messages of every kind in a union."""
    kinds = msgspec.inspect.type_info(union).types
    return [codec.encode(instance_of(chance, kind)) for kind in kinds for _ in range(each)]


def batches(chance: random.Random) -> list[list[bytes]]:
    """Return batches as frames: every codec, with and without keys, nulls, headers and timestamps."""
    made = []
    for name in ("none", "gzip", "snappy", "lz4", "zstd"):
        for count in (1, 3, 20):
            values = [chance.choice((None, b"", b"value %d" % n, b"v" * 50)) for n in range(count)]
            keys = [chance.choice((None, b"key")) for _ in range(count)]
            of_headers = [[("name", b"1"), ("ü", None)] if n % 2 else [] for n in range(count)]
            times = [1_000 + chance.randrange(50) for _ in range(count)]
            made += [
                encode_batch(None, [b"x" * 10] * count, 5, compression=name),
                encode_batch(keys, values, times, headers=of_headers, compression=name),
                encode_batch(keys, values, 7, compression=name, producer_id=4, producer_epoch=1, base_sequence=0),
            ]
    return made


def log_bytes(chance: random.Random, count: int = 12) -> bytes:
    """Return a segment's content from offset 0 on."""
    at, data = 0, b""
    for number in range(count):
        frames, header = a_batch(
            [chance.randbytes(chance.randrange(40)) for _ in range(chance.randrange(1, 5))],
            at=at,
            epoch=number // 4,
            timestamp=1_000 + number,
            producer_id=7,
            sequence=at,
        )
        data += b"".join(frames)
        at = header.next_offset
    return data


def index_file() -> bytes:
    index = SparseIndex(64)
    for number in range(20):
        index.add(number * 3, number * 100, number)
    return index.to_bytes(0, 2_000, 60, 20)


def checkpoint_file() -> bytes:
    return encode_checkpoint(
        Checkpoint(
            log_start_offset=2,
            recovery_offset=9,
            segment=0,
            position=500,
            segment_created_ms=1,
            epochs=((0, 0), (1, 4)),
            has_producers=True,
        )
    )


def producers_file() -> bytes:
    states = ProducerStates()
    for number in range(6):
        _, header = a_batch([b"a", b"b"], at=number * 2, producer_id=number % 3, sequence=(number // 3) * 2)
        states.record(header, 5)
    return states.snapshot(12)


DOCUMENTS: dict[str, dict[str, Any]] = {
    "cluster": {"cluster_id": "c", "created_ms": 5},
    "lease": {"holder": "broker-1", "incarnation": "i1", "controller_epoch": 3},
    "topic/t1": {"name": "orders", "partitions": 2, "configs": {"flush": "os", "segment_bytes": 4096}},
    "partition/t1/0": {"replicas": [1], "isr": [1], "leader": 1, "leader_epoch": 2, "leader_incarnation": "i1"},
    "partition/t1/1": {"replicas": [1, 2], "isr": [1], "offline": [[2, "i2"]]},
    "deleted/t0": {"name": "old", "deleted_ms": 9},
    "session/broker-1": {"incarnation": "i1", "broker_id": 1, "endpoints": ["tcp://127.0.0.1:1"], "machine": "m"},
    "session/host": {"incarnation": "h", "kind": "host", "endpoints": []},
    "broker/1": {"name": "broker-1", "incarnation": "i1"},
}

CONFIG = b"""\
brokers = 3
data_dir = "d"
port = 9192
[topic]
flush = "ack"
segment_bytes = 1_048_576
[broker]
stall_ms = 5000
auto_create_topics = false
[limits]
partitions = 10
"""
TEMPLATES = (b"value", b"json", rb"%t %p %o %e\t%k=%v %h %T%%\n", rb"\\%v", b"%")
ADDRESSES = (
    b"127.0.0.1:9192",
    b"tcp://[::1]:1",
    b"ipc:///tmp/x.sock",
    b"localhost",
    b"tcp://a:b",
    b"broker.example:65535",
)
