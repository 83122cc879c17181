"""Open a log directory after whatever happened to it: which bytes are kept, which are cut.

What can have happened since the last checkpoint: a clean stop; a kill (the page cache is intact: all that was
written is there, perhaps with a batch cut short at the end); power loss (of what was not synced, any part may be
missing, in any order: short files, zeros, old and new sectors side by side, files that were never entered in their
directory).

The recovery point divides the log. *Below it* everything was synced. Nothing is read there, and nothing is ever cut
there: bytes that are missing are corruption, told with file and position. *Above it* every batch is read and its
checksum computed; the log ends before the first batch that is not whole, or does not follow its predecessor.

Without a checkpoint (it is written before the first segment is, so somebody removed or damaged it) the recovery
point is not known and may have been anywhere. Then the whole log is read, and a damaged batch ends the log only if no
whole batch follows it anywhere: a torn tail is never followed by one after a kill, whereas synced data damaged in the
middle is.

What recovery keeps is in the page cache only, as far as anyone knows: the durable offset stays at the recovery point
until a flush has covered the rest.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import CorruptRecordError, StorageCorruption, StorageError
from .batch import HEADER_BYTES, BatchHeader, check_crc, parse_header
from .checkpoint import (
    CHECKPOINT_FILE,
    CLEAN_FILE,
    CLEANED_FILE,
    FAILED_FILE,
    GAPS_FILE,
    PRODUCERS_FILE,
    REPAIR_FILE,
    Checkpoint,
    decode_checkpoint,
    decode_clean,
    decode_gaps,
)
from .cleaned import Cleaned, decode_cleaned
from .epochs import EpochHistory
from .files import Files
from .producers import ProducerStates
from .retention import remove_segments
from .segment import INDEX_SUFFIX, Segment, base_offset_of, segment_name, walk
from .swapping import complete_swaps
from .verification import find_batch, window


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening a log found. Offsets are of the log, counts in bytes."""

    was_clean: bool  # closed cleanly, and nothing has been lost since
    recovery_offset: int  # below it nothing was read
    log_end_offset: int
    scanned_bytes: int
    cut_bytes: int
    removed_segments: int
    had_checkpoint: bool
    producers_rebuilt: bool
    gap_offsets: int = 0  # that a repair gave up: the log has no records of them


@dataclass(slots=True)
class Recovered:
    """A log as it is in memory. ``segments`` is never empty unless the directory was new."""

    segments: list[Segment]
    log_start_offset: int
    recovery_offset: int
    recovery_segment: int  # place in ``segments`` of the first one that may hold unsynced bytes
    epochs: EpochHistory
    producers: ProducerStates
    report: RecoveryReport
    checkpoint: Checkpoint | None
    has_clean_marker: bool  # whether the file is there, true or not
    cleaned: Cleaned


@dataclass(slots=True)
class _Scan:
    """How far the scan has come."""

    expected: int  # offset that the next batch must bear
    epochs: EpochHistory
    producers: ProducerStates
    producers_from: int  # batches below it are in the snapshot already
    now_ms: int
    scanned_bytes: int = 0
    cut_bytes: int = 0
    removed: list[Segment] = field(default_factory=list)


