"""A tail torn at every byte of the last two batches, in every layout; side files torn and flipped at every byte."""

from __future__ import annotations

import pytest

from callboard.config import TopicConfig
from callboard.storage.batch import check_batch, encode_batch, restamp
from callboard.testing.disk import SimDisk
from callboard.testing.logs import DIRECTORY, append, checkpoint, contents, flush, open_log

SIDE_FILES = ("checkpoint", "producers", "clean-shutdown", "00000000000000000000.index")


def put(log, number, *, compression="none", is_wide=False):
    """Append a batch; with ``is_wide`` one that has every column there is."""
    keys = [b"k%d" % number, None] if is_wide else None
    headers = [[("h", b"%d" % number)], []] if is_wide else None
    timestamps = [1_000 + number, 900] if is_wide else 1_000
    frames = encode_batch(
        keys,
        [b"%d" % number * 9, None],
        timestamps,
        headers,
        compression=compression,
        producer_id=5,
        producer_epoch=0,
        base_sequence=2 * number,
    )
    epoch = number // 3
    frames = [restamp(frames[0], log.log_end_offset, epoch), *frames[1:]]
    log.append([frames], [check_batch(frames).at(log.log_end_offset, epoch)], 0)


LAYOUTS = {
    "one segment": {},
    "every column": {"is_wide": True},
    "compressed": {"is_wide": True, "compression": "zstd"},
    "two in a segment": {"segment_bytes": 1_024, "is_wide": True},
    "one in a segment": {"segment_bytes": 1_024, "compression": "none", "is_large": True},
    "deleted in front": {"delete_before": 3},
    "nothing synced": {"is_synced": False},
    "no checkpoint": {"has_checkpoint": False},
}


def torn_images(layout):
    """Yield, for every byte of the last two batches, a disk that lost it and all behind it, and what must be left."""
    layout = dict(layout)
    config = TopicConfig(segment_bytes=layout.pop("segment_bytes", 1 << 20), index_interval_bytes=256)
    is_synced, has_checkpoint = layout.pop("is_synced", True), layout.pop("has_checkpoint", True)
    start, is_large = layout.pop("delete_before", 0), layout.pop("is_large", False)
    disk = SimDisk()
    log = open_log(disk, config)
    ends, states = [], []
    for number in range(6):
        put(log, number, **layout)
        if is_large:
            append(log, b"x" * 700)
        if number == 3:
            log.delete_before(start, log.log_end_offset)
            if is_synced:
                checkpoint(log)
        if number >= 3:
            active = log._segments[-1]
            ends.append((active.path, active.size))
            states.append((log.log_end_offset, contents(log), log.epochs.entries))
    files = {segment.path: disk.read_bytes(segment.path) for segment in log._segments}
    for place in (1, 2):
        path, end = ends[place]
        begin = ends[place - 1][1] if ends[place - 1][0] == path else 0
        for at in range(begin, end):
            image = disk.kill()
            if not has_checkpoint:
                image.erase(f"{DIRECTORY}/checkpoint")
            image.overwrite(path, files[path][:at])
            for later in sorted(files):
                if later > path:
                    image.erase(later)
            yield f"{path} at {at}", image, config, states, place - 1


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_tail_torn_at_any_byte_keeps_what_was_whole(layout):
    count = 0
    for where, image, config, states, place in torn_images(LAYOUTS[layout]):
        log = open_log(image, config)

        end, left, epochs = log.log_end_offset, contents(log), log.epochs.entries
        assert end >= states[place][0], where
        assert left == [record for record in states[2][1] if record[0] < end], where
        assert epochs == tuple(entry for entry in states[2][2] if entry[1] < end), where
        append(log, b"next", epoch=9)
        flush(log)
        assert contents(open_log(image.crash(where), config)) == [*left, (end, b"next")], where
        count += 1
    assert count > 150


# -- F15: side files --------------------------------------------------------------------------------


def side_file_images(name, ending):
    disk = SimDisk()
    config = TopicConfig(segment_bytes=1_024, index_interval_bytes=256)
    log = open_log(disk, config)
    for number in range(12):
        put(log, number, is_wide=True)
        if number == 8:
            checkpoint(log)
    log.close(0, clean=ending == "clean")
    wanted = (contents(open_log(disk.kill(), config)), log.epochs.entries, log.producers.copy()[5].batches)
    path = f"{DIRECTORY}/{name}"
    data = disk.read_bytes(path) if disk.exists(path) else b""
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :]
        for torn in (data[:at], flipped, data[:at] + bytes(len(data) - at)):
            image = disk.kill()
            image.overwrite(path, torn)
            yield f"{name} at {at}", image, config, wanted


@pytest.mark.parametrize("ending", ["clean", "killed"])
@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_side_file_torn_or_flipped_at_any_byte_is_rebuilt(name, ending):
    for where, image, config, wanted in side_file_images(name, ending):
        log = open_log(image, config)

        assert (contents(log), log.epochs.entries, log.producers.copy()[5].batches) == wanted, where
        assert log.damaged == [], where
