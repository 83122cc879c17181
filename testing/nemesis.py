"""What goes wrong in a simulation, and when: a schedule of faults made from a seed, and the hand that commits them.

A schedule is a plain list, made before the run begins: so a failing one can be run again without some of its faults,
until only those are left that matter (``shrink``). Whatever is random while a fault lasts comes from streams of its
own; leaving one fault out does not deal the others anew.

The safety phase is cut into windows. Each draws a subset of the kinds of faults, the empty one included, because a
cluster that is hurt in every way at once never gets as far as the interesting states.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..actors.lifecycle import Fail
from ..actors.partition.replica import Replica
from ..actors.runtime import LoopRef
from ..errors import StorageError
from ..model import PartitionKey
from ..storage.checkpoint import FAILED_FILE
from ..storage.metadata_store import Committed, DocumentStore, Operation, Outcome, Row, Transaction
from .clients import ClientProcess
from .disk import SimDisk
from .loop import SimLoop
from .machine import Latency, ProcessLoop, quick
from .network import LinkQuality, SimNetwork
from .recording import Recorder
from .simulated import (
    METADATA,
    METADATA_ENDPOINT,
    KeptDocuments,
    MemoryStore,
    SimulatedCluster,
    SimulatedProcess,
    end_of_session,
)

NOTICE_MS = 3  # from the death of a process until its host has told the metadata process
RESTART_MS = 60  # from the end of a process by itself until its host has started it again
CUT_MS_MIN = 50  # a cut holds at least so long: flapping faster than anybody notices teaches nothing


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault. ``at_ms`` counts from the beginning of the safety phase."""

    at_ms: float
    kind: str
    target: str
    for_ms: float = 0.0
    other: str = ""  # the other end of a link
    amount: float = 0.0  # what it means depends on the kind

    def __str__(self) -> str:
        end = f" for {self.for_ms:.0f} ms" if self.for_ms else ""
        other = f" {self.other}" if self.other else ""
        amount = f" ({self.amount:g})" if self.amount else ""
        return f"{self.at_ms:7.1f} ms  {self.kind} {self.target}{other}{end}{amount}"


# kind -> how often, relative to the others
KINDS: dict[str, float] = {
    "kill": 3.0,  # SIGKILL of a broker; amount 1: its host notices at once, 0: only its session's timeout tells
    "kill-metadata": 1.0,
    "power": 1.5,  # the machine of one broker loses power
    "power-all": 0.5,  # all machines do, at once
    "pause": 2.0,  # SIGSTOP, then SIGCONT
    "cut": 2.0,  # between two processes, both ways
    "cut-one-way": 2.0,
    "isolate": 1.0,  # from everybody
    "clog": 1.0,  # amount: ms of delay on one link
    "flaky": 1.0,  # the whole network: connections that break, copies that come late
    "slow-disk": 1.0,  # amount: ms that a sync takes
    "full-disk": 0.5,
    "store-refuses": 0.7,  # the store's next write fails, and did not happen
    "store-forgets": 0.7,  # … fails, and did happen
    "clock-jump": 0.7,  # of the wall clock; amount: ms
    "fail-actor": 2.0,  # an actor fails at once, as by a bug; amount chooses which
    "sync-error": 0.5,  # a sync fails: the directory is lost to this life of the broker
    "kill-client": 0.5,
}
# Not among them: a message lost on a connection that lives on, which only a queue that is full does. Whoever waits for
# one then waits until it gives up; of the metadata's watch that is half a minute.
LOSSY = {"lossy": 1.0}
NEEDS_COPIES = frozenset({"sync-error"})  # with one replica that is the end of a partition
# Not among them either: what strikes at the worst moment (``chase``), and what prepares such moments.
CHASES: dict[str, float] = {
    "chase-leader": 3.0,  # target: a partition; other: what is done to it; amount: how often
    "chase-joiner": 2.0,
    "chase-controller": 1.0,
    "lag": 3.0,  # one broker is far from the others, near to clients and metadata; amount: ms
    "estrange": 1.0,  # one broker is cut from the others and metadata, for longer than its session; clients reach it
}
GROUP_CHASES = {"chase-coordinator": 1.0, "chase-member": 1.0}  # where there are groups
CLOCK_LEAP = {"clock-leap": 1.0}  # of the wall clock, ten years ahead (F21): nothing is too old because of it
UNCLEAN = {"elect-unclean": 1.0}  # a person orders unclean elections, for a while, wherever nobody leads
LEAP_MS = 10 * 365 * 86_400_000
PAUSE_MS_MAX = 3_000.0  # of a controller that waits for its successor
CHASED_HOW = {
    "chase-leader": ("kill", "kill", "power", "fail", "fail", "cut"),
    "chase-joiner": ("power", "power", "kill", "cut"),
    "chase-controller": ("pause",),
    "chase-coordinator": ("estrange",),
    "chase-member": ("pause",),
}


