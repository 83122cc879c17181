"""The data directory of a cluster: who may use it, what it is of, and where its sockets stand.

    <data>/lock             held by the host for its life (flock); holds its pid
    <data>/cluster.json     the cluster's identity, written once
    <data>/joined.json      of a host that has joined another one's cluster: its name, its brokers' ids
    <data>/metadata/        the metadata store
    <data>/broker-<i>/      the logs of broker i
    <data>/broker-<i>.boot  which boot of the machine it lived in last
    <data>/log/             one log file a process
    <data>/run/             unix sockets; emptied at start and end

A unix socket's path has at most 107 bytes. Where ``<data>/run`` is too long for that, a private directory below
the system's temporary one is used, the same each time: a killed host leaves one, and the next start takes it over.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ..errors import CallboardError, ConfigurationError
from ..storage.files import AlreadyLocked, FileLock, Files
from ..transport.addresses import ipc_path_fits

LONGEST_SOCKET_NAME = "listener-xxxxxxxx-and-then-some.sock"  # multiprocessing's own among them
FORMAT_VERSION = 1
IDENTITY_FILE = "cluster.json"
JOINED_FILE = "joined.json"


class HostError(CallboardError):
    """The host cannot do its work here. One line that says what to do."""


class ClusterIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cluster.json`` holds."""

    cluster_id: str
    created_ms: int  # wall clock
    format_version: int = FORMAT_VERSION


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What ``joined.json`` holds. Until ``broker_ids`` are there, it has only asked."""

    home: str  # this directory's own id: the ids of brokers are given to it
    host_name: str
    join: str  # where it has joined
    broker_ids: tuple[int, ...] = ()


class DataDir:
    """A data directory that this process holds. ``close`` gives it back."""

    def __init__(
        self, files: Files, path: str, run_dir: str, identity: ClusterIdentity, joined: Joined | None, lock: FileLock
    ) -> None:
        self.path = path
        self.run_dir = run_dir
        self.identity = identity  # cluster_id "": of a host that has not joined yet
        self.joined = joined
        self._files, self._lock = files, lock

    def remember(self, joined: Joined, cluster_id: str = "") -> None:
        """Note what it asks for, then what it got. The cluster's identity comes last: with it, the rest is there."""
        self._files.write_atomic(f"{self.path}/{JOINED_FILE}", msgspec.json.encode(joined))
        self.joined = joined
        if cluster_id and cluster_id != self.identity.cluster_id:
            self.identity = msgspec.structs.replace(self.identity, cluster_id=cluster_id)
            self._files.write_atomic(f"{self.path}/{IDENTITY_FILE}", msgspec.json.encode(self.identity))

    def make_broker_dirs(self, broker_ids: Iterable[int]) -> None:
        for broker_id in broker_ids:
            self._files.make_dir(f"{self.path}/broker-{broker_id}")

    def is_there(self) -> bool:
        """Say whether it still is where it was: somebody may have removed or replaced it under us."""
        return self._lock.is_in_place()

    def close(self) -> None:
        """Remove what is only of this run, then let others in. What took our place is another's: left alone."""
        is_there = self.is_there()
        if is_there:
            _empty(self.run_dir)
        is_anothers = not is_there and os.path.exists(f"{self.path}/lock")
        if Path(self.run_dir).parent != Path(self.path) and not is_anothers:
            shutil.rmtree(self.run_dir, ignore_errors=True)  # made by us, for sockets alone
        self._lock.release()