def recover(
    files: Files, directory: str, index_interval_bytes: int, *, now_ms: int, producer_expiry_ms: int
) -> Recovered:
    """Return the log of a directory that exists; cuts a torn tail, touches nothing else.

    Raises:
        StorageCorruption: synced bytes are missing or damaged.
        StorageError: a sync has failed here.
        OSError: the directory cannot be read.
    """
    names = files.list_dir(directory)
    _refuse_failed(files, directory, names)
    if complete_swaps(files, directory, names):
        names = files.list_dir(directory)
    for name in names:
        if name.endswith(".tmp"):
            files.remove(f"{directory}/{name}")
    checkpoint = _load(files, f"{directory}/{CHECKPOINT_FILE}")
    known_gaps = decode_gaps(files.read_bytes(f"{directory}/{GAPS_FILE}")) if GAPS_FILE in names else None
    gaps = {end: begin for begin, end in known_gaps or ()}
    segments = _list_segments(files, directory, names, index_interval_bytes, checkpoint, gaps)
    _remove_deleted(files, segments, checkpoint)
    if checkpoint is not None and checkpoint.position == 0:
        _make_first_unsynced(files, directory, index_interval_bytes, segments, checkpoint)
    clean = decode_clean(files.read_bytes(f"{directory}/{CLEAN_FILE}")) if CLEAN_FILE in names else None

    first = segments[0].base_offset if segments else 0
    place = _place_of_recovery_point(directory, segments, checkpoint)
    recovery_offset = checkpoint.recovery_offset if checkpoint else first
    log_start_offset = max(checkpoint.log_start_offset if checkpoint else 0, first)
    scan, producers_rebuilt = _begin_scan(
        files, directory, names, checkpoint, recovery_offset, now_ms, producer_expiry_ms
    )
    if producers_rebuilt:
        _read_producers(segments[: place + 1], checkpoint, log_start_offset, scan)
    _scan_segments(segments, place, checkpoint, scan, gaps)
    end = scan.expected
    log_start_offset = min(log_start_offset, end)
    scan.epochs.truncate_from_start(log_start_offset)
    if scan.producers_from > max(end, recovery_offset):  # the snapshot knows batches that are gone
        files.remove(f"{directory}/{PRODUCERS_FILE}")
        scan.producers.clear()
        _read_producers(segments, None, log_start_offset, scan)
        producers_rebuilt = True
    was_clean = clean is not None and clean.log_end_offset == end and not scan.scanned_bytes and not scan.cut_bytes
    _remove_stale_indexes(files, directory, names, segments, place, is_clean=was_clean)
    report = RecoveryReport(
        was_clean=was_clean,
        recovery_offset=recovery_offset,
        log_end_offset=end,
        scanned_bytes=scan.scanned_bytes,
        cut_bytes=scan.cut_bytes,
        removed_segments=len(scan.removed),
        had_checkpoint=checkpoint is not None,
        producers_rebuilt=producers_rebuilt,
        gap_offsets=sum(
            end - max(begin, log_start_offset) for begin, end in known_gaps or () if end > log_start_offset
        ),
    )
    return Recovered(
        segments,
        log_start_offset,
        recovery_offset,
        place,
        scan.epochs,
        scan.producers,
        report,
        checkpoint,
        CLEAN_FILE in names,
        _load_cleaned(files, directory, names, checkpoint),
    )


# -- what is there ---------------------------------------------------------------------------------


def _refuse_failed(files: Files, directory: str, names: list[str]) -> None:
    if REPAIR_FILE in names:
        raise StorageError(f"{directory}: a repair was interrupted here: run `callboard log repair {directory}` again")
    if FAILED_FILE in names:
        said = files.read_bytes(f"{directory}/{FAILED_FILE}").decode("utf-8", "replace").strip()
        raise StorageError(
            f"{directory}: a sync failed here ({said}); what was written since may not be on disk. "
            f"Replace the disk; or accept what is left by removing {FAILED_FILE!r} after a restart of the machine"
        )


def _load(files: Files, path: str) -> Checkpoint | None:
    if not files.exists(path):
        return None
    checkpoint = decode_checkpoint(files.read_bytes(path))
    if checkpoint is None or min(checkpoint.log_start_offset, checkpoint.recovery_offset) < 0:
        return None
    return checkpoint


def _load_cleaned(files: Files, directory: str, names: list[str], checkpoint: Checkpoint | None) -> Cleaned:
    """Return how far the log has been compacted. Only what lies below the recovery point ever was."""
    if checkpoint is None or CLEANED_FILE not in names:
        return Cleaned()
    cleaned = decode_cleaned(files.read_bytes(f"{directory}/{CLEANED_FILE}")) or Cleaned()
    return cleaned if cleaned.offset <= checkpoint.recovery_offset else Cleaned()


def _end_before(base_offset: int, gaps: dict[int, int]) -> int:
    """Return where the segment before the one of ``base_offset`` ends: there, but for a gap that a repair left."""
    return gaps.get(base_offset, base_offset)


def _list_segments(
    files: Files,
    directory: str,
    names: list[str],
    index_interval_bytes: int,
    checkpoint: Checkpoint | None,
    gaps: dict[int, int],
) -> list[Segment]:
    """Return the segments with their sizes; each ends where the next begins, as far as is known before the scan."""
    bases = sorted(base for name in names if (base := base_offset_of(name)) is not None)
    segments = []
    for place, base in enumerate(bases):
        size = files.size(f"{directory}/{segment_name(base)}.log")
        is_below = checkpoint is not None and base < checkpoint.segment
        segment = Segment(
            files,
            directory,
            base,
            index_interval_bytes,
            size=size,
            gap=size,
            may_load_index=True,
            next_offset=_end_before(bases[place + 1], gaps) if is_below and place + 1 < len(bases) else base,
        )
        segments.append(segment)
    return segments


