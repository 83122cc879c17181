"""A broker's directories: which one a new replica gets, what counts as a failure of the disk, what is reckoned."""

import errno

import pytest

from callboard.actors.host import left_out_line
from callboard.actors.logdirs import (
    LogDirectories,
    brokers_left_out,
    is_disk_failure,
    mark_of,
    more_data_dirs,
    prepare,
    without_room,
)
from callboard.errors import ConfigurationError, StorageCorruption, StorageError, StorageFull
from callboard.model import PartitionKey, TopicId
from callboard.storage.files import OsFiles
from callboard.testing.disk import SimDisk


def key(number):
    return PartitionKey(TopicId("a" * 32), number)


def caused_by(error_class, code):
    try:
        try:
            raise OSError(code, "said the system")
        except OSError as error:
            raise error_class("a file operation failed") from error
    except StorageError as error:
        return error


def test_a_new_replica_goes_where_there_are_fewest_then_where_there_is_most_room():
    directories = LogDirectories(["/a", "/b", "/c"])
    for directory, free in zip(directories.all, (10, 30, 20), strict=True):
        directory.measured(free)

    assert [directories.place(key(number), is_new=True).path for number in range(4)] == ["/b", "/c", "/a", "/b"]


def test_a_replica_that_was_removed_counts_no_more():
    directories = LogDirectories(["/a", "/b"])
    home = directories.place(key(0), is_new=True)

    directories.removed(key(0))

    assert directories.counts()[home.path] == 0
    assert directories.home_of(key(0)) is None


def test_an_old_log_that_is_nowhere_is_sought_in_the_directory_that_cannot_be_read():
    directories = LogDirectories(["/a", "/b"])
    directories.all[1].is_readable = False
    directories.all[1].fail("no disk")

    assert directories.place(key(0), is_new=False).path == "/b"
    assert directories.place(key(1), is_new=True).path == "/a"


def test_what_failed_first_is_why_it_failed():
    directory = LogDirectories(["/a"]).all[0]

    assert directory.fail("first")
    assert not directory.fail("second")
    assert (directory.failure, directory.state) == ("first", "failed")


def test_room_is_reckoned_between_two_looks():
    directory = LogDirectories(["/a"], min_free_bytes=100).all[0]
    assert not directory.is_full, "nobody has looked yet"
    directory.measured(150)

    directory.appended(50)
    assert not directory.is_full
    directory.appended(1)
    assert directory.is_full
    directory.measured(150)
    assert not directory.is_full
    directory.ran_out()
    assert (directory.is_full, directory.state) == (True, "full")


@pytest.mark.parametrize(
    ("error", "of_sync", "is_the_disk"),
    [
        (caused_by(StorageError, errno.EIO), False, True),
        (caused_by(StorageError, errno.EROFS), False, True),
        (OSError(errno.EIO, "bare"), False, True),
        (caused_by(StorageError, errno.EMFILE), False, False),
        (caused_by(StorageError, errno.ENOENT), False, False),
        (caused_by(StorageError, errno.ENOSPC), True, True),  # what a sync could not place may be lost
        (caused_by(StorageFull, errno.ENOSPC), False, False),
        (StorageCorruption("a batch"), True, False),
        (StorageError("without a cause"), True, False),
        (RuntimeError("a bug"), True, False),
        (None, True, False),
    ],
)
def test_only_the_disks_own_failures_take_a_directory_along(error, of_sync, is_the_disk):
    assert is_disk_failure(error, of_sync=of_sync) == is_the_disk


def test_a_mark_of_one_log_is_one_of_its_directory():
    disk = SimDisk()
    directories = LogDirectories(["/data/broker-1"])
    disk.make_dir(f"/data/broker-1/{key(3)}")
    assert mark_of(disk, "/data/broker-1") == ""

    disk.write_bytes(f"/data/broker-1/{key(3)}/failed", b"Input/output error")
    prepare(disk, directories.all[0])

    assert directories.all[0].failure == f"{key(3)}: Input/output error"


def test_further_directories_are_made_and_given_by_their_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert more_data_dirs(OsFiles(), "one", ["two"], broker_ids=[1, 2]) == (str(tmp_path / "two"),)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["broker-1", "broker-2"]


@pytest.mark.parametrize(
    ("given", "said"), [(["one"], "given twice"), (["", "x"], "without a name"), (["f/x"], "used")]
)
def test_a_further_directory_that_cannot_be_used_is_refused(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("a file")

    with pytest.raises(ConfigurationError, match=said):
        more_data_dirs(OsFiles(), "one", given, broker_ids=[1])


def test_brokers_that_lived_in_any_of_the_directories_and_are_not_among_those_are_left_out(tmp_path):
    for name in ("a/broker-1", "a/broker-4", "b/broker-12", "b/broker-4", "a/broker-x", "a/log"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "broker.json").write_text("{}")
    (tmp_path / "a" / "broker-5").mkdir()  # made for one that never lived
    (tmp_path / "a" / "broker-4.boot").write_text("boot")
    dirs = [str(tmp_path / name) for name in ("a", "b", "gone")]

    assert brokers_left_out(OsFiles(), dirs, [1, 2]) == (4, 12)
    assert brokers_left_out(OsFiles(), dirs, [1, 4, 12]) == ()


def test_directories_without_room_are_those_that_say_so():
    disk = SimDisk(capacity_bytes=1_000)
    disk.make_dir("/a")

    assert [one.path for one in without_room(disk, ["/a", "/gone"], 1_001)] == ["/a"]
    assert without_room(disk, ["/a", "/gone"], 1_000) == []
    assert without_room(disk, ["/a"], 0) == []


def test_who_is_left_out_is_said_with_what_starts_all():
    assert left_out_line((3,), 2, joins=False).endswith("`--brokers 3` starts all")
    assert left_out_line((8, 9), 1, joins=True) == (
        "brokers 8, 9 have data here and will not be started; `--brokers 3` starts all"
    )