def open_data_dir(
    files: Files, data_dir: str, *, brokers: int, new_id: str, now_ms: int, joins: bool = False
) -> DataDir:
    """Take a data directory, making it when it is not there.

    Args:
        joins: the host has no metadata process; which brokers it has is not known yet.

    Raises:
        HostError: another host has it; the message tells its pid.
        ConfigurationError: it cannot be used: not writable, not a directory, of a newer version.
    """
    if not data_dir:
        raise ConfigurationError("data_dir is empty: name a directory")
    path = os.path.abspath(data_dir)
    try:
        _refuse_foreign(files, path)
        files.make_dir(path)
        lock = files.lock(f"{path}/lock", str(os.getpid()))
    except AlreadyLocked as error:
        raise HostError(
            f"{data_dir} is in use by the cluster of process {error.holder or '?'}: stop that one, "
            "or choose another directory with --data-dir"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"data_dir {data_dir!r} cannot be used: {error.strerror or error}") from None
    try:
        joined = _joined(files, path)
        _refuse_other_part(files, path, joined, joins=joins)
        if joins and not files.exists(f"{path}/{IDENTITY_FILE}"):
            identity = ClusterIdentity(cluster_id="", created_ms=now_ms)  # written when it has joined
        else:
            identity = _identity(files, f"{path}/{IDENTITY_FILE}", new_id, now_ms)
        for name in ("log",) if joins else ("log", "metadata"):
            files.make_dir(f"{path}/{name}")
        data = DataDir(files, path, _run_dir(path), identity, joined, lock)
        if not joins:
            data.make_broker_dirs(range(1, brokers + 1))
        return data
    except OSError as error:
        lock.release()
        raise ConfigurationError(f"data_dir {data_dir!r} cannot be used: {error.strerror or error}") from None
    except BaseException:
        lock.release()
        raise


def _refuse_foreign(files: Files, path: str) -> None:
    """Let nobody's files be mixed with a cluster's: a directory is ours, or empty, or not there yet."""
    if not files.exists(path) or files.exists(f"{path}/{IDENTITY_FILE}"):
        return
    ours = ("lock", "log", "run") if files.exists(f"{path}/{JOINED_FILE}") else ("lock",)  # it had begun to join
    names = (name for name in files.list_dir(path) if name not in ours)
    foreign = sorted(name for name in names if not name.startswith((IDENTITY_FILE, JOINED_FILE)))
    if foreign:
        raise ConfigurationError(
            f"{path} holds {foreign[0]!r}"
            + (f" and {len(foreign) - 1} more" if foreign[1:] else "")
            + f" and no {IDENTITY_FILE}: it is not a cluster's data directory. Choose an empty one with --data-dir"
        )


def _identity(files: Files, path: str, new_id: str, now_ms: int) -> ClusterIdentity:
    if not files.exists(path):
        identity = ClusterIdentity(cluster_id=new_id, created_ms=now_ms)
        files.write_atomic(path, msgspec.json.encode(identity))
        return identity
    try:
        identity = msgspec.json.decode(files.read_bytes(path), type=ClusterIdentity)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is damaged ({error}): is this the data directory of a cluster?") from None
    if identity.format_version > FORMAT_VERSION:
        raise ConfigurationError(
            f"{path} is of format {identity.format_version}, this version knows {FORMAT_VERSION}: use a newer callboard"
        )
    return identity


def _joined(files: Files, path: str) -> Joined | None:
    if not files.exists(f"{path}/{JOINED_FILE}"):
        return None
    try:
        return msgspec.json.decode(files.read_bytes(f"{path}/{JOINED_FILE}"), type=Joined)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}/{JOINED_FILE} is damaged: {error}") from None


def _refuse_other_part(files: Files, path: str, joined: Joined | None, *, joins: bool) -> None:
    """A directory stays the first host's, or of one that joined: two metadata stores would be two clusters."""
    if joins and files.exists(f"{path}/metadata"):
        raise ConfigurationError(
            f"{path} holds a cluster's metadata: start it without --join, or choose another directory with --data-dir"
        )
    if joined is not None and joined.broker_ids and not joins:
        raise ConfigurationError(
            f"{path} is of host {joined.host_name}, which has joined a cluster: start it with --join {joined.join}, or "
            "choose another directory with --data-dir"
        )


def _run_dir(path: str) -> str:
    run_dir = f"{path}/run"
    if not ipc_path_fits(f"{run_dir}/{LONGEST_SOCKET_NAME}"):
        mark = hashlib.sha256(path.encode()).hexdigest()[:12]
        run_dir = f"{tempfile.gettempdir()}/callboard-{os.getuid()}-{mark}"
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    state = os.lstat(run_dir)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise HostError(f"{run_dir} is not a private directory of this user: remove it, or use a shorter --data-dir")
    _empty(run_dir)
    return run_dir


def _empty(run_dir: str) -> None:
    """Remove the sockets that a killed host left behind, and nothing else."""
    if not os.path.isdir(run_dir):
        return  # somebody tidied up
    for entry in Path(run_dir).iterdir():
        if entry.is_socket() or entry.suffix == ".sock":
            entry.unlink(missing_ok=True)
