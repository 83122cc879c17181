"""Settings: names, types, bounds, defaults; and the one function that turns a mapping into them.

A setting is a field of a frozen struct; its bounds stand in its type. ``configure`` is the only way in: it
refuses unknown names (telling the nearest valid one) and wrong types (telling where), in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from .errors import ConfigurationError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
INT32_MAX = (1 << 31) - 1
SHOWN_CHARS_MAX = 120  # of one value in a message
ADDRESSES_NAMED_MAX = 3  # of those that a mistaken one may mean

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[int, Meta(ge=1, le=INT32_MAX)]

S = TypeVar("S", bound=msgspec.Struct)


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every group of settings."""


class TopicConfig(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """What can be set for one topic.

    ``flush``: "ack" (default) acknowledges ``acks=all`` and shows records to consumers only once they are on
    disk (fdatasync); "os" leaves that to the operating system: faster, and power loss takes what it had not
    written yet.
    """

    flush: Literal["ack", "os"] = "ack"
    segment_bytes: Annotated[int, Meta(ge=KIB, le=INT32_MAX)] = 256 * MIB
    segment_ms: Annotated[int, Meta(ge=100)] = 7 * 24 * 3_600_000
    index_interval_bytes: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 4 * KIB
    retention_ms: Annotated[int, Meta(ge=-1)] = 7 * 24 * 3_600_000  # older records go; -1: never
    retention_bytes: Annotated[int, Meta(ge=-1)] = -1  # of one partition; the oldest go first; -1: no bound
    cleanup_policy: Literal["delete", "compact", "delete,compact"] = "delete"  # by age and size; or by key
    min_cleanable_dirty_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.5  # of the log, not compacted yet: then it is
    delete_retention_ms: Annotated[int, Meta(ge=0)] = 24 * 3_600_000  # how long a tombstone can be read at least
    min_compaction_lag_ms: Annotated[int, Meta(ge=0)] = 0  # younger records are not compacted
    max_message_bytes: Annotated[int, Meta(ge=64, le=64 * MIB)] = 1 * MIB  # of one batch as stored
    min_insync_replicas: Annotated[int, Meta(ge=0, le=32)] = 0  # 0: max(1, replication factor - 1)

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup_policy

    @property
    def is_deleted_from(self) -> bool:
        """Whether old records go by age and size."""
        return "delete" in self.cleanup_policy


class Limits(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """What one cluster or broker takes on; beyond it requests are refused, never half done."""

    topics: Positive = 10_000
    partitions: Positive = 100_000
    partitions_per_topic: Positive = 10_000
    request_bytes: Annotated[int, Meta(ge=64 * KIB, le=GIB)] = 64 * MIB  # of one frame, as the socket enforces it
    request_frames: Positive = 4_096
    request_entries: Positive = 20_000  # partitions, topics or names in one request
    requests_waiting: Positive = 20_000  # of one broker; parked fetches, and heartbeats, are counted apart
    reply_bytes_waiting_per_peer: Positive = 128 * MIB
    connections: Positive = 10_000
    connections_per_address: Positive = 10_000
    connections_silent_per_address: Positive = 1_000  # that have not said hello yet
    connections_wasted_per_second: Positive = 200  # that come to nothing, at one door; beyond, newcomers wait


class BrokerSettings(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """How brokers behave; the same for all of a cluster."""

    heartbeat_ms: Milliseconds = 250
    session_timeout_ms: Milliseconds = 1_500
    lease_ttl_ms: Milliseconds = 1_500
    stall_ms: Milliseconds = 5_000  # no turn of the event loop for so long: stacks are dumped, the process exits
    actor_stall_ms: Milliseconds = 2_000  # one actor handles nothing for so long while the loop turns: it is restarted
    memory_limit_bytes: Annotated[int, Meta(ge=0)] = 4 * GIB  # beyond it a process is restarted; 0: none
    flush_threads: Annotated[int, Meta(ge=1, le=64)] = 2
    checkpoint_ms: Milliseconds = 5_000
    producer_expiry_ms: Milliseconds = 24 * 3_600_000
    retention_check_ms: Milliseconds = 60_000
    compaction_check_ms: Milliseconds = 15_000
    compaction_memory_bytes: Annotated[int, Meta(ge=64 * KIB)] = 64 * MIB  # of the map of keys
    storage_check_ms: Milliseconds = 1_000
    storage_slow_ms: Milliseconds = 1_000  # a sync that takes longer: leadership moves to others that are in sync
    storage_min_free_bytes: Annotated[int, Meta(ge=0)] = 64 * MIB  # below it a directory takes no records
    replica_lag_ms: Milliseconds = 3_000  # a follower that has not caught up for so long leaves the in-sync set
    replica_fetch_wait_ms: Milliseconds = 1_000  # how long a leader parks a follower's fetch
    replica_fetch_bytes: Positive = 8 * MIB  # of one reply to a follower
    leader_rebalance_ms: Annotated[int, Meta(ge=0)] = 10_000  # between looks for preferred leaders; 0: by hand only
    default_partitions: Positive = 1
    default_replication_factor: Annotated[int, Meta(ge=1, le=32)] = 3  # or as many as there are brokers
    auto_create_topics: bool = False
    offsets_topic_partitions: Annotated[int, Meta(ge=1, le=10_000)] = 50  # of __consumer_offsets, once it is made
    offsets_topic_replication_factor: Annotated[int, Meta(ge=1, le=32)] = 3  # likewise; or as many as there are
    offsets_topic_ahead_ms: Annotated[int, Meta(ge=0)] = 3_000  # between looks whether to make it; 0: when first asked
    offsets_retention_ms: Annotated[int, Meta(ge=1)] = 7 * 24 * 3_600_000  # counted while a group has no members
    offset_metadata_bytes_max: Annotated[int, Meta(ge=0, le=MIB)] = 4_096  # of one committed offset, as UTF-8
    group_session_timeout_ms_min: Milliseconds = 1_000
    group_session_timeout_ms_max: Milliseconds = 1_800_000
    group_fetch_stall_ms: Annotated[int, Meta(ge=0)] = 30_000  # owned, led and not fetched so long: reset; 0: never
    group_members_max: Positive = 1_000
    groups_max: Positive = 10_000  # of one partition of __consumer_offsets

    def __post_init__(self) -> None:
        if self.session_timeout_ms < 2 * self.heartbeat_ms:
            raise ValueError(
                "session_timeout_ms must be at least twice heartbeat_ms, or one late heartbeat ends a session"
            )
        if self.group_session_timeout_ms_max < self.group_session_timeout_ms_min:
            raise ValueError("group_session_timeout_ms_max must not be below group_session_timeout_ms_min")


class ClusterConfig(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """What ``callboard up`` takes, from its options and from ``--config FILE.toml``."""

    brokers: Annotated[int, Meta(ge=1, le=64)] = 3
    data_dir: str = "callboard-data"
    data_dirs: tuple[str, ...] = ()  # more directories for logs, beside data_dir: best one a disk
    host: str = "127.0.0.1"
    port: Port = 9_192  # broker i listens on port + i - 1; 0: any free ports
    insecure: bool = False  # allow a bind that is not loopback, without encryption
    peer_port: Port = 0  # broker i listens for other brokers on peer_port + i - 1; 0: any free ports
    desk_port: Port = 0  # of the host's own door, for `callboard tree` and the like; 0: any free port
    advertise: str = ""  # HOST or HOST:PORT that others reach this host at; "": as it is bound
    advertise_peers: str = ""  # likewise, for brokers; "": the host of ``advertise``
    advertise_desk: str = ""  # likewise, for the host's own door
    metadata_listen: str = ""  # tcp://HOST:PORT where other hosts may join; "": nobody can
    join: str = ""  # tcp://HOST:PORT of another host's metadata process; "": this host has its own
    host_name: str = ""  # "": "host" for the first one, the machine's name for one that joins
    first_broker_id: Annotated[int, Meta(ge=0, le=INT32_MAX)] = 0  # of a host that joins; 0: the cluster's next
    experiments: bool = False  # allow pauses, hangs, cut links and the like, on request of whoever reaches a port
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    topic: TopicConfig = msgspec.field(default_factory=TopicConfig)
    broker: BrokerSettings = msgspec.field(default_factory=BrokerSettings)
    limits: Limits = msgspec.field(default_factory=Limits)


def log_directories(config: ClusterConfig, broker: str) -> tuple[str, ...]:
    """Return where the logs of one broker lie: a directory of its own in each data directory."""
    return tuple(f"{data_dir}/{broker}" for data_dir in (config.data_dir, *config.data_dirs))


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the host supervisor hands to a process it starts. Picklable."""

    name: str  # "metadata", "broker-1"
    cluster: ClusterConfig
    incarnation: str  # new at each start
    run_dir: str  # for ipc sockets: short, private
    cluster_id: str = ""
    broker_id: int = -1
    port: int = 0
    peer_port: int = 0
    number: int = 0  # of the broker among those of its host, from 0
    host_name: str = "host"
    metadata_endpoint: str = ""  # of the metadata process; for itself: where to bind
    restarts: int = 0


def configure(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Return ``kind`` made of ``values``; what is not given keeps its default.

    Args:
        where: what a person would call the place, e.g. ``"topic orders"``; begins the message of an error.

    Raises:
        ConfigurationError: an unknown name (the nearest valid one is told) or a value of the wrong type or size.
    """
    _refuse_unknown_names(kind, values, where)
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {_in_words(str(error), values, kind)}") from None
    except UnicodeEncodeError as error:  # bytes of a command line that are no text
        raise ConfigurationError(f"{where}: {shown(error.object)} is not text in UTF-8") from None


def defaults_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return every setting of ``kind`` with its default, for tables and documents."""
    return {name: getattr(kind(), name) for name in kind.__struct_fields__}


def load_toml(path: str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML; the message tells the line.
    """
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ConfigurationError(f"{path}: not a TOML file: nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number with more digits than Python takes
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from None


def shown(value: Any) -> str:
    """Return what somebody else gave, as it may stand in a message: one line, not too long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def nearest(name: str, valid: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest valid name, or ``""`` when none is near."""
    import difflib

    if len(name) > SHOWN_CHARS_MAX:
        return ""  # no typing error; and comparing takes time for each character
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def nearest_address(address: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"``: the addresses that end with this one; if none does, the nearest."""
    addresses = sorted(known)
    path = address.strip("/")
    ending = [one for one in addresses if one.endswith(f"/{path}")] if path else []
    if not ending:
        return nearest(address, addresses)
    named = [repr(one) for one in ending[:ADDRESSES_NAMED_MAX]]
    more = f" ({len(ending) - len(named)} more)" if len(ending) > len(named) else ""
    return f"; did you mean {' or '.join(named)}{more}?"


def _refuse_unknown_names(kind: type[msgspec.Struct], values: Mapping[str, Any], where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in values.items():
        if name not in fields:
            raise ConfigurationError(f"{where}: there is no setting {shown(name)}{nearest(name, fields)}")
        inner = fields[name]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(value, Mapping):
            _refuse_unknown_names(inner, value, f"{where}: {name}")


def _in_words(message: str, values: Mapping[str, Any], kind: type[msgspec.Struct]) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.port``` into ``port: expected int, got str ('x')``."""
    text, _, path = message.partition(" - at ")
    place = path.strip("`").removeprefix("$.").removeprefix("$")
    text = text.replace("`", "").replace("Expected", "expected").replace("Invalid", "invalid")
    text = text if len(text) <= 2 * SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"
    found: Any = values
    expected: Any = kind
    for step in place.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
        expected = _type_of(expected, step)
    if text.startswith("invalid enum") and (valid := _choices(expected)):
        near = nearest(found, valid) if isinstance(found, str) else ""
        return f"{place}: expected one of {', '.join(valid)} (given: {shown(found)}){near}"
    given = f" (given: {shown(found)})" if found is not None else ""
    return f"{place}: {text}{given}" if place else text


def _type_of(kind: Any, name: str) -> Any:
    """Return the type of a setting of ``kind``; None: there is none."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    return next((field.type for field in msgspec.structs.fields(kind) if field.name == name), None)


def _choices(expected: Any) -> tuple[str, ...]:
    """Return the values that a setting of this type may have, each once; none: it is no choice between values."""
    if get_origin(expected) is Literal:
        return tuple(dict.fromkeys(map(str, get_args(expected))))
    return tuple(choice for part in get_args(expected) for choice in _choices(part))
