"""Which logs were ever made: a log that was used and is gone is never taken for one that never was."""

import contextlib
import errno

import pytest

from callboard.actors.logdirs import LogDirectories
from callboard.actors.made import learn, open_log, remove_log
from callboard.config import TopicConfig
from callboard.errors import StorageError, StorageFull
from callboard.model import PartitionKey, TopicId
from callboard.testing.disk import SimCrash, SimDisk

TOPIC = TopicId("a" * 32)
ONE, TWO = PartitionKey(TOPIC, 0), PartitionKey(TOPIC, 1)
A, B = "/a/broker-1", "/b/broker-1"
STEPS_MAX = 200


def a_life(disk, *paths, assigned=(ONE, TWO), stamp="7", failed=(), deleted=()):
    """Return the directories as a broker knows them that begins now, having looked for its logs."""
    directories = LogDirectories(paths)
    for directory in directories.all:
        disk.make_dir(directory.path)
        disk.sync_dir(directory.path.rpartition("/")[0])
        disk.sync_dir("/")
        if directory.path in failed:
            directory.fail("no disk")
        for key in assigned:
            if disk.exists(f"{directory.path}/{key}"):
                directories.found(key, directory)
    learn(disk, directories, assigned, lambda topic_id: topic_id in deleted, stamp)
    return directories


def used_disk(*paths):
    """Return a disk where a broker has lived, in these directories, before it was to have a log."""
    disk = SimDisk()
    a_life(disk, *paths, assigned=())
    return disk


def use(disk, directories, key, path):
    """Have a log in use: from now on it may hold what is acknowledged."""
    home = directories.found(key, directories.at(path))
    log = open_log(disk, home, key, TopicConfig(), now_ms=1, producer_expiry_ms=1)
    log.close(1)


def is_lost(directories, key):
    return directories.home_of(key) is None and not directories.was_never_made(key)


def images(disk, number):
    """Return what may be there after the process was killed, or its machine lost power."""
    return [disk.kill(), *(disk.crash(f"{number}/{seed}") for seed in range(12))]


def test_a_log_that_was_never_made_is_not_lost():
    assert not is_lost(a_life(used_disk(A), A), ONE)


def test_a_log_that_was_in_use_and_is_gone_is_lost():
    disk = used_disk(A)
    use(disk, a_life(disk, A), ONE, A)
    disk.remove_tree(f"{A}/{ONE}")

    for _ in range(2):
        directories = a_life(disk, A)
        assert (is_lost(directories, ONE), is_lost(directories, TWO)) == (True, False)


def test_a_crash_at_any_step_of_making_a_log_leaves_it_there_or_never_made():
    for step in range(STEPS_MAX):
        disk = used_disk(A)
        directories = a_life(disk, A)
        disk.stop_after(step)
        try:
            use(disk, directories, ONE, A)
        except SimCrash:
            for image in images(disk, step):
                image.stop_after(None)
                assert not is_lost(a_life(image, A), ONE), step
            continue
        break
    assert 5 < step < STEPS_MAX


def test_after_a_crash_at_any_step_of_the_next_look_and_opening_a_log_that_is_removed_is_lost():
    """What a life before wrote and did not sync is on disk before anything rests on it."""
    for first in range(1, 16):
        disk = used_disk(A)
        directories = a_life(disk, A)
        disk.stop_after(first)
        with contextlib.suppress(SimCrash):
            use(disk, directories, ONE, A)
        again = disk.kill()
        use(again, a_life(again, A), ONE, A)
        for image in images(again, first):
            assert image.exists(f"{A}/{ONE}")
            image.remove_tree(f"{A}/{ONE}")
            assert is_lost(a_life(image, A), ONE), first


def replaced(disk):
    disk.remove_tree(B)
    return (A, B)


def left_out(disk):
    return (A,)


def another_beside(disk):
    disk.remove_tree(f"{B}/{ONE}")
    return (A, B, "/c/broker-1")


def unreadable_set(disk):
    disk.remove_tree(f"{B}/{ONE}")
    disk.write_atomic(f"{A}/made/directories.json", b"{")
    return (A, B)


def without_marks(disk):
    disk.remove_tree(f"{B}/{ONE}")
    disk.remove_tree(f"{B}/made")
    return (A, B)


def a_copy_of_the_other(disk):
    disk.remove_tree(f"{B}/{ONE}")
    disk.write_atomic(f"{B}/made/directories.json", disk.read_bytes(f"{A}/made/directories.json"))
    return (A, B)


