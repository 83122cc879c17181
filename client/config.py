"""The settings of producers, consumers and admin clients: kafka-python's names where one exists.

Times are milliseconds and sizes are bytes, as the names say. ``from_keywords`` is the only way in; it refuses
unknown names (with the nearest valid one) and wrong types in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from ..config import INT32_MAX, KIB, MIB, Milliseconds, Positive, Settings, configure, nearest, shown
from ..errors import ConfigurationError
from ..transport.group_messages import ASSIGNORS

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
BackoffMilliseconds = Annotated[int, Meta(ge=1, le=600_000)]
AnyMilliseconds = Annotated[int, Meta(ge=0, le=INT32_MAX)]

GROUP_ID_MAX = 249  # characters
KAFKAS_ASSIGNORS = {"roundrobin": "round_robin", "cooperative-sticky": "sticky"}  # and what they are called here
IDEMPOTENT_IN_FLIGHT_MAX = 5  # a leader remembers the last five batches of a producer (replication.md B14)
FETCH_PARK_MS = 30_000  # how long an idle consumer's fetch waits at the broker, see ``ConsumerConfig``


class ClientConfig(Settings, frozen=True, kw_only=True):
    """What producers, consumers and admin clients have in common.

    ``bootstrap_servers``: ``"host:port"``, several with commas or as a list; also ``tcp://…`` and ``ipc:///…``.
    ``bootstrap_timeout_ms``: how long a call waits for the first contact with any broker before it raises
    ``ConnectionFailedError``, which lists every endpoint tried; connecting goes on in the background. After one second
    the logger ``callboard.client`` warns with the same words.

    ``on_error``: called with a ``CallboardError`` that no call of yours would raise in time, on a thread of its own:
    it may block and call the client, and what it raises is logged. A client calls it when no broker has been reachable
    for a second at first, for five once one was (``ConnectionFailedError``, once an outage); a consumer also
    when its member is out of its group (``MembershipLostError``, or the refusal for which it stays out), when a commit
    failed that nobody waits for and that has no callback, and when what was read is lost by an unclean election
    (``LogTruncationError``); any client when a part of it fails, a bug of ours (``CallboardError``). One of a class a
    second, at most. Of an asyncio twin a coroutine function is awaited on the event loop.
    """

    bootstrap_servers: str | list[str] = "localhost:9192"
    client_id: str = ""  # seen in the tree, logs and metrics of the brokers; "": made up
    request_timeout_ms: Milliseconds = 30_000
    bootstrap_timeout_ms: Milliseconds = 10_000
    metadata_max_age_ms: Milliseconds = 300_000
    retry_backoff_ms: BackoffMilliseconds = 50  # doubled with each failure in a row, with jitter …
    retry_backoff_max_ms: BackoffMilliseconds = 1_000  # … up to this
    unknown_topic_timeout_ms: AnyMilliseconds = (
        2_000  # a topic may just have been created: believe "unknown" after this
    )
    close_timeout_ms: AnyMilliseconds = 5_000  # the bound of close() when the call gives none
    on_error: Any = None  # called with errors that no call raises


class ProducerConfig(ClientConfig, frozen=True, kw_only=True):
    """What ``Producer(**settings)`` takes.

    ``batch_size`` is larger than Kafka's 16 KiB: with ``linger_ms=0`` a batch leaves as soon as the connection
    can take it, so the size only bounds how much is grouped while it cannot, and larger groups are what makes
    a Python client fast. Leave it below the topic's ``max_message_bytes``.

    ``enable_idempotence=None``: on, unless ``acks=0`` (where nobody would hear of a refusal). Without it, one batch
    of a partition is under way at a time, so that a retry cannot reorder.

    ``on_full``: when ``buffer_memory`` is used up ``send`` waits up to ``max_block_ms`` ("block") or raises
    ``BufferExhaustedError`` at once ("raise"). Nothing else in ``send`` ever blocks.

    ``retries=None``: until ``delivery_timeout_ms`` has passed since ``send``.
    """

    acks: Literal[0, 1, -1, "0", "1", "-1", "all"] = "all"
    enable_idempotence: bool | None = None
    compression_type: Compression | None = None
    batch_size: Annotated[int, Meta(ge=0, le=64 * MIB)] = 1_000_000
    linger_ms: AnyMilliseconds = 0
    buffer_memory: Annotated[int, Meta(ge=KIB)] = 64 * MIB
    on_full: Literal["block", "raise"] = "block"
    max_block_ms: AnyMilliseconds = 60_000
    max_request_size: Annotated[int, Meta(ge=1, le=64 * MIB)] = 1 * MIB  # of one record, before compression
    timeout_ms: Milliseconds = 30_000  # how long a broker may wait for the in-sync replicas (then RequestTimedOutError)
    delivery_timeout_ms: Milliseconds = 120_000
    retries: Annotated[int, Meta(ge=0)] | float | None = None
    max_in_flight_requests_per_connection: Annotated[int, Meta(ge=1, le=1_000)] = 5
    partitioner: Any = "crc32"  # "crc32", "murmur2", "round_robin", or an object/callable of your own
    key_serializer: Any = None
    value_serializer: Any = None

    @property
    def acks_code(self) -> int:
        """``acks`` as it stands in a request: 0, 1, or -1 for all."""
        return -1 if self.acks == "all" else int(self.acks)

    @property
    def is_idempotent(self) -> bool:
        return self.acks_code != 0 if self.enable_idempotence is None else self.enable_idempotence

    @property
    def compression(self) -> Compression:
        return self.compression_type or "none"

    @property
    def retries_max(self) -> float:
        return float("inf") if self.retries is None else float(self.retries)

    def check(self) -> None:
        if self.enable_idempotence and self.acks_code == 0:
            raise ConfigurationError("producer: enable_idempotence=True needs acks=1 or acks='all'")
        if self.is_idempotent and self.max_in_flight_requests_per_connection > IDEMPOTENT_IN_FLIGHT_MAX:
            raise ConfigurationError(
                "producer: max_in_flight_requests_per_connection above 5 needs enable_idempotence=False; "
                "a broker remembers the last 5 batches of a producer"
            )
        if self.batch_size > self.buffer_memory:
            raise ConfigurationError("producer: batch_size must not be above buffer_memory")
        if self.delivery_timeout_ms < self.linger_ms:
            raise ConfigurationError("producer: delivery_timeout_ms must not be below linger_ms")


class ConsumerConfig(ClientConfig, frozen=True, kw_only=True):
    """What ``Consumer(*topics, **settings)`` takes.

    ``fetch_max_wait_ms`` bounds how long a broker waits for ``fetch_min_bytes``. With ``fetch_min_bytes=1`` there is
    nothing to wait for but the first record, so an idle fetch is left at the broker for 30 s: an idle consumer
    does not wake up twice a second for nothing.

    ``fetch_max_bytes`` also bounds what is prefetched and not yet polled, over all partitions; of one partition it is
    less than three times ``max_partition_fetch_bytes`` (unless a single batch is larger).

    ``default_poll_ms``: what ``poll()`` waits when it is not told. ``raise_after_ms``: how long no broker may be
    reachable before ``poll`` raises ``ConnectionFailedError`` (None: never; ``health()`` tells).

    ``group_id``: be one of this group: the coordinator gives each partition to one member, and offsets are committed
    (docs/groups.md). The I/O thread keeps the member alive, however seldom the application polls: silent for
    ``session_timeout_ms``, it is out. ``max_poll_interval_ms`` is for an application that is stuck: it leaves, and
    joins again with the next poll. Each is two ``heartbeat_interval_ms`` at least. ``group_instance_id``: a name that
    stays when the process is restarted within a session timeout: it gets its partitions back and nobody else's move.
    ``partition_assignment_strategy``: "range", "round_robin" ("roundrobin", as Kafka spells it), "sticky", or several;
    the group uses the first that all its members name. Also kafka-python's assignors, classes or instances: their names
    count, those not known are passed over.

    ``enable_auto_commit``: every ``auto_commit_interval_ms``, in ``poll``, commit what the polls *before* have
    returned; of an iteration the records whose step has finished. Also before partitions go, and on ``close``.

    ``on_bad_record``: what happens when a deserializer fails: "raise" (a ``SerializationError`` that has the raw
    record; the position stays, ``seek`` past it to go on), "skip" (logged), ``callboard.dlq(topic)`` (it goes to a
    dead-letter topic), or a handler of your own: called with the error within ``poll``, outside all locks; when it
    returns the record counts as done, when it raises ``poll`` raises that, and the record stays the next one. It may
    seek, pause, commit and close, and must not poll. Of an ``AsyncConsumer`` a coroutine function is awaited on the
    event loop, and a plain one called in a thread.
    """

    group_id: str | None = None
    group_instance_id: str | None = None
    session_timeout_ms: Milliseconds = 10_000  # the brokers bound it
    heartbeat_interval_ms: Milliseconds = 1_000
    max_poll_interval_ms: Milliseconds = 300_000
    enable_auto_commit: bool = True
    auto_commit_interval_ms: AnyMilliseconds = 5_000
    default_offset_commit_callback: Any = None  # (offsets, error), of a commit_async without a callback
    partition_assignment_strategy: Any = "sticky"
    auto_offset_reset: Literal["latest", "earliest", "none"] = "latest"
    key_deserializer: Any = None
    value_deserializer: Any = None
    fetch_min_bytes: Annotated[int, Meta(ge=1, le=INT32_MAX)] = 1
    fetch_max_wait_ms: AnyMilliseconds = 500
    fetch_max_bytes: Annotated[int, Meta(ge=KIB, le=INT32_MAX)] = 50 * MIB
    max_partition_fetch_bytes: Annotated[int, Meta(ge=64, le=INT32_MAX)] = 1 * MIB
    max_poll_records: Positive = 500
    check_crcs: bool = True
    consumer_timeout_ms: AnyMilliseconds | float | None = None  # iteration ends after so long without a record
    default_poll_ms: AnyMilliseconds = 1_000
    raise_after_ms: Milliseconds | None = 30_000
    on_bad_record: Any = "raise"  # "raise", "skip", callboard.dlq(topic), or a callable
    exclude_internal_topics: bool = True

    def check(self) -> None:
        if self.on_bad_record not in ("raise", "skip") and not callable(self.on_bad_record):
            given = f"{self.on_bad_record!r:.100}"
            raise ConfigurationError(
                f"consumer: on_bad_record: use 'raise', 'skip', callboard.dlq(topic) or a callable (given: {given})"
            )
        self._check_assignors()
        if self.group_id is None:
            if self.group_instance_id is not None:
                raise ConfigurationError("consumer: group_instance_id needs a group_id")
            return
        if not 1 <= len(self.group_id) <= GROUP_ID_MAX:
            raise ConfigurationError(
                f"consumer: group_id: 1 to {GROUP_ID_MAX} characters (given: {len(self.group_id)})"
            )
        if not self.group_id.isprintable():
            raise ConfigurationError(f"consumer: group_id: {self.group_id!r} holds a character that cannot be printed")
        if self.group_instance_id is not None and not 1 <= len(self.group_instance_id) <= GROUP_ID_MAX:
            raise ConfigurationError(f"consumer: group_instance_id: 1 to {GROUP_ID_MAX} characters")
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            raise ConfigurationError(
                "consumer: heartbeat_interval_ms must be at most half of session_timeout_ms: else one lost heartbeat "
                f"ends the session (given: {self.heartbeat_interval_ms:,} and {self.session_timeout_ms:,})"
            )
        if self.heartbeat_interval_ms * 2 > self.max_poll_interval_ms:
            raise ConfigurationError(
                "consumer: heartbeat_interval_ms must be at most half of max_poll_interval_ms: else what is given back "
                f"may be heard of too late (given: {self.heartbeat_interval_ms:,} and {self.max_poll_interval_ms:,})"
            )
        if self.default_offset_commit_callback is not None and not callable(self.default_offset_commit_callback):
            raise ConfigurationError("consumer: default_offset_commit_callback: expected a callable")

    def _check_assignors(self) -> None:
        given = _listed(self.partition_assignment_strategy)
        misspelt = [one for one in given if isinstance(one, str) and _assignor(one) is None]
        if self.assignors and not misspelt:
            return
        wrong = misspelt or given
        named = f"(given: {', '.join(shown(_name_of(one)) for one in wrong) or 'none'})"
        near = nearest(wrong[0], ASSIGNORS) if misspelt else ""
        raise ConfigurationError(
            f"consumer: partition_assignment_strategy: use {', '.join(ASSIGNORS)}, or several of them {named}{near}"
        )

    @property
    def assignors(self) -> tuple[str, ...]:
        """The assignors' names, in their order, as brokers know them."""
        found = (_assignor(one) for one in _listed(self.partition_assignment_strategy))
        return tuple(dict.fromkeys(name for name in found if name is not None))

    @property
    def park_ms(self) -> int:
        """How long a fetch with nothing to read may wait at the broker."""
        return FETCH_PARK_MS if self.fetch_min_bytes == 1 else self.fetch_max_wait_ms


