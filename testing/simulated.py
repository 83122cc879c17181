"""A whole cluster in one thread: the real actors, rules and storage on a loop with virtual time.

    cluster = SimulatedCluster(brokers=2)
    cluster.start()
    cluster.crash("broker-1"); cluster.restart("broker-1")

Each process has its own context (clock, chance, files, pool); they share one loop and one network in memory. The
trees are those of ``actors/tree.py``: nothing is built specially for the simulation but the seams.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ..actors.context import Context
from ..actors.metadata.branch import metadata_branch
from ..actors.runtime import LoopRef
from ..actors.tree import broker_branch
from ..config import BrokerSettings, ClusterConfig, ProcessOptions
from ..errors import CallboardError
from ..storage.metadata_store import DocumentStore, Row, StoredDocument
from ..transport import messages as m
from ..transport.seam import Connection
from .context import sim_context
from .disk import SimDisk
from .loop import SimLoop
from .machine import ProcessClock, ProcessLoop, ProcessPool
from .network import SimNetwork
from .transport import LoopbackNetwork

METADATA = "metadata"
METADATA_ENDPOINT = "ipc:///sim/metadata.sock"
PORT = 9_192


class KeptDocuments:
    """What a metadata store's file holds; survives the process."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.version = 0
        self.next_producer_id = 0


class MemoryStore(DocumentStore):
    """A document store over ``KeptDocuments``."""

    def __init__(self, kept: KeptDocuments) -> None:
        super().__init__()
        self._kept = kept

    def _read(self) -> tuple[list[StoredDocument], int, int]:
        documents = [
            StoredDocument(row.key, row.version, msgspec.json.decode(row.value))
            for row in self._kept.rows.values()
            if row.value is not None
        ]
        return documents, self._kept.version, self._kept.next_producer_id

    def _persist(self, rows: Sequence[Row], was: int, version: int, next_producer_id: int) -> None:
        self._kept.rows.update((row.key, row) for row in rows)
        self._kept.version, self._kept.next_producer_id = version, next_producer_id


class SimulatedProcess:
    """One life of a process: its loop, clock, pool, and the root of its tree."""

    def __init__(
        self, options: ProcessOptions, context: Context, loop: ProcessLoop, clock: ProcessClock, pool: ProcessPool
    ) -> None:
        self.options = options
        self.context = context
        self.loop = loop
        self.clock = clock
        self.pool = pool
        self.root: LoopRef | None = None

    @property
    def is_alive(self) -> bool:
        return self.root is not None and self.root.is_alive()


def end_of_session(process: SimulatedProcess) -> m.EndSessionRequest:
    """Return what a host supervisor tells the metadata process about a broker process that has died."""
    return m.EndSessionRequest(name=process.options.name, incarnation=process.options.incarnation, reason="killed")


