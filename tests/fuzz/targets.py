"""What is fed with bad input, and what it may say to that: a target returns, or raises one of its own errors.

Checksums are mended after the damage (half of the time), because what they protect from is accident: whoever means
harm computes them, and the code behind them must stand on its own.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import google_crc32c
import msgspec

from callboard import config
from callboard.actors.controller.image import ClusterImage
from callboard.cli.exits import CommandFailed
from callboard.cli.options import settings_from
from callboard.cli.produce import split
from callboard.cli.records import formatter
from callboard.config import ClusterConfig, Limits, TopicConfig
from callboard.errors import (
    ConfigurationError,
    CorruptRecordError,
    InvariantViolated,
    OffsetOutOfRangeError,
    StorageError,
    UnsupportedCompressionTypeError,
    UnsupportedVersionError,
)
from callboard.model import TIMESTAMP_CREATE_TIME, ConsumerRecord
from callboard.storage import compression
from callboard.storage.batch import check_batch, decode_batch, iter_batches
from callboard.storage.checkpoint import CHECKPOINT_FILE, PRODUCERS_FILE, decode_checkpoint, decode_clean, seal
from callboard.storage.index import load_index
from callboard.storage.producers import ProducerStates
from callboard.storage.records import records_of
from callboard.testing.disk import SimDisk
from callboard.testing.logs import DIRECTORY, SMALL, append, append_many, checkpoint, contents, flush, open_log
from callboard.transport import codec, messages
from callboard.transport.addresses import parse_addresses
from callboard.transport.gate import Gate
from callboard.transport.messages import ErrorReply, Hello, HelloReply
from callboard.transport.seam import Inbound, ServerIdentity

from . import corpus
from .mutation import mutated

OF_A_BATCH = (CorruptRecordError, UnsupportedVersionError, UnsupportedCompressionTypeError)
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
Feed = Callable[[random.Random], tuple[bytes, Callable[[], None]]]


@dataclass(frozen=True)
class Target:
    """``weight``: its part of all inputs. ``feed`` makes one input and returns it with the call that takes it."""

    name: str
    weight: int
    feed: Feed
    refuses_with: tuple[type[BaseException], ...] = field(default=())


class Failed(AssertionError):
    """A target raised what it should not; the message holds all that is needed to do it again."""


def run(target: Target, inputs: int, seed: int) -> int:
    """Feed a target; return how many inputs it refused."""
    chance = random.Random(f"{target.name} {seed}")
    refused = 0
    for number in range(inputs):
        data, call = target.feed(chance)
        try:
            call()
        except target.refuses_with:
            refused += 1
        except BaseException as error:
            shown = data[:4_000].hex()
            raise Failed(f"{target.name} (seed {seed}, input {number}): {error!r}\ninput: {shown}") from error
    return refused


def of_bytes(seeds: list[bytes], take: Callable[[bytes], Any], mend: Callable[..., bytes] | None = None) -> Feed:
    """Return the feed of a function of bytes."""

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        data = mutated(chance, chance.choice(seeds), chance.choice(seeds))
        if mend is not None and chance.random() < 0.5:
            data = mend(data)
        return data, partial(take, data)

    return feed


# -- messages ----------------------------------------------------------------------------------------


def requests(union: Any) -> Feed:
    decoder = codec.decoder_for(union)
    seeds = corpus.headers(random.Random(1), union)

    def take(data: bytes) -> None:
        request = codec.decode_request(decoder, data)
        if codec.decode_request(decoder, codec.encode(request)) != request:
            raise AssertionError("what was decoded is not what is encoded")

    return of_bytes(seeds, take)


def replies() -> Feed:
    return of_bytes(corpus.headers(random.Random(2), messages.AnyReply), codec.decode_reply)


def gate() -> Feed:
    seeds = corpus.headers(random.Random(3), messages.ClientRequest)
    limits = Limits(connections=3, request_frames=8)
    identity = ServerIdentity(role="broker", name="broker-1", cluster_id="c", broker_id=1, incarnation="i")
    judge = Gate(messages.ClientRequest, identity, limits, "fuzz")
    judge.admit(b"\0greeted", codec.encode(Hello(id=1)), [], 10, 0)

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        peer = chance.choice((b"\0greeted", b"\0greeted", b"\0new", b"chosen", b"", b"\0" + chance.randbytes(4)))
        header = mutated(chance, chance.choice(seeds), chance.choice(seeds))
        payload = [b"x"] * chance.choice((0, 0, 1, 2, 4))

        def call() -> None:
            size = len(header) + len(payload)
            verdict = judge.admit(peer, header, payload, size, chance.choice((0, 50_000, 1 << 62)))
            if not isinstance(verdict, (Inbound, ErrorReply, HelloReply)) and verdict is not None:
                raise AssertionError(f"{verdict!r}")
            if len(judge.peers) > limits.connections:
                raise AssertionError("more peers than connections are allowed")

        return header, call

    return feed


# -- batches -----------------------------------------------------------------------------------------


def mend_batch(data: bytes) -> bytes:
    """Return the batch with a length and a checksum that are true."""
    if len(data) < 61:
        return data
    body = data[21:]
    return data[:8] + struct.pack(">ii", len(data) - 12, 0) + data[16:17] + _crc(body, ">I") + body


def look_at(data: bytes) -> None:
    """Read a batch as a broker checks it and as a consumer decodes it; both must say the same about its shape."""
    for header, at in iter_batches(data):
        columns = decode_batch(data, at)
        records = records_of("t", 0, columns)
        _ = columns.offsets, columns.buffers("keys"), columns.buffers("values"), columns.header_sizes
        if len(records) != header.count:
            raise AssertionError(f"{len(records)} records of {header.count}")


def batches() -> Feed:
    return of_bytes([b"".join(frames) for frames in corpus.batches(random.Random(4))], look_at, mend_batch)


def envelopes() -> Feed:
    seeds = corpus.batches(random.Random(5))

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        data = mutated(chance, b"".join(chance.choice(seeds)))
        data = mend_batch(data) if chance.random() < 0.5 else data
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(3)))
        cuts = [21, *cuts] if chance.random() < 0.7 else cuts
        cuts = sorted(cuts)
        frames = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return data, partial(check_batch, frames)

    return feed


def compressed(number: int) -> Feed:
    chance = random.Random(number)
    plain = [b"", b"abc" * 100, bytes(5_000), chance.randbytes(700)]
    seeds = [compression.compress(number, each) for each in plain]

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        place = chance.randrange(len(seeds))
        data = seeds[place] if chance.random() < 0.2 else mutated(chance, seeds[place], chance.choice(seeds))
        size = chance.choice((len(plain[place]), len(plain[place]), 0, 7, 1 << 16, chance.randrange(10_000), 1 << 31))
        return data, partial(compression.expand, number, data, size)

    return feed


# -- files of a log ----------------------------------------------------------------------------------


def _crc(data: bytes, code: str) -> bytes:
    return struct.pack(code, google_crc32c.value(data))


def mend_index(data: bytes) -> bytes:
    return data[:-4] + _crc(data[:-4], "<I")


def look_up(data: bytes) -> None:
    found = load_index(data, 0, 2_000, 64)
    if found is not None:
        for at in (-1, 0, 30, 1 << 62):
            found.entries.position_before(at)
            found.entries.boundary_before(at)
            found.entries.position_for_timestamp(at)


def mend_sealed(data: bytes) -> bytes:
    return seal(data[9:-1])


def restore(data: bytes) -> None:
    states = ProducerStates()
    if states.restore(data) is not None:
        states.expire(1 << 40, 5)
        states.snapshot(1)


def a_log_on_disk() -> SimDisk:
    """Return a disk with a log of three segments that is checkpointed in the middle, its process killed."""
    disk = SimDisk(1)
    disk.make_dir(DIRECTORY)
    log = open_log(disk)
    for epoch in range(2):
        for number in range(6):
            append(log, b"a" * 60, b"b%d" % number, epoch=epoch, producer_id=3, sequence=(epoch * 6 + number) * 2)
        flush(log)
        if not epoch:
            checkpoint(log)
    append_many(log, [[b"x" * 30], [b"y"], [b"z" * 200]])
    return disk.kill()


def logs() -> Feed:
    """Return the feed of whole log directories: one or two files of a sound one are damaged."""
    sound = a_log_on_disk()
    before = contents(open_log(sound.kill()))
    names = [name for name in sound.list_dir(DIRECTORY) if sound.size(f"{DIRECTORY}/{name}")]

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        disk, told = sound.kill(), b""
        for name in chance.sample(names, chance.choice((1, 1, 2))):
            path = f"{DIRECTORY}/{name}"
            data = mutated(chance, disk.read_bytes(path))
            if chance.random() < 0.4:
                if name in (CHECKPOINT_FILE, PRODUCERS_FILE):
                    data = mend_sealed(data)
                elif name.endswith(".index"):
                    data = mend_index(data)
            disk.write_bytes(path, data)
            told += f"\n{name}: ".encode() + data
        return told, partial(use, disk)

    def use(disk: SimDisk) -> None:
        log = open_log(disk)
        found = contents(log)
        if any(record not in before for record in found):
            raise AssertionError("the log shows what was never written to it")
        log.offset_for_timestamp(500)
        log.offset_of_max_timestamp()
        append(log, b"more", now_ms=5)
        flush(log)
        log.close(9)
        again = open_log(disk)
        if contents(again)[-1][1] != b"more":
            raise AssertionError("what was appended after recovery is gone")

    return feed


# -- metadata, settings, the command line ----------------------------------------------------------------


@dataclass
class _Change:
    key: str
    version: int
    value: Any


def documents() -> Feed:
    keys = list(corpus.DOCUMENTS)
    seeds = {key: msgspec.json.encode(value) for key, value in corpus.DOCUMENTS.items()}
    base = ClusterImage.of(1, [_Change(key, 1, value) for key, value in corpus.DOCUMENTS.items()])

    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        key = chance.choice(keys)
        data = mutated(chance, seeds[key], seeds[chance.choice(keys)])
        if chance.random() < 0.2:
            key = mutated(chance, key.encode()).decode("utf-8", "replace")
        return key.encode() + b" " + data, partial(take, key, data)

    def take(key: str, data: bytes) -> None:
        value = msgspec.json.decode(data)
        if not isinstance(value, dict):
            return
        image = base.with_changes(2, [_Change(key, 2, value)])
        image.metadata_reply(messages.MetadataRequest())
        codec.encode(image.cluster_reply())
        for topic in image.topics.values():
            topic.config(TopicConfig())
        for place, partition in image.partitions():
            image.leader_of(partition)
            image.version_of(f"partition/{place.topic_id}/{place.partition}")

    return feed


def toml(tmp_path: Path) -> Feed:
    path = Path(tmp_path or ".") / "cluster.toml"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        values = config.load_toml(str(path))
        try:
            config.configure(ClusterConfig, values, "the file")
        except ConfigurationError as error:
            if "\n" in str(error) or len(str(error)) > 1_000:
                raise AssertionError(f"not one line for a person: {error}") from None
            raise

    return of_bytes([corpus.CONFIG, b"a = [[1, {b = 1979-05-27T07:32:00Z}], '''x''']\n[[t]]\nn=0x1f\n"], take)


def option_pairs() -> Feed:
    seeds = [b"flush=ack", b"segment_bytes=1024", b"segment.ms=7", b"min_insync_replicas=1", b"a==", b"x"]

    def take(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        config.configure(TopicConfig, settings_from(text.split()), "topic t")

    return of_bytes(seeds, take)


def addresses() -> Feed:
    return of_bytes(list(corpus.ADDRESSES), lambda data: parse_addresses(data.decode("utf-8", "surrogateescape")))


def templates() -> Feed:
    def feed(chance: random.Random) -> tuple[bytes, Callable[[], None]]:
        template = mutated(chance, chance.choice(corpus.TEMPLATES)) if chance.random() < 0.7 else b"json"
        key, value = (chance.choice((None, chance.randbytes(9), b"{}")) for _ in range(2))
        times = chance.choice((0, -1, (1 << 63) - 1, -(1 << 63)))
        headers = [("h", key), ("", value)]
        record = ConsumerRecord(
            "t", 0, 1, 5, times, TIMESTAMP_CREATE_TIME, key, value, headers, None, -1, -1, -1
        )  # fmt: skip
        return template, lambda: formatter(template.decode("utf-8", "replace"))(record) and None

    return feed


def lines() -> Feed:
    def take(data: bytes) -> None:
        for _ in split(iter(data.splitlines(keepends=True)), ":"):
            pass

    return of_bytes([b"key:value\nk:\n:v\n", b"\n\n", b"no separator"], take)


def all_targets(tmp_path: Path) -> Iterator[Target]:
    """Yield every target; the weights add up to 100."""
    yield Target("client requests", 14, requests(messages.ClientRequest), (codec.HeaderRefused,))
    yield Target("peer requests", 4, requests(messages.PeerRequest), (codec.HeaderRefused,))
    yield Target("store requests", 8, requests(messages.StoreRequest), (codec.HeaderRefused,))
    yield Target("host requests", 3, requests(messages.HostRequest), (codec.HeaderRefused,))
    yield Target("replies", 9, replies(), (codec.HeaderRefused,))
    yield Target("gate", 12, gate())
    yield Target("batches", 14, batches(), OF_A_BATCH)
    yield Target("batches in frames", 7, envelopes(), OF_A_BATCH)
    for name, number in compression.CODEC_BY_NAME.items():
        if number:
            yield Target(name, 2, compressed(number), OF_A_BATCH)
    yield Target("index", 4, of_bytes([corpus.index_file()], look_up, mend_index))
    yield Target("checkpoint", 2, of_bytes([corpus.checkpoint_file()], decode_checkpoint, mend_sealed))
    yield Target("clean mark", 1, of_bytes([seal(b'{"log_end_offset":5}')], decode_clean, mend_sealed))
    yield Target("producers", 2, of_bytes([corpus.producers_file()], restore, mend_sealed))
    yield Target("log", 2, logs(), (StorageError, CorruptRecordError, OffsetOutOfRangeError))
    yield Target("documents", 4, documents(), (InvariantViolated, *NOT_JSON))
    yield Target("toml", 2, toml(tmp_path), (ConfigurationError,))
    yield Target("options", 1, option_pairs(), (ConfigurationError, click.UsageError))
    yield Target("addresses", 1, addresses(), (ConfigurationError,))
    yield Target("templates", 1, templates(), (ValueError,))
    yield Target("lines", 1, lines(), (CommandFailed,))


__all__ = ["SMALL", "Failed", "Target", "all_targets", "run"]
