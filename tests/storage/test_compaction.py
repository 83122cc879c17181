"""Compaction by key: what stays, what goes, and that a crash at any step loses no key's latest value."""

from __future__ import annotations

import contextlib
import errno
from itertools import pairwise

import pytest

from callboard.config import TopicConfig
from callboard.errors import StorageCorruption
from callboard.storage.batch import decode_batch
from callboard.storage.compaction import BYTES_PER_KEY, Terms
from callboard.storage.directory import make_directory
from callboard.storage.inspection import LogView, repair
from callboard.storage.producers import Duplicate
from callboard.storage.swapping import complete_swaps
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import (
    DIRECTORY,
    a_batch,
    append,
    batches,
    checkpoint,
    compact,
    contents,
    flush,
    latest_by_key,
    open_log,
)

CONFIG = TopicConfig(
    segment_bytes=1_024,
    index_interval_bytes=200,
    cleanup_policy="compact",
    min_cleanable_dirty_ratio=0.0,
    delete_retention_ms=1_000,
)


def a_log(disk, records, config=CONFIG, **options):
    """A log of one record a batch, all on disk: ``records`` are (key, value)."""
    log = open_log(disk, config)
    for key, value in records:
        append(log, value, keys=[key], **options)
    checkpoint(log)
    return log


def rounds(count, keys=3):
    return [(b"k%d" % (n % keys), b"%d" % n) for n in range(count)]


def records(log):
    return [(o, k, v) for one in batches(log) for o, k, v in zip(one.offsets, one.keys, one.values, strict=True)]


def run(compaction):
    while not compaction.step():
        pass


def files(disk, suffix=".log"):
    return [name for name in disk.list_dir(DIRECTORY) if name.endswith(suffix)]


def test_the_last_record_of_each_key_stays_where_it_was():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    active = log._segments[-1].base_offset

    done = compact(log)

    assert done.clean_to == active
    assert records(log) == [(o, b"k%d" % (o % 3), b"%d" % o) for o in range(active - 3, 40)]
    assert log.log_start_offset == 0
    assert log.log_end_offset == 40


def test_offsets_stay_dense_in_ranges():
    log = a_log(SimDisk(), rounds(40))
    compact(log)

    ends = [(one.header.base_offset, one.header.next_offset) for one in batches(log)]

    assert ends[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(ends))
    assert ends[-1][1] == 40
    assert len(ends) < 20, "neighbours without records become one"


def test_a_batch_keeps_some_of_its_records_with_their_offsets_timestamps_and_headers():
    log = open_log(SimDisk(), CONFIG)
    append(log, b"1", b"2", b"3", b"4", keys=[b"a", b"b", b"a", b"c"], timestamp=[10, 40, 20, 30])
    append(log, b"5", keys=[b"b"], timestamp=50)
    append(log, b"x" * 2_000, keys=[b"z"])
    append(log, b"y", keys=[b"y"])
    checkpoint(log)

    compact(log)
    first = batches(log)[0]

    assert list(first.offsets) == [2, 3]
    assert first.timestamps == [20, 30]
    assert (first.keys, first.values) == ([b"a", b"c"], [b"3", b"4"])
    assert (first.header.base_offset, first.header.next_offset, first.header.count) == (0, 4, 2)
    assert (first.header.base_timestamp, first.header.max_timestamp) == (20, 30)


def test_a_fetch_at_an_offset_that_went_gives_what_follows():
    log = a_log(SimDisk(), rounds(40))
    compact(log)

    for offset in range(40):
        found = [one for data in log.read(offset, 1 << 20, 40) for one in [decode_batch(data)]]
        assert found[0].header.base_offset <= offset < found[0].header.next_offset


def test_timestamps_are_looked_up_among_what_is_left():
    log = open_log(SimDisk(), CONFIG)
    for n in range(40):
        append(log, b"%d" % n, keys=[b"k%d" % (n % 3)], timestamp=1_000 + n)
    checkpoint(log)
    compact(log)

    kept = [offset for offset, _, _ in records(log)]

    for timestamp in range(1_000, 1_045):
        wanted = next((o for o in kept if 1_000 + o >= timestamp), None)
        assert log.offset_for_timestamp(timestamp) == (None if wanted is None else (wanted, 1_000 + wanted))
    assert log.offset_of_max_timestamp() == (39, 1_039)


