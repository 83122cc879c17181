"""The rules of one group: who is in it, who should own what, and how partitions get from one to the other.

There is one *target*: a share for each member, made anew by an assignor whenever members, what they are subscribed to,
or the topics change. A member *holds* what it was given until it has said that it gave it back, or is out. The rules:

1. One owner at any time: ``owners`` has at most one member a partition, and ``_give`` takes only what has none.
2. Revoke before assign: what a member holds beyond its target it is *asked* for; once it has given that back, or is
   out, the one whose target it is gets it at once. Nobody waits for a whole group: partitions move one by one.
3. Members that keep theirs never notice: a member's epoch grows when what it is given changes, and only then.
4. Epochs only grow: the group's with each new target, above every epoch given before; a member's to at least the
   group's. So whoever is given a partition has a higher epoch than anybody who was given it before: applications may
   fence by it.
5. A member that is away owns in name only: what it is asked for is free at once.
6. What has changed is written: ``take_records`` gives each changed record once, and replaying them gives this state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from ...errors import ErrorCode, InvariantViolated
from ...transport.group_messages import ASSIGNORS
from .assignors import assign
from .events import GroupPartition, Record, TopicPicture
from .members import Gone, Member, Resets
from .offsets import GroupOffsets
from .records import GroupValue, MemberValue, group_record, member_record

GONE_MAX = 64  # how many that were members a group remembers
DEFAULT_ASSIGNOR = "sticky"  # when no member names one


class Group:
    """One group, with its offsets."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.epoch = 0  # of the target; grows with each; 0: never had a member
        self.highest = 0  # >= epoch and every member's epoch, ever
        self.assignor = ""
        self.why = ""  # of the last target, one line for a person
        self.empty_since_ms = -1  # wall clock; -1: it has members, or never had any
        self.members: dict[str, Member] = {}  # by member id
        self.instances: dict[str, str] = {}  # instance id -> member id
        self.owners: dict[GroupPartition, str] = {}  # what members hold, turned round
        self.gone: dict[str, Gone] = {}  # the last GONE_MAX, by member id; not written
        self.offsets = GroupOffsets()
        self.written = 0  # the last Write that tells of members; moved by Coordinating
        self.resets: dict[tuple[str, str], Resets] = {}  # by client, the last one last; not written, moved by Watchdog
        self._wanted: dict[GroupPartition, str] = {}  # targets, turned round
        self._is_changed = False  # the group's own record
        self._changed: dict[str, None] = {}  # members whose record has changed, or is to go

    # -- who is in it

    def join(self, member: Member, topics: Mapping[str, TopicPicture], now_ms: int) -> None:
        """Take a new member; the caller has checked that ids are free, and that there is a common assignor."""
        self._enter(member)
        self._share_topics(member, topics)
        self.empty_since_ms = -1
        self.retarget(topics, now_ms, f"{member.described()} joined", is_new=True)
        member.epoch = max(member.epoch, self.epoch)  # though it may have been given nothing yet

    def replace(self, old: Member, member: Member, topics: Mapping[str, TopicPicture], now_ms: int) -> None:
        """Let a member take the place of the one with the same instance id: its partitions, at once (B21).

        What the old one was asked for is free: it is fenced, so it gives nothing back any more.
        """
        why = f"fenced: {member.described()} has come with the same instance id"
        if old.is_away:
            why = f"{member.described()} has come back in its place"
        self._exit(old, Gone(ErrorCode.FENCED_INSTANCE_ID, why, now_ms), keeps_target=True)
        member.target = old.target
        self._enter(member)
        is_shared = self._share_topics(member, topics)
        for partition in old.target:
            self._wanted[partition] = member.member_id
        freed = [partition for partition in old.holds if partition in old.asked]
        self._take_epochs({member.member_id: [part for part in sorted(old.holds) if part not in old.asked]})
        self._give_to_wanting(freed)
        if is_shared or (member.topics, member.assignors) != (old.topics, old.assignors):
            self.retarget(topics, now_ms, f"{member.described()} came back with another subscription")

    def remove(self, member: Member, gone: Gone, topics: Mapping[str, TopicPicture], now_ms: int, wall_ms: int) -> None:
        """Put a member out, or let it go: what it held is free at once."""
        self._exit(member, gone)
        if not self.members:
            self.empty_since_ms = wall_ms
        self.retarget(topics, now_ms, gone.why, is_new=True)

    def leave_for_a_while(self, member: Member) -> None:
        """Keep a static member's place: it has closed, so it owns in name only."""
        member.is_away = True
        self._changed[member.member_id] = None
        self._free(member, list(member.asked))

    def subscribe(
        self, member: Member, subscribed: Iterable[str], pattern: str, assignors: Iterable[str],
        topics: Mapping[str, TopicPicture], now_ms: int,
    ) -> None:  # fmt: skip
        """Take what a member says of itself anew."""
        before = (member.topics, member.pattern, member.assignors)
        member.topics, member.pattern, member.assignors = tuple(sorted(set(subscribed))), pattern, tuple(assignors)
        is_shared = self._share_topics(member, topics)
        if is_shared or (member.topics, member.pattern, member.assignors) != before:
            self._changed[member.member_id] = None
            self.retarget(topics, now_ms, f"{member.described()} is subscribed to {_listed(member.topics)}")

    def _share_topics(self, member: Member, topics: Mapping[str, TopicPicture]) -> bool:
        """Let members with one pattern have the same topics: all that one of them knows of, and that exist.

        They learn of a new topic one after the other. To the first it would seem that only it may have that, so that
        others would be given what it has; and that would stay so, without need.

        Returns:
            whether another member has other topics now.
        """
        if not member.pattern:
            return False
        alike = [other for other in self.members.values() if other.pattern == member.pattern]
        known = {topic for other in alike if other is not member for topic in other.topics if topic in topics}
        member.topics = tuple(sorted(known.union(member.topics)))
        changed = [other for other in alike if other.topics != member.topics]
        for other in changed:
            other.topics = member.topics
            self._changed[other.member_id] = None
        return bool(changed)

    def give_back(self, member: Member, owned: Collection[GroupPartition]) -> None:
        """The member, who knows its epoch, owns this: what it was asked for and does not own any more is free."""
        self._free(member, [partition for partition in member.asked if partition not in owned])

    def subscribed(self) -> set[str]:
        return {topic for member in self.members.values() for topic in member.topics}

    def common_assignor(self, assignors: Collection[str] = (), without: Member | None = None) -> str | None:
        """Return the assignor that all can use, most members' first choice of those; None: there is none.

        Args:
            assignors: of one more, who joins, or would name others than before; none: it takes any.
            without: a member not to ask.
        """
        lists = [assignors, *(member.assignors for member in self.members.values() if member is not without)]
        common = [name for name in ASSIGNORS if all(name in names or not names for names in lists)]
        if not common:
            return None
        choices = [[name for name in names if name in common] for names in lists]
        votes = Counter(choice[0] for choice in choices if choice)
        if not votes:
            return DEFAULT_ASSIGNOR
        return max(common, key=lambda name: (votes[name], -common.index(name)))

    # -- who should own what

    def retarget(self, topics: Mapping[str, TopicPicture], now_ms: int, why: str, *, is_new: bool = False) -> None:
        """Make the target anew; a new epoch if it differs, or ``is_new``: somebody came or went."""
        assignor = (self.common_assignor() if self.members else None) or self.assignor or DEFAULT_ASSIGNOR
        ranks = {member.rank: member for member in self.members.values()}
        shares = assign(
            assignor,
            {rank: member.topics for rank, member in ranks.items()},
            topics,
            {rank: self._previous(member) for rank, member in ranks.items()},
        )
        changed = [
            (member, share) for rank, member in ranks.items() if (share := frozenset(shares[rank])) != member.target
        ]
        if not changed and not is_new and assignor == self.assignor:
            return
        self.epoch = self.highest = self.highest + 1
        self.assignor, self.why, self._is_changed = assignor, why, True
        for member, share in changed:
            member.target = share
            self._changed[member.member_id] = None
        self._wanted = {partition: name for name, member in self.members.items() for partition in member.target}
        self._reconcile(now_ms)

    def _previous(self, member: Member) -> set[GroupPartition]:
        """What an assignor should leave to the member: its target, and what it holds that is nobody's target."""
        return {*member.target, *(partition for partition in member.holds if partition not in self._wanted)}

    def _reconcile(self, now_ms: int) -> None:
        """Ask for what is beyond a target, give what is within one and has no owner."""
        gains: dict[str, list[GroupPartition]] = {}
        for name, member in self.members.items():
            for partition in member.holds:
                if partition in member.target:
                    if member.asked.pop(partition, None) is not None:
                        gains.setdefault(name, [])
                elif partition not in member.asked:
                    member.asked[partition] = now_ms
                    gains.setdefault(name, [])
            if member.is_away:
                self._drop(member, list(member.asked))
        for name, member in self.members.items():
            if free := [partition for partition in member.target if partition not in self.owners]:
                gains.setdefault(name, []).extend(sorted(free))
        self._take_epochs(gains)

    # -- from one to the other

    def _free(self, member: Member, partitions: list[GroupPartition]) -> None:
        """The member has given these back: whoever should own them gets them."""
        if partitions:
            self._drop(member, partitions)
            self._changed[member.member_id] = None
            self._give_to_wanting(partitions)

    def _drop(self, member: Member, partitions: Iterable[GroupPartition]) -> None:
        for partition in partitions:
            del member.holds[partition], member.asked[partition], self.owners[partition]

    def _give_to_wanting(self, partitions: Iterable[GroupPartition]) -> None:
        gains: dict[str, list[GroupPartition]] = {}
        for partition in sorted(partitions):
            if (wanting := self._wanted.get(partition)) is not None:
                gains.setdefault(wanting, []).append(partition)
        self._take_epochs(gains)

    def _take_epochs(self, gains: Mapping[str, list[GroupPartition]]) -> None:
        """Give members what they gain, perhaps nothing: what they may own has changed, so their epochs grow."""
        for name, gained in gains.items():
            member = self.members[name]
            member.epoch = max(member.epoch + 1, self.epoch)
            self.highest = max(self.highest, member.epoch)
            self._changed[name] = None
            for partition in gained:
                self._give(member, partition)

    def _give(self, member: Member, partition: GroupPartition) -> None:
        if partition in self.owners:
            raise InvariantViolated(f"{self.group_id}: {partition} is given while {self.owners[partition]} owns it")
        self.owners[partition] = member.member_id
        member.holds[partition] = member.epoch

    def _enter(self, member: Member) -> None:
        self.members[member.member_id] = member
        if member.instance_id:
            self.instances[member.instance_id] = member.member_id
        member.epoch = self.highest  # below what it will be given
        self._changed[member.member_id] = None

    def _exit(self, member: Member, gone: Gone, *, keeps_target: bool = False) -> None:
        del self.members[member.member_id]
        if member.instance_id:
            del self.instances[member.instance_id]
        for partition in member.holds:
            del self.owners[partition]
        if not keeps_target:
            for partition in member.target:
                self._wanted.pop(partition, None)
        self._changed[member.member_id] = None
        self.gone[member.member_id] = gone
        while len(self.gone) > GONE_MAX:
            del self.gone[next(iter(self.gone))]

    # -- what is remembered

    @property
    def has_record(self) -> bool:
        return self.epoch > 0

    def take_records(self) -> list[Record]:
        """Return what has changed since the last call, each record once; to be written together."""
        if not self._is_changed and not self._changed:
            return []
        records = []
        if self._is_changed:
            records.append(group_record(self.group_id, self.value()))
        for name in self._changed:
            member = self.members.get(name)
            records.append(member_record(self.group_id, name, member.value() if member else None))
        self._is_changed = False
        self._changed.clear()
        return records

    def value(self) -> GroupValue:
        return GroupValue(epoch=self.epoch, assignor=self.assignor, why=self.why, empty_since_ms=self.empty_since_ms)

    def load(
        self, value: GroupValue | None, members: Mapping[str, MemberValue], now_ms: int, grace_ms: int = 0
    ) -> None:
        """Become what was written. The time to give partitions back begins now, sessions ``grace_ms`` later.

        Raises:
            InvariantViolated: a partition has two owners in what was written.
        """
        if value is not None:
            self.epoch, self.assignor = value.epoch, value.assignor
            self.why, self.empty_since_ms = value.why, value.empty_since_ms
        for name in sorted(members):
            member = self.members[name] = Member.of(name, members[name], now_ms, grace_ms)
            if member.instance_id:
                self.instances[member.instance_id] = name
            for partition in member.holds:
                if partition in self.owners:
                    raise InvariantViolated(
                        f"{self.group_id}: {partition} was written for {self.owners[partition]} and for {name}"
                    )
                self.owners[partition] = name
        self.highest = max([self.epoch, *(member.epoch for member in self.members.values())])
        self._wanted = {partition: name for name, member in self.members.items() for partition in member.target}

    # -- what is told

    @property
    def state(self) -> str:
        """``empty``, ``stable``, or ``reconciling``: partitions are on their way."""
        if not self.members:
            return "empty"
        return "stable" if all(member.is_complete for member in self.members.values()) else "reconciling"

    def whose(self, partition: GroupPartition) -> str:
        """Who owns the partition, and since which generation, for a person."""
        return f"{partition} is owned by {self.owner_of(partition)}"

    def owner_of(self, partition: GroupPartition) -> str:
        owner = self.members.get(self.owners.get(partition, ""))
        if owner is None:
            return "nobody now"
        return f"{owner.described()} since generation {owner.holds[partition]}"


def _listed(topics: Collection[str]) -> str:
    return ", ".join(topics) if topics else "no topic"
