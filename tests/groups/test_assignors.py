"""Assignors: complete, disjoint, to subscribers only, balanced, sticky; whatever the order of what they are given."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.groups import assignors
from callboard.actors.groups.events import GroupPartition, TopicPicture
from callboard.transport.group_messages import ASSIGNORS

TOPICS = ["bills", "clicks", "orders", "trips"]
MEMBERS = [f"m{number}" for number in range(9)]

topics_strategy = st.dictionaries(
    st.sampled_from(TOPICS), st.integers(1, 20).map(lambda count: TopicPicture("", count)), max_size=4
).map(lambda found: {name: TopicPicture(f"id-{name}", picture.partitions) for name, picture in found.items()})
members_strategy = st.dictionaries(st.sampled_from(MEMBERS), st.sets(st.sampled_from(TOPICS)), min_size=1)
equal_members_strategy = st.sets(st.sampled_from(MEMBERS), min_size=1).map(
    lambda names: {name: set(TOPICS) for name in sorted(names)}
)
any_assignor = st.sampled_from(ASSIGNORS)


def partitions_of(topics, wanted=TOPICS):
    return {
        GroupPartition(name, picture.topic_id, number)
        for name, picture in topics.items()
        if name in wanted
        for number in range(picture.partitions)
    }


def owners(shares):
    return {partition: member for member, share in shares.items() for partition in share}


def moved(before, after):
    """Partitions that had an owner, have another one now."""
    return {partition for partition, owner in owners(after).items() if owners(before).get(partition, owner) != owner}


def test_every_assignor_that_members_may_name_exists():
    assert set(assignors._BY_NAME) == set(ASSIGNORS)


@given(any_assignor, members_strategy, topics_strategy)
def test_every_partition_goes_to_exactly_one_subscriber_and_nothing_else_goes_anywhere(assignor, members, topics):
    shares = assignors.assign(assignor, members, topics, {})

    given_out = [partition for share in shares.values() for partition in share]
    assert shares.keys() == members.keys()
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == partitions_of(topics, set().union(*members.values()))
    assert all(partition.topic in members[member] for partition, member in owners(shares).items())
    assert all(share == sorted(share) for share in shares.values())


@given(st.sampled_from(["round_robin", "sticky"]), equal_members_strategy, topics_strategy)
def test_equal_subscriptions_are_balanced_within_one(assignor, members, topics):
    sizes = [len(share) for share in assignors.assign(assignor, members, topics, {}).values()]

    assert max(sizes) - min(sizes) <= 1


@given(equal_members_strategy, topics_strategy)
def test_range_is_balanced_within_one_in_each_topic_and_gives_stretches(members, topics):
    shares = assignors.assign("range", members, topics, {})

    for topic in topics:
        stretches = [[part.partition for part in share if part.topic == topic] for share in shares.values()]
        sizes = [len(stretch) for stretch in stretches]
        assert max(sizes) - min(sizes) <= 1
        assert all(stretch == list(range(stretch[0], stretch[-1] + 1)) for stretch in stretches if stretch)


def test_range_lets_partitions_of_the_same_number_meet():
    topics = {"left": TopicPicture("l", 7), "right": TopicPicture("r", 7)}

    shares = assignors.assign("range", {"a": ["left", "right"], "b": ["left", "right"]}, topics, {})

    assert [(part.topic, part.partition) for part in shares["b"]] == [
        ("left", 4), ("left", 5), ("left", 6), ("right", 4), ("right", 5), ("right", 6)
    ]  # fmt: skip


@given(any_assignor, members_strategy, members_strategy, topics_strategy, st.randoms(use_true_random=False))
def test_the_order_of_what_is_given_does_not_matter(assignor, members, before, topics, chance: random.Random):
    def shuffled(items):
        items = list(items)
        chance.shuffle(items)
        return items

    previous = assignors.assign("round_robin", before, topics, {})
    again = {member: shuffled(members[member]) for member in shuffled(members)}
    topics_again = {topic: topics[topic] for topic in shuffled(topics)}
    previous_again = {member: shuffled(previous[member]) for member in shuffled(previous)}

    first = assignors.assign(assignor, members, topics, previous)
    assert list(assignors.assign(assignor, again, topics_again, previous_again).items()) == list(first.items())


@given(any_assignor, members_strategy, members_strategy, topics_strategy)
def test_what_was_assigned_stays_when_nothing_changes(assignor, members, before, topics):
    first = assignors.assign(assignor, members, topics, assignors.assign("range", before, topics, {}))

    assert assignors.assign(assignor, members, topics, first) == first


@given(members_strategy, members_strategy, topics_strategy)
def test_sticky_ends_where_no_single_move_evens_out(members, before, topics):
    shares = assignors.assign("sticky", members, topics, assignors.assign("range", before, topics, {}))

    for partition, owner in owners(shares).items():
        others = [len(shares[other]) for other, subscribed in members.items() if partition.topic in subscribed]
        assert len(shares[owner]) - min(others) <= 1


@given(equal_members_strategy, topics_strategy)
def test_sticky_moves_to_one_that_joins_only_its_share(members, topics):
    before = assignors.assign("sticky", members, topics, {})

    after = assignors.assign("sticky", {**members, "new": set(TOPICS)}, topics, before)

    assert moved(before, after) == set(after["new"])
    assert len(after["new"]) == len(partitions_of(topics)) // (len(members) + 1)


@given(equal_members_strategy, topics_strategy, st.data())
def test_sticky_moves_of_one_that_leaves_only_what_it_had(members, topics, data):
    before = assignors.assign("sticky", members, topics, {})
    gone = data.draw(st.sampled_from(sorted(members)))
    left = {name: subscribed for name, subscribed in members.items() if name != gone}

    after = assignors.assign("sticky", left, topics, before)

    assert not left or moved(before, after) == set(before[gone])


@given(equal_members_strategy, topics_strategy, st.integers(1, 30))
def test_sticky_moves_nothing_when_partitions_are_added(members, topics, added):
    before = assignors.assign("sticky", members, topics, {})
    grown = {topic: picture._replace(partitions=picture.partitions + added) for topic, picture in topics.items()}

    assert moved(before, assignors.assign("sticky", members, grown, before)) == set()


@given(equal_members_strategy, equal_members_strategy, topics_strategy)
def test_sticky_moves_no_more_than_balance_needs(members, before, topics):
    previous = assignors.assign("range", before, topics, {})
    kept = {name: len(previous.get(name, [])) for name in members}
    least, more = divmod(len(partitions_of(topics)), len(members))
    needed = sum(
        max(0, load - least - (number < more)) for number, load in enumerate(sorted(kept.values(), reverse=True))
    )

    after = assignors.assign("sticky", members, topics, previous)

    still_there = {name: share for name, share in previous.items() if name in members}
    assert len(moved(still_there, after)) == needed


def test_a_topic_made_anew_is_another_one():
    before = assignors.assign("sticky", {"a": ["orders"]}, {"orders": TopicPicture("old", 2)}, {})

    after = assignors.assign("sticky", {"a": ["orders"]}, {"orders": TopicPicture("new", 2)}, before)

    assert {partition.topic_id for partition in after["a"]} == {"new"}


@pytest.mark.parametrize("assignor", ASSIGNORS)
def test_without_topics_everybody_has_nothing(assignor):
    assert assignors.assign(assignor, {"b": ["gone"], "a": []}, {}, {}) == {"a": [], "b": []}
