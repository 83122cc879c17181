"""Leadership moved without a failure: preferred leaders, and an operator's word. Pure.

1. The *preferred* leader of a partition is the first of its replicas: with every one leading, work is spread as
   it was when topics were made. It gets leadership back when it is in the ISR and can serve: nothing is lost.
2. An *unclean* election makes any live replica the leader of a partition that nobody may lead otherwise: it is
   the whole ISR then, nobody else is eligible, and what only the others had is lost. Only an operator may want
   that; it is never done where a leader lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...config import TopicConfig
from ...errors import ErrorCode
from ...model import PartitionKey
from ...transport.messages import ElectLeadersEntryReply, ElectLeadersRequest
from ..metadata.documents import NO_LEADER, PartitionDocument, partition_key
from .elections import DEFAULTS, Change, led_by
from .eligibility import Terms, eligible_after, in_order, is_unsure, lost_members
from .image import ClusterImage

PREFERRED, UNCLEAN = "preferred", "unclean"


@dataclass(frozen=True, slots=True)
class Refusal:
    error: ErrorCode
    detail: str


def rebalance(image: ClusterImage, *, defaults: TopicConfig = DEFAULTS) -> list[Change]:
    """Return the partitions whose preferred leader gets leadership back, as they must be."""
    changes = []
    for topic_id, topic in image.topics.items():
        terms = Terms.of(topic, defaults)
        for number, partition in topic.partitions.items():
            if isinstance(after := preferred(image, partition, terms), PartitionDocument):
                changes.append((partition_key(PartitionKey(topic_id, number)), after))
    return changes


def preferred(image: ClusterImage, partition: PartitionDocument, terms: Terms) -> PartitionDocument | Refusal:
    """Return the partition led by its preferred leader, or why it is not."""
    wanted = partition.replicas[0]
    if image.leader_of(partition) == wanted:
        return Refusal(ErrorCode.ELECTION_NOT_NEEDED, f"broker {wanted} leads already")
    if not image.may_serve(partition, wanted):
        return Refusal(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, f"broker {wanted} is away, or has given up its log")
    if wanted not in partition.isr or is_unsure(image, partition, terms, wanted):
        return Refusal(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, f"broker {wanted} is not in sync")
    elr = eligible_after(partition, partition.isr, terms, lost_members(image, partition, terms))
    return led_by(image, partition, wanted, isr=partition.isr, elr=elr)


def unclean(image: ClusterImage, partition: PartitionDocument) -> PartitionDocument | Refusal:
    """Return the partition led by whoever lives, or why it is not.

    Of several, one of the ISR is taken, else the last leader, else the first of the replicas.
    """
    leader = image.leader_of(partition)
    if leader != NO_LEADER:
        return Refusal(ErrorCode.ELECTION_NOT_NEEDED, f"broker {leader} leads; nothing needs to be lost")
    able = [broker_id for broker_id in partition.replicas if image.may_serve(partition, broker_id)]
    if not able:
        replicas = ", ".join(map(str, partition.replicas))
        detail = f"no replica lives (they are on brokers {replicas}): start one of these brokers"
        return Refusal(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, detail)
    in_sync = in_order(partition, set(able) & set(partition.isr))
    last = [partition.last_leader] if partition.last_leader in able else []
    chosen = (*in_sync, *last, *able)[0]
    return led_by(image, partition, chosen, isr=(chosen,), elr=())


def elect_leaders(
    image: ClusterImage, request: ElectLeadersRequest, *, defaults: TopicConfig = DEFAULTS
) -> tuple[list[Change], list[ElectLeadersEntryReply]]:
    """Decide on an operator's word: what to commit, and what to answer once it is.

    Asked for no partition by name, it tells only of those where the election was needed.
    """
    changes: dict[PartitionKey, PartitionDocument] = {}
    replies: list[ElectLeadersEntryReply] = []
    for topic, number, key in _named(image, request) if request.partitions is not None else _all(image):
        partition = (changes.get(key) or image.partition(key)) if key is not None else None
        if key is None or partition is None:
            detail = f"there is no partition {number} of a topic {topic[:249]!r}"
            replies.append(_refused(topic, number, Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, detail)))
            continue
        terms = Terms.of(image.topic(key.topic_id), defaults)
        is_preferred = request.election == PREFERRED
        decided = preferred(image, partition, terms) if is_preferred else unclean(image, partition)
        if isinstance(decided, Refusal):
            if request.partitions is not None or decided.error != ErrorCode.ELECTION_NOT_NEEDED:
                replies.append(_refused(topic, number, decided, partition))
            continue
        changes[key] = decided
        replies.append(
            ElectLeadersEntryReply(
                topic=topic, partition=number, leader=decided.leader, leader_epoch=decided.leader_epoch
            )
        )
    return [(partition_key(key), partition) for key, partition in changes.items()], replies


_Place = tuple[str, int, PartitionKey | None]


def _named(image: ClusterImage, request: ElectLeadersRequest) -> Iterator[_Place]:
    for entry in request.partitions or ():
        topic = image.topic_named(entry.topic)
        yield entry.topic, entry.partition, PartitionKey(topic.topic_id, entry.partition) if topic else None


def _all(image: ClusterImage) -> Iterable[_Place]:
    for topic in sorted(image.topics.values(), key=lambda topic: topic.name):
        for number in sorted(topic.partitions):
            yield topic.name, number, PartitionKey(topic.topic_id, number)


def _refused(
    topic: str, number: int, refusal: Refusal, partition: PartitionDocument | None = None
) -> ElectLeadersEntryReply:
    return ElectLeadersEntryReply(
        topic=topic,
        partition=number,
        error=refusal.error,
        detail=refusal.detail,
        leader=partition.leader if partition else NO_LEADER,
        leader_epoch=partition.leader_epoch if partition else -1,
    )
