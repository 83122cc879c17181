"""Logs for tests: batches in one line, a log on any files, and everything that it holds as a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..config import TopicConfig
from ..storage.batch import BatchHeader, Columns, check_batch, decode_batch, encode_batch, iter_batches, restamp
from ..storage.compaction import Compaction, Terms
from ..storage.files import Files
from ..storage.log import Log

DIRECTORY = "/data/log"
SMALL = TopicConfig(segment_bytes=1_024, index_interval_bytes=256)

Batch = tuple[list[bytes], BatchHeader]


def a_batch(
    values: Iterable[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    at: int = 0,
    epoch: int = 0,
    timestamp: int | Sequence[int] = 1_000,
    producer_id: int = -1,
    producer_epoch: int = -1,
    sequence: int = -1,
) -> Batch:
    """Return frames and header of a batch that has its place in a log."""
    if producer_id >= 0 > producer_epoch:
        producer_epoch = 0
    frames = encode_batch(
        keys,
        list(values),
        timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=sequence,
    )
    header = check_batch(frames).at(at, epoch)
    return [restamp(frames[0], at, epoch), *frames[1:]], header


def open_log(
    files: Files,
    config: TopicConfig = SMALL,
    *,
    directory: str = DIRECTORY,
    now_ms: int = 0,
    producer_expiry_ms: int = 1_000_000,
) -> Log:
    return Log.open(files, directory, config, now_ms=now_ms, producer_expiry_ms=producer_expiry_ms)


def append(
    log: Log,
    *values: bytes | None,
    keys: Sequence[bytes | None] | None = None,
    epoch: int | None = None,
    timestamp: int | Sequence[int] = 1_000,
    now_ms: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    sequence: int = -1,
) -> BatchHeader:
    """Append one batch at the log end, in the log's latest epoch unless another is given."""
    frames, header = a_batch(
        values,
        keys=keys,
        at=log.log_end_offset,
        epoch=max(log.epochs.latest, 0) if epoch is None else epoch,
        timestamp=timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        sequence=sequence,
    )
    log.append([frames], [header], now_ms)
    return header


def append_many(log: Log, batches: Sequence[Sequence[bytes]], now_ms: int = 0) -> None:
    """Append several batches in one call."""
    frames, headers, at = [], [], log.log_end_offset
    for values in batches:
        batch, header = a_batch(values, at=at, epoch=max(log.epochs.latest, 0))
        frames.append(batch)
        headers.append(header)
        at = header.next_offset
    log.append(frames, headers, now_ms)


def flush(log: Log) -> None:
    """Make everything durable, as the actor does it with a pool thread."""
    job = log.begin_flush()
    if job is not None:
        job()
        log.end_flush(job, None)


def checkpoint(log: Log, now_ms: int = 0) -> None:
    job = log.begin_checkpoint(now_ms)
    if job is not None:
        job()


def compact(
    log: Log,
    *,
    up_to: int | None = None,
    now_ms: int = 0,
    may_drop_tombstones: bool = True,
    memory_bytes: int = 1 << 20,
) -> Compaction | None:
    """Compact as the actor does, the files exchanged by a flush; None: it was not due."""
    terms = Terms(log.log_end_offset if up_to is None else up_to, now_ms, may_drop_tombstones, memory_bytes)
    compaction = log.begin_compaction(terms)
    if compaction is not None:
        while not compaction.step():
            pass
        log.end_compaction(compaction, now_ms)
        flush(log)
    return compaction


def latest_by_key(log: Log) -> dict[bytes | None, bytes]:
    """Return what a reader from the start ends with: of each key the last value, none where that is null."""
    latest: dict[bytes | None, bytes] = {}
    for data in batches(log):
        for key, value in zip(data.keys, data.values, strict=True):
            latest.pop(key, None)
            if value is not None:
                latest[key] = value
    return latest


def batches(log: Log) -> list[Columns]:
    """Return all batches, as they are stored."""
    found: list[Columns] = []
    at = log.log_start_offset
    while at < log.log_end_offset:
        read = log.read(at, 1 << 20, log.log_end_offset)
        if not read:
            break
        for data in read:
            found += [decode_batch(data, position) for _, position in iter_batches(data)]
        at = found[-1].header.next_offset
    return found


def contents(log: Log, max_bytes: int = 1 << 20) -> list[tuple[int, bytes | None]]:
    """Return every record, as (offset, value), read in the way of a consumer."""
    records: list[tuple[int, bytes | None]] = []
    at = log.log_start_offset
    while at < log.log_end_offset:
        found = log.read(at, max_bytes, log.log_end_offset)
        if not found:  # only a gap is left
            break
        for data in found:
            for header, position in iter_batches(data):
                columns = decode_batch(data, position)
                records += zip(columns.offsets, columns.values, strict=True)
                at = header.next_offset
    return [record for record in records if record[0] >= log.log_start_offset]


def values(log: Log) -> list[bytes | None]:
    return [value for _, value in contents(log)]
