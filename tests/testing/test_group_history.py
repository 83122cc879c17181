"""The checker of groups finds each anomaly, and nothing in a good history."""

import random

import pytest

from callboard.model import TopicPartition
from callboard.testing.group_history import (
    NOT_COMMITTED,
    Commit,
    CommittedRead,
    GroupHistory,
    MemberPolled,
    Owned,
    Processed,
    group_anomalies,
)

ORDERS = TopicPartition("orders", 0)


def commit(offset, at, *, member="a", outcome="ok"):
    return Commit("g", ORDERS, offset, member, outcome, at, at + 2)


def read(offset, at):
    return CommittedRead("g", ORDERS, offset, at, at + 2)


def a_good_history():
    """Member a deals with 0 to 4 and commits; b takes over, begins at what is committed, goes on."""
    history = GroupHistory()
    history.owned += [Owned("g", ORDERS, "a", 0, 100), Owned("g", ORDERS, "b", 110, None)]
    for offset in range(10):
        history.processed.append(Processed("g", ORDERS, offset, offset * 10 if offset < 5 else 100 + offset * 10))
    history.commits += [commit(3, 30), commit(5, 60), commit(10, 300, member="b")]
    history.reads += [read(NOT_COMMITTED, 1), read(3, 40), read(5, 120), read(10, 400)]
    return history


def names(history):
    return {anomaly.name for anomaly in group_anomalies(history)}


def test_a_good_history_has_none():
    assert group_anomalies(a_good_history()) == []


def test_an_offset_that_goes_back_behind_an_acknowledged_commit():
    history = a_good_history()
    history.reads.append(read(3, 120))

    assert names(history) == {"offset-regression"}


def test_an_acknowledged_commit_that_is_forgotten():
    history = a_good_history()
    history.reads.append(read(NOT_COMMITTED, 120))

    assert names(history) == {"offset-regression"}


def test_a_commit_to_an_earlier_offset_on_purpose_is_none():
    history = a_good_history()
    history.commits.append(commit(3, 500, member="b"))
    history.reads.append(read(3, 510))

    assert group_anomalies(history) == []


def test_reads_beside_a_commit_may_return_either():
    history = a_good_history()
    history.reads += [CommittedRead("g", ORDERS, 3, 59, 61), CommittedRead("g", ORDERS, 5, 59, 61)]

    assert group_anomalies(history) == []


def test_a_commit_of_unknown_outcome_may_be_there_or_not():
    history = a_good_history()
    history.processed.append(Processed("g", ORDERS, 10, 400))
    history.commits.append(commit(11, 500, member="b", outcome="info"))
    history.reads += [read(10, 510), read(11, 520)]

    assert group_anomalies(history) == []


def test_an_offset_that_nobody_committed():
    history = a_good_history()
    history.reads.append(read(4, 200))

    assert names(history) == {"offset-phantom"}


def test_an_offset_whose_commit_was_refused():
    history = a_good_history()
    history.commits.append(commit(4, 50, outcome="fail"))
    history.reads.append(read(4, 200))

    assert names(history) == {"offset-phantom"}


def test_a_commit_of_somebody_who_owns_it_no_more():
    history = a_good_history()
    history.commits.append(commit(5, 200, member="a"))

    assert names(history) == {"fenced-commit"}


def test_a_refused_commit_of_somebody_who_owns_it_no_more_is_how_it_should_be():
    history = a_good_history()
    history.commits.append(commit(5, 200, member="a", outcome="fail"))

    assert group_anomalies(history) == []


@pytest.mark.parametrize("until", [None, 120])
def test_two_owners_at_once(until):
    history = a_good_history()
    history.owned[0] = history.owned[0]._replace(until_ns=until)

    assert "two-owners" in names(history)


def test_a_commit_ahead_of_the_work():
    history = a_good_history()
    history.commits[0] = commit(5, 30)
    history.reads = []

    assert names(history) == {"unprocessed-commit"}


def test_a_record_that_nobody_ever_dealt_with():
    history = a_good_history()
    history.processed = [each for each in history.processed if each.offset != 4]

    assert names(history) == {"unprocessed"}


def test_groups_are_judged_apart():
    history = a_good_history()
    history.reads.append(CommittedRead("other", ORDERS, NOT_COMMITTED, 200, 210))

    assert group_anomalies(history) == []


@pytest.mark.parametrize("seed", range(20))
def test_one_mutation_of_a_long_history_is_found(seed):
    rng = random.Random(seed)
    history = GroupHistory()
    members, now = ["a", "b", "c"], 0
    for turn in range(12):
        member, begin = members[turn % 3], now
        for _ in range(rng.randint(1, 5)):
            now += 10
            history.processed.append(Processed("g", ORDERS, len(history.processed), now))
        now += 10
        history.commits.append(commit(len(history.processed), now, member=member))
        history.reads.append(read(len(history.processed), now + 5))
        now += 10
        history.owned.append(Owned("g", ORDERS, member, begin, now))
        now += 10
    assert group_anomalies(history) == []

    at = rng.randrange(1, 12)
    mutation = rng.choice(["read", "owner", "ahead", "fence"])
    if mutation == "read":
        history.reads[at] = history.reads[at]._replace(offset=history.commits[at - 1].offset)
    elif mutation == "owner":
        history.owned[at - 1] = history.owned[at - 1]._replace(until_ns=history.owned[at].since_ns + 1)
    elif mutation == "ahead":
        history.commits[at - 1] = history.commits[at - 1]._replace(offset=history.commits[at].offset)
        history.reads = []
    else:
        history.commits[at] = history.commits[at]._replace(member=history.owned[at - 1].member)

    assert names(history), mutation


def polled(*offsets, span=0, member="a"):
    return MemberPolled("g", ORDERS, member, span, offsets)


@pytest.mark.parametrize(
    ("polls", "name"),
    [
        ([polled(0, 1), polled(3)], "poll-skip"),
        ([polled(0, 1), polled(1, 2)], "nonmonotonic-poll"),
        ([polled(0, 2)], "int-poll-skip"),
        ([polled(1, 0)], "int-nonmonotonic-poll"),
        ([polled(0, 1), polled(0, 1, span=1), polled(5, span=1)], "poll-skip"),
    ],
)
def test_polls_that_leave_out_or_go_back_while_a_partition_is_held(polls, name):
    history = a_good_history()
    history.polls += polls

    assert name in names(history)


def test_polls_begin_anew_with_each_time_of_holding_a_partition():
    history = a_good_history()
    history.polls += [polled(0, 1), polled(2), polled(0, span=1), polled(7, 8, member="b", span=2), polled()]

    assert group_anomalies(history) == []
