"""When a log's records are on disk, what a checkpoint keeps of them, and clean ends: on both kinds of disk."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from callboard.config import TopicConfig
from callboard.errors import StorageError
from callboard.storage.files import OsFiles
from callboard.storage.flushing import FlushJob
from callboard.storage.producers import Duplicate
from callboard.storage.remembered import CHECKPOINT_BYTES, CHECKPOINT_OFFSETS
from callboard.testing.logs import a_batch, append, append_many, checkpoint, flush, open_log, values

LARGE = TopicConfig()


# -- flushing --------------------------------------------------------------------------------------


def test_records_are_durable_when_the_flush_has_ended(place):
    log = place.open()
    append(log, b"a")

    job = log.begin_flush()
    append(log, b"b")
    job()
    assert log.durable_offset == 0
    log.end_flush(job, None)

    assert (log.durable_offset, log.log_end_offset) == (1, 2)
    flush(log)
    assert log.durable_offset == 2
    assert log.begin_flush() is None, "nothing is dirty"


def test_one_flush_at_a_time(place):
    log = place.open()
    append(log, b"a")
    job = log.begin_flush()
    append(log, b"b")

    assert log.begin_flush() is None
    assert log.begin_checkpoint(0) is None
    job()
    log.end_flush(job, None)
    assert log.begin_flush() is not None


def test_a_full_segment_is_synced_before_the_durable_offset_passes_it(disk):
    log = open_log(disk)
    flush(log)
    synced = []
    disk.before = lambda operation, path: synced.append(path[-9:]) if operation == "datasync" else None

    append_many(log, [[b"x" * 600]] * 3)
    assert (log.segment_count, synced) == (3, [])
    flush(log)

    assert synced == ["00000.log", "00001.log", "00002.log"]
    assert log.durable_offset == 3


def test_a_log_can_be_closed_while_its_flush_runs_in_another_thread(tmp_path):
    class Slow(OsFiles):
        def sync_dir(self, path):
            begun.set()
            assert go_on.wait(10)
            super().sync_dir(path)

    slow, begun, go_on = OsFiles(), threading.Event(), threading.Event()
    log = open_log(slow, directory=f"{tmp_path}/log")
    append(log, b"a")
    slow.__class__ = Slow
    job = log.begin_flush()
    thread = threading.Thread(target=job)
    thread.start()
    assert begun.wait(10)

    log.close(0, clean=False)
    go_on.set()
    thread.join()

    assert job.error is None
    log.end_flush(job, None)  # comes late, and does no harm


def test_a_clean_close_waits_for_the_flush_under_way(tmp_path):
    log = open_log(OsFiles(), directory=f"{tmp_path}/log")
    append(log, b"a")
    job = log.begin_flush()

    log.close(0)
    job()  # the pool comes to it at last: it has been done already

    again = open_log(OsFiles(), directory=f"{tmp_path}/log")
    assert again.recovery.was_clean
    assert (again.durable_offset, values(again)) == (1, [b"a"])
    again.close(0)


def test_a_job_left_behind_by_a_failed_actor_writes_no_checkpoint(disk):
    log = open_log(disk)
    append(log, b"a")
    job = log.begin_checkpoint(0)
    log.close(0, clean=False)
    again = open_log(disk)
    again.truncate_to(0)

    job()

    assert open_log(disk).log_end_offset == 0


# -- checkpoints and clean ends ----------------------------------------------------------------------


def test_a_checkpoint_makes_everything_durable_and_is_not_repeated_when_idle(disk):
    log = open_log(disk)
    append(log, b"a", producer_id=1, sequence=0)

    checkpoint(log)
    assert log.begin_checkpoint(0) is None
    assert log.durable_offset == 1

    again = open_log(disk.crash(1))
    assert (again.recovery.scanned_bytes, again.recovery.recovery_offset, values(again)) == (0, 1, [b"a"])
    assert len(again.producers) == 1


def test_a_small_change_is_noted_when_it_is_old_enough(disk):
    log = open_log(disk, config=LARGE)
    append(log, b"a", producer_id=1, sequence=0)
    flush(log)

    assert log.begin_checkpoint(1_000, max_age_ms=60_000) is None
    assert log.begin_checkpoint(60_999, max_age_ms=60_000) is None
    job = log.begin_checkpoint(61_000, max_age_ms=60_000)
    job()
    log.end_flush(job, None)
    append(log, b"b", producer_id=1, sequence=1)
    flush(log)

    assert open_log(disk.crash(1)).recovery.recovery_offset == 1
    assert log.begin_checkpoint(62_000, max_age_ms=60_000) is None, "the next one has its own time"
    assert log.begin_checkpoint(0, max_age_ms=60_000) is not None, "the clock was set back"


def test_a_small_change_that_waits_is_synced_all_the_same(disk):
    log = open_log(disk, config=LARGE)
    append(log, b"a")

    job = log.begin_checkpoint(0, max_age_ms=60_000)
    job()
    log.end_flush(job, None)

    assert (job.wrote_checkpoint, log.durable_offset) == (False, 1)
    assert log.begin_checkpoint(0, max_age_ms=60_000) is None
    again = open_log(disk.crash(1))
    assert (again.recovery.recovery_offset, values(again)) == (0, [b"a"]), "it is read, and it is there"


def test_a_change_that_takes_long_to_read_is_noted_at_once(disk):
    log = open_log(disk, config=LARGE)
    append(log, b"x" * CHECKPOINT_BYTES)

    assert log.begin_checkpoint(0, max_age_ms=60_000).checkpoint.recovery_offset == 1


def test_many_small_batches_take_long_to_read_too(disk):
    log = open_log(disk, config=LARGE)
    append_many(log, [[b"x"]] * CHECKPOINT_OFFSETS)

    assert log.begin_checkpoint(0, max_age_ms=60_000).checkpoint.recovery_offset == CHECKPOINT_OFFSETS


def test_a_log_that_is_opened_after_a_crash_with_all_noted_waits_for_nothing(disk):
    log = open_log(disk, config=LARGE)
    append(log, b"a")
    checkpoint(log)

    log = open_log(disk.kill(), config=LARGE)
    flush(log)

    assert log.begin_checkpoint(0, max_age_ms=60_000) is None
    assert not log.on_disk.is_behind


def test_a_change_that_was_taken_back_waits_no_more(disk):
    log = open_log(disk, config=LARGE)
    append(log, b"a")
    checkpoint(log)
    append(log, b"b")
    flush(log)
    assert log.begin_checkpoint(0, max_age_ms=60_000) is None
    assert log.on_disk.is_behind

    log.truncate_to(1)
    flush(log)

    assert log.begin_checkpoint(0, max_age_ms=60_000) is None
    assert not log.on_disk.is_behind


def test_a_handle_that_cannot_be_closed_ends_the_job_and_fails_the_log(disk):
    """The job was never done then: the log did nothing more, and whoever waited for its end did so for ever."""
    log = open_log(disk)
    append(log, b"a")
    job = log.begin_flush()

    def refuse():
        raise OSError(errno.EIO, "closing failed")

    job._handles[0].close = refuse
    with pytest.raises(StorageError, match="closing") as told:
        job()

    assert job.is_done
    assert job.finish() is told.value
    with pytest.raises(StorageError, match="closing"):
        log.end_flush(job, told.value)
    assert log.durable_offset == 0
    log.close(0)


class Handle:
    """One that counts how often it is closed, and may fail."""

    path = "handle"

    def __init__(self, sync=None, close=None):
        self.sync_error, self.close_error, self.closed = sync, close, 0

    def datasync(self):
        if self.sync_error:
            raise self.sync_error

    def close(self):
        self.closed += 1
        if self.close_error:
            raise self.close_error


def test_every_handle_is_closed_whichever_cannot_be(disk):
    disk.make_dir("/log")
    handles = [Handle(close=OSError(errno.EIO, "first")), Handle(close=OSError(errno.EIO, "second")), Handle()]
    job = FlushJob(disk, "/log", 1, handles, sync_dir=False)

    with pytest.raises(StorageError, match="first"):
        job()

    assert [handle.closed for handle in handles] == [1, 1, 1]


def test_a_sync_that_failed_is_told_not_the_close_that_failed_after_it(disk):
    disk.make_dir("/log")
    sync = OSError(errno.EIO, "sync")
    job = FlushJob(disk, "/log", 1, [Handle(sync=sync, close=OSError(errno.EBADF, "close"))], sync_dir=False)

    with pytest.raises(StorageError, match="sync failed") as told:
        job()

    assert (job.is_done, job.error, told.value.__cause__) == (True, told.value, sync)


def test_a_job_that_is_abandoned_before_it_began_fails_nobody_with_its_handles(disk):
    log = open_log(disk)
    append(log, b"a")
    job = log.begin_flush()
    job._handles[0] = Handle(close=OSError(errno.EIO, "closing failed"))

    log.close(0, clean=False)  # nothing is raised

    assert job.is_done
    assert job._handles[0].closed == 1


def test_a_log_that_begins_elsewhere_or_has_another_segment_is_noted_at_once(disk):
    log = open_log(disk)
    append_many(log, [[b"x" * 600]] * 2)
    assert log.begin_checkpoint(0, max_age_ms=60_000).checkpoint.recovery_offset == 2

    log = open_log(disk, config=LARGE, directory="other")
    append_many(log, [[b"a"], [b"b"]])
    flush(log)
    log.delete_before(1, 2)
    assert log.begin_checkpoint(0, max_age_ms=60_000).checkpoint.log_start_offset == 1


def test_what_a_checkpoint_made_durable_becomes_known_by_the_next_flush(disk):
    """Or a produce that came in the checkpoint's turn would wait for the next one to be acknowledged."""
    log = open_log(disk)
    append(log, b"a")
    job = log.begin_checkpoint(0)
    assert log.begin_flush() is None
    job()
    syncs = disk.counts["datasync"]

    job = log.begin_flush()
    assert job is not None
    job()
    log.end_flush(job, None)

    assert (log.durable_offset, disk.counts["datasync"]) == (1, syncs)
    assert log.begin_flush() is None


