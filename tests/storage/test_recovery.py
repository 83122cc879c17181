"""Opening a log after a kill, after damage, and without the files beside the segments."""

from __future__ import annotations

import contextlib
import errno

import pytest

from callboard.config import TopicConfig
from callboard.errors import StorageCorruption, StorageError
from callboard.storage.checkpoint import seal
from callboard.storage.files import OsFiles
from callboard.storage.log import Log
from callboard.storage.segment import segment_name
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import DIRECTORY, SMALL, append, checkpoint, contents, flush, open_log, values

FIRST = f"{DIRECTORY}/{segment_name(0)}.log"
ONE_SEGMENT = TopicConfig(index_interval_bytes=256)


def a_log(disk, count: int, config: TopicConfig = ONE_SEGMENT) -> Log:
    """Return a log with ``count`` batches of three records, in two epochs, of an idempotent producer."""
    log = open_log(disk, config)
    for n in range(count):
        append(log, b"%d" % n * 9, b"", None, epoch=n // 4, producer_id=5, sequence=3 * n, timestamp=1_000 + n)
    return log


def state(log: Log) -> tuple:
    producers = {pid: (found.epoch, found.batches) for pid, found in log.producers.copy().items()}
    return contents(log), log.epochs.entries, producers, log.offset_of_max_timestamp()


# -- F13: the torn tail ----------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ["cut", "zeros", "garbage"])
def test_a_tail_torn_at_any_byte_of_the_last_two_batches_is_cut(torn):
    disk = SimDisk()
    log = a_log(disk, 2)
    flush(log)
    ends, states = [log.size_bytes], [state(log)]
    for n in (2, 3):
        append(log, b"%d" % n * 9, b"", None, epoch=1, producer_id=5, sequence=3 * n, timestamp=1_000 + n)
        ends.append(log.size_bytes)
        states.append(state(log))
    whole = disk.read_bytes(FIRST)

    for at in range(ends[0], ends[2]):
        image = disk.kill()
        lost = len(whole) - at
        left = whole[:at] + {"cut": b"", "zeros": bytes(lost), "garbage": b"\xa7" * lost}[torn]
        image.overwrite(FIRST, left)

        again = open_log(image, ONE_SEGMENT)

        kept = max(place for place in range(3) if left[: ends[place]] == whole[: ends[place]])
        assert state(again) == states[kept], f"torn at byte {at}"
        append(again, b"next", epoch=1)
        flush(again)
        assert values(open_log(image.crash(at), ONE_SEGMENT)) == [*(value for _, value in states[kept][0]), b"next"]


def _third(whole: bytes, second_at: int) -> int:
    """Return where the batch behind the one at ``second_at`` begins."""
    return second_at + 12 + int.from_bytes(whole[second_at + 8 : second_at + 12], "big")


def test_a_torn_tail_in_the_last_of_several_segments(tmp_path):
    """The same on the operating system's files."""
    files, directory = OsFiles(), f"{tmp_path}/log"
    log = open_log(files, SMALL, directory=directory)
    for n in range(20):
        append(log, b"%02d" % n * 50)
    log.close(0, clean=False)
    last = sorted(name for name in files.list_dir(directory) if name.endswith(".log"))[-1]
    whole = files.read_bytes(f"{directory}/{last}")

    for size in range(0, len(whole) + 1, 7):
        files.write_bytes(f"{directory}/{last}", whole[:size])
        again = open_log(files, SMALL, directory=directory)
        kept = again.log_end_offset
        assert values(again) == [b"%02d" % n * 50 for n in range(kept)]
        assert again._segments[-1].size == files.size(f"{directory}/{last}") == size - again.recovery.cut_bytes
        again.close(0, clean=False)


def test_after_a_kill_everything_written_is_kept():
    disk = SimDisk()
    log = a_log(disk, 30, SMALL)

    again = open_log(disk.kill())

    assert state(again) == state(log)
    assert (again.recovery.cut_bytes, again.recovery.was_clean) == (0, False)


def test_what_a_kill_left_in_the_page_cache_is_not_called_durable_before_it_is_synced():
    disk = SimDisk()
    log = a_log(disk, 5, SMALL)
    flush(log)
    checkpoint(log)
    a_batch_more = append(log, b"unsynced", epoch=1)
    image = disk.kill()

    again = open_log(image)

    assert (again.durable_offset, again.log_end_offset) == (15, a_batch_more.next_offset)
    lost = [open_log(image.crash(seed)).log_end_offset for seed in range(30)]
    assert min(lost) == 15
    flush(again)
    assert again.durable_offset == 16
    assert {open_log(image.crash(seed)).log_end_offset for seed in range(30)} == {16}


def test_a_write_that_died_half_way_is_cut():
    for operations in range(12):
        disk = SimDisk()
        log = a_log(disk, 3, SMALL)
        flush(log)
        disk.stop_after(operations)
        with contextlib.suppress(SimCrash):
            for n in range(3, 12):
                append(log, b"%d" % n * 9, b"", None, epoch=n // 4, producer_id=5, sequence=3 * n)

        again = open_log(disk.kill())

        assert again.log_end_offset >= 9
        assert again.log_end_offset % 3 == 0
        assert contents(again)[:9] == contents(a_log(SimDisk(), 3))


# -- above and below the recovery point --------------------------------------------------------------


def a_checkpointed_log(disk: SimDisk) -> tuple[int, int]:
    """Return the size below the recovery point and the whole size: 6 batches below, 4 above."""
    log = a_log(disk, 6)
    checkpoint(log)
    size = log.size_bytes
    for n in range(6, 10):
        append(log, b"%d" % n * 9, b"", None, epoch=n // 4, producer_id=5, sequence=3 * n, timestamp=1_000 + n)
    return size, log.size_bytes


def test_only_what_lies_above_the_recovery_point_is_read():
    disk = SimDisk()
    below, whole = a_checkpointed_log(disk)
    image = disk.kill()
    seen = []
    image.before = lambda operation, path: seen.append(path) if operation == "pread" else None
    again = open_log(image, ONE_SEGMENT)

    assert (again.recovery.recovery_offset, again.recovery.scanned_bytes) == (18, whole - below)
    assert again.epochs.entries == ((0, 0), (1, 12), (2, 24))
    assert len(seen) == 1


@pytest.mark.parametrize("field", ["base offset", "length", "epoch", "magic", "crc", "attributes", "payload"])
def test_a_flipped_bit_above_the_recovery_point_ends_the_log_there(field):
    disk = SimDisk()
    below, _ = a_checkpointed_log(disk)
    at = {"base offset": 7, "length": 11, "epoch": 12, "magic": 16, "crc": 20, "attributes": 22, "payload": 100}[field]
    position = _third(disk.read_bytes(FIRST), below) + at  # in the 8th batch
    disk.corrupt(FIRST, position, 0x80 if field == "epoch" else 0x04)

    again = open_log(disk.kill(), ONE_SEGMENT)

    assert again.log_end_offset == 21
    assert contents(again) == contents(a_log(SimDisk(), 7))


def test_bytes_missing_below_the_recovery_point_are_corruption_and_nothing_is_cut():
    disk = SimDisk()
    below, _ = a_checkpointed_log(disk)
    whole = disk.read_bytes(FIRST)
    disk.overwrite(FIRST, whole[: below - 1])

    with pytest.raises(StorageCorruption, match=rf"{below - 1} bytes, {below} were synced") as damage:
        open_log(disk, ONE_SEGMENT)

    assert (damage.value.path, damage.value.position) == (FIRST, below - 1)
    assert disk.read_bytes(FIRST) == whole[: below - 1]


@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_a_segment_missing_below_the_recovery_point_is_corruption(which):
    disk = SimDisk()
    log = a_log(disk, 30, SMALL)
    checkpoint(log)
    names = [name for name in disk.list_dir(DIRECTORY) if name.endswith(".log")]
    disk.erase(f"{DIRECTORY}/{names[{'first': 0, 'middle': len(names) // 2, 'last': -1}[which]]}")

    if which == "middle":  # found when it is looked at: opening reads nothing below the recovery point
        again = open_log(disk)
        assert again.log_end_offset == 90
        with pytest.raises(Exception, match="offsets 42 to 62 cannot be read"):
            contents(again)
        return
    with pytest.raises(StorageCorruption, match=r"missing|begins at offset"):
        open_log(disk)


def test_damage_below_the_recovery_point_cuts_nothing():
    """B31: a bad checksum below the recovery point must not end the log there."""
    disk = SimDisk()
    below, whole = a_checkpointed_log(disk)
    disk.corrupt(FIRST, below // 2)

    again = open_log(disk.kill(), ONE_SEGMENT)

    assert again.log_end_offset == 30
    assert again.size_bytes == whole


# -- F15: the files beside the segments --------------------------------------------------------------

SIDE_FILES = ["checkpoint", "producers", "index", "clean-shutdown"]


def _damage(disk: SimDisk, path: str, how: str) -> None:
    data = disk.read_bytes(path)
    if how == "deleted":
        disk.erase(path)
    elif how == "empty":
        disk.overwrite(path, b"")
    elif how == "cut":
        disk.overwrite(path, data[: len(data) // 2])
    elif how == "zeros":
        disk.overwrite(path, bytes(len(data)))
    elif how == "garbage":
        disk.overwrite(path, bytes((7 * n + 3) % 256 for n in range(len(data))))
    elif how == "one bit":
        disk.corrupt(path, len(data) // 2)


@pytest.mark.parametrize("how", ["deleted", "empty", "cut", "zeros", "garbage", "one bit"])
@pytest.mark.parametrize("which", [*SIDE_FILES, "all"])
@pytest.mark.parametrize("ending", ["clean", "killed"])
def test_side_files_that_are_gone_or_garbage_are_rebuilt(which, how, ending):
    disk = SimDisk()
    log = a_log(disk, 20, SMALL)
    checkpoint(log)
    for n in range(20, 24):
        append(log, b"%d" % n * 9, b"", None, epoch=n // 4, producer_id=5, sequence=3 * n, timestamp=1_000 + n)
    wanted = state(log)
    log.close(0, clean=ending == "clean")
    image = disk.kill()
    for name in image.list_dir(DIRECTORY):
        if not name.endswith(".log") and (which == "all" or which in name):
            _damage(image, f"{DIRECTORY}/{name}", how)

    again = open_log(image)

    assert state(again) == wanted
    flush(again)
    assert again.durable_offset == 72
    assert state(open_log(image.crash(1))) == wanted


def test_an_index_that_lies_is_found_out_and_made_again():
    """Right checksum, right size, wrong positions: written by a bug, say."""
    disk = SimDisk()
    log = a_log(disk, 10)
    wanted = contents(log)
    index = log._segments[0]._index
    for place in range(1, len(index)):
        index.positions[place] += 8
    log.close(0)

    again = open_log(disk, ONE_SEGMENT)

    assert contents(again) == wanted


def test_a_snapshot_of_records_that_are_gone_is_not_believed():
    disk = SimDisk()
    log = a_log(disk, 6)
    checkpoint(log)
    later = disk.read_bytes(f"{DIRECTORY}/producers").replace(b'"offset":18', b'"offset":99')
    disk.overwrite(f"{DIRECTORY}/producers", seal(later[9:-1]))

    again = open_log(disk, ONE_SEGMENT)

    assert again.recovery.producers_rebuilt
    assert again.producers.copy()[5].batches[-1].last_offset == 17


def test_without_a_checkpoint_a_torn_tail_is_cut():
    disk = SimDisk()
    a_log(disk, 6)
    disk.erase(f"{DIRECTORY}/checkpoint")
    disk.overwrite(FIRST, disk.read_bytes(FIRST)[:-3])

    again = open_log(disk, ONE_SEGMENT)

    assert contents(again) == contents(a_log(SimDisk(), 5))
    flush(again)
    assert not open_log(disk.crash(1), ONE_SEGMENT).recovery.cut_bytes


@pytest.mark.parametrize("config", [ONE_SEGMENT, SMALL])
def test_without_a_checkpoint_damage_in_the_middle_cuts_nothing(config):
    """Nobody knows how much was synced: cutting 20 good batches for one bad bit would lose them."""
    disk = SimDisk()
    a_log(disk, 24, config)
    disk.erase(f"{DIRECTORY}/checkpoint")
    disk.corrupt(FIRST, 500)
    before = {name: disk.read_bytes(f"{DIRECTORY}/{name}") for name in disk.list_dir(DIRECTORY)}

    with pytest.raises(StorageCorruption, match="a whole batch follows") as damage:
        open_log(disk, config)

    assert damage.value.path == FIRST
    assert damage.value.position <= 500
    assert {name: disk.read_bytes(f"{DIRECTORY}/{name}") for name in disk.list_dir(DIRECTORY)} == before


def test_leftovers_of_an_atomic_write_are_removed():
    disk = SimDisk()
    a_log(disk, 2)
    disk.overwrite(f"{DIRECTORY}/checkpoint.tmp", b"half")
    disk.overwrite(f"{DIRECTORY}/notes.txt", b"somebody's")

    open_log(disk, ONE_SEGMENT)

    assert "checkpoint.tmp" not in disk.list_dir(DIRECTORY)
    assert "notes.txt" in disk.list_dir(DIRECTORY)


def test_a_directory_that_cannot_be_read_says_which():
    disk = SimDisk()
    a_log(disk, 2)
    disk.fail("list_dir", errno.EACCES)

    with pytest.raises(Exception, match="/data/log: cannot be opened: Permission denied"):
        open_log(disk)


# -- producers: rebuilt from the log -----------------------------------------------------------------


def test_producers_are_rebuilt_whatever_is_left_of_the_snapshot():
    """B14: what the log holds, its producers' last five batches hold, after any restart."""
    disk = SimDisk()
    log = open_log(disk)
    for n in range(40):
        append(log, b"x", producer_id=n % 3, producer_epoch=n // 30, sequence=n // 3 - (10 if n >= 30 else 0))
        if n == 25:
            checkpoint(log)
    wanted = {pid: (found.epoch, found.batches) for pid, found in log.producers.copy().items()}

    for missing in (False, True):
        image = disk.kill()
        if missing:
            image.erase(f"{DIRECTORY}/producers")
        again = open_log(image)
        assert {pid: (found.epoch, found.batches) for pid, found in again.producers.copy().items()} == wanted
        assert again.recovery.producers_rebuilt is missing


def test_recovery_takes_time_for_what_was_not_checkpointed_only(tmp_path):
    """A guard against reading everything, in operations, not in seconds."""
    disk = SimDisk()
    log = a_log(disk, 200, SMALL)
    checkpoint(log)
    append(log, b"one more")
    image = disk.kill()

    again = open_log(image)

    assert again.segment_count > 20
    assert image.counts["pread"] <= 2
    assert image.counts["open"] <= 2


@pytest.mark.parametrize("operation", ["datasync", "sync_dir"])
@pytest.mark.parametrize("when", ["closed", "cut"])
def test_a_sync_that_fails_when_a_log_is_closed_or_cut_is_not_tried_again_by_the_next_process(when, operation):  # F17
    disk = SimDisk()
    log = open_log(disk)
    append(log, b"a")
    append(log, b"b")
    disk.fail(operation, errno.EIO)

    if when == "closed":
        log.close(0)
    else:
        with pytest.raises(StorageError):
            log.truncate_to(1)

    disk.heal()
    with pytest.raises(StorageError, match="a sync failed here"):
        open_log(disk.kill())


def test_without_its_checkpoint_a_log_begins_with_its_first_segment_again():
    disk = SimDisk()
    log = open_log(disk)
    for n in range(3):
        append(log, b"%d" % n)
    log.delete_before(2, 3)
    log.close(0)
    assert values(open_log(disk.kill())) == [b"2"]
    disk.erase(f"{DIRECTORY}/checkpoint")

    assert values(open_log(disk.kill())) == [b"0", b"1", b"2"]