def test_nothing_at_or_above_the_high_watermark_is_touched():
    log = a_log(SimDisk(), rounds(40))
    before = records(log)
    end = log._segments[1].next_offset

    compact(log, up_to=end)

    assert [one for one in records(log) if one[0] >= end] == before[end:]
    assert all(offset >= end - 3 for offset, _, _ in records(log))
    assert compact(a_log(SimDisk(), rounds(40)), up_to=3) is None


def test_nothing_above_the_recovery_point_on_disk_is_touched():
    log = open_log(SimDisk(), CONFIG)
    for key, value in rounds(40):
        append(log, value, keys=[key])
    flush(log)  # durable, but the checkpoint is the first one

    assert compact(log) is None


def test_nothing_is_done_while_little_is_dirty():
    disk = SimDisk()
    config = TopicConfig(segment_bytes=1_024, cleanup_policy="compact", min_cleanable_dirty_ratio=0.5)
    log = a_log(disk, [(b"%d" % n, b"v" * 200) for n in range(40)], config)
    assert compact(log) is not None
    for n in range(8):
        append(log, b"v" * 200, keys=[b"%d" % n])
    checkpoint(log)

    assert compact(log) is None
    for n in range(40):
        append(log, b"v" * 200, keys=[b"%d" % n])
    checkpoint(log)
    assert compact(log) is not None


def test_young_records_are_left_alone():
    config = TopicConfig(
        segment_bytes=1_024, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0, min_compaction_lag_ms=500
    )
    log = open_log(SimDisk(), config)
    for n in range(40):
        append(log, b"%d" % n, keys=[b"k"], timestamp=1_000 + n)
    checkpoint(log)

    assert compact(log, now_ms=1_400) is None
    compact(log, now_ms=1_000 + 15 + 500)
    assert [o for o, _, _ in records(log) if o < 10] == []
    assert {o for o, _, _ in records(log)} >= set(range(16, 40))


# -- tombstones ----------------------------------------------------------------------------------------


def test_a_tombstone_goes_only_in_a_later_compaction_and_after_its_time():
    log = a_log(SimDisk(), [(b"a", b"1"), (b"a", None), *rounds(40)])
    compact(log, now_ms=0)
    assert (1, b"a", None) in records(log)
    assert compact(log, now_ms=900) is None

    assert compact(log, now_ms=1_000).figures.tombstones_dropped == 1
    assert b"a" not in [key for _, key, _ in records(log)]


def test_a_tombstone_stays_while_a_replica_may_not_have_it():
    log = a_log(SimDisk(), [(b"a", b"1"), (b"a", None), *rounds(40)])
    compact(log, now_ms=0)

    assert compact(log, now_ms=10_000, may_drop_tombstones=False) is None
    assert (1, b"a", None) in records(log)
    assert compact(log, now_ms=10_000) is not None


def test_when_it_was_compacted_is_remembered():
    disk = SimDisk()
    log = a_log(disk, [(b"a", b"1"), (b"a", None), *rounds(40)])
    compact(log, now_ms=0)
    known = log.cleaner.cleaned
    log.close(0)

    again = open_log(disk.crash(1), CONFIG)
    assert again.cleaner.cleaned == known
    assert compact(again, now_ms=1_000).figures.tombstones_dropped == 1


def test_a_cut_forgets_what_was_compacted_behind_it():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    compact(log)
    offset = log.cleaner.cleaned.offset

    log.truncate_to(offset)
    assert log.cleaner.cleaned.offset == offset
    log.truncate_to(offset - 1)
    assert log.cleaner.cleaned.offset == 0
    assert files(disk, "cleaned") == []


def test_many_compactions_in_a_row_keep_few_times():
    log = open_log(SimDisk(), CONFIG)
    for now_ms in range(0, 5_000, 50):
        append(log, *(None if n == 3 else b"%d" % n for n in range(20)), keys=[b"%d" % (now_ms + n) for n in range(20)])
        for _ in range(20):
            append(log, b"v" * 100, keys=[b"k"])
        checkpoint(log)
        compact(log, now_ms=now_ms)
        assert len(log.cleaner.cleaned.parts) <= 11
    assert sum(value is None for _, _, value in records(log)) < 130


# -- producers, retention, segments --------------------------------------------------------------------


