"""Which logs were ever made here: how a log that is gone is told from one that never was (ADR 13).

A replica counts as in sync from the moment its topic is created. A broker that is killed before it made the log finds
none when it comes back, just as if the log had been lost; but nothing was ever acknowledged on the word of a log that
was not made, so an empty one is the truth. A mark beside the logs, ``made/<topic id>-<partition>``, tells.

Rules of this file:

1. Log, mark, use, in this order, each on disk before the next: whoever writes to a log, or speaks for it, is handed
   it after its mark is on disk. So a log without a mark was never used; and a log with one that is not there is lost.
2. Only all directories together tell: the log may lie in any of them. Each one says which there were
   (``made/directories.json``), by ids that are given anew whenever they change. One that is new, replaced, left out,
   brought back, failed or damaged: then it is not known what was made, and whatever is not there counts as lost.
3. Before the directories agree again every replica that the broker is to have is marked: what was lost while it was not
   known stays lost.
4. A mark goes only when its topic is deleted, after the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence

import orjson

from ..config import TopicConfig
from ..model import PartitionKey, TopicId
from ..storage.files import Files
from ..storage.flushing import storage_error
from ..storage.log import Log
from .logdirs import LogDirectories, LogDirectory, is_log_name

MADE_DIR = "made"
SET_FILE = "directories.json"


def learn(
    files: Files,
    directories: LogDirectories,
    assigned: Collection[PartitionKey],
    is_deleted: Callable[[TopicId], bool],
    stamp: str,
) -> None:
    """Read the marks, once the logs that are there have been found; see ``LogDirectories.was_never_made``. Blocks.

    Args:
        assigned: all replicas that this broker is to have.
        stamp: of this look; what directories that have to agree anew are called by.

    Raises:
        OSError: a mark could not be read or written; nothing is known then.
    """
    directories.is_made_known = False
    for directory in directories.readable:
        _read_marks(files, directory, is_deleted)
    if len(directories.readable) < len(directories.all):
        return  # what was made there is not known; and it may come back as it was
    said = [_said_by(files, directory) for directory in directories.all]
    if _agree(said):
        for key in assigned:  # made, and killed before the mark
            if (home := directories.home_of(key)) is not None:
                mark(files, home, key)
        directories.is_made_known = True
        return
    for directory in directories.all:  # rule 3
        _mark_all(files, directory, [key for key in assigned if directories.home_or_first(key) is directory])
    ids = _new_ids(said, stamp)
    for directory, own in zip(directories.all, ids, strict=True):
        files.write_atomic(f"{_marks_of(directory)}/{SET_FILE}", orjson.dumps({"id": own, "all": ids}))


def open_log(
    files: Files, home: LogDirectory, key: PartitionKey, config: TopicConfig, *, now_ms: int, producer_expiry_ms: int
) -> Log:
    """Return a log, made if it is not there, with its mark on disk (rule 1). Blocks: call it in a pool.

    Raises:
        StorageCorruption, StorageError: as ``Log.open``, or the mark could not be written.
    """
    log = Log.open(files, f"{home.path}/{key}", config, now_ms=now_ms, producer_expiry_ms=producer_expiry_ms)
    try:
        mark(files, home, key)
    except OSError as error:
        log.close(now_ms, clean=False)
        raise storage_error(f"{home.path}/{MADE_DIR}/{key}: cannot be written", error) from error
    return log


def remove_log(files: Files, home: LogDirectory, key: PartitionKey) -> None:
    """Remove the log of a deleted topic, then its mark (rule 4). Blocks."""
    files.remove_tree(f"{home.path}/{key}")
    home.made.discard(str(key))
    with contextlib.suppress(FileNotFoundError):
        files.remove(f"{_marks_of(home)}/{key}")


def mark(files: Files, home: LogDirectory, key: PartitionKey) -> None:
    """Have a log's mark on disk."""
    if str(key) not in home.made:
        _mark_all(files, home, [key])


def _mark_all(files: Files, home: LogDirectory, keys: Iterable[PartitionKey]) -> None:
    """Write marks, and one sync for all of them."""
    directory, names, written = _marks_of(home), {str(key) for key in keys} - home.made, list[str]()
    try:
        _make(files, home)
        for name in sorted(names):
            written.append(name)
            files.write_bytes(f"{directory}/{name}", b"")
        files.sync_dir(directory)
    except OSError:
        for name in written:  # or the next attempt would find it, and believe a sync that has nothing to do
            with contextlib.suppress(OSError):
                files.remove(f"{directory}/{name}")
        raise
    home.made |= names


def _read_marks(files: Files, home: LogDirectory, is_deleted: Callable[[TopicId], bool]) -> None:
    """Take in the marks of a directory. What an earlier life wrote and did not sync is on disk before it counts."""
    directory = _marks_of(home)
    _make(files, home)
    files.sync_dir(home.path)
    files.sync_dir(directory)
    for name in filter(is_log_name, files.list_dir(directory)):
        if is_deleted(TopicId(name.rpartition("-")[0])) and not files.exists(f"{home.path}/{name}"):
            files.remove(f"{directory}/{name}")
        else:
            home.made.add(name)


def _make(files: Files, home: LogDirectory) -> None:
    if not files.exists(_marks_of(home)):
        files.make_dir(_marks_of(home))
        files.sync_dir(home.path)


def _said_by(files: Files, directory: LogDirectory) -> list[str]:
    """Return its id, then those of all that there were, in order; nothing when it does not say so."""
    try:
        found = orjson.loads(files.read_bytes(f"{_marks_of(directory)}/{SET_FILE}"))
        return [str(found["id"]), *sorted(map(str, found["all"]))]
    except (FileNotFoundError, orjson.JSONDecodeError, LookupError, TypeError):
        return []


def _agree(said: Sequence[Sequence[str]]) -> bool:
    """Say whether these are the directories that there were, all of them and no other (rule 2)."""
    ids = sorted(ids[0] for ids in said if ids)
    return all(list(one[1:]) == ids for one in said) and len(set(ids)) == len(said)


def _new_ids(said: Sequence[Sequence[str]], stamp: str) -> list[str]:
    """Return an id for each: none that anybody had before, as far as these can tell."""
    used = {one for ids in said for one in ids}
    while used & set(ids := [f"{stamp}-{place}" for place in range(len(said))]):
        stamp += "+"
    return ids


def _marks_of(directory: LogDirectory) -> str:
    return f"{directory.path}/{MADE_DIR}"
