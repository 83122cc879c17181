"""The consumer's shell on the I/O thread: performs what ``Fetcher`` decides, hands what comes to the consumer's
inbox."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..errors import CallboardError
from ..model import OffsetAndTimestamp, TopicPartition
from ..storage.batch import iter_batches
from ..transport.loop import Timer
from ..transport.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, FetchReply, FetchRequest, Reply
from .applicant import Applicant, Granted
from .asking import partition_error
from .cluster import Cluster, error_of
from .commits import Commit
from .config import ConsumerConfig
from .fetch_state import Credit
from .fetcher import (
    Deliver,
    Effect,
    Fetcher,
    FetchSettings,
    Hint,
    LookUpOffset,
    Refresh,
    SendFetch,
    TellError,
    TellPosition,
    TellReset,
    TellTruncated,
    TellWatermarks,
)
from .group import GroupSide
from .io import Done, IoThread
from .lookahead import Span
from .metadata import PartitionLeader
from .offsets import Found, FoundOrNot, OffsetsAsTheyCome, OffsetsQuestion
from .patience import DoubtBrokers

log = logging.getLogger("callboard.client")

RESET_TIMESTAMPS = {"earliest": EARLIEST_TIMESTAMP, "latest": LATEST_TIMESTAMP, "none": None}
LOOK_UP_MS = 60_000  # of one look-up; then again
PATTERN_TOLD_MAX = 1_000  # characters of a pattern that brokers are told


class Subscription(NamedTuple):
    topics: frozenset[str]
    pattern: re.Pattern[str] | None = None
    life: int = 0  # of the application, see there

    def covers(self, topic: str) -> bool:
        return topic in self.topics if self.pattern is None else self.pattern.fullmatch(topic) is not None


class Assigned(NamedTuple):
    """A partition of a subscribed topic is being read from now on."""

    key: TopicPartition
    generation: int
    credit: Credit
    subscription: Subscription


Item = Deliver | TellPosition | TellError | TellTruncated | TellWatermarks | Assigned | Granted


class Fetching:
    """The I/O side of one consumer. All methods on the I/O thread but those that say so."""

    def __init__(
        self,
        io: IoThread,
        config: ConsumerConfig,
        client_id: str,
        generations: itertools.count[int],
        put: Callable[[Item], None],
        woken: Callable[[], None],
    ) -> None:
        self._loop, self._clock = io.loop, io.clock
        self._config, self._client_id = config, client_id
        self._generations = generations
        self._put, self._woken = put, woken
        self.cluster = Cluster(io.loop, io.clock, io.transport, config, client_id, self)
        io.tell = self.cluster.hook.tell
        self.fetcher = Fetcher(_fetch_settings(config), self)
        self.counters = dict.fromkeys(("fetches", "bytes_fetched", "errors"), 0)
        self.group: GroupSide | None = None  # of a consumer with a group_id
        self._has_told_group = False  # of what is subscribed now
        self.answered_ms = -1  # of the last fetch that a broker answered
        self._subscription: Subscription | None = None
        self._seen_topics: set[str] = set()  # subscribed ones whose first partitions have been assigned
        self._timer: Timer | None = None  # fires when something is due, or earlier
        self._timer_at_ms = 0
        self._is_ended = False

    def join(self, applicant: Applicant, *, new_id: Callable[[], str] | None = None) -> GroupSide:
        """Be one of the group that the settings name. Before anything else; from any thread."""
        self.group = GroupSide(
            self._loop,
            self._clock,
            self.cluster,
            self.fetcher,
            self._config,
            self._client_id,
            self._generations,
            self._put,
            self._perform,
            self._pump,
            applicant,
            new_id=new_id,
        )
        return self.group

    # -- the view of the fetcher -------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> PartitionLeader | None:
        return self.cluster.metadata.leader(topic, partition)

    def is_connected(self, broker_id: int) -> bool:
        return self.cluster.is_connected(broker_id)

    def partition_error(self, key: TopicPartition, now_ms: int) -> CallboardError | None:
        group = self.group
        if group is not None and key in group.member.owned and key.topic in self.cluster.metadata.topics:
            return None  # it was added, its coordinator has heard of that, and whom we have asked has not
        return partition_error(self.cluster, key, now_ms)

    def span(self, data: bytes) -> Span:
        headers = [header for header, _ in iter_batches(data)]
        return Span(headers[0].base_offset, headers[-1].next_offset, len(headers), headers[-1].leader_epoch)

    # -- what the consumer says --------------------------------------------------------------------

    def start(self) -> None:
        self.cluster.start()

    def assign(self, wanted: Sequence[tuple[TopicPartition, int, Credit]]) -> None:
        """Read exactly these partitions (beside none of a subscription): from where the group has committed, if there
        is one, else from where the policy says."""
        self._unsubscribe()
        self.fetcher.on_unassign(list(self.fetcher.states))
        reset_to = RESET_TIMESTAMPS[self._config.auto_offset_reset] if self.group is None else None
        for key, generation, credit in wanted:
            self.fetcher.on_assign(key, generation, credit, offset=None, reset_to=reset_to)
        self._begin_to_need({key.topic for key, _, _ in wanted})
        if self.group is not None and wanted:
            self.group.begin_at_committed({key: generation for key, generation, _ in wanted})
        self._after_change()

    def subscribe(self, subscription: Subscription) -> None:
        """Read all partitions of these topics, also those that come later."""
        self._unsubscribe()
        if self.group is None:
            self.fetcher.on_unassign(list(self.fetcher.states))
        self._subscription = subscription
        if subscription.pattern is not None:
            self.cluster.interests, self.cluster.knows_all = None, False
            self.cluster.include_internal = not self._config.exclude_internal_topics
            self.cluster.refresh()
        else:
            self._begin_to_need(subscription.topics)
        self._after_change()

    def leave(self, done: Done[None], last: Commit | None = None) -> None:
        """Read nothing, and leave the group, with a last commit perhaps."""
        self._unsubscribe()
        self.fetcher.on_unassign(list(self.fetcher.states))
        if self.group is not None:
            self.group.leave(done, last)
        else:
            done(None, None)

    def seek(self, seeks: Iterable[tuple[TopicPartition, int, int | None, int | None]]) -> None:
        """(partition, generation, offset, timestamp to look up) each."""
        for key, generation, offset, reset_to in seeks:
            self.fetcher.on_seek(key, generation, offset=offset, reset_to=reset_to)
        self._pump()

    def pause(self, keys: Sequence[TopicPartition], is_paused: bool) -> None:
        self.fetcher.on_pause(keys, is_paused)
        self._pump()

    def credit_returned(self) -> None:
        self._pump()

    def look_up(self, wanted: Mapping[TopicPartition, int], timeout_ms: int, done: Done[Found]) -> None:
        OffsetsQuestion(self._loop, self._clock, self.cluster, wanted, timeout_ms, done).ask()

    def shut_down(self, done: Done[None]) -> None:
        self._is_ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self.group is not None:
            self.group.shut_down()
        self.cluster.close()
        done(None, None)

    # -- what the cluster says ---------------------------------------------------------------------

    def on_metadata(self) -> None:
        self._expand_subscription()
        self._perform(self.fetcher.on_metadata(self._clock.monotonic_ms()))
        self._pump()
        if self.group is not None:
            self.group.on_metadata()

    def on_connected(self, broker_id: int) -> None:
        self.fetcher.on_connected(broker_id)
        self._pump()
        if self.group is not None:
            self.group.on_connected(broker_id)
        self._woken()

    def on_disconnected(self, broker_id: int) -> None:
        """Requests on the connection fail one by one, through their callbacks; who polls may have to be told."""
        if self.group is not None:
            self.group.on_disconnected(broker_id)
        self._woken()

    def _on_fetched(self, request_id: int, reply: Reply | CallboardError, payload: list[bytes]) -> None:
        if self._is_ended:
            return
        entries = reply.entries if isinstance(reply, FetchReply) and not reply.error else []
        data: dict[tuple[str, int], list[bytes]] = {}
        at = 0
        for entry in entries:
            data[entry.topic_id, entry.partition] = payload[at : at + entry.frames]
            at += entry.frames
        now = self._clock.monotonic_ms()
        error = error_of(reply)
        if error is None:
            self.answered_ms = now
            self.counters["bytes_fetched"] += sum(map(len, payload))
        else:
            self.counters["errors"] += 1
        has_news = self._put_all(self.fetcher.on_reply(request_id, entries, data, error, now))
        self._pump()  # the next fetch goes out first: who polls begins to decode when woken, and holds the GIL
        if has_news:
            self._woken()

    def _look_up_all(self, effects: Sequence[LookUpOffset]) -> None:
        """Ask each leader once; what one has answered goes on at once, and together."""
        wanted = {effect.key: effect.timestamp_ms for effect in effects}
        tell = partial(self._on_offsets, {effect.key: effect.generation for effect in effects})
        OffsetsAsTheyCome(self._loop, self._clock, self.cluster, wanted, LOOK_UP_MS, tell).ask()

    def _on_offsets(self, generations: Mapping[TopicPartition, int], found: FoundOrNot) -> None:
        if self._is_ended:
            return
        now = self._clock.monotonic_ms()
        effects: list[Effect] = []
        for key, answer in found.items():
            error = answer if isinstance(answer, CallboardError) else None
            offset = answer.offset if isinstance(answer, OffsetAndTimestamp) else None
            effects += self.fetcher.on_offset(key, generations[key], offset, error, now)
        self._perform(effects)
        self._pump()

    def _on_timer(self) -> None:
        self._timer = None
        self._perform(self.fetcher.on_tick(self._clock.monotonic_ms()))
        self._pump()

    # -- performing --------------------------------------------------------------------------------

    def _after_change(self) -> None:
        self._expand_subscription()
        self._perform(self.fetcher.on_metadata(self._clock.monotonic_ms()))
        self._pump()

    def _pump(self) -> None:
        if self._is_ended:
            return
        now = self._clock.monotonic_ms()
        self._perform(self.fetcher.drain(now))
        if self.fetcher.needs_leaders() or self._is_topic_missing():
            self.cluster.refresh()
        due = self.fetcher.next_event_ms(now)
        if due is None or (self._timer is not None and self._timer_at_ms <= due):
            return  # a timer that fires early looks once more, and finds nothing
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_ms = max(due, now + 1)
        self._timer = self._loop.call_later((self._timer_at_ms - now) / 1000, self._on_timer)

    def _perform(self, effects: Iterable[Effect]) -> None:
        if self._put_all(effects):
            self._woken()

    def _put_all(self, effects: Iterable[Effect]) -> bool:
        """Perform them; return whether somebody who polls must be woken."""
        has_news = False
        unknown: list[LookUpOffset] = []
        for effect in effects:
            if isinstance(effect, SendFetch):
                self._fetch(effect)
            elif isinstance(effect, LookUpOffset):
                unknown.append(effect)
            elif isinstance(effect, Refresh):
                self.cluster.refresh()
            elif isinstance(effect, TellReset):
                self._log_reset(effect)
            elif isinstance(effect, DoubtBrokers):
                self.cluster.doubt(effect.broker_ids)
            elif isinstance(effect, Hint):
                if self.cluster.metadata.on_leader_hint(*effect):
                    has_news |= self._put_all(self.fetcher.on_metadata(self._clock.monotonic_ms()))
            else:
                self._put(effect)
                has_news = has_news or not isinstance(effect, TellWatermarks)
        if unknown:
            self._look_up_all(unknown)
        return has_news

    def _log_reset(self, effect: TellReset) -> None:
        key, offset, log_start_offset = effect
        missed = f", {log_start_offset - offset} records were deleted unread" if offset < log_start_offset else ""
        policy = self._config.auto_offset_reset
        where = f"the {'first' if policy == 'earliest' else 'next'} record (auto_offset_reset={policy!r})"
        log.warning(
            "%s: %s: offset %d is outside the log%s; going on at %s", self._client_id, key, offset, missed, where
        )

    def _fetch(self, effect: SendFetch) -> None:
        connection = self.cluster.connection(effect.broker_id)
        on_reply = partial(self._on_fetched, effect.request_id)
        if connection is None:
            self._loop.call_soon(on_reply, self.cluster.unreachable_error(), [])
            return
        self.counters["fetches"] += 1
        settings = self.fetcher.settings
        request = FetchRequest(
            max_wait_ms=effect.wait_ms,
            min_bytes=settings.min_bytes,
            max_bytes=effect.max_bytes,
            entries=list(effect.entries),
        )
        connection.request(request, on_reply, timeout_ms=effect.wait_ms + self._config.request_timeout_ms)

    # -- subscriptions -----------------------------------------------------------------------------

    def _expand_subscription(self) -> None:
        """Assign what the subscribed topics have and is not being read: at the policy's end when the topic is first
        seen; partitions that were added later from their beginning, or the records before we knew of them would be
        missed.
        """
        subscription = self._subscription
        if subscription is None:
            return
        if self.group is not None:
            self._tell_group(self.group, subscription)
            return
        policy = RESET_TIMESTAMPS[self._config.auto_offset_reset]
        for name, topic in sorted(self.cluster.metadata.topics.items()):
            if not self._is_subscribed(subscription, name, is_internal=topic.is_internal):
                continue
            reset_to = EARLIEST_TIMESTAMP if name in self._seen_topics else policy
            for partition in topic.partitions:
                key = TopicPartition(name, partition)
                if key not in self.fetcher.states:
                    generation, credit = next(self._generations), Credit()
                    self._put(Assigned(key, generation, credit, subscription))
                    self.fetcher.on_assign(key, generation, credit, offset=None, reset_to=reset_to)
            self._seen_topics.add(name)

    def _tell_group(self, group: GroupSide, subscription: Subscription) -> None:
        """The coordinator assigns partitions; a pattern is made topics here."""
        topics = self.cluster.metadata.topics
        names = [
            name
            for name, topic in sorted(topics.items())
            if self._is_subscribed(subscription, name, is_internal=topic.is_internal)
        ]
        group.on_topics_seen({name: len(topics[name].partitions) for name in names})
        if not group.member.owned:
            self.cluster.connect_ahead(part.leader for name in names for part in topics[name].partitions.values())
        if subscription.pattern is None:
            names = sorted(subscription.topics)
        elif not names and not self.cluster.knows_all:
            return
        if self._has_told_group:
            group.on_topics(names)
        else:
            self._has_told_group = True
            group.subscribe(names, self._pattern_told(subscription), subscription.life)

    def _pattern_told(self, subscription: Subscription) -> str:
        """Return what members with the same topics have in common: the pattern; a long one's digest is as good."""
        if subscription.pattern is None:
            return ""
        told = subscription.pattern.pattern + ("" if self._config.exclude_internal_topics else " (and internal topics)")
        if len(told) <= PATTERN_TOLD_MAX and told.isprintable():
            return told
        return f"sha256 {hashlib.sha256(told.encode(errors='surrogatepass')).hexdigest()}"

    def _is_subscribed(self, subscription: Subscription, name: str, *, is_internal: bool) -> bool:
        if subscription.pattern is not None and is_internal and self._config.exclude_internal_topics:
            return False
        return subscription.covers(name)

    def missing_topic_error(self) -> CallboardError | None:
        """Return why a subscribed topic cannot be read, if that is certain. From any thread."""
        subscription = self._subscription
        for name in sorted(subscription.topics) if subscription is not None else ():
            if name not in self.cluster.metadata.topics:
                error = self.partition_error(TopicPartition(name, 0), self._clock.monotonic_ms())
                if error is not None:
                    return error
        return None

    def _is_topic_missing(self) -> bool:
        subscription = self._subscription
        return subscription is not None and any(
            name not in self.cluster.metadata.topics for name in subscription.topics
        )

    def _begin_to_need(self, topics: Iterable[str]) -> None:
        now = self._clock.monotonic_ms()
        for topic in topics:
            self.cluster.metadata.doubt_unknown(topic, now)
        self.cluster.add_interest(topics)

    def _unsubscribe(self) -> None:
        if self._subscription is not None and self._subscription.pattern is not None:
            self.cluster.interests = set()
        self._subscription = None
        self._has_told_group = False
        self._seen_topics = set()


def _fetch_settings(config: ConsumerConfig) -> FetchSettings:
    return FetchSettings(
        wait_ms=config.park_ms,
        min_bytes=config.fetch_min_bytes,
        buffer_bytes=config.fetch_max_bytes,
        partition_bytes=config.max_partition_fetch_bytes,
        retry_backoff_ms=config.retry_backoff_ms,
        retry_backoff_max_ms=config.retry_backoff_max_ms,
        reset_timestamp=RESET_TIMESTAMPS[config.auto_offset_reset],
    )
