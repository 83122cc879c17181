"""Look at replicas and at the store from outside, without touching them: what the laws are checked on.

The one place that knows where actors keep their state. It reads attributes and memory; it asks nobody, counts as no
operation of the disk, moves no time, so that a run is the same whether somebody looks or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from ..actors.controller.controller import ACTIVE, Controller
from ..actors.groups.coordinator import Coordinator
from ..actors.groups.events import GroupPartition
from ..actors.metadata.documents import PartitionDocument, TopicDocument, kind_of, partition_of, read, rest_of
from ..actors.partition.events import Assign
from ..actors.partition.leader import Leader
from ..actors.partition.leading import Leading
from ..actors.partition.replica import Replica
from ..errors import CorruptRecordError
from ..model import PartitionKey
from ..storage.batch import HEADER_BYTES, decode_batch, iter_batches, parse_header
from ..storage.log import Log
from ..storage.segment import Segment
from .disk import SimDisk, SimFile
from .simulated import KeptDocuments, SimulatedProcess


class BatchMark(NamedTuple):
    """One batch of a log: where it stands, who wrote it, what it is.

    Of a log that is compacted: one offset, whatever is left of the batch it was in. Its lineage is what it was; what it
    holds is judged by the last record of each key (``latest``).
    """

    base_offset: int
    next_offset: int
    epoch: int
    crc: int


class ReplicaView(NamedTuple):
    """One replica just now."""

    broker: int
    life: str  # of its process
    key: PartitionKey
    role: str
    epoch: int  # that it leads or follows in
    is_leader: bool
    isr: frozenset[int]  # a leader's: all whose acknowledgement it waits for (the maximal one); else empty
    min_insync_replicas: int
    flush: str
    log_start_offset: int
    high_watermark: int  # -1: it knows none
    log_end_offset: int
    durable_offset: int
    cuts: int  # how often its log was seen to be cut, since it was opened
    marks: list[BatchMark]  # of the whole log, ascending; the observer's own list, which it goes on changing


class GroupView(NamedTuple):
    """One group as its coordinator sees it just now. Members by their ranks, which static ones keep."""

    group_id: str
    epoch: int  # of the target
    assignor: str
    topics: Mapping[str, frozenset[str]]  # that each member is subscribed to
    targets: Mapping[str, frozenset[GroupPartition]]
    counts: Mapping[str, int]  # partitions of all topics, by topic id
    members: tuple[str, ...] = ()  # their ids
    is_settled: bool = False  # each has all of its target, which is something, and nothing to give back


class Observer:
    """Looks at the replicas of one simulated cluster; of each log it reads only what is new."""

    def __init__(self) -> None:
        self._copies: dict[tuple[str, PartitionKey], _LogCopy] = {}

    def look(self, process: SimulatedProcess, actor: Replica) -> ReplicaView | None:
        """Return what a replica is and holds; None: its log is not open."""
        log = log_of(actor)
        if log is None or actor.has_ended:
            return None
        copy = self._copies.get((process.options.name, actor.key))
        if copy is None or copy.log is not log:
            copy = self._copies[process.options.name, actor.key] = _LogCopy(log)
        disk = process.context.files
        if isinstance(disk, SimDisk):
            copy.follow(disk)
        leader = leader_of(actor)
        assignment = assignment_of(actor)
        return ReplicaView(
            broker=process.options.broker_id,
            life=process.options.incarnation,
            key=actor.key,
            role=actor.role,
            epoch=leader.epoch if leader is not None else assignment.leader_epoch,
            is_leader=leader is not None,
            isr=maximal_isr_of(leader) if leader is not None else frozenset(),
            min_insync_replicas=assignment.min_insync_replicas,
            flush=assignment.config.flush,
            log_start_offset=log.log_start_offset,
            high_watermark=high_watermark_of(actor),
            log_end_offset=log.log_end_offset,
            durable_offset=log.durable_offset,
            cuts=copy.cuts,
            marks=copy.marks,
        )

    def latest(self, process: SimulatedProcess, actor: Replica, up_to_offset: int) -> Latest | None:
        """Return the last record of each key below an offset, but for tombstones; None: its log is not compacted."""
        log, disk = log_of(actor), process.context.files
        if log is None or not is_compacted(log) or not isinstance(disk, SimDisk):
            return None
        found: dict[bytes, tuple[int, bytes | None]] = {}
        for segment in log._segments:
            data = bytes(held_by(segment, disk))[: segment.size]
            for header, at in iter_batches(data):
                if header.count:
                    batch = decode_batch(data, at)
                    for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
                        if offset < up_to_offset and key is not None:
                            found[bytes(key)] = offset, None if value is None else bytes(value)
        return {key: (offset, value) for key, (offset, value) in found.items() if value is not None}


Latest = Mapping[bytes, tuple[int, bytes]]  # by key: the offset and the value of its last record


class StoreObserver:
    """Looks at the documents in the metadata store, those that have changed since the last look."""

    def __init__(self) -> None:
        self._version = 0

    def changed(self, kept: KeptDocuments) -> Iterator[tuple[PartitionKey, PartitionDocument | None]]:
        """Yield the partitions that were written since, as they are now; None: deleted."""
        since, self._version = self._version, kept.version
        for row in list(kept.rows.values()):
            if row.version > since and kind_of(row.key) == "partition":
                value = None if row.value is None else msgspec.json.decode(row.value)
                yield partition_of(row.key), None if value is None else read(PartitionDocument, value)

    def has_news(self, kept: KeptDocuments) -> bool:
        return kept.version != self._version


def topics_of(kept: KeptDocuments) -> dict[str, TopicDocument]:
    """Return the topics that there are, by their ids."""
    return {
        rest_of(row.key): read(TopicDocument, msgspec.json.decode(row.value))
        for row in kept.rows.values()
        if row.value is not None and kind_of(row.key) == "topic"
    }


def controller_epoch_of(kept: KeptDocuments) -> int:
    row = kept.rows.get("lease")
    return -1 if row is None or row.value is None else msgspec.json.decode(row.value).get("controller_epoch", 0)


def controller_of(kept: KeptDocuments) -> str:
    """Return the process that holds the controller's lease; "": nobody does."""
    row = kept.rows.get("lease")
    return "" if row is None or row.value is None else str(msgspec.json.decode(row.value).get("holder", ""))