def done(disk, change):
    """Have it done by somebody, on disk."""
    paths = change(disk)
    for path in ("/a", "/b", A, B, f"{A}/made", f"{B}/made"):
        if disk.exists(path):
            disk.sync_dir(path)
    return paths


CHANGES = [replaced, left_out, another_beside, unreadable_set, without_marks, a_copy_of_the_other]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_where_the_directories_are_not_those_of_before_a_log_that_is_gone_is_lost_and_stays_so(change):
    disk = used_disk(A, B)
    use(disk, a_life(disk, A, B), ONE, B)
    paths = change(disk)

    assert is_lost(a_life(disk, *paths, stamp="8"), ONE)
    for _ in range(2):
        later = a_life(disk, *paths, stamp="9")
        assert is_lost(later, ONE)
        assert later.is_made_known, "what is assigned from now on is known again"
        assert not is_lost(later, PartitionKey(TOPIC, 2))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_crash_at_any_step_of_agreeing_anew_makes_nothing_of_what_is_lost(change):
    for step in range(STEPS_MAX):
        disk = used_disk(A, B)
        use(disk, a_life(disk, A, B), ONE, B)
        paths = done(disk, change)
        disk.stop_after(step)
        try:
            a_life(disk, *paths, stamp="8")
        except SimCrash:
            for image in images(disk, step):
                for stamp in ("8", "9"):  # nothing was stored meanwhile, or something was
                    assert is_lost(a_life(image, *paths, stamp=stamp), ONE), step
            continue
        break
    assert 5 < step < STEPS_MAX


@pytest.mark.parametrize("stamp", ["7", "8"])
def test_a_directory_that_comes_back_after_another_had_its_place_tells_nothing_of_that_time(stamp):
    disk = used_disk(A, B)
    disk.rename("/b", "/old")
    use(disk, a_life(disk, A, B, assigned=(), stamp=stamp), ONE, B)
    disk.remove_tree("/b")
    disk.rename("/old", "/b")

    for _ in range(2):
        assert is_lost(a_life(disk, A, B, stamp=stamp), ONE)


def test_while_a_directory_has_failed_nothing_counts_as_never_made_and_later_it_does_again():
    disk = used_disk(A, B)

    assert is_lost(a_life(disk, A, B, failed=[B]), ONE)
    assert not is_lost(a_life(disk, A, B), ONE)


def test_logs_of_a_version_without_marks_are_known_from_the_first_look_on():
    disk = SimDisk()
    disk.make_dir(f"{A}/{ONE}")
    a_life(disk, A)
    disk.remove_tree(f"{A}/{ONE}")

    directories = a_life(disk, A)

    assert is_lost(directories, ONE)
    assert is_lost(directories, TWO), "whether it was there before the first look nobody knows"


def test_a_log_that_is_found_without_its_mark_gets_one_before_it_is_opened():
    """Made by an older version between two lives of this one, or by a life that was killed then."""
    disk = used_disk(A)
    disk.make_dir(f"{A}/{ONE}")
    a_life(disk, A)
    disk.remove_tree(f"{A}/{ONE}")

    assert is_lost(a_life(disk, A), ONE)


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, StorageFull), (errno.EINVAL, StorageError)])
@pytest.mark.parametrize("operation", ["open", "sync_dir"])
def test_a_log_whose_mark_cannot_be_written_is_handed_to_nobody(operation, code, error):
    disk = used_disk(A)
    directories = a_life(disk, A)
    disk.fail(operation, code, path_contains="/made")

    with pytest.raises(error, match="made"):
        use(disk, directories, ONE, A)
    assert not disk.exists(f"{A}/made/{ONE}")

    use(disk, directories, ONE, A)
    image = disk.crash("nothing more")
    image.remove_tree(f"{A}/{ONE}")
    assert is_lost(a_life(image, A), ONE)


def test_the_mark_of_a_deleted_topic_goes_with_its_log_or_at_the_next_look():
    disk = used_disk(A)
    directories = a_life(disk, A)
    for key in (ONE, TWO):
        use(disk, directories, key, A)

    remove_log(disk, directories.at(A), ONE)
    disk.remove_tree(f"{A}/{TWO}")
    assert disk.list_dir(f"{A}/made") == [str(TWO), "directories.json"]

    a_life(disk, A, assigned=(), deleted=[TOPIC])
    assert disk.list_dir(f"{A}/made") == ["directories.json"]
