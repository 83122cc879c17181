"""The checker finds each anomaly, and nothing in a good history. (A checker that finds nothing proves nothing.)"""

import random

import pytest

from callboard.model import TopicPartition
from callboard.testing.history import History, Polled, Send, anomalies

ORDERS = TopicPartition("orders", 0)


def a_good_history(count=5):
    history = History()
    for number in range(count):
        history.sends.append(Send("p", ORDERS, number, "ok", number, number * 10 + 1, number * 10 + 5))
        history.polls["c"].append(Polled(ORDERS, number, number))
    return history


def names(history):
    return {anomaly.name for anomaly in anomalies(history)}


def test_a_good_history_has_none():
    assert anomalies(a_good_history()) == []


def test_an_unknown_outcome_may_be_there_or_not():
    history = a_good_history()
    history.sends.append(Send("p", ORDERS, 5, "info"))
    assert anomalies(history) == []
    history.polls["c"].append(Polled(ORDERS, 5, 5))
    assert anomalies(history) == []


def test_an_acknowledged_value_that_nobody_polls_is_lost():
    history = a_good_history()
    history.sends.append(Send("p", ORDERS, 5, "ok", 5))

    assert names(history) == {"lost-write"}


def test_one_offset_with_two_values():
    history = a_good_history()
    history.polls["other"] = [Polled(ORDERS, 0, 0), Polled(ORDERS, 1, 2)]

    assert "inconsistent-offset" in names(history)


def test_one_value_at_two_offsets_is_a_duplicate():
    history = a_good_history()
    history.polls["c"].append(Polled(ORDERS, 5, 4))

    assert names(history) == {"duplicate"}


def test_a_value_that_nobody_sent_is_a_phantom():
    history = a_good_history()
    history.polls["c"].append(Polled(ORDERS, 5, "?"))

    assert names(history) == {"phantom"}


def test_a_failed_send_must_not_be_read():
    history = a_good_history()
    history.sends.append(Send("p", ORDERS, 5, "fail"))
    history.polls["c"].append(Polled(ORDERS, 5, 5))

    assert names(history) == {"aborted-read"}


@pytest.mark.parametrize(("offset", "name"), [(6, "poll-skip"), (4, "nonmonotonic-poll")])
def test_polls_that_jump(offset, name):
    history = a_good_history()
    history.sends.append(Send("p", ORDERS, "x", "info"))
    history.polls["c"].append(Polled(ORDERS, offset, "x"))

    assert name in names(history)


def test_a_later_send_at_a_lower_offset():
    history = a_good_history(2)
    history.sends[0], history.sends[1] = history.sends[1], history.sends[0]

    assert "nonmonotonic-send" in names(history)


def test_a_send_that_began_after_an_acknowledgement_stands_behind_it():
    history = a_good_history(2)
    late = history.sends[0]._replace(producer="q", invoked_ns=100, completed_ns=101)
    history.sends[0] = late

    assert names(history) == {"realtime-order"}


def test_mutated_histories_are_found_out():
    chance = random.Random(7)
    for _ in range(500):
        history = a_good_history(20)
        polls = history.polls["c"]
        at = chance.randrange(19)
        mutation = chance.choice(["drop", "swap", "repeat", "change"])
        if mutation == "drop":
            del polls[at]
        elif mutation == "swap":
            polls[at], polls[at + 1] = polls[at + 1], polls[at]
        elif mutation == "repeat":
            polls.insert(at, polls[at])
        else:
            polls[at] = polls[at]._replace(value=1_000)
        assert anomalies(history), f"{mutation} at {at} was not found"