def schedule(
    seed: int | str,
    *,
    brokers: Sequence[str],
    clients: Sequence[str],
    span_ms: float,
    kinds: dict[str, float] = KINDS,
    replication_factor: int = 1,
    partitions: int = 1,
) -> list[Fault]:
    """Return what goes wrong in ``span_ms``, in order of time."""
    chance = random.Random(f"schedule/{seed}")
    usable = [kind for kind in kinds if replication_factor > 1 or kind not in NEEDS_COPIES]
    faults: list[Fault] = []
    begin = 0.0 if usable else span_ms
    while begin < span_ms:
        end = min(span_ms, begin + chance.uniform(0.1, 0.5) * span_ms)
        weights = [kinds[kind] for kind in usable]
        chosen = {chance.choices(usable, weights)[0] for _ in range(chance.choice((0, 1, 1, 2, 3)))}
        for kind in sorted(chosen):
            for _ in range(chance.choice((1, 1, 2, 3))):
                at_ms = chance.uniform(begin, end)
                faults.append(_fault(kind, at_ms, span_ms, chance, brokers, clients, partitions))
        begin = end
    return sorted(faults, key=lambda fault: fault.at_ms)


def _fault(
    kind: str,
    at_ms: float,
    span_ms: float,
    chance: random.Random,
    brokers: Sequence[str],
    clients: Sequence[str],
    partitions: int,
) -> Fault:
    servers = [*brokers, METADATA]
    for_ms = max(CUT_MS_MIN, chance.choice((0.05, 0.2, 0.6)) * span_ms * chance.random())
    target, other, amount = chance.choice(brokers), "", 0.0
    if kind in ("kill", "power"):
        amount = float(chance.random() < 0.7)
    elif kind in ("kill-metadata", "store-refuses", "store-forgets"):
        target = METADATA
    elif kind == "pause":
        target = chance.choice([*brokers, *servers, *clients])
        for_ms = chance.choice((for_ms, 1_000 + 1_500 * chance.random()))  # longer than a session's timeout
    elif kind in ("cut", "cut-one-way", "clog"):
        target = chance.choice(brokers)
        other = chance.choice([name for name in [*servers, *clients] if name != target])
        if kind != "cut" and chance.random() < 0.5:
            target, other = other, target
        amount = chance.choice((20.0, 100.0, 400.0)) if kind == "clog" else 0.0
    elif kind == "clock-leap":
        amount = float(LEAP_MS)
    elif kind == "elect-unclean":
        target, for_ms = "all", max(for_ms, 0.3 * span_ms)
    elif kind in CHASED_HOW:
        target, other = f"partition-{chance.randrange(partitions)}", chance.choice(CHASED_HOW[kind])
        target = "groups" if kind in GROUP_CHASES else target
        amount, for_ms = float(chance.choice((1, 2, 2, 3))), max(for_ms, 0.3 * span_ms)
    elif kind == "estrange":
        for_ms = 1_600 + 1_500 * chance.random()
    elif kind == "lag":
        amount, for_ms = chance.choice((10.0, 40.0, 150.0)), max(for_ms, 0.3 * span_ms)
    elif kind == "slow-disk":
        amount = chance.choice((5.0, 50.0, 500.0))
    elif kind == "clock-jump":
        target = chance.choice(servers)
        amount = chance.choice((-3_600_000.0, 3_600_000.0, -10 * 365 * 86_400_000.0, -1_000.0, 1_000.0))
    elif kind == "fail-actor":
        target, amount = chance.choice([*brokers, *brokers, METADATA]), chance.random()
    elif kind == "kill-client":
        target = chance.choice(clients)
    elif kind in ("flaky", "lossy", "power-all"):
        target, amount = "all", chance.random()
    return Fault(round(at_ms, 1), kind, target, round(for_ms, 1), other, round(amount, 3))


