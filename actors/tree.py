"""THE supervision tree: who starts whom, in which order, and what happens when one fails.

    host              one_for_one        callboard up: 10 in 30 s each
    ├── desk          Desk               answers for the processes, reports their deaths
    ├── metadata      process            past its limit the host ends
    ├── session       MetadataClient     the host's own session
    ├── broker-1      process            past its limit that broker stays offline, the others live
    └── broker-2 …    process

    metadata          one_for_all        3 in 5 s, then the process ends
    └── server        MetadataServer     one SQLite file, sessions, the controller lease

    broker-1          rest_for_one       5 in 10 s, then the process ends
    ├── metadata      MetadataClient     session, picture of the cluster, commits
    ├── controller    Controller         active where the lease is
    ├── partitions    one_for_one        each 5 in 30 s, then that partition is offline here
    │   └── orders-0  Replica            owns its log, leads or follows; a restart needs a new leader epoch to lead
    ├── replication   Fetcher            fetches for the followers, one line to each leader
    ├── hosting       Broker             starts and informs replicas as the picture says
    ├── coordinators  one_for_one        each 5 in 30 s, then another broker is to lead, and coordinate
    │   └── 7         Coordinator        the groups of __consumer_offsets-7, while this broker leads it
    ├── groups        GroupHosting       starts and stops coordinators as the picture says
    ├── peers         Router             the door for other brokers
    └── router        Router             the door for clients: opened last, closed first

Read a line as: *started after the one above it, stopped before it; its failure restarts what is below it*
(rest_for_one), *all* (one_for_all) or *only it* (one_for_one). Past its limit a supervisor fails upwards; past the top
the process ends and the host restarts it. ``callboard tree`` prints the living tree.

The processes themselves stand in ``host.py``, under the same rules.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count

from ..config import ProcessOptions, log_directories
from ..model import BrokerId, LeaderEpoch, PartitionKey
from .broker import Broker
from .controller.controller import Controller
from .doors import Doors
from .groups.hosting import GroupHosting
from .groups.leaders import Leaders
from .groups.proof import Proofs
from .inspect import Inspection
from .logdirs import LogDirectories
from .metadata.branch import metadata_branch
from .metadata.client import MetadataClient
from .partition.compacting import CompactionTurn
from .partition.retention import RetentionClock
from .replication.fetcher import Fetcher
from .restarts import Strategy
from .router import Router
from .runtime import Context, Starter
from .specs import ChildSpec, SupervisorSpec
from .supervisor import supervisor

PARTITION_SHUTDOWN_MS = 30_000  # a clean end writes what is not on disk yet


def branch_for(options: ProcessOptions, context: Context) -> ChildSpec:
    """Return the root of the tree of the process that these options describe."""
    if options.broker_id < 0:
        return metadata_branch(options, context)
    return broker_branch(options, context)


def broker_branch(options: ProcessOptions, context: Context) -> ChildSpec:
    """Return the tree of one broker."""
    name, config, broker_id = options.name, options.cluster, BrokerId(options.broker_id)
    doors = Doors(options, context)
    inspection = Inspection(context, name)
    led_epochs: dict[PartitionKey, LeaderEpoch] = {}  # outlives the actors: no replica leads twice in one epoch
    retention_clock = RetentionClock(context.clock.wall_ms(), context.clock.monotonic_ms())  # likewise: F21
    compaction_turn = CompactionTurn()  # likewise
    pool_jobs: Counter[PartitionKey] = Counter()  # likewise: no replica opens a log that an earlier life is still at
    # likewise: a directory that failed is not used again by this process
    directories = LogDirectories(log_directories(config, name), config.broker.storage_min_free_bytes)
    questions = count(1)  # of coordinators to replicas, likewise: no late answer is taken for another one's
    each_of_many = SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE, intensity=5, period_ms=30_000, intensity_per_child=True
    )
    partitions = replace(each_of_many, watcher=f"{name}/hosting")
    coordinators = replace(each_of_many, watcher=f"{name}/groups")
    children = (
        ChildSpec(
            name="metadata",
            start=MetadataClient.starter(
                endpoint=options.metadata_endpoint,
                session_name=name,
                incarnation=options.incarnation,
                document=None,  # the doors announce themselves when they are open
                settings=config.broker,
                cluster_id=options.cluster_id,
            ),
        ),
        ChildSpec(name="controller", start=Controller.starter(config=config, client_address=f"{name}/metadata")),
        supervisor("partitions", partitions, shutdown_ms=PARTITION_SHUTDOWN_MS),
        ChildSpec(
            name="replication",
            start=Fetcher.starter(
                settings=config.broker, limits=config.limits, broker_id=broker_id, broker_address=name
            ),
        ),
        ChildSpec(
            name="hosting",
            start=Broker.starter(
                config=config,
                broker_id=broker_id,
                broker_address=name,
                directories=directories,
                led_epochs=led_epochs,
                pool_jobs=pool_jobs,
                retention_clock=retention_clock,
                compaction_turn=compaction_turn,
            ),
        ),
        supervisor("coordinators", coordinators),
        ChildSpec(
            name="groups",
            start=GroupHosting.starter(
                settings=config.broker,
                broker_id=broker_id,
                broker_address=name,
                numbers=questions,
                retention_clock=retention_clock,
                proofs=Proofs(),
                leaders=Leaders(),
            ),
        ),
        ChildSpec(name="peers", start=_router(options, doors, inspection, directories, "peers")),
        ChildSpec(name="router", start=_router(options, doors, inspection, directories, "router")),
    )
    tree = SupervisorSpec(strategy=Strategy.REST_FOR_ONE, intensity=5, period_ms=10_000, children=children)
    return supervisor(name, tree, shutdown_ms=2 * PARTITION_SHUTDOWN_MS)


def _router(
    options: ProcessOptions, doors: Doors, inspection: Inspection, directories: LogDirectories, door: str
) -> Starter:
    return Router.starter(
        config=options.cluster,
        serve=doors.opener(door),
        inspection=inspection,
        directories=directories,
        broker_address=options.name,
        session_numbers=count(1),
    )