class SimulatedCluster:
    """See the top of the file. Everything is deterministic: the same seed and calls, the same run."""

    def __init__(
        self,
        brokers: int = 1,
        *,
        seed: int = 0,
        config: ClusterConfig | None = None,
        loop: SimLoop | None = None,
        network: LoopbackNetwork | None = None,
    ) -> None:
        self.loop = loop or SimLoop(seed)
        self.network = network or LoopbackNetwork()
        self.config = config or ClusterConfig(
            brokers=brokers, data_dir="/data", broker=BrokerSettings(offsets_topic_ahead_ms=0)
        )
        self.processes: dict[str, SimulatedProcess] = {}
        self.disks: dict[str, SimDisk] = {}
        self.lives: dict[str, int] = {}  # how often each process was started
        self.boots: dict[str, int] = {}  # how often the machine of each has lost power: one machine a process
        self.rates: dict[str, float] = {}  # of clocks, where it is not 1: a machine's, so of all lives of its process
        self.kept = KeptDocuments()
        self.open_store: Callable[[], DocumentStore] = lambda: MemoryStore(self.kept)
        self.on_process: Callable[[SimulatedProcess], None] = lambda _: None  # sees each new life before it runs
        self._seed = seed
        self.names = [METADATA, *(f"broker-{number}" for number in range(1, self.config.brokers + 1))]

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> SimulatedCluster:
        """Start every process and run until each broker has its session."""
        for name in self.names:
            self.restart(name)
        self.run_until(lambda: self._live_brokers() == self.config.brokers)
        return self

    def restart(self, name: str) -> SimulatedProcess:
        """Start a process that is not running: a new life over the same files."""
        life = self.lives[name] = self.lives.get(name, 0) + 1
        number = self.names.index(name)
        options = ProcessOptions(
            name=name,
            cluster=self.config,
            incarnation=f"{name}-life-{life}",
            run_dir="/sim",
            broker_id=number if name != METADATA else -1,
            port=PORT + number - 1 if name != METADATA else 0,
            metadata_endpoint=METADATA_ENDPOINT,
        )
        process = self.processes[name] = self._new_life(options, life)
        self.on_process(process)
        if name == METADATA:
            spec = metadata_branch(options, process.context, open_store=lambda: self.open_store())
        else:
            spec = broker_branch(options, process.context)
        process.root = spec.start(process.context, name, None)
        return process

    def _new_life(self, options: ProcessOptions, life: int) -> SimulatedProcess:
        name = options.name
        rate = self.rates.get(name, 1.0)
        loop = ProcessLoop(self.loop, name, rate=rate)
        clock = ProcessClock(self.loop, rate=rate)
        pool = ProcessPool(loop, random.Random(f"{self._seed}/{name}/{life}/pool"))
        transport = self.network.transport(loop, clock, owner=name, seed=f"{self._seed}/{name}/{life}")
        context = sim_context(
            self._seed,
            f"{name}/{life}",
            loop=self.loop,
            files=self.disks.setdefault(name, SimDisk()),
            clock=clock,
            pool=pool,
            transport=transport,
        )
        context = replace(context, loop=loop, boot=f"boot-{self.boots.get(name, 0)}")
        return SimulatedProcess(options, context, loop, clock, pool)

    def kill(self, name: str, *, power_loss: bool = False) -> SimulatedProcess:
        """End a process as SIGKILL does: nothing of it runs any more, nothing is said; its page cache survives.

        With ``power_loss`` its disk loses what was not synced, as the seed will have it.
        """
        process = self.processes.pop(name)
        process.loop.kill()
        if not isinstance(self.network, SimNetwork):
            process.context.transport.close()
        elif power_loss:
            self.network.vanished(name)
        else:
            self.network.hung_up(name)
        self.boots[name] = self.boots.get(name, 0) + power_loss
        disk = self.disks[name]
        self.disks[name] = disk.crash(f"{self._seed}/{name}/{self.lives[name]}") if power_loss else disk.kill()
        return process

    def crash(self, name: str, *, power_loss: bool = False) -> None:
        """``kill``, and what the host supervisor does at once when the sentinel fires: end the broker's session."""
        process = self.kill(name, power_loss=power_loss)
        if name != METADATA:
            self.ask(METADATA_ENDPOINT, end_of_session(process))

    # -- asking --------------------------------------------------------------------------------------

    def ask(self, endpoint: str, request: m.Request, payload: Sequence[bytes] = ()) -> Any:
        """Return the reply to one request, made over a connection of its own."""
        context = sim_context(self._seed, "asker", loop=self.loop)
        loop = ProcessLoop(self.loop, "asker")
        transport = self.network.transport(loop, context.clock, owner="asker")
        connection: Connection = transport.connect(endpoint, client_id="test", on_state=lambda _: None)
        answers: list[Any] = []
        connection.request(request, lambda reply, frames: answers.append((reply, frames)), payload)
        self.run_until(lambda: answers)
        transport.close()
        reply, frames = answers[0]
        if isinstance(reply, CallboardError):
            raise reply
        return (reply, frames) if frames else reply

    def client_endpoint(self, broker_id: int) -> str:
        return f"tcp://127.0.0.1:{PORT + broker_id - 1}"

    def metadata(self, broker_id: int = 1) -> m.MetadataReply:
        reply: m.MetadataReply = self.ask(self.client_endpoint(broker_id), m.MetadataRequest())
        return reply

    def create_topic(
        self, name: str, partitions: int = 1, *, replication_factor: int = 1, **configs: Any
    ) -> m.TopicMetadata:
        """Create a topic and run until every partition has a leader; return its metadata."""
        new = m.NewTopic(name=name, num_partitions=partitions, replication_factor=replication_factor, configs=configs)
        self.run_until(lambda: self.metadata().controller_id >= 0)
        controller = self.client_endpoint(self.metadata().controller_id)
        reply = self.ask(controller, m.CreateTopicsRequest(topics=[new]))
        result = reply.topics[0]
        if result.error:
            raise CallboardError(f"{name}: {result.detail}")
        return self.wait_for_leaders(name)

    def wait_for_leaders(self, name: str) -> m.TopicMetadata:
        found: list[m.TopicMetadata] = []

        def all_lead() -> bool:
            found[:] = [topic for topic in self.metadata().topics if topic.name == name]
            return bool(found) and bool(found[0].partitions) and all(p.leader >= 0 for p in found[0].partitions)

        self.run_until(all_lead)
        return found[0]

    # -- time ----------------------------------------------------------------------------------------

    def run_until(self, condition: Callable[[], object], timeout_ms: float = 60_000) -> None:
        """Let virtual time pass until ``condition()`` holds; it is looked at every millisecond and may ask itself."""
        for _ in range(int(timeout_ms)):
            self.loop.run_until_idle()
            if condition():
                return
            self.loop.advance(1)
        raise TimeoutError(f"the condition did not come to hold within {timeout_ms} ms of virtual time")

    def _live_brokers(self) -> int:
        if not all(self.processes[name].context.directory.find(f"{name}/router") for name in self.names[1:]):
            return 0
        reply = self.ask(METADATA_ENDPOINT, m.StoreLoadRequest())
        return sum(document.key.startswith("session/broker-") for document in reply.documents)
