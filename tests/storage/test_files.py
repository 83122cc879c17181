"""The operating system's files, and that the simulated disk promises the same."""

from __future__ import annotations

import errno
import os
import stat
import sys

import pytest

from callboard.storage import files as files_module
from callboard.storage.files import AlreadyLocked, OsFiles
from callboard.testing.disk import SimCrash, SimDisk


@pytest.fixture(params=["os", "simulated"])
def place(request, tmp_path):
    """Return (files, an existing directory)."""
    if request.param == "os":
        return OsFiles(), str(tmp_path)
    disk = SimDisk()
    disk.make_dir("/data")
    return disk, "/data"


def test_a_file_grows_at_its_end_and_is_read_anywhere(place):
    files, root = place
    file = files.open(f"{root}/a", create=True)

    file.append([b"one", b"", b"two"])
    file.append([b"three"])

    assert (file.size, file.pread(5, 2), file.pread(100, 6), file.pread(1, 50)) == (11, b"etwo" + b"t", b"three", b"")
    assert files.read_bytes(f"{root}/a") == b"onetwothree"
    file.close()


def test_more_buffers_than_one_system_call_takes(place):
    files, root = place
    file = files.open(f"{root}/a", create=True)

    file.append([b"%05d" % n for n in range(3_000)])

    assert file.pread(5, 5 * 2_999) == b"02999"
    assert file.size == 15_000
    file.close()


def test_appending_goes_on_where_truncation_left_it(place):
    files, root = place
    file = files.open(f"{root}/a", create=True)
    file.append([b"abcdef"])

    file.truncate(2)
    file.append([b"X"])

    assert files.read_bytes(f"{root}/a") == b"abX"
    file.close()


def test_a_second_handle_syncs_when_the_first_is_closed(place):
    files, root = place
    file = files.open(f"{root}/a", create=True)
    file.append([b"abc"])

    second = file.duplicate()
    file.close()
    second.datasync()
    second.close()

    with pytest.raises(OSError):
        file.append([b"x"])


def test_handles_on_one_file_share_its_descriptor_and_the_last_one_closes_it(tmp_path):
    file = OsFiles().open(f"{tmp_path}/a", create=True)
    held = len(os.listdir("/dev/fd"))

    second, third = file.duplicate(), file.duplicate()
    assert len(os.listdir("/dev/fd")) == held
    file.close(), second.close(), second.close()
    third.datasync()
    assert len(os.listdir("/dev/fd")) == held, "the second one counts once"
    third.close()

    assert len(os.listdir("/dev/fd")) == held - 1
    with pytest.raises(OSError, match="closed"):
        file.duplicate()


def test_a_handle_that_is_collected_while_another_is_closed_does_not_wait_for_it(tmp_path):
    """The collector runs at any line, in any thread: in one that closes a handle of the same file, too."""
    file = OsFiles().open(f"{tmp_path}/a", create=True)
    held = len(os.listdir("/dev/fd"))
    forgotten = [file.duplicate() for _ in range(50)]
    second = file.duplicate()

    def collect(frame, event, argument):
        if frame.f_code.co_name == "release" and forgotten:
            sys.settrace(None)
            forgotten.clear()
        return collect

    sys.settrace(collect)
    try:
        second.close()
    finally:
        sys.settrace(None)

    assert not forgotten
    file.datasync()
    file.close()
    assert len(os.listdir("/dev/fd")) == held - 1


def test_directories_are_listed_in_order_and_removed_whole(place):
    files, root = place
    files.make_dir(f"{root}/b/c")
    files.make_dir(f"{root}/b/c")
    files.write_bytes(f"{root}/b/z", b"1")
    files.write_atomic(f"{root}/b/a", b"2")
    files.write_atomic(f"{root}/b/a", b"3")

    assert (files.list_dir(f"{root}/b"), files.read_bytes(f"{root}/b/a")) == (["a", "c", "z"], b"3")
    files.rename(f"{root}/b", f"{root}/d")
    assert (files.exists(f"{root}/b"), files.size(f"{root}/d/z")) == (False, 1)
    files.remove_tree(f"{root}/d")
    assert files.list_dir(root) == []


def test_what_is_missing_is_an_oserror(place):
    files, root = place

    for call in (files.open, files.size, files.read_bytes, files.list_dir, files.remove, files.sync_dir):
        with pytest.raises(FileNotFoundError):
            call(f"{root}/nothing")


def test_a_lock_is_exclusive_and_names_its_holder(place):
    files, root = place
    lock = files.lock(f"{root}/lock", "4711")

    with pytest.raises(AlreadyLocked, match="4711") as refused:
        files.lock(f"{root}/lock", "4712")

    assert refused.value.holder == "4711"
    lock.release()
    files.lock(f"{root}/lock", "4712").release()


def test_a_replaced_file_is_synced_then_renamed_then_its_directory_is_synced(tmp_path, monkeypatch):  # B32
    files, done = OsFiles(), []
    monkeypatch.setattr(files_module, "_datasync", lambda fd: done.append("file"))
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("directory"))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (done.append("rename"), rename(old, new)))

    files.write_atomic(f"{tmp_path}/a", b"new")

    assert done == ["file", "rename", "directory"]