def _remove_deleted(files: Files, segments: list[Segment], checkpoint: Checkpoint | None) -> None:
    """Remove what lies wholly below the log start: a crash came between the checkpoint that says so and the removal."""
    if checkpoint is None:
        return
    bases = [segment.base_offset for segment in segments if segment.base_offset <= checkpoint.segment]
    count = bisect_right(bases, checkpoint.log_start_offset) - 1
    if count > 0:
        remove_segments(files, segments[:count])
        del segments[:count]


def _make_first_unsynced(
    files: Files, directory: str, index_interval_bytes: int, segments: list[Segment], checkpoint: Checkpoint
) -> None:
    """Have a segment at a recovery point where one begins: its entry may be lost while later ones are there."""
    bases = [segment.base_offset for segment in segments]
    if checkpoint.segment not in bases:
        segment = Segment(files, directory, checkpoint.segment, index_interval_bytes)
        segment.create()
        segments.insert(bisect_left(bases, checkpoint.segment), segment)


def _place_of_recovery_point(directory: str, segments: list[Segment], checkpoint: Checkpoint | None) -> int:
    """Return which segment holds the recovery point, having made sure that nothing below it is missing."""
    if checkpoint is None:
        return 0
    if segments and segments[0].base_offset > checkpoint.log_start_offset:
        missing = f"{directory}/{segment_name(checkpoint.log_start_offset)}.log"
        raise StorageCorruption(
            f"{directory} begins at offset {segments[0].base_offset}, not at {checkpoint.log_start_offset}", missing, 0
        )
    for place, segment in enumerate(segments):
        if segment.base_offset == checkpoint.segment:
            if segment.size < checkpoint.position:
                raise StorageCorruption(
                    f"{segment.path} has {segment.size} bytes, {checkpoint.position} were synced",
                    segment.path,
                    segment.size,
                )
            return place
    missing = f"{directory}/{segment_name(checkpoint.segment)}.log"
    raise StorageCorruption(f"{missing} is missing; it was synced to byte {checkpoint.position}", missing, 0)


# -- producers -------------------------------------------------------------------------------------


def _begin_scan(
    files: Files,
    directory: str,
    names: list[str],
    checkpoint: Checkpoint | None,
    recovery_offset: int,
    now_ms: int,
    producer_expiry_ms: int,
) -> tuple[_Scan, bool]:
    """Return the scan at the recovery point, and whether the producers below it must be read from the log."""
    epochs = EpochHistory(entry for entry in checkpoint.epochs if entry[1] <= recovery_offset) if checkpoint else None
    producers = ProducerStates(producer_expiry_ms)
    restored = None
    if checkpoint is not None and PRODUCERS_FILE in names:
        restored = producers.restore(files.read_bytes(f"{directory}/{PRODUCERS_FILE}"))
        if restored is not None and restored < recovery_offset:
            producers.clear()  # of an older checkpoint, which cannot be unless files were mixed
            restored = None
    scan = _Scan(
        expected=recovery_offset,
        epochs=epochs or EpochHistory(),
        producers=producers,
        producers_from=recovery_offset if restored is None else restored,
        now_ms=now_ms,
    )
    return scan, checkpoint is not None and checkpoint.has_producers and restored is None


def _read_producers(segments: list[Segment], checkpoint: Checkpoint | None, log_start_offset: int, scan: _Scan) -> None:
    """Rebuild the producers from the headers below the recovery point."""
    for segment in segments:
        is_last = checkpoint is not None and segment.base_offset == checkpoint.segment
        end = checkpoint.position if checkpoint is not None and is_last else segment.size
        for header in _headers(segment, end):
            if header.last_offset >= log_start_offset:
                scan.producers.record(header, scan.now_ms)


def _headers(segment: Segment, end: int) -> Iterator[BatchHeader]:
    for header, _ in walk(segment.file(), 0, end):
        yield header
    segment.close()


# -- the scan --------------------------------------------------------------------------------------


