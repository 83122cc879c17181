"""Scripted brokers that coordinate groups as well: what a group is, is set by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fake_broker import FakeCluster

from callboard.errors import ErrorCode
from callboard.transport import group_messages as g
from callboard.transport import messages as m
from callboard.transport.seam import Inbound


@dataclass
class FakeGroup:
    coordinator: int = 1
    members: list[g.MemberDescription] = field(default_factory=list)
    offsets: dict[tuple[str, int], g.OffsetFetchEntryReply] = field(default_factory=dict)


class GroupCluster(FakeCluster):
    """``scripted``: those there are; a group that is not there is coordinated by broker 1."""

    def __init__(self, brokers: int = 1) -> None:
        super().__init__(brokers)
        self.scripted: dict[str, FakeGroup] = {}
        self.loading: dict[int, int] = {}  # broker -> how often it will still say that it is loading
        self.behind: dict[int, int] = {}  # broker -> how often it does not know yet that it was elected
        self.told: dict[
            int, list[list[int]]
        ] = {}  # broker -> whose groups it tells, with each question; else as it leads
        self.unavailable: dict[str, int] = {}  # group -> how often nobody coordinates it
        self.held: list[Callable[[], None]] | None = (
            None  # answers of coordinators, for ``release``; None: given at once
        )
        self.group_handlers: dict[type, Callable[[int, Any], Any]] = {
            g.FindCoordinatorsRequest: self._find,
            g.ListGroupsRequest: self._list,
            g.DescribeGroupsRequest: self._describe,
            g.OffsetFetchRequest: self._offset_fetch,
            g.OffsetCommitRequest: self._offset_commit,
            g.DeleteGroupsRequest: self._delete_groups,
            g.DeleteOffsetsRequest: self._delete_offsets,
            g.RemoveMembersRequest: self._remove_members,
        }

    # -- for tests ---------------------------------------------------------------------------------

    def group(self, group_id: str, coordinator: int = 1, *members: str, **offsets: int) -> FakeGroup:
        """A group with members by id, and with committed offsets: ``t_0=5`` of partition 0 of topic t."""

        def make() -> FakeGroup:
            group = self.scripted[group_id] = FakeGroup(coordinator)
            for name in members:
                group.members.append(g.MemberDescription(member_id=name, client_id="app", host="here", topics=["t"]))
            for name, offset in offsets.items():
                topic, _, partition = name.rpartition("_")
                key = (topic, int(partition))
                group.offsets[key] = g.OffsetFetchEntryReply(topic=topic, partition=key[1], offset=offset)
            return group

        return self.call(make)

    def committed(self, group_id: str) -> dict[tuple[str, int], int]:
        return self.call(lambda: {key: entry.offset for key, entry in self.scripted[group_id].offsets.items()})

    # -- on its thread -----------------------------------------------------------------------------

    def _handle(self, broker: int, inbound: Inbound, reply: Any) -> None:
        handler = self.group_handlers.get(type(inbound.message))
        if handler is None:
            super()._handle(broker, inbound, reply)
        elif self.held is not None:
            self.held.append(lambda: reply(handler(broker, inbound.message)))
        else:
            reply(handler(broker, inbound.message))

    def release(self) -> None:
        """Answer what was asked of coordinators since ``held`` was set to a list, and from now on."""
        held, self.held = self.held or [], None
        for answer in held:
            answer()

    def _moved(self, broker: int, group_id: str) -> dict[str, Any]:
        group = self.scripted.get(group_id, FakeGroup())
        return {} if group.coordinator == broker else {"error": ErrorCode.NOT_COORDINATOR, "detail": f"not {broker}"}

    def _find(self, broker: int, request: g.FindCoordinatorsRequest) -> g.CoordinatorsReply:
        entries = []
        for group_id in request.group_ids:
            if not group_id or len(group_id) > 249:
                entry = g.CoordinatorEntry(group_id=group_id, error=ErrorCode.INVALID_GROUP_ID)
            elif self.unavailable.get(group_id):
                self.unavailable[group_id] -= 1
                entry = g.CoordinatorEntry(group_id=group_id, error=ErrorCode.COORDINATOR_NOT_AVAILABLE)
            else:
                coordinator = self.scripted.get(group_id, FakeGroup()).coordinator
                entry = g.CoordinatorEntry(group_id=group_id, broker_id=coordinator)
            entries.append(entry)
        return g.CoordinatorsReply(id=request.id, coordinators=entries)

    def _metadata(self, broker: int, inbound: Inbound, reply: Any) -> None:
        def as_it_was(told: m.MetadataReply) -> None:
            for topic in told.topics:
                topic.partitions[:] = [
                    msgspec.structs.replace(one, leader=-1) if one.leader == broker else one for one in topic.partitions
                ]
            reply(told)

        super()._metadata(broker, inbound, as_it_was if self.behind.get(broker) else reply)

    def _list(self, broker: int, request: g.ListGroupsRequest) -> g.ListGroupsReply:
        if self.behind.get(broker):
            self.behind[broker] -= 1
            return g.ListGroupsReply(id=request.id)
        if self.loading.get(broker):
            self.loading[broker] -= 1
            return g.ListGroupsReply(id=request.id, loading=[7])
        told = self.told.get(broker) or [None]
        whose = told[0] if len(told) == 1 else told.pop(0)
        found = [
            g.GroupListing(group_id=name, state="stable" if group.members else "empty", members=len(group.members))
            for name, group in self.scripted.items()
            if group.coordinator == broker and whose != []
        ]
        return g.ListGroupsReply(id=request.id, groups=found, told=whose)

    def _describe(self, broker: int, request: g.DescribeGroupsRequest) -> g.DescribeGroupsReply:
        found = []
        for group_id in request.group_ids:
            group, moved = self.scripted.get(group_id), self._moved(broker, group_id)
            if moved or group is None:
                moved = moved or {"error": ErrorCode.GROUP_ID_NOT_FOUND}
                found.append(g.GroupDescription(group_id=group_id, **moved))
            else:
                found.append(
                    g.GroupDescription(
                        group_id=group_id,
                        state="stable" if group.members else "empty",
                        group_epoch=3,
                        assignor="range",
                        coordinator=broker,
                        why="a member joined",
                        members=group.members,
                    )
                )
        return g.DescribeGroupsReply(id=request.id, groups=found)

    def _offset_fetch(self, broker: int, request: g.OffsetFetchRequest) -> g.OffsetFetchReply:
        if moved := self._moved(broker, request.group_id):
            return g.OffsetFetchReply(id=request.id, **moved)
        offsets = self.scripted.get(request.group_id, FakeGroup()).offsets
        wanted = list(offsets) if request.partitions is None else _keys(request.partitions)
        entries = [offsets.get(key, g.OffsetFetchEntryReply(topic=key[0], partition=key[1])) for key in wanted]
        return g.OffsetFetchReply(id=request.id, entries=entries)

    def _offset_commit(self, broker: int, request: g.OffsetCommitRequest) -> g.OffsetCommitReply:
        if moved := self._moved(broker, request.group_id):
            return g.OffsetCommitReply(id=request.id, **moved)
        group = self.scripted.setdefault(request.group_id, FakeGroup())
        if group.members:
            return g.OffsetCommitReply(id=request.id, error=ErrorCode.NON_EMPTY_GROUP, detail="it has members")
        for one in request.entries:
            assert one.topic_id == self.topics[one.topic].topic_id
            group.offsets[one.topic, one.partition] = g.OffsetFetchEntryReply(
                topic=one.topic, partition=one.partition, offset=one.offset, metadata=one.metadata
            )
        return g.OffsetCommitReply(id=request.id)

    def _delete_groups(self, broker: int, request: g.DeleteGroupsRequest) -> g.AlterGroupReply:
        results = []
        for group_id in request.group_ids:
            group, refused = self.scripted.get(group_id), self._moved(broker, group_id)
            if not refused and group is None:
                refused = {"error": ErrorCode.GROUP_ID_NOT_FOUND}
            elif not refused and group is not None and group.members:
                refused = {"error": ErrorCode.NON_EMPTY_GROUP}
            elif not refused:
                del self.scripted[group_id]
            results.append(g.AlterGroupResult(name=group_id, **refused))
        return g.AlterGroupReply(id=request.id, results=results)

    def _delete_offsets(self, broker: int, request: g.DeleteOffsetsRequest) -> g.AlterGroupReply:
        if moved := self._moved(broker, request.group_id):
            return g.AlterGroupReply(id=request.id, **moved)
        group = self.scripted.get(request.group_id, FakeGroup())
        read = {topic for member in group.members for topic in member.topics}
        results = []
        for topic, partition in _keys(request.partitions):
            error = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if topic in read else ErrorCode.NONE
            if not error:
                group.offsets.pop((topic, partition), None)
            results.append(g.AlterGroupResult(name=f"{topic}-{partition}", error=error))
        return g.AlterGroupReply(id=request.id, results=results)

    def _remove_members(self, broker: int, request: g.RemoveMembersRequest) -> g.AlterGroupReply:
        if moved := self._moved(broker, request.group_id):
            return g.AlterGroupReply(id=request.id, **moved)
        group = self.scripted.get(request.group_id, FakeGroup())
        results = []
        for name in (*request.member_ids, *request.instance_ids):
            out = [one for one in group.members if name in (one.member_id, one.instance_id)]
            for member in out:
                group.members.remove(member)
            detail = "" if out else f"group {request.group_id} has no member {name}"
            code = ErrorCode.NONE if out else ErrorCode.UNKNOWN_MEMBER_ID
            results.append(g.AlterGroupResult(name=name, error=code, detail=detail))
        return g.AlterGroupReply(id=request.id, results=results)


def _keys(partitions: list[g.TopicPartitions]) -> list[tuple[str, int]]:
    return [(some.topic, number) for some in partitions for number in some.partitions]


@contextmanager
def group_cluster(brokers: int = 2) -> Iterator[GroupCluster]:
    cluster = GroupCluster(brokers)
    try:
        yield cluster
    finally:
        cluster.close()
