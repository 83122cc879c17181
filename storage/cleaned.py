"""How far a log has been compacted, and when: which tombstones may go.

A tombstone (a record with a null value) must stay for a while after everything older of its key has gone, so that a
reader who began before that still learns of the deletion. So the log remembers up to which offset it was compacted, and
when. Pure; the file ``cleaned`` is a hint like the others: without it everything counts as not compacted yet, and all
tombstones stay for another ``delete_retention_ms``.

Rules of this file:

1. Below ``Cleaned.offset`` no key has two records: a tombstone there has nothing older to hide.
2. A part's time is never before the end of the compaction that reached its offset. It is rounded up, to eighths of the
   retention: so there are few parts, and a log that is compacted without a pause lets its tombstones go all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .checkpoint import CLEANED_FILE, seal, unseal
from .files import Files

ROUNDED_TO = 8  # parts of delete_retention_ms


class CleanedPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """From where the part before it ends up to ``offset``."""

    offset: int  # exclusive
    at_ms: int  # wall clock; the compaction that reached ``offset`` had ended
    tombstones: int  # that were left in it


class Cleaned(msgspec.Struct, frozen=True):
    """The compacted parts of one log, ascending in offset and time."""

    parts: tuple[CleanedPart, ...] = ()

    @property
    def offset(self) -> int:
        """Everything below was compacted; 0: nothing was."""
        return self.parts[-1].offset if self.parts else 0

    def tombstones_below(self, now_ms: int, retention_ms: int) -> int:
        """Return the offset below which tombstones have stayed long enough."""
        return max((part.offset for part in self.parts if part.at_ms + retention_ms <= now_ms), default=0)

    def has_due_tombstones(self, now_ms: int, retention_ms: int) -> bool:
        return any(part.tombstones and part.at_ms + retention_ms <= now_ms for part in self.parts)

    def after(self, offset: int, now_ms: int, retention_ms: int, tombstones: Sequence[int]) -> Cleaned:
        """Return what is known after a compaction up to ``offset`` that ended now.

        Args:
            tombstones: how many are left in each part, and in the new one, which is behind them.
        """
        step_ms = max(retention_ms // ROUNDED_TO, 1)
        at_ms = max([-(-now_ms // step_ms) * step_ms, *(part.at_ms for part in self.parts)])
        counted = [
            CleanedPart(part.offset, part.at_ms, left) for part, left in zip(self.parts, tombstones, strict=False)
        ]
        if offset > self.offset:
            counted.append(CleanedPart(offset, at_ms, tombstones[-1]))
        due = [part.at_ms + retention_ms <= now_ms for part in counted]
        parts: list[CleanedPart] = []
        for place, part in enumerate(counted):
            is_one = bool(parts) and (parts[-1].at_ms == part.at_ms or (due[place - 1] and due[place]))
            before = parts.pop().tombstones if is_one else 0
            parts.append(CleanedPart(part.offset, part.at_ms, before + part.tombstones))
        return Cleaned(tuple(parts))


def encode_cleaned(cleaned: Cleaned) -> bytes:
    return seal(msgspec.json.encode(cleaned.parts))


def forget_cleaned(files: Files, directory: str) -> None:
    """Remove the file, on disk when this returns. Blocks."""
    if files.exists(f"{directory}/{CLEANED_FILE}"):
        files.remove(f"{directory}/{CLEANED_FILE}")
        files.sync_dir(directory)


def decode_cleaned(data: bytes) -> Cleaned | None:
    """Return what the file says, or None when it is damaged."""
    raw = unseal(data)
    if raw is None:
        return None
    try:
        return Cleaned(msgspec.json.decode(raw, type=tuple[CleanedPart, ...]))
    except (msgspec.DecodeError, ValueError):
        return None
