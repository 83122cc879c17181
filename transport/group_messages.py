"""What members of consumer groups, and those who look after groups, say to a group's coordinator.

The coordinator of a group is the leader of one partition of ``__consumer_offsets``: ``FindCoordinatorsRequest`` tells
which broker, everything else goes there. Rules of this file:

1. A member names itself: ``member_id`` is chosen by it, at random, and never used again. ``member_epoch`` says what it
   believes (0: it joins); what is older than the coordinator's is fenced, and learns who owns what now.
2. A heartbeat says what the member is and owns; its answer what it may own. ``None`` means "as I said before". The
   coordinator keeps the heartbeat, up to ``max_wait_ms``, while there is nothing new to say: so a change reaches every
   member at once, and a quiet member costs one exchange an interval.
3. A member owns what it has been given and has not yet given back. It gives back what is no longer in its assignment,
   and says so with the next ``owned``; only then does anybody else get it. What it says it owns counts only under its
   present epoch, and it says so anew under each: it may have been given, and asked for, what it has not heard of.
4. Offsets and partitions name a topic by name *and* id: one that was deleted and made anew has no committed offsets.
"""

from __future__ import annotations

from .shapes import Int64, Part, Reply, Request

JOINING = 0  # member_epoch of one that joins, or was fenced and begins anew
LEAVING = -1  # … that leaves for good
LEAVING_FOR_A_WHILE = -2  # … that has an instance id: its partitions wait for it, a session long
NO_MEMBER = -1  # member_epoch of a commit that no member makes

ASSIGNORS = ("range", "round_robin", "sticky")


