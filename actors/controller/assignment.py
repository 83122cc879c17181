"""Which brokers get the replicas of a new partition: the rules of assignment. Pure.

In order of weight:

1. The first replica is the preferred leader. Leaders of one topic are spread evenly over the brokers, then
   leaders of all topics.
2. Replicas of one partition are on different brokers, and on different hosts while there are hosts left.
3. Replicas of one topic are spread evenly, then replicas of all topics.
4. The partitions that one broker leads have their followers on different brokers, so that its work is shared
   when it dies.

Greedy, one replica at a time: leaders of a topic are at most one apart, its replicas at most two. Cost
partitions x replicas x brokers, some tens of nanoseconds each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .image import ClusterImage, TopicImage


@dataclass(slots=True)
class BrokerLoad:
    """A broker that replicas can be put on, and what it has already (all topics)."""

    broker_id: int
    host: str = ""
    leaders: int = 0  # partitions that it is the preferred leader of
    replicas: int = 0


@dataclass(slots=True)
class _Place(BrokerLoad):
    topic_leaders: int = 0  # of the topic at hand
    topic_replicas: int = 0


def loads(image: ClusterImage) -> list[BrokerLoad]:
    """Return the live brokers with what they have now."""
    leaders: Counter[int] = Counter()
    replicas: Counter[int] = Counter()
    for _, partition in image.partitions():
        leaders[partition.replicas[0]] += 1
        replicas.update(partition.replicas)
    return [
        BrokerLoad(broker_id, session.host, leaders[broker_id], replicas[broker_id])
        for broker_id, session in sorted(image.brokers.items())
    ]


def assign(
    brokers: Iterable[BrokerLoad], partitions: int, replication_factor: int, topic: TopicImage | None = None
) -> list[tuple[int, ...]]:
    """Return the replicas of each of so many new partitions, the preferred leader first.

    Args:
        brokers: at least ``replication_factor`` of them.
        topic: the one that the partitions are added to.

    Raises:
        ValueError: too few brokers, or a count below 1.
    """
    places = [_Place(load.broker_id, load.host, load.leaders, load.replicas) for load in brokers]
    if not 1 <= replication_factor <= len(places):
        raise ValueError(f"replication factor {replication_factor} with {len(places)} brokers")
    if partitions < 1:
        raise ValueError(f"{partitions} partitions")
    _count_topic(places, topic)
    followers_of: dict[int, Counter[int]] = {place.broker_id: Counter() for place in places}
    assigned = []
    for _ in range(partitions):
        leader = min(places, key=_leader_weight)
        chosen = [leader]
        pairs = followers_of[leader.broker_id]
        for _ in range(replication_factor - 1):
            follower = _next_follower(places, chosen, pairs)
            pairs[follower.broker_id] += 1
            chosen.append(follower)
        leader.topic_leaders += 1
        leader.leaders += 1
        for place in chosen:
            place.topic_replicas += 1
            place.replicas += 1
        assigned.append(tuple(place.broker_id for place in chosen))
    return assigned


def _leader_weight(place: _Place) -> tuple[int, int, int, int, int]:
    return place.topic_leaders, place.leaders, place.topic_replicas, place.replicas, place.broker_id


def _next_follower(places: Sequence[_Place], chosen: Sequence[_Place], pairs: Counter[int]) -> _Place:
    taken = {place.broker_id for place in chosen}
    hosts = Counter(place.host for place in chosen)
    free = [place for place in places if place.broker_id not in taken]
    return min(
        free,
        key=lambda place: (
            hosts[place.host],
            place.topic_replicas,
            pairs[place.broker_id],
            place.replicas,
            place.broker_id,
        ),
    )


def _count_topic(places: Sequence[_Place], topic: TopicImage | None) -> None:
    by_id = {place.broker_id: place for place in places}
    for partition in topic.partitions.values() if topic else ():
        for position, broker_id in enumerate(partition.replicas):
            place = by_id.get(broker_id)
            if place:
                place.topic_replicas += 1
                place.topic_leaders += position == 0
