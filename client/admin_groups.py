"""Looking after consumer groups, as administrators see it: the part of ``AdminClient`` that is about groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

from ..errors import (
    CallboardError,
    ErrorCode,
    GroupIdNotFoundError,
    IllegalArgumentError,
    NonEmptyGroupError,
    error_for_code,
)
from ..model import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from ..transport import group_messages as g
from . import group_offsets as rules
from .admin_io import AdminIo
from .asking import partition_error, wait_until
from .group_offsets import LogRange, OffsetReset, OffsetSpec, PartitionLag, ResetTo
from .group_questions import GroupAnswer, GroupQuestion, together
from .io import Done, IoThread

LEADERS_MS = 2_000  # how long the lag of a group waits for a partition that has no leader: an election is over by then
GROUPS_REMEMBERED = 1_000  # whose partitions the next ``group_lag`` asks for without waiting for the coordinator

Groups = str | Iterable[str] | Mapping[str, Iterable[TopicPartition] | None]
Partitions = Iterable[TopicPartition]


class MemberToRemove(NamedTuple):
    """A member by its id, or by its ``group_instance_id``."""

    member_id: str | None = None
    group_instance_id: str | None = None


class GroupAdministration:
    """Calls about groups. Each finds the groups' coordinators, and asks again while they move or load.

    Every call may raise what ``AdminClient`` tells, and ``InvalidGroupIdError``.
    """

    _io: IoThread
    _shell: AdminIo
    _committer: str  # nobody else's name; with the numbers, a commit that comes too late is known
    _commit_numbers: Iterator[int]
    _lags_told: dict[str, list[TopicPartition]]  # by group: what the last ``group_lag`` has found, latest last

    def _timeout(self, timeout_ms: int | None) -> int:
        raise NotImplementedError

    # -- looking -----------------------------------------------------------------------------------

    def list_groups(
        self,
        broker_ids: Collection[int] | None = None,
        states_filter: Iterable[str] | None = None,
        timeout_ms: int | None = None,
    ) -> list[g.GroupListing]:
        """Return the groups of the cluster, by id: state ("empty", "reconciling", "stable") and how many members.

        Every broker is asked; one that has just begun to coordinate groups is waited for.

        Args:
            broker_ids: only groups that these coordinate; None: all.
            states_filter: only groups in these states.

        Raises:
            CallboardTimeoutError: some broker did not tell all of its groups in time; it names which, and why.
        """
        states = None if states_filter is None else {_text(state, "states_filter").lower() for state in states_filter}
        bound_ms = self._timeout(timeout_ms)
        brokers = None if broker_ids is None else [_broker(broker_id) for broker_id in broker_ids]
        found = self._ask_io(partial(self._shell.list_groups, brokers, bound_ms), bound_ms, "the brokers")
        return [group for group in found if states is None or group.state in states]

    def describe_groups(
        self, group_ids: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, g.GroupDescription]:
        """Return the state of groups by id: coordinator, generation, assignor, why it was last rebalanced, and of each
        member what it owns and shall own.

        Args:
            raise_errors: raise the first refusal; else look at ``.error`` of the results.

        Raises:
            GroupIdNotFoundError: there is no such group, and no offsets of one.
        """
        answers = self._ask_groups(_DESCRIBE, _ids(group_ids, "describe_groups"), timeout_ms)
        return {group_id: _checked(group_id, answer, raise_errors) for group_id, answer in answers.items()}

    def list_group_offsets(
        self, group_specs: Groups, timeout_ms: int | None = None
    ) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        """Return what groups have committed: by group, then by partition. Partitions without are left out.

        Args:
            group_specs: ids, or ``{id: partitions}``; None instead of partitions: all.
        """
        specs = _specs(group_specs)
        answers = self._ask_groups(_offsets_of(specs), list(specs), timeout_ms)
        found = {}
        for group_id, answer in answers.items():
            committed = rules.committed_of(_checked(group_id, answer, True).entries)
            found[group_id] = {
                key: OffsetAndMetadata(entry.offset, entry.metadata, entry.leader_epoch)
                for key, entry in committed.items()
            }
        return found

    def group_lag(self, group_id: str, timeout_ms: int | None = None) -> dict[TopicPartition, PartitionLag]:
        """Return how far a group is behind, by partition, in the topics of which it has committed or owns something.

        Of a partition in which nothing is committed ``committed`` and ``lag`` are None.

        One round trip: the coordinator (committed offsets and members) and the leaders of the partitions that were told
        of last time are asked together. Partitions that are new take a second one; the first call takes a third, and
        asks who coordinates and who leads. So the figures are not of one instant: a lag may be some milliseconds old.
        It is never below 0.

        A partition without a leader is waited for up to two seconds; then its ``error`` says so, its ``lag`` is None.

        Raises:
            GroupIdNotFoundError: there is no such group, and no offsets of one.
        """
        ids = _ids([group_id], "group_lag")
        bound_ms = self._timeout(timeout_ms)
        until_ms = self._io.clock.monotonic_ms() + bound_ms
        questions = (_DESCRIBE, _offsets_of({ids[0]: None}))
        starts = [partial(self._shell.ask_groups, question, ids, bound_ms) for question in questions]
        guessed = self._lags_told.pop(group_id, [])
        guesses = self._range_questions(guessed, bound_ms) if guessed else []
        described, fetched, *ranges = self._ask_io(partial(together, starts + guesses), bound_ms, "the coordinator")
        group = _checked(group_id, described[group_id], True)
        committed = rules.committed_of(_checked(group_id, fetched[group_id], True).entries)
        owners = rules.owners_of(group)
        wanted = self._with_siblings({*committed, *owners})
        logs, errors = _ranges_of(wanted & set(guessed), *ranges) if guessed else ({}, {})
        while unknown := [key for key in wanted if key not in logs and key not in errors]:
            more, failed = self._ranges_if_possible(unknown, self._left_ms(until_ms))
            logs, errors = logs | more, errors | failed
            wanted = self._with_siblings(wanted)  # who leads is known now, and so what partitions there are
        self._lags_told[group_id] = list(logs)
        while len(self._lags_told) > GROUPS_REMEMBERED:
            del self._lags_told[next(iter(self._lags_told))]
        return rules.group_lags(wanted, committed, owners, logs, errors)

    # -- changing ----------------------------------------------------------------------------------

    def alter_group_offsets(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        timeout_ms: int | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Commit offsets, as they are, for a group that has no members just now; return what was committed.

        Raises:
            NonEmptyGroupError: the group has members; it says who. Nothing was committed.
            UnknownTopicOrPartitionError: there is no such partition.
            OffsetMetadataTooLargeError: as it says.
        """
        ids = _ids([group_id], "alter_group_offsets")
        given = rules.offsets_given(offsets)
        until_ms = self._io.clock.monotonic_ms() + self._timeout(timeout_ms)
        if given:
            self._commit(ids[0], given, until_ms)
        return given

    def reset_group_offsets(
        self,
        group_id: str,
        offset_specs: Mapping[TopicPartition, ResetTo],
        timeout_ms: int | None = None,
        validate_only: bool = False,
    ) -> dict[TopicPartition, OffsetReset]:
        """Have a group that has no members just now go on elsewhere; return old and new offsets.

        What was committed as metadata stays. All partitions are committed at once, or none.

        Args:
            offset_specs: by partition an int, ``OffsetSpec.EARLIEST``, ``LATEST``, ``MAX_TIMESTAMP``,
                ``OffsetTimestamp(ms)`` (the first record at or after; if there is none, what comes next), or
                ``OffsetShift(count)`` (from what is committed). What lies outside of the log becomes its nearer end.
            validate_only: change nothing, say what would happen. The group may have members then.

        Raises:
            NonEmptyGroupError: the group has members; it says who. Nothing was changed.
            NoOffsetForPartitionError: a shift where nothing is committed.
            UnknownTopicOrPartitionError: there is no such partition.
        """
        ids = _ids([group_id], "reset_group_offsets")
        resets = rules.resets_to_make(offset_specs)
        if not resets:
            return {}
        until_ms = self._io.clock.monotonic_ms() + self._timeout(timeout_ms)
        committed = self.list_group_offsets({ids[0]: list(resets)}, self._left_ms(until_ms))[ids[0]]
        logs, found = self._places(resets, self._left_ms(until_ms))
        plan = {}
        for key, to in resets.items():
            before = committed[key].offset if key in committed else None
            offset = rules.new_offset(key, to, before, logs[key], found.get(key))
            plan[key] = OffsetReset(before, offset, logs[key].start, logs[key].end)
        if not validate_only:
            kept = {key: committed[key].metadata if key in committed else "" for key in plan}
            self._commit(
                ids[0], {key: OffsetAndMetadata(each.offset, kept[key]) for key, each in plan.items()}, until_ms
            )
        return plan

    def delete_group_offsets(
        self, group_id: str, partitions: Partitions, timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[TopicPartition, g.AlterGroupResult]:
        """Forget what a group has committed of partitions; return the result of each.

        Raises:
            GroupIdNotFoundError: there is no such group, and no offsets of one.
            GroupSubscribedToTopicError: a member of the group reads the topic. Other partitions may be forgotten.
        """
        ids = _ids([group_id], "delete_group_offsets")
        keys = list(dict.fromkeys(rules.partition_given(key, "delete_group_offsets") for key in partitions))
        if not keys:
            return {}
        request = g.DeleteOffsetsRequest(group_id=ids[0], partitions=rules.by_topic(keys))
        results = self._alter(ids[0], request, timeout_ms)
        found = {key: results.get(str(key)) or g.AlterGroupResult(name=str(key)) for key in keys}
        _raise_first(ids[0], found.values(), raise_errors)
        return found

    def delete_groups(
        self, group_ids: Iterable[str], timeout_ms: int | None = None, raise_errors: bool = True
    ) -> dict[str, g.AlterGroupResult]:
        """Forget groups that have no members, with all that they have committed; return the result of each, by id.

        Raises:
            NonEmptyGroupError: a group has members; it says who. Others of the same call may have been deleted.
            GroupIdNotFoundError: there is no such group, and no offsets of one.
        """
        ids = _ids(group_ids, "delete_groups")
        until_ms = self._io.clock.monotonic_ms() + self._timeout(timeout_ms)
        results = {}
        for group_id, answer in self._ask_groups(_DELETE, ids, timeout_ms).items():
            result = _as_result(group_id, answer.said)
            if answer.may_have_happened and result.error == ErrorCode.GROUP_ID_NOT_FOUND:
                result = g.AlterGroupResult(name=group_id)  # an earlier attempt of ours did it
            results[group_id] = result
        for group_id, result in results.items():
            if result.error and raise_errors:
                raise self._explained(group_id, result, until_ms)
        return results

    def remove_group_members(
        self,
        group_id: str,
        members: Iterable[MemberToRemove | str],
        timeout_ms: int | None = None,
        raise_errors: bool = True,
    ) -> dict[str, g.AlterGroupResult]:
        """Put members out of a group, by member id or ``MemberToRemove(group_instance_id=…)``; return what came of it.

        What they owned goes to others at once. A process that lives is told by its next heartbeat and joins again
        under another name: to be rid of it, end it first.

        Raises:
            GroupIdNotFoundError, UnknownMemberIdError: there is no such group or member. Others may have been put out.
        """
        ids = _ids([group_id], "remove_group_members")
        named = [_member(member) for member in ([members] if isinstance(members, str) else members)]
        if not named:
            return {}
        request = g.RemoveMembersRequest(
            group_id=ids[0],
            member_ids=[name for name, is_instance in named if not is_instance],
            instance_ids=[name for name, is_instance in named if is_instance],
        )
        results = self._alter(ids[0], request, timeout_ms, happened_before=ErrorCode.UNKNOWN_MEMBER_ID)
        _raise_first(ids[0], results.values(), raise_errors)
        return results

    # -- inside ------------------------------------------------------------------------------------

    def _left_ms(self, until_ms: int) -> int:
        return max(1, until_ms - self._io.clock.monotonic_ms())

    def _ask_io(self, start: Callable[[Done[Any]], Any], bound_ms: int, what: str) -> Any:
        return self._io.ask(start, bound_ms / 1000 + 1, what)

    def _ask_groups(self, question: GroupQuestion, ids: list[str], timeout_ms: int | None) -> dict[str, GroupAnswer]:
        """Return what the coordinators say of each group, in the order of the ids."""
        bound_ms = self._timeout(timeout_ms)
        start = partial(self._shell.ask_groups, question, ids, bound_ms)
        answers = cast("dict[str, GroupAnswer]", self._ask_io(start, bound_ms, "the coordinators"))
        return {group_id: answers[group_id] for group_id in ids}

    def _alter(
        self, group_id: str, request: Any, timeout_ms: int | None, happened_before: ErrorCode | None = None
    ) -> dict[str, g.AlterGroupResult]:
        """Return the results of a change, by name. ``happened_before``: this refusal means success when the answer to
        an earlier attempt of the same call was lost.
        """
        question = GroupQuestion(lambda _: request, lambda reply, ids: dict.fromkeys(ids, reply), g.AlterGroupReply)
        answer = self._ask_groups(question, [group_id], timeout_ms)[group_id]
        reply = cast("g.AlterGroupReply", _checked(group_id, answer, True))
        found = {}
        for result in reply.results:
            if answer.may_have_happened and result.error == happened_before:
                result = g.AlterGroupResult(name=result.name)
            found[result.name] = result
        return found

    def _commit(self, group_id: str, offsets: Mapping[TopicPartition, OffsetAndMetadata], until_ms: int) -> None:
        """Commit as one that is no member.

        Raises:
            NonEmptyGroupError: with the names of those who are in it.
            BrokerResponseError: whatever else the coordinator refuses.
        """
        topic_ids = self._topic_ids(offsets, self._left_ms(until_ms))
        entries = [
            g.OffsetCommitEntry(
                topic=key.topic,
                topic_id=topic_ids[key],
                partition=key.partition,
                offset=given.offset,
                leader_epoch=given.leader_epoch,
                metadata=given.metadata,
            )
            for key, given in offsets.items()
        ]
        request = g.OffsetCommitRequest(
            group_id=group_id, entries=entries, number=next(self._commit_numbers), committer=self._committer
        )
        question = GroupQuestion(lambda _: request, lambda reply, ids: dict.fromkeys(ids, reply), g.OffsetCommitReply)
        said = self._ask_groups(question, [group_id], self._left_ms(until_ms))[group_id].said
        if said.error:
            raise self._explained(group_id, said, until_ms)

    def _explained(self, group_id: str, said: Any, until_ms: int) -> CallboardError:
        """Return the error of a refused change; if members are the reason, with their names."""
        error = error_for_code(said.error, said.detail or f"group {group_id!r}")
        if said.error not in (ErrorCode.NON_EMPTY_GROUP, ErrorCode.UNKNOWN_MEMBER_ID):
            return error
        try:
            group = self.describe_groups([group_id], self._left_ms(until_ms))[group_id]
        except CallboardError:
            return error  # that is what was to be told; who is in it would only have been kind
        if not group.members:
            return error
        explained = NonEmptyGroupError(f"group {group_id!r} has {rules.who_is_in(group)}")
        explained.__cause__ = error
        return explained

    def _topic_ids(self, keys: Iterable[TopicPartition], timeout_ms: int) -> dict[TopicPartition, str]:
        """Return the ids of the topics of partitions that exist.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
        """
        cluster, clock, wanted = self._shell.cluster, self._io.clock, list(keys)
        topics = list(dict.fromkeys(key.topic for key in wanted))
        begin_ms = clock.monotonic_ms()

        def look() -> dict[TopicPartition, str] | None:
            for topic in topics:
                cluster.metadata.doubt_unknown(topic, begin_ms)
            cluster.add_interest(topics)
            for key in wanted:
                error = partition_error(cluster, key, clock.monotonic_ms())
                if error is not None:
                    raise error
            known = {key: leader.topic_id for key in wanted if (leader := cluster.metadata.leader(*key)) is not None}
            return known if len(known) == len(wanted) else None

        return wait_until(self._io, cluster, look, timeout_ms, "the topics")

    def _places(
        self, resets: Mapping[TopicPartition, ResetTo], timeout_ms: int
    ) -> tuple[dict[TopicPartition, LogRange], dict[TopicPartition, OffsetAndTimestamp | None]]:
        """Ask the leaders where logs begin and end, and what resets need to know; all at once."""
        starts = dict.fromkeys(resets, int(OffsetSpec.EARLIEST))
        ends = dict.fromkeys(resets, int(OffsetSpec.LATEST))
        asked = [starts, ends, rules.times_to_ask(resets)]
        questions = [partial(self._shell.find_offsets, wanted, timeout_ms) for wanted in asked]
        first, last, found = self._ask_io(partial(together, questions), timeout_ms, "the leaders")
        return {key: LogRange(first[key].offset, last[key].offset) for key in resets}, found

    def _with_siblings(self, keys: set[TopicPartition]) -> set[TopicPartition]:
        """Return these partitions and the others of their topics, as far as they are known."""
        known = self._shell.cluster.metadata.topics
        topics = [known[name] for name in {key.topic for key in keys} if name in known]
        return keys.union(TopicPartition(topic.name, number) for topic in topics for number in topic.partitions)

    def _ranges_if_possible(
        self, keys: Iterable[TopicPartition], timeout_ms: int
    ) -> tuple[dict[TopicPartition, LogRange], dict[TopicPartition, str]]:
        """Return where the logs of partitions begin and end; and of those that cannot be asked, why."""
        wanted = list(keys)
        questions = self._range_questions(wanted, timeout_ms)
        return _ranges_of(wanted, *self._ask_io(partial(together, questions), timeout_ms, "the leaders"))

    def _range_questions(self, keys: Iterable[TopicPartition], timeout_ms: int) -> list[Callable[[Done[Any]], Any]]:
        """Return the questions where the logs of partitions begin, and where they end."""
        wanted, bound_ms = list(keys), min(timeout_ms, LEADERS_MS)
        return [
            partial(self._shell.find_offsets_if_possible, dict.fromkeys(wanted, int(spec)), bound_ms)
            for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        ]


def _ranges_of(
    keys: Iterable[TopicPartition], first: Mapping[TopicPartition, Any], last: Mapping[TopicPartition, Any]
) -> tuple[dict[TopicPartition, LogRange], dict[TopicPartition, str]]:
    """Return what the leaders have said; and of those that could not be asked, why."""
    logs, errors = {}, {}
    for key in keys:
        error = next((each for each in (first[key], last[key]) if isinstance(each, CallboardError)), None)
        if error is None:
            logs[key] = LogRange(first[key].offset, last[key].offset)
        else:
            errors[key] = str(error)
    return logs, errors


# -- what is asked, and what was given ---------------------------------------------------------------

_DESCRIBE = GroupQuestion(
    lambda ids: g.DescribeGroupsRequest(group_ids=ids),
    lambda reply, _: {group.group_id: group for group in reply.groups},
    g.DescribeGroupsReply,
    is_batched=True,
)
_DELETE = GroupQuestion(
    lambda ids: g.DeleteGroupsRequest(group_ids=ids),
    lambda reply, _: {result.name: result for result in reply.results},
    g.AlterGroupReply,
    is_batched=True,
)


def _offsets_of(specs: Mapping[str, list[TopicPartition] | None]) -> GroupQuestion:
    def request(ids: list[str]) -> g.OffsetFetchRequest:
        wanted = specs[ids[0]]
        return g.OffsetFetchRequest(group_id=ids[0], partitions=None if wanted is None else rules.by_topic(wanted))

    return GroupQuestion(request, lambda reply, ids: dict.fromkeys(ids, reply), g.OffsetFetchReply)


def _checked(group_id: str, answer: GroupAnswer, raise_errors: bool) -> Any:
    if answer.said.error and raise_errors:
        if answer.said.error == ErrorCode.GROUP_ID_NOT_FOUND:
            raise GroupIdNotFoundError(answer.said.detail or f"there is no group {group_id!r}")
        raise error_for_code(answer.said.error, answer.said.detail or f"group {group_id!r}")
    return answer.said


def _raise_first(group_id: str, results: Iterable[g.AlterGroupResult], raise_errors: bool) -> None:
    for result in results:
        if result.error and raise_errors:
            detail = result.detail
            if not (detail.startswith(f"group {group_id} ") and result.name in detail):  # said already
                detail = f"group {group_id!r}, {result.name}: {detail}".rstrip(": ")
            raise error_for_code(result.error, detail)


def _as_result(group_id: str, said: Any) -> g.AlterGroupResult:
    return g.AlterGroupResult(name=group_id, error=said.error, detail=said.detail)


def _text(given: object, what: str) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{what}: expected str, got {type(given).__name__}")
    return given


def _broker(given: object) -> int:
    if type(given) is not int:
        raise TypeError(f"broker_ids: expected int, got {type(given).__name__}")
    return given


def _ids(group_ids: Iterable[str], what: str) -> list[str]:
    listed = [group_ids] if isinstance(group_ids, str) else list(group_ids)
    return list(dict.fromkeys(_text(group_id, what) for group_id in listed))


def _specs(groups: Groups) -> dict[str, list[TopicPartition] | None]:
    if not isinstance(groups, Mapping):
        return dict.fromkeys(_ids(groups, "list_group_offsets"))
    return {
        _text(group_id, "list_group_offsets"): None
        if partitions is None
        else [rules.partition_given(key, "list_group_offsets") for key in partitions]
        for group_id, partitions in groups.items()
    }


def _member(given: MemberToRemove | str) -> tuple[str, bool]:
    """Return a member's name, and whether that is an instance id."""
    if isinstance(given, str):
        given = MemberToRemove(given)
    if not isinstance(given, MemberToRemove):
        raise TypeError(f"remove_group_members: expected MemberToRemove or a member id, got {type(given).__name__}")
    member_id, instance_id = given
    if bool(member_id) == bool(instance_id):
        raise IllegalArgumentError("remove_group_members: name a member by member_id or by group_instance_id")
    return _text(member_id or instance_id, "remove_group_members"), not member_id
