"""The watchdog: a member that lives, owns partitions and does not fetch them is reset, so that somebody does.

The problem: a client whose fetching has come to a stop (it has forgotten a partition, asks a broker that does not lead
any more, waits for an answer that never comes) beats on, and nobody reads what it owns. Its heartbeats cannot be
believed for that: so they carry *evidence*, which comes from where answers to fetches arrive. Who gives none for too
long is *reset*: told to lose what it owns, to leave, and to join anew. A false reset is worse than a late one. Rules of
this file:

1. Evidence is positive: ``is_fetching`` is said, by whoever can show it. Who does not say so does not fetch.
2. A stall is one partition's, and begins when it is heard of first: what was just given, or was all right a moment ago,
   has the full time. It ends with the first heartbeat that does not name it.
3. Only time counts in which both sides were awake: from one heartbeat to the next, and of that no more than heartbeats
   may be apart. A paused client, coordinator or host, or a cut link, adds next to nothing.
4. Only time counts in which the partition was led, in one and the same leader epoch, as a picture says that the store
   has confirmed lately (``leaders``). Without a leader, or with a new one, it is not the member's fault.
5. What has to be given back is not looked at: that has a deadline of its own. And a coordinator whose appends fail, or
   take long, resets nobody: its members cannot learn where to begin either.
6. A reset that did not help is not repeated as soon: each makes the next one of that client wait twice as long, up to
   ``1 << DOUBLINGS_MAX`` times; when it was not reset for twice that long, all that is forgotten. A client is known by
   its instance id, or by what it calls itself, and its host: members come back under other names.
7. A reset takes nothing away: one owner at any time holds. What was owned goes to others when the member has left; one
   that does not within its session, and beats on, is put out. If it fetches again before, it may stay.
8. Nothing of this is written: with another coordinator the time begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from ...transport import group_messages as said
from .events import Effect, GroupPartition, Notice
from .group import Group
from .members import Member, Resets, Stall
from .offsets import named
from .state import Groups

WAIT_SHARE = 3  # a heartbeat is parked for at most this part of the session
DOUBLINGS_MAX = 5
CLIENTS_MAX = 64  # of one group whose resets are remembered, the last ones

LeaderEpochOf: TypeAlias = Callable[[GroupPartition, int], int]  # (partition, now_ms) → leader epoch; -1: none for sure


class Watchdog:
    """See the top of the file. What it moves of members and groups nobody else does."""

    def __init__(self, groups: Groups, leader_epoch_of: LeaderEpochOf) -> None:
        self._groups = groups
        self._leader_epoch_of = leader_epoch_of

    def on_heartbeat(
        self, group: Group, member: Member, request: said.GroupHeartbeatRequest, now_ms: int
    ) -> list[Effect]:
        """Take what a member says of its fetching. Perhaps it is to be reset from now on: ``reset_why``."""
        since_ms, member.beat_ms = member.beat_ms, now_ms
        if request.is_fetching:
            member.fetching_ms = now_ms
            if member.stalled or member.reset_why:
                member.stalled, member.reset_why = {}, ""
            return []
        names = named(request.stalled, self._groups.topics) if request.stalled else list(member.holds)
        counted_ms = min(now_ms - since_ms, member.session_timeout_ms // WAIT_SHARE)
        member.stalled = self._stalls(member, names, counted_ms, now_ms)
        return [] if member.reset_why else self._judge(group, member, now_ms)

    def _stalls(
        self, member: Member, names: Iterable[GroupPartition], counted_ms: int, now_ms: int
    ) -> dict[GroupPartition, Stall]:
        stalls: dict[GroupPartition, Stall] = {}
        for partition in names:
            if partition not in member.holds or partition in member.asked:
                continue  # rule 5
            epoch, before = self._leader_epoch_of(partition, now_ms), member.stalled.get(partition)
            goes_on = before is not None and before.leader_epoch == epoch >= 0  # rule 4
            stalls[partition] = Stall(before.for_ms + counted_ms if goes_on and before is not None else 0, epoch)
        return stalls

    def _judge(self, group: Group, member: Member, now_ms: int) -> list[Effect]:
        stalls = member.stalled
        if not stalls or not self._groups.settings.group_fetch_stall_ms:
            return []
        patience_ms = self._patience_ms(group, member, now_ms)
        partition, stall = longest(stalls)
        if min(stall.for_ms, now_ms - self._groups.surviving.able_since_ms(now_ms)) < patience_ms:
            return []
        self._count(group, member, now_ms)
        member.reset_ms = now_ms
        beside = f" (and {len(stalls) - 1} more)" if len(stalls) > 1 else ""
        member.reset_why = (
            f"{member.described()} was reset: it owned {partition}{beside} and did not fetch it for"
            f" {stall.for_ms:,} ms, though it was led"
        )
        values = {
            "group": group.group_id,
            "member": member.described(),
            "partition": str(partition),
            "stalled": len(stalls),
            "owned": len(member.holds),
            "ms": stall.for_ms,
        }
        return [Notice("group.member_reset", values)]

    def _patience_ms(self, group: Group, member: Member, now_ms: int) -> int:
        """Return how long a partition may be stalled (rule 6)."""
        usual_ms = max(self._groups.settings.group_fetch_stall_ms, member.session_timeout_ms)
        before = group.resets.get(_client(member))
        if before is None:
            return usual_ms
        patience_ms = usual_ms << min(before.times, DOUBLINGS_MAX)
        if now_ms - before.at_ms > 2 * patience_ms:
            del group.resets[_client(member)]
            return usual_ms
        return patience_ms

    def _count(self, group: Group, member: Member, now_ms: int) -> None:
        before = group.resets.pop(_client(member), None)
        group.resets[_client(member)] = Resets(before.times + 1 if before is not None else 1, now_ms)
        while len(group.resets) > CLIENTS_MAX:
            del group.resets[next(iter(group.resets))]


def _client(member: Member) -> tuple[str, str]:
    return (member.instance_id, "") if member.instance_id else (member.client_id, member.host)


def longest(stalls: Mapping[GroupPartition, Stall]) -> tuple[GroupPartition, Stall]:
    """Return the one that has lasted longest; of several the first."""
    partition = min(stalls, key=lambda one: (-stalls[one].for_ms, one))
    return partition, stalls[partition]


def always_led(_: GroupPartition, __: int) -> int:
    """Every partition has one leader all the time: where nobody says otherwise."""
    return 0
