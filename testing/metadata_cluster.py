"""A metadata process and the controllers of some brokers, in memory, on one loop of virtual time.

    cluster = MetadataCluster()
    cluster.start_metadata()
    cluster.start_broker(1)
    cluster.settle()
    reply = cluster.ask_controller(CreateTopicsRequest(...))

Each process has its own context (names, directory of actors, transport) on the shared loop and network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..actors.context import Context
from ..actors.controller.controller import ACTIVE, AdminCommand, Controller
from ..actors.controller.image import ClusterImage
from ..actors.metadata.client import MetadataChanged, MetadataClient
from ..actors.metadata.server import MetadataServer
from ..actors.runtime import LoopRef
from ..config import BrokerSettings, ClusterConfig
from ..errors import CallboardError, IllegalStateError
from ..transport import messages as m
from ..transport.seam import Connection
from .context import sim_context
from .loop import SimClock, SimLoop
from .metadata import MemoryDisk, MemoryStore
from .probe import Probe, probe
from .transport import LoopbackNetwork, LoopbackTransport

ENDPOINT = "tcp://127.0.0.1:9190"
A = TypeVar("A")


class BrokerInMemory:
    """The metadata side of one broker: its client, its controller, and a probe that hears what they publish."""

    def __init__(self, cluster: MetadataCluster, broker_id: int, incarnation: str) -> None:
        self.broker_id, self.name = broker_id, f"broker-{broker_id}"
        self.incarnation = incarnation
        self.context = cluster.context(self.name)
        self.probe: Probe = probe(self.context)
        self.client_ref = MetadataClient.start(
            self.context,
            f"{self.name}/metadata",
            endpoint=ENDPOINT,
            session_name=self.name,
            incarnation=incarnation,
            document={
                "kind": "broker",
                "broker_id": broker_id,
                "endpoints": [f"tcp://127.0.0.1:{9_191 + broker_id}"],
                "machine": "m",
                "host": "h",
            },
            settings=cluster.config.broker,
            subscribers=[self.probe.actor_ref],
        )
        self.controller_ref = self.start_controller(cluster.config)

    def start_controller(self, config: ClusterConfig) -> LoopRef:
        self.controller_ref = Controller.start(
            self.context,
            f"{self.name}/controller",
            config=config,
            client_address=f"{self.name}/metadata",
        )
        return self.controller_ref

    @property
    def client(self) -> MetadataClient:
        return _actor(self.client_ref, MetadataClient)

    @property
    def controller(self) -> Controller:
        return _actor(self.controller_ref, Controller)

    @property
    def image(self) -> ClusterImage:
        """The last picture that was published."""
        pictures = self.probe.all_of(MetadataChanged)
        return pictures[-1].image if pictures else ClusterImage.empty()

    def die(self) -> None:
        """End at once, without a word, as kill -9 does."""
        for ref in (self.controller_ref, self.client_ref):
            ref.kill(RuntimeError("kill -9"))


class MetadataCluster:
    """See the top of the file."""

    def __init__(self, seed: int = 0, *, settings: BrokerSettings | None = None, shuffle: bool = False) -> None:
        self.seed = seed
        self.loop = SimLoop(seed, shuffle=shuffle)
        self.clock = SimClock(self.loop)
        self.network = LoopbackNetwork()
        self.disk = MemoryDisk()
        self.config = ClusterConfig(broker=settings or BrokerSettings(offsets_topic_ahead_ms=0))
        self.brokers: dict[int, BrokerInMemory] = {}
        self.metadata_ref: LoopRef | None = None
        self._lives = 0
        self._asked: Connection | None = None

    def context(self, name: str) -> Context:
        """Return the context of another process: its own actors, transport and identifiers."""
        self._lives += 1
        transport = LoopbackTransport(self.loop, self.clock, network=self.network, seed=self._lives)
        life = f"{name}#{self._lives}"
        return sim_context(self.seed, life, loop=self.loop, transport=transport)

    # -- processes -------------------------------------------------------------------------------------

    def start_metadata(self, **options: Any) -> LoopRef:
        options.setdefault("open_store", lambda: MemoryStore(self.disk))
        context = self.context("metadata")
        self.metadata_ref = MetadataServer.start(
            context, "metadata", binds=[ENDPOINT], incarnation=context.name, settings=self.config.broker, **options
        )
        return self.metadata_ref

    def kill_metadata(self) -> None:
        """End the metadata process at once; what its disk has, it has."""
        if self.metadata_ref is None:
            raise IllegalStateError("the metadata process was not started")
        self.metadata_ref.kill(RuntimeError("kill -9"))
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        if self.disk.owner is not None:
            self.disk.owner.close()

    def start_broker(self, broker_id: int, incarnation: str = "") -> BrokerInMemory:
        self.brokers[broker_id] = BrokerInMemory(self, broker_id, incarnation or f"b{broker_id}.{self._lives}")
        return self.brokers[broker_id]

    def start(self, brokers: int = 3) -> MetadataCluster:
        """Start everything, and let it settle."""
        self.start_metadata()
        for broker_id in range(1, brokers + 1):
            self.start_broker(broker_id)
        self.run_until(lambda: self.active is not None and len(self.active.image.brokers) == brokers)
        return self

    # -- time ------------------------------------------------------------------------------------------

    def advance(self, ms: float) -> None:
        self.loop.advance(ms)

    def settle(self, ms: float = 50) -> None:
        """Let what is under way end."""
        self.loop.advance(ms)

    def run_until(self, condition: Callable[[], object], timeout_ms: float = 30_000) -> None:
        self.loop.run_until(condition, timeout_ms)

    # -- questions -------------------------------------------------------------------------------------

    @property
    def active(self) -> BrokerInMemory | None:
        """The broker whose controller is active, if any: of two that believe it, the one of the later epoch."""
        alive = [one for one in self.brokers.values() if one.controller_ref.is_alive()]
        active = [one for one in alive if one.controller.role == ACTIVE]
        return max(active, key=lambda one: one.controller.controller_epoch, default=None)

    @property
    def image(self) -> ClusterImage:
        """What the disk holds, as a picture."""
        documents = MemoryStore.documents_of(self.disk)
        return ClusterImage.of(self.disk.version, documents)

    def ask_store(self, request: m.Request, timeout_ms: int = 5_000) -> m.Reply:
        """Ask the metadata process over a connection of the test's own."""
        if self._asked is None:
            transport = self.context("test").transport
            self._asked = transport.connect(ENDPOINT, client_id="test", on_state=lambda _: None)
        answers: list[m.Reply | CallboardError] = []
        self._asked.request(request, lambda answer, _: answers.append(answer), timeout_ms=timeout_ms)
        self.run_until(lambda: answers)
        return _reply(answers[0])

    def command(self, broker_id: int, request: m.Request, **options: Any) -> list[m.Reply]:
        """Give a broker's controller a command; the list gets the reply when it comes."""
        replies: list[m.Reply] = []
        self.brokers[broker_id].controller_ref.post(AdminCommand(request, replies.append, **options))
        return replies

    def ask_controller(self, request: m.Request, **options: Any) -> Any:
        """Ask the active controller and wait for its reply."""
        active = self.active
        if active is None:
            raise IllegalStateError("no controller is active")
        replies = self.command(active.broker_id, request, **options)
        self.run_until(lambda: replies)
        return replies[0]

    def create_topic(self, name: str, partitions: int = 1, replication_factor: int = 1) -> m.TopicResult:
        wish = m.NewTopic(name=name, num_partitions=partitions, replication_factor=replication_factor)
        reply = self.ask_controller(m.CreateTopicsRequest(topics=[wish]))
        result: m.TopicResult = reply.topics[0]
        if result.error:
            raise IllegalStateError(f"{name}: {result.detail}")
        return result


def _actor(ref: LoopRef, kind: type[A]) -> A:
    actor = ref.actor
    if not isinstance(actor, kind):
        raise IllegalStateError(f"{ref} has ended")
    return actor


def _reply(answer: m.Reply | CallboardError) -> m.Reply:
    if isinstance(answer, CallboardError):
        raise answer
    return answer
