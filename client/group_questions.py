"""Questions about groups, asked of whoever coordinates them, until every group has its answer. On the I/O thread.

Rules of this file:

1. Any broker tells who coordinates a group (FindCoordinators). That is remembered until that broker says that it does
   not, or cannot be reached.
2. Coordinators are asked all at once, each with as few requests as the question allows.
3. What passes (no coordinator, it has moved, it is loading, a connection is lost) is asked again after a pause, until
   the time is over. What does not pass is that group's answer, and none of the others'.
4. So a question may be asked twice; an answer tells whether an earlier attempt may have taken effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, Protocol

from ..errors import CallboardError, CallboardTimeoutError, CoordinatorNotAvailableError, ErrorCode, error_for_code
from ..transport.group_messages import (
    CoordinatorsReply,
    FindCoordinatorsRequest,
    GroupListing,
    ListGroupsReply,
    ListGroupsRequest,
)
from ..transport.loop import Clock, Loop
from ..transport.messages import MetadataReply, MetadataRequest, Reply, Request
from .cluster import Cluster, error_of
from .io import Done

RETRY_MS = 25  # a coordinator is elected, and has loaded, within a few of these
LOOK_MS = 3  # metadata are on their way
ATTEMPT_MS = 2_000  # of one request to one coordinator; then it is looked up again: it may have stopped
GROUPS_PER_REQUEST = 1_000
KNOWN_MAX = 10_000  # coordinators that are remembered

OFFSETS_TOPIC = "__consumer_offsets"
WHO_LEADS = MetadataRequest(topics=[OFFSETS_TOPIC], include_internal=True)
MOVED = (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE)


class Said(Protocol):
    """What is said of one group: an error, or what was asked."""

    @property
    def error(self) -> int: ...

    @property
    def detail(self) -> str: ...


class GroupAnswer(NamedTuple):
    """``may_have_happened``: an earlier attempt, whose answer was lost, may have taken effect."""

    said: Any  # as in ``Said``; its error, if any, will not pass
    may_have_happened: bool


class GroupQuestion(NamedTuple):
    """What is asked. One question for several groups, if ``is_batched``, else one a group."""

    request: Callable[[list[str]], Request]
    said_of: Callable[[Any, list[str]], dict[str, Said]]  # of each group, in a reply without an error
    replies: type[Reply]
    is_batched: bool = False


class CoordinatorsQuestion:
    """Asks once; ``done`` gets the answer of every group, or the one error that kept them from being asked."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        cluster: Cluster,
        known: dict[str, int],
        question: GroupQuestion,
        group_ids: Iterable[str],
        timeout_ms: int,
        done: Done[dict[str, GroupAnswer]],
    ) -> None:
        self._loop, self._clock, self._cluster, self._done = loop, clock, cluster, done
        self._known = known  # group -> broker; shared by all questions of one client
        self._question = question
        self._left = list(dict.fromkeys(group_ids))
        self._answers: dict[str, GroupAnswer] = {}
        self._may_have_happened: set[str] = set()  # never iterated over
        self._last_errors: dict[str, CallboardError] = {}
        self._begin_ms = clock.monotonic_ms()  # <= _until_ms
        self._until_ms = self._begin_ms + timeout_ms
        self._timeout_ms = timeout_ms
        self._unanswered = 0  # requests under way
        self._is_over = False

    def ask(self) -> None:
        """Ask for what is left."""
        now_ms = self._clock.monotonic_ms()
        if self._is_over:
            return
        if not self._left:
            self._end(None)
        elif now_ms >= self._until_ms or is_out_of_reach(self._cluster, self._begin_ms, now_ms):
            self._end(self._timeout_error())
        elif unknown := [group_id for group_id in self._left if group_id not in self._known]:
            request = FindCoordinatorsRequest(group_ids=unknown[:GROUPS_PER_REQUEST])
            self._cluster.ask_any(request, self._on_coordinators, self._attempt_ms())
        else:
            self._ask_coordinators()

    # -- who coordinates -----------------------------------------------------------------------------

    def _on_coordinators(self, reply: Reply | CallboardError, _: list[bytes]) -> None:
        error = error_of(reply)
        if error is not None and not error.retriable:
            self._end(error)
            return
        is_progress = False
        for entry in reply.coordinators if isinstance(reply, CoordinatorsReply) else ():
            refused = error_for_code(entry.error, entry.detail) if entry.error else None
            if refused is None:
                self._remember(entry.group_id, entry.broker_id)
                is_progress = True
            elif refused.retriable:
                self._last_errors[entry.group_id] = refused
            else:
                self._take(entry.group_id, entry)
                is_progress = True
        if error is not None:
            self._last_errors.update(dict.fromkeys(self._left, error))
        if is_progress:
            self._ask_coordinators()
        else:
            self._later()

    def _remember(self, group_id: str, broker_id: int) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[group_id] = broker_id

    # -- asking them ---------------------------------------------------------------------------------

    def _ask_coordinators(self) -> None:
        by_broker: dict[int, list[str]] = {}
        for group_id in self._left:
            if group_id in self._known:
                by_broker.setdefault(self._known[group_id], []).append(group_id)
        size = GROUPS_PER_REQUEST if self._question.is_batched else 1
        requests = []
        for broker_id, group_ids in by_broker.items():
            connection = self._cluster.connection(broker_id)
            if connection is None:
                if self._cluster.metadata.updated_ms > self._begin_ms:  # else it is newer than what we know of brokers
                    self._forget(group_ids, CoordinatorNotAvailableError(f"broker {broker_id} is not there"))
                self._cluster.refresh()
                continue
            requests += [(connection, broker_id, group_ids[at : at + size]) for at in range(0, len(group_ids), size)]
        self._unanswered = len(requests)
        if not requests:
            self._later(LOOK_MS)
        for connection, broker_id, some in requests:
            connection.request(
                self._question.request(some), self._taker(broker_id, some), timeout_ms=self._attempt_ms()
            )

    def _taker(self, broker_id: int, group_ids: list[str]) -> Callable[[Reply | CallboardError, list[bytes]], None]:
        return lambda reply, _: self._on_reply(broker_id, group_ids, reply)

    def _on_reply(self, broker_id: int, group_ids: list[str], reply: Reply | CallboardError) -> None:
        if isinstance(reply, CallboardError):
            self._on_silence(broker_id, group_ids, reply)
        else:
            is_answer = isinstance(reply, self._question.replies) and not reply.error
            said = self._question.said_of(reply, group_ids) if is_answer else dict.fromkeys(group_ids, reply)
            for group_id in group_ids:
                if group_id in said:
                    self._on_said(group_id, said[group_id])
        self._unanswered -= 1
        if not self._unanswered:
            if self._left:
                self._later()
            else:
                self._end(None)

    def _on_silence(self, broker_id: int, group_ids: list[str], error: CallboardError) -> None:
        if isinstance(error, CallboardTimeoutError):
            self._cluster.doubt([broker_id])
        if error.outcome_unknown:
            self._may_have_happened.update(group_ids)
        if error.retriable:
            self._forget(group_ids, error)
            self._cluster.refresh()
        else:
            self._end(error)

    def _on_said(self, group_id: str, said: Said) -> None:
        error = error_for_code(said.error, said.detail) if said.error else None
        if error is None or not error.retriable:
            self._take(group_id, said)
            return
        if error.outcome_unknown:
            self._may_have_happened.add(group_id)
        if said.error in MOVED:
            self._forget([group_id], error)
        else:
            self._last_errors[group_id] = error

    def _take(self, group_id: str, said: Any) -> None:
        if group_id in self._left:
            self._left.remove(group_id)
            self._answers[group_id] = GroupAnswer(said, group_id in self._may_have_happened)

    def _forget(self, group_ids: list[str], error: CallboardError) -> None:
        for group_id in group_ids:
            self._known.pop(group_id, None)
            self._last_errors[group_id] = error

    # -- the end -------------------------------------------------------------------------------------

    def _end(self, error: CallboardError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._done(None if error is not None else self._answers, error)

    def _attempt_ms(self) -> int:
        return max(1, min(ATTEMPT_MS, self._until_ms - self._clock.monotonic_ms()))

    def _later(self, pause_ms: int = RETRY_MS) -> None:
        self._loop.call_later(pause_ms / 1000, self.ask)

    def _timeout_error(self) -> CallboardError:
        if not self._cluster.has_contact:
            return self._cluster.unreachable_error()
        group_id = self._left[0]
        last = self._last_errors.get(group_id)
        more = f" and of {len(self._left) - 1} more" if len(self._left) > 1 else ""
        why = f"; last error: {last}" if last is not None else ""
        text = f"the coordinator of group {group_id!r}{more} did not answer within {self._timeout_ms / 1000:g} s{why}"
        error = CallboardTimeoutError(text)
        error.__cause__ = last
        return error


class ListingQuestion:
    """Asks every broker which groups it coordinates, until all have answered and none is loading any more.

    Groups move between brokers meanwhile: only what all have said in one round counts, and only if in that round the
    groups of each partition of ``__consumer_offsets`` were told by one broker: by none, if it has not heard yet that it
    was elected, or has just heard that it was deposed; by two, if one of them has not heard. A round begins with the
    question which brokers there are. Older brokers do not say whose groups they tell: of what they lead, then.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        cluster: Cluster,
        broker_ids: Collection[int] | None,
        timeout_ms: int,
        done: Done[list[GroupListing]],
    ) -> None:
        self._loop, self._clock, self._cluster, self._done = loop, clock, cluster, done
        self._wanted = broker_ids  # None: all
        self._begin_ms = clock.monotonic_ms()
        self._until_ms = self._begin_ms + timeout_ms
        self._timeout_ms = timeout_ms
        self._unanswered = 0
        self._found: dict[str, GroupListing] = {}
        self._partitions = 0  # of groups that there are
        self._led: dict[int, list[int]] = {}  # by broker: those that it says it leads
        self._told: dict[int, list[int] | None] = {}  # by broker: those whose groups it has told; None: it does not say
        self._missing: dict[str, str] = {}  # who has not told all -> why
        self._refusal: CallboardError | None = None

    def ask(self) -> None:
        """Begin a round."""
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._until_ms or is_out_of_reach(self._cluster, self._begin_ms, now_ms):
            self._done(None, self._timeout_error())
            return
        self._cluster.ask_any(WHO_LEADS, self._on_brokers, self._attempt_ms())

    def _on_brokers(self, reply: Reply | CallboardError, _: list[bytes]) -> None:
        self._found, self._missing = {}, {}
        self._partitions, self._led, self._told = 0, {}, {}
        self._refusal = error_of(reply)
        if not isinstance(reply, MetadataReply) or self._refusal is not None:
            self._missing["brokers"] = str(self._refusal)
            self._end_round()
            return
        brokers = [broker.id for broker in reply.brokers]
        asked = []
        for broker_id in brokers if self._wanted is None else self._wanted:
            connection = self._cluster.connection(broker_id) if broker_id in brokers else None
            if connection is None:
                self._missing[f"broker {broker_id}"] = "is not there just now"
                self._cluster.refresh()
            else:
                asked.append((broker_id, connection))
        self._unanswered = 2 * len(asked)
        if not asked:
            self._end_round()
        for broker_id, connection in asked:
            for request in (WHO_LEADS, ListGroupsRequest()):  # in this order: see above
                connection.request(request, self._taker(broker_id), timeout_ms=self._attempt_ms())

    def _taker(self, broker_id: int) -> Callable[[Reply | CallboardError, list[bytes]], None]:
        return lambda reply, _: self._on_reply(broker_id, reply)

    def _on_reply(self, broker_id: int, reply: Reply | CallboardError) -> None:
        error, broker = error_of(reply), f"broker {broker_id}"
        if error is not None:
            self._missing[broker] = str(error)
            self._refusal = self._refusal or error
            self._cluster.refresh()
        elif isinstance(reply, MetadataReply):
            partitions = [partition for topic in reply.topics for partition in topic.partitions]
            self._partitions = max(self._partitions, len(partitions))
            self._led[broker_id] = [each.partition for each in partitions if each.leader == broker_id]
        elif isinstance(reply, ListGroupsReply):
            self._found.update({group.group_id: group for group in reply.groups})
            self._told[broker_id] = reply.told
            if reply.loading:
                self._missing[broker] = f"is loading {len(reply.loading)} partitions of {OFFSETS_TOPIC}"
        self._unanswered -= 1
        if not self._unanswered:
            self._end_round()

    def _end_round(self) -> None:
        by_all = Counter(
            partition
            for broker_id, told in self._told.items()
            for partition in (self._led.get(broker_id, ()) if told is None else told)
        )
        if (untold := self._partitions - len(by_all)) and self._wanted is None:
            self._missing.setdefault(OFFSETS_TOPIC, f"{untold} of its partitions are led by nobody just now")
        if by_all and max(by_all.values()) > 1:
            self._missing.setdefault(OFFSETS_TOPIC, "two brokers say that they coordinate the same groups")
        if self._refusal is not None and not self._refusal.retriable:
            self._done(None, self._refusal)
        elif self._missing:
            self._loop.call_later(RETRY_MS / 1000, self.ask)
        else:
            self._done([self._found[group_id] for group_id in sorted(self._found)], None)

    def _attempt_ms(self) -> int:
        return max(1, min(ATTEMPT_MS, self._until_ms - self._clock.monotonic_ms()))

    def _timeout_error(self) -> CallboardError:
        if not self._cluster.has_contact:
            return self._cluster.unreachable_error()
        why = "; ".join(f"{who} {text}" for who, text in sorted(self._missing.items()))
        return CallboardTimeoutError(f"groups: not all were told within {self._timeout_ms / 1000:g} s; {why}")


def is_out_of_reach(cluster: Cluster, begin_ms: int, now_ms: int) -> bool:
    """Say whether nobody has been reached, ever, for as long as a question waits for that."""
    return not cluster.has_contact and now_ms - begin_ms >= cluster.bootstrap_timeout_ms


def together(starts: Collection[Callable[[Done[Any]], Any]], done: Done[list[Any]]) -> None:
    """Ask several questions at once; ``done`` gets their results in their order, or the first error."""
    results: list[Any] = [None] * len(starts)
    left = len(starts)
    is_over = False

    def taker(index: int) -> Done[Any]:
        def take(result: Any, error: BaseException | None) -> None:
            nonlocal left, is_over
            if is_over:
                return
            left -= 1
            results[index] = result
            if error is not None or not left:
                is_over = True
                done(None if error is not None else results, error)

        return take

    if not starts:
        done(results, None)
    for index, start in enumerate(starts):
        start(taker(index))
