"""Groups as they are shown to whoever looks after them."""

from __future__ import annotations

from ...errors import ErrorCode
from ...transport.group_messages import GroupDescription, GroupListing, MemberDescription
from .group import Group
from .members import Member, as_message


def listing(group: Group) -> GroupListing:
    return GroupListing(group_id=group.group_id, state=group.state, members=len(group.members))


def description(group: Group, coordinator: int, now_ms: int) -> GroupDescription:
    """Return all that is known of a group; members sorted by id."""
    return GroupDescription(
        group_id=group.group_id,
        state=group.state,
        group_epoch=group.epoch,
        assignor=group.assignor,
        coordinator=coordinator,
        why=group.why,
        members=[_member(group.members[name], now_ms) for name in sorted(group.members)],
    )


def not_found(group_id: str, coordinator: int) -> GroupDescription:
    return GroupDescription(
        group_id=group_id,
        error=ErrorCode.GROUP_ID_NOT_FOUND,
        detail=no_such_group(group_id),
        coordinator=coordinator,
    )


def no_such_group(group_id: str) -> str:
    return f"there is no group {group_id}, and there are no offsets of one"


def _member(member: Member, now_ms: int) -> MemberDescription:
    return MemberDescription(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        host=member.host,
        state="away" if member.is_away else member.state,
        member_epoch=member.epoch,
        topics=list(member.topics),
        assigned=as_message(member.given()),
        target=as_message(sorted(member.target)),
        heartbeat_ms_ago=max(0, now_ms - member.seen_ms),
        session_timeout_ms=member.session_timeout_ms,
        fetching_ms_ago=max(0, now_ms - member.fetching_ms) if member.fetching_ms >= 0 else -1,
        stalled=as_message(sorted(member.stalled)),
        stalled_ms=max((stall.for_ms for stall in member.stalled.values()), default=0),
    )
