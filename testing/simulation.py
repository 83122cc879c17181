"""One seed, one run: a cluster, clients, faults, laws, a verdict.

    outcome = run_seed(7)
    print(outcome.report())

A run has two phases. *Safety*: whatever the schedule says goes wrong; laws are checked after each step, nothing is
expected of progress. *Liveness*: everything is healed, and within ``HEALED_MS`` every partition must be led and
fully in sync, every record sent have its outcome, and a reader who begins at the beginning have read all that was
acknowledged. Then the whole history is judged, and the replicas are compared.

Everything in it is a function of (profile, seed, schedule): the same run, to the byte, on any machine. ``digest`` is
made of all that was delivered, when and in which order, and of the history.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..actors.controller.controller import Controller
from ..actors.controller.leadership import UNCLEAN
from ..actors.groups.coordinator import Coordinator
from ..actors.metadata.documents import PartitionDocument
from ..actors.partition.replica import Replica
from ..client.config import ConsumerConfig
from ..errors import CallboardError
from ..model import OFFSETS_TOPIC, PartitionKey, TopicId, TopicPartition
from ..transport.messages import CreateTopicsRequest, ElectLeadersRequest, NewTopic, ProduceReply, Request
from ..transport.seam import Connection
from .chase import Chases
from .clients import ClientProcess, Load, SimConsumer, SimProducer
from .group_laws import GroupLaws
from .group_simulation import BESIDE, GroupRun, GroupRuns, differing_latest, member_names, offsets_topic_with
from .growth import Growth
from .history import Anomaly, anomalies, divergences, internals, stalls
from .knobs import Knobs
from .laws import LawBroken, Laws, same_logs
from .loop import SimLoop
from .losses import without_losses
from .machine import ProcessLoop
from .nemesis import Fault, Host, Nemesis, schedule
from .network import LinkQuality, SimNetwork
from .observing import Observer, ReplicaView, StoreObserver, controller_epoch_of, controller_of, groups_of, topics_of
from .profiles import ORDERED_ERRORS, PROFILES, Profile
from .recording import Recorder
from .simulated import METADATA, METADATA_ENDPOINT, SimulatedCluster, SimulatedProcess
from .transport import LoopbackServer

TOPIC = "orders"
HEALED_MS = 30_000  # of virtual time from the healing of everything until everything must be well
LOOK_MS = 20
ORDER_AGAIN_MS = 200.0
FINAL = "final"
FAILURES_SHOWN = 8  # of one run


@dataclass
class Outcome:
    """What came of a run. ``failures`` empty: nothing that must not happen has happened."""

    seed: int
    profile: str
    faults: list[Fault]
    failures: list[Anomaly] = field(default_factory=list)
    digest: str = ""
    acked: int = 0
    unknown: int = 0
    failed: int = 0
    steps: int = 0
    checks: int = 0
    losses: int = 0  # that nobody is to be blamed for
    virtual_ms: float = 0.0
    events: list[bytes] = field(default_factory=list)
    resets: list[str] = field(default_factory=list)  # of members, by the watchdog: what was logged

    @property
    def is_good(self) -> bool:
        return not self.failures

    def report(self, faults_before: int = 0) -> str:
        """Return what failed, what had been done to the cluster, and how to see it again."""
        lines = [f"seed {self.seed}, profile {self.profile}: FAILED"]
        for failure in self.failures[:FAILURES_SHOWN]:
            where = f" {failure.partition.topic}-{failure.partition.partition}" if failure.partition else ""
            lines.append(f"  {failure.name}{where}: {failure.detail}")
        if len(self.failures) > FAILURES_SHOWN:
            lines.append(f"  and {len(self.failures) - FAILURES_SHOWN} more")
        lines.append(f"  faults ({len(self.faults)} of {faults_before or len(self.faults)} are enough):")
        lines += [f"  {fault}" for fault in self.faults]
        lines.append(f"again: make simulate SEED={self.seed} PROFILE={self.profile}")
        return "\n".join(lines)


def run_seed(seed: int, profile: str | Profile = "default", faults: Sequence[Fault] | None = None) -> Outcome:
    """Run one seed; with ``faults`` instead of those that the seed would choose."""
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    return Simulation(seed, chosen, faults).run()


def shrink(outcome: Outcome, profile: str | Profile, tries_max: int = 100) -> Outcome:
    """Return a failing run with as few faults as it needs to fail in the same way: halves, then single ones go."""
    names = {failure.name for failure in outcome.failures}
    best, tries = outcome, 0
    size = max(1, len(outcome.faults) // 2)
    while size:
        at = 0
        while at < len(best.faults) and tries < tries_max:
            tries += 1
            attempt = run_seed(outcome.seed, profile, [*best.faults[:at], *best.faults[at + size :]])
            if names & {failure.name for failure in attempt.failures}:
                best = attempt
            else:
                at += size
        size = size // 2 if tries < tries_max else 0
    return best


class Simulation:
    """One run. See the top of the file."""

    def __init__(self, seed: int, profile: Profile, faults: Sequence[Fault] | None = None) -> None:
        self.seed, self.profile = seed, profile
        self.chance = random.Random(f"knobs/{profile.name}/{seed}")
        self.loop = SimLoop(seed, shuffle=self.chance.random() < 0.5)
        self.network = SimNetwork(self.loop, seed)
        self.recorder = Recorder()
        self.laws, self.group_laws = Laws(), GroupLaws()
        self.observer, self.store = Observer(), StoreObserver()
        self.log: list[str] = []  # of elections that may lose something
        self.errors: list[str] = []
        self.clients: dict[str, ClientProcess] = {}
        self.producers: list[SimProducer] = []
        self.consumers: list[SimConsumer] = []
        self.groups: GroupRuns | None = None
        self.topics: dict[str, str] = {}  # that clients use: id -> name
        self.keys = [TopicPartition(TOPIC, number) for number in range(profile.partitions)]  # their partitions
        self._admin: list[Connection] = []
        self._growth = Growth(f"{profile.name}/{seed}", self.loop, self._ask_brokers, self._counts, self._on_grown)
        self.knobs = Knobs(profile, self.chance, lambda number: self.cluster.client_endpoint(number))
        self.cluster = SimulatedCluster(seed=seed, config=self.knobs.cluster(), loop=self.loop, network=self.network)
        rates = random.Random(f"rates/{profile.name}/{seed}")
        self.cluster.rates = {name: rates.choice(profile.clock_rates) for name in self.cluster.names}
        self.network.expect(METADATA_ENDPOINT, METADATA)
        for number in range(1, profile.brokers + 1):
            self.network.expect(self.cluster.client_endpoint(number), f"broker-{number}")
        self.topic_configs = self.knobs.topic()
        self.brokers = self.cluster.names[1:]
        client_names = [f"producer-{one + 1}" for one in range(profile.producers)]
        client_names += [f"consumer-{one + 1}" for one in range(profile.consumers)]
        client_names += member_names(profile.members)
        if faults is None:
            faults = schedule(
                f"{profile.name}/{seed}",
                brokers=self.brokers,
                clients=client_names,
                span_ms=profile.safety_ms,
                kinds=profile.kinds,
                replication_factor=profile.replication_factor,
                partitions=profile.partitions,
            )
        self.faults = list(faults)
        self.host = Host(self.cluster, self._client("host"))
        self.host.on_down = self._on_down
        self.nemesis = Nemesis(
            self.cluster, self.network, self.host, self.clients, self.recorder, kill_client=self._kill_client
        )
        self.chases = Chases(
            seed,
            self.nemesis,
            views_of=self.laws.live_views,
            document_of=self.laws.documents.get,
            controller_of=lambda: controller_of(self.cluster.kept),
        )
        self.nemesis.begin_chase = self.chases.begin
        self.nemesis.order_elections = self._order_elections
        self.nemesis.sync_ms = self.chance.choice((0.0, 2.0, 15.0))
        delay_ms = self.chance.choice((0.1, 0.1, 1.0, 8.0))
        self.network.normal = self.network.quality = LinkQuality(delay_ms=delay_ms, jitter_ms=delay_ms)
        self.cluster.open_store = self.nemesis.open_store
        self.cluster.on_process = self._on_process
        self.network.on_acked = self._on_acked

    # -- the run ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        outcome = Outcome(self.seed, self.profile.name, self.faults)
        with _listening(self.log, self.errors, outcome.resets), offsets_topic_with(self.profile.offsets_configs):
            try:
                self._start()
                self._hurt()
                outcome.failures += self._judge(self._heal())
            except LawBroken as broken:
                outcome.failures.append(Anomaly(broken.law, None, str(broken)))
            except _NotConverged as late:
                outcome.failures.append(Anomaly("stuck", None, str(late)))
            finally:
                if self.groups is not None:
                    self.groups.end()
        outcome.failures += internals(line for line in self.errors if not self._was_ordered(line))
        self._count(outcome)
        return outcome

    def _start(self) -> None:
        for name in self.cluster.names:
            self.cluster.restart(name)
        self._create_topic()
        for number in range(self.profile.producers):
            self._start_producer(f"producer-{number + 1}", number + 1)
        for number in range(self.profile.consumers):
            self._start_consumer(f"consumer-{number + 1}")
        if self.profile.members:
            self._start_group()

    def _start_group(self) -> None:
        profile, seed = self.profile, f"{self.profile.name}/{self.seed}"
        counts = {"member": profile.members, BESIDE: profile.members_beside}
        of_all = (self.loop, self.recorder, TOPIC, profile.partitions, self._client, self.knobs.client())
        share = profile.pattern_share
        runs = {called: GroupRun(seed, *of_all, called, share) for called, count in counts.items() if count}
        self.groups = GroupRuns(runs.values())
        begun_us = self.loop.now_us
        for called, run in runs.items():
            run.start(counts[called], profile.safety_ms, profile.static_share)
        self._wait_for(lambda: self._is_led() or self._group_is_unknown(), begun_us)

    def _group_is_unknown(self) -> str:
        """The topic of offsets is made while nothing fails, as the other one is."""
        return "" if self.groups is not None and self.groups.has_answer else "the group has no coordinator"

    def _hurt(self) -> None:
        self.nemesis.arm(self.faults)
        if self.profile.added_partitions:
            self._growth.begin(self._new_topic(), self.profile.added_partitions, self.profile.safety_ms)
        self._run_for(self.profile.safety_ms)

    def _heal(self) -> tuple[int, int]:
        """Heal everything and wait until all is well; return when that was done, and when everything was read."""
        self.nemesis.heal()
        healed_us = self.loop.now_us
        if self.groups is not None:
            self.groups.heal()
        self._wait_for(lambda: self._growth.missing, healed_us)
        self._run_for(500)
        for producer in self.producers:
            producer.stop()
        self._wait_for(self._is_settled, healed_us)
        final = self._start_consumer(FINAL, config=ConsumerConfig(auto_offset_reset="earliest", **self.knobs.client()))

        def has_read_all() -> str:
            """What is committed may still grow: copies of requests come late."""
            for place, committed in self._ends().items():
                end = max([committed, *(one.position(place) for one in self.consumers)])
                if final.position(place) < end:
                    return (
                        f"the final reader is at {final.position(place)} of partition {place.partition}, not at {end}"
                    )
            return ""

        self._wait_for(has_read_all, healed_us)
        read_us = self.loop.now_us
        if (groups := self.groups) is not None:
            self._wait_for(lambda: groups.missing(self._ends()), healed_us, lambda: groups.progress)
        return healed_us, read_us

    def _ends(self) -> dict[TopicPartition, int]:
        """Return where what is committed ends, of each partition of the topics that clients use."""
        ghosts = self.laws.ghosts.items()
        return {self._place(key): ghost.end_offset for key, ghost in ghosts if key.topic_id in self.topics}

    def _place(self, key: PartitionKey) -> TopicPartition:
        return TopicPartition(self.topics.get(key.topic_id, OFFSETS_TOPIC), key.partition)

    def _judge(self, healthy_us: tuple[int, int]) -> list[Anomaly]:
        history = self.recorder.history(finals=[FINAL])
        views = list(self._views())
        history.starts = {self._place(view.key): view.log_start_offset for view in views if view.is_leader}
        losses = self.laws.losses
        found = anomalies(without_losses(history, losses.found, TOPIC, FINAL) if losses.found else history)
        found += [Anomaly("untold-loss", None, str(loss)) for loss in losses.untold(self.log)]
        logs = {self._place(key): held for key, held in same_logs(views).items()}
        found += divergences(logs)
        found += stalls(history, [(healthy_us[0] * 1000, healthy_us[1] * 1000)], HEALED_MS * 1_000_000)
        for consumer in self.consumers:
            found += [Anomaly("internal", None, f"{consumer.process.name}: {text}") for text in consumer.problems]
        if self.groups is not None:
            found += self.groups.judge()
            ends = {view.key: view.high_watermark for view in views if view.is_leader}
            found += differing_latest(self._replicas(), self.observer, ends)
        return found

    def _was_ordered(self, line: str) -> bool:
        """Say whether an error in the log is what the faults that were committed must bring."""
        kinds = {fault.kind for fault in self.nemesis.committed}
        return any(kind in kinds and word in line for kind, word in ORDERED_ERRORS)

    def _count(self, outcome: Outcome) -> None:
        sends = self.recorder.history().sends
        outcome.acked = sum(send.outcome == "ok" for send in sends)
        outcome.unknown = sum(send.outcome == "info" for send in sends)
        outcome.failed = len(sends) - outcome.acked - outcome.unknown
        outcome.steps, outcome.checks = self.loop.steps, self.laws.checks
        outcome.losses = len(self.laws.losses.found)
        outcome.virtual_ms = self.loop.now_us / 1000
        outcome.events = self.recorder.lines()
        digest = hashlib.blake2b(digest_size=8)
        digest.update(f"{self.network.digest} {self.loop.steps} {self.loop.now_us}".encode())
        for line in outcome.events:
            digest.update(line)
        outcome.digest = digest.hexdigest()

    # -- clients -----------------------------------------------------------------------------------------

    def _client(self, name: str) -> ClientProcess:
        process = self.clients[name] = ClientProcess(name, self.loop, self.network, self.seed)
        return process

    def _start_producer(self, name: str, number: int, load: Load | None = None) -> SimProducer:
        load = load or Load(TOPIC, self.profile.partitions, self.chance.choice((20.0, 60.0, 150.0)))
        producer = SimProducer(self._client(name), number, self.recorder, load, self.knobs.producer())
        self.producers.append(producer)
        producer.start()
        return producer

    def _start_consumer(self, name: str, config: ConsumerConfig | None = None) -> SimConsumer:
        consumer = SimConsumer(
            self._client(name),
            self.recorder,
            self.keys,
            config or self.knobs.consumer(),
            poll_records_max=self.chance.choice((1, 7, 500)),
        )
        self.consumers.append(consumer)
        return consumer

    def _kill_client(self, name: str) -> None:
        """A client dies; another one begins in its place, under another name: its process is another one."""
        if self.groups is not None:
            name = self.groups.present(name)
        process = self.clients.get(name)
        if process is None or process.loop.is_dead:
            return  # it has not come yet, or is gone
        process.loop.kill()
        self.network.hung_up(name)
        self.recorder.add(self.loop.now_us * 1000, name, "info", "crash")
        if self.groups is not None and name.startswith("member"):
            self.groups.kill(name)
            return
        born = f"{name}-again"
        if born in self.clients:
            return
        if name.startswith("producer"):
            self.producers = [one for one in self.producers if one.process is not process]
            self._start_producer(born, 100 + len(self.clients))
        else:
            self.consumers = [one for one in self.consumers if one.process is not process]
            self._start_consumer(born)

    # -- looking on --------------------------------------------------------------------------------------

    def _on_process(self, process: SimulatedProcess) -> None:
        name = process.options.name
        process.pool.latency = self.nemesis.latency_of(name)
        if name != METADATA:
            self.laws.losses.on_life(process.options.broker_id, process.options.incarnation)

        def on_ran(_: ProcessLoop, callback: Callable[..., Any]) -> None:
            actor: Any = getattr(callback, "__self__", None)
            kind = type(actor)  # none of them has subclasses, and to ask an abstract class each time takes long
            if kind is Replica:
                self._look_at(process, actor)
            elif kind is Coordinator:
                for state, group in groups_of(actor):
                    self.group_laws.on_group(state, group)
                    self.chases.on_group(process, group)
            elif kind is Controller:
                self.chases.on_controller(process, actor)
            elif name == METADATA and self.store.has_news(self.cluster.kept):
                self._look_at_store()

        process.loop.on_ran = on_ran

    def _look_at(self, process: SimulatedProcess, actor: Replica) -> None:
        view = self.observer.look(process, actor)
        if view is None:
            self.laws.on_replica_down(actor.key, process.options.broker_id)
        elif view != self.laws.views.get((view.key, view.broker)):
            self.laws.on_replica(view)
            self.chases.on_view(view)

    def _look_at_store(self) -> None:
        epoch = controller_epoch_of(self.cluster.kept)
        self.laws.on_controller_epoch(epoch)
        self.chases.on_lease(epoch)
        commits, self.nemesis.commits[:] = list(self.nemesis.commits), []
        for commit in commits:
            self.laws.on_controller_commit(*commit)
        for key, document in self.store.changed(self.cluster.kept):
            self.laws.on_document(key, document)

    def _on_acked(self, server: LoopbackServer, reply: ProduceReply) -> None:
        for entry in reply.entries:
            if not entry.error:
                key = PartitionKey(TopicId(entry.topic_id), entry.partition)
                self.laws.on_ack(_number_of(server.owner), key, entry.leader_epoch, entry.base_offset)

    def _on_down(self, process: SimulatedProcess, has_lost_power: bool) -> None:
        options = process.options
        if options.name != METADATA:
            life = options.incarnation if has_lost_power else ""
            self.laws.on_broker_down(options.broker_id, power_lost_in=life)

    def _views(self) -> Sequence[ReplicaView]:
        looks = [self.observer.look(process, actor) for process, actor in self._replicas()]
        return [view for view in looks if view is not None]

    def _replicas(self) -> Iterator[tuple[SimulatedProcess, Replica]]:
        for name in self.brokers:
            process = self.cluster.processes.get(name)
            for ref in process.context.directory.refs() if process is not None else ():
                if process is not None and isinstance(ref.actor, Replica):
                    yield process, ref.actor

    # -- time --------------------------------------------------------------------------------------------

    def _run_for(self, ms: float) -> None:
        self.loop.advance(ms)

    def _wait_for(
        self, what_is_missing: Callable[[], str], since_us: int, progress: Callable[[], object] = lambda: None
    ) -> None:
        """Run until nothing is missing. ``progress`` differs whenever something has come of it: then it may go on.

        Raises:
            _NotConverged: it was missing, and nothing came, for too long.
        """
        before = progress()
        while missing := what_is_missing():
            if (now := progress()) != before:
                before, since_us = now, self.loop.now_us
            if self.loop.now_us - since_us > HEALED_MS * 1000:
                raise _NotConverged(f"{HEALED_MS / 1000:g} s after everything was healed: {missing}")
            self.loop.advance(LOOK_MS)

    def _create_topic(self) -> None:
        """Have the topic made, and wait until all its partitions are led."""
        asker = self._client("admin")
        answers: list[Any] = []
        connections = self._admin = [
            asker.transport.connect(self.cluster.client_endpoint(one + 1), client_id="admin", on_state=lambda _: None)
            for one in range(self.profile.brokers)
        ]
        new = self._new_topic()
        begun_us = self.loop.now_us

        def is_made() -> str:
            done = [answer for answer in answers if not isinstance(answer, CallboardError) and not answer.error]
            if not any(topic.error == 0 for answer in done for topic in getattr(answer, "topics", ())):
                for connection in connections:
                    connection.request(
                        CreateTopicsRequest(topics=[new]), lambda reply, _: answers.append(reply), timeout_ms=1_000
                    )
                return f"the topic was not made: {answers[-1:]}"
            return self._is_led()

        self._run_for(200)
        self._wait_for(is_made, begun_us)
        self.topics[next(iter(self.laws.documents)).topic_id] = TOPIC

    def _new_topic(self) -> NewTopic:
        return NewTopic(
            name=TOPIC,
            num_partitions=self.profile.partitions,
            replication_factor=self.profile.replication_factor,
            configs=self.topic_configs,
        )

    def _ask_brokers(self, request: Request) -> None:
        """As a person who does not know who is controller, and looks at what came of it."""
        for connection in self._admin:
            connection.request(request, lambda *_: None, timeout_ms=1_000)

    def _counts(self) -> dict[str, int]:
        return {topic.name: topic.partitions for topic in topics_of(self.cluster.kept).values()}

    def _on_grown(self, keys: Sequence[TopicPartition]) -> None:
        """These partitions are stored: somebody sends to them from now on, and groups are to read them."""
        self.topics |= {topic_id: topic.name for topic_id, topic in topics_of(self.cluster.kept).items()}
        self.topics = {topic_id: name for topic_id, name in self.topics.items() if name != OFFSETS_TOPIC}
        self.keys += keys
        if self.groups is not None:
            self.groups.on_grown(keys)
        load = Load(keys[0].topic, len(keys), self.chance.choice((60.0, 150.0)), first=keys[0].partition)
        self._start_producer(f"producer-of-{keys[0]}", 50 + len(self.producers), load)

    def _order_elections(self, for_ms: float) -> None:
        """As a person who has given up: order unclean elections of whoever is controller, again and again."""
        for number in range(self.profile.partitions):
            self.laws.losses.on_order(number)
        self._ask_brokers(ElectLeadersRequest(election=UNCLEAN))
        if for_ms > ORDER_AGAIN_MS:
            self.nemesis.later(ORDER_AGAIN_MS, self._order_elections, for_ms - ORDER_AGAIN_MS)

    def _is_led(self) -> str:
        documents = self.laws.documents
        if len(documents) < self.profile.partitions:
            return f"{len(documents)} partitions are known"
        for key, document in documents.items():
            if missing := self._leader_missing(key, document):
                return missing
        return ""

    def _leader_missing(self, key: PartitionKey, document: PartitionDocument) -> str:
        view = self.laws.views.get((key, document.leader))
        if view is None or not view.is_leader or view.epoch != document.leader_epoch:
            return f"{key} is not led by broker {document.leader} in epoch {document.leader_epoch}"
        if view.life != self.cluster.processes[f"broker-{document.leader}"].options.incarnation:
            return f"{key} was led by an earlier life of broker {document.leader}"
        return ""

    def _is_settled(self) -> str:
        if not self.host.is_complete:
            return "not all processes run"
        if missing := self._is_led():
            return missing
        for key, document in self.laws.documents.items():
            if set(document.isr) != set(document.replicas):
                return f"{key}: in sync are {document.isr} of {document.replicas}"
        waiting = {producer.process.name: producer.unsettled for producer in self.producers if producer.unsettled}
        return f"sends without an outcome: {waiting}" if waiting else ""


class _NotConverged(Exception):
    """Liveness: something that must come has not come."""


class _listening(logging.Handler):  # noqa: N801 - a context manager
    """Keep the errors that the cluster logs, and what it says of elections; keep both off the terminal."""

    def __init__(self, elections: list[str], errors: list[str], resets: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._elections, self._errors, self._resets = elections, errors, resets
        self._logger = logging.getLogger("callboard")

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line.startswith("leader.elected_"):
            self._elections.append(line)
        if line.startswith("group.member_reset"):
            self._resets.append(line)
        if record.levelno >= logging.ERROR:
            self._errors.append(line)

    def __enter__(self) -> None:
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before


def _number_of(name: str) -> int:
    return int(name.rpartition("-")[2])
