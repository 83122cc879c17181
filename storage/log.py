"""The log of one partition: append, read, flush, cut. Owned by one actor; nothing here is thread-safe.

Three offsets matter: ``log_start_offset <= durable_offset <= log_end_offset``. Records below the durable offset survive
power loss; those above it survive the process, because they are in the page cache.

Rules of this file:

1. All or nothing: an append that fails leaves the log as it was, in memory and on disk, or the log is failed and
   every later call says so.
2. Blocking work is never done here while the log serves: ``begin_flush`` and ``begin_checkpoint`` hand out a job for
   a pool thread (see flushing.py). Opening, truncating and closing do block.
3. Rolling syncs nothing. The old segment stays among the dirty ones until a flush has covered it, so the durable
   offset does not pass it.
4. The log knows headers, never records: the layout of a batch is not its business, except to find a timestamp.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Sequence

from ..config import TopicConfig
from ..errors import OffsetOutOfRangeError, StorageError
from .batch import BatchHeader
from .checkpoint import Checkpoint
from .cleaner import Cleaner
from .compaction import Compaction, Terms
from .cutting import rebuild_producers
from .directory import empty_checkpoint, open_directory, remove_directory
from .files import Buffer, Files
from .flushing import FlushJob, storage_error, sync_all, write_checkpoint, write_index
from .reading import Reader
from .recovery import Recovered, RecoveryReport
from .remembered import Remembered
from .retention import due_count, make_room, remove_segments
from .segment import Mark, Segment
from .verification import Damage, require_next

__all__ = ["FlushJob", "Log", "RecoveryReport"]


class Log:
    """The records of one partition on one broker. Made by ``Log.open``."""

    def __init__(self, files: Files, directory: str, config: TopicConfig, recovered: Recovered) -> None:
        self.directory = directory
        self.recovery: RecoveryReport = recovered.report
        self.epochs = recovered.epochs  # moved by append, truncate_to, and by whoever begins to lead
        self.producers = recovered.producers  # moved by append and truncate_to
        self.log_start_offset = recovered.log_start_offset  # <= log_end_offset; moved by delete_before and retain
        self.durable_offset = recovered.recovery_offset  # <= log_end_offset; moved by flushes
        # What is committed, as far as the replica knows: moved by it, kept by checkpoints, cut with the log.
        self.high_watermark = recovered.checkpoint.high_watermark if recovered.checkpoint else 0
        self._files = files
        self._config = config
        self._segments = recovered.segments  # never empty, ascending; the last one is appended to
        self._bases = [segment.base_offset for segment in self._segments]
        self._dirty = self._segments[recovered.recovery_segment :]  # hold bytes at or above the durable offset
        self._is_dir_dirty = True  # an entry of the directory may not be on disk
        self._fresh_indexes = self._dirty[:-1]  # full since the last job: their index files are not written
        self._job: FlushJob | None = None  # at most one under way
        self._told_durable_offset = self.durable_offset  # <= durable_offset; what the last end_flush let be known
        self._is_checkpoint_due = recovered.checkpoint is None
        self.on_disk = Remembered(files, directory, recovered)
        self._doomed: list[Segment] = []  # no longer read; removed by the job that writes the log start offset
        self._reader = Reader(
            directory,
            self._segments,
            self._bases,
            self.epochs,
            lambda segment: (
                segment in self._dirty  # for the sync, which must see errors since the write
                or self.cleaner.is_unnamed(segment)
            ),
        )
        self.cleaner = Cleaner(files, directory, self._segments, self._bases, recovered.cleaned)
        self._failure: str = ""  # why nothing works any more
        if recovered.report.was_clean and self.durable_offset == self.log_end_offset:
            self._dirty, self._is_dir_dirty = [], False

    # -- opening and closing -----------------------------------------------------------------------------

    @classmethod
    def open(
        cls, files: Files, directory: str, config: TopicConfig, *, now_ms: int, producer_expiry_ms: int = 86_400_000
    ) -> Log:
        """Return the log of a directory, created when it is not there, recovered when it is. Blocks: call it in a pool.

        The durable offset begins at the recovery point; ``begin_flush`` covers what was kept above it.

        Raises:
            StorageCorruption: bytes that were synced are damaged or gone; nothing was cut.
            StorageError: a sync failed in this directory before, or it cannot be read or written.
        """
        try:
            recovered = open_directory(
                files, directory, config.index_interval_bytes, now_ms=now_ms, producer_expiry_ms=producer_expiry_ms
            )
        except OSError as error:
            raise storage_error(f"{directory}: cannot be opened", error) from error
        return cls(files, directory, config, recovered)

    def close(self, now_ms: int, clean: bool = True) -> None:
        """Close the files; with ``clean``, after everything is on disk, so that the next open reads nothing. Blocks.

        A log that has failed, or fails now, is closed without the mark of a clean end; nothing is raised.
        """
        try:
            if clean and not self._failure:
                with contextlib.suppress(StorageError):  # said by the missing mark, and found by the next open
                    self._close_cleanly(now_ms)
            elif self._job is not None:
                self._job.abandon()
        finally:
            self._failure = self._failure or "it is closed"
            for segment in self._segments:
                segment.close()

    @staticmethod
    def remove(files: Files, directory: str) -> None:
        """Remove a closed log: renamed first, so that no crash leaves half of one behind under its name."""
        remove_directory(files, directory)

    # -- where it stands -----------------------------------------------------------------------------------

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._segments[-1].next_offset

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def reconfigure(self, config: TopicConfig) -> None:
        """Use other settings from now on; what is written stays as it is."""
        self._config = config

    # -- appending -------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Sequence[Buffer]], headers: Sequence[BatchHeader], now_ms: int) -> None:
        """Append batches that have been checked and stamped with their offsets; one system call for all.

        Only when a segment is full in between, there are two. A batch whose append failed is gone for this process and
        after a kill; after power loss it may be there all the same, if it was whole: its outcome is as unknown as that
        of any batch that was not acknowledged.

        Args:
            batches: each as frames, the first one its stamped prefix.
            headers: of the same batches, with the same offsets and epochs.

        Raises:
            StorageFull: the disk is full; the log is as it was.
            StorageError: the write failed; the log is as it was, unless it says that it failed.
            InvariantViolated: the offsets do not follow the log end.
        """
        self._require_usable()
        require_next(self.directory, batches, headers, self.log_end_offset, self.epochs.latest)
        self.on_disk.remove_clean_mark()
        before = self._segments[-1]
        mark, created_ms, rolled_at = before.mark, before.created_ms, len(self._segments)
        try:
            self._append(batches, headers, now_ms)
        except OSError as error:
            self._undo(before, mark, created_ms, rolled_at)
            self._require_usable()
            raise storage_error(f"{self.directory}: append failed", error) from error
        for header in headers:
            self.epochs.assign(header.leader_epoch, header.base_offset)
            if header.producer_id >= 0:
                self.producers.record(header, now_ms)

    def roll_if_due(self, now_ms: int) -> bool:
        """Begin a new segment if the last one is older than ``segment_ms``; call it now and then."""
        active = self._segments[-1]
        if not active.size or now_ms - active.created_ms < self._config.segment_ms:
            return False
        self._require_usable()
        try:
            self._roll()
        except OSError as error:
            raise storage_error(f"{self.directory}: a new segment failed", error) from error
        return True

    def _append(self, batches: Sequence[Sequence[Buffer]], headers: Sequence[BatchHeader], now_ms: int) -> None:
        begin, count, segment_bytes = 0, len(batches), self._config.segment_bytes
        while begin < count:
            active = self._segments[-1]
            is_full = active.size + headers[begin].length > segment_bytes
            if active.size and (is_full or now_ms - active.created_ms >= self._config.segment_ms):
                active = self._roll()
            if not active.size:
                active.created_ms = now_ms
            end, size = begin + 1, active.size + headers[begin].length
            while end < count and size + headers[end].length <= segment_bytes:
                size += headers[end].length
                end += 1
            if not self._dirty or self._dirty[-1] is not active:
                self._dirty.append(active)
            active.append([frame for batch in batches[begin:end] for frame in batch], headers[begin:end])
            begin = end

    def _roll(self) -> Segment:
        full = self._segments[-1]
        segment = Segment(self._files, self.directory, full.next_offset, self._config.index_interval_bytes)
        segment.create()
        self._segments.append(segment)
        self._bases.append(segment.base_offset)
        self._is_dir_dirty = True
        self._fresh_indexes.append(full)
        self._reader.keep_open(full)
        return segment

    def _undo(self, before: Segment, mark: Mark, created_ms: int, segment_count: int) -> None:
        """Take back a partial write: new segments go, the old one is cut."""
        try:
            last = self._segments[-1]
            stray = Segment(self._files, self.directory, last.next_offset, 0)
            if last.size and self._files.exists(stray.path):
                stray.remove()  # a segment that was created and then could not be used
            for segment in reversed(self._segments[segment_count:]):
                segment.remove()
                if segment in self._dirty:
                    self._dirty.remove(segment)
            del self._segments[segment_count:], self._bases[segment_count:]
            self._fresh_indexes = [segment for segment in self._fresh_indexes if segment is not before]
            before.cut_to(mark)
            before.created_ms = created_ms
        except OSError as error:
            self._fail(f"a partial write could not be taken back: {error.strerror or error}")

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def damaged(self) -> list[Damage]:
        """What was found damaged since the log was opened. It is neither served nor cut nor compacted away."""
        return self._reader.damaged

    def read(self, fetch_offset: int, max_bytes: int, up_to_offset: int) -> list[bytes]:
        """Return whole batches from the one that holds ``fetch_offset`` on, as stored, with one system call.

        At least one batch, even if it is larger than ``max_bytes``; none that reaches ``up_to_offset``; none of the
        next segment. Checksums are computed for what this process has neither written nor checked before.

        Raises:
            OffsetOutOfRangeError: ``fetch_offset`` is below the log start or above the log end.
            CorruptRecordError: the batch there is damaged; the message names file, position and offsets. Whole batches
                before and behind it are served to whoever asks for them.
        """
        self._require_usable()
        if not self.log_start_offset <= fetch_offset <= self.log_end_offset:
            raise OffsetOutOfRangeError(f"{fetch_offset} is not within {self.log_start_offset}..{self.log_end_offset}")
        if fetch_offset >= min(up_to_offset, self.log_end_offset):
            return []
        return self._reader.read(fetch_offset, max_bytes, up_to_offset)

    def offset_for_timestamp(self, timestamp: int) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record whose timestamp is at or after ``timestamp`` (ms)."""
        self._require_usable()
        return self._reader.first_at(timestamp, self.log_start_offset)

    def offset_of_max_timestamp(self) -> tuple[int, int] | None:
        """Return offset and timestamp of the first record with the greatest timestamp; None when there is none."""
        self._require_usable()
        return self._reader.first_of_greatest_timestamp(self.log_start_offset)

    # -- deleting from the front -----------------------------------------------------------------------------

    @property
    def durable_log_start_offset(self) -> int:
        """The log start offset that the checkpoint on disk bears: after any crash the log begins there or later."""
        return self.on_disk.log_start_offset

    def delete_before(self, offset: int, up_to_offset: int) -> int:
        """Let the log begin at ``offset``; return how many segments go with that.

        Reads below it are refused at once. It is on disk, and the files go, with the next job of ``begin_flush`` or
        ``begin_checkpoint``: promise it to nobody before ``durable_log_start_offset`` has come so far. An offset at or
        below the log start changes nothing.

        Args:
            up_to_offset: the high watermark; nothing at or above it is deleted.

        Raises:
            OffsetOutOfRangeError: ``offset`` is above ``up_to_offset`` or the log end.
            StorageError: the log has failed.
        """
        self._require_usable()
        if offset > min(up_to_offset, self.log_end_offset):
            raise OffsetOutOfRangeError(f"cannot delete below {offset}, records are committed below {up_to_offset}")
        if offset <= self.log_start_offset:
            return 0
        self.log_start_offset = offset
        self.epochs.truncate_from_start(offset)
        count = 0
        while count < len(self._segments) - 1 and self._segments[count + 1].base_offset <= offset:
            count += 1
        self._doom(count)
        self._is_checkpoint_due = True
        return count

    def retain(self, now_ms: int, retention_ms: int | None, retention_bytes: int | None, up_to_offset: int) -> int:
        """Delete whole segments that are due by age or by size (None: no limit); return how many.

        The last segment is closed first when all its records are too old. As with ``delete_before``, the files go with
        the next job. Call it now and then; where nothing is due it costs a look at the oldest segment.

        Raises:
            StorageFull: there is no room to begin a new segment; the others that are due go all the same.
            StorageError: the log has failed.
        """
        self._require_usable()
        count = due_count(self._segments, now_ms, retention_ms, retention_bytes, min(up_to_offset, self.log_end_offset))
        if not count:
            return 0
        is_last_due = count == len(self._segments)
        removed = self.delete_before(self._segments[count - 1].base_offset, up_to_offset) if is_last_due else 0
        if is_last_due:
            try:
                self._roll()
            except OSError as error:
                raise storage_error(f"{self.directory}: a new segment failed", error) from error
            count -= removed
        return removed + self.delete_before(self._segments[count].base_offset, up_to_offset)

    def _doom(self, count: int) -> None:
        doomed = self._segments[:count]
        del self._segments[:count], self._bases[:count]
        self._dirty = [segment for segment in self._dirty if segment not in doomed]
        self._fresh_indexes = [segment for segment in self._fresh_indexes if segment not in doomed]
        self._reader.forget(doomed)
        for segment in doomed:
            segment.close()
        self._doomed += doomed

    # -- compacting ------------------------------------------------------------------------------------------

    def begin_compaction(self, terms: Terms) -> Compaction | None:
        """Return a compaction to be done in pool threads, a step at a time; None: too little is to be done."""
        self._is_busy()
        if self._failure:
            return None
        known = self.on_disk.checkpoint
        return self.cleaner.begin(self._dirty, known, self._config, terms, self.epochs, self.producers)

    def end_compaction(self, compaction: Compaction, now_ms: int) -> bool:
        """Let what was compacted take its place, for readers now, on disk with the next job; False: it was void."""
        self._require_usable()
        for swap in (swaps := self.cleaner.end(compaction, now_ms)) or ():
            self._fresh_indexes.append(swap.segment)
            self._reader.forget(swap.inputs)
            for segment in swap.inputs:
                segment.close()
        return swaps is not None

    # -- flushing --------------------------------------------------------------------------------------------

    def begin_flush(self) -> FlushJob | None:
        """Return a job for a pool thread that makes everything appended so far durable.

        None when nothing is dirty, or while another job is under way: begin again when it has ended. When it was a
        checkpoint that made records durable, an empty job is returned, so that its ``end_flush`` makes that known.
        """
        if self._is_busy() or self._failure:
            return None
        is_all_known = self._told_durable_offset == self.durable_offset
        if not self._dirty and not self._is_checkpoint_due and is_all_known and self.cleaner.swapping is None:
            return None
        return self._new_job()

    def begin_checkpoint(self, now_ms: int, max_age_ms: int = 0) -> FlushJob | None:
        """Return a job that syncs and writes a checkpoint; None when nothing changed since the last one.

        While another job is under way the checkpoint is left to the next one. With ``max_age_ms`` a small change, which
        a recovery reads in no time, waits for so long since it was first seen here; it is only synced.
        """
        is_busy = self._is_busy()
        if self._failure:
            return None
        self.producers.expire(now_ms, self.log_start_offset)
        checkpoint = self._checkpoint(self.log_end_offset)
        if self.on_disk.is_due(checkpoint, self.producers.version, now_ms, max_age_ms):
            self._is_checkpoint_due = True
        has_work = self._is_checkpoint_due or bool(self._dirty) or self.cleaner.swapping is not None
        return self._new_job() if has_work and not is_busy else None

    def end_flush(self, job: FlushJob, error: BaseException | None) -> None:
        """Take in the end of a job: the durable offset advances.

        Raises:
            StorageError: the job failed; the log has failed with it, and is not flushed again.
        """
        if job is self._job:
            self._settle(job)
        if error is not None:
            self._fail(f"{error}")
            raise StorageError(self._failure) from error
        self._told_durable_offset = self.durable_offset

    def _is_busy(self) -> bool:
        """Whether a job is under way; one whose end nobody told (a checkpoint's) is taken in here."""
        if self._job is not None and self._job.is_done:
            self._settle(self._job)
        return self._job is not None

    def _settle(self, job: FlushJob) -> None:
        self._job = None
        if job.error is not None:
            self._fail(f"{job.error}")
            return
        self.durable_offset = max(self.durable_offset, job.target)
        self.cleaner.end_swapping(job.swapping)
        if job.wrote_checkpoint:
            self.on_disk.note(job.checkpoint, job.producers_version)
            self._doomed = [segment for segment in self._doomed if segment not in job.doomed]

    def _new_job(self) -> FlushJob:
        target, is_checkpoint = self.log_end_offset, self._is_checkpoint_due
        checkpoint = self._checkpoint(target) if is_checkpoint else None
        try:
            handles = [segment.file().duplicate() for segment in self._dirty]
        except OSError as error:
            raise storage_error(f"{self.directory}: flush failed", error) from error
        job = FlushJob(
            self._files,
            self.directory,
            target,
            handles,
            sync_dir=self._is_dir_dirty,
            index_writes=[
                (full.index_path, content)
                for full in self._fresh_indexes
                if (content := full.index_bytes()) is not None
            ],
            checkpoint=checkpoint,
            producers=self.producers.copy() if is_checkpoint else None,
            producers_version=self.producers.version,
            doomed=self._doomed if is_checkpoint else (),
            swapping=self.cleaner.swapping,
        )
        synced, self._dirty, self._fresh_indexes = self._dirty, [], []
        for segment in synced:
            self._reader.keep_open(segment)
        self._is_dir_dirty = self._is_checkpoint_due = False
        self._job = job
        return job

    def _checkpoint(self, recovery_offset: int) -> Checkpoint:
        active = self._segments[-1]
        return Checkpoint(
            log_start_offset=self.log_start_offset,
            recovery_offset=recovery_offset,
            segment=active.base_offset,
            position=active.size,
            segment_created_ms=active.created_ms,
            epochs=self.epochs.entries,
            has_producers=len(self.producers) > 0,
            high_watermark=min(self.high_watermark, recovery_offset),
        )

    # -- cutting ---------------------------------------------------------------------------------------------

    def truncate_to(self, offset: int) -> None:
        """Cut the log to end at ``offset``, or at the batch boundary below; on disk when this returns. Blocks.

        Raises:
            OffsetOutOfRangeError: below the log start.
            StorageFull: there is no room to say so on disk; the log is as it was.
            StorageError: the log has failed.
        """
        self._require_usable()
        if offset < self.log_start_offset:
            raise OffsetOutOfRangeError(f"cannot cut to {offset}, the log begins at {self.log_start_offset}")
        if offset >= self.log_end_offset:
            return
        try:
            self._finish_job()
            self._truncate_to(offset)
        except OSError as error:
            self._fail(f"truncation failed: {error.strerror or error}")
            raise StorageError(self._failure) from error

    def _truncate_to(self, offset: int) -> None:
        self.on_disk.remove_clean_mark()
        keep = max(bisect_right(self._bases, offset), 1)
        last = self._segments[keep - 1]
        mark = last.mark_before(offset)
        self.cleaner.before_cut(mark.next_offset)
        durable_offset = min(self.durable_offset, mark.next_offset)
        self.on_disk.lower(self.log_start_offset, self.epochs.entries, last, mark)
        self.epochs.truncate_from_end(mark.next_offset)
        self.on_disk.forget_producers(sync_dir=True)
        for segment in reversed(self._segments[keep:]):
            segment.remove()
        removed = self._segments[keep:]
        del self._segments[keep:], self._bases[keep:]
        last.cut_to(mark)
        self._dirty = [segment for segment in self._dirty if segment not in removed and segment is not last] + [last]
        self._fresh_indexes = [full for full in self._fresh_indexes if full not in removed and full is not last]
        self._reader.forget([*removed, last])
        self.durable_offset = durable_offset
        self.high_watermark = min(self.high_watermark, mark.next_offset)
        self.log_start_offset = min(self.log_start_offset, mark.next_offset)  # the cut is at a batch's begin
        rebuild_producers(self.producers, self._segments, self.log_start_offset)
        self._sync_dirty(sync_dir=True)
        self._told_durable_offset = self.durable_offset
        if not self.on_disk.try_write(self._checkpoint(self.log_end_offset), self.producers):
            self._is_checkpoint_due = True

    def _sync_dirty(self, *, sync_dir: bool) -> None:
        handles = [segment.file() for segment in self._dirty]
        sync_all(self._files, self.directory, handles, sync_dir=sync_dir, target=self.log_end_offset)
        self._dirty, self._is_dir_dirty = [], False
        self.durable_offset = self.log_end_offset

    def begin_anew(self, log_start_offset: int, now_ms: int) -> None:
        """Drop every record: the log begins and ends at ``log_start_offset``; on disk when this returns. Blocks.

        For a replica that is too far behind: its leader has nothing that old any more.

        Raises:
            StorageFull: there is no room to say so on disk; the log is as it was.
            StorageError: the log has failed.
        """
        self._require_usable()
        try:
            self._finish_job()
            self._begin_anew(log_start_offset, now_ms)
        except OSError as error:
            self._fail(f"it could not be begun anew: {error.strerror or error}")
            raise StorageError(self._failure) from error

    def _begin_anew(self, start: int, now_ms: int) -> None:
        """The checkpoint comes first: from then on a crash leaves an empty log, and what lies before it is removed."""
        self.cleaner.before_cut(-1)
        self.on_disk.remove_clean_mark()
        self.on_disk.forget_producers(sync_dir=False)
        checkpoint = empty_checkpoint(start, now_ms)
        self.on_disk.write_first(checkpoint)
        self.producers.clear()
        self.epochs.truncate_from_end(0)
        old = self._segments + self._doomed
        self._reader.forget(self._segments)
        fresh = Segment(self._files, self.directory, start, self._config.index_interval_bytes)
        self._segments[:], self._bases[:], self._doomed = [fresh], [start], []
        self._dirty, self._fresh_indexes, self._is_dir_dirty = [], [], False
        self.log_start_offset = self.durable_offset = self._told_durable_offset = self.high_watermark = start
        self.on_disk.note(checkpoint, self.producers.version)
        for segment in old:
            segment.remove()
        fresh.create()
        fresh.created_ms = now_ms
        self._files.sync_dir(self.directory)

    # -- inside ----------------------------------------------------------------------------------------------

    def _close_cleanly(self, now_ms: int) -> None:
        try:
            self._finish_job()
            self._sync_dirty(sync_dir=self._is_dir_dirty)
            self.producers.expire(now_ms, self.log_start_offset)
            for segment in [*self._fresh_indexes, self._segments[-1]]:
                content = segment.index_bytes()
                if content is not None:
                    write_index(self._files, segment.index_path, content)
            make_room(self._files, self._doomed)
            checkpoint = self._checkpoint(self.log_end_offset)
            if not self.on_disk.says(checkpoint, self.producers.version):
                write_checkpoint(self._files, self.directory, checkpoint, self.producers.copy())
            remove_segments(self._files, self._doomed)
            self.on_disk.leave_clean_mark(self.log_end_offset)
        except OSError as error:
            raise storage_error(f"{self.directory}: clean close failed", error) from error

    def _finish_job(self) -> None:
        """Wait for the job under way, or run it here if no thread has begun; make on disk what is made in memory."""
        if self._job is not None:
            job = self._job
            error = job.finish()
            self._settle(job)
            if error is not None:
                raise StorageError(self._failure) from error
        self.cleaner.swap_now()

    def _require_usable(self) -> None:
        if self._failure:
            raise StorageError(f"{self.directory}: {self._failure}")

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
