"""The checker finds each anomaly, and nothing in a good history. (A checker that finds nothing proves nothing.)"""

import random

import pytest

from callboard.model import TopicPartition
from callboard.testing.history import History, Moved, Polled, Send, anomalies, divergences, internals, stalls

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


def test_an_acknowledged_value_that_nobody_polls_is_lost_when_something_behind_it_was_polled():
    history = a_good_history()
    history.sends[2] = history.sends[2]._replace(value="lost", outcome="info", offset=-1)
    history.sends.append(Send("p", ORDERS, 2, "info"))
    history.sends[2] = history.sends[2]._replace(outcome="ok", offset=2)

    assert "lost-write" in names(history)


def test_an_acknowledged_value_at_the_very_end_that_nobody_polls_is_unseen():
    history = a_good_history()
    history.sends.append(Send("p", ORDERS, 5, "ok", 5))

    assert names(history) == {"unseen"}


def test_one_offset_with_two_values():
    history = a_good_history()
    history.polls["other"] = [Polled(ORDERS, 0, 0), Polled(ORDERS, 1, 2)]

    assert "inconsistent-offsets" in names(history)


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


def test_a_jump_within_one_poll_has_a_name_of_its_own():
    skipping, returning = History(), History()
    for history, offsets in ((skipping, (0, 2)), (returning, (1, 0))):
        for offset in offsets:
            history.sends.append(Send("p", ORDERS, offset, "info"))
            history.polls["c"].append(Polled(ORDERS, offset, offset, poll=7))

    assert "int-poll-skip" in names(skipping)
    assert "int-nonmonotonic-poll" in names(returning)


def test_a_consumer_that_was_moved_may_read_anywhere():
    history = a_good_history()
    history.polls["c"] += [Moved(ORDERS), Polled(ORDERS, 1, 1)]

    assert anomalies(history) == []


def test_what_was_read_and_is_not_there_at_the_end_should_not_have_been_shown():
    history = a_good_history()
    history.finals.add("final")
    history.polls["final"] = list(history.polls["c"])
    history.sends.append(Send("p", ORDERS, 5, "info"))
    history.polls["c"].append(Polled(ORDERS, 5, 5))

    assert names(history) == {"above-hw-read"}


def test_what_was_deleted_from_the_front_meanwhile_need_not_be_there_at_the_end():
    history = a_good_history()
    history.finals.add("final")
    history.polls["final"] = history.polls["c"][2:]

    assert anomalies(history) == []


def test_an_acknowledgement_of_an_older_epoch_than_one_before_it_is_stale():
    history = a_good_history(2)
    history.sends[0] = history.sends[0]._replace(epoch=3)
    history.sends[1] = history.sends[1]._replace(epoch=2)
    assert names(history) == {"stale-epoch-ack"}

    history.sends[1] = history.sends[1]._replace(invoked_ns=history.sends[0].completed_ns)
    assert anomalies(history) == [], "both were under way at once: their order says nothing"


def test_an_idle_time_in_which_a_send_waits_is_a_stall():
    history = a_good_history(2)
    history.sends.append(Send("p", ORDERS, 2, "ok", 2, invoked_ns=20, completed_ns=900))
    history.polls["c"].append(Polled(ORDERS, 2, 2))

    assert [anomaly.name for anomaly in stalls(history, [(0, 1_000)], limit_ns=500)] == ["stuck"]
    assert stalls(history, [(0, 1_000)], limit_ns=900) == []
    assert stalls(history, [(0, 30), (890, 1_000)], limit_ns=500) == [], "faults were about in between"


def test_nobody_is_stuck_who_has_nothing_to_send():
    assert stalls(a_good_history(2), [(100, 10_000)], limit_ns=50) == []


@pytest.mark.parametrize("other", [["a", "x", "c"], ["a", "b"], ["a", "b", "c", "d"]])
def test_replicas_that_differ_below_the_high_watermark(other):
    same = {ORDERS: {1: ["a", "b", "c"], 2: ["a", "b", "c"]}}
    assert divergences(same) == []

    found = divergences({ORDERS: {1: ["a", "b", "c"], 2: ["a", "b", "c"], 3: other}})

    assert [anomaly.name for anomaly in found] == ["replica-divergence"]


def test_a_line_that_should_not_have_been_logged():
    assert [anomaly.name for anomaly in internals(["actor.failed …"])] == ["internal"]


# -- mutations -------------------------------------------------------------------------------------


def a_random_history(chance, count=40):
    """Several producers and consumers over two partitions; some outcomes unknown, some failed."""
    history = History(finals={"final"}, starts={TopicPartition("orders", number): 0 for number in range(2)})
    ends, now = {0: 0, 1: 0}, 0
    for value in range(count):
        partition = TopicPartition("orders", chance.randrange(2))
        now += chance.randint(1, 9)
        fate = chance.random()
        offset = ends[partition.partition]
        invoked, now = now, now + chance.randint(1, 9)
        producer = f"p{chance.randrange(3)}"
        if fate < 0.1:
            history.sends.append(Send(producer, partition, value, "fail", -1, invoked, now))
            continue
        outcome = "ok" if fate < 0.85 else "info"
        history.sends.append(
            Send(
                producer, partition, value, outcome, offset if outcome == "ok" else -1, invoked, now, epoch=value // 20
            )
        )
        if outcome == "ok" or chance.random() < 0.5:
            ends[partition.partition] += 1
            for consumer in ("c", "final"):
                history.polls[consumer].append(Polled(partition, offset, value))
    return history


def mutated(history, chance):
    """Do to one record of a history what a broken log would have done; say what."""
    polls = history.polls["final"]
    acked = [place for place, send in enumerate(history.sends) if send.outcome == "ok"]
    places = [place for place, poll in enumerate(polls) if history.sends[poll.value].outcome == "ok"]
    at = chance.choice(places)
    mutation = chance.choice(
        ["drop", "swap", "duplicate", "change value", "move offset", "wrong ack", "failed ack", "unsent"]
    )
    if mutation == "drop":
        del polls[at]
    elif mutation == "swap":
        other = chance.choice([place for place in places if place != at])
        polls[at], polls[other] = (
            polls[at]._replace(value=polls[other].value),
            polls[other]._replace(value=polls[at].value),
        )
    elif mutation == "duplicate":
        polls.append(polls[at]._replace(offset=polls[at].offset + 1_000))
    elif mutation == "change value":
        polls[at] = polls[at]._replace(value=polls[at].value + 1_000_000)
    elif mutation == "move offset":
        polls[at] = polls[at]._replace(offset=polls[at].offset + chance.choice([-1, 1]))
    else:
        place = chance.choice(acked)
        send = history.sends[place]
        if mutation == "wrong ack":
            history.sends[place] = send._replace(offset=send.offset + (chance.choice([-1, 1]) if send.offset else 1))
        elif mutation == "failed ack":
            history.sends[place] = send._replace(outcome="fail")
        else:
            del history.sends[place]
    return mutation


def test_random_good_histories_have_no_anomaly():
    for seed in range(200):
        assert anomalies(a_random_history(random.Random(seed))) == [], f"seed {seed}"


def test_no_mutated_history_passes():
    missed = []
    for seed in range(3_000):
        chance = random.Random(seed)
        history = a_random_history(chance)
        mutation = mutated(history, chance)
        if not anomalies(history):
            missed.append((seed, mutation))

    assert len(missed) <= 3, f"more than one in a thousand: {missed}"
