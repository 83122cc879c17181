"""Who leads: the rules of elections. Pure and level-triggered.

``reconcile`` looks at the picture as it is, never at what happened: whatever was missed, coalesced or done
twice, the same picture gives the same decisions, and a picture with nothing to decide gives none. The caller
commits them together: one commit an ended session, however many partitions it had a part in.

Rules, by partition (R6; ``eligibility`` says why who is eligible holds all that is committed):

1. Whoever cannot serve (no session, or gave the replica up in this life) leaves the ISR, and so does who is
   unsure of what it has after a reboot, as long as somebody sure of it can serve. The ISR is never emptied: when
   nobody of it can serve, it stays as it is and waits.
2. Who leaves it while the ISR is, or falls, below ``min_insync_replicas`` stays eligible (ELR), unless what it
   had is lost.
3. A leader is deposed when it cannot serve, or lives under another incarnation than it was elected in: it was
   dead in between, and what it had in memory is gone.
4. The next leader is the first of the replicas' order that is in the ISR, sure, and can serve; the one that was
   just deposed comes last: it is busy recovering. Else the first such of the ELR: it is the whole ISR then.
5. Nobody sure of it can serve: no leader, until one comes back. Only when all of the ISR came back and all of
   them are unsure, nobody will: the last leader is elected with what it has (what ``flush=os`` loses), or who is
   there.
6. Each change of leader or of its incarnation, to none included, is a new leader epoch: what was sent under the
   old one is refused. Each change of anything is a new partition epoch.

Nobody else is ever elected here: an unclean election is an operator's word (``leadership``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from ...config import TopicConfig
from ...errors import ErrorCode
from ...model import PartitionKey, TopicId
from ...transport.messages import ReelectRequest
from ..metadata.documents import NO_LEADER, Offline, PartitionDocument, partition_key
from .eligibility import Terms, caught_up_with, eligible_after, in_order, is_unsure, lost_members, offline_now
from .image import ClusterImage

Change = tuple[str, PartitionDocument]

DEFAULTS = TopicConfig()


def reconcile(
    image: ClusterImage, keys: Iterable[PartitionKey] | None = None, *, defaults: TopicConfig = DEFAULTS
) -> list[Change]:
    """Return the partitions that must change, as they must be.

    Args:
        keys: look at these only (None: at all).
        defaults: the cluster's settings for topics.
    """
    changes = []
    if keys is None:
        found: Iterable[tuple[PartitionKey, PartitionDocument | None]] = image.partitions()
    else:
        found = ((key, image.partition(key)) for key in sorted(keys))
    terms: dict[TopicId, Terms] = {}
    for key, partition in found:
        if partition is None:
            continue
        if key.topic_id not in terms:
            terms[key.topic_id] = Terms.of(image.topic(key.topic_id), defaults)
        if (after := elected(image, partition, terms[key.topic_id])) is not partition:
            changes.append((partition_key(key), after))
    return changes


def elected(
    image: ClusterImage, partition: PartitionDocument, terms: Terms, *, deposed: int = NO_LEADER
) -> PartitionDocument:
    """Return the partition as it must be; itself when it is so already.

    Args:
        deposed: this leader does not go on as it is, although it is live (it restarted its replica).
    """
    able = [broker_id for broker_id in partition.replicas if image.may_serve(partition, broker_id)]
    sure = [broker_id for broker_id in able if not is_unsure(image, partition, terms, broker_id)]
    lost = lost_members(image, partition, terms)
    eligible = [broker_id for broker_id in sure if broker_id in partition.isr]
    eligible = eligible or _when_none_is_sure(partition, able, sure, lost)
    isr = partition.isr  # rule 1
    if eligible:  # R6: the last members are never dropped
        isr = tuple(one for one in partition.isr if one in eligible) or tuple(eligible)
    elr = eligible_after(partition, isr, terms, lost, is_led=bool(eligible))  # rule 2
    unsure = () if eligible else tuple(one for one in isr if is_unsure(image, partition, terms, one))
    leader = partition.leader
    if leader == deposed or leader not in eligible or image.leader_of(partition) != leader:  # rule 3
        leader = min(eligible, key=lambda broker_id: broker_id == partition.leader, default=NO_LEADER)  # rule 4
        if leader != NO_LEADER or partition.leader != NO_LEADER:
            return replace(led_by(image, partition, leader, isr=isr, elr=elr), unsure=unsure)
    if (isr, elr, unsure) == (partition.isr, partition.elr, partition.unsure):
        return partition
    return replace(changed(image, partition, isr=isr, elr=elr), unsure=unsure)


def _when_none_is_sure(partition: PartitionDocument, able: list[int], sure: list[int], lost: set[int]) -> list[int]:
    """Return who may lead when nobody of the ISR is sure and can serve: one, the whole ISR then, or nobody."""
    if eligible := [broker_id for broker_id in sure if broker_id in partition.elr]:  # rule 4
        return eligible[:1]
    if {*partition.isr, *(set(partition.elr) - lost)} - {*able, *partition.unsure}:
        return []  # somebody is awaited who may be sure
    last = partition.leader if partition.leader != NO_LEADER else partition.last_leader
    return sorted(in_order(partition, set(partition.isr) & set(able)), key=lambda broker_id: broker_id != last)[
        :1
    ]  # rule 5


def led_by(
    image: ClusterImage, partition: PartitionDocument, leader: int, *, isr: tuple[int, ...], elr: tuple[int, ...]
) -> PartitionDocument:
    """Return the partition under another leader (or none): a new leader epoch (rule 6)."""
    is_led = leader != NO_LEADER
    return replace(
        changed(image, partition, isr=isr, elr=elr, now_in_sync=[leader] if is_led else []),
        leader=leader,
        leader_incarnation=image.incarnation_of(leader) if is_led else "",
        leader_epoch=partition.leader_epoch + 1,
        last_leader=NO_LEADER if is_led else partition.leader,
    )


def changed(
    image: ClusterImage,
    partition: PartitionDocument,
    *,
    isr: tuple[int, ...],
    elr: tuple[int, ...],
    now_in_sync: Collection[int] = (),
) -> PartitionDocument:
    """Return the partition with other in-sync and eligible replicas: a new partition epoch (rule 6).

    Args:
        now_in_sync: are so by this change, whatever they were before.
    """
    return replace(
        partition,
        isr=isr,
        elr=elr,
        unsure=tuple(one for one in partition.unsure if one in isr and one not in now_in_sync),
        partition_epoch=partition.partition_epoch + 1,
        offline=offline_now(image, partition),
        caught_up=caught_up_with(image, partition, (*isr, *elr), now_in_sync),
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


def reelect(
    image: ClusterImage, request: ReelectRequest, *, defaults: TopicConfig = DEFAULTS
) -> Reelected | NotReelected:
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
    terms = Terms.of(image.topic(key.topic_id), defaults)
    deposed = broker_id if is_current and before.leader == broker_id else NO_LEADER
    after = elected(image, partition, terms, deposed=deposed)
    if after is before:
        return Reelected(before.leader_epoch)
    if after is partition:  # only the mark changed
        after = replace(partition, partition_epoch=partition.partition_epoch + 1)
    return Reelected(after.leader_epoch, (partition_key(key), after))