class ControllerCommit(NamedTuple):
    """A transaction that the store took in the name of a controller, and the lease as it was then."""

    controller_epoch: int
    lease_epoch: int
    is_lease_held: bool


class FaultyStore(MemoryStore):
    """A metadata store whose next write may fail, having happened or not. Tells of what it takes (``commits``)."""

    def __init__(self, kept: KeptDocuments, orders: list[str], commits: list[ControllerCommit]) -> None:
        super().__init__(kept)
        self._orders, self._commits = orders, commits

    def _perform(self, operation: Operation, group: Any) -> Outcome:
        lease = self._lease_epoch, self._is_lease_held
        outcome = super()._perform(operation, group)
        if isinstance(operation, Transaction) and isinstance(outcome, Committed):
            epoch = operation.controller_epoch
            self._commits += [ControllerCommit(epoch, *lease)] if epoch is not None and operation.writes else []
        return outcome

    def _persist(self, rows: Sequence[Row], was: int, version: int, next_producer_id: int) -> None:
        order = self._orders.pop(0) if self._orders else ""
        if order == "store-refuses":
            raise StorageError("simulated: the write failed")
        super()._persist(rows, was, version, next_producer_id)
        if order == "store-forgets":
            raise StorageError("simulated: the write failed, it seems")


class Host:
    """Stands in for the host supervisor: starts what has ended, tells the metadata process who has died."""

    LOOK_MS = 10

    def __init__(self, cluster: SimulatedCluster, process: ClientProcess) -> None:
        self._cluster = cluster
        self._process = process
        self._connection = process.transport.connect(METADATA_ENDPOINT, client_id=process.name, on_state=lambda _: None)
        self._due: dict[str, float] = {}  # processes that are down, and when they are started (us)
        self.on_down: Callable[[SimulatedProcess, bool], None] = lambda *_: None  # and whether its machine lost power
        process.loop.call_later(self.LOOK_MS / 1000, self._look)

    def kill(self, name: str, *, back_in_ms: float, power_loss: bool = False, is_noticed: bool = True) -> None:
        if name not in self._cluster.processes:
            return
        process = self._cluster.kill(name, power_loss=power_loss)
        self.on_down(process, power_loss)
        self._due[name] = self._cluster.loop.now_us + back_in_ms * 1000
        if is_noticed and name != METADATA:
            message = end_of_session(process)
            self._process.loop.call_later(
                NOTICE_MS / 1000, self._connection.request, message, lambda *_: None, (), 2_000
            )

    def start_all(self) -> None:
        for name in self._due:
            self._due[name] = 0

    @property
    def is_complete(self) -> bool:
        return not self._due and all(process.is_alive for process in self._cluster.processes.values())

    def _look(self) -> None:
        for name, process in list(self._cluster.processes.items()):
            if not process.is_alive:
                self.kill(name, back_in_ms=RESTART_MS)
        for name, due in list(self._due.items()):
            if due <= self._cluster.loop.now_us:
                del self._due[name]
                self._cluster.restart(name)
        self._process.loop.call_later(self.LOOK_MS / 1000, self._look)


