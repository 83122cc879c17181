"""Deleting from the front: what is due, what is refused, and that a crash at any step leaves a log."""

from __future__ import annotations

import contextlib
import errno

import pytest

from callboard.config import TopicConfig
from callboard.errors import OffsetOutOfRangeError, StorageFull
from callboard.storage.producers import Duplicate
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import DIRECTORY, a_batch, append, checkpoint, contents, flush, open_log

CONFIG = TopicConfig(segment_bytes=1_024, index_interval_bytes=200)
ANY = 1 << 60


def a_log(disk, count=30, **options):
    log = open_log(disk, CONFIG)
    for n in range(count):
        append(log, b"%d" % n, timestamp=1_000 + n, **options)
    return log


def log_files(disk):
    return [name for name in disk.list_dir(DIRECTORY) if name.endswith(".log")]


def test_reads_below_the_new_start_are_refused_at_once_and_the_rest_is_served():
    log = a_log(SimDisk())

    removed = log.delete_before(17, up_to_offset=30)

    assert removed > 0
    assert contents(log) == [(n, b"%d" % n) for n in range(17, 30)]
    with pytest.raises(OffsetOutOfRangeError, match=r"16 is not within 17\.\.30"):
        log.read(16, 100, 30)


def test_nothing_committed_later_is_deleted():
    log = a_log(SimDisk())

    with pytest.raises(OffsetOutOfRangeError, match="committed below 20"):
        log.delete_before(21, up_to_offset=20)

    assert log.log_start_offset == 0
    assert log.delete_before(20, up_to_offset=20) > 0
    assert log.delete_before(5, up_to_offset=20) == 0
    assert log.log_start_offset == 20


def test_the_start_is_durable_before_a_file_goes():
    disk = SimDisk()
    log = a_log(disk)
    flush(log)
    before = log_files(disk)

    log.delete_before(17, up_to_offset=30)
    job = log.begin_flush()

    assert log_files(disk) == before
    assert log.durable_log_start_offset == 0
    job()
    log.end_flush(job, None)
    assert log.durable_log_start_offset == 17
    assert len(log_files(disk)) == log.segment_count < len(before)
    assert open_log(disk.crash(1), CONFIG).log_start_offset == 17


def test_all_of_a_log_can_be_deleted():
    disk = SimDisk()
    log = a_log(disk)

    log.delete_before(30, up_to_offset=30)
    checkpoint(log)

    assert contents(log) == []
    assert log.offset_for_timestamp(0) is None
    assert log.offset_of_max_timestamp() is None
    again = open_log(disk.kill(), CONFIG)
    append(again, b"next")
    assert contents(again) == [(30, b"next")]


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_each_step_leaves_the_old_log_or_the_new_one(power):
    for steps in range(200):
        disk = SimDisk(steps)
        log = a_log(disk)
        flush(log)
        disk.stop_after(steps)
        died = True
        with contextlib.suppress(SimCrash):
            log.delete_before(17, up_to_offset=30)
            checkpoint(log)
            append(log, b"30", timestamp=1_030)
            log.close(0)
            died = False
        for image in range(6 if power else 1):
            again = open_log(disk.crash(image) if power else disk.kill(), CONFIG)
            assert again.log_start_offset in (0, 17)
            found = contents(again)
            assert found == [(n, b"%d" % n) for n in range(again.log_start_offset, again.log_end_offset)]
            assert again.log_end_offset >= 30
            checkpoint(again)
            assert contents(open_log(again._files.kill(), CONFIG)) == found
        if not died:
            assert again.log_start_offset == 17
            return
    raise AssertionError("it never ends")


def test_timestamps_are_looked_up_among_what_is_left():
    log = open_log(SimDisk(), CONFIG)
    append(log, b"a", b"b", b"c", timestamp=[50, 20, 10])
    append(log, b"d", timestamp=15)

    log.delete_before(1, up_to_offset=4)

    assert log.offset_for_timestamp(0) == (1, 20)
    assert log.offset_for_timestamp(40) is None
    assert log.offset_of_max_timestamp() == (1, 20)


