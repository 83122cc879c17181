"""Everything that can go wrong, by name.

    CallboardError
    ├── ClientError                     found by the client itself, nothing was asked of a broker
    │   ├── ConfigurationError          an unknown or unusable setting (names the nearest valid one)
    │   ├── IllegalStateError           used after close, or in an order that makes no sense
    │   ├── IllegalArgumentError        (also a ValueError)
    │   ├── SerializationError          a serializer or deserializer failed; carries the raw data
    │   ├── BufferExhaustedError        the producer's buffer_memory is full
    │   ├── CallboardTimeoutError       a bound the caller gave has passed (also a TimeoutError)
    │   ├── ConnectionFailedError       no broker could be reached: which endpoint, which stage, what to try
    │   ├── DeliveryError               flush/close: some records were not delivered; ``.failed`` lists them
    │   ├── NoOffsetForPartitionError   no position, and auto_offset_reset is "none"
    │   ├── CommitFailedError           the member is out of its group: who owns its partitions now
    │   ├── MembershipLostError         likewise, told to ``on_error`` when it happens
    │   └── ForkedClientError           the object was made before a fork
    ├── BrokerResponseError             a broker refused; one subclass a code, ``.errno`` as in Kafka
    │   └── …                           see ``ErrorCode``
    ├── StorageError                    a log directory failed; the actor that owns it fails with it
    │   ├── StorageFull                 the disk is full: nothing was written, the log lives on
    │   └── StorageCorruption           bytes that were once on disk are damaged or gone: which file, where
    └── InvariantViolated               a rule found its own state impossible: a bug, never handled

Every error answers two questions: ``retriable`` (may the same request succeed later, unchanged?) and
``outcome_unknown`` (may the request have taken effect although an error came back?).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from .codes import ErrorCode

__all__ = ["CallboardError", "ErrorCode", "error_for_code"]  # the classes are exported by name from the package root


class CallboardError(Exception):
    """Base of every error that Callboard raises."""

    retriable: ClassVar[bool] = False
    outcome_unknown: bool = False  # of the class; an object may know better, see ``as_unknown``

    def as_unknown(self) -> Self:
        """Return this error, saying that what failed may have taken effect all the same: an earlier attempt at it."""
        if self.outcome_unknown:
            return self
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__, outcome_unknown=True)
        other.args = (f"{self}; it was sent before, and may have taken effect", *self.args[1:])
        other.__cause__ = self.__cause__
        return other


class InvariantViolated(CallboardError):
    """A rule found its own state impossible. A bug: the actor fails and is restarted from what is on disk."""


class StorageError(CallboardError):
    """A file operation failed in a way that the log cannot undo; its directory is not used again until restart."""


class StorageFull(StorageError):
    """The disk is full. Nothing was written, the log is as it was and can still be read; retry when there is room."""


class StorageCorruption(StorageError):
    """Bytes that were once on disk are damaged or gone. Nothing was cut away: ``path`` and ``position`` say where."""

    def __init__(self, message: str, path: str = "", position: int = -1) -> None:
        super().__init__(message)
        self.path = path
        self.position = position


# -- found by the client ---------------------------------------------------------------------------


class ClientError(CallboardError):
    """Found by the client itself; no broker refused anything."""


class ConfigurationError(ClientError, ValueError):
    """A setting is unknown or unusable. The message names it, and the nearest valid name."""


class IllegalStateError(ClientError):
    """The object cannot do this now: it is closed, or something must be called first."""


class IllegalArgumentError(ClientError, ValueError):
    """An argument is outside its bounds."""


class SerializationError(ClientError):
    """A serializer or deserializer failed. ``data`` is what it was given; the cause is chained.

    ``record``: the one that a consumer could not read, as it lies in the log: key and value are bytes. ``offset`` is
    its own; None and -1 when there is no record yet.
    """

    def __init__(self, message: str, data: object = None, *, offset: int = -1, record: Any = None) -> None:
        super().__init__(message)
        self.data, self.offset, self.record = data, offset, record


class BufferExhaustedError(ClientError):
    """The producer's ``buffer_memory`` is full and stayed so for ``max_block_ms``."""

    retriable = True


