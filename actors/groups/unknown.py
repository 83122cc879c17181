"""Who is no member, and why not, as well as it is known."""

from __future__ import annotations

from ...errors import ErrorCode
from .group import Group
from .members import Refused


def unknown(group_id: str, member_id: str, instance_id: str, group: Group | None, now_ms: int) -> Refused:
    """Say why this one is no member, as well as it is known."""
    if group is not None:
        there = group.instances.get(instance_id)
        if there is not None and there != member_id:
            other = group.members[there].described()
            detail = f"{member_id} is fenced: {other} has come with the same instance id"
            return Refused(ErrorCode.FENCED_INSTANCE_ID, detail)
        if (gone := group.gone.get(member_id)) is not None:
            return gone.refused(now_ms)
        if (member := group.members.get(member_id)) is not None and member.is_away:
            detail = f"{member.described()} has left for a while; it comes back with a new member id"
            return Refused(ErrorCode.UNKNOWN_MEMBER_ID, detail)
    detail = f"group {group_id} has no member {member_id}: it has left, or was out of reach for longer than its session"
    return Refused(ErrorCode.UNKNOWN_MEMBER_ID, detail)
