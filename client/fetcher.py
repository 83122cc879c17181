"""Which partitions to fetch, from which broker, and when. Pure: ``(state, event, now) → effects``.

The problem: keep data ready for a consumer that polls when it likes, without asking for more than it may hold, and
without waking up for nothing.

Rules of this file:

1. A partition is in at most two requests: one for what comes next, and, while it is behind, one for a guess at what
   follows (``lookahead.py``). Several requests to a broker may be unanswered: one that waits for idle partitions must
   not hold up another partition that is behind.
2. Credit: a partition is fetched again when less than ``partition_bytes`` of it is buffered, and nothing is fetched
   when ``buffer_bytes`` are buffered altogether. What the consumer has taken is given back through ``Credit``. A guess
   must leave room in ``buffer_bytes`` for all that is under way.
3. An idle fetch waits at the broker, and is answered the moment there is something: at first ``WAIT_MS_MIN``, then as
   long as nothing has come from that broker, ``wait_ms`` at most. So whoever is idle costs next to nothing, and whoever
   reads what is written just now notices soon that nothing comes (rule 6). What ``fetch_min_bytes`` asks for is waited
   for as long as the application says. After a failure the wait is short once: only an answer shows that it is over.
4. An answer counts only for the fetch it belongs to: a seek, another leader or another incarnation of the topic
   begins a new ``generation`` or a new request, and what comes for the old one is dropped. The answer to a guess
   counts only if it joins on to what is there; if not, or if it is an error, what comes next is asked for exactly, and
   that answer tells.
5. Errors that pass (no leader, another leader) refresh the metadata and are tried again, at once when newer metadata
   names another leader. An offset outside the log is reset by policy, or told. Anything else is told.
6. A broker that was stopped, or hangs, neither answers nor ends its connection. When the answer to a fetch is late by
   ``SLOW_ANSWER_MS`` metadata are asked of others; when they name another leader, rule 4 does the rest.
7. A fetch says of which leader epoch the last record was that came before it. A log that has other records there, after
   an unclean election, has been truncated: the consumer goes back, or is told (B13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import (
    BrokerResponseError,
    CallboardError,
    ErrorCode,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    error_for_code,
    is_metadata_stale,
)
from ..model import TopicPartition
from ..transport.messages import EARLIEST_TIMESTAMP, FetchEntry, FetchEntryReply
from .fetch_state import Credit, FetchState, Flight
from .lookahead import Span
from .metadata import PartitionLeader
from .patience import ELECTION_BACKOFF_MS, LOOK_AGAIN_MS, SLOW_ANSWER_MS, DoubtBrokers

FLIGHTS_MAX = 2  # requests that a partition is in
WAIT_MS_MIN = 500  # rule 3
GRACE_MS = 3_000  # from an answer to the next request, if there is to be one: pauses are shorter


class FetchSettings(NamedTuple):
    wait_ms: int  # how long a broker may wait for min_bytes, at most
    min_bytes: int
    buffer_bytes: int
    partition_bytes: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    reset_timestamp: int | None  # what auto_offset_reset means; None: no reset


# -- effects ---------------------------------------------------------------------------------------


class SendFetch(NamedTuple):
    """Send it; report under ``request_id``, once."""

    request_id: int
    broker_id: int
    entries: tuple[FetchEntry, ...]
    max_bytes: int
    wait_ms: int


class LookUpOffset(NamedTuple):
    """Find the offset for a timestamp; answer with ``on_offset``."""

    key: TopicPartition
    generation: int
    timestamp_ms: int


class Deliver(NamedTuple):
    """Batches for the consumer: whole ones, the first may begin below ``from_offset``."""

    key: TopicPartition
    generation: int
    from_offset: int
    data: bytes


class TellPosition(NamedTuple):
    """The position was looked up."""

    key: TopicPartition
    generation: int
    offset: int


class TellError(NamedTuple):
    """Something the application must know; None: it has passed."""

    key: TopicPartition
    generation: int
    error: CallboardError | None


class TellTruncated(NamedTuple):
    """Records from ``offset`` on that were read are not in the log any more: seek back, to there at most (B13)."""

    key: TopicPartition
    generation: int
    offset: int


class TellReset(NamedTuple):
    """``offset`` is outside the log: it goes on where ``auto_offset_reset`` says."""

    key: TopicPartition
    offset: int
    log_start_offset: int


class TellWatermarks(NamedTuple):
    key: TopicPartition
    high_watermark: int
    log_start_offset: int


class Refresh(NamedTuple):
    reason: str


class Hint(NamedTuple):
    """A broker that does not lead has said who does."""

    topic_id: str
    partition: int
    leader: int
    leader_epoch: int


Effect = (
    SendFetch
    | LookUpOffset
    | Deliver
    | TellPosition
    | TellError
    | TellTruncated
    | TellReset
    | TellWatermarks
    | Refresh
    | Hint
    | DoubtBrokers
)


class _Asked(NamedTuple):
    """A request under way. ``late_ms``: from then on its broker is in doubt."""

    broker_id: int
    late_ms: int
    states: tuple[FetchState, ...]


class View(Protocol):
    """What the fetcher knows of the cluster."""

    def leader(self, topic: str, partition: int) -> PartitionLeader | None: ...

    def is_connected(self, broker_id: int) -> bool: ...

    def partition_error(self, key: TopicPartition, now_ms: int) -> CallboardError | None:
        """Return why a partition cannot be read, if that is certain."""

    def span(self, data: bytes) -> Span:
        """Return which offsets the batches in ``data`` hold."""


class Fetcher:
    """The fetching side of one consumer."""

    def __init__(self, settings: FetchSettings, view: View) -> None:
        self.settings = settings
        self.view = view
        self.total = Credit()
        self.states: dict[TopicPartition, FetchState] = {}
        self.requests: dict[int, _Asked] = {}
        self._fed_ms: dict[int, int] = {}  # when a broker gave something last, or was asked first
        self._last_request_id = 0

    # -- what the consumer says --------------------------------------------------------------------

    def on_assign(
        self, key: TopicPartition, generation: int, credit: Credit, *, offset: int | None, reset_to: int | None
    ) -> None:
        """Read this partition: from ``offset``, or from where ``reset_to`` (a timestamp, -1 or -2) says."""
        state = self.states[key] = FetchState(key, generation, credit)
        state.begin_at(offset, reset_to)

    def on_unassign(self, keys: Iterable[TopicPartition]) -> None:
        for key in keys:
            self.states.pop(key, None)

    def on_seek(self, key: TopicPartition, generation: int, *, offset: int | None, reset_to: int | None) -> None:
        """The position is another one from now on."""
        state = self.states.get(key)
        if state is None:
            return
        state.generation = generation
        state.begin_at(offset, reset_to)
        state.flights.clear()
        state.is_asking_offset = False
        state.retry_at_ms = 0
        state.failures = 0
        state.error = None

    def on_begin(
        self, key: TopicPartition, generation: int, *, offset: int | None, reset_to: int | None
    ) -> list[Effect]:
        """Where a partition that was assigned without an offset begins is known: there, or where ``reset_to`` says.

        Both None: nowhere, which is told. A seek that came first counts.
        """
        state = self.states.get(key)
        if state is None or state.generation != generation:
            return []
        state.begin_at(offset, reset_to)
        if offset is not None:
            state.reset_to = None
            return [TellPosition(key, generation, offset)]
        if reset_to is None:
            detail = f"{key}: the group has committed no offset, and auto_offset_reset is 'none'; seek first"
            return self._tell(state, NoOffsetForPartitionError(detail))
        return []

    def on_pause(self, keys: Iterable[TopicPartition], is_paused: bool) -> None:
        for state in filter(None, map(self.states.get, keys)):
            state.is_paused = is_paused

    # -- what the cluster says ---------------------------------------------------------------------

    def on_offset(
        self, key: TopicPartition, generation: int, offset: int | None, error: CallboardError | None, now_ms: int
    ) -> list[Effect]:
        """The look-up has ended."""
        state = self.states.get(key)
        if state is None or state.generation != generation:
            return []
        state.is_asking_offset = False
        if offset is not None:
            state.begin_at(offset, None)
            state.failures = 0
            return [TellPosition(key, generation, offset), *self._passed(state)]
        if error is not None and not error.retriable:
            return self._tell(state, error)
        self._back_off(state, now_ms)
        return []

    def on_metadata(self, now_ms: int) -> list[Effect]:
        """The view has changed."""
        effects: list[Effect] = []
        for state in self.states.values():
            leader = self.view.leader(*state.key)
            if leader is None:
                error = self.view.partition_error(state.key, now_ms)
                if error is not None and state.error is None:
                    state.flights.clear()
                    effects += self._tell(state, error)
                continue
            if isinstance(state.error, UnknownTopicOrPartitionError):
                effects += self._passed(state)
            if state.topic_id and leader.topic_id != state.topic_id:
                self._begin_anew(state)
            if state.leader is not None and leader[3:] != state.leader[3:]:
                state.flights.clear()  # nobody answers there any more, or with old news
                state.retry_at_ms = 0
                state.leader = None
        return effects

    def on_connected(self, broker_id: int) -> None:
        for state in self.states.values():
            leader = self.view.leader(*state.key)
            if leader is not None and leader.broker_id == broker_id:
                state.retry_at_ms = 0

    def on_reply(
        self,
        request_id: int,
        entries: Sequence[FetchEntryReply],
        data: Mapping[tuple[str, int], list[bytes]],
        error: CallboardError | None,
        now_ms: int,
    ) -> list[Effect]:
        """A fetch was answered (``data``: what belongs to each entry), or failed as a whole."""
        by_partition = {(entry.topic_id, entry.partition): entry for entry in entries}
        effects: list[Effect] = []
        is_ours = False
        asked = self.requests.pop(request_id, None)
        if asked is not None and any(data.values()):
            self._fed_ms[asked.broker_id] = now_ms
        for state in asked.states if asked is not None else ():
            landed = state.land(request_id)
            if landed is None:
                continue
            is_ours = True
            if self.states.get(state.key) is not state:
                continue  # no longer assigned
            place = (state.topic_id, state.key.partition)
            entry = by_partition.get(place)
            if error is not None:
                state.flights.clear()
                self._back_off(state, now_ms, is_soon_over=True)
                _note_refusal(state, error, now_ms)
            elif entry is None:  # nothing new there while the broker waited: that is no failure
                state.flights, state.failures = [], 0
                state.fed_until_ms = now_ms + GRACE_MS
            else:
                effects += self._on_entry(state, *landed, entry, data.get(place, []), now_ms)
        if error is not None and is_ours:
            effects.append(Refresh(str(error)))
        return effects

    # -- fetching ----------------------------------------------------------------------------------

    def drain(self, now_ms: int) -> list[Effect]:
        """Return what can be asked for now."""
        effects: list[Effect] = []
        by_broker: dict[int, list[tuple[FetchState, int]]] = {}
        behind: list[FetchState] = []
        room = self._room()
        for state in self.states.values():
            offset = state.fetch_offset  # None: of a paused one it is asked for all the same, for position() and lag()
            if (state.is_paused and offset is not None) or now_ms < state.retry_at_ms or state.error is not None:
                continue
            if state.flights:
                if state.is_behind and len(state.flights) < FLIGHTS_MAX:
                    behind.append(state)
                continue
            leader = self.view.leader(*state.key)
            if leader is None or leader.broker_id < 0:
                continue
            if offset is None:
                effects += self._look_up(state, leader)
            elif room > 0 and self._has_credit(state) and self.view.is_connected(leader.broker_id):
                state.leader, state.topic_id = leader, leader.topic_id
                by_broker.setdefault(leader.broker_id, []).append((state, offset))
                behind.append(state)
        effects += [self._request(broker, wanted, room, now_ms, is_guess=False) for broker, wanted in by_broker.items()]
        if behind and room > 0:
            effects += self._guesses(behind, now_ms)
        return effects

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Time has passed: doubt whoever does not answer (rule 6)."""
        late = {asked.broker_id for asked in self._awaited() if asked.late_ms <= now_ms}
        return [DoubtBrokers(tuple(sorted(late)))] if late else []

    def next_event_ms(self, now_ms: int) -> int | None:
        """Return when to call ``on_tick`` and ``drain`` again if nothing else happens."""
        times = [
            state.retry_at_ms for state in self.states.values() if state.retry_at_ms > now_ms and not state.in_flight
        ]
        times += [asked.late_ms if asked.late_ms > now_ms else now_ms + LOOK_AGAIN_MS for asked in self._awaited()]
        return min(times, default=None)

    def _awaited(self) -> list[_Asked]:
        """Return the requests under way whose answers somebody still wants."""
        return [
            asked
            for request_id, asked in self.requests.items()
            if any(
                flight.request_id == request_id and self.states.get(state.key) is state
                for state in asked.states
                for flight in state.flights
            )
        ]

    def needs_leaders(self) -> bool:
        """Say whether something waits for newer metadata."""
        leaders = (
            self.view.leader(*state.key)
            for state in self.states.values()
            if not state.in_flight and not (state.is_paused and state.fetch_offset is not None)
        )
        return any(leader is None or leader.broker_id < 0 for leader in leaders)

    # -- inside ------------------------------------------------------------------------------------

    def _room(self) -> int:
        room = self.settings.buffer_bytes - self.total.buffered
        if room <= 0:
            self.total.is_wanted = True
            room = self.settings.buffer_bytes - self.total.buffered
        if room > 0:
            self.total.is_wanted = False
        return room

    def _has_credit(self, state: FetchState) -> bool:
        credit = state.credit
        if credit.buffered >= self.settings.partition_bytes:
            credit.is_wanted = True
            if credit.buffered >= self.settings.partition_bytes:
                return False
        credit.is_wanted = False
        return True

    def _guesses(self, behind: list[FetchState], now_ms: int) -> list[Effect]:
        """Fetch what will probably follow the fetches under way. Behind the exact ones: they are answered first."""
        size = self.settings.partition_bytes
        under_way = sum(len(state.flights) for state in self.states.values() if state.is_behind)
        room = self.settings.buffer_bytes - self.total.buffered - size * under_way
        by_broker: dict[int, list[tuple[FetchState, int]]] = {}
        for state in behind:
            leader, offset = state.leader, state.fetch_offset
            if room < size or leader is None or offset is None or not state.is_behind:
                continue
            guess = state.lookahead.guess(offset, len(state.flights), state.high_watermark)
            if guess is not None and self._has_credit(state) and self.view.is_connected(leader.broker_id):
                by_broker.setdefault(leader.broker_id, []).append((state, guess))
                room -= size
        return [
            self._request(broker, wanted, size * len(wanted), now_ms, is_guess=True)
            for broker, wanted in by_broker.items()
        ]

    def _request(
        self, broker: int, wanted: list[tuple[FetchState, int]], room: int, now_ms: int, *, is_guess: bool
    ) -> SendFetch:
        self._last_request_id += 1
        request_id = self._last_request_id
        entries = []
        for state, offset in wanted:
            state.flights.append(Flight(request_id, is_guess))
            entries.append(
                FetchEntry(
                    topic_id=state.topic_id,
                    partition=state.key.partition,
                    leader_epoch=state.leader.leader_epoch if state.leader is not None else -1,
                    fetch_offset=offset,
                    last_fetched_epoch=-1 if is_guess else state.last_epoch,
                    max_bytes=self.settings.partition_bytes,
                )
            )
        wait_ms = self._wait_ms(broker, now_ms)
        if any(state.failures for state, _ in wanted):
            wait_ms = min(wait_ms, WAIT_MS_MIN)
        late_ms = now_ms + wait_ms + SLOW_ANSWER_MS
        states = tuple(state for state, _ in wanted)
        for state in states:
            if not state.failures:  # else only an answer shows that asking helps
                state.fed_until_ms = max(state.fed_until_ms, late_ms)
        self.requests[request_id] = _Asked(broker, late_ms, states)
        return SendFetch(request_id, broker, tuple(entries), max(room, self.settings.partition_bytes), wait_ms)

    def _wait_ms(self, broker: int, now_ms: int) -> int:
        """Return how long an idle fetch may wait there (rule 3)."""
        quiet_ms = now_ms - self._fed_ms.setdefault(broker, now_ms)
        if self.settings.min_bytes > 1:
            return self.settings.wait_ms
        return min(self.settings.wait_ms, max(WAIT_MS_MIN, quiet_ms))

    def _look_up(self, state: FetchState, leader: PartitionLeader) -> list[Effect]:
        if state.is_asking_offset or state.reset_to is None or not self.view.is_connected(leader.broker_id):
            return []
        state.is_asking_offset = True
        return [LookUpOffset(state.key, state.generation, state.reset_to)]

    def _on_entry(
        self, state: FetchState, place: int, flight: Flight, entry: FetchEntryReply, frames: list[bytes], now_ms: int
    ) -> list[Effect]:
        """One partition's answer has come; ``place`` others were to come before it."""
        if place:  # the broker had nothing ready for the one before, or another broker has answered
            state.lookahead.on_miss()
            return []
        spans = [] if entry.error else [self.view.span(data) for data in frames if data]
        if flight.is_guess:
            if not self._joins_on(state, spans):
                state.lookahead.on_miss()
                state.flights.clear()
                return []
            state.lookahead.on_hit()
        elif entry.error or entry.diverging_end_offset >= 0:
            state.flights.clear()
            return self._on_error(state, entry, now_ms) if entry.error else self._on_truncated(state, entry)
        state.fed_until_ms = max(state.fed_until_ms, now_ms + GRACE_MS)
        return self._on_data(state, entry, [data for data in frames if data], spans)

    def _joins_on(self, state: FetchState, spans: list[Span]) -> bool:
        """Say whether these batches go on where the last ones ended."""
        offset = state.fetch_offset
        return bool(spans) and offset is not None and spans[0].first <= offset < spans[0].next_offset

    def _on_data(
        self, state: FetchState, entry: FetchEntryReply, frames: list[bytes], spans: list[Span]
    ) -> list[Effect]:
        state.failures = 0
        state.high_watermark = entry.high_watermark
        effects: list[Effect] = [TellWatermarks(state.key, entry.high_watermark, entry.log_start_offset)]
        for data, span in zip(frames, spans, strict=True):
            if state.fetch_offset is None:
                continue
            effects.append(Deliver(state.key, state.generation, state.fetch_offset, data))
            state.fetch_offset = max(state.fetch_offset, span.next_offset)
            state.last_epoch = span.last_epoch
            state.lookahead.on_data(span, len(data), self.settings.partition_bytes)
            state.credit.fetched += len(data)
            self.total.fetched += len(data)
        return effects

    def _on_error(self, state: FetchState, entry: FetchEntryReply, now_ms: int) -> list[Effect]:
        if entry.error == ErrorCode.OFFSET_OUT_OF_RANGE:
            return self._on_out_of_range(state, entry)
        error = error_for_code(entry.error, entry.detail or str(state.key))
        if not error.retriable:
            return self._tell(state, error)
        is_stale = is_metadata_stale(error.errno)
        self._back_off(state, now_ms, is_soon_over=is_stale)
        _note_refusal(state, error, now_ms)
        hint = [Hint(entry.topic_id, entry.partition, entry.leader, entry.leader_epoch)] if entry.leader >= 0 else []
        return [*hint, Refresh(f"{state.key}: {error.errno.name}")] if is_stale else []

    def _on_out_of_range(self, state: FetchState, entry: FetchEntryReply) -> list[Effect]:
        offset = state.fetch_offset
        if self.settings.reset_timestamp is None:
            detail = f"{state.key}: offset {offset} is outside the log (its start is {entry.log_start_offset})"
            return self._tell(state, OffsetOutOfRangeError(detail))
        state.begin_at(None, self.settings.reset_timestamp)
        return [TellReset(state.key, offset, entry.log_start_offset)] if offset is not None else []

    def _on_truncated(self, state: FetchState, entry: FetchEntryReply) -> list[Effect]:
        """Nothing more is fetched before the consumer has gone back: what it holds may be gone, too (rule 7)."""
        seen, state.fetch_offset, state.reset_to, state.is_truncated = state.fetch_offset, None, None, True
        offset = entry.diverging_end_offset
        if self.settings.reset_timestamp is None:
            detail = (
                f"{state.key}: records from offset {offset} on were read, up to {seen}, and are not in the log any"
                " more: a leader was elected that did not have them"
            )
            return self._tell(state, LogTruncationError(detail, {state.key: offset}))
        return [TellTruncated(state.key, state.generation, offset)]

    def _begin_anew(self, state: FetchState) -> None:
        """The topic was deleted and created anew: all that is in it is new to us."""
        state.topic_id = ""
        state.flights.clear()
        state.begin_at(None, EARLIEST_TIMESTAMP)
        state.retry_at_ms = 0

    def _tell(self, state: FetchState, error: CallboardError) -> list[Effect]:
        state.error = error
        return [TellError(state.key, state.generation, error)]

    def _passed(self, state: FetchState) -> list[Effect]:
        if state.error is None:
            return []
        state.error = None
        return [TellError(state.key, state.generation, None)]

    def _back_off(self, state: FetchState, now_ms: int, *, is_soon_over: bool = False) -> None:
        """``is_soon_over``: a leader is gone, and electing another one takes milliseconds."""
        state.failures += 1
        first = self.settings.retry_backoff_ms
        pause = (min(first, ELECTION_BACKOFF_MS) if is_soon_over else first) << min(state.failures - 1, 20)
        state.retry_at_ms = now_ms + min(self.settings.retry_backoff_max_ms, pause)


def _note_refusal(state: FetchState, error: CallboardError, now_ms: int) -> None:
    """A broker that has too much to do, say, has answered: asking another one, or anew, would not help."""
    is_brokers_own = isinstance(error, BrokerResponseError) and not is_metadata_stale(error.errno)
    if is_brokers_own and error.retriable:
        state.fed_until_ms = max(state.fed_until_ms, now_ms + GRACE_MS)
