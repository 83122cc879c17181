"""Every message there is, request by request. What docs/protocol.md explains is declared here.

Rules of this file:

1. A message is frozen, keyword-only and tagged (``"t"``). Adding a field with a default is compatible;
   anything else is a new API version.
2. A request carries ``id`` (correlation, unique per connection), ``v`` (API version) and ``deadline_ms`` (on
   the *receiver's* monotonic clock, learnt from its ``HelloReply``; 0: none). The connection stamps them.
3. Record bytes never stand in a header: entries say how many payload ``frames`` are theirs, in order.
4. A request about a partition names it by topic *id* and says which leader epoch the sender believes in.
5. ``error`` is an ``ErrorCode``; 0 is success. ``detail`` is one line for a person.
"""

from __future__ import annotations

from typing import Any

from .group_messages import (
    AlterGroupReply,
    CoordinatorsReply,
    DeleteGroupsRequest,
    DeleteOffsetsRequest,
    DescribeGroupsReply,
    DescribeGroupsRequest,
    FindCoordinatorsRequest,
    GroupHeartbeatReply,
    GroupHeartbeatRequest,
    ListGroupsReply,
    ListGroupsRequest,
    OffsetCommitReply,
    OffsetCommitRequest,
    OffsetFetchReply,
    OffsetFetchRequest,
    RemoveMembersRequest,
)
from .shapes import API_VERSION as API_VERSION
from .shapes import API_VERSION_MIN as API_VERSION_MIN
from .shapes import Int64 as Int64
from .shapes import Message as Message
from .shapes import Part as Part
from .shapes import Reply as Reply
from .shapes import Request as Request

EARLIEST_TIMESTAMP = -2  # ListOffsets: the log start offset
LATEST_TIMESTAMP = -1  # ListOffsets: the high watermark
MAX_TIMESTAMP = -3  # ListOffsets: the record with the greatest timestamp

ACKS_NONE, ACKS_LEADER, ACKS_ALL = 0, 1, -1

CONSUMER_REPLICA_ID = -1
UNKNOWN_OFFSET = -1
UNKNOWN_EPOCH = -1


