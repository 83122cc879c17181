"""The operating system's files, as the log sees them: the one place below it that calls ``os``.

The log is written against ``Files`` and ``File``; production has ``OsFiles``, tests have the simulated disk in
``testing/disk.py``, which forgets what was not synced. The rules that follow from that:

1. What was written is durable only after ``datasync`` of the file returned. What was created, renamed or removed is
   durable only after ``sync_dir`` of its directory.
2. A ``datasync`` that failed has failed for good: the kernel may have marked the pages clean, so a second one would
   lie. Nothing here retries.
3. ``write_atomic`` is the only way to replace a file: new file, datasync, rename, sync_dir.

Every method raises ``OSError``; the log turns it into ``StorageError``. Paths are strings. Files are made 0600,
directories 0700. All methods may be called from any thread; one ``File`` belongs to one thread at a time, except
that ``duplicate`` gives another thread a handle of its own on the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Sequence
from errno import EBADF, EDQUOT, ENOSPC
from functools import partial
from typing import Protocol

from .spare import with_spare

Buffer = bytes | memoryview

DISK_FULL = (ENOSPC, EDQUOT)  # no failure of the disk

FILE_MODE = 0o600
DIR_MODE = 0o700
_IOV_MAX = 1_024  # buffers of one writev; POSIX promises 16, Linux and macOS take 1,024


class AlreadyLocked(OSError):
    """Another process holds the lock. ``holder`` is what it left in the file: usually its pid."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder or 'another process'}")
        self.holder = holder


class File(Protocol):
    """An open file that grows at its end."""

    path: str

    @property
    def size(self) -> int:
        """Bytes; moved by append and truncate."""

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Write all buffers at the end, with as few system calls as there can be.

        After an ``OSError`` an unknown part has been written: ``truncate`` to the size before.
        """

    def pread(self, size: int, position: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end of the file."""

    def truncate(self, size: int) -> None: ...

    def datasync(self) -> None:
        """Return when all that was written is on disk."""

    def duplicate(self) -> File:
        """Return a second handle, for another thread to sync and close."""

    def close(self) -> None: ...


class FileLock(Protocol):
    def is_in_place(self) -> bool:
        """Say whether the file that is locked still is the one at its path: else it was removed, or replaced."""

    def release(self) -> None: ...


class Files(Protocol):
    """A file system."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File: ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def list_dir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def make_dir(self, path: str) -> None:
        """Create a directory and its missing parents; nothing happens when it is there."""

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def remove_tree(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None:
        """Return when the directory's entries are on disk."""

    def read_bytes(self, path: str) -> bytes: ...

    def write_bytes(self, path: str, data: bytes) -> None:
        """Replace a file without any promise: for what can be rebuilt."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Replace a file so that after any crash it is the old or the new one, and after the return the new one."""

    def free_bytes(self, path: str) -> int:
        """Return how much this process may still write where ``path`` is."""

    def lock(self, path: str, note: str = "") -> FileLock:
        """Lock a file for this process, leaving ``note`` in it; ended by ``release`` or by the process's end.

        Raises:
            AlreadyLocked: another one has it.
        """


class _Descriptor:
    """A descriptor that handles in several threads share; it is closed with the last of them.

    A ``dup`` for every sync would be three system calls, each of which lets go of the interpreter. There is no lock: a
    handle that is collected while one is held would wait for its own thread. Each handle has a place, and gives up
    whichever was taken last; appending and popping are one step each.
    """

    __slots__ = ("_places", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._places = [True]  # the first one is given up last

    def share(self) -> None:
        self._places.append(False)

    def release(self) -> None:
        if self._places.pop():
            os.close(self.number)


class OsFile:
    """A file of the operating system. Writes go to a position of its own, never to a shared one."""

    __slots__ = ("_descriptor", "_fd", "path", "size")

    def __init__(self, path: str, descriptor: _Descriptor, size: int) -> None:
        self._descriptor = descriptor
        self._fd = descriptor.number  # -1: this handle is closed
        self.path = path
        self.size = size

    def append(self, buffers: Sequence[Buffer]) -> None:
        left: list[Buffer] = list(buffers) if len(buffers) <= _IOV_MAX else list(buffers[:_IOV_MAX])
        rest = buffers[_IOV_MAX:]
        while left:
            written = os.pwritev(self._fd, left, self.size)
            self.size += written
            left = _unwritten(left, written)
        if rest:
            self.append(rest)

    def pread(self, size: int, position: int) -> bytes:
        data = os.pread(self._fd, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        while data and sum(map(len, parts)) < size:
            have = sum(map(len, parts))
            data = os.pread(self._fd, size - have, position + have)
            parts.append(data)
        return b"".join(parts)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self.size = size

    def datasync(self) -> None:
        _datasync(self._fd)

    def duplicate(self) -> OsFile:
        if self._fd < 0:
            raise OSError(EBADF, f"{self.path} is closed")
        self._descriptor.share()
        return OsFile(self.path, self._descriptor, self.size)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._descriptor.release()

    def __del__(self) -> None:  # a log whose actor ended while it was being opened is closed by nobody
        self.close()


class OsFileLock:
    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path

    def is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsFiles:
    """The files of the operating system."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> OsFile:
        flags = os.O_RDONLY if read_only else os.O_RDWR | (os.O_CREAT if create else 0)
        fd = _open(path, flags)
        return OsFile(path, _Descriptor(fd), os.fstat(fd).st_size)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def list_dir(self, path: str) -> list[str]:
        return sorted(with_spare(partial(os.listdir, path)))

    def make_dir(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            self.make_dir(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIR_MODE)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.remove(path)

    def remove_tree(self, path: str) -> None:
        with_spare(partial(shutil.rmtree, path))

    def sync_dir(self, path: str) -> None:
        fd = _open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read_bytes(self, path: str) -> bytes:
        with open(path, "rb", opener=_open) as file:
            return file.read()

    def write_bytes(self, path: str, data: bytes) -> None:
        self._write(path, data, sync=False)

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = path + ".tmp"
        self._write(temporary, data, sync=True)
        os.rename(temporary, path)
        self.sync_dir(parent_of(path))

    def free_bytes(self, path: str) -> int:
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize

    def lock(self, path: str, note: str = "") -> OsFileLock:
        fd = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 256, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            raise AlreadyLocked(path, holder) from None
        except OSError:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode(), 0)
        return OsFileLock(fd, path)

    def _write(self, path: str, data: bytes, *, sync: bool) -> None:
        fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                _datasync(fd)
        finally:
            os.close(fd)


def parent_of(path: str) -> str:
    """Return the directory that ``path`` is in."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def _open(path: str, flags: int) -> int:
    return with_spare(partial(os.open, path, flags | os.O_CLOEXEC, FILE_MODE))


def _unwritten(buffers: list[Buffer], written: int) -> list[Buffer]:
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [buffer[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []


if sys.platform == "darwin":  # fsync there leaves the data in the drive's cache

    def _datasync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def _datasync(fd: int) -> None:
        os.fdatasync(fd)
