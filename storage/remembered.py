"""What a log's directory says of the log beside its records (see checkpoint.py), and whether that is still so.

Owned by the log; one thread, like the log. A job writes in a thread of its own (see flushing.py): what it wrote is
noted here when it has ended. Nothing is noted before it is on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import KIB
from .checkpoint import CLEAN_FILE, PRODUCERS_FILE, Checkpoint, encode_clean
from .cutting import lowered
from .files import Files
from .flushing import storage_error, try_checkpoint, write_first
from .producers import ProducerStates
from .recovery import Recovered
from .segment import Mark, Segment

# Behind the recovery point, what is no small change any more: reading either takes a recovery a few milliseconds.
CHECKPOINT_BYTES = 256 * KIB
CHECKPOINT_OFFSETS = 512


class Remembered:
    """See the top of the file."""

    def __init__(self, files: Files, directory: str, recovered: Recovered) -> None:
        self.checkpoint: Checkpoint | None = recovered.checkpoint  # the one there is; None: there is none
        self._files = files
        self._directory = directory
        # The version of the producers on disk; -1: there are none, or none to be trusted.
        self._producers_version = -1 if recovered.report.producers_rebuilt else recovered.producers.version
        self._waits_since_ms: int | None = None  # since a change was seen that the checkpoint does not say
        self._has_clean_mark = recovered.has_clean_marker
        self._is_clean_mark_true = recovered.report.was_clean

    @property
    def log_start_offset(self) -> int:
        """After any crash the log begins there or later."""
        return self.checkpoint.log_start_offset if self.checkpoint is not None else 0

    @property
    def is_behind(self) -> bool:
        """Whether a change waits to be written (``is_due``)."""
        return self._waits_since_ms is not None

    def says(self, checkpoint: Checkpoint, producers_version: int) -> bool:
        """Whether writing these would change nothing."""
        return self.checkpoint == checkpoint and self._producers_version == producers_version

    def note(self, checkpoint: Checkpoint | None, producers_version: int) -> None:
        """They are on disk now."""
        self.checkpoint, self._producers_version = checkpoint, producers_version
        self._waits_since_ms = None

    def is_due(self, checkpoint: Checkpoint, producers_version: int, now_ms: int, max_age_ms: int) -> bool:
        """Whether to write these now. What they change may wait while it is little and was first seen here lately.

        Args:
            now_ms: wall clock; one that was set is no reason to wait for ever.
            max_age_ms: how long it may; 0: not at all.
        """
        if self.says(checkpoint, producers_version):
            self._waits_since_ms = None
            return False
        if self._waits_since_ms is None:
            self._waits_since_ms = now_ms
        return self._is_much(checkpoint) or abs(now_ms - self._waits_since_ms) >= max_age_ms

    def _is_much(self, checkpoint: Checkpoint) -> bool:
        known = self.checkpoint
        if known is None or known.segment != checkpoint.segment:
            return True
        return (
            known.log_start_offset != checkpoint.log_start_offset  # somebody waits for that to be on disk
            or checkpoint.position - known.position >= CHECKPOINT_BYTES
            or checkpoint.recovery_offset - known.recovery_offset >= CHECKPOINT_OFFSETS
        )

    # -- cutting: all of it blocks -----------------------------------------------------------------------------

    def lower(self, log_start_offset: int, epochs: Sequence[tuple[int, int]], last: Segment, mark: Mark) -> None:
        """Make the checkpoint true before and after a cut of ``last`` at ``mark``; raises as ``write_first``."""
        checkpoint = lowered(self.checkpoint, log_start_offset, epochs, last, mark)
        if checkpoint is not None:
            self.write_first(checkpoint)

    def write_first(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint that comes before a cut.

        Raises:
            StorageFull: there is no room; nothing has changed.
        """
        write_first(self._files, self._directory, checkpoint)
        self.checkpoint = checkpoint

    def forget_producers(self, *, sync_dir: bool) -> None:
        """Remove the producers: they know of records that are about to go."""
        if self._files.exists(f"{self._directory}/{PRODUCERS_FILE}"):
            self._files.remove(f"{self._directory}/{PRODUCERS_FILE}")
            if sync_dir:
                self._files.sync_dir(self._directory)

    def try_write(self, checkpoint: Checkpoint, producers: ProducerStates) -> bool:
        """Write both after a cut. False: there is no room; the checkpoint is true, and the producers are not there."""
        if not try_checkpoint(self._files, self._directory, checkpoint, producers.copy()):
            self._producers_version = -1
            return False
        self.note(checkpoint, producers.version)
        return True

    # -- the mark of a clean end -------------------------------------------------------------------------------

    def leave_clean_mark(self, log_end_offset: int) -> None:
        """Say that all is on disk up to the log end, which the checkpoint bears. Blocks; raises ``OSError``."""
        if not (self._has_clean_mark and self._is_clean_mark_true):
            self._files.write_atomic(f"{self._directory}/{CLEAN_FILE}", encode_clean(log_end_offset))

    def remove_clean_mark(self) -> None:
        """Before the first append or cut: from now on a crash must not look like a clean end.

        Raises:
            StorageError: it could not be removed.
        """
        if not self._has_clean_mark:
            return
        try:
            self._files.remove(f"{self._directory}/{CLEAN_FILE}")
            self._files.sync_dir(self._directory)
        except OSError as error:
            raise storage_error(f"{self._directory}: the mark of a clean end could not be removed", error) from error
        self._has_clean_mark = False
