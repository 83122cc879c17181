"""The metadata store's memory: documents with versions in one SQLite file, compared and set in groups.

The problem: who leads what must survive any crash, and a controller that was paused must change nothing when
it wakes up. Reading first and writing later does not do (what was read may be old by then), so a caller says
what it believes, and the store compares it at the moment of the write.

Rules of this file:

1. One version counts every change of the whole store. It never goes back, restarts included. A transaction's
   documents all carry the version it made.
2. A transaction is all or nothing: its controller epoch (if it names one) must be that of the lease as it is
   *held* now, and each write's ``if_version`` that of its document (R5). Otherwise nothing of it happens.
3. What ``apply`` has returned is on disk (write-ahead log, ``synchronous=FULL``), so epochs never go back (R8). A group
   shares one fsync.
4. A write that failed is not tried again: its group is rolled back and the store is broken until opened anew.
   The caller learns nothing about the group: its outcome is unknown. Only a full disk is told apart: nothing of the
   group was written, and the store is as it was.
5. One process owns the file (exclusive lock), so the versions may be kept in memory beside it. The first
   statement of each group checks that against the file all the same.
6. A damaged file is refused whole: a checksum a row, SQLite's own check, and versions that fit together.

Not thread safe: one call at a time, from whichever thread (the metadata actor has one job out at a time).
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import google_crc32c
import orjson

from ..errors import InvariantViolated, StorageError, StorageFull

ANY_VERSION = -1  # ``if_version``: whatever is there
ABSENT = 0  # ``if_version``: it does not exist
LEASE_KEY = "lease"  # {"holder": …, "controller_epoch": …}: what a transaction's controller epoch is compared with
FORMAT_VERSION = 1
APPLICATION_ID = 0x43426D64  # "CBmd"
BUSY_MS = 2_000  # how long opening waits for another owner of the file to go
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "fuse.sshfs", "glusterfs", "ceph"}
)

Value = dict[str, Any]


class StoredDocument(NamedTuple):
    """``value`` None: deleted, as of ``version``."""

    key: str
    version: int
    value: Value | None


class Write(NamedTuple):
    """Set a document (``value`` None: delete it) if its version is ``if_version`` (``ABSENT``, ``ANY_VERSION``)."""

    key: str
    value: Value | None
    if_version: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """All writes or none. ``controller_epoch`` None: not a controller's, nothing is compared.

    ``needs``: keys that must exist afterwards. ``frees``: prefixes that no key may have afterwards.
    """

    writes: Sequence[Write]
    controller_epoch: int | None = None
    needs: Sequence[str] = ()
    frees: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AllocateProducerIds:
    """Take ``count`` producer ids that nobody has or had."""

    count: int


@dataclass(frozen=True, slots=True)
class Committed:
    """``documents`` as they are now, each at ``version``. Without writes: the version as it was."""

    version: int
    documents: tuple[StoredDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: ``key`` is at ``found``, not at ``expected``."""

    key: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class StaleEpoch:
    """Nothing was written: ``controller_epoch`` is the lease's; ``is_held``: somebody has it."""

    controller_epoch: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class Unstorable:
    """Nothing was written: the value for ``key`` is not JSON (an integer beyond 64 bits, for one), or what the
    transaction needs is not there, or what it frees still is."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProducerIds:
    """The caller's: ``first <= id < first + count``."""

    first: int
    count: int


Operation = Transaction | AllocateProducerIds
Outcome = Committed | Conflict | StaleEpoch | Unstorable | ProducerIds


class Row(NamedTuple):
    """A document as it is kept. ``value`` None: none is kept."""

    key: str
    version: int
    value: bytes | None


@dataclass(slots=True)
class _Group:
    """What one group changes, by key: only the last of several writes of a document reaches the file."""

    rows: dict[str, Row] = field(default_factory=dict)
    version: int = 0
    next_producer_id: int = 0


