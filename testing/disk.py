"""A disk in memory that forgets what was not synced, tears what was half written, and fails when it is told to.

It is stricter than any real one, so that a log which passes here relies on nothing but the rules:

- bytes survive ``crash`` for sure only if the file was ``datasync``ed after they were written. Of the others any set
  of 4 KiB pages may have reached the disk, a page in part (by sectors of 512 bytes), the size before them or after;
- an entry of a directory (a file created, renamed, removed) survives only after ``sync_dir``. Of the others any subset
  may have happened, whatever their order;
- a ``datasync`` that fails drops the dirty pages and marks them clean: reads still see them, the next ``datasync``
  succeeds, and a crash loses them (what Linux does; the "fsyncgate" of 2018).

``crash(seed)`` returns the disk after power loss, ``kill()`` after the death of the process only (the page cache
lives). Both leave this disk as it is, so one state gives thousands of images. Same seed, same image.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ..storage.files import AlreadyLocked, Buffer, parent_of

PAGE_BYTES = 4_096
SECTOR_BYTES = 512


class SimCrash(BaseException):
    """Raised in the middle of an operation by ``stop_after``: the process dies here. Not an ``Exception``."""


@dataclass(slots=True)
class _Node:
    """A file: what reads see, what is on the platters, and which pages differ because they are yet to be written."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)  # pages

    def copied(self) -> _Node:
        return _Node(bytearray(self.cached), bytearray(self.durable), set(self.dirty))


@dataclass(slots=True)
class _Dir:
    entries: dict[str, _Node | _Dir] = field(default_factory=dict)
    durable: dict[str, _Node | _Dir] = field(default_factory=dict)
    pending: list[tuple[str, str, _Node | _Dir | None]] = field(default_factory=list)  # removed name, new name, what


@dataclass(slots=True)
class _Fault:
    operation: str
    error: int
    path_contains: str
    times: int
    skip: int
    written: int | None  # bytes that an append writes before it fails; None: none