def _scan_segments(
    segments: list[Segment], place: int, checkpoint: Checkpoint | None, scan: _Scan, gaps: dict[int, int]
) -> None:
    """Read everything above the recovery point; cut where it ends."""
    for current in range(place, len(segments)):
        segment, is_first = segments[current], current == place
        position = checkpoint.position if checkpoint is not None and is_first else 0
        if scan.expected == gaps.get(segment.base_offset):
            scan.expected = segment.base_offset
        if segment.base_offset != scan.expected and not (is_first and checkpoint is not None):
            _end_log(segments, current, scan, checkpoint, f"expected offset {scan.expected}")
            return
        on_disk, segment.size, segment.gap, segment.unverified = segment.size, position, position, position
        segment.next_offset = scan.expected
        problem = _scan_segment(segment, on_disk, scan)
        if segment.size < on_disk:
            if checkpoint is None:
                _refuse_to_cut(segments[current:], on_disk, scan.expected, problem)
            scan.cut_bytes += on_disk - segment.size
            segment.file().truncate(segment.size)
            if current + 1 < len(segments):
                _end_log(segments, current + 1, scan, checkpoint, problem)
            return
        if current + 1 < len(segments):
            segment.close()


def _scan_segment(segment: Segment, end: int, scan: _Scan) -> str:
    """Note every whole batch from ``segment.size`` on; return why the next one is none ("" at the end)."""
    file, position = segment.file(), segment.size
    data, data_at = b"", position
    while position < end:
        data, data_at = window(file, data, data_at, position, HEADER_BYTES, end)
        try:
            header = parse_header(data, position - data_at)
            if position + header.length > end:
                return f"a batch of {header.length} bytes is cut short"
            if problem := _does_not_follow(header, scan):
                return problem
            data, data_at = window(file, data, data_at, position, header.length, end)
            check_crc(data, position - data_at, header)
        except CorruptRecordError as error:
            return error.detail
        segment.note(header)
        scan.epochs.assign(header.leader_epoch, header.base_offset)
        if header.base_offset >= scan.producers_from:
            scan.producers.record(header, scan.now_ms)
        scan.expected = header.next_offset
        scan.scanned_bytes += header.length
        position += header.length
    return ""


def _does_not_follow(header: BatchHeader, scan: _Scan) -> str:
    """Base offset and epoch lie outside the checksum: they must fit what stands before them."""
    if header.base_offset != scan.expected:
        return f"base offset {header.base_offset}, expected {scan.expected}"
    if header.leader_epoch < scan.epochs.latest:
        return f"leader epoch {header.leader_epoch} after {scan.epochs.latest}"
    return ""


def _end_log(segments: list[Segment], current: int, scan: _Scan, checkpoint: Checkpoint | None, problem: str) -> None:
    """Remove the segments from ``current`` on, the last one first, so that a crash in between leaves a log."""
    if checkpoint is None:
        _refuse_to_cut(segments[current:], 0, scan.expected, problem)
    for segment in reversed(segments[current:]):
        scan.cut_bytes += segment.size
        scan.removed.append(segment)
        segment.remove()
    del segments[current:]


def _refuse_to_cut(segments: list[Segment], on_disk: int, expected: int, problem: str) -> None:
    """Without a checkpoint: raise if a whole batch follows the place where the log seems to end."""
    first = segments[0]
    for segment in segments:
        begin, end = (first.size, on_disk) if segment is first and on_disk else (0, segment.size)
        found, _ = find_batch(segment.file(), begin, end, expected)
        if found >= 0:
            raise StorageCorruption(
                f"{first.path} at {first.size if on_disk else 0}: {problem}; a whole batch follows in {segment.path} "
                f"at {found}, and there is no checkpoint that says whether it was synced",
                first.path,
                first.size if on_disk else 0,
            )


# -- indexes ---------------------------------------------------------------------------------------


def _remove_stale_indexes(
    files: Files, directory: str, names: list[str], segments: list[Segment], place: int, *, is_clean: bool
) -> None:
    """After an unclean stop no index file at or above the recovery point is believed; strangers go always."""
    believed = {segment.index_path for segment in (segments if is_clean else segments[:place])}
    for name in names:
        path = f"{directory}/{name}"
        if name.endswith(INDEX_SUFFIX) and path not in believed and files.exists(path):
            files.remove(path)
