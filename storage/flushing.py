"""Bring a log to disk without stopping it: the one job that runs in a pool thread.

A job takes, on the loop, everything it needs: handles of its own on the segments that were dirty at that moment, and,
if a checkpoint is due, an immutable picture of the log. It touches nothing of the log, which goes on appending.
So syncing, the exchange of compacted segments, the rebuildable index files of full ones, and the checkpoint are one
sequence, and the recovery point that it writes is exactly the offset up to which it synced.

Rules:

1. At most one job of a log is under way. Two syncs of one file at once could share one error between them: the kernel
   reports it to one of them only.
2. A sync that failed leaves the file ``failed`` behind and is never repeated.
3. A job whose log was closed meanwhile no longer writes a checkpoint: a successor may have the directory already.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from ..errors import InvariantViolated, StorageError, StorageFull
from .checkpoint import CHECKPOINT_FILE, FAILED_FILE, PRODUCERS_FILE, Checkpoint, encode_checkpoint
from .files import DISK_FULL, File, Files
from .producers import ProducerState, encode_snapshot
from .retention import make_room, remove_segments
from .segment import Segment
from .swapping import Swapping


class FlushJob:
    """Called once, from any thread. ``target`` is durable when it has returned."""

    def __init__(
        self,
        files: Files,
        directory: str,
        target: int,
        handles: Sequence[File],
        *,
        sync_dir: bool,
        index_writes: Sequence[tuple[str, bytes]] = (),
        checkpoint: Checkpoint | None = None,
        producers: dict[int, ProducerState] | None = None,
        producers_version: int = 0,
        doomed: Sequence[Segment] = (),
        swapping: Swapping | None = None,
    ) -> None:
        self.target = target
        self.checkpoint = checkpoint
        self.producers_version = producers_version
        self.doomed = tuple(doomed)  # lie below the checkpoint's log start offset
        self.swapping = swapping
        self.error: BaseException | None = None
        self.wrote_checkpoint = False
        self._files = files
        self._directory = directory
        self._handles = list(handles)
        self._sync_dir = sync_dir
        self._index_writes = index_writes
        self._producers = producers
        self._state = threading.Lock()  # guards what follows
        self._is_started = False
        self._is_abandoned = False
        self._is_done = False
        self._running = threading.Lock()  # held until it is done: an Event costs ten times as much, with every flush
        self._running.acquire()

    @property
    def is_done(self) -> bool:
        return self._is_done

    def __call__(self) -> None:
        """Sync, then write what was asked for.

        Raises:
            StorageError: a sync failed; nothing at or above the log's durable offset may be promised any more.
        """
        if not self._start():
            return
        try:
            self._sync()
            self._swap()
            self._write_checkpoint()
            self._remove_doomed()
            self._write_indexes()  # last: on a full disk the others make room
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._end()

    def finish(self) -> BaseException | None:
        """Return when the job is done, running it here if no thread has begun; the error it had, if any."""
        with contextlib.suppress(Exception):  # kept in self.error
            self()
        with self._running:
            return self.error

    def abandon(self) -> None:
        """Keep the job from writing a checkpoint, and from beginning at all if it has not; waits only for a write."""
        with self._state:
            self._is_abandoned = True
            if self._is_started:
                return
            self._is_started = True
        with contextlib.suppress(StorageError):  # it has promised nothing
            self._end()

    def _end(self) -> None:
        """Be done, whatever happens: who waits for it would wait for ever.

        Raises:
            StorageError: a file could not be closed, and nothing had failed before.
        """
        failures = []
        for handle in self._handles:
            try:
                handle.close()
            except OSError as error:
                failures.append(error)
        try:
            if failures and self.error is None:
                self.error = storage_error(f"{self._directory}: closing after a sync failed", failures[0])
                raise self.error from failures[0]
        finally:
            self._is_done = True
            self._running.release()

    def _start(self) -> bool:
        with self._state:
            if self._is_started:
                return False
            self._is_started = True
            return True

    def _sync(self) -> None:
        try:
            sync_all(self._files, self._directory, self._handles, sync_dir=self._sync_dir, target=self.target)
        except OSError as error:
            raise StorageError(f"{self._directory}: sync failed: {error.strerror or error}") from error

    def _swap(self) -> None:
        """Before the checkpoint: segments that it lets go may be among those that take their names now."""
        if self.swapping is None:
            return
        try:
            with self._state:
                if not self._is_abandoned:
                    self.swapping()
        except OSError as error:
            note = f"{self._directory}: compacted segments: {error.strerror or error}"
            raise StorageError(note) from error

    def _write_indexes(self) -> None:
        for path, content in self._index_writes:
            write_index(self._files, path, content)

    def _write_checkpoint(self) -> None:
        if self.checkpoint is None:
            return
        try:
            make_room(self._files, self.doomed)
            with self._state:
                if self._is_abandoned:
                    return
                self.wrote_checkpoint = try_checkpoint(
                    self._files, self._directory, self.checkpoint, self._producers or {}
                )
        except OSError as error:
            raise StorageError(f"{self._directory}: checkpoint failed: {error.strerror or error}") from error

    def _remove_doomed(self) -> None:
        if self.wrote_checkpoint and self.doomed:
            with self._state, contextlib.suppress(OSError):  # what is left goes when the log is opened the next time
                if self._is_abandoned:
                    return
                remove_segments(self._files, self.doomed)
                self._files.sync_dir(self._directory)


def sync_all(files: Files, directory: str, opened: Sequence[File], *, sync_dir: bool, target: int) -> None:
    """Sync files, and with ``sync_dir`` the directory. Every sync of what a log holds goes this way (rule 2).

    Raises:
        OSError: one failed; the mark ``failed`` is left, so that no later process tries again, which would succeed.
    """
    try:
        for file in opened:
            file.datasync()
        if sync_dir:
            files.sync_dir(directory)
    except OSError as error:
        note = f"{error.strerror or error}; durable below {target} is not known"
        with contextlib.suppress(OSError):  # the disk is failing: the page cache at least will hold it
            files.write_bytes(f"{directory}/{FAILED_FILE}", note.encode())
        raise


def storage_error(what: str, error: OSError) -> StorageError:
    kind = StorageFull if error.errno in DISK_FULL else StorageError
    return kind(f"{what}: {error.strerror or error}")


def write_first(files: Files, directory: str, checkpoint: Checkpoint) -> None:
    """Write the checkpoint that comes before a cut. Without room for it nothing is cut, and nothing has failed.

    Raises:
        StorageFull: there is no room.
    """
    try:
        files.write_atomic(f"{directory}/{CHECKPOINT_FILE}", encode_checkpoint(checkpoint))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise storage_error(f"{directory}: nothing is cut", error) from error


def write_index(files: Files, path: str, content: bytes) -> None:
    """Write an index file, or leave none: it can be rebuilt, and half of one only takes room."""
    try:
        files.write_bytes(path, content)
    except OSError:
        with contextlib.suppress(OSError):
            files.remove(path)


def try_checkpoint(files: Files, directory: str, checkpoint: Checkpoint, producers: dict[int, ProducerState]) -> bool:
    """Write both as ``write_checkpoint`` does. False: there is no room; the old ones are true, there will be others."""
    try:
        write_checkpoint(files, directory, checkpoint, producers)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return False
    return True


def write_checkpoint(files: Files, directory: str, checkpoint: Checkpoint, producers: dict[int, ProducerState]) -> None:
    """Write the producers, then the checkpoint: what lies below its recovery point has been synced."""
    if producers and not checkpoint.has_producers:
        raise InvariantViolated(f"{directory}: a checkpoint without its {len(producers)} producers")
    if checkpoint.has_producers:
        data = encode_snapshot(checkpoint.recovery_offset, producers)
        files.write_atomic(f"{directory}/{PRODUCERS_FILE}", data)
    files.write_atomic(f"{directory}/{CHECKPOINT_FILE}", encode_checkpoint(checkpoint))