def test_files_and_directories_are_private(tmp_path):
    files, root = OsFiles(), str(tmp_path)
    files.make_dir(f"{root}/a/b")
    files.open(f"{root}/a/file", create=True).close()
    files.write_atomic(f"{root}/a/atomic", b"")
    files.write_bytes(f"{root}/a/bytes", b"")
    files.lock(f"{root}/a/lock").release()

    modes = {name: stat.S_IMODE(os.stat(f"{root}/a/{name}").st_mode) for name in files.list_dir(f"{root}/a")}

    assert modes == {"b": 0o700, "file": 0o600, "atomic": 0o600, "bytes": 0o600, "lock": 0o600}
    assert stat.S_IMODE(os.stat(f"{root}/a").st_mode) == 0o700


def test_a_forgotten_file_does_not_leak_its_descriptor(tmp_path):
    before = len(os.listdir("/dev/fd"))

    for name in "abc":
        OsFiles().open(f"{tmp_path}/{name}", create=True)

    assert len(os.listdir("/dev/fd")) == before


def test_a_write_that_is_cut_short_is_continued(tmp_path, monkeypatch):
    file = OsFiles().open(f"{tmp_path}/a", create=True)
    whole = os.pwritev

    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: whole(fd, [b"".join(buffers)[:4]], at))
    file.append([b"abc", b"", b"defghi", b"j"])

    assert file.pread(100, 0) == b"abcdefghij"
    file.close()


# -- what the simulated disk does besides ------------------------------------------------------------


def a_disk() -> SimDisk:
    disk = SimDisk()
    disk.make_dir("/data")
    disk.sync_dir("/")
    return disk


def images(disk: SimDisk, count: int = 60) -> list[SimDisk]:
    return [disk.crash(seed) for seed in range(count)]


def test_power_loss_keeps_what_was_synced_and_any_part_of_the_rest():
    disk = a_disk()
    file = disk.open("/data/a", create=True)
    file.append([b"s" * 3_000])
    file.datasync()
    disk.sync_dir("/data")
    file.append([b"u" * 6_000])

    left = [image.read_bytes("/data/a") for image in images(disk)]

    assert all(data[:3_000] == b"s" * 3_000 for data in left)
    assert {3_000, 9_000} < {len(data) for data in left}
    assert any(b"\0" in data for data in left), "some image has a hole"
    assert any(data == b"s" * 3_000 + b"u" * 6_000 for data in left)
    assert disk.crash(5).read_bytes("/data/a") == disk.crash(5).read_bytes("/data/a")
    assert disk.kill().read_bytes("/data/a") == b"s" * 3_000 + b"u" * 6_000


def test_an_entry_is_lost_unless_its_directory_was_synced():  # B32
    disk = a_disk()
    file = disk.open("/data/a", create=True)
    file.append([b"x"])
    file.datasync()

    assert {image.exists("/data/a") for image in images(disk)} == {True, False}
    disk.sync_dir("/data")
    assert {image.exists("/data/a") for image in images(disk)} == {True}


def test_a_rename_happens_or_not_and_both_names_are_never_gone():  # B32
    disk = a_disk()
    disk.write_atomic("/data/a", b"old")
    disk.write_bytes("/data/b", b"new")
    disk.open("/data/b").datasync()
    disk.sync_dir("/data")

    disk.rename("/data/b", "/data/a")

    assert {image.read_bytes("/data/a") for image in images(disk)} == {b"old", b"new"}


def test_an_atomic_write_is_there_when_it_returned_and_whole_at_any_moment():
    for operations in range(7):
        disk = a_disk()
        disk.write_atomic("/data/a", b"old")
        disk.stop_after(operations)
        has_died = False
        try:
            disk.write_atomic("/data/a", b"new")
        except SimCrash:
            has_died = True

        possible = {b"old", b"new"} if has_died else {b"new"}
        assert {image.read_bytes("/data/a") for image in images(disk)} <= possible


def test_a_failed_sync_leaves_pages_clean_and_loses_them():
    disk = a_disk()
    file = disk.open("/data/a", create=True)
    disk.sync_dir("/data")
    file.append([b"x" * 10])
    disk.fail("datasync", errno.EIO)

    with pytest.raises(OSError):
        file.datasync()

    file.datasync()  # as on Linux: the second one succeeds, and lies
    assert file.pread(10, 0) == b"x" * 10
    assert {image.read_bytes("/data/a") for image in images(disk)} == {bytes(10)}


def test_a_full_disk_takes_a_part_of_a_write():
    disk = a_disk()
    disk.capacity_bytes = 10
    file = disk.open("/data/a", create=True)

    with pytest.raises(OSError) as full:
        file.append([b"x" * 12])

    assert (full.value.errno, file.size, disk.free_bytes("/data")) == (errno.ENOSPC, 10, 0)


def test_operations_are_counted_and_seen():
    disk, seen = a_disk(), []
    disk.before = lambda operation, path: seen.append((operation, path))
    file = disk.open("/data/a", create=True)

    file.append([b"x", b"y"])
    file.datasync()

    assert seen == [("open", "/data/a"), ("append", "/data/a"), ("datasync", "/data/a")]
    assert disk.counts["append"] == 1