class SimFile:
    """An open file of a ``SimDisk``."""

    def __init__(self, disk: SimDisk, path: str, node: _Node, *, read_only: bool) -> None:
        self.path = path
        self._disk = disk
        self._node = node
        self._read_only = read_only
        self._is_open = True

    @property
    def size(self) -> int:
        return len(self._node.cached)

    def peek(self) -> bytearray:
        """Return what it holds, to be read only, whatever its name is by now. Not an operation."""
        return self._node.cached

    def append(self, buffers: Sequence[Buffer]) -> None:
        self._require_open()
        if self._read_only:
            raise _error(errno.EBADF, self.path)
        self._disk._write(self._node, self.path, b"".join(buffers))

    def pread(self, size: int, position: int) -> bytes:
        self._require_open()
        self._disk._operation("pread", self.path)
        return bytes(self._node.cached[position : position + size])

    def truncate(self, size: int) -> None:
        self._require_open()
        self._disk._operation("truncate", self.path)
        cached = self._node.cached
        if size < len(cached):
            del cached[size:]
        else:
            cached.extend(bytes(size - len(cached)))
        self._node.dirty.add(size // PAGE_BYTES)

    def datasync(self) -> None:
        self._require_open()
        self._disk._datasync(self._node, self.path)

    def duplicate(self) -> SimFile:
        self._require_open()
        return SimFile(self._disk, self.path, self._node, read_only=self._read_only)

    def close(self) -> None:
        self._is_open = False

    def _require_open(self) -> None:
        if not self._is_open:
            raise _error(errno.EBADF, self.path)


class SimLock:
    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def is_in_place(self) -> bool:
        return self._path in self._disk._locks

    def release(self) -> None:
        self._disk._locks.pop(self._path, None)


class SimDisk:
    """``storage.files.Files`` in memory.

    Args:
        seed: what ``crash`` makes its images from, unless it is given one.
        capacity_bytes: of all files together; beyond it a write stops half-way with ENOSPC. Can be changed at any time.
    """

    def __init__(self, seed: int | str = 0, *, capacity_bytes: int | None = None) -> None:
        self.seed = seed
        self.capacity_bytes = capacity_bytes
        self.counts: Counter[str] = Counter()  # operations so far, by name
        self.before: Callable[[str, str], None] | None = None  # called with (operation, path): latency, observation
        self._root = _Dir()
        self._faults: list[_Fault] = []
        self._locks: dict[str, str] = {}
        self._stop_after: int | None = None
        self._crashes = 0

    # -- what goes wrong -----------------------------------------------------------------------------

    def fail(
        self,
        operation: str,
        error: int,
        *,
        path_contains: str = "",
        times: int = 1,
        skip: int = 0,
        written: int | None = None,
    ) -> None:
        """Let an operation fail: ``times`` times, after ``skip`` that pass.

        Args:
            operation: open, append, pread, truncate, datasync, sync_dir, rename, remove, make_dir, list_dir or read.
            written: of an append: bytes that are written all the same.
        """
        self._faults.append(_Fault(operation, error, path_contains, times, skip, written))

    def heal(self) -> None:
        """Forget all faults that were ordered."""
        self._faults = []

    def stop_after(self, operations: int | None) -> None:
        """Raise ``SimCrash`` instead of the operation after so many more that change something; None: never."""
        self._stop_after = operations

    def crash(self, seed: int | str | None = None) -> SimDisk:
        """Return what is on the disk after power loss now; without a seed, another image at each call."""
        if seed is None:
            self._crashes += 1
            seed = f"{self.seed}/{self._crashes}"
        chance = random.Random(f"crash/{seed}")
        image = SimDisk(seed, capacity_bytes=self.capacity_bytes)
        image._root = _crashed_dir(self._root, chance)
        return image

    def kill(self) -> SimDisk:
        """Return the disk as another process sees it after this one was killed: nothing written is lost."""
        image = SimDisk(f"{self.seed}+", capacity_bytes=self.capacity_bytes)
        image._root = _copied_dir(self._root, {})
        return image

    # -- looking at it, and damaging it, in tests ------------------------------------------------------

    def used_bytes(self) -> int:
        return sum(len(node.cached) for node in _nodes(self._root))

    def paths(self) -> list[str]:
        """Return the paths of all files, in order."""
        return sorted(_paths(self._root, ""))

    def peek(self, path: str) -> bytearray | None:
        """Return what a file holds, to be read only; None: there is no such file. No operation: nothing is counted."""
        try:
            return self._node(path).cached
        except OSError:
            return None

    def corrupt(self, path: str, position: int, mask: int = 0x01) -> None:
        """Flip bits of one byte, in the cache and on the platters."""
        node = self._node(path)
        for copy in (node.cached, node.durable):
            if position < len(copy):
                copy[position] ^= mask

    def overwrite(self, path: str, data: bytes) -> None:
        """Make a file hold ``data``, on disk and in the cache, as if it had always been so."""
        directory, name = self._parent(path)
        node = _Node(bytearray(data), bytearray(data))
        directory.entries[name] = directory.durable[name] = node

    def erase(self, path: str) -> None:
        """Make a file never have been there."""
        directory, name = self._parent(path)
        directory.entries.pop(name, None)
        directory.durable.pop(name, None)
        directory.pending = [entry for entry in directory.pending if entry[1] != name]

    # -- Files -----------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> SimFile:
        directory, name = self._parent(path)
        node = directory.entries.get(name)
        self._operation("open", path, changes=node is None and create)
        if node is None:
            if not create:
                raise _error(errno.ENOENT, path)
            node = _Node()
            directory.entries[name] = node
            directory.pending.append(("", name, node))
        if isinstance(node, _Dir):
            raise _error(errno.EISDIR, path)
        return SimFile(self, path, node, read_only=read_only)

    def exists(self, path: str) -> bool:
        try:
            self._find(path)
        except OSError:
            return False
        return True

    def size(self, path: str) -> int:
        return len(self._node(path).cached)

    def list_dir(self, path: str) -> list[str]:
        self._operation("list_dir", path)
        return sorted(self._dir(path).entries)

    def make_dir(self, path: str) -> None:
        directory = self._root
        for name in _names(path):
            child = directory.entries.get(name)
            if child is None:
                self._operation("make_dir", path, changes=True)
                child = _Dir()
                directory.entries[name] = child
                directory.pending.append(("", name, child))
            if isinstance(child, _Node):
                raise _error(errno.ENOTDIR, path)
            directory = child

    def rename(self, old: str, new: str) -> None:
        (directory, name), (target, new_name) = self._parent(old), self._parent(new)
        self._operation("rename", new, changes=True)
        if name not in directory.entries:
            raise _error(errno.ENOENT, old)
        what = directory.entries.pop(name)
        target.entries[new_name] = what
        if target is directory:
            directory.pending.append((name, new_name, what))
        else:
            directory.pending.append((name, "", None))
            target.pending.append(("", new_name, what))

    def remove(self, path: str) -> None:
        directory, name = self._parent(path)
        self._operation("remove", path, changes=True)
        if not isinstance(directory.entries.get(name), _Node):
            raise _error(errno.ENOENT, path)
        del directory.entries[name]
        directory.pending.append((name, "", None))

    def remove_tree(self, path: str) -> None:
        for name, child in list(self._dir(path).entries.items()):
            if isinstance(child, _Dir):
                self.remove_tree(f"{path}/{name}")
            else:
                self.remove(f"{path}/{name}")
        directory, name = self._parent(path)
        self._operation("remove", path, changes=True)
        del directory.entries[name]
        directory.pending.append((name, "", None))

    def sync_dir(self, path: str) -> None:
        directory = self._dir(path)
        self._operation("sync_dir", path, changes=True)
        directory.durable = dict(directory.entries)
        directory.pending = []

    def read_bytes(self, path: str) -> bytes:
        self._operation("read", path)
        return bytes(self._node(path).cached)

    def write_bytes(self, path: str, data: bytes) -> None:
        file = self.open(path, create=True)
        file.truncate(0)
        file.append([data])
        file.close()

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = path + ".tmp"
        file = self.open(temporary, create=True)
        file.truncate(0)
        file.append([data])
        file.datasync()
        file.close()
        self.rename(temporary, path)
        self.sync_dir(parent_of(path))

    def free_bytes(self, path: str) -> int:
        if not self.exists(path):
            raise _error(errno.ENOENT, path)
        return (1 << 50) if self.capacity_bytes is None else max(self.capacity_bytes - self.used_bytes(), 0)

    def lock(self, path: str, note: str = "") -> SimLock:
        if path in self._locks:
            raise AlreadyLocked(path, self._locks[path])
        self._locks[path] = note
        return SimLock(self, path)

    # -- inside ----------------------------------------------------------------------------------------

    def _operation(self, name: str, path: str, *, changes: bool = False) -> _Fault | None:
        """Count, let the test look, die or fail; an append's fault is returned, for it may write a part first."""
        self.counts[name] += 1
        if self.before is not None:
            self.before(name, path)
        if changes and self._stop_after is not None:
            if self._stop_after == 0:
                raise SimCrash(f"{name} {path}")
            self._stop_after -= 1
        for fault in self._faults:
            if fault.operation == name and fault.path_contains in path and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                if name in ("append", "datasync"):
                    return fault
                raise _error(fault.error, path)
        return None

    def _write(self, node: _Node, path: str, data: bytes) -> None:
        stops = self._stop_after == 0
        if stops:  # the process dies while the kernel copies: any part may be there
            self._extend(node, data[: len(data) // 2])
        fault = self._operation("append", path, changes=True)
        room = len(data)
        error = 0
        if fault is not None:
            room, error = min(fault.written or 0, room), fault.error
        if self.capacity_bytes is not None:
            free = max(self.capacity_bytes - self.used_bytes(), 0)
            if room > free:
                room, error = free, errno.ENOSPC
        self._extend(node, data[:room])
        if error:
            raise _error(error, path)

    def _extend(self, node: _Node, data: bytes) -> None:
        if data:
            begin = len(node.cached)
            node.cached += data
            node.dirty.update(range(begin // PAGE_BYTES, (len(node.cached) - 1) // PAGE_BYTES + 1))

    def _datasync(self, node: _Node, path: str) -> None:
        fault = self._operation("datasync", path, changes=True)
        if fault is not None:
            node.dirty.clear()  # clean, says the kernel; what reads see is no longer what the disk has
            raise _error(fault.error, path)
        size = len(node.cached)
        del node.durable[size:]
        node.durable.extend(bytes(size - len(node.durable)))
        for page in node.dirty:
            begin = page * PAGE_BYTES
            node.durable[begin : begin + PAGE_BYTES] = node.cached[begin : begin + PAGE_BYTES]
        node.dirty.clear()

    def _find(self, path: str) -> _Node | _Dir:
        return self._walk(_names(path), path)

    def _walk(self, names: Sequence[str], path: str) -> _Node | _Dir:
        found: _Node | _Dir = self._root
        for name in names:
            if not isinstance(found, _Dir) or name not in found.entries:
                raise _error(errno.ENOENT, path)
            found = found.entries[name]
        return found

    def _node(self, path: str) -> _Node:
        found = self._find(path)
        if isinstance(found, _Dir):
            raise _error(errno.EISDIR, path)
        return found

    def _dir(self, path: str) -> _Dir:
        found = self._find(path)
        if isinstance(found, _Node):
            raise _error(errno.ENOTDIR, path)
        return found

    def _parent(self, path: str) -> tuple[_Dir, str]:
        names = _names(path)
        found = self._walk(names[:-1], path)
        if isinstance(found, _Node):
            raise _error(errno.ENOTDIR, path)
        return found, names[-1]


# -- power loss ------------------------------------------------------------------------------------


def _crashed_dir(directory: _Dir, chance: random.Random) -> _Dir:
    entries = dict(directory.durable)
    how = chance.choice(("nothing", "everything", "some", "some"))
    for removed, new, what in directory.pending:
        if how == "nothing" or (how == "some" and chance.random() < 0.5):
            continue
        if removed:
            entries.pop(removed, None)
        if new and what is not None:
            entries[new] = what
    image = _Dir()
    for name in sorted(entries):
        child = entries[name]
        image.entries[name] = _crashed_dir(child, chance) if isinstance(child, _Dir) else _crashed_node(child, chance)
    image.durable = dict(image.entries)
    return image


def _crashed_node(node: _Node, chance: random.Random) -> _Node:
    if not node.dirty and len(node.cached) == len(node.durable):
        return _Node(bytearray(node.durable), bytearray(node.durable))
    sizes = sorted((len(node.durable), len(node.cached)))
    size = chance.choice((len(node.durable), len(node.cached), chance.randint(*sizes)))
    data = bytearray(node.durable[:size])
    data.extend(bytes(size - len(data)))
    how = chance.choice(("nothing", "everything", "in order", "some", "torn"))
    pages = sorted(node.dirty)
    last = chance.randint(0, len(pages))
    for place, page in enumerate(pages):
        if how == "nothing" or (how == "in order" and place > last) or (how == "some" and chance.random() < 0.5):
            continue
        for begin in range(page * PAGE_BYTES, (page + 1) * PAGE_BYTES, SECTOR_BYTES):
            is_torn = how == "torn" or (how == "in order" and place == last)
            if begin < size and not (is_torn and chance.random() < 0.5):
                end = min(begin + SECTOR_BYTES, size, len(node.cached))
                data[begin:end] = node.cached[begin:end]
    return _Node(bytearray(data), bytearray(data))


def _copied_dir(directory: _Dir, copies: dict[int, _Node | _Dir]) -> _Dir:
    """Copy a tree; a file that two entries name (one of them gone from the cache only) stays one file."""

    def copied(child: _Node | _Dir) -> _Node | _Dir:
        if id(child) not in copies:
            copies[id(child)] = _copied_dir(child, copies) if isinstance(child, _Dir) else child.copied()
        return copies[id(child)]

    return _Dir(
        {name: copied(child) for name, child in directory.entries.items()},
        {name: copied(child) for name, child in directory.durable.items()},
        [(removed, new, None if what is None else copied(what)) for removed, new, what in directory.pending],
    )


def _nodes(directory: _Dir) -> Iterator[_Node]:
    for child in directory.entries.values():
        if isinstance(child, _Dir):
            yield from _nodes(child)
        else:
            yield child


def _paths(directory: _Dir, path: str) -> Iterator[str]:
    for name, child in directory.entries.items():
        if isinstance(child, _Dir):
            yield from _paths(child, f"{path}/{name}")
        else:
            yield f"{path}/{name}"


@lru_cache(maxsize=4_096)
def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name not in ("", "."))


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
