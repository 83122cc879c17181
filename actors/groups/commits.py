"""Offsets as they are asked for: commits, and what was committed.

A commit is judged by who the committer is and what it holds now (``offsets`` has the rules); what is refused says whose
the partitions are. Nothing is read that might not survive: a fetch shows what has survived when it comes, once it is
proven that nobody else could have acknowledged anything until then (``proof``).
"""

from __future__ import annotations

from collections.abc import Iterable

from ...config import shown
from ...errors import ErrorCode
from ...transport import group_messages as said
from .checks import ID_MAX, check_group_id
from .events import Caller, Effect, GroupPartition
from .group import Group
from .members import Member, Refused
from .offsets import Committer, judged
from .records import offset_record
from .state import Groups
from .unknown import unknown

OWNERS_NAMED_MAX = 3  # in one refusal


class Commits:
    """What is committed, by members and, in groups that have none, by anybody."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def on_commit(self, request: said.OffsetCommitRequest, caller: Caller, now_ms: int, wall_ms: int) -> list[Effect]:
        """Commit all entries, or none."""
        groups = self._groups
        group = groups.by_id.get(request.group_id)
        committer = self._committer(request, group, now_ms)
        if isinstance(committer, Refused):
            return groups.refuse(request, caller, committer, group)
        changes, refused = judged(
            request.entries, committer, groups.topics, groups.settings.offset_metadata_bytes_max, wall_ms
        )
        if refused:
            reply = _refused(request, committer, group, refused)
            return groups.surviving.reply(caller.ticket, reply, group.written if group is not None else 0)
        answer = said.OffsetCommitReply(id=request.id)
        if not changes:
            return groups.surviving.reply(caller.ticket, answer, 0)
        group = groups.make(request.group_id)
        records = [offset_record(group.group_id, partition, value) for partition, value in changes.items()]
        write = groups.surviving.write_offsets(records, group.offsets, changes)
        return [write, *groups.surviving.reply(caller.ticket, answer, write.number)]

    def on_last(
        self, request: said.GroupHeartbeatRequest, group: Group, member: Member, wall_ms: int
    ) -> list[Effect] | Refused:
        """Commit what a member that leaves has said last; or return why it must not leave with it."""
        if request.last_epoch > member.epoch:
            detail = f"{member.described()} commits in generation {request.last_epoch}; it is in {member.epoch}"
            return Refused(ErrorCode.FENCED_MEMBER_EPOCH, detail)
        groups, committer = self._groups, Committer(member.holds, member.member_id, request.last_epoch)
        size_max = groups.settings.offset_metadata_bytes_max
        changes, refused = judged(request.last_offsets, committer, groups.topics, size_max, wall_ms)
        if refused:
            partition, (code, detail) = refused[0]
            return Refused(code, detail or f"{partition} is not committed; {group.whose(partition)}")
        if not changes:
            return []
        records = [offset_record(group.group_id, partition, value) for partition, value in changes.items()]
        return [groups.surviving.write_offsets(records, group.offsets, changes)]

    def _committer(self, request: said.OffsetCommitRequest, group: Group | None, now_ms: int) -> Committer | Refused:
        """Return who commits, or why nobody may (B19)."""
        if request.member_id:
            member = group.members.get(request.member_id) if group is not None else None
            if group is None or member is None or member.is_away:
                refused = unknown(request.group_id, request.member_id, request.instance_id, group, now_ms)
                return self._with_owners(refused, group, request)
            if request.member_epoch > member.epoch:
                detail = f"{member.described()} commits in generation {request.member_epoch}; it is in {member.epoch}"
                return self._with_owners(Refused(ErrorCode.FENCED_MEMBER_EPOCH, detail), group, request)
            member.heard(now_ms)
            newest = group.offsets.newest
            return Committer(member.holds, member.member_id, request.member_epoch, request.number, newest)
        if refused_id := check_group_id(request.group_id):
            return refused_id
        if request.member_epoch != said.NO_MEMBER:
            return Refused(ErrorCode.INVALID_REQUEST, f"generation {request.member_epoch} of no member")
        if len(request.committer) > ID_MAX:
            detail = f"committer {shown(request.committer)} has more than {ID_MAX} characters"
            return Refused(ErrorCode.INVALID_REQUEST, detail)
        number = request.number if request.committer else -1
        if group is None:
            return self._groups.no_room() or Committer(member_id=request.committer, number=number)
        if group.members:
            count = len(group.members)
            noun, who = ("member", "it commits") if count == 1 else ("members", "they commit")
            detail = f"group {group.group_id} has {count} {noun}; only {who}"
            return Refused(ErrorCode.NON_EMPTY_GROUP, detail)
        return Committer(member_id=request.committer, number=number, newest=group.offsets.newest)

    def _with_owners(self, refused: Refused, group: Group | None, request: said.OffsetCommitRequest) -> Refused:
        """Say besides who owns what the refused one would commit."""
        if group is None or not request.entries:
            return refused
        partitions = []
        for entry in request.entries[: OWNERS_NAMED_MAX + 1]:
            picture = self._groups.topics.get(entry.topic)
            topic_id = entry.topic_id or (picture.topic_id if picture else "")
            partitions.append(GroupPartition(entry.topic, topic_id, entry.partition))
        return refused._replace(detail=f"{refused.detail}; {_owners(group, partitions)}")

    def on_fetch(self, request: said.OffsetFetchRequest, caller: Caller, now_ms: int, wall_ms: int) -> list[Effect]:
        """Tell what was committed and has survived; not before a proof that is younger than the question."""
        groups = self._groups
        group = groups.by_id.get(request.group_id)
        if refused := check_group_id(request.group_id) or _not_its_turn(request, group, now_ms):
            return groups.refuse(request, caller, refused, group)
        if group is None:
            entries = Group(request.group_id).offsets.fetched(request.partitions, groups.topics)
        else:
            entries = group.offsets.fetched(request.partitions, groups.topics)
        reply = said.OffsetFetchReply(id=request.id, entries=entries)
        number, effects = groups.surviving.prove()
        return effects + groups.surviving.reply(caller.ticket, reply, number)


def _not_its_turn(request: said.OffsetFetchRequest, group: Group | None, now_ms: int) -> Refused | None:
    """Return why the member may not begin anywhere, if so."""
    if not request.member_id:
        return None
    member = group.members.get(request.member_id) if group is not None else None
    if member is None or member.is_away:
        return unknown(request.group_id, request.member_id, "", group, now_ms)
    if request.member_epoch > member.epoch:
        detail = f"{member.described()} asks in generation {request.member_epoch}; it is in {member.epoch}"
        return Refused(ErrorCode.FENCED_MEMBER_EPOCH, detail)
    return None


def _refused(
    request: said.OffsetCommitRequest,
    committer: Committer,
    group: Group | None,
    refused: list[tuple[GroupPartition, Refused]],
) -> said.OffsetCommitReply:
    """Return the reply that says what is wrong with each entry that is refused; none was committed."""
    entries = []
    for partition, (code, detail) in refused:
        if not detail and group is not None:
            whose = group.whose(partition)
            if code == ErrorCode.ILLEGAL_GENERATION:
                detail = f"commit of generation {committer.member_epoch}; {whose}"
            else:
                detail = f"{partition} is not assigned to {committer.member_id}; {whose}"
        entries.append(
            said.OffsetCommitEntryReply(topic=partition.topic, partition=partition.partition, error=code, detail=detail)
        )
    more = f" (and {len(entries) - 1} more)" if len(entries) > 1 else ""
    return said.OffsetCommitReply(
        id=request.id, error=entries[0].error, detail=entries[0].detail + more, entries=entries
    )


def _owners(group: Group, partitions: Iterable[GroupPartition]) -> str:
    """Say whose they are; each owner is named once."""
    told = list(partitions)
    by_owner: dict[str, list[str]] = {}
    for partition in told[:OWNERS_NAMED_MAX]:
        by_owner.setdefault(group.owner_of(partition), []).append(str(partition))
    said_of = [
        f"{', '.join(some)} {'is' if len(some) == 1 else 'are'} owned by {owner}" for owner, some in by_owner.items()
    ]
    return "; ".join(said_of) + (", …" if len(told) > OWNERS_NAMED_MAX else "")
