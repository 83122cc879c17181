"""Compaction by key: of each key the last record stays, of the others only the offsets they had.

The problem: a log of the latest value of many keys must not grow with every change, while it is read, appended to, and
may lose power at any moment. The theory is Kafka's log cleaner: closed segments are written anew without the records
that a later one of the same key supersedes; the new files take the place of the old ones in one step (swapping.py).
Which record is the last of its key is known from a map of the *dirty* part, what was appended since the last
compaction; below it every key has one record already (``Cleaned.offset``). The map is bounded: where it is full this
compaction ends, and the next one goes on from there.

Rules of this file:

1. Only what cannot change any more is written anew: closed segments, wholly below the high watermark and below the
   recovery point of the checkpoint on disk (B24).
2. A record goes only if a later one of its key lies below ``clean_to``, which is on disk and committed; or if it is a
   tombstone below ``tombstones_below``, which has nothing older to hide any more (cleaned.py); or if it has no key, of
   a time before the topic was compacted.
3. Offsets stay dense in ranges (sparse.py). Only batches without records are merged, and only within a leader epoch:
   so a replica's log ends where a batch begins, or within one of no records, and lineage is what it was.
4. The last batches of a producer stay as batches, without records if need be: its sequence is read from them.
5. Whatever is read is checked as recovery would check it. Damage ends the compaction: nothing is exchanged.
6. Nothing of the log is changed here: the job runs in a pool thread, a step at a time, on files of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import le
from typing import NamedTuple

from ..config import TopicConfig
from ..errors import CorruptRecordError, InvariantViolated, StorageCorruption
from .batch import HEADER_BYTES, BatchHeader, Columns, check_crc, decode_batch, parse_header
from .checkpoint import Checkpoint
from .cleaned import Cleaned
from .epochs import EpochHistory
from .files import File, Files
from .segment import Segment
from .sparse import empty_batch, without
from .swapping import Swap, cleaned_name
from .verification import misplaced, window

STEP_BYTES = 1 << 20  # of log read in one step: some ten milliseconds
BATCH_COSTS = 2_048  # a batch takes as much time as so many bytes, beside its own
WRITE_BYTES = 1 << 20  # collected before they are written
KEY_BYTES_MAX = 32  # longer keys are known by a digest
DIGEST_BYTES = KEY_BYTES_MAX + 1  # never mistaken for a key
BYTES_PER_KEY = 200  # of the map, at most: key, offset, their place in the table while it grows
RANGE_MAX = 1 << 31  # offsets of one batch


class Terms(NamedTuple):
    """What a compaction must keep to, as its replica knows it."""

    up_to_offset: int  # the high watermark
    now_ms: int  # by the clock that retention goes by
    may_drop_tombstones: bool  # every replica holds what is committed: none can bring back what a tombstone hid
    memory_bytes: int  # of the map of keys


class Plan(NamedTuple):
    segments: tuple[Segment, ...]  # from the oldest on; written anew as far as the map reaches
    dirty_from: int  # what lies below was compacted before
    tombstones_below: int
    cleaned: Cleaned  # so far
    terms: Terms


@dataclass(slots=True)
class Figures:
    """What a compaction has done, in bytes and records."""

    bytes_before: int = 0
    bytes_after: int = 0
    records_before: int = 0
    records_after: int = 0
    tombstones_dropped: int = 0


def plan(
    segments: Sequence[Segment],
    unsynced: Collection[Segment],
    on_disk: Checkpoint | None,
    config: TopicConfig,
    cleaned: Cleaned,
    terms: Terms,
) -> Plan | None:
    """Return what to compact, or None: too little has changed since the last time, or something is damaged.

    Args:
        segments: of the log; the last one is appended to.
        unsynced: those that hold bytes which may not be on disk.
    """
    if on_disk is None or any(segment.damage for segment in segments):
        return None
    chosen = []
    limit = min(terms.up_to_offset, on_disk.recovery_offset)
    for segment in segments[:-1]:
        if segment.next_offset > limit or segment.base_offset >= on_disk.segment or segment in unsynced:
            break
        if config.min_compaction_lag_ms and segment.next_offset > cleaned.offset:
            try:
                is_young = segment.max_timestamp > terms.now_ms - config.min_compaction_lag_ms
            except StorageCorruption:
                return None
            if is_young:
                break
        chosen.append(segment)
    if not chosen or chosen[-1].next_offset < cleaned.offset:  # the high watermark is not known yet that was
        return None
    dirty_bytes = sum(segment.size for segment in chosen if segment.next_offset > cleaned.offset)
    is_dirty = dirty_bytes > 0 and dirty_bytes >= config.min_cleanable_dirty_ratio * sum(one.size for one in chosen)
    retention_ms = config.delete_retention_ms
    below = cleaned.tombstones_below(terms.now_ms, retention_ms) if terms.may_drop_tombstones else 0
    if not is_dirty and not (below and cleaned.has_due_tombstones(terms.now_ms, retention_ms)):
        return None
    return Plan(tuple(chosen), cleaned.offset, below, cleaned, terms)


class Compaction:
    """One compaction of one log. ``step`` until it is done, in a pool thread; then ``Log.end_compaction``."""

    def __init__(
        self, files: Files, directory: str, plan: Plan, config: TopicConfig, epochs: EpochHistory, kept: Collection[int]
    ) -> None:
        """Prepare; no file is touched.

        Args:
            epochs: a copy.
            kept: the base offsets of batches that must stay, with or without records (rule 4).
        """
        self.swaps: list[Swap] = []  # to be made
        self.clean_to = plan.dirty_from  # of each key one record is left below it
        self.figures = Figures()
        self._files = files
        self._directory = directory
        self._plan = plan
        self._config = config
        self._epochs = epochs
        self._kept = kept
        self._latest: dict[bytes | None, int] = {}  # of the dirty part: the offset of each key's last record
        self._keys_max = max(plan.terms.memory_bytes // BYTES_PER_KEY, 1)
        self._part_ends = [part.offset for part in plan.cleaned.parts]
        self._tombstones = [0] * (len(self._part_ends) + 1)
        self._writing: _Writer | None = None
        self._work = self._steps()

    def step(self) -> bool:
        """Do a part of the work; True when all is done.

        Raises:
            StorageCorruption: a batch is damaged.
            OSError: a file cannot be read or written; FileNotFoundError: a segment was deleted meanwhile.
        """
        return next(self._work, True)

    def cleaned(self, now_ms: int) -> Cleaned:
        """Return how far the log is compacted once all swaps are made."""
        retention_ms = self._config.delete_retention_ms
        return self._plan.cleaned.after(self.clean_to, now_ms, retention_ms, self._tombstones)

    def discard(self) -> None:
        """It comes to nothing: remove what was written."""
        self._work.close()
        if self._writing is not None:
            self._writing.abandon()
        for swap in self.swaps:
            _remove(self._files, self._directory, swap.segment)
        self.swaps = []

    def give_up(self, made: Sequence[Swap]) -> list[Swap]:
        """Return the swaps that could not be made, having removed what was written for them."""
        left = [swap for swap in self.swaps if swap not in made]
        for swap in left:
            _remove(self._files, self._directory, swap.segment)
        return left

    # -- the two passes --------------------------------------------------------------------------------

    def _steps(self) -> Generator[bool, None, None]:
        yield from self._map_keys()
        for group in self._groups():
            yield from self._write(group)
        self._latest = {}

    def _map_keys(self) -> Iterator[bool]:
        """Note of each key in the dirty part where its last record is, as far as there is room."""
        latest, dirty_from, read_bytes = self._latest, self._plan.dirty_from, 0
        for segment in self._plan.segments:
            if segment.next_offset <= dirty_from:
                continue
            for header, data, at in self._batches(segment):
                read_bytes += header.length + BATCH_COSTS
                if header.next_offset > dirty_from:
                    if len(latest) >= self._keys_max:
                        return
                    if header.count:
                        batch = decode_batch(data, at, verify=False)
                        if batch.has_keys:
                            latest.update(zip(_names(batch.keys), batch.offsets, strict=True))
                    self.clean_to = header.next_offset
                if read_bytes >= STEP_BYTES:
                    read_bytes = 0
                    yield False

    def _groups(self) -> list[list[Segment]]:
        """Return the segments that become one each: neighbours that together are no larger than one may be."""
        groups: list[list[Segment]] = []
        size = 0
        for segment in self._plan.segments:
            if segment.base_offset >= self.clean_to:
                break
            is_next = bool(groups) and groups[-1][-1].next_offset == segment.base_offset
            if is_next and size + segment.size <= self._config.segment_bytes:
                groups[-1].append(segment)
                size += segment.size
            else:
                groups.append([segment])
                size = segment.size
        return groups

    def _write(self, group: list[Segment]) -> Iterator[bool]:
        index_interval_bytes = self._config.index_interval_bytes
        writer = self._writing = _Writer(self._files, self._directory, group[0].base_offset, index_interval_bytes)
        read_bytes = 0
        for segment in group:
            self.figures.bytes_before += segment.size
            for header, data, at in self._batches(segment):
                self._write_batch(header, data, at, writer)
                read_bytes += header.length + BATCH_COSTS
                if read_bytes >= STEP_BYTES:
                    read_bytes = 0
                    yield False
        written = writer.end()
        self.figures.bytes_after += written.size
        if written.next_offset != group[-1].next_offset:
            raise InvariantViolated(f"{written.path}: compacted to {written.next_offset}, not {group[-1].next_offset}")
        self._writing = None
        if writer.is_same and len(group) == 1:
            _remove(self._files, self._directory, written)
        else:
            self.swaps.append(Swap(written, tuple(group)))
        yield False

    def _write_batch(self, header: BatchHeader, data: bytes, at: int, writer: _Writer) -> None:
        figures = self.figures
        figures.records_before += header.count
        if header.count:
            batch = decode_batch(data, at, verify=False)
            kept = self._kept_of(batch)
            if kept is None or len(kept) == header.count:
                figures.records_after += header.count
                writer.write(header, data[at : at + header.length])
                return
            if kept:
                figures.records_after += len(kept)
                changed = without(batch, kept)
                writer.write(parse_header(changed), changed, is_same=False)
                return
        if header.producer_id < 0 or header.base_offset not in self._kept:
            writer.leave_empty(header)
        elif header.count:
            changed = empty_batch(header.base_offset, header.next_offset, header.leader_epoch, header)
            writer.write(parse_header(changed), changed, is_same=False)
        else:
            writer.write(header, data[at : at + header.length])

    def _kept_of(self, batch: Columns) -> Sequence[int] | None:
        """Return the places of the records that stay, by rule 2; None: all."""
        if not batch.has_keys:
            return ()
        keys, offsets = batch.keys, batch.offsets
        last = list(map(le, map(self._latest.get, _names(keys), offsets), offsets))
        is_plain = batch.has_values and not (batch.some_values_null or batch.some_keys_null)
        if is_plain:
            return None if all(last) else list(compress(range(batch.count), last))
        values, kept = batch.values, []
        for place in compress(range(batch.count), last):
            if keys[place] is None:
                continue
            if values[place] is None:
                if offsets[place] < self._plan.tombstones_below:
                    self.figures.tombstones_dropped += 1
                    continue
                if offsets[place] < self.clean_to:
                    self._tombstones[bisect_right(self._part_ends, offsets[place])] += 1
            kept.append(place)
        return kept

    # -- reading ---------------------------------------------------------------------------------------

    def _batches(self, segment: Segment) -> Iterator[tuple[BatchHeader, bytes, int]]:
        """Yield each batch, checked: its header, bytes that hold it, and where it begins in them."""
        file = self._files.open(segment.path, read_only=True)
        try:
            yield from _checked(file, segment, self._epochs)
        finally:
            file.close()


class _Writer:
    """Writes one compacted segment."""

    def __init__(self, files: Files, directory: str, base_offset: int, index_interval_bytes: int) -> None:
        self.is_same = True  # as what it is made of
        self._files, self._directory = files, directory
        self._segment = Segment(files, directory, base_offset, index_interval_bytes)
        self._segment.create_as(f"{directory}/{cleaned_name(base_offset)}")
        self._frames: list[bytes] = []
        self._headers: list[BatchHeader] = []
        self._bytes = 0
        self._empty: tuple[int, int, int] | None = None  # offsets without records: begin, end, leader epoch

    def write(self, header: BatchHeader, batch: bytes, *, is_same: bool = True) -> None:
        self._write_empty()
        self.is_same = self.is_same and is_same
        self._add(header, batch)

    def leave_empty(self, header: BatchHeader) -> None:
        """Let the batch's offsets have no records; together with those before it, if they are of its epoch."""
        if header.count or header.producer_id >= 0:
            self.is_same = False
        if self._empty is not None:
            begin, _, epoch = self._empty
            if epoch == header.leader_epoch and header.next_offset - begin <= RANGE_MAX:
                self.is_same = False
                self._empty = begin, header.next_offset, epoch
                return
            self._write_empty()
        self._empty = header.base_offset, header.next_offset, header.leader_epoch

    def end(self) -> Segment:
        """Return the segment, on disk under its name of now."""
        self._write_empty()
        self._flush()
        self._segment.file().datasync()
        return self._segment

    def abandon(self) -> None:
        _remove(self._files, self._directory, self._segment)

    def _write_empty(self) -> None:
        if self._empty is not None:
            batch = empty_batch(*self._empty)
            self._empty = None
            self._add(parse_header(batch), batch)

    def _add(self, header: BatchHeader, batch: bytes) -> None:
        self._headers.append(header)
        self._frames.append(batch)
        self._bytes += len(batch)
        if self._bytes >= WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._segment.append(self._frames, self._headers)
        self._frames, self._headers, self._bytes = [], [], 0


