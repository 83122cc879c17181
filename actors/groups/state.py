"""What all of a coordinator's rules share: the groups, what is written, and what is told when."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from ...errors import ErrorCode
from ...transport import group_messages as said
from ...transport.shapes import Reply as AnyReply
from .deadlines import Deadlines
from .events import Caller, Effect, GroupPartition, GroupRequest, GroupSettings, TopicPicture
from .group import Group
from .members import NEVER_MS, Gone, Member, Refused, as_message
from .records import group_record, offset_record
from .surviving import RECORDS_PER_WRITE_MAX, Surviving, refusal

_REPLIES: Mapping[type[Any], type[AnyReply]] = {
    said.GroupHeartbeatRequest: said.GroupHeartbeatReply,
    said.OffsetCommitRequest: said.OffsetCommitReply,
    said.OffsetFetchRequest: said.OffsetFetchReply,
    said.ListGroupsRequest: said.ListGroupsReply,
    said.DescribeGroupsRequest: said.DescribeGroupsReply,
    said.DeleteGroupsRequest: said.AlterGroupReply,
    said.DeleteOffsetsRequest: said.AlterGroupReply,
    said.RemoveMembersRequest: said.AlterGroupReply,
}


class Groups:
    """All groups of a coordinator."""

    def __init__(self, settings: GroupSettings) -> None:
        self.settings = settings
        self.by_id: dict[str, Group] = {}  # each has members, a record, offsets, or some under way
        self.topics: Mapping[str, TopicPicture] = {}  # by name
        self.topics_version = 0  # of the metadata with which topics came or went last
        self.surviving = Surviving()
        self.must_prove = True  # who is told that it lives: the last proof is old; moved by Coordinating with each call
        self.deletion = 0  # the last write that made a group go
        self.deadlines: Deadlines[tuple[Group, Member] | None] = Deadlines()  # None: the sweep

    def make(self, group_id: str) -> Group:
        """Return the group, a new one if there is none."""
        if (group := self.by_id.get(group_id)) is None:
            group = self.by_id[group_id] = Group(group_id)
        return group

    def no_room(self) -> Refused | None:
        """Say why there cannot be one more group, if so."""
        if len(self.by_id) < self.settings.groups_max:
            return None
        detail = f"this coordinator has {len(self.by_id):,} groups, as many as groups_max allows"
        return Refused(ErrorCode.LIMIT_EXCEEDED, detail)

    # -- what is told

    def refuse(
        self, request: GroupRequest, caller: Caller, refused: Refused, group: Group | None = None
    ) -> list[Effect]:
        """Refuse a request. ``group``: whose state is the reason, so that must survive before it is told."""
        reply = refusal(_REPLIES[type(request)], request.id, refused.code, refused.detail)
        return self.surviving.reply(caller.ticket, reply, group.written if group is not None else 0)

    def tell(self, group: Group, member: Member, ticket: Hashable, request_id: int, known_epoch: int) -> list[Effect]:
        """Tell the member how things are; its assignment, if it knows another epoch, and where what is new begins."""
        is_complete = member.told_complete = member.is_complete
        reply = said.GroupHeartbeatReply(
            id=request_id,
            member_epoch=member.epoch,
            group_epoch=group.epoch,
            assignment=None if known_epoch == member.epoch else as_message(member.given()),
            is_complete=is_complete,
            why=member.reset_why or group.why,
            is_reset=bool(member.reset_why),
            topics_version=self.topics_version if member.pattern else 0,
        )
        member.told_topics = self.topics_version
        number, effects = group.written, list[Effect]()
        if self.must_prove and number <= self.surviving.written:
            number, effects = self.surviving.prove()
        new = member.newly_given(known_epoch) if known_epoch != member.epoch else []
        complete = partial(_with_beginnings, group, new) if new else None
        return effects + self.surviving.reply(ticket, reply, number, member, complete)

    def has_other_topics(self, member: Member) -> bool:
        """Say whether topics came or went since a member with a pattern was told."""
        return bool(member.pattern) and member.told_topics != self.topics_version

    def tell_parked(self, group: Group, member: Member) -> list[Effect]:
        if (parked := member.parked) is None:
            return []
        member.parked = None
        return self.tell(group, member, parked.ticket, parked.request_id, parked.known_epoch)

    # -- what changes

    def settle(self, group: Group) -> list[Effect]:
        """Write what has changed of the group's members, and tell those for whom there is news."""
        if not (records := group.take_records()):
            return []
        write = self.surviving.write(records)
        group.written = write.number
        effects: list[Effect] = [write]
        for member in group.members.values():
            if member.parked is not None and member.has_news(member.parked.known_epoch):
                effects += self.tell_parked(group, member)
            self.look_later(group, member)
        return effects

    def put_out(self, group: Group, member: Member, why: str, now_ms: int, wall_ms: int) -> list[Effect]:
        gone = Gone(ErrorCode.UNKNOWN_MEMBER_ID, why, now_ms)
        group.remove(member, gone, self.topics, now_ms, wall_ms)
        return self.settle(group) + self.dismiss(group, member, gone.refused(now_ms))

    def dismiss(self, group: Group, member: Member, refused: Refused) -> list[Effect]:
        """Tell one that is out, if it listens; what was to be told before is not true any more."""
        for held in member.held:
            held.reply = refusal(type(held.reply), held.reply.id, *refused)
        if (parked := member.parked) is None:
            return []
        member.parked = None
        reply = refusal(said.GroupHeartbeatReply, parked.request_id, *refused)
        return self.surviving.reply(parked.ticket, reply, group.written)

    def look_later(self, group: Group, member: Member) -> None:
        """Have the member looked at when it is due, if it is not looked at before that anyway."""
        if (due_ms := member.due_ms) < member.look_ms:
            if member.look_ms < NEVER_MS:
                member.far_ms = max(member.far_ms, member.look_ms)
            member.look_ms = self.deadlines.add(due_ms, (group, member))

    # -- what is forgotten

    def forget_offsets(self, group: Group, partitions: Iterable[GroupPartition]) -> list[Effect]:
        """Forget these; what is read does not show it before it survives."""
        forgotten = list(partitions)
        effects: list[Effect] = []
        for at in range(0, len(forgotten), RECORDS_PER_WRITE_MAX):
            some = forgotten[at : at + RECORDS_PER_WRITE_MAX]
            records = [offset_record(group.group_id, partition, None) for partition in some]
            effects.append(self.surviving.write_offsets(records, group.offsets, dict.fromkeys(some)))
        return effects

    def forget_group(self, group: Group) -> list[Effect]:
        """Forget a group without members, and all its offsets."""
        effects = self.forget_offsets(group, group.offsets.partitions())
        if group.has_record:
            effects.append(self.surviving.write([group_record(group.group_id, None)]))
        del self.by_id[group.group_id]
        self.deletion = self.surviving.number
        return effects


def _with_beginnings(group: Group, given: list[GroupPartition], reply: AnyReply) -> AnyReply:
    """Say besides where these begin (rule 6 of ``offsets``)."""
    return msgspec.structs.replace(reply, committed=group.offsets.beginnings(given))
