"""A log that is begun anew: empty at its new begin, or as it was, whenever the process or the power ends."""

from __future__ import annotations

import contextlib
import errno
import itertools

import pytest

from callboard.errors import StorageError, StorageFull
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import (
    DIRECTORY,
    append,
    checkpoint,
    contents,
    flush,
    open_log,
    values,
)

STARTS = [0, 3, 7, 40]  # below the log, its begin, within it, beyond its end


def a_log(disk):
    """Records 3..26 in several segments, with a producer, a checkpoint, and a part that is not on disk."""
    log = open_log(disk)
    for number in range(20):
        append(log, b"a%d" % number + b"v" * 100, epoch=number // 8, producer_id=4, sequence=number)
    flush(log)
    log.delete_before(3, 20)
    checkpoint(log)
    for number in range(20, 26):
        append(log, b"a%d" % number + b"v" * 100, epoch=3, producer_id=4, sequence=number)
    return log


@pytest.mark.parametrize("start", STARTS)
def test_it_is_empty_knows_nobody_and_is_appended_to(start):
    disk = SimDisk()
    log = a_log(disk)

    log.begin_anew(start, 5)

    assert (log.log_start_offset, log.log_end_offset, log.durable_offset) == (start, start, start)
    assert (contents(log), len(log.producers), log.epochs.entries, log.segment_count) == ([], 0, (), 1)
    append(log, b"new", epoch=1)
    flush(log)
    for again in (open_log(disk.kill()), open_log(disk.crash("power"))):
        assert contents(again) == [(start, b"new")]
        assert again.epochs.entries == ((1, start),)


def test_a_log_that_ended_cleanly_may_be_begun_anew():
    disk = SimDisk()
    a_log(disk).close(0)
    log = open_log(disk)

    log.begin_anew(40, 5)

    again = open_log(disk.kill())
    assert (again.log_start_offset, again.log_end_offset) == (40, 40)


def test_a_flush_that_is_under_way_is_waited_for_and_means_nothing_any_more():
    log = a_log(SimDisk())
    job = log.begin_flush()

    log.begin_anew(40, 5)
    log.end_flush(job, job.error)

    assert (log.log_end_offset, log.durable_offset) == (40, 40)
    append(log, b"new", epoch=4)
    assert log.durable_offset == 40
    flush(log)
    assert log.durable_offset == 41


def count_operations(start):
    for left in itertools.count():
        disk = SimDisk()
        log = a_log(disk)
        disk.stop_after(left)
        with contextlib.suppress(SimCrash):
            log.begin_anew(start, 5)
            return left
    raise AssertionError


@pytest.mark.parametrize("ending", ["kill", "power"])
@pytest.mark.parametrize("start", STARTS)
def test_a_crash_at_any_step_leaves_the_old_log_or_an_empty_one(start, ending):
    seen = set()
    for left in range(count_operations(start)):
        for seed in range(4 if ending == "power" else 1):
            disk = SimDisk()
            log = a_log(disk)
            disk.stop_after(left)
            with pytest.raises(SimCrash):
                log.begin_anew(start, 5)

            after = disk.kill() if ending == "kill" else disk.crash(seed)
            after.stop_after(None)
            again = open_log(after)

            found = contents(again)
            if found:  # a prefix of the old log, as after any crash; deleted records may be back in what is dropped
                assert [(at, value.rstrip(b"v")) for at, value in found] == [
                    (at, b"a%d" % at) for at in range(again.log_start_offset, again.log_end_offset)
                ]
                seen.add("old")
            else:
                assert (again.log_start_offset, again.log_end_offset) == (start, start)
                assert again.epochs.entries == ()
                assert len(again.producers) == 0
                seen.add("new")
            end = again.log_end_offset
            append(again, b"new", epoch=9)  # it is a log: what follows is kept
            flush(again)
            assert contents(open_log(after.crash("once more")))[-1] == (end, b"new")
    assert seen == {"old", "new"}


@pytest.mark.parametrize("start", STARTS)
def test_without_room_the_log_is_as_it_was_and_is_begun_anew_later(start):
    disk = SimDisk()
    log = a_log(disk)
    before = contents(log), log.epochs.entries, len(log.producers)
    disk.fail("append", errno.ENOSPC, path_contains="checkpoint")

    with pytest.raises(StorageFull):
        log.begin_anew(start, 5)

    assert (contents(log), log.epochs.entries, len(log.producers)) == before
    assert contents(open_log(disk.kill())) == before[0]
    disk.heal()
    log.begin_anew(start, 5)
    assert (log.log_start_offset, log.log_end_offset) == (start, start)


def test_without_room_nothing_is_cut_and_the_log_serves_on():
    disk = SimDisk()
    log = a_log(disk)
    before = contents(log), log.epochs.entries
    disk.fail("append", errno.ENOSPC, path_contains="checkpoint")

    with pytest.raises(StorageFull):
        log.truncate_to(10)

    assert (contents(log), log.epochs.entries) == before
    disk.heal()
    log.truncate_to(10)
    assert (log.log_end_offset, log.durable_offset) == (10, 10)
    assert values(open_log(disk.kill()))[-1].startswith(b"a9")


def test_a_disk_that_fails_meanwhile_fails_the_log():
    disk = SimDisk()
    log = a_log(disk)
    disk.fail("append", errno.EIO, path_contains="checkpoint")

    with pytest.raises(StorageError):
        log.begin_anew(40, 5)
    with pytest.raises(StorageError):
        append(log, b"x", epoch=9)
    assert disk.exists(DIRECTORY)
