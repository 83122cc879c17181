"""The rules of a coordinator: all groups of one partition of ``__consumer_offsets``.

Pure: what comes goes in with the time, effects come out.

1. Loading: ``replay`` is told every record up to the coordinator's own marker, ``on_topics`` the topics, then
   ``loaded``; before that every request is refused with COORDINATOR_LOAD_IN_PROGRESS.
2. A decision changes the state at once. What reveals it (a reply) waits until its records survive: until
   ``on_written`` has said so of its number. When an append fails, or nobody knows, this object is thrown away
   (``give_up`` answers who waits) and another one loads.
3. A reply comes exactly once for each request, perhaps later: from any method that returns effects.
4. Nobody is put out for what this coordinator has slept through: when it is called late, sessions are that much longer.
5. What needs no record, a read and a heartbeat without news, is answered with a proof that it is still the coordinator
   (``proof``): the members of one that is deposed and does not know must not live on by it.

What the parts do: ``heartbeats`` (members come, live and go), ``watchdog`` (who does not fetch what it owns),
``commits`` (offsets), ``caretaking`` (who looks after groups), ``group`` (one group), ``state`` (what all share).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ...errors import ErrorCode
from ...transport import group_messages as said
from .caretaking import Caretaking
from .commits import Commits
from .events import Caller, Effect, GroupRequest, GroupSettings, Reply, TopicPicture
from .heartbeats import Heartbeats
from .members import Refused
from .records import GroupKey, GroupValue, MemberKey, MemberValue, OffsetValue, decode
from .state import Groups
from .surviving import refusal
from .watchdog import WAIT_SHARE, LeaderEpochOf, Watchdog, always_led

STALL_MS = 250  # called so much later than next_due_ms: this process was not listening
SWEEP_MS = 60_000  # between looks for what expires


class Coordinating:
    """All groups of one partition of ``__consumer_offsets``, in one leader epoch."""

    def __init__(self, settings: GroupSettings, leader_epoch_of: LeaderEpochOf = always_led) -> None:
        """``leader_epoch_of``: who knows of a partition in which epoch it is led now; -1: in none, for sure."""
        self._groups = groups = Groups(settings)
        commits, caretaking = Commits(groups), Caretaking(groups)
        self._heartbeats = Heartbeats(groups, commits, Watchdog(groups, leader_epoch_of))
        self._handlers: Mapping[type[Any], Callable[[Any, Caller, int, int], list[Effect]]] = {
            said.GroupHeartbeatRequest: self._heartbeats.on_heartbeat,
            said.OffsetCommitRequest: commits.on_commit,
            said.OffsetFetchRequest: commits.on_fetch,
            said.ListGroupsRequest: caretaking.on_list,
            said.DescribeGroupsRequest: caretaking.on_describe,
            said.DeleteGroupsRequest: caretaking.on_delete_groups,
            said.DeleteOffsetsRequest: caretaking.on_delete_offsets,
            said.RemoveMembersRequest: caretaking.on_remove_members,
        }
        self._forgotten: dict[str, None] = {}  # ids of topics whose offsets were looked for already
        # While loading:
        self._replayed_groups: dict[str, GroupValue] = {}
        self._replayed_members: dict[str, dict[str, MemberValue]] = {}  # by group id, member id
        self._deleted: dict[str, None] = {}  # ids of topics that are gone
        self._is_loaded = False
        self._has_topics = False
        self._is_serving = False  # both of them

    @property
    def group_count(self) -> int:
        return len(self._groups.by_id)

    @property
    def next_due_ms(self) -> int | None:
        """When ``on_due`` must be called next; None: nothing waits for time."""
        return self._groups.deadlines.next_ms

    # -- loading

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the log, in the log's order. Unknown kinds are passed over.

        Raises:
            StorageCorruption: a record of a known kind that cannot be read.
        """
        if (decoded := decode(key, value)) is None:
            return
        name, what = decoded
        if isinstance(name, GroupKey):
            if isinstance(what, GroupValue):
                self._replayed_groups[name.group_id] = what
            else:
                self._replayed_groups.pop(name.group_id, None)
        elif isinstance(name, MemberKey):
            members = self._replayed_members.setdefault(name.group_id, {})
            if isinstance(what, MemberValue):
                members[name.member_id] = what
            else:
                members.pop(name.member_id, None)
        elif what is None or isinstance(what, OffsetValue):
            offsets = self._groups.make(name.group_id).offsets
            offsets.begin({name.partition: what})
            offsets.apply()

    def loaded(self, now_ms: int, wall_ms: int) -> list[Effect]:
        """Everything was replayed: serve, as soon as the topics are known. Every member's session begins anew.

        Raises:
            InvariantViolated: what was written has two owners for a partition.
        """
        self._is_loaded = True
        return self._begin(now_ms) if self._has_topics else []

    def _begin(self, now_ms: int) -> list[Effect]:
        groups = self._groups
        for group_id in sorted(self._replayed_groups.keys() | self._replayed_members.keys()):
            members = self._replayed_members.get(group_id, {})
            grace_ms = groups.settings.session_timeout_ms
            groups.make(group_id).load(self._replayed_groups.get(group_id), members, now_ms, grace_ms)
        self._replayed_groups.clear()
        self._replayed_members.clear()
        groups.by_id = {
            name: group
            for name, group in groups.by_id.items()
            if group.has_record or group.members or group.offsets.committed
        }
        groups.deadlines.add(now_ms + SWEEP_MS, None)
        self._is_serving = True
        self._look_at_proof(now_ms)
        effects: list[Effect] = []
        for group in groups.by_id.values():
            if group.members:
                group.retarget(groups.topics, now_ms, "partitions changed while the coordinator did")
                effects += groups.settle(group)
            for member in group.members.values():
                groups.look_later(group, member)
        effects += self._forget_topics(self._deleted)
        self._deleted.clear()
        return effects

    # -- what comes

    def on_request(self, request: GroupRequest, caller: Caller, now_ms: int, wall_ms: int) -> list[Effect]:
        """Answer, now or later; perhaps answer others, too."""
        if not self._is_serving:
            detail = "the coordinator of these groups is reading what it has written; ask again"
            return self._groups.refuse(request, caller, Refused(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, detail))
        self._look_at_proof(now_ms)
        return self._handlers[type(request)](request, caller, now_ms, wall_ms)

    def on_topics(
        self,
        topics: Mapping[str, TopicPicture],
        now_ms: int,
        wall_ms: int,
        deleted: Collection[str] = (),
        version: int = 0,
    ) -> list[Effect]:
        """These are all topics now, by name. May come before ``loaded``, and must have come for requests to be served.

        A topic that was here and is not any more was deleted: its committed offsets go. ``deleted``: ids of others that
        are known to be deleted. ``version``: of the metadata that tell of them.
        """
        before, self._groups.topics = self._groups.topics, dict(topics)
        if not self._has_topics or before.keys() != topics.keys():
            self._groups.topics_version = version
        self._has_topics = True
        there = {picture.topic_id for picture in topics.values()}
        gone = {picture.topic_id: None for picture in before.values() if picture.topic_id not in there}
        gone |= {topic_id: None for topic_id in deleted if topic_id not in self._forgotten}
        self._forgotten |= gone
        if not self._is_serving:
            self._deleted |= gone
            return self._begin(now_ms) if self._is_loaded else []
        self._look_at_proof(now_ms)
        changed = sorted(name for name in before.keys() | topics.keys() if before.get(name) != topics.get(name))
        return self._retarget(changed, now_ms) + self._forget_topics(gone) + self._tell_of_topics()

    def on_due(self, now_ms: int, wall_ms: int) -> list[Effect]:
        """It is ``next_due_ms``, or later."""
        effects: list[Effect] = []
        self._look_at_proof(now_ms)
        if (due_ms := self._groups.deadlines.next_ms) is not None and now_ms - due_ms > STALL_MS:
            self._lengthen_sessions(now_ms - due_ms, now_ms)
        for what in self._groups.deadlines.pop_due(now_ms):
            if what is None:
                effects += self._sweep(wall_ms)
                self._groups.deadlines.add(now_ms + SWEEP_MS, None)
            else:
                group, member = what
                if member.look_ms <= now_ms and group.members.get(member.member_id) is member:
                    effects += self._heartbeats.look_at(group, member, now_ms, wall_ms)
        return effects

    def on_proven(self, at_ms: int) -> None:
        """This coordinator was the one at that time (``proof``). To be told before what is asked."""
        self._groups.surviving.on_proven(at_ms)

    def _look_at_proof(self, now_ms: int) -> None:
        proven_ms = self._groups.surviving.proven_ms
        self._groups.must_prove = now_ms - proven_ms > self._groups.settings.session_timeout_ms

    def on_sent(self, number: int, now_ms: int) -> None:
        """Every ``Write`` up to ``number``, and no later one, is handed to the log now."""
        self._groups.surviving.on_sent(number, now_ms)

    def on_unproven(self, detail: str) -> list[Effect] | None:
        """What was handed to the log is surely not there. None: something is lost by it, ``give_up``."""
        return self._groups.surviving.on_unproven(ErrorCode.COORDINATOR_NOT_AVAILABLE, detail)

    def on_written(self, number: int, now_ms: int) -> list[Effect]:
        """The records of every ``Write`` up to ``number`` survive."""
        return self._groups.surviving.on_written(number, now_ms)

    def give_up(self, code: ErrorCode, detail: str) -> list[Reply]:
        """Answer everybody who waits. Nothing else may be called after it."""
        waiting = [
            Reply(held.ticket, refusal(type(held.reply), held.reply.id, code, detail))
            for held in self._groups.surviving.waiting()
        ]
        for group in self._groups.by_id.values():
            for member in group.members.values():
                if (parked := member.parked) is not None:
                    member.parked = None
                    reply = refusal(said.GroupHeartbeatReply, parked.request_id, code, detail)
                    waiting.append(Reply(parked.ticket, reply))
        return waiting

    # -- what changes of itself

    def _lengthen_sessions(self, late_ms: int, now_ms: int) -> None:
        """Let everybody have as much more time, and enough to be heard: what they said may be waiting at the door."""
        for group in self._groups.by_id.values():
            for member in group.members.values():
                heard_ms = member.session_timeout_ms // WAIT_SHARE
                least_ms = now_ms - member.session_timeout_ms + heard_ms
                member.heard(min(now_ms, max(member.seen_ms + late_ms, least_ms)))
                least_ms = now_ms - member.rebalance_timeout_ms + heard_ms
                for partition, since_ms in member.asked.items():
                    member.asked[partition] = min(now_ms, max(since_ms + late_ms, least_ms))

    def _retarget(self, changed: list[str], now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        if changed:
            for group in self._groups.by_id.values():
                subscribed = group.subscribed()
                if topics := [topic for topic in changed if topic in subscribed]:
                    group.retarget(self._groups.topics, now_ms, f"partitions have changed: {', '.join(topics)}")
                    effects += self._groups.settle(group)
        return effects

    def _tell_of_topics(self) -> list[Effect]:
        """Answer members with a pattern that wait: theirs may match a topic that they do not know of."""
        effects: list[Effect] = []
        for group in self._groups.by_id.values():
            for member in group.members.values():
                if self._groups.has_other_topics(member):
                    effects += self._groups.tell_parked(group, member)
        return effects

    def _forget_topics(self, topic_ids: Collection[str]) -> list[Effect]:
        effects: list[Effect] = []
        if topic_ids:
            for group in self._groups.by_id.values():
                effects += self._groups.forget_offsets(group, group.offsets.of_topics(topic_ids))
        return effects

    def _sweep(self, wall_ms: int) -> list[Effect]:
        """Forget offsets that have expired, and groups of which nothing is left (B23)."""
        effects: list[Effect] = []
        retention_ms = self._groups.settings.offsets_retention_ms
        for group in [group for group in self._groups.by_id.values() if not group.members]:
            effects += self._groups.forget_offsets(
                group, group.offsets.expired(wall_ms, retention_ms, group.empty_since_ms)
            )
            if not group.offsets.partitions() and wall_ms - group.empty_since_ms >= retention_ms:
                effects += self._groups.forget_group(group)
        return effects