def _checked(file: File, segment: Segment, epochs: EpochHistory) -> Iterator[tuple[BatchHeader, bytes, int]]:
    position, data, data_at, expected, end = 0, b"", 0, segment.base_offset, segment.size
    while position < end:
        try:
            data, data_at = window(file, data, data_at, position, HEADER_BYTES, end)
            header = parse_header(data, position - data_at)
            problem = misplaced(header, expected, epochs.epoch_at)
            if not problem and position + header.length > end:
                problem = f"a batch of {header.length} bytes, {end - position} are there"
            if problem:
                raise CorruptRecordError(problem)
            data, data_at = window(file, data, data_at, position, header.length, end)
            check_crc(data, position - data_at, header)
        except CorruptRecordError as error:
            raise StorageCorruption(f"{file.path} at {position}: {error.detail}", file.path, position) from None
        yield header, data, position - data_at
        position, expected = position + header.length, header.next_offset
    if expected != segment.next_offset:
        raise StorageCorruption(f"{file.path} ends at offset {expected}, not {segment.next_offset}", file.path, end)


def _names(keys: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """Return what the map knows each key by: itself, if it is short."""
    try:
        longest = max(map(len, keys))  # type: ignore[arg-type]  # a null makes it raise TypeError
    except TypeError:
        longest = max(len(key or b"") for key in keys)
    if longest <= KEY_BYTES_MAX:
        return keys
    return [
        key if key is None or len(key) <= KEY_BYTES_MAX else hashlib.blake2b(key, digest_size=DIGEST_BYTES).digest()
        for key in keys
    ]


def _remove(files: Files, directory: str, segment: Segment) -> None:
    segment.close()
    with contextlib.suppress(OSError):  # what is left goes when the log is opened
        files.remove(f"{directory}/{cleaned_name(segment.base_offset)}")
