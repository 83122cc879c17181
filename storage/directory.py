"""A log directory's begin and end, so that no crash leaves something that looks like a log and is none.

It begins with its checkpoint, on disk, before there is a segment: so a log without a checkpoint has lost it. It ends
under another name.
"""

from __future__ import annotations

from .checkpoint import CHECKPOINT_FILE, Checkpoint, encode_checkpoint
from .files import Files, parent_of
from .recovery import Recovered, recover
from .segment import Segment


def open_directory(
    files: Files, directory: str, index_interval_bytes: int, *, now_ms: int, producer_expiry_ms: int
) -> Recovered:
    """Return the log of a directory, which is made when it is not there; the last segment can be appended to."""
    make_directory(files, directory)
    recovered = recover(files, directory, index_interval_bytes, now_ms=now_ms, producer_expiry_ms=producer_expiry_ms)
    if not recovered.segments:
        begin_empty(files, directory, index_interval_bytes, recovered, now_ms)
    active = recovered.segments[-1]
    active.file()
    known = recovered.checkpoint
    is_known = known is not None and known.segment == active.base_offset and known.segment_created_ms > 0
    active.created_ms = known.segment_created_ms if known is not None and is_known else now_ms
    return recovered


def make_directory(files: Files, directory: str) -> None:
    """Create a directory and what is missing above it, each entered in its parent on disk."""
    if not files.exists(directory):
        parent = parent_of(directory)
        make_directory(files, parent)
        files.make_dir(directory)
        files.sync_dir(parent)


def begin_empty(files: Files, directory: str, index_interval_bytes: int, recovered: Recovered, now_ms: int) -> None:
    """Make an empty log: first the checkpoint, on disk, then the first segment."""
    start = recovered.log_start_offset
    if recovered.checkpoint is None:
        recovered.checkpoint = checkpoint = empty_checkpoint(start, now_ms)
        files.write_atomic(f"{directory}/{CHECKPOINT_FILE}", encode_checkpoint(checkpoint))
    segment = Segment(files, directory, start, index_interval_bytes)
    segment.create()
    recovered.segments.append(segment)


def empty_checkpoint(start: int, now_ms: int) -> Checkpoint:
    """Return what the checkpoint of a log says that begins and ends at ``start``."""
    return Checkpoint(
        log_start_offset=start,
        recovery_offset=start,
        segment=start,
        position=0,
        segment_created_ms=now_ms,
        epochs=(),
        has_producers=False,
        high_watermark=start,
    )


def set_aside(files: Files, directory: str) -> None:
    """Keep a closed log under another name (``….damaged``), for a person to look at; of several only the last one."""
    if not files.exists(directory):
        return
    kept = directory + ".damaged"
    if files.exists(kept):
        files.remove_tree(kept)
    files.rename(directory, kept)
    files.sync_dir(parent_of(directory))


def remove_directory(files: Files, directory: str) -> None:
    """Remove a directory, renamed first: half of it is never found under its name."""
    doomed = directory + ".removed"
    if files.exists(directory):
        files.rename(directory, doomed)
    if files.exists(doomed):
        files.remove_tree(doomed)
        files.sync_dir(parent_of(directory))
