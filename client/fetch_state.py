"""One partition that is being read, as the fetcher keeps it; and the credit that ties it to its consumer."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CallboardError
from ..model import TopicPartition
from .lookahead import Lookahead
from .metadata import PartitionLeader

NEVER_FED_MS = -(1 << 62)


class Credit:
    """Bytes that have been fetched and not yet consumed. Two threads, one number each: no lock.

    The I/O thread adds to ``fetched`` and sets ``is_wanted``, *then* looks at ``consumed``; the consumer adds to
    ``consumed``, *then* looks at ``is_wanted``: one of them sees the other.
    """

    __slots__ = ("consumed", "fetched", "is_wanted")

    def __init__(self) -> None:
        self.fetched = 0  # moved by the I/O thread only
        self.consumed = 0  # moved by the consumer's side only, under its lock; <= fetched
        self.is_wanted = False  # the I/O thread waits for credit

    @property
    def buffered(self) -> int:
        return self.fetched - self.consumed


class Flight(NamedTuple):
    """A partition's part in a request under way."""

    request_id: int
    is_guess: bool


class FetchState:
    """One partition that is being read."""

    __slots__ = (
        "credit",
        "error",
        "failures",
        "fed_until_ms",
        "fetch_offset",
        "flights",
        "generation",
        "high_watermark",
        "is_asking_offset",
        "is_paused",
        "is_truncated",
        "key",
        "last_epoch",
        "leader",
        "lookahead",
        "reset_to",
        "retry_at_ms",
        "topic_id",
    )

    def __init__(self, key: TopicPartition, generation: int, credit: Credit) -> None:
        self.key = key
        self.generation = generation  # of the position: grows with each seek
        self.credit = credit
        self.fetch_offset: int | None = None  # next to be fetched; None: not known, see reset_to
        self.last_epoch = -1  # leader epoch of the record before ``fetch_offset``, as it was fetched; -1: none was
        self.reset_to: int | None = None  # the timestamp to look an offset up for
        self.is_asking_offset = False
        self.is_paused = False
        self.is_truncated = False  # the consumer has to go back first
        self.flights: list[Flight] = []  # in the order of their offsets; at most FLIGHTS_MAX
        self.lookahead = Lookahead()
        self.high_watermark = 0  # as the last answer told it
        self.leader: PartitionLeader | None = None  # of the requests under way
        self.topic_id = ""  # the incarnation that fetch_offset belongs to
        self.failures = 0  # in a row
        self.retry_at_ms = 0
        # Until then it counts as fetched (``evidence``): an answer has come, and what was asked since is not late.
        self.fed_until_ms = NEVER_FED_MS
        self.error: CallboardError | None = None  # told to the consumer, until it seeks or the error has passed

    def begin_at(self, offset: int | None, reset_to: int | None) -> None:
        """The next to be fetched is this, or where ``reset_to`` says: nothing before it was seen."""
        self.fetch_offset, self.reset_to, self.last_epoch = offset, reset_to, -1
        self.is_truncated = False

    @property
    def in_flight(self) -> int:
        """How many requests hold it."""
        return len(self.flights)

    @property
    def is_behind(self) -> bool:
        """Whether a fetch is answered at once."""
        return self.fetch_offset is not None and self.fetch_offset < self.high_watermark

    @property
    def is_waiting(self) -> bool:
        """Whether a fetch lies at the leader for what is written next: the high watermark is known until it answers."""
        return bool(self.flights) and self.fetch_offset is not None and self.fetch_offset >= self.high_watermark

    def land(self, request_id: int) -> tuple[int, Flight] | None:
        """Take out the flight that has ended, and say how many come before it; None: it is not ours any more."""
        for place, flight in enumerate(self.flights):
            if flight.request_id == request_id:
                del self.flights[place]
                return place, flight
        return None