def test_the_last_batches_of_a_producer_are_known_after_all_was_rebuilt():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    for n in range(10):
        append(log, b"%d" % n, keys=[b"k"], producer_id=7, sequence=n)
    for _, value in rounds(30):
        append(log, value, keys=[b"k"])
    checkpoint(log)
    compact(log)
    disk = disk.kill()
    disk.erase(f"{DIRECTORY}/producers")

    again = open_log(disk, CONFIG)

    assert again.recovery.producers_rebuilt
    for n in range(5, 10):
        verdict = again.producers.check(a_batch([b""], producer_id=7, sequence=n)[1])
        assert verdict == Duplicate(n, n, verdict.timestamp)
    assert repr(again.producers.check(a_batch([b""], producer_id=7, sequence=10)[1])) == "Fresh()"


def test_small_segments_become_one():
    disk = SimDisk()
    log = a_log(disk, rounds(200))
    before = log.segment_count
    compact(log)
    append(log, *[b"v" * 2_000] * 2, keys=[b"x", b"y"])
    checkpoint(log)

    compact(log)

    assert log.segment_count < before / 2
    assert len(files(disk)) == log.segment_count
    assert latest_by_key(log).keys() == {b"k0", b"k1", b"k2", b"x", b"y"}


def test_a_full_map_takes_several_passes():
    many = [(b"%d" % (n % 50), b"%d" % n) for n in range(150)]
    log = a_log(SimDisk(), many)
    passes = 0
    while compact(log, memory_bytes=10 * BYTES_PER_KEY) is not None:
        passes += 1
        assert latest_by_key(log) == dict(many)
        assert passes < 40

    assert passes > 5
    assert len(records(log)) < 50 + 20


def test_keys_of_any_length_are_told_apart():
    log = a_log(SimDisk(), [(b"k" * 40 + b"%d" % (n % 7), b"%d" % n) for n in range(60)])
    compact(log)

    assert latest_by_key(log) == {b"k" * 40 + b"%d" % (n % 7): b"%d" % n for n in range(53, 60)}


def test_records_without_a_key_go():
    log = open_log(SimDisk(), CONFIG)
    append(log, b"1", b"2", keys=[None, b"a"])
    append(log, b"3")
    append(log, b"x" * 1_000, keys=[b"b"])
    append(log, b"y", keys=[b"b"])
    checkpoint(log)
    compact(log)

    assert [record[0] for record in records(log)] == [1, 3, 4]


def test_what_is_deleted_from_the_front_meanwhile_is_not_brought_back():
    disk = SimDisk()
    log = a_log(disk, rounds(200))
    compaction = log.begin_compaction(Terms(200, 0, True, 1 << 20))
    run(compaction)
    log.delete_before(log._segments[2].base_offset + 1, 200)

    assert log.end_compaction(compaction, 0)
    start = log.log_start_offset
    checkpoint(log)
    assert latest_by_key(open_log(disk.crash(1), CONFIG)) == dict(rounds(200))
    assert log.log_start_offset == start


def test_a_cut_meanwhile_makes_it_void():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    compaction = log.begin_compaction(Terms(40, 0, True, 1 << 20))
    run(compaction)
    log.truncate_to(20)

    assert not log.end_compaction(compaction, 0)
    assert files(disk, ".cleaned") == []
    assert contents(log) == [(n, b"%d" % n) for n in range(20)]


def test_retention_removes_compacted_segments():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    for n in range(60):
        append(log, b"%d" % n, keys=[b"%d" % n], timestamp=1_000 + n)
    checkpoint(log)
    compact(log)

    log.retain(1_070, 30, None, 60)
    checkpoint(log)

    assert log.log_start_offset > 0
    assert all(1_000 + offset >= 1_000 + log.log_start_offset for offset, _, _ in records(log))
    assert contents(open_log(disk.crash(1), CONFIG)) == contents(log)


# -- what goes wrong -----------------------------------------------------------------------------------


def test_damage_ends_it_and_nothing_is_exchanged():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    log.close(0)
    before = bytes(disk.read_bytes(f"{DIRECTORY}/{files(disk)[0]}"))
    disk.corrupt(f"{DIRECTORY}/{files(disk)[0]}", 150)
    log = open_log(disk, CONFIG)
    compaction = log.begin_compaction(Terms(40, 0, True, 1 << 20))

    with pytest.raises(StorageCorruption, match=r"at \d+: batch at offset"):
        run(compaction)
    compaction.discard()

    assert files(disk, ".cleaned") == []
    assert len(disk.read_bytes(f"{DIRECTORY}/{files(disk)[0]}")) == len(before)


