"""A segment that is gone, short, or too long: what ``verify`` says is what opening the log will find."""

from __future__ import annotations

import contextlib

import pytest

from callboard.config import TopicConfig
from callboard.errors import StorageCorruption
from callboard.storage.inspection import LogView, repair
from callboard.testing.disk import SimDisk
from callboard.testing.logs import DIRECTORY, append, checkpoint, contents, flush, open_log

CONFIG = TopicConfig(segment_bytes=700, index_interval_bytes=250)
BATCHES = 15


def a_log(*, closed=True, begin=0):
    """Return a disk with a log of several segments; not ``closed``: its recovery point is in the last but one."""
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    for n in range(BATCHES):
        append(log, *[b"%d/%d" % (n, i) + b"v" * (0, 3, 40)[n % 3] for i in range(2)], producer_id=5, sequence=2 * n)
        if n == 9 and not closed:
            checkpoint(log)
    if begin:
        log.delete_before(begin, 2 * BATCHES)
    if closed:
        log.close(0)
    else:
        flush(log)
    return disk


def segments(disk):
    return [f"{DIRECTORY}/{name}" for name in disk.list_dir(DIRECTORY) if name.endswith(".log")]


def change(disk, path, how):
    data = disk.read_bytes(path)
    if how == "gone":
        disk.erase(path)
    else:
        disk.overwrite(path, {"empty": b"", "short": data[: len(data) // 2], "long": data + data}[how])


def opens(disk):
    with contextlib.suppress(StorageCorruption):
        open_log(disk.kill(), CONFIG)
        return True
    return False


@pytest.mark.parametrize("begin", [0, 9])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("how", ["gone", "empty", "short", "long"])
def test_what_keeps_a_log_from_opening_is_told_and_repaired(how, place, begin):
    disk = a_log(begin=begin)
    written = dict(contents(open_log(disk.kill(), CONFIG)))
    change(disk, segments(disk)[place], how)

    report = LogView(disk, DIRECTORY).report()

    if place < 3 or how != "long":  # behind the last batch of all it is a torn tail
        assert not report.is_sound
    assert opens(disk) or report.damages
    for skip in (False, True):
        image = disk.kill()
        if report.damages:
            lost = report.would_lose(skip=skip)
            assert repair(image, DIRECTORY, "aside", skip=skip).lost == lost
            assert LogView(image, DIRECTORY).report().is_sound
            log = open_log(image, CONFIG)
            gone = {offset for first, end in lost for offset in range(first, end)}
            left = {offset: value for offset, value in written.items() if offset not in gone}
            assert dict(contents(log)) == left
            if skip:
                assert log.log_end_offset == 2 * BATCHES  # no offset is given twice
            append(log, b"next", epoch=9)
            log.close(0)
            assert contents(open_log(image, CONFIG))[-1][1] == b"next"


@pytest.mark.parametrize("how", ["gone", "empty"])
@pytest.mark.parametrize("skip", [False, True])
def test_the_segment_of_the_recovery_point_is_missing_with_what_was_written_behind_it(how, skip):
    disk = a_log(closed=False)
    path = segments(disk)[-2]
    change(disk, path, how)
    assert not opens(disk)
    base, end = (int(name.rpartition("/")[2][:20]) for name in segments(a_log(closed=False))[-2:])

    assert LogView(disk, DIRECTORY).report().would_lose(skip=True) == [(base, end)]
    repair(disk, DIRECTORY, "aside", skip=skip)

    assert LogView(disk, DIRECTORY).report().is_sound
    assert [offset for offset, _ in contents(open_log(disk, CONFIG))] == [
        *range(base),
        *(range(end, 2 * BATCHES) if skip else ()),
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_a_log_without_any_segment_is_told_and_repaired(skip):
    disk = a_log()
    for path in segments(disk):
        disk.erase(path)

    assert LogView(disk, DIRECTORY).report().would_lose(skip=skip) == [(0, 2 * BATCHES)]
    repair(disk, DIRECTORY, "aside", skip=skip)

    assert LogView(disk, DIRECTORY).report().is_sound
    log = open_log(disk, CONFIG)
    assert contents(log) == []
    assert log.log_end_offset == (2 * BATCHES if skip else 0)


def test_bytes_behind_a_segment_s_last_batch_cost_no_record():
    disk = a_log()
    written = contents(open_log(disk.kill(), CONFIG))
    path = segments(disk)[1]
    change(disk, path, "long")

    (damage,) = LogView(disk, DIRECTORY).report().damages
    repaired = repair(disk, DIRECTORY, "aside", skip=False)

    assert "no offset is missing" in str(damage)
    assert repaired.lost == []
    assert LogView(disk, DIRECTORY).report().is_sound
    assert contents(open_log(disk, CONFIG)) == written


def test_a_segment_whose_entry_a_crash_lost_is_no_damage():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    append(log, b"a")
    disk.erase(segments(disk)[0])  # as after power loss: the checkpoint says that nothing was synced

    assert LogView(disk, DIRECTORY).report().is_sound
    assert opens(disk)
