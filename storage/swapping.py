"""Put compacted segments into the place of those they were made of, so that a crash at any step leaves either.

    00…0100.cleaned            written and synced; not the log's yet. A crash: it is removed
    00…0100-00…0180.swap       it is the log's now, for the offsets 100 to 179. A crash: what follows is done again
    00…0100.log                after what it was made of has been removed

Rules of this file:

1. The rename to ``.swap``, once it is on disk, is the one moment at which the log changes. Before it the old segments
   are whole, after it the new one is.
2. What a new segment replaces is gone from the disk before it takes its name, indexes too: never do two files hold the
   same offsets, and never is an index believed that belonged to an older file.
3. Three syncs of the directory, however many segments there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .checkpoint import CLEANED_FILE
from .cleaned import Cleaned, encode_cleaned
from .files import DISK_FULL, Files
from .segment import INDEX_SUFFIX, LOG_SUFFIX, Segment, segment_name

CLEANED_SUFFIX, SWAP_SUFFIX = ".cleaned", ".swap"


@dataclass(frozen=True, slots=True)
class Swap:
    """One compacted segment, and those that it replaces."""

    segment: Segment  # its file is open, under the name of ``cleaned_name``, and synced
    inputs: tuple[Segment, ...]  # without a gap between two

    @property
    def begin(self) -> int:
        return self.segment.base_offset

    @property
    def end(self) -> int:
        return self.segment.next_offset


def cleaned_name(base_offset: int) -> str:
    return f"{segment_name(base_offset)}{CLEANED_SUFFIX}"


def swap_name(begin: int, end: int) -> str:
    return f"{segment_name(begin)}-{segment_name(end)}{SWAP_SUFFIX}"


def swap_range_of(name: str) -> tuple[int, int] | None:
    """Return the offsets that a file of this name replaces, or None when it is no ``.swap``."""
    begin, dash, end = name.removesuffix(SWAP_SUFFIX).partition("-")
    is_one = name.endswith(SWAP_SUFFIX) and dash and len(begin) == len(end) == 20
    return (int(begin), int(end)) if is_one and f"{begin}{end}".isdecimal() and name.isascii() else None


class Swapping:
    """The disk's part of an exchange that the log has made in memory; called once, where blocking is allowed."""

    def __init__(self, files: Files, directory: str, swaps: Sequence[Swap], cleaned: Cleaned) -> None:
        self.swaps = tuple(swaps)
        self._files = files
        self._directory = directory
        self._cleaned = cleaned

    def __call__(self) -> None:
        """Exchange the files, say how far the log is compacted. Raises ``OSError``: opening the log does it again."""
        files, directory = self._files, self._directory
        for swap in self.swaps:
            name = swap_name(swap.begin, swap.end)
            files.rename(f"{directory}/{cleaned_name(swap.begin)}", f"{directory}/{name}")
        if self.swaps:
            files.sync_dir(directory)
            _finish(files, directory, [(swap.begin, swap.end) for swap in self.swaps])
        try:
            files.write_atomic(f"{directory}/{CLEANED_FILE}", encode_cleaned(self._cleaned))
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise  # else: a hint; with the last one, more counts as not compacted yet


def complete_swaps(files: Files, directory: str, names: Sequence[str]) -> bool:
    """When a log is opened: finish the exchanges that were begun, drop what was never to be; True: names changed."""
    unfinished = [name for name in names if name.endswith(CLEANED_SUFFIX)]
    for name in unfinished:
        files.remove(f"{directory}/{name}")
    ranges = [found for name in names if (found := swap_range_of(name)) is not None]
    if ranges:
        _finish(files, directory, ranges)
    return bool(unfinished or ranges)


def install(segments: list[Segment], bases: list[int], swaps: Sequence[Swap]) -> list[Swap]:
    """Exchange the segments of a log in memory; return what was exchanged.

    Left out is what the log no longer has, in whole or in part: it was deleted from the front meanwhile.
    """
    done = []
    for swap in swaps:
        place = bisect_right(bases, swap.begin) - 1
        behind = place + len(swap.inputs)
        if place < 0 or behind >= len(segments) or tuple(segments[place:behind]) != swap.inputs:
            continue
        segments[place:behind], bases[place:behind] = [swap.segment], [swap.begin]
        done.append(swap)
    return done


def _finish(files: Files, directory: str, ranges: list[tuple[int, int]]) -> None:
    ranges = sorted(ranges)
    begins = [begin for begin, _ in ranges]
    for name in files.list_dir(directory):
        stem, suffix = name[:20], name[20:]
        if suffix not in (LOG_SUFFIX, INDEX_SUFFIX) or not (stem.isascii() and stem.isdecimal()):
            continue
        place = bisect_right(begins, int(stem)) - 1
        if place < 0 or int(stem) >= ranges[place][1]:
            continue
        if suffix == INDEX_SUFFIX or int(stem) != begins[place]:
            files.remove(f"{directory}/{name}")
    files.sync_dir(directory)
    for begin, end in ranges:
        files.rename(f"{directory}/{swap_name(begin, end)}", f"{directory}/{segment_name(begin)}{LOG_SUFFIX}")
    files.sync_dir(directory)
