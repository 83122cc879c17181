"""The log while nothing goes wrong, on the simulated disk and on the operating system's files."""

from __future__ import annotations

import contextlib
import errno

import pytest

from callboard.config import TopicConfig
from callboard.errors import (
    CorruptRecordError,
    InvariantViolated,
    OffsetOutOfRangeError,
    StorageError,
    StorageFull,
)
from callboard.storage.batch import check_batch, encode_batch, iter_batches, restamp
from callboard.storage.log import Log
from callboard.storage.producers import FRESH, Duplicate
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import SMALL, a_batch, append, append_many, checkpoint, contents, flush, open_log, values

LARGE = TopicConfig()


# -- append and read -------------------------------------------------------------------------------


def test_a_new_log_is_empty(place):
    log = place.open()

    assert (log.log_start_offset, log.durable_offset, log.log_end_offset, log.size_bytes) == (0, 0, 0, 0)
    assert log.segment_count == 1
    assert log.read(0, 1_000, 10) == []
    assert log.offset_for_timestamp(0) is None
    assert log.offset_of_max_timestamp() is None


def test_what_is_appended_is_read_in_order(place):
    log = place.open()

    append(log, b"a", b"b")
    append_many(log, [[b"c"], [b"d", b"e", b"f"]])

    assert contents(log) == list(enumerate([b"a", b"b", b"c", b"d", b"e", b"f"]))
    assert log.log_end_offset == 6


def test_batches_of_one_call_are_one_write(disk):
    log = open_log(disk, LARGE)
    before = disk.counts["append"]

    append_many(log, [[b"x"]] * 50)

    assert disk.counts["append"] - before == 1


def test_a_read_is_one_system_call_wherever_it_begins_in_the_tail(disk):
    log = open_log(disk, LARGE)
    append_many(log, [[b"%d" % n, b"more"] for n in range(500)])

    for offset in (0, 1, 500, 501, 999):
        before = disk.counts["pread"]
        assert log.read(offset, 4_000, 1_000)
        assert disk.counts["pread"] - before == 1