class DocumentStore(ABC):
    """Rules 1, 2 and 4, for any place that can keep rows. ``load`` once before the first ``apply``."""

    def __init__(self) -> None:
        self.version = 0  # of the last change; moved only by apply
        self.next_producer_id = 0  # below it all are taken
        self._versions: dict[str, int] = {}  # of every document there is
        self._lease_epoch = 0
        self._is_lease_held = False
        self._is_broken = False

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Perform operations in order, each seeing the ones before it, and make them durable together.

        Raises:
            StorageFull: there is no room. Nothing was written; the same may be tried again.
            StorageError: the disk failed. Nothing is known of any of them; open the store anew.
        """
        if self._is_broken:
            raise StorageError("the metadata store failed before; it must be opened anew")
        before = self.version, self.next_producer_id
        group = _Group(version=self.version, next_producer_id=self.next_producer_id)
        outcomes = [self._perform(operation, group) for operation in operations]
        if (group.version, group.next_producer_id) == before:
            return outcomes
        self._is_broken = True  # until it is on disk
        try:
            self._persist(list(group.rows.values()), before[0], group.version, group.next_producer_id)
        except StorageFull:
            self.load()  # what was performed in memory is forgotten
            self._is_broken = (self.version, self.next_producer_id) != before
            raise
        self._is_broken = False
        self.version, self.next_producer_id = group.version, group.next_producer_id
        return outcomes

    def load(self) -> list[StoredDocument]:
        """Return every document.

        Raises:
            StorageError: damaged, or cannot be read.
        """
        documents, self.version, self.next_producer_id = self._read()
        self._versions.clear()
        self._lease_epoch, self._is_lease_held = 0, False
        for document in documents:
            if not 0 < document.version <= self.version:
                raise StorageError(f"document {document.key!r} has version {document.version} of {self.version}")
            self._remember(document)
        return documents

    @abstractmethod
    def _read(self) -> tuple[list[StoredDocument], int, int]:
        """Return all documents, the version and the next producer id."""

    @abstractmethod
    def _persist(self, rows: Sequence[Row], was: int, version: int, next_producer_id: int) -> None:
        """Make all of it durable or none. ``was``: the version the file must still be at."""

    def close(self) -> None:
        """Give up the place. Everything applied is safe with or without it."""
        self._is_broken = True

    def _perform(self, operation: Operation, group: _Group) -> Outcome:
        if isinstance(operation, AllocateProducerIds):
            first, group.next_producer_id = group.next_producer_id, group.next_producer_id + operation.count
            return ProducerIds(first, operation.count)
        if refusal := self._compare(operation):
            return refusal
        if not operation.writes:
            return Committed(group.version)
        if unmet := self._unmet(operation):
            return unmet
        version = group.version + 1
        rows = []
        for write in operation.writes:
            try:
                rows.append(Row(write.key, version, None if write.value is None else orjson.dumps(write.value)))
            except orjson.JSONEncodeError as error:
                return Unstorable(write.key, str(error))
        group.version = version
        group.rows.update((row.key, row) for row in rows)
        documents = tuple(StoredDocument(write.key, version, write.value) for write in operation.writes)
        for document in documents:
            self._remember(document)
        return Committed(version, documents)

    def _compare(self, transaction: Transaction) -> Conflict | StaleEpoch | None:
        epoch = transaction.controller_epoch
        if epoch is not None and not (self._is_lease_held and epoch == self._lease_epoch):
            return StaleEpoch(self._lease_epoch, self._is_lease_held)
        for write in transaction.writes:
            found = self._versions.get(write.key, ABSENT)
            if write.if_version not in (found, ANY_VERSION):
                return Conflict(write.key, write.if_version, found)
        return None

    def _unmet(self, transaction: Transaction) -> Unstorable | None:
        """Look at what will be there afterwards; here, where all that came before is known."""
        after = {write.key: write.value is not None for write in transaction.writes}
        for key in transaction.needs:
            if not after.get(key, key in self._versions):
                return Unstorable(key, "would not be there")
        if transaction.frees:  # rare: all keys are looked at
            prefixes = tuple(transaction.frees)
            for key in self._versions:
                if key.startswith(prefixes) and after.get(key, True):
                    return Unstorable(key, "would be left alone")
        return None

    def _remember(self, document: StoredDocument) -> None:
        if document.value is None:
            self._versions.pop(document.key, None)
        else:
            self._versions[document.key] = document.version
        if document.key == LEASE_KEY:
            lease = document.value or {}
            self._lease_epoch = max(self._lease_epoch, int(lease.get("controller_epoch", 0)))
            self._is_lease_held = bool(lease.get("holder"))


class SqliteStore(DocumentStore):
    """The store in one SQLite file, mode 0600, owned by this process until ``close``."""

    def __init__(self, path: str, *, filesystem_of: Callable[[str], str] | None = None) -> None:
        """Open the file, or make it; check it.

        Raises:
            StorageError: locked, damaged, of a newer format, on a network file system, or not writable; in one
                line that says which, and what to do.
        """
        super().__init__()
        self.path = path
        kind = (filesystem_of or _filesystem_of)(path)
        if kind in NETWORK_FILESYSTEMS:
            raise StorageError(f"{path}: SQLite's locks cannot be trusted on {kind}; use a local disk")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
        except OSError as error:
            raise StorageError(f"{path}: cannot be opened: {error.strerror or error}") from error
        self._connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException as error:
            self._connection.close()
            if isinstance(error, UNREADABLE):
                raise StorageError(self._in_words(error)) from error
            raise

    def close(self) -> None:
        super().close()
        self._connection.close()

    def _prepare(self) -> None:
        run = self._connection.execute
        for statement in (
            "PRAGMA locking_mode = EXCLUSIVE",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA journal_size_limit = 16777216",
            "PRAGMA trusted_schema = OFF",
            "BEGIN EXCLUSIVE",  # takes the file now, not at the first write
        ):
            run(statement)
        problems = [row[0] for row in run("PRAGMA integrity_check(3)")]
        if problems != ["ok"]:
            raise StorageError(self._damaged("; ".join(problems)))
        found_application, found_format = (run(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
        if found_application == 0 and not run("SELECT 1 FROM sqlite_master").fetchone():
            self._create()
        elif found_application != APPLICATION_ID:
            raise StorageError(f"{self.path}: is not a Callboard metadata store")
        elif found_format > FORMAT_VERSION:
            raise StorageError(f"{self.path}: written by a newer Callboard (format {found_format}); upgrade this one")
        run("COMMIT")

    def _create(self) -> None:
        run = self._connection.execute
        run(
            "CREATE TABLE documents (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value BLOB NOT NULL,"
            " checksum INTEGER NOT NULL) WITHOUT ROWID"
        )
        run("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
        run("INSERT INTO counters VALUES ('version', 0), ('next_producer_id', 0)")
        run(f"PRAGMA application_id = {APPLICATION_ID}")
        run(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _read(self) -> tuple[list[StoredDocument], int, int]:
        try:
            counters = dict(self._connection.execute("SELECT name, value FROM counters"))
            rows = self._connection.execute("SELECT key, version, value, checksum FROM documents").fetchall()
        except UNREADABLE as error:
            raise StorageError(self._in_words(error)) from error
        for key, version, value, checksum in rows:
            is_typed = isinstance(key, str) and isinstance(version, int) and isinstance(value, bytes)
            if not is_typed or checksum != checksum_of(key, version, value):
                raise StorageError(self._damaged(f"the checksum of document {key!r} is wrong"))
        is_typed = all(isinstance(value, int) for value in counters.values())
        if not is_typed or counters.keys() != {"version", "next_producer_id"}:
            raise StorageError(self._damaged("its counters are missing"))
        documents = [StoredDocument(key, version, orjson.loads(value)) for key, version, value, _ in rows]
        return documents, counters["version"], counters["next_producer_id"]

    def _persist(self, rows: Sequence[Row], was: int, version: int, next_producer_id: int) -> None:
        run, run_many = self._connection.execute, self._connection.executemany
        try:
            run("BEGIN IMMEDIATE")
            changed = run("UPDATE counters SET value = ? WHERE name = 'version' AND value = ?", (version, was)).rowcount
            if changed != 1:
                raise InvariantViolated(f"{self.path}: somebody else wrote to it (it is not at version {was})")
            run("UPDATE counters SET value = ? WHERE name = 'next_producer_id'", (next_producer_id,))
            run_many(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " version = excluded.version, value = excluded.value, checksum = excluded.checksum",
                [(key, at, value, checksum_of(key, at, value)) for key, at, value in rows if value is not None],
            )
            run_many("DELETE FROM documents WHERE key = ?", [(row.key,) for row in rows if row.value is None])
            run("COMMIT")
        except sqlite3.Error as error:
            is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            raise (StorageFull if is_full else StorageError)(self._in_words(error)) from error
        finally:
            if self._connection.in_transaction:
                self._connection.rollback()

    def _in_words(self, error: Exception) -> str:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"{self.path}: another process has it open; stop that cluster first"
        is_damage = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if is_damage or isinstance(error, UnicodeDecodeError):
            return self._damaged(str(error))
        return f"{self.path}: {error}"

    def _damaged(self, how: str) -> str:
        return f"{self.path}: damaged ({how}); restore it from a copy: without it the cluster does not know its topics"


_MARKS = ("application_id", "user_version")
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # text of a damaged file, also in SQLite's own words about it


def checksum_of(key: str, version: int, value: bytes) -> int:
    return int(google_crc32c.value(b"%b\0%d\0%b" % (key.encode(), version, value)))


def _filesystem_of(path: str, mounts: Mapping[str, str] | None = None) -> str:
    """Return the kind of file system below ``path``, as the kernel calls it; ``""`` where it does not say."""
    mounts = _mounts() if mounts is None else mounts
    place = os.path.realpath(path)
    while place not in mounts:
        above = os.path.dirname(place)
        if above == place:
            return ""
        place = above
    return mounts[place]


def _mounts() -> dict[str, str]:
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.split(" ") for line in lines]
    except OSError:
        return {}  # not Linux
    return {place.replace("\\040", " "): kind for _, place, kind, *_ in fields}
