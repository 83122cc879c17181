"""A real cluster for a test: its own processes, its own directory, any free ports, nothing left behind.

    with cluster(brokers=3) as running:
        running.create_topic("orders", partitions=6)
        with running.producer() as producer:
            producer.send("orders", b"1").get(timeout=10)
        running.kill_leader("orders", 0)
        running.wait_for_leader("orders", 0)

The cluster is the one a person gets from ``callboard up --experiments``, run by ``cluster_process``: below another
program that ends it, and removes its directory, when the test's process ends, however that ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ..errors import BrokerResponseError, CallboardError, ErrorCode

if TYPE_CHECKING:
    from ..client.admin import AdminClient
    from ..client.consumer import Consumer
    from ..client.producer import Producer
    from ..client.timeline import Gap
    from ..transport.messages import EventDescription, PartitionMetadata

DEADLINE_S = 60.0  # generous: a loaded machine is no bug of the cluster's
LOOK_S = 0.01
FOR_S = 5.0  # of an experiment, unless it is said

T = TypeVar("T")


class ClusterDidNotStart(CallboardError):
    """``callboard up`` ended, or said nothing, before the cluster was ready. Holds what it printed."""


class RunningCluster:
    """One ``callboard up`` and its processes.

    Processes are named by number (2 is broker 2) or by name ("metadata"). Whatever takes ``for_s`` undoes itself
    after so long. What waits raises ``CallboardError`` after ``deadline_s``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int,
        options: tuple[str, ...] = (),
        is_temporary: bool = False,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """``environment`` is added to this process's; ``prefix`` runs the command, as ``nice`` does."""
        self.directory = directory
        self.data_dir = directory / "data"
        self.ready_file = directory / "ready.json"
        self.brokers = brokers
        self._options = options
        self._environment, self._prefix = {**os.environ, **(environment or {})}, prefix
        self._is_temporary = is_temporary
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Any] = []  # whatever has close()
        self._own_admin: AdminClient | None = None

    # -- life ----------------------------------------------------------------------------------------

    def start(self, deadline_s: float = DEADLINE_S) -> RunningCluster:
        """Run ``callboard up`` and return when it serves.

        Raises:
            ClusterDidNotStart: it ended or was silent; with its output.
        """
        self.ready_file.unlink(missing_ok=True)
        command = [*self._prefix, sys.executable, "-m", "callboard.testing.cluster_process", str(self.directory)]
        command += ["remove" if self._is_temporary else "keep", "--brokers", str(self.brokers), "--port", "0"]
        command += ["--experiments", "--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file)]
        command += self._options
        with (self.directory / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._environment
            )
        said = self._read_until(b"ready", deadline_s)
        if not self.ready_file.exists():
            self.stop()
            errors = (self.directory / "up.log").read_text(errors="replace")
            raise ClusterDidNotStart(f"`{' '.join(command)}` was not ready:\n{said.decode(errors='replace')}{errors}")
        return self

    def stop(self, deadline_s: float = DEADLINE_S) -> int | None:
        """Stop it as a person would, by SIGTERM; return its exit status. A second call does nothing."""
        self._close_clients()
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            _close_pipes(process)

    def kill(self) -> None:
        """SIGKILL the host supervisor: its children end with it."""
        self._close_clients()
        process, children = self._process, self.pids()
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)
            self._process = None
            self._wait_until(lambda: not any(is_alive(pid) for pid in children), "the children to end")

    # -- clients ---------------------------------------------------------------------------------------

    def admin(self, **settings: Any) -> AdminClient:
        """Return a new admin client; closed with the cluster, if not before."""
        from ..client.admin import AdminClient

        return self._kept(AdminClient(**{"bootstrap_servers": self.bootstrap_servers, **settings}))

    def producer(self, **settings: Any) -> Producer[Any, Any]:
        """Return a new producer; closed with the cluster, if not before."""
        from ..client.producer import Producer

        return self._kept(Producer(**{"bootstrap_servers": self.bootstrap_servers, **settings}))

    def consumer(self, *topics: str, **settings: Any) -> Consumer[Any, Any]:
        """Return a new consumer that reads from the beginning unless told otherwise; closed with the cluster."""
        from ..client.consumer import Consumer

        defaults = {"bootstrap_servers": self.bootstrap_servers, "auto_offset_reset": "earliest"}
        return self._kept(Consumer(*topics, **{**defaults, **settings}))

    def create_topic(
        self, name: str, partitions: int = 1, replication_factor: int | None = None, **configs: Any
    ) -> None:
        """Create a topic and return when every partition has a leader.

        Waits for brokers that are away just now (a test has killed one, or cut it off a moment ago).
        """
        wanted: dict[str, Any] = {"num_partitions": partitions}
        if replication_factor is not None:
            wanted["replication_factor"] = replication_factor
        if configs:
            wanted["configs"] = configs
        self._wait_until(lambda: self._is_created(name, wanted), f"enough live brokers for topic {name}")

    # -- what a test wants to know ---------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the host supervisor."""
        return int(self.ready()["pid"])

    @property
    def bootstrap_servers(self) -> list[str]:
        return list(self.ready()["bootstrap_servers"])

    def ready(self) -> dict[str, Any]:
        """Return the ready file's content."""
        content: dict[str, Any] = orjson.loads(self.ready_file.read_bytes())
        return content

    def broker_pid(self, broker_id: int) -> int:
        return next(int(broker["pid"]) for broker in self.ready()["brokers"] if broker["id"] == broker_id)

    def pids(self) -> list[int]:
        """Return the pids of every process below the host supervisor."""
        import psutil

        if self._process is None:
            return []
        try:
            return [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def partition(self, topic: str, partition: int = 0) -> PartitionMetadata:
        """Return what the brokers say of a partition: leader, epoch, replicas, ISR; never older than said before."""
        (described,) = self._admin.describe_topics([topic])
        found = {one.partition: one for one in described.partitions}
        if partition not in found:
            raise CallboardError(f"topic {topic!r} has {len(found)} partitions, none with the number {partition}")
        return found[partition]

    def leader_of(self, topic: str, partition: int = 0) -> int | None:
        """Return the broker that leads a partition now; None: there is no leader."""
        leader = self.partition(topic, partition).leader
        return leader if leader >= 0 else None

    def isr_of(self, topic: str, partition: int = 0) -> set[int]:
        """Return the brokers that are in sync."""
        return set(self.partition(topic, partition).isr)

    def events(self) -> list[EventDescription]:
        """Return the timeline: failures, elections, experiments."""
        from ..client.timeline import merged

        happened = self._admin.events()
        found = happened.events
        while happened.events:
            happened = self._admin.events(happened.after)
            found += happened.events
        return merged(found)

    def gaps(self) -> list[Gap]:
        """Return the times in which a partition had no leader."""
        from ..client.timeline import gaps

        return gaps(self.events())

    # -- what a test wants to wait for -------------------------------------------------------------------

    def wait_for_leader(
        self, topic: str, partition: int = 0, *, other_than: int | None = None, deadline_s: float = DEADLINE_S
    ) -> int:
        """Return the leader once there is one; ``other_than``: once it is another one than that."""

        return self.wait_for_led(topic, partition, other_than=other_than, deadline_s=deadline_s).leader

    def wait_for_led(
        self, topic: str, partition: int = 0, *, other_than: int | None = None, deadline_s: float = DEADLINE_S
    ) -> PartitionMetadata:
        """Return the partition once it has a leader: who leads, and since which epoch, as they belong together."""

        def led() -> PartitionMetadata | None:
            found = self.partition(topic, partition)
            return found if found.leader >= 0 and found.leader != other_than else None

        return self._wait_for(led, f"a leader of {topic}-{partition}", deadline_s)

    def wait_for_isr(self, topic: str, partition: int, size: int, deadline_s: float = DEADLINE_S) -> set[int]:
        """Return the in-sync replicas once there are ``size`` of them."""

        def isr() -> set[int] | None:
            found = self.isr_of(topic, partition)
            return found if len(found) == size else None

        return self._wait_for(isr, f"{size} in-sync replicas of {topic}-{partition}", deadline_s)

    def wait_for_event(self, event: str, /, deadline_s: float = DEADLINE_S, **values: object) -> EventDescription:
        """Return the first event of this name with these values; of the past, too."""
        wanted = {key: str(value) for key, value in values.items()}
        until, after = time.monotonic() + deadline_s, None
        while True:
            happened = self._admin.events(after, max_wait_ms=500)
            after = happened.after
            for one in happened.events:
                if one.name == event and wanted.items() <= one.values.items():
                    return one
            if time.monotonic() > until:
                raise CallboardError(f"waited {deadline_s:.0f} s for {event} {wanted}")

    def wait_for_new_pid(self, broker_id: int, old_pid: int, deadline_s: float = DEADLINE_S) -> int:
        """Return the broker's new pid once the ready file has it."""
        self._wait_until(
            lambda: self.broker_pid(broker_id) not in (old_pid, 0), f"broker {broker_id} to come back", deadline_s
        )
        return self.broker_pid(broker_id)

    # -- what a test wants to break ----------------------------------------------------------------------

    def kill_broker(self, broker_id: int, *, for_s: float = 0.0) -> int:
        """SIGKILL a broker process; return the pid it had. ``for_s``: it is not started again before so long."""
        pid = self.broker_pid(broker_id)
        if for_s:
            self._admin.kill(_name(broker_id), "kill", for_ms=_ms(for_s))
        else:
            os.kill(pid, signal.SIGKILL)
        return pid

    def kill_leader(self, topic: str, partition: int = 0, *, for_s: float = 0.0) -> int:
        """SIGKILL the broker that leads a partition; return its id."""
        leader = self.wait_for_leader(topic, partition)
        self.kill_broker(leader, for_s=for_s)
        return leader

    def kill_actor(self, address: str, how: str = "raise") -> None:
        """Fail one actor, such as ``broker-1/partitions/orders-0``."""
        self._admin.kill(address, how)

    def pause_broker(self, broker_id: int, for_s: float = FOR_S) -> None:
        """Stop a broker process by SIGSTOP, and let it go on."""
        self._admin.experiments.pause(_name(broker_id), _ms(for_s))

    def hang_broker(self, broker_id: int, for_s: float = FOR_S) -> None:
        """Have a broker's event loop stand still."""
        self._admin.experiments.hang(_name(broker_id), _ms(for_s))

    def pause_actor(self, address: str, for_s: float = FOR_S) -> None:
        """Have an actor handle no message; then all that have waited."""
        self._admin.experiments.pause(address, _ms(for_s))

    def slow(self, process: int | str, ms: int, for_s: float = FOR_S) -> None:
        """Have each actor of a process, or the one actor at an address, take ``ms`` for each message."""
        self._admin.experiments.slow(_name(process), ms, _ms(for_s))

    def cut(self, one: int | str, other: int | str, for_s: float = FOR_S, *, one_way: bool = False) -> None:
        """Lose what two processes send each other; ``one_way``: only what the first sends to the second."""
        self._admin.experiments.cut(_name(one), _name(other), _ms(for_s), one_way=one_way)

    def delay(self, one: int | str, other: int | str, ms: int, for_s: float = FOR_S, *, one_way: bool = False) -> None:
        """Have what two processes send each other come ``ms`` later."""
        self._admin.experiments.delay(_name(one), _name(other), ms, _ms(for_s), one_way=one_way)

    def heal(self, *processes: int | str) -> None:
        """End the experiments with these processes before their time; by default with all that run."""
        names = processes or ("metadata", *range(1, self.brokers + 1))
        for process in names:
            with suppress(CallboardError):  # one that is away has no experiment
                self._admin.experiments.end(_name(process))

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _admin(self) -> AdminClient:
        if self._own_admin is None:
            self._own_admin = self.admin()
        return self._own_admin

    def _kept(self, client: T) -> T:
        self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        clients, self._clients, self._own_admin = self._clients, [], None
        for client in reversed(clients):
            with suppress(CallboardError):  # a test that lost records has said so itself
                client.close()

    def _read_until(self, word: bytes, deadline_s: float) -> bytes:
        """Read the command's output up to a line that holds ``word``, its end, or the deadline."""
        process, said = self._process, b""
        if process is None or process.stdout is None:
            return said
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not readable:
                break
            chunk = os.read(process.stdout.fileno(), 65_536)
            said += chunk
            if not chunk or any(word in line for line in said.splitlines()):
                break
        return said

    def _is_created(self, name: str, wanted: dict[str, Any]) -> bool:
        try:
            self._admin.create_topics({name: wanted})
        except BrokerResponseError as error:
            if (
                error.errno != ErrorCode.INVALID_REPLICATION_FACTOR
                or wanted.get("replication_factor", 1) > self.brokers
            ):
                raise
            return False
        return True

    def _wait_until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        self._wait_for(lambda: True if condition() else None, what, deadline_s)

    def _wait_for(self, look: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
        until = time.monotonic() + deadline_s
        while (found := look()) is None:
            if time.monotonic() > until:
                raise CallboardError(f"waited {deadline_s:.0f} s for {what}")
            time.sleep(LOOK_S)
        return found


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is not a zombie."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def cluster(
    brokers: int = 3, *, directory: str | os.PathLike[str] | None = None, options: tuple[str, ...] = ()
) -> Iterator[RunningCluster]:
    """Run a cluster for the length of a ``with`` block.

    Args:
        directory: where its data go; kept afterwards. By default a temporary one, removed afterwards.
        options: more options of ``callboard up``.
    """
    path = Path(directory) if directory is not None else Path(tempfile.mkdtemp(prefix="callboard-"))
    running = RunningCluster(path, brokers=brokers, options=options, is_temporary=directory is None)
    try:
        yield running.start()
    finally:
        running.stop()
        if directory is None:
            shutil.rmtree(path, ignore_errors=True)


def _name(process: int | str) -> str:
    return f"broker-{process}" if isinstance(process, int) else process


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1_000))


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