# -- where actors keep their state -----------------------------------------------------------------


def log_of(actor: Replica) -> Log | None:
    return actor.log


def is_compacted(log: Log) -> bool:
    return log._config.is_compacted


def held_by(segment: Segment, disk: SimDisk) -> bytearray | bytes:
    """Return the bytes of a segment; of one that has just been compacted under whatever name."""
    file = segment._file
    return file.peek() if isinstance(file, SimFile) else disk.peek(segment.path) or b""


def leader_of(actor: Replica) -> Leader | None:
    """Return the rules of the leader, None when it does not lead."""
    return actor.part.rules if isinstance(actor.part, Leading) else None


def assignment_of(actor: Replica) -> Assign:
    return actor._assignment


def maximal_isr_of(leader: Leader) -> frozenset[int]:
    return frozenset(leader.insync.maximal)


def high_watermark_of(actor: Replica) -> int:
    return -1 if actor.part is None else int(actor.part.high_watermark)


def groups_of(coordinator: Coordinator) -> Iterator[tuple[object, GroupView]]:
    """Yield the groups of a coordinator that have members, each with the state that it belongs to."""
    rules = coordinator._rules
    groups = rules._groups
    counts = {topic.topic_id: topic.partitions for topic in groups.topics.values()}
    for group in groups.by_id.values():
        if members := group.members.values():
            topics = {member.rank: frozenset(member.topics) for member in members}
            targets = {member.rank: member.target for member in members}
            is_settled = all(member.is_complete and member.target for member in members)
            yield (
                rules,
                GroupView(
                    group.group_id,
                    group.epoch,
                    group.assignor,
                    topics,
                    targets,
                    counts,
                    tuple(group.members),
                    is_settled,
                ),
            )


