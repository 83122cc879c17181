"""Assignment: leaders and replicas spread evenly, over hosts first."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.controller.assignment import BrokerLoad, assign, loads
from callboard.testing.metadata import image_with, topic_id_of


def brokers(count, hosts=None):
    return [BrokerLoad(number, (hosts or {}).get(number, "h")) for number in range(1, count + 1)]


def spread(counts, among):
    values = [counts[one] for one in among]
    return max(values) - min(values)


def test_six_partitions_on_three_brokers_lead_two_each():
    leaders = Counter(replicas[0] for replicas in assign(brokers(3), 6, 1))

    assert leaders == {1: 2, 2: 2, 3: 2}


def test_topics_of_one_partition_go_round_the_brokers():
    image = image_with([1, 2, 3], topics={"a": [[1]], "b": [[2]]})

    assert assign(loads(image), 1, 1) == [(3,)]


def test_added_partitions_go_where_the_topic_has_fewest():
    image = image_with([1, 2, 3], topics={"a": [[1], [2], [3], [1]], "b": [[2]] * 9 + [[3]] * 9})

    added = assign(loads(image), 2, 1, image.topics[topic_id_of(0)])

    assert {replicas[0] for replicas in added} == {2, 3}


def test_replicas_are_on_different_hosts_while_there_are_any():
    hosts = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: "c"}

    for replicas in assign(brokers(6, hosts), 30, 3):
        assert {hosts[one] for one in replicas} == {"a", "b", "c"}


def test_with_fewer_hosts_than_replicas_every_host_has_one():
    hosts = {1: "a", 2: "a", 3: "a", 4: "b"}

    for replicas in assign(brokers(4, hosts), 12, 3):
        assert "b" in {hosts[one] for one in replicas}


def test_the_partitions_one_broker_leads_have_their_followers_on_different_brokers():
    assigned = assign(brokers(5), 40, 2)

    followers = Counter(replicas[1] for replicas in assigned if replicas[0] == 1)
    assert set(followers) == {2, 3, 4, 5}
    assert max(followers.values()) <= 3


@pytest.mark.parametrize(("factor", "partitions"), [(4, 1), (0, 1), (1, 0)])
def test_what_cannot_be_is_refused(factor, partitions):
    with pytest.raises(ValueError):
        assign(brokers(3), partitions, factor)


@settings(deadline=None)
@given(count=st.integers(1, 12), partitions=st.integers(1, 60), data=st.data())
def test_spread_is_even_and_replicas_are_distinct(count, partitions, data):
    factor = data.draw(st.integers(1, count))

    assigned = assign(brokers(count), partitions, factor)

    everybody = range(1, count + 1)
    assert len(assigned) == partitions
    assert all(len(set(replicas)) == factor for replicas in assigned)
    assert spread(Counter(replicas[0] for replicas in assigned), everybody) <= 1
    assert spread(Counter(one for replicas in assigned for one in replicas), everybody) <= 2


@settings(deadline=None)
@given(data=st.data())
def test_leaders_stay_even_when_partitions_are_added_again_and_again(data):
    count = data.draw(st.integers(1, 6))
    factor = data.draw(st.integers(1, count))
    replicas = []
    for added in data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)):
        image = image_with(range(1, count + 1), topics={"a": replicas} if replicas else None)
        replicas += assign(loads(image), added, factor, image.topics.get(topic_id_of(0)))

    leaders = Counter(one[0] for one in replicas)
    assert spread(leaders, range(1, count + 1)) <= 1


@settings(deadline=None)
@given(data=st.data())
def test_hosts_come_first_whatever_the_brokers(data):
    count = data.draw(st.integers(2, 9))
    hosts = {number: data.draw(st.sampled_from("abcd")) for number in range(1, count + 1)}
    factor = data.draw(st.integers(1, count))

    for replicas in assign(brokers(count, hosts), 20, factor):
        used = Counter(hosts[one] for one in replicas)
        assert len(used) == min(factor, len(set(hosts.values())))


def test_a_large_topic_is_assigned_in_a_moment():
    assigned = assign(brokers(64), 2_000, 3)

    assert spread(Counter(replicas[0] for replicas in assigned), range(1, 65)) <= 1
