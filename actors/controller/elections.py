"""Who leads: the rules of elections. Pure and level-triggered.

``reconcile`` looks at the picture as it is, never at what happened: whatever was missed, coalesced or done
twice, the same picture gives the same decisions, and a picture with nothing to decide gives none. The caller
commits them together: one commit an ended session, however many partitions it had a part in.

Rules, by partition:

1. Whoever cannot serve (no session, or gave the replica up in this life) leaves the ISR; but the ISR is never
   emptied: the last members stay in it and wait (R6). Nothing else is ever elected here: an unclean election is
   an operator's word.
2. A leader is deposed when it cannot serve, or lives under another incarnation than it was elected in: it was
   dead in between, and what it had in memory is gone.
3. The next leader is the first of the replicas' order that is in the ISR and can serve; the one that was just
   deposed comes last: it is busy recovering. None: no leader, until one comes back.
4. Each change of leader or of its incarnation, to none included, is a new leader epoch: what was sent under the
   old one is refused. Each change of anything is a new partition epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from ...errors import ErrorCode
from ...model import PartitionKey, TopicId
from ...transport.messages import ReelectRequest
from ..metadata.documents import NO_LEADER, Offline, PartitionDocument, partition_key
from .image import ClusterImage

Change = tuple[str, PartitionDocument]


def reconcile(image: ClusterImage, keys: Iterable[PartitionKey] | None = None) -> list[Change]:
    """Return the partitions that must change, as they must be. ``keys``: look at these only (None: at all)."""
    changes = []
    if keys is None:
        found: Iterable[tuple[PartitionKey, PartitionDocument | None]] = image.partitions()
    else:
        found = ((key, image.partition(key)) for key in keys)
    for key, partition in found:
        if partition is not None and (after := elected(image, partition)) is not partition:
            changes.append((partition_key(key), after))
    return changes


def elected(image: ClusterImage, partition: PartitionDocument, *, deposed: int = NO_LEADER) -> PartitionDocument:
    """Return the partition as it must be; itself when it is so already.

    Args:
        deposed: this leader does not go on as it is, although it is live (it restarted its replica).
    """
    able = [broker_id for broker_id in partition.replicas if image.may_serve(partition, broker_id)]
    isr = tuple(broker_id for broker_id in partition.isr if broker_id in able) or partition.isr  # rule 1
    leader, incarnation = partition.leader, partition.leader_incarnation
    if leader == deposed or leader not in able or leader not in isr or image.leader_of(partition) != leader:  # rule 2
        eligible = [broker_id for broker_id in able if broker_id in isr]
        leader = min(eligible, key=lambda broker_id: broker_id == partition.leader, default=NO_LEADER)  # rule 3
        incarnation = image.incarnation_of(leader) if leader != NO_LEADER else ""
    is_new_leader = leader != NO_LEADER or partition.leader != NO_LEADER
    is_new_leader &= (leader, incarnation) != (partition.leader, partition.leader_incarnation) or leader == deposed
    if not is_new_leader and isr == partition.isr:
        return partition
    return replace(
        partition,
        isr=isr,
        leader=leader,
        leader_incarnation=incarnation,
        leader_epoch=partition.leader_epoch + is_new_leader,
        partition_epoch=partition.partition_epoch + 1,
        offline=tuple(one for one in partition.offline if image.incarnation_of(one.broker_id) == one.incarnation),
    )


@dataclass(frozen=True, slots=True)
class Reelected:
    """``leader_epoch`` as it will be; ``change``: what to commit for it (None: nothing, it is so already)."""

    leader_epoch: int
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class NotReelected:
    error: ErrorCode
    detail: str
    leader_epoch: int = -1


def reelect(image: ClusterImage, request: ReelectRequest) -> Reelected | NotReelected:
    """Decide on a broker's word that its replica restarted, or is past its limit there (``is_offline``).

    A leader that restarted is deposed: another in-sync replica leads, or the same one under a new epoch. A
    follower that restarted needs nothing: it catches up.
    """
    key = PartitionKey(TopicId(request.topic_id), request.partition)
    partition = image.partition(key)
    broker_id = request.broker_id
    if partition is None:
        return NotReelected(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {key}")
    if image.incarnation_of(broker_id) != request.incarnation:
        return NotReelected(ErrorCode.STALE_BROKER_EPOCH, f"broker {broker_id} is not live in that incarnation")
    if broker_id not in partition.replicas:
        return NotReelected(ErrorCode.INVALID_REQUEST, f"broker {broker_id} hosts no replica of {key}")
    if request.leader_epoch > partition.leader_epoch:
        return NotReelected(ErrorCode.UNKNOWN_LEADER_EPOCH, "of a later epoch than is known", partition.leader_epoch)
    mark = Offline(broker_id, request.incarnation)
    is_marked = mark in partition.offline
    if request.leader_epoch < partition.leader_epoch and is_marked == request.is_offline:
        return NotReelected(ErrorCode.FENCED_LEADER_EPOCH, "it was elected anew already", partition.leader_epoch)
    before = partition
    if is_marked != request.is_offline:
        others = tuple(one for one in partition.offline if one.broker_id != broker_id)
        partition = replace(partition, offline=(*others, mark) if request.is_offline else others)
    is_current = request.leader_epoch == before.leader_epoch
    after = elected(image, partition, deposed=broker_id if is_current and before.leader == broker_id else NO_LEADER)
    if after is before:
        return Reelected(before.leader_epoch)
    if after is partition:  # only the mark changed
        after = replace(partition, partition_epoch=partition.partition_epoch + 1)
    return Reelected(after.leader_epoch, (partition_key(key), after))
