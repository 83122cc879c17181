"""The log directories of one broker: which there are, which of them serve, where each replica's log lies.

One value for the whole process, made in the tree and outliving its actors: what failed once stays failed until the
process ends, whoever is restarted meanwhile. All actors of the broker read it; ``Broker`` moves it, and a replica that
finds its directory failed or full says so in it at once.

Rules of this file:

1. A directory that failed is not synced, opened or written again by this process: a sync that is repeated succeeds,
   and lies. Its mark (the file ``failed``) keeps it so for later processes, until a person removes it.
2. A new replica goes to the directory with the fewest replicas among those that serve; of equals, to the one with
   the most room. A log that is there already is found where it is.
3. A directory takes no records while it has less room than ``min_free_bytes``. Between two looks the room is
   reckoned: what is appended is subtracted.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import EIO, ENODEV, ENXIO, EROFS, ESTALE

import orjson

from ..errors import ConfigurationError, StorageCorruption, StorageError, StorageFull
from ..model import PartitionKey
from ..storage.checkpoint import FAILED_FILE
from ..storage.files import Files
from ..transport.messages import LogDirectoryDescription

IDENTITY_FILE = "broker.json"
UNKNOWN_BYTES = -1
GONE, FULL, HAS_ROOM = "gone", "full", "has_room"  # what a look at the room can show
GONE_BYTES = -2  # said of the room in a directory that is not there any more
DISK_ERRORS = frozenset({EIO, EROFS, ENXIO, ENODEV, ESTALE, 117})  # 117: EUCLEAN, Linux's "structure needs cleaning"


class LogDirectory:
    """One directory. ``path`` is this broker's own part of a data directory: ``<data>/broker-<i>``."""

    __slots__ = ("failure", "free_bytes", "is_readable", "made", "min_free_bytes", "path")

    def __init__(self, path: str, min_free_bytes: int = 0) -> None:
        self.path = path
        self.min_free_bytes = min_free_bytes
        self.free_bytes = UNKNOWN_BYTES  # as reckoned since the last look; moved by measured, appended and ran_out
        self.failure = ""  # why it is not used any more; never emptied again
        self.is_readable = True  # its names could be listed: what is not among them is not there
        self.made: set[str] = set()  # whose mark is on disk here; moved and read by ``made.py``

    @property
    def is_failed(self) -> bool:
        return bool(self.failure)

    @property
    def is_full(self) -> bool:
        """Whether it takes no records just now."""
        return self.free_bytes < self.min_free_bytes and self.free_bytes != UNKNOWN_BYTES

    def measured(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    def appended(self, size: int) -> None:
        if self.free_bytes != UNKNOWN_BYTES:
            self.free_bytes = max(self.free_bytes - size, 0)

    def ran_out(self) -> None:
        """A write found no room, whatever the last look said: nothing more until the next one."""
        self.free_bytes = 0

    def fail(self, why: str) -> bool:
        """Note that it failed; False: that is known already."""
        is_news = not self.failure
        self.failure = self.failure or why or "it failed"
        return is_news

    @property
    def state(self) -> str:
        return "failed" if self.failure else "full" if self.is_full else "online"

    @property
    def reason(self) -> str:
        """Say why it takes no records; "": it does."""
        full = f"less than storage_min_free_bytes ({self.min_free_bytes:,}) is free; it goes on when there is room"
        return self.failure or (full if self.is_full else "")


class LogDirectories:
    """All directories of a broker, in the order of its configuration, never empty."""

    def __init__(self, paths: Iterable[str], min_free_bytes: int = 0) -> None:
        self.all = tuple(LogDirectory(path, min_free_bytes) for path in dict.fromkeys(paths))
        self._homes: dict[PartitionKey, LogDirectory] = {}  # where each replica's log is, or will be
        self._full: set[str] = set()  # paths of those that were said to be full
        self.is_made_known = False  # the marks tell of all logs that were ever made; moved by ``made.learn``

    @property
    def live(self) -> list[LogDirectory]:
        return [directory for directory in self.all if not directory.is_failed]

    @property
    def readable(self) -> list[LogDirectory]:
        return [directory for directory in self.live if directory.is_readable]

    def was_never_made(self, key: PartitionKey) -> bool:
        """Say whether this replica surely never had a log here: then an empty one is all that it ever had."""
        return self.is_made_known and not any(str(key) in directory.made for directory in self.all)

    def at(self, path: str) -> LogDirectory:
        return next(directory for directory in self.all if directory.path == path)

    def home_of(self, key: PartitionKey) -> LogDirectory | None:
        return self._homes.get(key)

    def home_or_first(self, key: PartitionKey) -> LogDirectory:
        return self._homes.get(key, self.all[0])

    def found(self, key: PartitionKey, directory: LogDirectory) -> LogDirectory:
        """Note that a log lies in a directory; return where it was noted before, if it was."""
        return self._homes.setdefault(key, directory)

    def place(self, key: PartitionKey, *, is_new: bool) -> LogDirectory:
        """Return the directory of a replica, chosen now if it has none yet (rule 2).

        A failed one when none serves; or when that one cannot be read, and this log, which is not new, may lie in it.
        """
        known = self._homes.get(key)
        if known is not None:
            return known
        unread = [directory for directory in self.all if not directory.is_readable]
        candidates = (not is_new and unread) or self.live or self.all
        counts = self.counts()
        chosen = min(candidates, key=lambda directory: (counts[directory.path], -directory.free_bytes))
        return self._homes.setdefault(key, chosen)

    def on_measured(self, free_bytes: Mapping[str, int]) -> list[tuple[str, LogDirectory]]:
        """Take a look at the room in; return what is news: which directory is GONE, FULL or HAS_ROOM again."""
        news = []
        for directory in self.live:
            if directory.path not in free_bytes:
                continue
            if free_bytes[directory.path] == GONE_BYTES:
                news.append((GONE, directory))
                continue
            was_full = directory.path in self._full or directory.is_full
            directory.measured(free_bytes[directory.path])
            if directory.is_full and directory.path not in self._full:
                self._full.add(directory.path)
                news.append((FULL, directory))
            elif was_full and not directory.is_full:
                self._full.discard(directory.path)
                news.append((HAS_ROOM, directory))
        return news

    def removed(self, key: PartitionKey) -> None:
        self._homes.pop(key, None)

    def keys_in(self, directory: LogDirectory) -> list[PartitionKey]:
        return [key for key, home in self._homes.items() if home is directory]

    def counts(self) -> Counter[str]:
        return Counter(home.path for home in self._homes.values())

    def describe(self) -> list[LogDirectoryDescription]:
        counts = self.counts()
        return [
            LogDirectoryDescription(
                path=directory.path,
                state=directory.state,
                reason=directory.reason,
                replicas=counts[directory.path],
                free_bytes=directory.free_bytes,
            )
            for directory in self.all
        ]


def is_disk_failure(error: BaseException | None, *, of_sync: bool = False) -> bool:
    """Say whether an error means that a directory must not be used any more, not only the one log in it.

    A full disk, damaged bytes and a file that somebody removed concern one log. ``of_sync``: the error ended a job
    that syncs: then whatever the system said counts, for the pages may be lost.
    """
    if isinstance(error, StorageFull | StorageCorruption) or not isinstance(error, StorageError | OSError):
        return False
    while error is not None:
        if isinstance(error, OSError) and (of_sync or error.errno in DISK_ERRORS):
            return True
        error = error.__cause__
    return False


def more_data_dirs(files: Files, first: str, data_dirs: Sequence[str], *, broker_ids: Sequence[int]) -> tuple[str, ...]:
    """Return the further data directories by their whole paths, made where they are not there.

    They hold logs only; the lock of the first one is theirs too, and the brokers refuse what is another cluster's.
    One whose disk is broken is left to the brokers, which serve on without it.

    Raises:
        ConfigurationError: one cannot be used, or is given twice.
    """
    paths = tuple(map(os.path.abspath, data_dirs))
    for place, path in enumerate(paths):
        if not data_dirs[place]:
            raise ConfigurationError("data_dirs: a directory without a name")
        if path in (os.path.abspath(first), *paths[:place]):
            raise ConfigurationError(f"data_dir {data_dirs[place]!r} is given twice")
        try:
            for number in broker_ids:
                files.make_dir(f"{path}/broker-{number}")
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                why = error.strerror or error
                raise ConfigurationError(f"data_dir {data_dirs[place]!r} cannot be used: {why}") from None
    return paths


def brokers_left_out(files: Files, data_dirs: Iterable[str], broker_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the ids, ascending, of brokers that lived in these data directories and are not among ``broker_ids``."""
    found = set()
    for path in data_dirs:
        with contextlib.suppress(OSError):  # its disk is broken: the brokers will say so
            for name in files.list_dir(path):
                kind, _, number = name.partition("-")
                if kind == "broker" and number.isdecimal() and files.exists(f"{path}/{name}/{IDENTITY_FILE}"):
                    found.add(int(number))
    return tuple(sorted(found - set(broker_ids)))


def prepare(files: Files, directory: LogDirectory) -> None:
    """Have a directory on disk, and learn whether an earlier process gave it up.

    Raises:
        OSError: it cannot be used, for a reason that is not the disk's.
    """
    data_dir = posixpath.dirname(directory.path)
    try:
        files.make_dir(directory.path)
        for parent in (data_dir, posixpath.dirname(data_dir) or "."):
            with contextlib.suppress(PermissionError):  # a parent that is not ours to read was there before us
                files.sync_dir(parent)  # or power loss takes the directory, with every record that was synced in it
        if mark := mark_of(files, directory.path):
            directory.fail(mark)
    except OSError as error:
        if not is_disk_failure(error):
            raise
        directory.is_readable = False
        directory.fail(f"cannot be read: {error.strerror or error}")


def identify(files: Files, directory: LogDirectory, *, cluster_id: str, broker_id: int) -> None:
    """Refuse a directory of another cluster or broker; mark a new one as ours.

    Raises:
        ConfigurationError: it is another's.
        StorageError: its identity is damaged.
    """
    path, ours = f"{directory.path}/{IDENTITY_FILE}", {"cluster_id": cluster_id, "broker_id": broker_id}
    if not files.exists(path):
        files.write_atomic(path, orjson.dumps(ours))
        return
    try:
        found = orjson.loads(files.read_bytes(path))
    except orjson.JSONDecodeError as error:
        raise StorageError(f"{IDENTITY_FILE} is damaged: {error}") from None
    found = found if isinstance(found, dict) else {}
    if found != ours:
        raise ConfigurationError(
            f"{directory.path} belongs to broker {found.get('broker_id')} of cluster {found.get('cluster_id')}, "
            f"not to broker {broker_id} of cluster {cluster_id}: "
            "were the metadata lost? Start with the right --data-dir"
        )


def mark_of(files: Files, path: str) -> str:
    """Return why a directory was given up by an earlier process, or "": its own mark, or one that a log in it has.

    Raises:
        OSError: it cannot be read.
    """
    names = files.list_dir(path)
    if FAILED_FILE in names:
        return _read_mark(files, f"{path}/{FAILED_FILE}")
    for name in names:
        if is_log_name(name) and files.exists(f"{path}/{name}/{FAILED_FILE}"):
            return f"{name}: {_read_mark(files, f'{path}/{name}/{FAILED_FILE}')}"
    return ""


def is_log_name(name: str) -> bool:
    """Say whether a directory of this name is a partition's log: ``<topic id>-<partition>``."""
    topic_id, dash, number = name.rpartition("-")
    return bool(dash) and number.isdecimal() and len(topic_id) == 32


def measuring(files: Files, directories: Iterable[LogDirectory]) -> Callable[[], dict[str, int]]:
    """Return a job for the pool: the free bytes of each directory, by path; without those that do not say.

    ``GONE_BYTES`` of one that is not there any more.
    """
    paths = [directory.path for directory in directories]

    def measure() -> dict[str, int]:
        found = {}
        for path in paths:
            try:
                found[path] = files.free_bytes(path)
            except FileNotFoundError:
                found[path] = GONE_BYTES  # files that are open live on without it, so whoever writes will not notice
            except OSError:
                continue  # whoever writes there will hear of it
        return found

    return measure


def without_room(files: Files, data_dirs: Iterable[str], min_free_bytes: int) -> list[LogDirectory]:
    """Return the data directories that take no records until there is room; one that does not say is not among them."""
    directories = [LogDirectory(path, min_free_bytes) for path in data_dirs]
    free = measuring(files, directories)()
    for directory in directories:
        directory.measured(max(free.get(directory.path, UNKNOWN_BYTES), UNKNOWN_BYTES))
    return [directory for directory in directories if directory.is_full]


def _read_mark(files: Files, path: str) -> str:
    try:
        return files.read_bytes(path).decode("utf-8", "replace").strip() or "a sync failed"
    except OSError as error:
        return f"a sync failed ({path} cannot be read: {error.strerror or error})"
