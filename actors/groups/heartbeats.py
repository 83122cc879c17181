"""Heartbeats: how members come, live, say what they own, and go.

1. A heartbeat that finds nothing new is parked, and answered at once when there is news for its member. A session runs
   from the last request received, or from when an answer went out that had waited for the disk.
2. An older epoch of a member is one that has not heard of the newer one: it is told. A newer one, or a member that is
   none, is refused. What a member says it owns counts only if it knows its epoch: else it may speak of an earlier time.
   For the same reason what it says in a heartbeat that a later one of its has overtaken counts nothing.
3. A member id is never used again: a join of one that is gone is a late duplicate.
4. Whoever takes the place of a member with the same instance id names that one: so it has been told of it, and lives.
   A join that was under way when its sender died fences nobody, whichever coordinator it comes to.
"""

from __future__ import annotations

from collections.abc import Collection

from ...errors import ErrorCode
from ...transport import group_messages as said
from .checks import check_heartbeat, check_join
from .commits import Commits
from .events import Caller, Effect
from .group import Group
from .members import NEVER_MS, Member, Parked, Refused
from .offsets import named
from .state import Groups
from .unknown import unknown
from .watchdog import WAIT_SHARE, Watchdog


class Heartbeats:
    """What members say, and what their silence means."""

    def __init__(self, groups: Groups, commits: Commits, watchdog: Watchdog) -> None:
        self._groups = groups
        self._commits = commits
        self._watchdog = watchdog

    def on_heartbeat(
        self, request: said.GroupHeartbeatRequest, caller: Caller, now_ms: int, wall_ms: int
    ) -> list[Effect]:
        group = self._groups.by_id.get(request.group_id)
        member = group.members.get(request.member_id) if group is not None else None
        if group is not None and member is not None and request.member_epoch > 0 and not member.is_away:
            return self._on_member(group, member, request, caller, now_ms, wall_ms)
        if refused := check_heartbeat(request):
            return self._groups.refuse(request, caller, refused)
        if request.member_epoch == said.JOINING and (member is None or not member.is_away):
            return self._on_join(group, member, request, caller, now_ms)
        if group is None or member is None or member.is_away:
            return self._groups.refuse(request, caller, _unknown(request, group, now_ms), group)
        if request.member_epoch == said.LEAVING_FOR_A_WHILE and request.instance_id != member.instance_id:
            detail = f"{member.described()} has not joined with instance id {request.instance_id}"
            return self._groups.refuse(request, caller, Refused(ErrorCode.INVALID_REQUEST, detail))
        committed = self._commits.on_last(request, group, member, wall_ms) if request.last_offsets else []
        if isinstance(committed, Refused):
            return self._groups.refuse(request, caller, committed, group)
        return committed + self._on_leaving(group, member, request, caller, now_ms, wall_ms)

    def _on_leaving(
        self,
        group: Group,
        member: Member,
        request: said.GroupHeartbeatRequest,
        caller: Caller,
        now_ms: int,
        wall_ms: int,
    ) -> list[Effect]:
        if request.member_epoch == said.LEAVING_FOR_A_WHILE:
            return self._on_leaving_for_a_while(group, member, request, caller, now_ms)
        why = "left: its application did not poll within max_poll_interval_ms" if request.is_stuck else "left"
        why = member.reset_why or f"{member.described()} {why}"
        effects = self._groups.put_out(group, member, why, now_ms, wall_ms)
        reply = said.GroupHeartbeatReply(id=request.id, member_epoch=request.member_epoch, group_epoch=group.epoch)
        return effects + self._groups.surviving.reply(caller.ticket, reply, group.written)

    def _on_member(
        self,
        group: Group,
        member: Member,
        request: said.GroupHeartbeatRequest,
        caller: Caller,
        now_ms: int,
        wall_ms: int,
    ) -> list[Effect]:
        """A member lives: take what it says, tell it what is new, or park its heartbeat."""
        epoch = request.member_epoch
        if epoch > member.epoch:
            detail = f"{member.described()} says generation {epoch}; it is in generation {member.epoch}"
            return self._groups.refuse(request, caller, Refused(ErrorCode.FENCED_MEMBER_EPOCH, detail), group)
        member.heard(now_ms)
        member.has_spoken = True
        effects = self._watchdog.on_heartbeat(group, member, request, now_ms)
        if member.reset_why and now_ms - member.reset_ms >= member.session_timeout_ms:
            why = f"{member.reset_why}; it was told, and did not leave"
            effects += self._groups.put_out(group, member, why, now_ms, wall_ms)
            return effects + self._groups.refuse(request, caller, _unknown(request, group, now_ms), group)
        if request.owned is not None or request.topics is not None or request.assignors:
            if refused := self._take_words(group, member, request, now_ms):
                return effects + self._groups.refuse(request, caller, refused)
            effects += self._groups.settle(group)
        if member.parked is not None:
            effects += self._groups.tell_parked(group, member)  # nobody listens there any more
        if request.max_wait_ms <= 0 or member.has_news(epoch) or self._groups.has_other_topics(member):
            return effects + self._groups.tell(group, member, caller.ticket, request.id, epoch)
        wait_ms = min(request.max_wait_ms, member.session_timeout_ms // WAIT_SHARE)
        member.parked = Parked(caller.ticket, request.id, epoch, now_ms + wait_ms)
        self._groups.look_later(group, member)
        return effects

    def _take_words(
        self, group: Group, member: Member, request: said.GroupHeartbeatRequest, now_ms: int
    ) -> Refused | None:
        """Take what the member says of itself and what it owns; all, or nothing of it, and why."""
        if 0 <= request.number < member.said:
            return None
        if refused := check_heartbeat(request):
            return refused
        if request.assignors and (refused := _no_common(group, request.assignors, member)):
            return refused
        owned = named(request.owned or (), self._groups.topics)
        if is_current := request.owned is not None and request.member_epoch == member.epoch:
            for partition in owned:
                if partition not in member.holds:
                    detail = f"{member.described()} owns {partition}, it says; {group.whose(partition)}"
                    return Refused(ErrorCode.INVALID_REQUEST, detail)
        if is_current and member.asked:  # before it can be asked for more, of which it has not heard yet
            group.give_back(member, frozenset(owned))
        if request.topics is not None or request.assignors:
            topics = member.topics if request.topics is None else request.topics
            pattern = member.pattern if request.topics is None else request.pattern
            assignors = request.assignors or member.assignors
            member.said = request.number
            group.subscribe(member, topics, pattern, assignors, self._groups.topics, now_ms)
        return None

    def _on_join(
        self,
        group: Group | None,
        member: Member | None,
        request: said.GroupHeartbeatRequest,
        caller: Caller,
        now_ms: int,
    ) -> list[Effect]:
        if group is not None and member is not None:
            return self._on_join_again(group, member, request, caller, now_ms)
        if refused := check_join(request, self._groups.settings) or self._no_place(group, request, now_ms):
            return self._groups.refuse(request, caller, refused, group)
        if group is not None and (taken := _taken(group, request)) is not None:
            return self._groups.surviving.reply(caller.ticket, taken, group.written)
        group = self._groups.make(request.group_id)
        member = Member(
            request.member_id,
            instance_id=request.instance_id,
            client_id=caller.client_id,
            host=caller.host,
            topics=request.topics or (),
            pattern=request.pattern,
            assignors=request.assignors or (),
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            now_ms=now_ms,
        )
        member.said = request.number
        old = group.members.get(group.instances.get(request.instance_id, ""))
        if old is not None:
            group.replace(old, member, self._groups.topics, now_ms)
        else:
            group.join(member, self._groups.topics, now_ms)
        effects = self._groups.settle(group)
        if old is not None:
            effects += self._groups.dismiss(group, old, group.gone[old.member_id].refused(now_ms))
        return effects + self._groups.tell(group, member, caller.ticket, request.id, said.JOINING)

    def _on_join_again(
        self, group: Group, member: Member, request: said.GroupHeartbeatRequest, caller: Caller, now_ms: int
    ) -> list[Effect]:
        """A member says again that it joins: it has not heard that it has, or this came late."""
        member.heard(now_ms)
        effects: list[Effect] = []
        if not member.has_spoken or request.number >= 0:  # one that is numbered is not taken for what it is not
            if refused := self._take_words(group, member, request, now_ms):
                return self._groups.refuse(request, caller, refused)
            effects = self._groups.settle(group)
        return effects + self._groups.tell(group, member, caller.ticket, request.id, said.JOINING)

    def _no_place(self, group: Group | None, request: said.GroupHeartbeatRequest, now_ms: int) -> Refused | None:
        """Return why this one cannot join, if so."""
        if group is None:
            return self._groups.no_room()
        if (gone := group.gone.get(request.member_id)) is not None:
            return gone.refused(now_ms)  # a member names itself anew each time: this is a late duplicate
        old = group.members.get(group.instances.get(request.instance_id, ""))
        if old is None and len(group.members) >= self._groups.settings.group_members_max:
            detail = f"group {group.group_id} has {len(group.members):,} members, as many as group_members_max allows"
            return Refused(ErrorCode.LIMIT_EXCEEDED, detail)
        return _no_common(group, request.assignors or (), old)

    def _on_leaving_for_a_while(
        self, group: Group, member: Member, request: said.GroupHeartbeatRequest, caller: Caller, now_ms: int
    ) -> list[Effect]:
        member.heard(now_ms)
        group.leave_for_a_while(member)
        effects = self._groups.settle(group)
        effects += self._groups.dismiss(group, member, _unknown(request, group, now_ms))
        reply = said.GroupHeartbeatReply(id=request.id, member_epoch=request.member_epoch, group_epoch=group.epoch)
        return effects + self._groups.surviving.reply(caller.ticket, reply, group.written)

    def look_at(self, group: Group, member: Member, now_ms: int, wall_ms: int) -> list[Effect]:
        """Put out a member that is silent, or gives nothing back; answer its heartbeat when that has waited enough."""
        member.look_ms = NEVER_MS
        if member.held:
            member.heard(now_ms)  # it waits for us
        if now_ms - member.seen_ms >= member.session_timeout_ms:
            why = f"{member.described()} was silent for {member.session_timeout_ms:,} ms"
            return self._groups.put_out(group, member, why, now_ms, wall_ms)
        if member.asked and now_ms - min(member.asked.values()) >= member.rebalance_timeout_ms:
            partition = min(member.asked, key=lambda part: (member.asked[part], part))
            limit = f"{member.rebalance_timeout_ms:,} ms"
            why = f"{member.described()} did not give {partition} back within {limit}"
            return self._groups.put_out(group, member, why, now_ms, wall_ms)
        effects: list[Effect] = []
        if member.parked is not None and member.parked.until_ms <= now_ms:
            effects = self._groups.tell_parked(group, member)
        if now_ms < member.far_ms <= member.due_ms:
            member.look_ms = member.far_ms  # it will be looked at then anyway
        else:
            self._groups.look_later(group, member)
        return effects


def _unknown(request: said.GroupHeartbeatRequest, group: Group | None, now_ms: int) -> Refused:
    return unknown(request.group_id, request.member_id, request.instance_id, group, now_ms)


def _taken(group: Group, request: said.GroupHeartbeatRequest) -> said.GroupHeartbeatReply | None:
    """Tell one that joins whose place it would take, if it does not know. One that is away needs its place no more."""
    old = group.members.get(group.instances.get(request.instance_id, ""))
    if old is None or old.is_away or request.replaces is None or request.replaces == old.member_id:
        return None
    why = f"{old.described()} has this instance id"
    return said.GroupHeartbeatReply(id=request.id, group_epoch=group.epoch, taken_by=old.member_id, why=why)


def _no_common(group: Group, assignors: Collection[str], old: Member | None) -> Refused | None:
    """Say why the group could not use these assignors besides what its other members name, if so."""
    if group.common_assignor(assignors, without=old) is not None:
        return None
    used = group.assignor
    detail = f"group {group.group_id} assigns by {used}; a member that names only {', '.join(assignors)} cannot join it"
    return Refused(ErrorCode.UNSUPPORTED_ASSIGNOR, detail)
