"""What every part of a consumer stands on: its threads, its inbox, and waiting."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ..config import INT32_MAX
from ..errors import (
    CallboardError,
    ForkedClientError,
    IllegalArgumentError,
    IllegalStateError,
    LogTruncationError,
    NoOffsetForPartitionError,
    SerializationError,
)
from ..model import TopicPartition
from .applicant import Change
from .application import Application
from .bad_records import BadRecord, BadRecords
from .config import ConsumerConfig, from_keywords
from .fetching import Fetching
from .inbox import Inbox
from .io import IoThread, MakeTransport
from .membership import Phase
from .reading import Decoding, PartitionReader
from .records import check_topic
from .serializers import decoder

logger = logging.getLogger(__name__)

_numbers = itertools.count(1)
JOIN_LOOK_S = 0.05  # … while a member is joining
WAIT_S_MAX = 1.0  # of one wait: then look whether something else ends it


class ConsumerCore:
    """One lock guards the application's side. It is never held while waiting, nor while the application is called."""

    _now_s: Callable[[], float] = staticmethod(time.monotonic)  # the clock that waits are measured with
    _new_member_id: Callable[[], str] | None = None  # None: at random
    _is_on_loop = False  # the asyncio twin's: calls that are not awaited wait for nobody

    def __init__(self, **settings: Any) -> None:
        make_transport: MakeTransport | None = settings.pop("make_transport", None)  # for tests
        self.config = config = from_keywords(ConsumerConfig, settings, "consumer")
        self.client_id = config.client_id or f"callboard-consumer-{os.getpid()}-{next(_numbers)}"
        self._decoding = Decoding(
            _with_topic(decoder(config.key_deserializer, "key_deserializer")),
            _with_topic(decoder(config.value_deserializer, "value_deserializer")),
            is_verifying=config.check_crcs,
            skips_bad=config.on_bad_record == "skip",
        )
        self._bad_records = BadRecords(config, self.client_id, self._decoding)
        self._lock = threading.RLock()
        self._inbox = Inbox(self._decoding)
        self._arrived = threading.Event()
        self._on_arrival: Callable[[], None] | None = None  # of the asyncio twin
        self._generations = itertools.count(1)
        self._is_assigned_by_hand = False
        self._ended: CallboardError | None = None
        self._io = self._make_io(make_transport)
        self._fetching = Fetching(
            self._io, config, self.client_id, self._generations, self._inbox.items.append, self._on_news
        )
        self._inbox.connect(self._fetching.fetcher.total, lambda: self._io.post(self._fetching.credit_returned))
        self._application: Application | None = None  # of a consumer with a group_id
        if config.group_id is not None:
            self._application = Application(config, self._inbox, self._io.clock.monotonic_ms, self._on_news)
            self._application.group = self._fetching.join(self._application, new_id=self._new_member_id)
        self._io.post(self._fetching.start)

    def _make_io(self, make_transport: MakeTransport | None) -> IoThread:
        return IoThread(f"consumer {self.client_id}", self, make_transport)

    def close(self) -> None:
        """See ``Consumer.close``."""
        raise NotImplementedError

    def on_fork(self) -> None:
        """We are in a forked child: refuse from here on."""
        self._io.is_forked = True
        self._lock = threading.RLock()
        self._arrived = threading.Event()
        if self._application is not None:
            self._application.on_fork()
        self._ended = ForkedClientError(
            f"consumer {self.client_id} was made before this process was forked; make a new one in the child process"
        )

    # -- waiting -----------------------------------------------------------------------------------

    def _on_news(self) -> None:
        """Something is in the inbox, or has ended. From any thread."""
        self._arrived.set()
        call = self._on_arrival
        if call is not None:
            call()

    def _wait_for(self, look: Callable[[], Any], timeout_ms: float, *, is_reading: bool = True) -> Any:
        """Call ``look`` until it returns something, or ``timeout_ms`` have passed (then None).

        ``is_reading``: what the application has to do for its group is done first, and trouble is raised. The time of
        joining does not count: else a first poll would find nothing where there are records.
        """
        if self._io.is_own_thread:
            raise IllegalStateError("a callback runs on the I/O thread and must not wait for it")
        until = self._now_s() + timeout_ms / 1000
        application = self._application if is_reading else None
        if is_reading:
            self._bad_records.check_may_poll()
        is_joining, has_handed_on = application is not None and application.is_joining(), False
        while True:
            self._arrived.clear()  # first, then look: what comes from now on ends the wait
            if application is not None and application.has_work:
                self._perform_changes(application)
                application.run_callbacks()
            found = self._look(look, is_reading=is_reading)
            if is_joining and application is not None and not application.is_joining():
                is_joining = False  # what it was given it has just begun to fetch
                until = self._now_s() + timeout_ms / 1000 if self._inbox.readers else until
            left = until - self._now_s()
            if isinstance(found, BadRecord):
                if has_handed_on and left <= 0:
                    return None  # one at least in each call, and with the next call the next
                self._hand_on(found)
                has_handed_on = True
                continue
            if found is not None:
                return found
            if left <= 0:
                if application is None or not application.is_joining():
                    return None
                left = JOIN_LOOK_S
            self._arrived.wait(min(left, WAIT_S_MAX))

    def _look(self, look: Callable[[], Any], *, is_reading: bool) -> Any:
        """Look once, without waiting; None: there is nothing. Raises if waiting will not help.

        A ``BadRecord``: hand that on, and look again.
        """
        application = self._application
        if self._decoding.last_skipped is not None:
            self._bad_records.tell_skipped(self._now_s())
        with self._lock:
            self._check_open()
            self._inbox.sort()
            self._go_back()
            if is_reading and application is not None and (not application.may_read() or application.changes):
                return None  # first that must be done; in this order: what ends the one has the other on its way
            try:
                found = look()
            except SerializationError as error:
                found = self._bad_records.next_of(error, self._inbox.readers)
                if found is None:
                    raise
            if found is None and is_reading:
                self._raise_trouble()
                group = self._fetching.group
                if group is not None and group.member.phase is Phase.STUCK:
                    self._io.post(group.look)  # what a poll calls took too long, and has come back
            return found

    def _hand_on(self, bad: BadRecord) -> None:
        """Have the application's handler deal with it, then go on behind it. Raises what the handler raises."""
        application, is_done, why = self._application, False, ""
        with self._lock:
            if not self._bad_records.begin(bad):
                return
        try:
            with application.at_work() if application is not None else nullcontext():
                self._bad_records.call(bad.error)
            is_done = True
        except BaseException as error:  # also an interrupt: the record stays the next one
            why = repr(error)
            raise
        finally:
            with self._lock:
                self._bad_records.end(bad, is_done, why)
                if is_done:
                    self._inbox.pass_over(*bad)
            self._on_news()  # for other threads: the partition can be read again

    def _perform_changes(self, application: Application) -> None:
        """Do what the group asks of the application: give back, take over."""
        if application.turn.is_ours:
            return
        with application.turn.taken() as is_taken:
            while is_taken:  # else another thread is at it; it tells when it has finished
                with self._lock:
                    change = application.next_change()
                if change is None:
                    break
                with application.at_work():
                    self._perform(application, change)

    def _perform(self, application: Application, change: Change) -> None:
        raise NotImplementedError

    def _bound_ms(self, timeout_ms: float | None) -> int:
        """Return how long a call that asks somebody may take."""
        return self.config.request_timeout_ms if timeout_ms is None else int(min(_checked_ms(timeout_ms), INT32_MAX))

    def _poll_ms(self, timeout_ms: float | None) -> float:
        return self.config.default_poll_ms if timeout_ms is None else _checked_ms(timeout_ms)

    def _raise_trouble(self) -> None:
        """Nothing is there to hand out: raise why, if waiting will not help."""
        if self._inbox.subscription is None and not self._inbox.readers:
            raise IllegalStateError("nothing to read: call subscribe() or assign() first")
        group = self._fetching.group
        if group is not None and group.member.phase is Phase.BARRED and group.member.error is not None:
            if self._inbox.readers and not self._is_assigned_by_hand:
                return  # that they are lost is on its way, and to be told to the listener first
            raise group.member.error
        for reader in self._inbox.readers.values():
            if reader.error is not None and not reader.is_paused:
                raise reader.error
            if reader.position is None and self.config.auto_offset_reset == "none" and group is None:
                raise NoOffsetForPartitionError(
                    f"{reader.key} has no position and auto_offset_reset is 'none'; seek first"
                )
        missing = self._fetching.missing_topic_error()
        if missing is not None:
            raise missing
        self._raise_unreachable()

    def _raise_unreachable(self) -> None:
        cluster = self._fetching.cluster
        since_ms = cluster.unreachable_since_ms
        limit_ms = self.config.raise_after_ms if cluster.has_contact else cluster.bootstrap_timeout_ms
        if since_ms is not None and limit_ms is not None and self._io.clock.monotonic_ms() - since_ms >= limit_ms:
            raise cluster.unreachable_error()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended
        self._io.check()

    def _reader(self, key: TopicPartition, what: str) -> PartitionReader:
        reader = self._inbox.readers.get(key)
        if reader is None:
            raise IllegalStateError(f"{what}: {key} is not assigned to this consumer")
        return reader

    def _go_back(self) -> None:
        """Where the log has lost what was read, after an unclean election, go on with what it has there now (B13)."""
        if self._inbox.truncated:
            seeks = self._inbox.go_back(lambda: next(self._generations))
            for key, _, offset, _ in seeks:
                gone = LogTruncationError(
                    f"{key}: what was read from offset {offset} on is not in the log any more", {key: offset}
                )
                logger.warning("%s", gone)
                self._fetching.cluster.hook.tell(gone)
            self._io.post(self._fetching.seek, seeks)

    def _seek(self, key: TopicPartition, offset: int | None, reset_to: int | None) -> None:
        generation = next(self._generations)
        self._inbox.move(key, generation, offset)
        self._io.post(self._fetching.seek, [(key, generation, offset, reset_to)])


def _checked_ms(timeout_ms: Any) -> float:
    if not isinstance(timeout_ms, int | float):
        raise TypeError(f"timeout_ms: expected milliseconds as a number, got {type(timeout_ms).__name__}")
    if timeout_ms < 0:
        raise IllegalArgumentError(f"timeout_ms: must not be below 0 (given: {timeout_ms})")
    return timeout_ms


def as_partition(given: Any) -> TopicPartition:
    """Return what was given as a partition; a tuple of name and number is one.

    Raises:
        InvalidTopicError: no topic can have that name: nobody is asked about it.
    """
    if isinstance(given, TopicPartition) and isinstance(given.topic, str):
        check_topic(given.topic)
        return given
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        check_topic(given[0])
        return TopicPartition(*given)
    raise TypeError(f"expected TopicPartition, got {given!r}")


class _WithTopic:
    """A deserializer as the decoder calls it."""

    def __init__(self, function: Callable[[str, Any, bytes], Any]) -> None:
        self.deserialize = function


def _with_topic(function: Callable[[str, Any, bytes], Any] | None) -> Any:
    return None if function is None else _WithTopic(function)