def test_epochs_begin_where_the_log_begins():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    for n in range(30):
        append(log, b"x" * 100, epoch=n // 10)

    log.delete_before(15, up_to_offset=30)
    checkpoint(log)

    assert log.epochs.entries == ((1, 15), (2, 20))
    assert open_log(disk.kill(), CONFIG).epochs.entries == ((1, 15), (2, 20))


def test_a_producer_is_forgotten_only_with_its_records_and_its_time():
    disk = SimDisk()
    log = open_log(disk, CONFIG, producer_expiry_ms=1_000)
    append(log, b"once", producer_id=7, producer_epoch=0, sequence=0)
    for _ in range(30):
        append(log, b"x" * 100)
    _, retry = a_batch([b"once"], producer_id=7, producer_epoch=0, sequence=0)

    log.delete_before(20, up_to_offset=31)
    checkpoint(log, now_ms=999)
    assert log.producers.check(retry) == Duplicate(0, 0, 1_000)
    log.truncate_to(25)
    assert log.producers.check(retry) == Duplicate(0, 0, 1_000)
    log = open_log(disk.kill(), CONFIG, producer_expiry_ms=1_000)
    assert log.producers.check(retry) == Duplicate(0, 0, 1_000)
    checkpoint(log, now_ms=1_001)

    assert len(log.producers) == 0


def test_a_cut_into_the_batch_where_the_log_begins_lets_it_begin_there():
    log = open_log(SimDisk(), CONFIG)
    append(log, b"a", b"b", b"c", b"d")
    append(log, b"e")
    log.delete_before(2, up_to_offset=5)

    log.truncate_to(3)

    assert (log.log_start_offset, log.log_end_offset) == (0, 0)
    append(log, b"A", b"B")
    assert contents(log) == [(0, b"A"), (1, b"B")]


# -- retention ---------------------------------------------------------------------------------------


def test_segments_older_than_the_limit_go_and_no_others():
    log = a_log(SimDisk())
    firsts = list(log._bases)

    assert log.retain(2_000, 1_000, None, ANY) == 0
    removed = log.retain(1_000 + firsts[2] + 500, 500, None, ANY)

    assert removed == 2
    assert log.log_start_offset == firsts[2]
    assert log.retain(1_000 + firsts[2] + 500, 500, None, ANY) == 0


def test_what_is_above_the_high_watermark_stays():
    log = a_log(SimDisk())
    firsts = list(log._bases)

    assert log.retain(10**9, 1, None, firsts[2] + 1) == 2
    assert log.log_start_offset == firsts[2]


def test_the_last_segment_goes_too_when_all_of_it_is_old():
    disk = SimDisk()
    log = a_log(disk)

    removed = log.retain(10**9, 1, None, ANY)
    checkpoint(log)

    assert removed > 2
    assert (log.log_start_offset, log.log_end_offset, log.size_bytes, log.segment_count) == (30, 30, 0, 1)
    assert log.retain(10**9, 1, None, ANY) == 0
    append(log, b"next", timestamp=10**9)
    assert contents(open_log(disk.kill(), CONFIG)) == [(30, b"next")]


def test_by_size_the_oldest_go_while_enough_is_left():
    log = a_log(SimDisk())
    sizes = [segment.size for segment in log._segments]

    assert log.retain(0, None, sum(sizes[1:]) + 1, ANY) == 0
    assert log.retain(0, None, sum(sizes[2:]), ANY) == 2
    assert log.size_bytes == sum(sizes[2:])
    assert log.retain(0, None, 0, ANY) == len(sizes) - 3, "the last one is never deleted by size"


def test_a_record_from_the_future_keeps_its_segment():
    log = open_log(SimDisk(), CONFIG)
    append(log, b"x", timestamp=10**12)
    for _ in range(30):
        append(log, b"y", timestamp=0)

    assert log.retain(10**9, 1, None, ANY) == 0


def test_a_full_disk_is_made_room_on():
    disk = SimDisk()
    log = a_log(disk)
    flush(log)  # writes the index files of full segments
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(StorageFull):
        append(log, b"x" * 500)

    log.retain(10**9, None, 1_024, ANY)
    checkpoint(log)

    assert disk.free_bytes(DIRECTORY) > 500
    append(log, b"x" * 500)
    assert open_log(disk.kill(), CONFIG).log_start_offset == log.log_start_offset > 0


def test_a_disk_too_full_for_the_checkpoint_leaves_the_files_and_tries_again():
    disk = SimDisk()
    log = a_log(disk)
    flush(log)
    before = log_files(disk)
    disk.fail("append", errno.ENOSPC, path_contains="checkpoint")

    log.delete_before(17, up_to_offset=30)
    flush(log)

    assert log_files(disk) == before
    assert log.durable_log_start_offset == 0
    assert log.begin_flush() is None, "not again at once: a full disk must not keep the pool busy"
    log.begin_checkpoint(0, max_age_ms=60_000)()  # but with the next look: somebody waits for it
    flush(log)
    assert len(log_files(disk)) < len(before)
    assert log.durable_log_start_offset == 17


def test_a_damaged_segment_goes_when_the_next_one_is_due():
    disk = SimDisk()
    a_log(disk).close(0)
    name = log_files(disk)[0]
    disk.corrupt(f"{DIRECTORY}/{name}", 16)
    disk.erase(f"{DIRECTORY}/{name.replace('.log', '.index')}")
    log = open_log(disk, CONFIG)

    assert log.retain(1_000, 500, None, ANY) == 0
    assert log.retain(10**9, 500, None, ANY) > 1
