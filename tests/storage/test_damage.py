"""A bit flipped anywhere below the recovery point: found, told, never served, never cut; and what a repair leaves."""

from __future__ import annotations

import contextlib

import pytest

from callboard.config import TopicConfig
from callboard.errors import CorruptRecordError, StorageCorruption
from callboard.storage.batch import decode_batch, iter_batches
from callboard.storage.inspection import LogView, find_logs, repair
from callboard.storage.verification import Ranges
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import DIRECTORY, append, checkpoint, contents, open_log

CONFIG = TopicConfig(segment_bytes=700, index_interval_bytes=250)
BATCHES = 15


def a_closed_log(disk, *, sizes=(0, 3, 40), per_batch=2):
    log = open_log(disk, CONFIG)
    for n in range(BATCHES):
        values = [b"%d/%d" % (n, i) + b"v" * sizes[n % len(sizes)] for i in range(per_batch)]
        append(log, *values, epoch=n // 4, producer_id=5, producer_epoch=0, sequence=n * per_batch)
    log.close(0)
    return contents(open_log(disk.kill(), CONFIG))


def batches_of(disk):
    """Return (path, position, end, base offset, next offset) of every batch."""
    view = LogView(disk, DIRECTORY)
    return [
        (view.path(base), position, position + header.length, header.base_offset, header.next_offset)
        for base, header, position in view.walk()
    ]


def read_each(log):
    """Return, offset by offset, what a fetch from there begins with; None where it is refused."""
    served = []
    for offset in range(log.log_start_offset, log.log_end_offset):
        try:
            data = log.read(offset, 1, log.log_end_offset)[0]
        except CorruptRecordError:
            served.append((offset, None))
            continue
        columns = decode_batch(data, next(iter_batches(data))[1])
        served.append((offset, dict(zip(columns.offsets, columns.values, strict=True)).get(offset, b"wrong batch")))
    return served


def all_served(log):
    """Return the records that a consumer gets that reads in large steps and seeks over what is refused."""
    records, at = {}, log.log_start_offset
    while at < log.log_end_offset:
        try:
            found = log.read(at, 400, log.log_end_offset)
        except CorruptRecordError:
            at += 1
            continue
        if not found:
            break
        (data,) = found
        for header, position in iter_batches(data):
            columns = decode_batch(data, position)
            records.update(zip(columns.offsets, columns.values, strict=True))
            at = header.next_offset
    return sorted(records.items())


def flips(step, mask, *, is_index_there, of_each=1 << 30):
    pristine = SimDisk()
    written = a_closed_log(pristine)
    found = 0
    for path, begin, end, base, next_offset in batches_of(pristine):
        for position in range(begin, min(end, begin + of_each), step):
            disk = pristine.kill()
            disk.corrupt(path, position, mask)
            if not is_index_there:
                for name in disk.list_dir(DIRECTORY):
                    if name.endswith(".index"):
                        disk.erase(f"{DIRECTORY}/{name}")
            image = {
                name: disk.read_bytes(f"{DIRECTORY}/{name}") for name in disk.list_dir(DIRECTORY) if ".log" in name
            }
            where = f"bit {mask:#x} at {position - begin} of the batch at {base}"
            log = open_log(disk, CONFIG)

            expected = [(offset, None if base <= offset < next_offset else value) for offset, value in written]
            assert read_each(log) == expected, where
            assert all_served(log) == [record for record in expected if record[1] is not None], where
            (damage,) = log.damaged
            assert (damage.path, damage.position, damage.offset) == (path, begin, base), where
            assert {name: disk.read_bytes(f"{DIRECTORY}/{name}") for name in image} == image, where
            (told,) = LogView(disk, DIRECTORY).report().damages
            assert (told.path, told.position, told.offset, told.next_offset) == (path, begin, base, next_offset), where
            found += 1
    return found


def test_flips_in_every_part_of_a_batch_are_found_and_never_served():
    assert flips(17, 0x10, is_index_there=True) > 100


def test_flips_are_found_without_an_index_too():
    assert flips(23, 0x01, is_index_there=False) > 80


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_base_offset_and_leader_epoch_lie_outside_of_the_checksum_and_are_judged_by_what_is_around(mask):
    assert flips(1, mask, is_index_there=True, of_each=16) == 16 * BATCHES


@pytest.mark.long
@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("is_index_there", [True, False])
def test_every_bit_flip_is_found_and_never_served(bit, is_index_there):
    assert flips(1, 1 << bit, is_index_there=is_index_there) > 1_500


def test_what_was_checked_once_is_not_checked_again():
    disk = SimDisk()
    a_closed_log(disk)
    log = open_log(disk, CONFIG)
    contents(log)

    assert all(segment.is_verified(0, segment.size) for segment in log._segments)
    assert all(len(segment._verified) <= 1 for segment in log._segments)
    assert log.damaged == []


def test_damage_survives_checkpoints_and_closing():
    disk = SimDisk()
    a_closed_log(disk)
    path, begin, _, base, _ = batches_of(disk)[4]
    disk.corrupt(path, begin + 70)
    log = open_log(disk, CONFIG)
    with pytest.raises(CorruptRecordError, match=f"at {begin}: .*offsets {base} to {base + 1} cannot be read"):
        log.read(base, 100, log.log_end_offset)

    append(log, b"more", epoch=9)
    checkpoint(log)
    log.close(0)

    log = open_log(disk, CONFIG)
    assert (base, None) in read_each(log)
    assert log.log_end_offset == 2 * BATCHES + 1


def test_ranges_merge_where_they_touch():
    ranges = Ranges()
    for begin, end in [(0, 10), (20, 30), (40, 50), (30, 35), (10, 20)]:
        ranges.add(begin, end)

    assert len(ranges) == 2
    assert [ranges.covers(*pair) for pair in [(0, 35), (5, 6), (34, 36), (40, 50), (35, 40)]] == [
        True,
        True,
        False,
        True,
        False,
    ]
    ranges.truncate(25)
    assert ranges.covers(0, 25)
    assert not ranges.covers(0, 26)


# -- a log without its broker ------------------------------------------------------------------------


def test_a_sound_log_is_told_as_it_is():
    disk = SimDisk()
    a_closed_log(disk)

    report = LogView(disk, DIRECTORY).report()

    assert report.is_sound
    assert (report.batches, report.records, report.log_end_offset) == (BATCHES, 2 * BATCHES, 2 * BATCHES)
    assert find_logs(disk, "/data") == find_logs(disk, DIRECTORY) == [DIRECTORY]


def test_a_torn_tail_is_no_damage():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    append(log, b"a")
    checkpoint(log)
    append(log, b"b")
    path = batches_of(disk)[0][0]
    disk.overwrite(path, disk.read_bytes(path)[:-3])

    report = LogView(disk, DIRECTORY).report()

    assert report.is_sound
    assert [(torn.offset, torn.next_offset) for torn in report.torn] == [(1, 2)]


def test_bytes_missing_below_the_recovery_point_are_told():
    disk = SimDisk()
    a_closed_log(disk)
    path, begin, _, base, _ = batches_of(disk)[-1]
    disk.overwrite(path, disk.read_bytes(path)[:begin])

    (damage,) = LogView(disk, DIRECTORY).report().damages

    assert (damage.offset, damage.next_offset) == (base, 2 * BATCHES)


@pytest.mark.parametrize("place", range(BATCHES))
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("at", [9, 70])
def test_a_repair_keeps_all_that_it_can_and_the_log_goes_on(place, skip, at):
    disk = SimDisk()
    written = a_closed_log(disk)
    path, begin, _, base, next_offset = batches_of(disk)[place]
    disk.corrupt(path, begin + at, 0x40)
    before = disk.read_bytes(path)

    done = repair(disk, DIRECTORY, "aside", skip=skip)

    left = [record for record in written if record[0] < base or (skip and record[0] >= next_offset)]
    assert disk.read_bytes(f"{DIRECTORY}/aside/{path.rpartition('/')[2]}") == before
    assert done.lost == [(base, next_offset if skip else 2 * BATCHES)]
    for image in (disk.kill(), disk.crash(place)):
        report = LogView(image, DIRECTORY).report()
        assert report.is_sound, report
        log = open_log(image, CONFIG)
        assert contents(log) == left
        assert log.recovery.gap_offsets == (next_offset - base if skip and base else 0)
        assert [value for _, value in left] == [value for _, value in all_served(log)]
        append(log, b"next", epoch=9)
        log.close(0)
        assert contents(open_log(image, CONFIG))[-1][1] == b"next"
        assert contents(open_log(image.kill(), CONFIG))[:-1] == left


def test_several_damages_are_taken_out_at_once():
    disk = SimDisk()
    written = a_closed_log(disk)
    lost = set()
    for place in (0, 3, 4, 5, 11, BATCHES - 1):
        *_, base, next_offset = batches_of(disk)[place]
        lost |= set(range(base, next_offset))
    batches = batches_of(disk)
    for place in (0, 3, 4, 5, 11, BATCHES - 1):
        disk.corrupt(batches[place][0], batches[place][1] + 70)

    repair(disk, DIRECTORY, "aside", skip=True)

    log = open_log(disk, CONFIG)
    assert contents(log) == [record for record in written if record[0] not in lost]
    assert LogView(disk, DIRECTORY).report().is_sound


def test_a_log_that_will_not_open_is_repaired():
    disk = SimDisk()
    written = a_closed_log(disk)
    path, begin, _, base, _ = batches_of(disk)[-1]
    disk.overwrite(path, disk.read_bytes(path)[: begin + 5])
    with pytest.raises(StorageCorruption):
        open_log(disk, CONFIG)

    repair(disk, DIRECTORY, "aside", skip=False)

    assert contents(open_log(disk, CONFIG)) == written[:base]


def test_a_log_without_a_checkpoint_that_will_not_open_is_repaired():
    disk = SimDisk()
    written = a_closed_log(disk)
    path, begin, _, base, next_offset = batches_of(disk)[5]
    disk.corrupt(path, begin + 70)
    disk.erase(f"{DIRECTORY}/checkpoint")
    with pytest.raises(StorageCorruption):
        open_log(disk, CONFIG)

    repair(disk, DIRECTORY, "aside", skip=True)

    assert contents(open_log(disk, CONFIG)) == [record for record in written if not base <= record[0] < next_offset]


def test_a_sound_log_is_not_repaired():
    disk = SimDisk()
    a_closed_log(disk)

    with pytest.raises(StorageCorruption, match="nothing is damaged"):
        repair(disk, DIRECTORY, "aside", skip=False)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("places", [(5,), (0, 6), (BATCHES - 1,)])
def test_a_repair_that_was_interrupted_is_run_again(places, skip):
    pristine = SimDisk()
    written = a_closed_log(pristine)
    batches = batches_of(pristine)
    for place in places:
        pristine.corrupt(batches[place][0], batches[place][1] + 70)
    lost = {offset for place in places for offset in range(batches[place][3], batches[place][4])}
    left = [record for record in written if record[0] not in lost and (skip or record[0] < batches[places[0]][3])]
    for steps in range(300):
        disk = pristine.kill()
        disk.stop_after(steps)
        died = True
        with contextlib.suppress(SimCrash):
            repair(disk, DIRECTORY, "aside", skip=skip)
            died = False
        for image in (disk.kill(), disk.crash(steps)):
            if not LogView(image, DIRECTORY).report().is_sound:
                repair(image, DIRECTORY, "again", skip=skip)
            assert LogView(image, DIRECTORY).report().is_sound, f"step {steps}"
            assert contents(open_log(image, CONFIG)) == left, f"step {steps}"
        if not died:
            return
    raise AssertionError("it never ends")