class Nemesis:
    """Commits the faults of a schedule on a cluster and its clients, and undoes all of them in the end."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        network: SimNetwork,
        host: Host,
        clients: dict[str, ClientProcess],
        recorder: Recorder,
        *,
        kill_client: Callable[[str], None],
    ) -> None:
        self._cluster, self._network, self._host = cluster, network, host
        self._clients = clients
        self._recorder = recorder
        self.kill_client = kill_client
        self._loop: SimLoop = cluster.loop
        self.store_orders: list[str] = []
        self.commits: list[ControllerCommit] = []  # taken since somebody looked
        self.sync_ms = 0.0  # what a job of a pool takes beside the least, when nothing is wrong with the disk
        self.committed: list[Fault] = []
        self.begin_chase: Callable[[Fault], None] = lambda _: None
        self.order_elections: Callable[[float], None] = lambda _: None  # unclean ones, for so many ms
        self._is_over = False
        self._latencies: dict[str, float] = {}  # of slow disks, ms
        self._handlers: dict[str, Callable[[Fault], None]] = {
            "kill": lambda fault: self._kill(fault, power_loss=False),
            "kill-metadata": lambda fault: self._kill(fault, power_loss=False),
            "power": lambda fault: self._kill(fault, power_loss=True),
            "power-all": self._power_all,
            "pause": self._pause,
            "cut": lambda fault: self._cut(fault, ((fault.target, fault.other), (fault.other, fault.target))),
            "cut-one-way": lambda fault: self._cut(fault, ((fault.target, fault.other),)),
            "isolate": self._isolate,
            "clog": self._clog,
            "flaky": self._flaky,
            "lossy": self._flaky,
            "slow-disk": self._slow_disk,
            "full-disk": self._full_disk,
            "store-refuses": lambda fault: self.store_orders.append(fault.kind),
            "store-forgets": lambda fault: self.store_orders.append(fault.kind),
            "clock-jump": self._clock_jump,
            "clock-leap": self._clock_jump,
            "elect-unclean": lambda fault: self.order_elections(fault.for_ms),
            "fail-actor": self._fail_actor,
            "sync-error": self._sync_error,
            "kill-client": lambda fault: self.kill_client(fault.target),
            "lag": self._lag,
            "estrange": lambda fault: self.cut_from_servers(fault.target, fault.for_ms),
            **dict.fromkeys(CHASED_HOW, lambda fault: self.begin_chase(fault)),
        }

    def open_store(self) -> DocumentStore:
        return FaultyStore(self._cluster.kept, self.store_orders, self.commits)

    def latency_of(self, name: str) -> Latency:
        """Return how long the pool jobs of a process take, as it is when they are asked for."""

        def latency(chance: random.Random) -> float:
            slow_ms = self._latencies.get(name, self.sync_ms)
            return quick(chance) + (slow_ms * (0.5 + chance.random()) if slow_ms else 0.0)

        return latency

    def arm(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self._loop.call_later(fault.at_ms / 1000, self._commit, fault)

    # -- what a hand can do, at the time of a schedule or when its moment has come ------------------------

    def later(self, for_ms: float, do: Callable[..., object], *args: object) -> None:
        """Do something after a while, unless all is healed by then."""
        self._loop.call_later(for_ms / 1000, self._unless_over, do, args)

    def kill(self, name: str, back_in_ms: float, *, power_loss: bool, is_noticed: bool) -> None:
        self._host.kill(name, back_in_ms=back_in_ms, power_loss=power_loss, is_noticed=is_noticed)

    def pause(self, name: str, for_ms: float) -> None:
        loop = self._loop_of(name)
        if loop is not None and not loop.is_paused:
            loop.pause()
            self._network.fell_asleep(name)
            self._later(for_ms, self.resume, name)

    def resume(self, name: str) -> None:
        loop = self._loop_of(name)
        if loop is not None and loop.is_paused:
            self._network.woke_up(name)
            loop.resume()

    def cut_between(self, one: str, other: str, for_ms: float) -> None:
        self._cut_links(_both_ways(one, [other]), for_ms)

    def cut_from_servers(self, name: str, for_ms: float) -> None:
        """Nobody of the cluster hears of it, or is heard; clients are."""
        self._cut_links(_both_ways(name, [*self._other_brokers(name), METADATA]), for_ms)

    def slow_link(self, source: str, target: str, delay_ms: float, for_ms: float) -> None:
        self._network.qualities[source, target] = LinkQuality(delay_ms=delay_ms, jitter_ms=delay_ms)
        self._later(for_ms, lambda: self._network.qualities.pop((source, target), None))

    def fail_replica(self, name: str, key: PartitionKey) -> None:
        """Let the actor of one replica fail, as by a bug."""
        process = self._cluster.processes.get(name)
        refs: list[LoopRef] = [] if process is None else process.context.directory.refs()
        for ref in refs:
            if isinstance(ref.actor, Replica) and ref.actor.key == key:
                ref.post(Fail())

    def _cut_links(self, links: Sequence[tuple[str, str]], for_ms: float) -> None:
        for source, target in links:
            self._network.cut_link(source, target)
            self._later(for_ms, self._network.heal_link, source, target)

    def _other_brokers(self, name: str) -> list[str]:
        return [one for one in self._cluster.names if one not in (name, METADATA)]

    def _later(self, for_ms: float, undo: Callable[..., object], *args: object) -> None:
        self._loop.call_later(for_ms / 1000, undo, *args)

    def _unless_over(self, do: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self._is_over:
            do(*args)

    def heal(self) -> None:
        """Undo everything: processes run, links carry, disks have room, broken directories were replaced."""
        self._is_over = True
        self._recorder.fault(self._loop.now_us * 1000, "heal")
        self.store_orders.clear()
        self._latencies.clear()
        self._network.heal_all()
        for name in [*self._cluster.processes, *self._clients]:
            self.resume(name)
        for name, disk in list(self._cluster.disks.items()):
            disk.heal()
            disk.capacity_bytes = None
            if _mend(disk) and name in self._cluster.processes:
                self._host.kill(name, back_in_ms=RESTART_MS, power_loss=True)  # what was not synced is not trusted
        self._host.start_all()

    # -- each kind -------------------------------------------------------------------------------------

    def _commit(self, fault: Fault) -> None:
        if self._is_over:
            return
        self.committed.append(fault)
        self._recorder.fault(self._loop.now_us * 1000, f"{fault.kind} {fault.target} {fault.other}".strip())
        self._handlers[fault.kind](fault)

    def _kill(self, fault: Fault, *, power_loss: bool) -> None:
        self.kill(fault.target, fault.for_ms, power_loss=power_loss, is_noticed=bool(fault.amount))

    def _power_all(self, fault: Fault) -> None:
        for name in self._cluster.names:
            self.kill(name, fault.for_ms, power_loss=name != METADATA, is_noticed=False)

    def _pause(self, fault: Fault) -> None:
        self.pause(fault.target, fault.for_ms)

    def _loop_of(self, name: str) -> ProcessLoop | None:
        if name in self._clients:
            return self._clients[name].loop
        process = self._cluster.processes.get(name)
        return None if process is None else process.loop

    def _cut(self, fault: Fault, links: Sequence[tuple[str, str]]) -> None:
        self._cut_links(links, fault.for_ms)

    def _isolate(self, fault: Fault) -> None:
        others = [name for name in [*self._cluster.names, *self._clients] if name != fault.target]
        self._cut_links(_both_ways(fault.target, others), fault.for_ms)

    def _clog(self, fault: Fault) -> None:
        self.slow_link(fault.target, fault.other, fault.amount, fault.for_ms)

    def _lag(self, fault: Fault) -> None:
        for source, target in _both_ways(fault.target, self._other_brokers(fault.target)):
            self.slow_link(source, target, fault.amount, fault.for_ms)

    def _flaky(self, fault: Fault) -> None:
        bad = 0.01 + 0.05 * fault.amount
        how = {"loss": bad} if fault.kind == "lossy" else {"reset": bad}
        self._network.quality = LinkQuality(delay_ms=0.2, jitter_ms=2.0, **how)
        self._later(fault.for_ms, self._calm)

    def _calm(self) -> None:
        self._network.quality = self._network.normal

    def _slow_disk(self, fault: Fault) -> None:
        self._latencies[fault.target] = fault.amount
        self._later(fault.for_ms, lambda: self._latencies.pop(fault.target, None))

    def _full_disk(self, fault: Fault) -> None:
        disk = self._cluster.disks.get(fault.target)
        if disk is not None:
            disk.capacity_bytes = disk.used_bytes() + int(1_000 * fault.amount)
            self._later(fault.for_ms, self._make_room, fault.target)

    def _make_room(self, name: str) -> None:
        self._cluster.disks[name].capacity_bytes = None

    def _clock_jump(self, fault: Fault) -> None:
        process = self._cluster.processes.get(fault.target)
        if process is not None:
            process.clock.wall_offset_ms += int(fault.amount)

    def _fail_actor(self, fault: Fault) -> None:
        process = self._cluster.processes.get(fault.target)
        refs: list[LoopRef] = [] if process is None else process.context.directory.refs()
        if refs:
            refs[min(int(fault.amount * len(refs)), len(refs) - 1)].post(Fail())

    def _sync_error(self, fault: Fault) -> None:
        if any(one.kind == fault.kind and one.target != fault.target for one in self.committed):
            return  # one broken disk is enough: a good copy stays
        disk = self._cluster.disks.get(fault.target)
        if disk is not None:
            disk.fail("datasync", errno.EIO, path_contains=".log")


def _both_ways(name: str, others: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, other) for other in others] + [(other, name) for other in others]


def _mend(disk: SimDisk) -> bool:
    """Remove the marks of directories that were given up, as a person does who has replaced the disk; False: none."""
    marks = [path for path in disk.paths() if path.rpartition("/")[2] == FAILED_FILE]
    for path in marks:
        disk.erase(path)
    return bool(marks)