class ErrorReply(Reply, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """The answer to a request that could not be handled as a whole."""


# -- connection ------------------------------------------------------------------------------------


class Hello(Request, frozen=True, kw_only=True, tag="hello", omit_defaults=True):
    """The first request on every connection."""

    client_id: str = ""
    software: str = ""
    version_min: Int64 = API_VERSION_MIN
    version_max: Int64 = API_VERSION


class HelloReply(Reply, frozen=True, kw_only=True, tag="hello.reply", omit_defaults=True):
    """Who answers. ``clock_ms`` is its monotonic clock now: deadlines are given on it."""

    role: str = ""  # "broker", "metadata" or "host"
    name: str = ""  # "broker-1"
    cluster_id: str = ""
    broker_id: Int64 = -1
    incarnation: str = ""
    software: str = ""
    version_min: Int64 = API_VERSION_MIN
    version_max: Int64 = API_VERSION
    clock_ms: Int64 = 0
    request_bytes_max: Int64 = 0


# -- metadata --------------------------------------------------------------------------------------


class MetadataRequest(Request, frozen=True, kw_only=True, tag="metadata", omit_defaults=True):
    """Ask any broker who leads what. ``topics=None``: all of them."""

    topics: list[str] | None = None
    allow_auto_create: bool = False
    include_internal: bool = False


class BrokerMetadata(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``endpoints``: every way to reach it, ``tcp://127.0.0.1:9192``, ``ipc:///…``; ``machine``: who may use ipc."""

    id: Int64
    endpoints: list[str]
    machine: str = ""
    host: str = ""
    incarnation: str = ""


class PartitionMetadata(Part, frozen=True, kw_only=True, omit_defaults=True):
    partition: Int64
    leader: Int64 = -1  # -1: none just now
    leader_epoch: Int64 = -1
    partition_epoch: Int64 = 0
    replicas: list[Int64] = []
    isr: list[Int64] = []
    elr: list[Int64] = []  # not in sync, but known to hold all that is committed: may be elected when the ISR is gone
    offline_replicas: list[Int64] = []


class TopicMetadata(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    topic_id: str = ""
    error: Int64 = 0
    detail: str = ""
    is_internal: bool = False
    partitions: list[PartitionMetadata] = []
    configs: dict[str, Any] = {}  # only what differs from the defaults


class MetadataReply(Reply, frozen=True, kw_only=True, tag="metadata.reply", omit_defaults=True):
    """``version`` grows with every change: a client never replaces newer metadata by older."""

    cluster_id: str = ""
    version: Int64 = 0
    controller_id: Int64 = -1
    brokers: list[BrokerMetadata] = []
    topics: list[TopicMetadata] = []


# -- records ---------------------------------------------------------------------------------------


class ProduceEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One batch for one partition, in ``frames`` payload frames (>= 2).

    The first is the 21 bytes that its checksum does not cover, the others are the rest of the batch: so a
    leader checks and patches it without copying a byte.
    """

    topic_id: str
    partition: Int64
    leader_epoch: Int64 = UNKNOWN_EPOCH
    frames: Int64 = 2


class ProduceRequest(Request, frozen=True, kw_only=True, tag="produce", omit_defaults=True):
    """``acks``: 0 no reply at all, 1 in the leader's page cache, -1 below the high watermark.

    ``timeout_ms`` bounds the wait for the high watermark (then REQUEST_TIMED_OUT, outcome unknown).
    """

    acks: Int64 = ACKS_ALL
    timeout_ms: Int64 = 30_000
    entries: list[ProduceEntry] = []


class ProduceEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``base_offset``: of its first record. With an error: it was appended there, and the next leader decides."""

    topic_id: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    base_offset: Int64 = UNKNOWN_OFFSET
    log_start_offset: Int64 = UNKNOWN_OFFSET
    leader: Int64 = -1  # with NOT_LEADER…: who leads, if known
    leader_epoch: Int64 = UNKNOWN_EPOCH


class ProduceReply(Reply, frozen=True, kw_only=True, tag="produce.reply", omit_defaults=True):
    entries: list[ProduceEntryReply] = []


class FetchEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``last_fetched_epoch``: leader epoch of the record before ``fetch_offset``, as it was fetched; -1: none was.

    ``durable_offset``: of a follower, below which its copy survives power loss. -1 from consumers.

    ``high_watermark``: the highest that a follower has heard of. One that is behind is told at once.

    ``log_start_offset``: where a follower's log begins after any crash. ``delete_records`` waits for it.
    """

    topic_id: str
    partition: Int64
    leader_epoch: Int64 = UNKNOWN_EPOCH
    fetch_offset: Int64
    last_fetched_epoch: Int64 = UNKNOWN_EPOCH
    durable_offset: Int64 = UNKNOWN_OFFSET
    high_watermark: Int64 = UNKNOWN_OFFSET
    log_start_offset: Int64 = 0
    max_bytes: Int64 = 1_048_576


class ReplicaProgressEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    topic_id: str
    partition: Int64
    leader_epoch: Int64
    durable_offset: Int64
    log_start_offset: Int64 = 0


class ForgottenEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """A partition that a follower no longer fetches in this session."""

    topic_id: str
    partition: Int64


class FetchRequest(Request, frozen=True, kw_only=True, tag="fetch", omit_defaults=True):
    """Answered when ``min_bytes`` are there, ``max_wait_ms`` have passed, or an entry has an error.

    A follower fetches in a *session*: the first request (``sequence`` 0) names every partition, each later one
    (1, 2, …) only those whose position has changed, and the reply only those that have something to say. The others
    stay parked between the requests. Anything out of order is FETCH_SESSION_ID_NOT_FOUND: begin another session.
    """

    replica_id: Int64 = CONSUMER_REPLICA_ID
    replica_incarnation: str = ""
    max_wait_ms: Int64 = 500
    min_bytes: Int64 = 1
    max_bytes: Int64 = 52_428_800
    session: Int64 = 0  # > 0: of a follower, chosen by it, new with each connection and each beginning
    sequence: Int64 = 0
    forgotten: list[ForgottenEntry] = []
    progress: list[ReplicaProgressEntry] = []  # of entries that are parked and are not fetched anew
    entries: list[FetchEntry] = []


class FetchEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``frames`` payload frames hold whole batches; the first may begin below the fetch offset."""

    topic_id: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    high_watermark: Int64 = UNKNOWN_OFFSET
    log_start_offset: Int64 = UNKNOWN_OFFSET
    leader: Int64 = -1
    leader_epoch: Int64 = UNKNOWN_EPOCH
    diverging_epoch: Int64 = UNKNOWN_EPOCH  # what was fetched before is not here: go back to this epoch's end …
    diverging_end_offset: Int64 = UNKNOWN_OFFSET  # … which is here
    frames: Int64 = 0


class FetchReply(Reply, frozen=True, kw_only=True, tag="fetch.reply", omit_defaults=True):
    entries: list[FetchEntryReply] = []


class ReplicaProgressRequest(Request, frozen=True, kw_only=True, tag="replica_progress", omit_defaults=True):
    """A follower to a leader: this much more of what you sent survives power loss here.

    Sent while a fetch is parked; wants no reply (``id`` 0). Lost, the next fetch says the same.
    """

    replica_id: Int64
    replica_incarnation: str
    entries: list[ReplicaProgressEntry] = []


class ListOffsetsEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    topic_id: str
    partition: Int64
    leader_epoch: Int64 = UNKNOWN_EPOCH
    timestamp_ms: Int64 = LATEST_TIMESTAMP


class ListOffsetsRequest(Request, frozen=True, kw_only=True, tag="list_offsets", omit_defaults=True):
    entries: list[ListOffsetsEntry] = []


class ListOffsetsEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``offset`` is -1 when no record is at or after the timestamp."""

    topic_id: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    offset: Int64 = UNKNOWN_OFFSET
    timestamp_ms: Int64 = -1
    leader_epoch: Int64 = UNKNOWN_EPOCH


class ListOffsetsReply(Reply, frozen=True, kw_only=True, tag="list_offsets.reply", omit_defaults=True):
    entries: list[ListOffsetsEntryReply] = []


class InitProducerIdRequest(Request, frozen=True, kw_only=True, tag="init_producer_id", omit_defaults=True):
    """Ask any broker for a producer id that nobody else has ever had."""


class InitProducerIdReply(Reply, frozen=True, kw_only=True, tag="init_producer_id.reply", omit_defaults=True):
    producer_id: Int64 = -1
    producer_epoch: Int64 = -1


class DeleteRecordsEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Remove what lies below ``before_offset``; -1: below the high watermark."""

    topic_id: str
    partition: Int64
    leader_epoch: Int64 = UNKNOWN_EPOCH
    before_offset: Int64


class DeleteRecordsRequest(Request, frozen=True, kw_only=True, tag="delete_records", omit_defaults=True):
    """Ask partitions' leaders to move their log start offsets; answered when that survives power loss."""

    entries: list[DeleteRecordsEntry] = []


class DeleteRecordsEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """OFFSET_OUT_OF_RANGE: above the high watermark, nothing was removed."""

    topic_id: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    log_start_offset: Int64 = UNKNOWN_OFFSET  # as it is now
    leader_epoch: Int64 = UNKNOWN_EPOCH


class DeleteRecordsReply(Reply, frozen=True, kw_only=True, tag="delete_records.reply", omit_defaults=True):
    entries: list[DeleteRecordsEntryReply] = []


# -- administration: answered by the controller, else NOT_CONTROLLER --------------------------------


class NewTopic(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``assignments``: replicas by partition; given, it replaces the counts. -1: the cluster's default."""

    name: str
    num_partitions: Int64 = -1
    replication_factor: Int64 = -1
    assignments: dict[Int64, list[Int64]] = {}
    configs: dict[str, Any] = {}


class TopicResult(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    topic_id: str = ""
    error: Int64 = 0
    detail: str = ""
    num_partitions: Int64 = -1
    replication_factor: Int64 = -1


class CreateTopicsRequest(Request, frozen=True, kw_only=True, tag="create_topics", omit_defaults=True):
    topics: list[NewTopic] = []
    validate_only: bool = False


class DeleteTopicsRequest(Request, frozen=True, kw_only=True, tag="delete_topics", omit_defaults=True):
    names: list[str] = []


class NewPartitions(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    count: Int64  # the new total
    assignments: list[list[Int64]] = []  # of the added ones


class CreatePartitionsRequest(Request, frozen=True, kw_only=True, tag="create_partitions", omit_defaults=True):
    topics: list[NewPartitions] = []
    validate_only: bool = False


class TopicConfigChange(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    set: dict[str, Any] = {}
    delete: list[str] = []  # back to the default


class AlterTopicsRequest(Request, frozen=True, kw_only=True, tag="alter_topics", omit_defaults=True):
    topics: list[TopicConfigChange] = []
    validate_only: bool = False


class ElectLeadersEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    topic: str
    partition: Int64


class ElectLeadersRequest(Request, frozen=True, kw_only=True, tag="elect_leaders", omit_defaults=True):
    """Have leaders elected by an operator's word. ``partitions`` None: wherever it applies.

    ``election`` "preferred": the first of the replicas, if it is in sync. "unclean": any live replica where no
    in-sync one lives; what only the others had is lost, and said so loudly.
    """

    election: str = "preferred"
    partitions: list[ElectLeadersEntry] | None = None


class ElectLeadersEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """ELECTION_NOT_NEEDED: it is so already. ELIGIBLE_LEADERS_NOT_AVAILABLE: nobody could be elected."""

    topic: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    leader: Int64 = -1
    leader_epoch: Int64 = UNKNOWN_EPOCH


class ElectLeadersReply(Reply, frozen=True, kw_only=True, tag="elect_leaders.reply", omit_defaults=True):
    version: Int64 = 0  # metadata version that holds the change
    entries: list[ElectLeadersEntryReply] = []


class TopicsReply(Reply, frozen=True, kw_only=True, tag="topics.reply", omit_defaults=True):
    """One result a topic, in the request's order."""

    version: Int64 = 0  # metadata version that holds the change
    topics: list[TopicResult] = []


# -- looking inside, and breaking things on purpose: answered by every process -----------------------


class DescribeReplicasRequest(Request, frozen=True, kw_only=True, tag="describe_replicas", omit_defaults=True):
    """Ask one broker for the state of the replicas it hosts. Empty: all."""

    topic_ids: list[str] = []


class FollowerDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """A follower as its leader knows it. -1: it has not fetched in this epoch."""

    broker_id: Int64
    log_end_offset: Int64 = UNKNOWN_OFFSET
    durable_offset: Int64 = UNKNOWN_OFFSET
    lag: Int64 = -1  # records that the leader has and it has not
    is_in_sync: bool = False
    caught_up_ms_ago: Int64 = -1  # since it had all that the leader had


class ReplicaDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    topic_id: str
    partition: Int64
    role: str = ""  # "leader", "follower", "recovering", "offline"
    leader_epoch: Int64 = UNKNOWN_EPOCH
    log_start_offset: Int64 = UNKNOWN_OFFSET
    log_end_offset: Int64 = UNKNOWN_OFFSET
    high_watermark: Int64 = UNKNOWN_OFFSET
    durable_offset: Int64 = UNKNOWN_OFFSET
    size_bytes: Int64 = 0
    segments: Int64 = 0
    producers: Int64 = 0
    directory: str = ""  # that its log lies in: one of the broker's
    isr: list[Int64] = []  # of a leader, as it knows it
    followers: list[FollowerDescription] = []  # likewise


class LogDirectoryDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One of a broker's directories for logs."""

    path: str
    state: str = ""  # "online", "full" (takes no records), "failed" (nothing in it is served)
    reason: str = ""  # why it failed
    replicas: Int64 = 0
    free_bytes: Int64 = -1  # -1: not known yet


class DescribeReplicasReply(Reply, frozen=True, kw_only=True, tag="describe_replicas.reply", omit_defaults=True):
    replicas: list[ReplicaDescription] = []
    directories: list[LogDirectoryDescription] = []


class DescribeTreeRequest(Request, frozen=True, kw_only=True, tag="describe_tree", omit_defaults=True):
    """Ask a process for its supervision tree. The host's answer holds those of its processes."""


class ActorDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the tree. ``address`` is unique in the cluster: ``host/broker-1/partitions/orders-0``."""

    address: str
    kind: str = ""  # the actor's class, or "process"
    role: str = ""  # "leader", "active", …
    pid: Int64 = 0
    state: str = ""  # "starting", "running", "restarting", "stopping", "stopped", "given up"
    restart: str = ""  # "permanent", "transient", "temporary"
    strategy: str = ""  # of a supervisor
    restarts: Int64 = 0
    mailbox: Int64 = 0
    handled: Int64 = 0
    last_failure: str = ""
    last_failure_ms: Int64 = 0  # wall clock
    uptime_ms: Int64 = 0
    children: list[ActorDescription] = []


class DescribeTreeReply(Reply, frozen=True, kw_only=True, tag="describe_tree.reply", omit_defaults=True):
    tree: ActorDescription | None = None


class KillRequest(Request, frozen=True, kw_only=True, tag="kill", omit_defaults=True):
    """Fail an actor or process on purpose. ``how``: an actor by "raise" or "exit", a process by "kill" or "term".

    ``for_ms``: a process is not started again before so long.
    """

    address: str
    how: str = ""
    for_ms: Int64 = 0


class KillReply(Reply, frozen=True, kw_only=True, tag="kill.reply", omit_defaults=True):
    address: str = ""
    what: str = ""


class ExperimentRequest(Request, frozen=True, kw_only=True, tag="experiment", omit_defaults=True):
    """Disturb an actor or process for a while; it undoes itself. Refused unless the cluster allows experiments.

    ``what``: "pause" (a process: SIGSTOP; an actor: it handles nothing), "hang" (the event loop stands still),
    "slow" (``ms`` before each message), "cut" or "delay" (what travels between this process and ``peer``, in the
    ``direction`` "both", "to" or "from" it), "end" (whatever there is at the address).
    """

    address: str
    what: str
    peer: str = ""
    direction: str = "both"
    ms: Int64 = 0
    for_ms: Int64 = 0


class ExperimentReply(Reply, frozen=True, kw_only=True, tag="experiment.reply", omit_defaults=True):
    """``count``: how many actors are disturbed, or (``what`` "end") how many experiments were ended."""

    address: str = ""
    what: str = ""
    count: Int64 = 0


class EventsRequest(Request, frozen=True, kw_only=True, tag="events", omit_defaults=True):
    """Ask for what happened: parked until there is something, or for ``max_wait_ms``.

    ``after``: the last sequence seen, by ring. One that is not named is told from its beginning. The host's ring
    holds the events of its processes, too.
    """

    after: dict[str, Int64] = {}
    max_wait_ms: Int64 = 0


class EventDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One event. ``sequence`` counts within the ring that was asked; ``monotonic_ms`` on the machine's clock."""

    sequence: Int64 = 0
    wall_ms: Int64 = 0
    monotonic_ms: Int64 = 0
    process: str = ""  # where it happened: "broker-1", "metadata", "host"
    name: str = ""  # "leader.elected"
    level: str = "info"
    values: dict[str, str] = {}


class EventsReply(Reply, frozen=True, kw_only=True, tag="events.reply", omit_defaults=True):
    """``missed``: events since ``after`` that the ring has no more, because others came."""

    ring: str = ""  # new with each life of the process
    last: Int64 = 0
    missed: Int64 = 0
    events: list[EventDescription] = []


class DescribeClusterRequest(Request, frozen=True, kw_only=True, tag="describe_cluster", omit_defaults=True):
    """Ask any broker for everybody: brokers, hosts, controller."""


class HostMetadata(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    endpoints: list[str] = []
    machine: str = ""


class ClientDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One connection to a broker, as the broker sees it."""

    client_id: str
    software: str = ""
    broker_id: Int64 = -1
    connected_ms: Int64 = 0  # for how long
    requests: Int64 = 0
    bytes_in: Int64 = 0
    bytes_out: Int64 = 0
    dropped: Int64 = 0


class DescribeClusterReply(Reply, frozen=True, kw_only=True, tag="describe_cluster.reply", omit_defaults=True):
    cluster_id: str = ""
    version: Int64 = 0
    controller_id: Int64 = -1
    controller_epoch: Int64 = -1
    brokers: list[BrokerMetadata] = []
    hosts: list[HostMetadata] = []
    clients: list[ClientDescription] = []  # of the broker that answers
    counters: dict[str, Int64] = {}  # likewise: refused, garbage, dropped, …


class DescribeProcessesRequest(Request, frozen=True, kw_only=True, tag="describe_processes", omit_defaults=True):
    """Ask a host for its processes."""


class ProcessDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    pid: Int64
    endpoints: list[str] = []
    state: str = ""
    restarts: Int64 = 0
    uptime_ms: Int64 = 0
    cpu_percent: float = 0.0  # of one core, since the last time somebody asked
    memory_bytes: Int64 = 0  # resident
    disk_bytes: Int64 = 0  # below its data directory
    disk_free_bytes: Int64 = 0
    threads: Int64 = 0
    open_files: Int64 = 0


class DescribeProcessesReply(Reply, frozen=True, kw_only=True, tag="describe_processes.reply", omit_defaults=True):
    host: str = ""
    processes: list[ProcessDescription] = []


# -- between brokers -------------------------------------------------------------------------------


class ReelectRequest(Request, frozen=True, kw_only=True, tag="reelect", omit_defaults=True):
    """A broker to the controller: my replica restarted or is past its limit; its epoch must not go on."""

    broker_id: Int64
    incarnation: str
    topic_id: str
    partition: Int64
    leader_epoch: Int64
    is_offline: bool = False
    reason: str = ""


class ReelectReply(Reply, frozen=True, kw_only=True, tag="reelect.reply", omit_defaults=True):
    leader_epoch: Int64 = UNKNOWN_EPOCH


class IsrMember(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``incarnation``: the life of that broker in which it caught up; another life has to do so again (R4)."""

    broker_id: Int64
    incarnation: str = ""


class AlterPartitionEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``isr``: as it is to be; compared with the partition's present leader epoch and partition epoch (R5)."""

    topic_id: str
    partition: Int64
    leader_epoch: Int64
    partition_epoch: Int64
    isr: list[IsrMember] = []


class AlterPartitionRequest(Request, frozen=True, kw_only=True, tag="alter_partition", omit_defaults=True):
    """A leader to the controller: these replicas are in sync now."""

    broker_id: Int64
    incarnation: str
    entries: list[AlterPartitionEntry] = []


class AlterPartitionEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """The partition as it is now, changed or not. INVALID_UPDATE_VERSION: it was changed meanwhile."""

    topic_id: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""
    leader_epoch: Int64 = UNKNOWN_EPOCH
    partition_epoch: Int64 = -1
    isr: list[Int64] = []


class AlterPartitionReply(Reply, frozen=True, kw_only=True, tag="alter_partition.reply", omit_defaults=True):
    version: Int64 = 0  # metadata version that holds the change
    entries: list[AlterPartitionEntryReply] = []


# -- the metadata store ----------------------------------------------------------------------------


class Document(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One document: ``version`` is the store's version at its last change; ``value`` None: deleted."""

    key: str
    version: Int64
    value: dict[str, Any] | None = None


class Put(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Write a document (``value`` None: delete it) if its version is still ``if_version`` (0: it does not exist)."""

    key: str
    value: dict[str, Any] | None
    if_version: Int64


class StoreCommitRequest(Request, frozen=True, kw_only=True, tag="store.commit", omit_defaults=True):
    """All puts or none: refused when the controller epoch or a version is not what is said here."""

    controller_epoch: Int64
    puts: list[Put] = []


class StoreCommitReply(Reply, frozen=True, kw_only=True, tag="store.commit.reply", omit_defaults=True):
    """STALE_CONTROLLER_EPOCH or STORE_CONFLICT: nothing was written."""

    version: Int64 = 0


class StoreLoadRequest(Request, frozen=True, kw_only=True, tag="store.load", omit_defaults=True):
    """Ask for everything."""


class StoreSnapshotReply(Reply, frozen=True, kw_only=True, tag="store.snapshot", omit_defaults=True):
    store_incarnation: str = ""
    cluster_id: str = ""
    version: Int64 = 0
    documents: list[Document] = []


class StoreWatchRequest(Request, frozen=True, kw_only=True, tag="store.watch", omit_defaults=True):
    """Parked until the store's version is above ``after_version``; then the changes since.

    From another ``store_incarnation``, or too long ago: a whole snapshot instead.
    """

    store_incarnation: str = ""
    after_version: Int64 = 0
    max_wait_ms: Int64 = 30_000


class StoreDeltaReply(Reply, frozen=True, kw_only=True, tag="store.delta", omit_defaults=True):
    version: Int64 = 0
    documents: list[Document] = []


class OpenSessionRequest(Request, frozen=True, kw_only=True, tag="session.open", omit_defaults=True):
    """Say that a broker (or host) lives, under this incarnation; ends its earlier one.

    ``document`` is what others see of it: endpoints, host, machine.
    """

    name: str  # "broker-1", "host-a"
    incarnation: str
    timeout_ms: Int64 = 1_500
    document: dict[str, Any] = {}
    if_vacant: bool = False  # refused when another incarnation has one: a life that lost its session displaces nobody


class HeartbeatRequest(Request, frozen=True, kw_only=True, tag="session.heartbeat", omit_defaults=True):
    """Keep a session. STALE_BROKER_EPOCH: it has ended."""

    name: str
    incarnation: str


class EndSessionRequest(Request, frozen=True, kw_only=True, tag="session.end", omit_defaults=True):
    """End a session at once, and the controller lease if it held it: by itself at stop, or by its host at its death."""

    name: str
    incarnation: str = ""  # "": whichever it is
    reason: str = ""


class SessionReply(Reply, frozen=True, kw_only=True, tag="session.reply", omit_defaults=True):
    """``version``: of the store now; whoever has watched since before and knows less has lost the watch's answer."""

    version: Int64 = 0
    store_incarnation: str = ""
    cluster_id: str = ""


class CampaignRequest(Request, frozen=True, kw_only=True, tag="lease.campaign", omit_defaults=True):
    """Ask for the controller lease. Granted when nobody holds it: with a controller epoch above all before."""

    name: str
    incarnation: str
    ttl_ms: Int64 = 1_500


class RenewRequest(Request, frozen=True, kw_only=True, tag="lease.renew", omit_defaults=True):
    controller_epoch: Int64
    name: str


class ResignRequest(Request, frozen=True, kw_only=True, tag="lease.resign", omit_defaults=True):
    controller_epoch: Int64
    name: str


class LeaseReply(Reply, frozen=True, kw_only=True, tag="lease.reply", omit_defaults=True):
    """``holder`` and ``controller_epoch`` as they are now, whoever asked. STALE_CONTROLLER_EPOCH: it is not yours."""

    holder: str = ""
    controller_epoch: Int64 = -1


class JoinRequest(Request, frozen=True, kw_only=True, tag="join", omit_defaults=True):
    """Ask for the broker ids of a host, before it starts its brokers. Asked again, the answer is the same.

    ``home`` is the id of its data directory; ``cluster_id`` the cluster that the directory is of, "" for a new one.
    ``first_broker_id`` 0: any ids.
    """

    host_name: str
    home: str
    brokers: Int64 = 1
    first_broker_id: Int64 = 0
    cluster_id: str = ""


class JoinReply(Reply, frozen=True, kw_only=True, tag="join.reply", omit_defaults=True):
    cluster_id: str = ""
    broker_ids: list[Int64] = []  # as many as asked for


class AllocateProducerIdsRequest(Request, frozen=True, kw_only=True, tag="store.producer_ids", omit_defaults=True):
    """Ask for a block of producer ids that nobody has or had."""

    count: Int64 = 1_000


class AllocateProducerIdsReply(Reply, frozen=True, kw_only=True, tag="store.producer_ids.reply", omit_defaults=True):
    """Yours are ``first <= id < first + count``."""

    first: Int64 = -1
    count: Int64 = 0


ClientRequest = (
    Hello
    | MetadataRequest
    | ProduceRequest
    | FetchRequest
    | ListOffsetsRequest
    | DeleteRecordsRequest
    | InitProducerIdRequest
    | CreateTopicsRequest
    | DeleteTopicsRequest
    | CreatePartitionsRequest
    | AlterTopicsRequest
    | ElectLeadersRequest
    | DescribeReplicasRequest
    | FindCoordinatorsRequest
    | GroupHeartbeatRequest
    | OffsetCommitRequest
    | OffsetFetchRequest
    | ListGroupsRequest
    | DescribeGroupsRequest
    | DeleteGroupsRequest
    | DeleteOffsetsRequest
    | RemoveMembersRequest
    | DescribeTreeRequest
    | KillRequest
    | ExperimentRequest
    | EventsRequest
    | DescribeClusterRequest
    | DescribeProcessesRequest
)
PeerRequest = (
    Hello
    | FetchRequest
    | ReplicaProgressRequest
    | ReelectRequest
    | AlterPartitionRequest
    | CreateTopicsRequest
    | DescribeTreeRequest
    | KillRequest
    | ExperimentRequest
    | EventsRequest
)
StoreRequest = (
    Hello
    | StoreCommitRequest
    | StoreLoadRequest
    | StoreWatchRequest
    | OpenSessionRequest
    | HeartbeatRequest
    | EndSessionRequest
    | CampaignRequest
    | RenewRequest
    | ResignRequest
    | AllocateProducerIdsRequest
    | JoinRequest
    | DescribeTreeRequest
    | KillRequest
    | ExperimentRequest
    | EventsRequest
)
HostRequest = Hello | DescribeTreeRequest | KillRequest | ExperimentRequest | EventsRequest | DescribeProcessesRequest
AnyReply = (
    ErrorReply
    | HelloReply
    | MetadataReply
    | ProduceReply
    | FetchReply
    | ListOffsetsReply
    | DeleteRecordsReply
    | InitProducerIdReply
    | TopicsReply
    | DescribeReplicasReply
    | DescribeTreeReply
    | KillReply
    | ExperimentReply
    | EventsReply
    | DescribeClusterReply
    | DescribeProcessesReply
    | ReelectReply
    | AlterPartitionReply
    | ElectLeadersReply
    | CoordinatorsReply
    | GroupHeartbeatReply
    | OffsetCommitReply
    | OffsetFetchReply
    | ListGroupsReply
    | DescribeGroupsReply
    | AlterGroupReply
    | StoreCommitReply
    | StoreSnapshotReply
    | StoreDeltaReply
    | SessionReply
    | LeaseReply
    | AllocateProducerIdsReply
    | JoinReply
)