class TopicPartitions(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Some partitions of one topic."""

    topic: str
    topic_id: str = ""
    partitions: list[Int64] = []


class CommittedOffsets(Part, frozen=True, kw_only=True, omit_defaults=True):
    """What is committed of some partitions of a topic: ``offsets`` has one for each of ``partitions``, -1 for none."""

    topic: str
    topic_id: str = ""
    partitions: list[Int64] = []
    offsets: list[Int64] = []


class FindCoordinatorsRequest(Request, frozen=True, kw_only=True, tag="find_coordinators", omit_defaults=True):
    """Ask any broker who coordinates these groups."""

    group_ids: list[str] = []


class CoordinatorEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """COORDINATOR_NOT_AVAILABLE: nobody just now; ask again."""

    group_id: str
    error: Int64 = 0
    detail: str = ""
    broker_id: Int64 = -1


class CoordinatorsReply(Reply, frozen=True, kw_only=True, tag="find_coordinators.reply", omit_defaults=True):
    """One entry a group, in the request's order. ``version``: of the metadata that say so."""

    version: Int64 = 0
    coordinators: list[CoordinatorEntry] = []


class OffsetCommitEntry(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``offset``: the next record to read. ``metadata``: of the application."""

    topic: str
    topic_id: str = ""
    partition: Int64
    offset: Int64
    leader_epoch: Int64 = -1
    metadata: str = ""


class GroupHeartbeatRequest(Request, frozen=True, kw_only=True, tag="group_heartbeat", omit_defaults=True):
    """A member lives. The first one, ``member_epoch`` 0, joins and says everything; later ones what has changed.

    ``pattern`` goes with ``topics``: the regular expression that they match, "" if they were named. The coordinator
    does not match it: members with the same one read the same topics, all that any of them knows of.
    ``assignors``: in the member's order; the group uses the first that all its members name.
    ``rebalance_timeout_ms``: how long the member may take to give back partitions; then it is put out.
    ``is_stuck`` goes with leaving: the application has not polled for ``max_poll_interval_ms``.
    ``last_offsets`` likewise: what the member commits before it leaves, in the generation ``last_epoch``. Both are
    done, or neither: who is refused is a member still, and commits as ever to learn what is wrong.
    ``is_fetching``: every partition that it owns is being fetched, as the answers show, or it wants no records of it
    now. If not, ``stalled`` names those of which that cannot be said; none named: it can be said of none. For how long
    the coordinator bears with that: ``group_fetch_stall_ms``.
    ``replaces`` goes with joining and ``instance_id``: the member with the same one whose place it takes, as far as the
    new one knows; "" nobody's. Whose place it is, is said in the answer (``taken_by``), so only one that lives can take
    it: a join of a dead one that comes late does not know. None, of older clients: whosever it is.
    ``number``: among all of this member; each is higher than those before. What one says of the member that comes after
    a higher one, on a connection that has ended, say, is of the past. -1, of older clients: it counts as it comes.
    """

    group_id: str
    member_id: str
    member_epoch: Int64 = JOINING
    instance_id: str = ""
    topics: list[str] | None = None  # subscribed
    pattern: str = ""
    assignors: list[str] | None = None
    session_timeout_ms: Int64 = 10_000
    rebalance_timeout_ms: Int64 = 300_000
    owned: list[TopicPartitions] | None = None
    max_wait_ms: Int64 = 0
    is_stuck: bool = False
    last_offsets: list[OffsetCommitEntry] = []
    last_epoch: Int64 = NO_MEMBER
    is_fetching: bool = False
    stalled: list[TopicPartitions] = []
    replaces: str | None = None
    number: Int64 = -1


class GroupHeartbeatReply(Reply, frozen=True, kw_only=True, tag="group_heartbeat.reply", omit_defaults=True):
    """``assignment``: what the member may own now, all of it; None: as it was.

    ``is_reset``: it has owned something for long and not fetched it, ``why`` says what. It loses all that it owns at
    once, leaves, and joins again under another name. One that does not leave within its session is put out.

    ``committed``: where those begin that it is given with this answer. Nobody but the member can commit there from then
    on. Of a partition that is not named here it asks (``OffsetFetchRequest``), and so it does if it owned it already.

    UNKNOWN_MEMBER_ID, FENCED_MEMBER_EPOCH: it is out; what it owned is lost to it, it may join with a new name.
    FENCED_INSTANCE_ID: another member has come with its instance id; it must not come back.
    ``topics_version``: to a member with a pattern: of the metadata with which topics came or went last. If it knows
    older metadata, there may be others that match.
    ``taken_by``: to one that joins: this member has the instance id. It is not in the group, unless it joins again and
    says that it ``replaces`` that one.
    """

    member_epoch: Int64 = 0
    group_epoch: Int64 = 0
    assignment: list[TopicPartitions] | None = None
    committed: list[CommittedOffsets] = []
    is_complete: bool = False  # the target of the group's epoch: nothing more will follow
    why: str = ""  # of the last change, one line for a person
    is_reset: bool = False
    topics_version: Int64 = 0
    taken_by: str = ""


class OffsetCommitRequest(Request, frozen=True, kw_only=True, tag="offset_commit", omit_defaults=True):
    """Answered when the offsets survive. ``member_epoch`` -1, no member: only while the group has none.

    ``number``: of this attempt, among all of this member; each is higher than those before. One that comes after a
    higher one, on a connection that has ended, say, commits nothing. -1, of older clients: it counts as it comes.
    Who is no member calls itself ``committer``, a name that nobody else has, at most 249 characters; without one
    its numbers say nothing.
    """

    group_id: str
    member_id: str = ""
    member_epoch: Int64 = NO_MEMBER
    instance_id: str = ""
    entries: list[OffsetCommitEntry] = []
    number: Int64 = -1
    committer: str = ""


class OffsetCommitEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    topic: str
    partition: Int64
    error: Int64 = 0
    detail: str = ""


class OffsetCommitReply(Reply, frozen=True, kw_only=True, tag="offset_commit.reply", omit_defaults=True):
    """``error``: nothing was committed, and why; ``entries`` are those that are refused, in the request's order.

    The detail for one that is fenced says who owns its partitions now. UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID,
    FENCED_MEMBER_EPOCH: the member is out. ILLEGAL_GENERATION: it is not, but has lost the partition since, and perhaps
    got it back; PARTITION_NOT_ASSIGNED: it does not own it. NON_EMPTY_GROUP: no member commits, and there are some.
    """

    entries: list[OffsetCommitEntryReply] = []


class OffsetFetchRequest(Request, frozen=True, kw_only=True, tag="offset_fetch", omit_defaults=True):
    """Ask for committed offsets. ``partitions`` None: all that the group has.

    With ``member_id`` the coordinator checks the epoch, so that a fenced member does not begin anywhere.
    """

    group_id: str
    member_id: str = ""
    member_epoch: Int64 = NO_MEMBER
    partitions: list[TopicPartitions] | None = None


class OffsetFetchEntryReply(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``offset`` -1: none was committed."""

    topic: str
    topic_id: str = ""
    partition: Int64
    offset: Int64 = -1
    leader_epoch: Int64 = -1
    metadata: str = ""
    committed_ms: Int64 = -1  # wall clock of the coordinator


class OffsetFetchReply(Reply, frozen=True, kw_only=True, tag="offset_fetch.reply", omit_defaults=True):
    entries: list[OffsetFetchEntryReply] = []


# -- looking after groups ----------------------------------------------------------------------------


class ListGroupsRequest(Request, frozen=True, kw_only=True, tag="list_groups", omit_defaults=True):
    """Ask one broker for the groups that it coordinates."""


class GroupListing(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``state``: "empty" (no member), "reconciling" (partitions are moving), "stable"."""

    group_id: str
    state: str = "empty"
    members: Int64 = 0


class ListGroupsReply(Reply, frozen=True, kw_only=True, tag="list_groups.reply", omit_defaults=True):
    """``told``: partitions of ``__consumer_offsets`` whose groups these are; None: an older broker, which does not say.

    ``loading``: others that this broker leads, as far as it knows, whose coordinator has not told its groups: it reads
    them yet, or it has ended meanwhile.
    """

    groups: list[GroupListing] = []
    loading: list[Int64] = []
    told: list[Int64] | None = None


class DescribeGroupsRequest(Request, frozen=True, kw_only=True, tag="describe_groups", omit_defaults=True):
    group_ids: list[str] = []


class MemberDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``state``: "stable", "revoking" (has to give back), "waiting" (for what others have to give back), "away",
    "reset" (was told to leave and join anew).

    ``stalled``: what it owns and does not fetch, as it says itself, or does not say; for ``stalled_ms`` at most.
    ``fetching_ms_ago``: when it said last that it fetches all that it owns; -1: not since its coordinator knows it.
    """

    member_id: str
    instance_id: str = ""
    client_id: str = ""
    host: str = ""
    state: str = ""
    member_epoch: Int64 = 0
    topics: list[str] = []
    assigned: list[TopicPartitions] = []
    target: list[TopicPartitions] = []
    heartbeat_ms_ago: Int64 = -1
    session_timeout_ms: Int64 = 0
    fetching_ms_ago: Int64 = -1
    stalled: list[TopicPartitions] = []
    stalled_ms: Int64 = 0


class GroupDescription(Part, frozen=True, kw_only=True, omit_defaults=True):
    """GROUP_ID_NOT_FOUND: there is none, and no offsets of one."""

    group_id: str
    error: Int64 = 0
    detail: str = ""
    state: str = ""
    group_epoch: Int64 = 0
    assignor: str = ""
    coordinator: Int64 = -1
    why: str = ""  # of the last rebalance
    members: list[MemberDescription] = []


class DescribeGroupsReply(Reply, frozen=True, kw_only=True, tag="describe_groups.reply", omit_defaults=True):
    groups: list[GroupDescription] = []


class DeleteGroupsRequest(Request, frozen=True, kw_only=True, tag="delete_groups", omit_defaults=True):
    """Forget groups that have no members, with their offsets. NON_EMPTY_GROUP: it has some."""

    group_ids: list[str] = []


class DeleteOffsetsRequest(Request, frozen=True, kw_only=True, tag="delete_offsets", omit_defaults=True):
    """Forget committed offsets of topics that no member of the group is subscribed to."""

    group_id: str
    partitions: list[TopicPartitions] = []


class RemoveMembersRequest(Request, frozen=True, kw_only=True, tag="remove_members", omit_defaults=True):
    """Put members out of a group: by member id, or instance id. What they own goes to others at once."""

    group_id: str
    member_ids: list[str] = []
    instance_ids: list[str] = []


class AlterGroupResult(Part, frozen=True, kw_only=True, omit_defaults=True):
    """``name``: of a group, a member, or "topic-partition"."""

    name: str
    error: Int64 = 0
    detail: str = ""


class AlterGroupReply(Reply, frozen=True, kw_only=True, tag="alter_group.reply", omit_defaults=True):
    """One result for each that was named, in the request's order."""

    results: list[AlterGroupResult] = []