class AdminConfig(ClientConfig, frozen=True, kw_only=True):
    """What ``AdminClient(**settings)`` takes."""

    def check(self) -> None:
        """There is nothing that contradicts."""


C = TypeVar("C", ProducerConfig, ConsumerConfig, AdminConfig)


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _name_of(assignor: Any) -> str:
    """Return the name of an assignor: it is one, or has one, as kafka-python's classes have."""
    name = assignor if isinstance(assignor, str) else getattr(assignor, "name", None)
    return name if isinstance(name, str) else repr(assignor)


def _assignor(given: Any) -> str | None:
    name = KAFKAS_ASSIGNORS.get(_name_of(given), _name_of(given))
    return name if name in ASSIGNORS else None


def _is_text(value: str) -> bool:
    """Say whether a string can be sent; names from undecodable bytes (``surrogateescape``) cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_keywords(kind: type[C], settings: Mapping[str, Any], where: str) -> C:
    """Return checked settings.

    Raises:
        ConfigurationError: an unknown name, a wrong type, a value out of bounds, or two that contradict.
    """
    for name, value in settings.items():
        if isinstance(value, str) and not _is_text(value):
            raise ConfigurationError(f"{where}: {name}: {value!r:.100} is no text: it has half of a surrogate pair")
    config = configure(kind, settings, where)
    if config.on_error is not None and not callable(config.on_error):
        raise ConfigurationError(f"{where}: on_error: expected a callable, got {type(config.on_error).__name__}")
    config.check()
    return config