def test_a_checkpoint_that_comes_during_a_flush_is_written_by_the_next_one(disk):
    log = open_log(disk)
    append(log, b"a")
    job = log.begin_flush()
    append(log, b"b")
    assert log.begin_checkpoint(0) is None
    job()
    log.end_flush(job, None)
    flush(log)

    assert open_log(disk.crash(1)).recovery.recovery_offset == 2


def test_after_a_clean_end_nothing_is_read(place):
    log = place.open()
    for n in range(20):
        append(log, b"%03d" % n * 40, epoch=n // 7, producer_id=3, sequence=n)
    log.close(5)

    log = place.open()

    assert log.recovery.was_clean
    assert log.recovery.scanned_bytes == 0
    assert (log.durable_offset, log.log_end_offset) == (20, 20)
    assert log.begin_flush() is None
    assert log.epochs.entries == ((0, 0), (1, 7), (2, 14))
    assert log.producers.check(a_batch([b""], producer_id=3, sequence=18)[1]) == Duplicate(18, 18, 1_000)
    assert values(log) == [b"%03d" % n * 40 for n in range(20)]


def test_opening_and_closing_without_a_change_stays_clean(place):
    log = place.open()
    append(log, b"a")
    for _ in range(3):
        log.close(0)
        log = place.open()
        assert log.recovery.was_clean
    append(log, b"b")
    log.close(0, clean=False)

    assert not place.open().recovery.was_clean


def test_the_mark_of_a_clean_end_is_gone_from_disk_before_the_first_append(disk):
    """Or power loss after an unsynced append would look like a clean end that lost nothing."""
    log = open_log(disk)
    append(log, b"a")
    log.close(0)
    log = open_log(disk)
    append(log, b"b")

    for seed in range(40):
        assert not open_log(disk.crash(seed)).recovery.was_clean


def test_no_handle_is_left_open(tmp_path):
    before = len(os.listdir("/dev/fd"))
    log = open_log(OsFiles(), directory=f"{tmp_path}/log")
    for n in range(30):
        append(log, b"%03d" % n * 100)
        if n % 5 == 0:
            flush(log)
    values(log)
    log.close(0)
    log = open_log(OsFiles(), directory=f"{tmp_path}/log")
    values(log)
    log.close(0, clean=False)

    assert len(os.listdir("/dev/fd")) == before
