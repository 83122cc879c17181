"""The disk runs full at each of the places where the log writes: nothing is lost, and it goes on when there is room."""

from __future__ import annotations

import errno

import pytest

from callboard.config import TopicConfig
from callboard.errors import StorageFull
from callboard.testing.disk import SimDisk
from callboard.testing.logs import DIRECTORY, append, append_many, checkpoint, contents, flush, open_log, values

CONFIG = TopicConfig(segment_bytes=1_024, index_interval_bytes=200)


def a_full_segment(disk):
    log = open_log(disk, CONFIG)
    while log.size_bytes < 600:
        append(log, b"x" * 100)
    return log


@pytest.mark.parametrize("room", [0, 1, 60, 400])
def test_full_when_a_segment_is_rolled(room):
    disk = SimDisk()
    log = a_full_segment(disk)
    before = contents(log)
    disk.capacity_bytes = disk.used_bytes() + room

    with pytest.raises(StorageFull):
        append(log, b"y" * 500)

    assert (contents(log), log.segment_count) == (before, 1)
    assert contents(open_log(disk.kill(), CONFIG)) == before
    disk.capacity_bytes = None
    append(log, b"z" * 500)
    assert values(open_log(disk.kill(), CONFIG))[-1] == b"z" * 500


def test_no_entry_is_left_in_a_directory_that_is_full():
    disk = SimDisk()
    log = a_full_segment(disk)
    before = disk.list_dir(DIRECTORY)
    disk.fail("open", errno.ENOSPC, path_contains=".log")

    with pytest.raises(StorageFull):
        append(log, b"y" * 500)

    assert disk.list_dir(DIRECTORY) == before
    append(log, b"z" * 500)


@pytest.mark.parametrize("room", [0, 30, 100, 200])
def test_full_when_a_checkpoint_is_written_leaves_the_old_one(room):
    disk = SimDisk()
    log = a_full_segment(disk)
    checkpoint(log)
    old = disk.read_bytes(f"{DIRECTORY}/checkpoint")
    append(log, b"y", producer_id=3, producer_epoch=0, sequence=0)
    disk.capacity_bytes = disk.used_bytes() + room

    checkpoint(log)

    assert log.durable_offset in (log.log_end_offset, log.log_end_offset - 1)
    assert disk.read_bytes(f"{DIRECTORY}/checkpoint") == old
    assert values(open_log(disk.crash(room), CONFIG))[-1] == b"y"
    disk.capacity_bytes = None
    checkpoint(log)
    assert disk.read_bytes(f"{DIRECTORY}/checkpoint") != old


def test_full_when_an_index_is_written_costs_only_the_index():
    disk = SimDisk()
    log = a_full_segment(disk)
    append_many(log, [[b"y" * 500]] * 4)
    disk.fail("append", errno.ENOSPC, path_contains=".index", times=100, written=40)

    flush(log)
    log.close(0)

    disk.heal()
    again = open_log(disk.kill(), CONFIG)
    assert again.recovery.was_clean
    assert values(again)[-4:] == [b"y" * 500] * 4
    assert again.offset_for_timestamp(0) == (0, 1_000)


@pytest.mark.parametrize("room", [0, 20, 150, 300, 600, 1_000])
def test_full_when_closed_loses_nothing(room):
    disk = SimDisk()
    log = a_full_segment(disk)
    append(log, b"y" * 500, producer_id=3, producer_epoch=0, sequence=0)
    wanted = contents(log)
    disk.capacity_bytes = disk.used_bytes() + room

    log.close(0)

    assert contents(open_log(disk.kill(), CONFIG)) == wanted
    assert contents(open_log(disk.crash(room), CONFIG)) == wanted


def test_a_full_disk_is_left_behind_by_retention_alone():
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    for n in range(30):
        append(log, b"%d" % n * 50)
    disk.capacity_bytes = disk.used_bytes() + 300
    with pytest.raises(StorageFull):
        append(log, b"x" * 900)

    log.retain(0, None, 2_000, log.log_end_offset)
    checkpoint(log)

    append(log, b"x" * 900)
    flush(log)
    again = open_log(disk.crash(5), CONFIG)
    assert again.log_start_offset > 0
    assert values(again)[-1] == b"x" * 900


@pytest.mark.parametrize("room", [0, 30, 60])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_full_when_a_tail_is_cut_leaves_the_old_checkpoint_and_the_log_goes_on(room, is_checkpointed):
    disk = SimDisk()
    log = open_log(disk, CONFIG)
    append(log, b"a", producer_id=3, sequence=0)
    append(log, b"b", producer_id=3, sequence=1)
    if is_checkpointed:
        checkpoint(log)
    append(log, b"c", producer_id=3, sequence=2)
    disk.capacity_bytes = disk.used_bytes() + room
    disk.fail("append", errno.ENOSPC, path_contains="checkpoint", times=100)

    log.truncate_to(2)

    assert (log.log_end_offset, log.durable_offset) == (2, 2)
    for image in (disk.kill(), disk.crash(room)):
        image.heal()
        again = open_log(image, CONFIG)
        assert values(again) == [b"a", b"b"]
        assert again.producers.batch_offsets() == {0, 1}
    disk.capacity_bytes = None
    disk.heal()
    append(log, b"d", producer_id=3, sequence=2)
    checkpoint(log)
    assert open_log(disk.kill(), CONFIG).recovery.recovery_offset == 3
