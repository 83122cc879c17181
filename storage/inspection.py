"""Read a log directory without its broker: what is in it, what is damaged, and what an operator can do about that.

Looking changes nothing and may be done while a broker runs (then the last batch may seem torn). A repair needs the
directory for itself, and is the only code that ever removes synced bytes; nothing runs it but a person:

- *cut*: the log ends at the first damage; everything behind it is given up;
- *skip*: only the damaged bytes go; the log has a gap in its offsets there, which the file ``gaps`` names.

Rules of this file:

1. Whatever is changed is copied aside first, on disk. A repair that was interrupted keeps the log from being opened;
   when it is run again it begins with the copies.
2. After a repair everything that is left has been read, checked and synced: the recovery point is the log end.
3. Damage at the very end, above the recovery point, is a torn tail: opening the log cuts it, no repair is needed.
4. Beside a broker files go while they are read: retention and compaction remove segments, a deletion the whole log.
   That is no damage; a report is made anew then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import StorageCorruption
from .batch import BatchHeader
from .checkpoint import (
    CHECKPOINT_FILE,
    CLEAN_FILE,
    CLEANED_FILE,
    FAILED_FILE,
    GAPS_FILE,
    PRODUCERS_FILE,
    REPAIR_FILE,
    Checkpoint,
    Repairing,
    decode_checkpoint,
    decode_gaps,
    decode_repairing,
    encode_gaps,
    encode_repairing,
)
from .epochs import EpochHistory
from .files import Files
from .flushing import write_checkpoint
from .producers import ProducerStates
from .segment import INDEX_SUFFIX, LOG_SUFFIX, base_offset_of, segment_name
from .swapping import complete_swaps, swap_name, swap_range_of
from .verification import Damage, EpochOf, scan

T = TypeVar("T")

COPY_BYTES = 4 << 20
LOOKS_MAX = 5  # at a log whose files change while they are read


@dataclass(slots=True)
class LogReport:
    """What stands in one log directory. Offsets are half-open."""

    directory: str
    log_start_offset: int = 0
    recovery_offset: int = 0
    log_end_offset: int = 0
    segments: int = 0
    size_bytes: int = 0
    batches: int = 0
    records: int = 0
    has_checkpoint: bool = False
    is_failed: bool = False  # a sync failed here
    is_unfinished: bool = False  # a repair was interrupted here
    damages: list[Damage] = field(default_factory=list)  # must be repaired, or fetched from elsewhere
    torn: list[Damage] = field(default_factory=list)  # the tail of a crash: cut when the log is opened
    gaps: list[tuple[int, int]] = field(default_factory=list)  # offsets that an earlier repair gave up

    @property
    def is_sound(self) -> bool:
        return not self.damages and not self.is_failed and not self.is_unfinished

    def would_lose(self, *, skip: bool) -> list[tuple[int, int]]:
        """Return the offsets that a repair gives up."""
        lost = [(damage.offset, damage.next_offset) for damage in self.damages if damage.is_loss]
        return lost if skip or not lost else [(lost[0][0], max(self.log_end_offset, lost[-1][1]))]


class LogView:
    """The files of one log directory, as they are now; nothing is changed."""

    def __init__(self, files: Files, directory: str) -> None:
        self.files = files
        self.directory = directory
        self.names = files.list_dir(directory)
        swaps = sorted(found for name in self.names if (found := swap_range_of(name)) is not None)
        self._swapped = dict(swaps)  # the broker ended while these took the place of others: base and end offset
        bases = (base for name in self.names if (base := base_offset_of(name)) is not None)
        kept = [base for base in bases if not any(begin <= base < end for begin, end in swaps)]
        self.bases = sorted([*kept, *self._swapped])
        self.checkpoint = self._read(CHECKPOINT_FILE, decode_checkpoint)
        self.gaps: list[tuple[int, int]] = self._read(GAPS_FILE, decode_gaps) or []
        self.recovery_offset = self.checkpoint.recovery_offset if self.checkpoint else -1
        self._epochs = EpochHistory(self.checkpoint.epochs if self.checkpoint else ())

    def _read(self, name: str, decode: Callable[[bytes], T | None]) -> T | None:
        return decode(self.files.read_bytes(f"{self.directory}/{name}")) if name in self.names else None

    def path(self, base: int) -> str:
        if base in self._swapped:
            return f"{self.directory}/{swap_name(base, self._swapped[base])}"
        return f"{self.directory}/{segment_name(base)}{LOG_SUFFIX}"

    def end_of(self, place: int) -> int | None:
        """Return the offset at which a segment must end; None: the last one, nobody knows."""
        known = self.checkpoint
        if place + 1 < len(self.bases):
            following = self.bases[place + 1]
        elif known is not None and known.segment > self.bases[place]:
            following = known.segment  # its file is missing
        else:
            return None
        return next((begin for begin, end in self.gaps if end == following), following)

    def is_torn(self, last: Damage | None) -> bool:
        """Whether what ``walk`` ended with is the torn tail of a crash: opening the log cuts it."""
        return last is not None and last.offset >= self.recovery_offset >= 0

    def walk(
        self, on_removed: Callable[[str], None] | None = None
    ) -> Iterator[tuple[int, BatchHeader, int] | tuple[int, Damage]]:
        """Yield (segment's base offset, header, position) of each batch, checked; (base offset, damage) in between.

        Args:
            on_removed: told the path of each segment that was removed since this view was made.

        Raises:
            FileNotFoundError: one was, and nobody is to be told.
        """
        if (first := self._missing_first()) is not None:
            yield first.offset, first
        for place, base in enumerate(self.bases):
            try:
                file = self.files.open(self.path(base), read_only=True)
            except FileNotFoundError:
                if on_removed is None:
                    raise
                on_removed(self.path(base))
                continue
            try:
                expected = base
                for begin, end, ends_at in self._parts(place, file.size):
                    for found in scan(file, begin, end, expected, ends_at, self._epoch_of()):
                        yield (base, found) if isinstance(found, Damage) else (base, *found)
                        expected = found.next_offset if isinstance(found, Damage) else found[0].next_offset
            finally:
                file.close()

        if (last := self._missing_last()) is not None:
            yield last.offset, last

    def _missing_first(self) -> Damage | None:
        """Return what is missing of the synced records before the first segment that there is."""
        known = self.checkpoint
        if known is None:
            return None
        end = min(self.bases[0], known.recovery_offset) if self.bases else known.recovery_offset
        if end <= known.log_start_offset:
            return None
        problem = f"it is missing; the log begins at offset {known.log_start_offset}"
        return Damage(self.path(known.log_start_offset), 0, 0, known.log_start_offset, end, problem)

    def _missing_last(self) -> Damage | None:
        """Return what is missing of the synced records if the segment of the recovery point is, and all behind it."""
        known = self.checkpoint
        if known is None or not known.position or not self.bases or self.bases[-1] >= known.segment:
            return None
        problem = f"it is missing; it was synced to byte {known.position}"
        begin = max(known.segment, known.log_start_offset)
        return Damage(self.path(known.segment), 0, 0, begin, known.recovery_offset, problem)

    def _parts(self, place: int, size: int) -> list[tuple[int, int, int | None]]:
        """Return the parts of a segment below and above the recovery point: begin, end, and the offset behind them."""
        known = self.checkpoint
        if known is None or known.segment != self.bases[place] or not known.position:
            return [(0, size, self.end_of(place))]
        end = self.end_of(place)
        if size <= known.position:
            return [(0, size, known.recovery_offset if end is None else end)]
        return [(0, known.position, known.recovery_offset), (known.position, size, end)]

    def _epoch_of(self) -> EpochOf:
        return lambda offset: self._epochs.epoch_at(offset) if offset < self.recovery_offset else -1

    def report(self) -> LogReport:
        """Read everything and tell what there is."""
        report = LogReport(self.directory)
        checkpoint = self.checkpoint
        report.has_checkpoint = checkpoint is not None
        report.is_failed = FAILED_FILE in self.names
        report.is_unfinished = REPAIR_FILE in self.names
        report.gaps = list(self.gaps)
        first = self.bases[0] if self.bases else 0
        report.log_start_offset = max(first, checkpoint.log_start_offset if checkpoint else 0)
        report.recovery_offset = max(self.recovery_offset, 0)
        report.segments = len(self.bases)
        report.size_bytes = sum(self.files.size(self.path(base)) for base in self.bases)
        report.log_end_offset = first
        last: Damage | None = None
        for found in self.walk():
            if len(found) == 2:
                last = found[1]
                report.damages.append(last)
                continue
            header = found[1]
            last = None
            report.batches += 1
            report.records += header.count
            report.log_end_offset = header.next_offset
        if self.bases:
            report.log_end_offset = max(report.log_end_offset, self.bases[-1])
        if self.is_torn(last):
            report.torn.append(report.damages.pop())
        return report


def report_of(files: Files, directory: str) -> LogReport:
    """Return what stands in a log that a broker may be at work on (rule 4).

    Raises:
        FileNotFoundError: it was removed; or its files were others each time, within ``LOOKS_MAX`` looks.
    """
    for _ in range(LOOKS_MAX - 1):
        try:
            view = LogView(files, directory)
            report = view.report()
            if not report.damages or files.list_dir(directory) == view.names:
                return report
        except FileNotFoundError:
            if not files.exists(directory):
                raise
    return LogView(files, directory).report()


def find_logs(files: Files, path: str) -> list[str]:
    """Return the log directories at or below a log directory, a broker's directory or a data directory.

    Raises:
        OSError: it cannot be read.
    """
    found, places = [], [(path.rstrip("/") or "/", 0)]
    while places:
        place, depth = places.pop()
        try:
            names = files.list_dir(place)
        except FileNotFoundError:
            if not depth:
                raise
            continue  # it was there a moment ago: its topic was deleted
        if CHECKPOINT_FILE in names or any(base_offset_of(name) is not None for name in names):
            found.append(place)
        elif depth < 2:
            places += [(f"{place}/{name}", depth + 1) for name in names if _is_dir(files, f"{place}/{name}")]
    return sorted(found)


def _is_dir(files: Files, path: str) -> bool:
    try:
        files.list_dir(path)
    except OSError:
        return False
    return True


# -- repair ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    aside: str  # where the files as they were have been copied
    lost: list[tuple[int, int]]  # offsets that the log no longer has
    log_start_offset: int
    log_end_offset: int


def repair(files: Files, directory: str, aside: str, *, skip: bool) -> Repaired:
    """Repair a log that nobody else uses: cut it at the first damage, or take the damaged bytes out.

    Args:
        aside: a name, not yet there, for a directory in the log directory that keeps the files as they were.

    Raises:
        StorageCorruption: there is nothing to repair.
        OSError: the disk.
    """
    _restore(files, directory)
    complete_swaps(files, directory, files.list_dir(directory))
    view = LogView(files, directory)
    report = view.report()
    if not report.damages:
        raise StorageCorruption(f"{directory}: nothing is damaged", directory)
    surplus = [damage for damage in report.damages if not damage.is_loss]
    losses = [damage for damage in report.damages if damage.is_loss]
    damages = losses if skip else losses[:1]
    touched = {damage.path for damage in (*damages, *surplus, *report.torn)}
    if not skip and damages:
        touched |= {view.path(base) for base in view.bases if base > damages[0].offset}
    keep = f"{directory}/{aside}"
    files.make_dir(keep)
    for path in [*sorted(touched), *(f"{directory}/{name}" for name in (CHECKPOINT_FILE, PRODUCERS_FILE, GAPS_FILE))]:
        if files.exists(path):
            _copy(files, path, f"{keep}/{path.rpartition('/')[2]}")
    files.sync_dir(keep)
    files.sync_dir(directory)
    begun = Repairing(aside=aside, names=tuple(name for name in view.names if name != REPAIR_FILE))
    files.write_atomic(f"{directory}/{REPAIR_FILE}", encode_repairing(begun))

    for name in view.names:
        if name.endswith(INDEX_SUFFIX) or name in (CLEAN_FILE, CLEANED_FILE):
            files.remove(f"{directory}/{name}")
    for behind in surplus if skip or not damages else ():
        _truncate(files, behind.path, behind.position)
    if skip:
        for torn in report.torn:
            _truncate(files, torn.path, torn.position)
        for damage in reversed(damages):
            is_last = damage is damages[-1] and damage.next_offset > report.log_end_offset
            _take_out(files, view, damage, is_last=is_last)
        gaps = [*view.gaps, *((damage.offset, damage.next_offset) for damage in damages)]
        files.write_atomic(f"{directory}/{GAPS_FILE}", encode_gaps(_merged(gaps)))
    elif damages:
        _cut(files, view, damages[0])
    end, start = _write_truth(files, directory, report.log_start_offset, view.checkpoint)
    files.remove(f"{directory}/{REPAIR_FILE}")
    files.sync_dir(directory)
    return Repaired(keep, report.would_lose(skip=skip), start, end)


def _restore(files: Files, directory: str) -> None:
    """If a repair was interrupted here, put everything back as it was; may be interrupted and repeated."""
    if not files.exists(f"{directory}/{REPAIR_FILE}"):
        return
    begun = decode_repairing(files.read_bytes(f"{directory}/{REPAIR_FILE}"))
    if begun is None:
        raise StorageCorruption(f"{directory}/{REPAIR_FILE} is damaged: put the files back by hand", directory)
    for name in files.list_dir(directory):
        is_segment = base_offset_of(name) is not None or name == GAPS_FILE
        if is_segment and name not in begun.names:
            files.remove(f"{directory}/{name}")
    for name in files.list_dir(f"{directory}/{begun.aside}"):
        _copy(files, f"{directory}/{begun.aside}/{name}", f"{directory}/{name}.tmp")
        files.rename(f"{directory}/{name}.tmp", f"{directory}/{name}")
    files.sync_dir(directory)


def _cut(files: Files, view: LogView, first: Damage) -> None:
    """Let the log end before the first damage."""
    for base in reversed(view.bases):
        if base > first.offset or (base == first.offset and first.position == 0 and base != view.bases[0]):
            files.remove(view.path(base))
    if files.exists(first.path):
        _truncate(files, first.path, first.position)


def _take_out(files: Files, view: LogView, damage: Damage, *, is_last: bool) -> None:
    """Let a segment end before the damage, and another begin behind it; at the log's end an empty one: no offset is
    given twice.
    """
    behind = view.path(damage.next_offset)
    if not files.exists(damage.path):
        if is_last:
            files.open(behind, create=True).close()
        return
    size = files.size(damage.path)
    if damage.end_position < size or is_last:
        _copy(files, damage.path, f"{behind}.tmp", damage.end_position)
        files.rename(f"{behind}.tmp", behind)
        files.sync_dir(view.directory)
    if damage.position:
        _truncate(files, damage.path, damage.position)
    else:
        files.remove(damage.path)
        files.sync_dir(view.directory)


def _write_truth(files: Files, directory: str, log_start_offset: int, known: Checkpoint | None) -> tuple[int, int]:
    """Sync all that is left, read it, and write the checkpoint and the producers that fit it; return end and start."""
    view = LogView(files, directory)
    producers = ProducerStates()
    known_to = -1
    if PRODUCERS_FILE in view.names:
        known_to = producers.restore(files.read_bytes(f"{directory}/{PRODUCERS_FILE}")) or -1
    headers = [found[1] for found in view.walk() if len(found) == 3]
    first = view.bases[0] if view.bases else log_start_offset
    end = max(headers[-1].next_offset if headers else first, view.bases[-1] if view.bases else first)
    before = producers.copy()
    producers.clear()
    for state in before.values():
        producers.keep_below(state, end)
    epochs = EpochHistory()
    for header in headers:
        epochs.assign(header.leader_epoch, header.base_offset)
        if header.base_offset >= known_to:
            producers.record(header, 0)
    for base in view.bases:
        _truncate(files, view.path(base), files.size(view.path(base)))
    files.sync_dir(directory)
    start = min(max(log_start_offset, first), end)
    epochs.truncate_from_start(start)
    checkpoint = Checkpoint(
        log_start_offset=start,
        recovery_offset=end,
        segment=view.bases[-1] if view.bases else start,
        position=files.size(view.path(view.bases[-1])) if view.bases else 0,
        segment_created_ms=known.segment_created_ms if known else 0,
        epochs=epochs.entries,
        has_producers=len(producers) > 0,
    )
    write_checkpoint(files, directory, checkpoint, producers.copy())
    return end, start


def _truncate(files: Files, path: str, size: int) -> None:
    file = files.open(path)
    try:
        if file.size != size:
            file.truncate(size)
        file.datasync()
    finally:
        file.close()


def _copy(files: Files, source: str, target: str, begin: int = 0) -> None:
    """Copy a file from ``begin`` on; on disk when this returns, but for its entry in the directory."""
    old, new = files.open(source, read_only=True), files.open(target, create=True)
    try:
        new.truncate(0)
        while data := old.pread(COPY_BYTES, begin):
            new.append([data])
            begin += len(data)
        new.datasync()
    finally:
        old.close()
        new.close()


def _merged(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(set(gaps)):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