def test_a_full_disk_ends_it_and_the_log_is_as_it_was():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    compaction = log.begin_compaction(Terms(40, 0, True, 1 << 20))
    disk.capacity_bytes = disk.used_bytes() + 100

    with pytest.raises(OSError, match="No space"):
        run(compaction)
    compaction.discard()

    assert files(disk, ".cleaned") == []
    assert contents(log) == [(n, b"%d" % n) for n in range(40)]
    disk.capacity_bytes = None
    assert compact(log) is not None


def test_an_exchange_that_fails_fails_the_log_and_opening_it_finishes_it():
    disk = SimDisk()
    log = a_log(disk, rounds(40))
    disk.fail("rename", errno.EIO, path_contains=".log")
    with pytest.raises(Exception, match="compacted segments"):
        compact(log)
    disk.heal()

    assert latest_by_key(open_log(disk.kill(), CONFIG)) == dict(rounds(40))


def steps_of_one_compaction(disk):
    """Life of a log up to and behind a compaction; yields nothing: whoever calls cuts the power in it."""
    log = open_log(disk, CONFIG)
    compact(log, now_ms=2_000)
    append(log, b"after", keys=[b"k0"])
    flush(log)
    log.close(0)


HISTORY = [(b"gone", b"1"), *rounds(30, keys=5), (b"gone", None), (b"once", b"2"), *rounds(60, keys=4), (b"last", b"3")]


def a_disk_with_history():
    disk = SimDisk()
    log = a_log(disk, HISTORY[:50])
    compact(log, now_ms=0)
    for key, value in HISTORY[50:]:
        append(log, value, keys=[key])
    checkpoint(log)
    return disk


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_each_step_loses_no_key(power):
    wanted = {key: value for key, value in dict(HISTORY).items() if value is not None}
    seen = set()
    before = a_disk_with_history()
    for steps in range(400):
        disk = before.crash("all of it is on disk")
        disk.stop_after(steps)
        died = True
        with contextlib.suppress(SimCrash):
            steps_of_one_compaction(disk)
            died = False
        for seed in range(12 if power else 1):
            image = disk.crash(f"{steps}/{seed}") if power else disk.kill()
            view = LogView(image, DIRECTORY).report()
            assert view.is_sound, (steps, seed, view.damages)
            log = open_log(image, CONFIG)
            held = records(log)
            found = latest_by_key(log)
            assert {**found, b"k0": wanted[b"k0"]} == wanted, (steps, seed)
            assert found[b"k0"] in (wanted[b"k0"], b"after")
            assert files(image, ".swap") == files(image, ".cleaned") == []
            assert sorted(offset for offset, _, _ in held) == [offset for offset, _, _ in held]
            seen.add(len(held))
            compact(log, now_ms=4_000)
            again = open_log(image.crash(seed), CONFIG)
            assert {**latest_by_key(again), b"k0": wanted[b"k0"]} == wanted
        if not died:
            assert len(seen) > 1
            return
    raise AssertionError("it never ends")


def test_a_repair_finishes_an_exchange_first():
    disk = a_disk_with_history()
    log = open_log(disk, CONFIG)
    disk.fail("sync_dir", errno.EIO, skip=1)
    with pytest.raises(Exception, match="compacted segments"):
        compact(log)
    disk.heal()
    image = disk.kill()
    assert files(image, ".swap")
    path = LogView(image, DIRECTORY).path(LogView(image, DIRECTORY).bases[-1])
    image.corrupt(path, 70)

    repair(image, DIRECTORY, "before-repair-1", skip=True)

    assert files(image, ".swap") == []
    assert LogView(image, DIRECTORY).report().is_sound


def test_what_is_replaced_is_removed_with_its_indexes_and_nothing_else_is():
    disk = SimDisk()
    make_directory(disk, DIRECTORY)
    names = [f"{base:020d}{suffix}" for base in (0, 10, 20) for suffix in (".log", ".index")]
    names += [f"{0:020d}-{20:020d}.swap", f"{20:020d}.cleaned", "checkpoint"]
    for name in names:
        disk.overwrite(f"{DIRECTORY}/{name}", name.encode())

    assert complete_swaps(disk, DIRECTORY, disk.list_dir(DIRECTORY))

    left = disk.crash(1)
    assert left.list_dir(DIRECTORY) == [f"{0:020d}.log", f"{20:020d}.index", f"{20:020d}.log", "checkpoint"]
    assert left.read_bytes(f"{DIRECTORY}/{0:020d}.log").endswith(b".swap")
    assert not complete_swaps(disk, DIRECTORY, disk.list_dir(DIRECTORY))