def is_deciding(controller: Controller) -> bool:
    """Say whether it has decided something of a partition, and does not know yet whether that is stored."""
    return controller.role == ACTIVE and controller._is_committing and bool(controller._told)


# -- what stands in a log --------------------------------------------------------------------------


class _LogCopy:
    """The batches of one open log, by their headers, followed through appends and cuts."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.marks: list[BatchMark] = []
        self.cuts = 0
        self._places: list[tuple[str, int]] = []  # of each: its file, and where in it
        self._last: tuple[BatchMark, bytes] | None = None  # one that was last, and its header as it was found
        self._cleaned_offset = log.cleaner.cleaned.offset

    def follow(self, disk: SimDisk) -> None:
        end_offset, before = self.log.log_end_offset, len(self.marks)
        if is_compacted(self.log):
            self._follow_compaction(end_offset)
        while self.marks and self.marks[-1].next_offset > end_offset:
            self.marks.pop()
            self._places.pop()
        if self.marks and not self._is_true(disk):
            self.marks.clear()
            self._places.clear()
        self.cuts += len(self.marks) < before
        if not self.marks or self.marks[-1].next_offset < end_offset:
            self._read_on(disk)

    def _follow_compaction(self, end_offset: int) -> None:
        """Begin anew when files were exchanged, or a batch that is cut may be a shorter one by now."""
        cleaned_offset = self.log.cleaner.cleaned.offset
        if cleaned_offset != self._cleaned_offset or (self.marks and self.marks[-1].next_offset > end_offset):
            self._cleaned_offset = cleaned_offset
            self.marks.clear()
            self._places.clear()

    def _is_true(self, disk: SimDisk) -> bool:
        """Whether the last batch that was seen still stands there: a log may be cut and filled again at once."""
        path, position = self._places[-1]
        if is_compacted(self.log):
            segment = next((one for one in self.log._segments if one.path == path), None)
            data = None if segment is None else held_by(segment, disk)
        else:
            data = disk.peek(path)
        if data is None or position >= len(data):
            return False
        last = self.marks[-1]
        if not is_compacted(self.log):
            header = bytes(data[position : position + HEADER_BYTES])
            if self._last is not None and self._last[0] is last and self._last[1] == header:
                return True
            is_true = _mark_at(data, position)[0] == last
            self._last = (last, header) if is_true else None
            return is_true
        try:
            mark = _mark_at(data, position)[0]
        except CorruptRecordError:
            return False  # another file is there
        return (mark.next_offset, mark.epoch) == (last.next_offset, last.epoch)

    def _read_on(self, disk: SimDisk) -> None:
        segments = self.log._segments
        known_path, known_at = self._places[-1] if self._places else ("", 0)
        is_new = not known_path
        for segment in segments:
            path = segment.path
            if path == known_path:
                is_new = True
                data = held_by(segment, disk)
                at = known_at + _mark_at(data, known_at)[1]
            elif is_new:
                data, at = held_by(segment, disk), 0
            else:
                continue
            while at < segment.size:
                mark, length = _mark_at(data, at)
                marks = _offsets_of(mark) if is_compacted(self.log) else [mark]
                self.marks += marks
                self._places += [(path, at)] * len(marks)
                at += length


def _offsets_of(mark: BatchMark) -> list[BatchMark]:
    return [BatchMark(one, one + 1, mark.epoch, 0) for one in range(mark.base_offset, mark.next_offset)]


def _mark_at(data: bytes | bytearray, at: int) -> tuple[BatchMark, int]:
    header = parse_header(memoryview(data), at)
    mark = BatchMark(header.base_offset, header.next_offset, header.leader_epoch, header.crc)
    return mark, header.length
