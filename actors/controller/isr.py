"""Who is in sync: a leader's word on its own in-sync set, taken by compare-and-set (R4, R5). Pure.

The leader alone knows who keeps up; the controller alone may say so for all. What the leader asks for counts only
when all of this holds, in this order:

1. The broker lives, in the life that asks (B5, B6), and leads the partition, in this leader epoch.
2. The partition has not changed since: its partition epoch is the one that the leader looked at (R5, B37).
3. The leader itself is in the set, and everybody in it hosts a replica.
4. Whoever is *added* lives in the very life in which it caught up, and has not given the replica up (R4, B5, B10).

Anything else is refused, and the answer says how the partition is now. A refusal by rule 4 holds for the moment only:
who is not live now may be so when another copy of the same request comes, late, whose sender believes it refused and
does not count the new member (B9). So it is a commit, too: a new partition epoch, and rule 2 refuses all copies.

Who leaves while the set is, or falls, below the minimum stays eligible (``eligibility``).
"""

from __future__ import annotations

from ...config import TopicConfig
from ...errors import ErrorCode
from ...model import PartitionKey, TopicId
from ...transport.messages import AlterPartitionEntry, AlterPartitionEntryReply, AlterPartitionRequest
from ..metadata.documents import PartitionDocument, partition_key
from .elections import DEFAULTS, Change, changed
from .eligibility import Terms, eligible_after, in_order, lost_members
from .image import ClusterImage

Problem = tuple[ErrorCode, str]


def alter_partitions(
    image: ClusterImage, request: AlterPartitionRequest, *, defaults: TopicConfig = DEFAULTS
) -> tuple[list[Change], list[AlterPartitionEntryReply]]:
    """Decide on a leader's word: what to commit, and what to answer once it is, in the order of the request."""
    changes: dict[PartitionKey, PartitionDocument] = {}
    replies = []
    for entry in request.entries:
        key = PartitionKey(TopicId(entry.topic_id), entry.partition)
        partition = changes.get(key) or image.partition(key)
        if partition is None:
            replies.append(_reply(entry, None, (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {key}")))
            continue
        problem = _problem_with_leader(image, request, entry, partition) or _problem_with_set(image, entry, partition)
        if problem is not None and problem[0] == ErrorCode.INELIGIBLE_REPLICA:
            partition = changes[key] = changed(image, partition, isr=partition.isr, elr=partition.elr)
        elif problem is None and {one.broker_id for one in entry.isr} != set(partition.isr):
            partition = changes[key] = _altered(image, entry, partition, Terms.of(image.topic(key.topic_id), defaults))
        replies.append(_reply(entry, partition, problem))
    return [(partition_key(key), partition) for key, partition in changes.items()], replies


def _problem_with_leader(
    image: ClusterImage, request: AlterPartitionRequest, entry: AlterPartitionEntry, partition: PartitionDocument
) -> Problem | None:
    """Say why this broker may not decide on this partition as it is now (rules 1 and 2)."""
    broker_id = request.broker_id
    if not request.incarnation or image.incarnation_of(broker_id) != request.incarnation:
        return ErrorCode.STALE_BROKER_EPOCH, f"broker {broker_id} is not live in that incarnation"
    if entry.leader_epoch < partition.leader_epoch:
        return ErrorCode.FENCED_LEADER_EPOCH, f"leader epoch {partition.leader_epoch} has begun"
    if entry.leader_epoch > partition.leader_epoch:
        return ErrorCode.UNKNOWN_LEADER_EPOCH, f"the leader epoch is {partition.leader_epoch}"
    if image.leader_of(partition) != broker_id:
        return ErrorCode.NOT_LEADER_FOR_PARTITION, f"broker {broker_id} does not lead it"
    if entry.partition_epoch != partition.partition_epoch:  # R5
        return ErrorCode.INVALID_UPDATE_VERSION, f"the partition epoch is {partition.partition_epoch}"
    return None


def _problem_with_set(image: ClusterImage, entry: AlterPartitionEntry, partition: PartitionDocument) -> Problem | None:
    """Say why this cannot be the in-sync set (rules 3 and 4)."""
    members = [one.broker_id for one in entry.isr]
    if len(set(members)) != len(members) or not set(members) <= set(partition.replicas):
        return ErrorCode.INVALID_REQUEST, f"{members} are not distinct replicas of {list(partition.replicas)}"
    if partition.leader not in members:
        return ErrorCode.INVALID_REQUEST, f"the leader, broker {partition.leader}, is not among {members}"
    for one in entry.isr:
        if one.broker_id in partition.isr:
            continue
        if not one.incarnation or image.incarnation_of(one.broker_id) != one.incarnation:  # R4
            detail = f"broker {one.broker_id} does not live in the incarnation that caught up"
            return ErrorCode.INELIGIBLE_REPLICA, detail
        if not image.may_serve(partition, one.broker_id):
            return ErrorCode.INELIGIBLE_REPLICA, f"broker {one.broker_id} has given up its replica"
    return None


def _altered(
    image: ClusterImage, entry: AlterPartitionEntry, partition: PartitionDocument, terms: Terms
) -> PartitionDocument:
    members = {one.broker_id for one in entry.isr}
    isr = in_order(partition, members)
    elr = eligible_after(partition, isr, terms, lost_members(image, partition, terms))
    return changed(image, partition, isr=isr, elr=elr, now_in_sync=members - set(partition.isr))


def _reply(
    entry: AlterPartitionEntry, partition: PartitionDocument | None, problem: Problem | None
) -> AlterPartitionEntryReply:
    error, detail = problem or (0, "")
    return AlterPartitionEntryReply(
        topic_id=entry.topic_id,
        partition=entry.partition,
        error=error,
        detail=detail,
        leader_epoch=partition.leader_epoch if partition else -1,
        partition_epoch=partition.partition_epoch if partition else -1,
        isr=list(partition.isr) if partition else [],
    )