class CallboardTimeoutError(ClientError, TimeoutError):
    """A bound that the caller gave has passed. What was asked may still happen."""

    retriable = True
    outcome_unknown = True


class ConnectionFailedError(ClientError, ConnectionError):
    """No broker could be reached. The message lists each endpoint tried, the stage that failed and what to try."""

    retriable = True


class ConnectionLostError(ClientError, ConnectionError):
    """The connection ended before the reply came: the request may or may not have taken effect."""

    retriable = True
    outcome_unknown = True


class DeliveryError(ClientError):
    """Some records were not delivered. ``failed`` holds their futures, in the order they were sent."""

    def __init__(self, message: str, failed: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.failed = list(failed)


class NoOffsetForPartitionError(ClientError):
    """A partition has no position and ``auto_offset_reset`` is ``"none"``."""


class LogTruncationError(ClientError):
    """Records that were read are not in the log any more: an unclean election chose a leader that did not have them.

    ``divergent_offsets``: of each partition the offset from which the log is another one; ``seek`` to it, or elsewhere.
    Raised with ``auto_offset_reset="none"``; otherwise the consumer goes back to it by itself.
    """

    def __init__(self, message: str, divergent_offsets: Mapping[Any, int]) -> None:
        super().__init__(message)
        self.divergent_offsets = dict(divergent_offsets)


class CommitFailedError(ClientError):
    """The commit was refused: the member was put out of its group, or the partitions are somebody else's by now.

    Nothing was committed; with ``outcome_unknown`` perhaps by an earlier attempt, when they were still its own. The
    message says who owns them, and in which generation. What was processed since the last commit may be processed again
    by others. The consumer joins again with the next ``poll``.
    """


class MembershipLostError(ClientError):
    """The member is out of its group: fenced, silent for too long, or stuck. It joins again; ``partitions`` are what it
    owned, and others may have them by now. Told to ``on_error``; a ``poll`` tells the rebalance listener.
    """

    def __init__(self, message: str, partitions: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.partitions = list(partitions)


class ForkedClientError(ClientError):
    """The client was made before a fork. Make a new one in the child process."""


# -- said by a broker ------------------------------------------------------------------------------


class BrokerResponseError(CallboardError):
    """A broker refused a request. ``errno`` is the code on the wire, ``advice`` what the caller can do.

    ``fault`` says whose move it is: ``"caller"`` (the request is wrong), ``"cluster"`` (passing state: an
    election, a restart, overload) or ``"broker"`` (something there failed).
    """

    errno: ClassVar[ErrorCode] = ErrorCode.UNKNOWN
    fault: ClassVar[str] = "broker"
    advice: ClassVar[str] = "look at the broker's log"

    def __init__(self, detail: str = "") -> None:
        self.detail = detail
        super().__init__(
            f"{detail} ({self.errno.name}: {self.advice})" if detail else f"{self.errno.name}: {self.advice}"
        )


class _Caller(BrokerResponseError):
    fault = "caller"


class _Cluster(BrokerResponseError):
    fault = "cluster"
    retriable = True


class _StaleMetadata(_Cluster):
    """The caller's picture of who leads is old: refresh metadata, then retry."""


class UnknownError(BrokerResponseError):
    errno, outcome_unknown = ErrorCode.UNKNOWN, True


class OffsetOutOfRangeError(_Caller):
    errno, advice = ErrorCode.OFFSET_OUT_OF_RANGE, "seek to an offset between the log start and the log end"


class CorruptRecordError(_Caller):
    errno, advice = ErrorCode.CORRUPT_RECORD, "the batch's checksum or layout is wrong; it was not stored or not served"


class UnknownTopicOrPartitionError(_StaleMetadata):
    errno, advice = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "check the name, or create the topic first"


class LeaderNotAvailableError(_StaleMetadata):
    errno, advice = ErrorCode.LEADER_NOT_AVAILABLE, "the partition has no leader just now; retry"


class NotLeaderForPartitionError(_StaleMetadata):
    errno, advice = ErrorCode.NOT_LEADER_FOR_PARTITION, "another broker leads; refresh metadata and retry there"


class RequestTimedOutError(_Cluster):
    errno, outcome_unknown = ErrorCode.REQUEST_TIMED_OUT, True
    advice = "the broker did not finish within the deadline; the request may have taken effect"


class BrokerNotAvailableError(_StaleMetadata):
    errno, advice = ErrorCode.BROKER_NOT_AVAILABLE, "the broker is starting or stopping; retry"


class MessageSizeTooLargeError(_Caller):
    errno, advice = (
        ErrorCode.MESSAGE_SIZE_TOO_LARGE,
        "send smaller records, or raise the producer's max_request_size and the topic's max_message_bytes",
    )


class StaleControllerEpochError(BrokerResponseError):
    errno, fault = ErrorCode.STALE_CONTROLLER_EPOCH, "cluster"
    advice = "another controller was elected; nothing was changed"


class OffsetMetadataTooLargeError(_Caller):
    errno, advice = ErrorCode.OFFSET_METADATA_TOO_LARGE, "shorten the metadata string of the commit"


class CoordinatorLoadInProgressError(_Cluster):
    errno, advice = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "the coordinator is replaying its log; retry"


class CoordinatorNotAvailableError(_StaleMetadata):
    errno, advice = ErrorCode.COORDINATOR_NOT_AVAILABLE, "the group has no coordinator just now; retry"


class NotCoordinatorError(_StaleMetadata):
    errno, advice = ErrorCode.NOT_COORDINATOR, "another broker coordinates this group; look it up again"


class InvalidTopicError(_Caller):
    errno, advice = (
        ErrorCode.INVALID_TOPIC,
        "use 1 to 249 letters, digits, '.', '_' or '-', not '.' or '..'; the cluster's own topics are only read",
    )


class NotEnoughReplicasError(_Cluster):
    errno, advice = (
        ErrorCode.NOT_ENOUGH_REPLICAS,
        "fewer replicas in sync than min_insync_replicas; nothing was appended",
    )


class NotEnoughReplicasAfterAppendError(_Cluster):
    errno, outcome_unknown = ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, True
    advice = "appended, but too few replicas are in sync to promise it"


class InvalidRequiredAcksError(_Caller):
    errno, advice = ErrorCode.INVALID_REQUIRED_ACKS, "acks is 0, 1 or 'all'"


class IllegalGenerationError(_Caller):
    errno, advice = ErrorCode.ILLEGAL_GENERATION, "the group has moved on; rejoin"


class InvalidGroupIdError(_Caller):
    errno, advice = ErrorCode.INVALID_GROUP_ID, "use a non-empty group id of at most 249 characters"


class UnknownMemberIdError(_Caller):
    errno, advice = ErrorCode.UNKNOWN_MEMBER_ID, "a consumer that polls joins again by itself"


class InvalidSessionTimeoutError(_Caller):
    errno, advice = ErrorCode.INVALID_SESSION_TIMEOUT, "keep session_timeout_ms within the broker's bounds"


class RebalanceInProgressError(_Cluster):
    errno, advice = ErrorCode.REBALANCE_IN_PROGRESS, "poll again; the assignment is changing"


class TopicAuthorizationFailedError(_Caller):
    errno, advice = ErrorCode.TOPIC_AUTHORIZATION_FAILED, "ask for a permission on the topic"


class GroupAuthorizationFailedError(_Caller):
    errno, advice = ErrorCode.GROUP_AUTHORIZATION_FAILED, "ask for a permission on the group"


class ClusterAuthorizationFailedError(_Caller):
    errno, advice = ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "ask for a permission on the cluster"


class InvalidTimestampError(_Caller):
    errno, advice = ErrorCode.INVALID_TIMESTAMP, "give timestamps in milliseconds since 1970"


class UnsupportedVersionError(_Caller):
    errno, advice = ErrorCode.UNSUPPORTED_VERSION, "client and broker are too far apart; upgrade the older one"


class TopicAlreadyExistsError(_Caller):
    errno, advice = ErrorCode.TOPIC_ALREADY_EXISTS, "choose another name, or use the topic that is there"


class InvalidPartitionsError(_Caller):
    errno, advice = (
        ErrorCode.INVALID_PARTITIONS,
        "give a partition count of 1 or more, above the present one when adding",
    )


class InvalidReplicationFactorError(_Caller):
    errno, advice = ErrorCode.INVALID_REPLICATION_FACTOR, "use 1 up to the number of brokers"


class InvalidReplicaAssignmentError(_Caller):
    errno, advice = ErrorCode.INVALID_REPLICA_ASSIGNMENT, "name distinct brokers that exist, equally many a partition"


class InvalidConfigurationError(_Caller):
    errno, advice = ErrorCode.INVALID_CONFIGURATION, "see docs/operations.md for the settings and their bounds"


class NotControllerError(_StaleMetadata):
    errno, advice = ErrorCode.NOT_CONTROLLER, "another broker is the controller; refresh metadata and ask it"


class InvalidRequestError(_Caller):
    errno, advice = ErrorCode.INVALID_REQUEST, "the request is malformed; see docs/protocol.md"


class OutOfOrderSequenceNumberError(_Caller):
    errno, advice = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "a batch before this one is missing; nothing was appended"


class DuplicateSequenceNumberError(_Caller):
    errno, advice = ErrorCode.DUPLICATE_SEQUENCE_NUMBER, "appended before, too long ago to tell its offset"


class InvalidProducerEpochError(_Caller):
    errno, advice = ErrorCode.INVALID_PRODUCER_EPOCH, "a newer session of this producer exists; make a new producer"


class StorageFailedError(_Cluster):
    errno, fault, advice = ErrorCode.STORAGE_ERROR, "broker", "a log directory failed there; its disk needs a look"


class UnknownProducerIdError(_Caller):
    errno, advice = ErrorCode.UNKNOWN_PRODUCER_ID, "the broker no longer knows this producer; make a new producer"


class NonEmptyGroupError(_Caller):
    errno, advice = ErrorCode.NON_EMPTY_GROUP, "stop the group's members first"


class GroupIdNotFoundError(_Caller):
    errno, advice = ErrorCode.GROUP_ID_NOT_FOUND, "check the group id"


class FetchSessionIdNotFoundError(_Cluster):
    errno, advice = ErrorCode.FETCH_SESSION_ID_NOT_FOUND, "the leader has forgotten this fetch session; begin another"


class FencedLeaderEpochError(_StaleMetadata):
    errno, advice = ErrorCode.FENCED_LEADER_EPOCH, "the request is of an older leader epoch; refresh metadata"


class UnknownLeaderEpochError(_StaleMetadata):
    errno, advice = (
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        "the request is of a newer leader epoch than this broker knows; retry",
    )


class UnsupportedCompressionTypeError(_Caller):
    errno, advice = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "use none, gzip, snappy, lz4 or zstd"


class StaleBrokerEpochError(BrokerResponseError):
    errno, fault = ErrorCode.STALE_BROKER_EPOCH, "cluster"
    advice = "this broker's session has ended; it must open a new one"


class MemberIdRequiredError(_Cluster):
    errno, advice = ErrorCode.MEMBER_ID_REQUIRED, "join again with the member id that was given"


class FencedInstanceIdError(_Caller):
    errno, advice = ErrorCode.FENCED_INSTANCE_ID, "another member uses the same group_instance_id"


class EligibleLeadersNotAvailableError(_Cluster):
    errno = ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
    advice = "no live replica may lead; start one that is in sync, or accept loss: callboard elect --unclean"


class ElectionNotNeededError(_StaleMetadata):
    """Retriable, as in Kafka: whoever asked was behind. Nobody here asks again: it counts as success."""

    errno, advice = ErrorCode.ELECTION_NOT_NEEDED, "it leads already, or somebody does: nothing to do; refresh metadata"


class GroupSubscribedToTopicError(_Caller):
    errno, advice = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, "members of the group read this topic; stop them first"


class InvalidRecordError(_Caller):
    errno, advice = ErrorCode.INVALID_RECORD, "the topic does not accept such a record"


class ProducerFencedError(_Caller):
    errno, advice = ErrorCode.PRODUCER_FENCED, "a newer producer took over; close this one"


class InvalidUpdateVersionError(_Cluster):
    errno, advice = ErrorCode.INVALID_UPDATE_VERSION, "the partition was changed meanwhile; look again, then retry"


class UnknownTopicIdError(_StaleMetadata):
    errno, advice = ErrorCode.UNKNOWN_TOPIC_ID, "the topic was deleted or re-created; refresh metadata"


class DuplicateBrokerRegistrationError(_Caller):
    errno = ErrorCode.DUPLICATE_BROKER_REGISTRATION
    advice = "an id, a name and a data directory belong together, and to one broker or host only"


class InconsistentClusterIdError(_Caller):
    errno, advice = (
        ErrorCode.INCONSISTENT_CLUSTER_ID,
        "this is another cluster; check the address, or the data directory",
    )


class IneligibleReplicaError(_Cluster):
    errno, advice = ErrorCode.INELIGIBLE_REPLICA, "the replica is not live in that incarnation, or gave up; retry later"


class FencedMemberEpochError(_Caller):
    errno, advice = ErrorCode.FENCED_MEMBER_EPOCH, "the coordinator has fenced this member; rejoin"


class UnsupportedAssignorError(_Caller):
    errno, advice = ErrorCode.UNSUPPORTED_ASSIGNOR, "name an assignor that every member of the group names, too"


class OverloadedError(_Cluster):
    errno, advice = ErrorCode.OVERLOADED, "the broker has too many requests waiting; retry after a pause"


class StoreConflictError(_Cluster):
    errno, advice = ErrorCode.STORE_CONFLICT, "the metadata changed meanwhile; nothing was written"


class StoreUnavailableError(_Cluster):
    errno, outcome_unknown = ErrorCode.STORE_UNAVAILABLE, True
    advice = "the metadata process did not answer; the change may have been made"


class UnknownAddressError(_Caller):
    errno, advice = ErrorCode.UNKNOWN_ADDRESS, "see `callboard tree` for the addresses there are"


class LimitExceededError(_Caller):
    errno, advice = ErrorCode.LIMIT_EXCEEDED, "a limit of the cluster is reached; see docs/operations.md"


class InternalError(BrokerResponseError):
    errno, outcome_unknown, retriable = ErrorCode.INTERNAL, True, True
    advice = "the actor that handled this failed and is being restarted; the request may have taken effect"


class StorageFullError(_Cluster):
    errno = ErrorCode.STORAGE_FULL
    advice = "the disk where it belongs is full, or nearly, and nothing was written; make room there"


class PartitionNotAssignedError(_Caller):
    errno, advice = ErrorCode.PARTITION_NOT_ASSIGNED, "commit only partitions of assignment(); nothing was committed"


def _leaves(cls: type[BrokerResponseError]) -> list[type[BrokerResponseError]]:
    below = [leaf for child in cls.__subclasses__() for leaf in _leaves(child)]
    return below or [cls]


ERRORS_BY_CODE: Mapping[int, type[BrokerResponseError]] = {
    int(leaf.errno): leaf for leaf in _leaves(BrokerResponseError)
}


def error_for_code(code: int, detail: str = "") -> BrokerResponseError:
    """Return the exception for a code in a reply; a code from a newer broker becomes ``UnknownError``."""
    error = ERRORS_BY_CODE.get(code)
    return error(detail) if error else UnknownError(f"{detail or 'unknown error'} [code {code}]")


def is_metadata_stale(code: int) -> bool:
    """Say whether this code means that the caller must refresh its metadata before it tries again."""
    return issubclass(ERRORS_BY_CODE.get(code, UnknownError), _StaleMetadata)