def test_a_read_returns_whole_batches_within_its_bound(place):
    log = place.open(LARGE)
    length = append(log, b"x" * 50).length
    append_many(log, [[b"x" * 50]] * 9)

    for wanted in (1, length, length + 1, 2 * length - 1, 2 * length, 5 * length, 100 * length):
        (data,) = log.read(0, wanted, 10)
        assert len(data) == min(max(wanted // length, 1), 10) * length
        assert len(list(iter_batches(data))) == len(data) // length


def test_a_read_never_reaches_the_bound_it_is_given(place):
    log = place.open(LARGE)
    append_many(log, [[b"a", b"b"], [b"c", b"d"], [b"e"]])

    read = {
        (at, up_to): [header.last_offset for data in log.read(at, 10_000, up_to) for header, _ in iter_batches(data)]
        for at in range(6)
        for up_to in range(7)
    }

    ends = [1, 3, 4]
    for (at, up_to), found in read.items():
        assert found == [end for end in ends if end >= at and end < up_to and at < up_to], (at, up_to)


@pytest.mark.parametrize("index_interval_bytes", [0, 200, 100_000])
def test_every_offset_is_found_whichever_way_leads_to_it(place, index_interval_bytes, monkeypatch):
    """Old batches have left the tail: the index and a walk lead to them, with any bound."""
    monkeypatch.setattr("callboard.storage.segment.TAIL_BATCHES", 4)
    log = place.open(TopicConfig(segment_bytes=4_096, index_interval_bytes=index_interval_bytes))
    lengths, at = {}, 0
    for n in range(60):
        header = append(log, *([b"%d" % n * (n % 7)] * (1 + n % 3)))
        lengths.update(dict.fromkeys(range(at, header.next_offset), header))
        at = header.next_offset

    for offset in range(log.log_end_offset):
        for max_bytes in (1, 300, 2_000):
            for up_to in (log.log_end_offset, offset + 1, offset + 4):
                found = [header for data in log.read(offset, max_bytes, up_to) for header, _ in iter_batches(data)]
                if lengths[offset].next_offset > up_to:
                    assert found == []
                    continue
                assert found[0] == lengths[offset]
                assert found[-1].next_offset <= up_to
                assert len(found) == 1 or sum(header.length for header in found) <= max_bytes


def test_a_large_batch_is_read_whole(place):
    log = place.open()
    append(log, b"small")
    append(log, b"x" * 100_000)

    assert len(log.read(1, 10, 2)[0]) > 100_000


@pytest.mark.parametrize("offset", [-1, 3])
def test_offsets_outside_the_log_are_refused(place, offset):
    log = place.open()
    append(log, b"a", b"b")

    with pytest.raises(OffsetOutOfRangeError, match=r"0\.\.2"):
        log.read(offset, 100, 2)


def test_batches_must_follow_the_log_end(place):
    log = place.open()
    append(log, b"a", epoch=3)

    for frames, header in (
        a_batch([b"b"], at=2, epoch=3),
        a_batch([b"b"], at=0, epoch=3),
        a_batch([b"b"], at=1, epoch=2),
    ):
        with pytest.raises(InvariantViolated, match="cannot follow"):
            log.append([frames], [header], 0)
    assert values(log) == [b"a"]


# -- segments --------------------------------------------------------------------------------------


def test_a_full_segment_is_followed_by_another(place):
    log = place.open()

    for n in range(40):
        append(log, b"%03d" % n * 30)

    assert log.segment_count > 3
    assert values(log) == [b"%03d" % n * 30 for n in range(40)]
    assert all(place.files.size(f"{place.directory}/{name}") <= 1_024 for name in place.names() if ".log" in name)


def test_one_call_can_fill_several_segments(place):
    log = place.open()

    append_many(log, [[b"%03d" % n * 30] for n in range(40)])

    assert log.segment_count > 3
    assert values(log) == [b"%03d" % n * 30 for n in range(40)]


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(place):
    log = place.open()

    append_many(log, [[b"a"], [b"x" * 5_000], [b"b"]])

    assert (log.segment_count, values(log)) == (3, [b"a", b"x" * 5_000, b"b"])


def test_an_old_segment_is_followed_by_another_at_the_next_append_or_when_asked(place):
    log = place.open(TopicConfig(segment_ms=1_000))
    append(log, b"a", now_ms=100)
    append(log, b"b", now_ms=1_099)
    assert log.segment_count == 1

    append(log, b"c", now_ms=1_100)
    assert (log.segment_count, log.roll_if_due(2_099)) == (2, False)
    assert (log.roll_if_due(2_100), log.segment_count) == (True, 3)
    assert log.roll_if_due(999_999) is False, "an empty segment does not age"
    append(log, b"d", now_ms=5_000)
    assert (log.segment_count, values(log)) == (3, [b"a", b"b", b"c", b"d"])


def test_the_age_of_a_segment_survives_a_restart(place):
    log = place.open(TopicConfig(segment_ms=1_000))
    append(log, b"a", now_ms=100)
    log.close(900)

    log = place.open(TopicConfig(segment_ms=1_000), now_ms=1_090)

    assert (log.roll_if_due(1_099), log.roll_if_due(1_100)) == (False, True)


def test_new_settings_hold_from_the_next_append_on(place):
    log = place.open(LARGE)
    append(log, b"x" * 800)
    log.reconfigure(SMALL)

    append(log, b"y" * 800)

    assert log.segment_count == 2


def test_old_segments_do_not_keep_descriptors(disk):
    log = open_log(disk)
    for n in range(60):
        append(log, b"%03d" % n * 100)
    flush(log)
    values(log)

    assert log.segment_count > 15
    assert sum(segment.is_open for segment in log._segments) <= 6


# -- timestamps ------------------------------------------------------------------------------------


def test_a_timestamp_is_found_in_any_segment(place):
    log = place.open()
    for n in range(40):
        append(log, b"x" * 40, b"y", timestamp=[1_000 + 10 * n, 1_005 + 10 * n])

    assert log.segment_count > 3
    assert log.offset_for_timestamp(0) == (0, 1_000)
    for n in range(40):
        assert log.offset_for_timestamp(1_000 + 10 * n) == (2 * n, 1_000 + 10 * n)
        assert log.offset_for_timestamp(1_001 + 10 * n) == (2 * n + 1, 1_005 + 10 * n)
    assert log.offset_for_timestamp(1_396) is None
    assert log.offset_of_max_timestamp() == (79, 1_395)


def test_timestamps_out_of_order_find_the_first_record_that_is_late_enough(place):
    log = place.open(TopicConfig(index_interval_bytes=0))
    for timestamp in (50, 10, 70, 20, 70):
        append(log, b"x", timestamp=timestamp)

    assert [log.offset_for_timestamp(t) for t in (10, 50, 51, 70, 71)] == [(0, 50), (0, 50), (2, 70), (2, 70), None]
    assert log.offset_of_max_timestamp() == (2, 70)


# -- cutting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(0, 41, 3))
def test_a_log_is_cut_at_the_batch_boundary_below(place, offset):
    log = place.open()
    for n in range(20):
        append(log, b"%03d" % n * 20, b"second", epoch=n // 6, producer_id=1, sequence=2 * n)
    checkpoint(log)

    log.truncate_to(offset)

    kept = offset // 2 * 2
    assert log.log_end_offset == log.durable_offset == kept
    assert len(values(log)) == kept
    assert log.epochs.entries == tuple((e, 12 * e) for e in range(4) if 12 * e < kept)
    if kept:
        assert log.producers.check(a_batch([b"", b""], producer_id=1, sequence=kept)[1]) is FRESH
    append(log, b"new", b"new", epoch=9, producer_id=1, sequence=kept)
    log.close(0)
    again = place.open()
    assert values(again)[kept:] == [b"new", b"new"]
    assert again.producers.copy()[1].batches[-1].last_offset == kept + 1


def test_a_log_is_not_cut_below_its_start(place):
    log = place.open()
    append(log, b"a")

    with pytest.raises(OffsetOutOfRangeError):
        log.truncate_to(-1)
    log.truncate_to(1)
    log.truncate_to(99)
    assert values(log) == [b"a"]


def test_a_cut_under_way_is_whole_after_a_crash_at_any_operation():
    for operations in range(40):
        disk = SimDisk()
        log = open_log(disk)
        for n in range(12):
            append(log, b"%03d" % n * 60, epoch=n // 5, producer_id=1, sequence=n)
        checkpoint(log)
        disk.stop_after(operations)
        has_ended = False
        with contextlib.suppress(SimCrash):
            log.truncate_to(4)
            has_ended = True

        for seed in range(12):
            again = open_log(disk.crash(seed))
            kept = again.log_end_offset
            assert kept == 4 if has_ended else kept in range(4, 13)
            assert values(again) == [b"%03d" % n * 60 for n in range(kept)]
            assert again.producers.copy()[1].batches[-1].last_offset == kept - 1
            assert again.epochs.latest == (kept - 1) // 5
        if has_ended:
            return
    pytest.fail("the cut takes more operations than this test expects")


def test_a_removed_log_is_gone_and_half_a_removal_is_no_log(disk):
    log = open_log(disk)
    append_many(log, [[b"x" * 600]] * 5)
    log.close(0)
    disk.sync_dir("/data")
    for operations in range(20):
        image = disk.kill()
        image.stop_after(operations)
        with contextlib.suppress(SimCrash):
            Log.remove(image, "/data/log")
            assert image.list_dir("/data") == []
        assert not image.exists("/data/log") or len(values(open_log(image.kill()))) == 5


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [0, 1, 70, 500, 1_500])
def test_a_full_disk_leaves_the_log_as_it_was(written):
    disk = SimDisk()
    log = open_log(disk)
    append(log, b"a", producer_id=1, sequence=0)
    flush(log)
    disk.capacity_bytes = disk.used_bytes() + written

    frames, headers = zip(*(a_batch([b"x" * 600], at=1 + n, epoch=4) for n in range(4)), strict=True)
    with pytest.raises(StorageFull, match="append failed"):
        log.append(frames, headers, 0)

    assert (log.log_end_offset, log.durable_offset, values(log)) == (1, 1, [b"a"])
    assert log.epochs.latest == 0
    disk.capacity_bytes = None
    append_many(log, [[b"y" * 600]] * 4)
    flush(log)
    assert values(open_log(disk.crash(3))) == values(log) == [b"a", *[b"y" * 600] * 4]


def test_a_segment_that_cannot_be_created_leaves_the_log_as_it_was(disk):
    log = open_log(disk)
    append(log, b"x" * 600)
    disk.fail("open", errno.EMFILE)

    with pytest.raises(StorageError, match="Too many open files"):
        append(log, b"y" * 600)

    append(log, b"z" * 600)
    assert values(log) == [b"x" * 600, b"z" * 600]


def test_a_partial_write_that_cannot_be_taken_back_fails_the_log(disk):
    log = open_log(disk)
    append(log, b"a")
    disk.fail("append", errno.EIO, written=30)
    disk.fail("truncate", errno.EIO)

    with pytest.raises(StorageError, match="could not be taken back"):
        append(log, b"b")

    with pytest.raises(StorageError, match="could not be taken back"):
        append(log, b"c")
    log.close(0)
    again = open_log(disk.kill())
    assert (values(again), again.recovery.cut_bytes) == ([b"a"], 30)


def test_a_failed_sync_fails_the_log_and_is_never_repeated(disk):
    log = open_log(disk)
    append(log, b"a")
    flush(log)
    append(log, b"b")
    disk.fail("datasync", errno.EIO)
    job = log.begin_flush()

    with pytest.raises(StorageError, match="sync failed") as failure:
        job()
    with pytest.raises(StorageError):
        log.end_flush(job, failure.value)

    syncs = disk.counts["datasync"]
    for use in (lambda: append(log, b"c"), lambda: log.read(0, 10, 1), lambda: log.truncate_to(0)):
        with pytest.raises(StorageError):
            use()
    assert (log.begin_flush(), log.begin_checkpoint(0), log.durable_offset) == (None, None, 1)
    log.close(0)
    with pytest.raises(StorageError, match="a sync failed here"):
        open_log(disk)
    with pytest.raises(StorageError, match="a sync failed here"):
        open_log(disk.kill())
    assert disk.counts["datasync"] == syncs


def test_a_sync_that_failed_under_a_checkpoint_counts_as_well(disk):
    log = open_log(disk)
    append(log, b"a")
    disk.fail("datasync", errno.EIO)
    job = log.begin_checkpoint(0)

    with pytest.raises(StorageError):
        job()

    append_error = pytest.raises(StorageError, match="sync failed")
    assert log.begin_flush() is None
    with append_error:
        append(log, b"b")
    assert log.durable_offset == 0


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_left_out(disk):
    log = open_log(disk)
    append(log, b"a")
    disk.capacity_bytes = disk.used_bytes()
    job = log.begin_checkpoint(0)

    job()
    log.end_flush(job, None)

    assert log.durable_offset == 1
    disk.capacity_bytes = None
    checkpoint(log)
    assert open_log(disk.crash(1)).recovery.recovery_offset == 1


def test_a_closed_log_says_so(place):
    log = place.open()
    log.close(0)

    with pytest.raises(StorageError, match="closed"):
        append(log, b"a")
    log.close(0)


def test_damage_below_the_index_is_refused_with_its_place(disk):
    log = open_log(disk, TopicConfig(index_interval_bytes=100_000))
    for n in range(10):
        append(log, b"%d" % n)
    log.close(0)
    disk.corrupt("/data/log/00000000000000000000.log", 16)

    log = open_log(disk, TopicConfig(index_interval_bytes=100_000))

    with pytest.raises(CorruptRecordError, match=r"0000\.log at 0: batch at offset 0: magic .*; offsets 0 to 0 cannot"):
        log.read(0, 100, 10)
    assert log.read(5, 100, 10)
    assert [(damage.offset, damage.next_offset) for damage in log.damaged] == [(0, 1)]


def test_a_retry_after_a_restart_is_told_its_first_offset(place):
    log = place.open()
    for n in range(7):
        append(log, b"x", producer_id=8, producer_epoch=2, sequence=n)
    log.close(0, clean=False)

    log = place.open()

    frames = encode_batch(None, [b"x"], 0, producer_id=8, producer_epoch=2, base_sequence=4)
    assert log.producers.check(check_batch([restamp(frames[0], 0, 0), *frames[1:]])) == Duplicate(4, 4, 1_000)


def test_what_was_committed_is_known_after_a_restart_and_never_above_the_end(place):
    log = place.open()
    for value in (b"a", b"b", b"c"):
        append(log, value)
    log.high_watermark = 2
    log.close(0)

    log = place.open()
    assert log.high_watermark == 2
    log.truncate_to(1)
    assert log.high_watermark == 1
    log.close(0, clean=False)
    assert place.open().high_watermark <= 1
