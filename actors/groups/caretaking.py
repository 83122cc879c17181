"""What those ask who look after groups: list, describe, delete, put members out."""

from __future__ import annotations

from ...errors import ErrorCode
from ...transport import group_messages as said
from .checks import check_group_id
from .describing import description, listing, no_such_group, not_found
from .events import Caller, Effect, GroupPartition
from .group import Group
from .offsets import named
from .state import Groups


class Caretaking:
    """Whoever asks, what is told has survived."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def on_list(self, request: said.ListGroupsRequest, caller: Caller, now_ms: int, wall_ms: int) -> list[Effect]:
        known = [group for _, group in sorted(self._groups.by_id.items()) if _is_known(group)]
        reply = said.ListGroupsReply(id=request.id, groups=[listing(group) for group in known])
        return self._groups.surviving.reply(caller.ticket, reply, self._last_change(known))

    def on_describe(
        self, request: said.DescribeGroupsRequest, caller: Caller, now_ms: int, wall_ms: int
    ) -> list[Effect]:
        coordinator = self._groups.settings.broker_id
        described: list[said.GroupDescription] = []
        known: list[Group] = []
        for group_id in request.group_ids:
            group = self._groups.by_id.get(group_id)
            if group is not None and _is_known(group):
                described.append(description(group, coordinator, now_ms))
                known.append(group)
            else:
                described.append(not_found(group_id, coordinator))
        reply = said.DescribeGroupsReply(id=request.id, groups=described)
        return self._groups.surviving.reply(caller.ticket, reply, self._last_change(known))

    def on_delete_groups(
        self, request: said.DeleteGroupsRequest, caller: Caller, now_ms: int, wall_ms: int
    ) -> list[Effect]:
        effects: list[Effect] = []
        results: list[said.AlterGroupResult] = []
        for group_id in request.group_ids:
            group = self._groups.by_id.get(group_id)
            if refused := check_group_id(group_id):
                results.append(_result(group_id, *refused))
            elif group is None:
                results.append(_result(group_id, ErrorCode.GROUP_ID_NOT_FOUND, no_such_group(group_id)))
            elif group.members:
                detail = f"group {group_id} has {len(group.members)} members"
                results.append(_result(group_id, ErrorCode.NON_EMPTY_GROUP, detail))
            else:
                effects += self._groups.forget_group(group)
                results.append(_result(group_id))
        return effects + self._altered(request, caller, results)

    def on_delete_offsets(
        self, request: said.DeleteOffsetsRequest, caller: Caller, now_ms: int, wall_ms: int
    ) -> list[Effect]:
        group = self._groups.by_id.get(request.group_id)
        if group is None:
            code, detail = check_group_id(request.group_id) or (
                ErrorCode.GROUP_ID_NOT_FOUND,
                no_such_group(request.group_id),
            )
            wanted = named(request.partitions, self._groups.topics)
            return self._altered(request, caller, [_result(str(partition), code, detail) for partition in wanted])
        subscribed = group.subscribed()
        there = frozenset(group.offsets.partitions())
        results: list[said.AlterGroupResult] = []
        forgotten: dict[GroupPartition, None] = {}
        for partition in named(request.partitions, self._groups.topics):
            if partition.topic in subscribed:
                detail = f"members of group {group.group_id} are subscribed to {partition.topic}"
                results.append(_result(str(partition), ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, detail))
            elif partition not in there:
                detail = f"group {group.group_id} has committed nothing of {partition}"
                results.append(_result(str(partition), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail))
            else:
                forgotten[partition] = None
                results.append(_result(str(partition)))
        return self._groups.forget_offsets(group, forgotten) + self._altered(request, caller, results)

    def on_remove_members(
        self, request: said.RemoveMembersRequest, caller: Caller, now_ms: int, wall_ms: int
    ) -> list[Effect]:
        group = self._groups.by_id.get(request.group_id)
        effects: list[Effect] = []
        results: list[said.AlterGroupResult] = []
        for name, is_instance in [
            *((name, False) for name in request.member_ids),
            *((name, True) for name in request.instance_ids),
        ]:
            if group is None:
                code, detail = ErrorCode.GROUP_ID_NOT_FOUND, no_such_group(request.group_id)
                results.append(_result(name, code, detail))
                continue
            member = group.members.get(group.instances.get(name, "") if is_instance else name)
            if member is None:
                kind = "instance" if is_instance else "member"
                detail = f"group {group.group_id} has no {kind} {name}"
                results.append(_result(name, ErrorCode.UNKNOWN_MEMBER_ID, detail))
                continue
            effects += self._groups.put_out(group, member, f"{member.described()} was put out", now_ms, wall_ms)
            results.append(_result(name))
        return effects + self._altered(request, caller, results)

    def _altered(
        self,
        request: said.DeleteGroupsRequest | said.DeleteOffsetsRequest | said.RemoveMembersRequest,
        caller: Caller,
        results: list[said.AlterGroupResult],
    ) -> list[Effect]:
        """Tell the results once all that was written up to now survives."""
        reply = said.AlterGroupReply(id=request.id, results=results)
        return self._groups.surviving.reply(caller.ticket, reply, self._groups.surviving.number)

    def _last_change(self, known: list[Group]) -> int:
        """The last write that what is told of these, and of those that are not there, depends on."""
        return max([self._groups.deletion, *(group.written for group in known)])


def _is_known(group: Group) -> bool:
    """There is something of the group that has survived, or its members say so."""
    return group.has_record or bool(group.offsets.committed)


def _result(name: str, code: ErrorCode = ErrorCode.NONE, detail: str = "") -> said.AlterGroupResult:
    return said.AlterGroupResult(name=name, error=code, detail=detail)
