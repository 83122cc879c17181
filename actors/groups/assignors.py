"""Who should own what: three ways to share partitions among the members of a group.

Pure functions of members (by a name that stays: ``members.Member.rank``), the topics each is subscribed to, the
topics that there are, and who had what before. Rules of this file:

1. Every partition of a topic that somebody is subscribed to goes to exactly one of its subscribers; nothing else goes
   anywhere; every member has an entry, perhaps an empty one.
2. The result depends on nothing but the arguments' content: never on the order of a mapping, list or set.
3. With the same arguments and its own result as ``previous``, the result is the same again.

``range`` gives each subscriber of a topic one stretch of its partitions: balanced within one a topic, and partitions
of the same number of topics of the same size meet at one member. ``round_robin`` deals all partitions out, one each:
balanced within one. ``sticky`` is balanced within one, too, and moves as little as that allows. Where subscriptions
differ ``sticky`` ends where no single move makes two members more even.

Source: Kafka's assignors of the same names; the sticky one is written anew, for one pass over what changes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from .events import GroupPartition, TopicPicture

Subscriptions: TypeAlias = Mapping[str, Collection[str]]  # a member's name -> topics
Topics: TypeAlias = Mapping[str, TopicPicture]
Shares: TypeAlias = dict[str, list[GroupPartition]]  # a member's name -> its partitions, sorted
Previous: TypeAlias = Mapping[str, Collection[GroupPartition]]  # disjoint


def assign(assignor: str, members: Subscriptions, topics: Topics, previous: Previous) -> Shares:
    """Return each member's share by the assignor of that name.

    Raises:
        KeyError: there is no such assignor.
    """
    return _BY_NAME[assignor](members, topics, previous)


def by_range(members: Subscriptions, topics: Topics) -> Shares:
    """Give each subscriber of a topic one stretch of its partitions; the first ones by name get one more."""
    shares: Shares = {member: [] for member in sorted(members)}
    for topic, subscribers in _subscribers(members, topics).items():
        partitions = _partitions(topic, topics[topic])
        least, more = divmod(len(partitions), len(subscribers))
        begin = 0
        for number, member in enumerate(subscribers):
            end = begin + least + (number < more)
            shares[member] += partitions[begin:end]
            begin = end
    return shares


def by_round_robin(members: Subscriptions, topics: Topics) -> Shares:
    """Deal all partitions out in order, one to each member in turn; who is not subscribed is passed over."""
    shares: Shares = {member: [] for member in sorted(members)}
    subscribers = _subscribers(members, topics)
    subscribed = {topic: frozenset(names) for topic, names in subscribers.items()}
    order = list(shares)
    turn = 0
    for topic in subscribers:
        for partition in _partitions(topic, topics[topic]):
            while order[turn] not in subscribed[topic]:
                turn = (turn + 1) % len(order)
            shares[order[turn]].append(partition)
            turn = (turn + 1) % len(order)
    return shares


def by_stickiness(members: Subscriptions, topics: Topics, previous: Previous) -> Shares:
    """Keep what may be kept, give what is free to whoever has least, then move one by one while that evens out."""
    subscribers = _subscribers(members, topics)
    shares, free = _kept(members, topics, subscribers, previous)
    _give(free, shares, subscribers)
    if len({tuple(names) for names in subscribers.values()}) == 1:
        _even_out_equals(shares, next(iter(subscribers.values())))
    else:
        _even_out(shares, subscribers)
    return {member: sorted(share) for member, share in shares.items()}


_BY_NAME: dict[str, Callable[[Subscriptions, Topics, Previous], Shares]] = {
    "range": lambda members, topics, _: by_range(members, topics),
    "round_robin": lambda members, topics, _: by_round_robin(members, topics),
    "sticky": by_stickiness,
}


def _subscribers(members: Subscriptions, topics: Topics) -> dict[str, list[str]]:
    """Return, by topic that exists and in the topics' order, who is subscribed to it, in the members' order."""
    found: dict[str, list[str]] = {}
    for member in sorted(members):
        for topic in sorted(set(members[member])):
            if topic in topics:
                found.setdefault(topic, []).append(member)
    return dict(sorted(found.items()))


def _partitions(topic: str, picture: TopicPicture) -> list[GroupPartition]:
    return [GroupPartition(topic, picture.topic_id, number) for number in range(picture.partitions)]


# -- sticky


def _kept(
    members: Subscriptions, topics: Topics, subscribers: Mapping[str, list[str]], previous: Previous
) -> tuple[Shares, list[GroupPartition]]:
    """Return what each member keeps, and what is free: partitions that exist, of topics with subscribers."""
    free = {partition: None for topic in subscribers for partition in _partitions(topic, topics[topic])}
    shares: Shares = {}
    for member in sorted(members):
        subscribed = frozenset(members[member])
        kept = [part for part in sorted(previous.get(member, ())) if part.topic in subscribed and part in free]
        for partition in kept:
            del free[partition]
        shares[member] = kept
    return shares, list(free)


def _give(free: list[GroupPartition], shares: Shares, subscribers: Mapping[str, list[str]]) -> None:
    """Give each free partition to the subscriber that has least; topics that few can take come first.

    One heap for all topics with the same subscribers. A load only grows here, so an entry is at worst too low: it is
    put right when it comes up.
    """
    heaps: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for partition in sorted(free, key=lambda part: (len(subscribers[part.topic]), part)):
        names = tuple(subscribers[partition.topic])
        if (heap := heaps.get(names)) is None:
            heap = heaps[names] = [(len(shares[name]), name) for name in names]
            heapq.heapify(heap)
        while heap[0][0] != len(shares[heap[0][1]]):
            heapq.heapreplace(heap, (len(shares[heap[0][1]]), heap[0][1]))
        member = heap[0][1]
        shares[member].append(partition)
        heapq.heapreplace(heap, (len(shares[member]), member))


def _even_out_equals(shares: Shares, names: list[str]) -> None:
    """Move from who has most to who has least, where everybody may take everything: no more than balance needs."""
    least, more = divmod(sum(len(shares[name]) for name in names), len(names))
    by_load = sorted(names, key=lambda name: (-len(shares[name]), name))
    surplus: list[GroupPartition] = []
    for number, name in enumerate(by_load):
        quota = least + (number < more)  # those that have most keep one more
        while len(shares[name]) > quota:
            surplus.append(shares[name].pop())
    for number, name in enumerate(by_load):
        while surplus and len(shares[name]) < least + (number < more):
            shares[name].append(surplus.pop())


def _even_out(shares: Shares, subscribers: Mapping[str, list[str]]) -> None:
    """Move one partition at a time to a subscriber that has at least two fewer, until there is none.

    Ends: each move makes the sum of the squares of the loads smaller.
    """
    is_moving = True
    while is_moving:
        is_moving = False
        for member in sorted(shares, key=lambda name: (-len(shares[name]), name)):
            while found := _better_place(member, shares, subscribers):
                partition, other = found
                shares[member].remove(partition)
                shares[other].append(partition)
                is_moving = True


def _better_place(
    member: str, shares: Shares, subscribers: Mapping[str, list[str]]
) -> tuple[GroupPartition, str] | None:
    """Return one of the member's partitions and the subscriber with least, if that one has at least two fewer."""
    best: tuple[int, str, GroupPartition] | None = None
    last_of_topic = {partition.topic: partition for partition in shares[member]}
    for topic in sorted(last_of_topic):
        load, other = min((len(shares[name]), name) for name in subscribers[topic])
        if load + 2 <= len(shares[member]) and (best is None or (load, other) < best[:2]):
            best = (load, other, last_of_topic[topic])
    return (best[2], best[1]) if best else None
