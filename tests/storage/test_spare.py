"""When connections have taken every descriptor, a log still opens its files."""

import errno
import os
import resource
from contextlib import contextmanager

import pytest

from callboard.storage.files import OsFiles
from callboard.storage.spare import with_spare


@contextmanager
def no_descriptor_left(spare):
    """Take every descriptor of this process but for ``spare`` between its soft and its hard limit."""
    pid = os.fork()  # the hard limit can be lowered only once
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "see what the child has printed"
        yield False
        return
    try:
        highest = max(map(int, os.listdir("/dev/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1 + spare))
        while True:
            try:
                os.open(os.devnull, os.O_RDONLY)
            except OSError:
                break
        yield True
    except BaseException:  # noqa: BLE001 - a child that lives on would run the tests that follow
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_files_are_opened_read_and_replaced_without_a_free_descriptor(tmp_path):
    files = OsFiles()
    with no_descriptor_left(spare=4) as is_child:
        if is_child:
            file = files.open(f"{tmp_path}/a", create=True)
            file.append([b"kept"])
            again = file.duplicate()
            again.datasync()
            again.close()
            files.write_atomic(f"{tmp_path}/b", b"too")
            assert files.list_dir(str(tmp_path)) == ["a", "b"]
            assert files.read_bytes(f"{tmp_path}/b") == b"too"
            with pytest.raises(OSError, match="Too many"):
                os.open(os.devnull, os.O_RDONLY)  # nobody else gets one
            file.close()

    assert files.read_bytes(f"{tmp_path}/a") == b"kept"


def test_without_a_spare_one_the_error_is_the_system_s(tmp_path):
    with no_descriptor_left(spare=0) as is_child:
        if is_child:
            with pytest.raises(OSError, match="Too many") as caught:
                OsFiles().open(f"{tmp_path}/a", create=True)
            assert caught.value.errno == errno.EMFILE


def test_other_errors_are_raised_at_once():
    calls = []

    def make():
        calls.append(1)
        raise FileNotFoundError(errno.ENOENT, "not there")

    with pytest.raises(FileNotFoundError):
        with_spare(make)
    assert calls == [1]
