"""What faults cost, reckoned from sends; and the shape of what ``callboard bench faults`` tells."""

import pytest

from callboard.errors import IllegalArgumentError
from callboard.model import TopicPartition
from callboard.testing.aims import NEVER_MS, Aim, shown
from callboard.testing.fault_figures import (
    MS,
    Outcome,
    back_to_normal_ms,
    longest_wait_ms,
    summary,
    under_way,
    waits_ms,
)
from callboard.testing.fault_matrix import NAMES, Plan, measure
from callboard.testing.history import Anomaly, Send


def a_send(at_ms, wait_ms, partition=0, outcome="ok"):
    completed_ns = (at_ms + wait_ms) * MS if outcome == "ok" else 0
    return Send("p", TopicPartition("t", partition), (at_ms, partition), outcome, at_ms, at_ms * MS, completed_ns)


def stalled(until_ms, *, every_ms=10, span_ms=5_000, normal_ms=4):
    """Sends in a steady rhythm; until a moment nothing is acknowledged."""
    return [a_send(at_ms, max(normal_ms, until_ms - at_ms)) for at_ms in range(0, span_ms, every_ms)]


def test_a_wait_is_from_the_send_to_its_acknowledgement():
    sends = [a_send(0, 5), a_send(10, 7), a_send(20, 9, partition=1)]

    assert waits_ms(sends, 0, 100 * MS) == [5, 7, 9]
    assert waits_ms(sends, 10 * MS, 20 * MS) == [7]
    assert waits_ms(sends, 0, 100 * MS, [1]) == [9]


@pytest.mark.parametrize("outcome", ["fail", "info"])
def test_who_was_never_acknowledged_waits_for_ever(outcome):
    assert waits_ms([a_send(0, 0, outcome=outcome)], 0, MS) == [NEVER_MS]


def test_the_longest_wait_is_of_whoever_was_under_way_or_came_in_time():
    sends = [a_send(0, 5), a_send(90, 30), a_send(150, 20), a_send(900, 500)]

    assert longest_wait_ms(sends, 100 * MS, 200 * MS) == 20
    assert longest_wait_ms(sends, 95 * MS, 140 * MS) == 25, "what it had waited before does not count"
    assert longest_wait_ms(sends, 2_000 * MS, 3_000 * MS) == 0


def test_under_way_is_what_was_sent_and_not_answered():
    sends = [a_send(0, 5), a_send(2, 20), a_send(3, 20, partition=1), a_send(30, 5)]

    assert under_way(sends, 10 * MS) == 2
    assert under_way(sends, 10 * MS, [1]) == 1


def test_writes_are_back_to_normal_when_a_second_of_them_is():
    assert back_to_normal_ms(stalled(1_700), 0, 5_000 * MS, 100) == 1_600
    assert back_to_normal_ms(stalled(0), 0, 5_000 * MS, 100) == 0


def test_one_slow_record_of_a_hundred_is_normal_and_two_are_not():
    """The 99th percentile of a second of a hundred records."""

    def with_slow_ones(*slow_ms):
        sends = [send for send in stalled(0) if send.invoked_ns // MS not in slow_ms]
        return [*sends, *(a_send(at_ms, 900) for at_ms in slow_ms)]

    assert back_to_normal_ms(with_slow_ones(1_000), 900 * MS, 5_000 * MS, 100) == 0
    assert back_to_normal_ms(with_slow_ones(1_000, 1_500), 900 * MS, 5_000 * MS, 100) == 125


def test_who_does_not_come_back_while_somebody_looks_never_does():
    assert back_to_normal_ms(stalled(5_000), 0, 5_000 * MS, 100) == NEVER_MS
    assert back_to_normal_ms(stalled(4_500), 0, 5_000 * MS, 100) == NEVER_MS, "half a second is not enough to say"


@pytest.mark.parametrize(
    ("aim", "values", "is_reached"),
    [
        (Aim("a", "", 300.0), [10.0, 299.0], True),
        (Aim("a", "", 300.0), [10.0, 300.0], False),
        (Aim("a", "", 2.0, "x", of="median"), [1.0, 1.5, 9.0], True),
        (Aim("a", "", 2.0, "x", of="median"), [1.0, 2.5, 9.0], False),
        (Aim("a", "", 0.0, ""), [0.0, 0.0], True),
        (Aim("a", "", 0.0, ""), [0.0, 1.0], False),
        (Aim("a", "", 300.0), [10.0, NEVER_MS], False),
        (Aim("a", ""), [10.0], None),
        (Aim("a", "", 300.0), [], None),
        (Aim("a", "", unit="", above=10.0), [9.0, 11.0, 12.0], True),
        (Aim("a", "", unit="", above=10.0), [9.0, 10.0, 12.0], False),
        (Aim("a", "", unit="", above=10.0), [], None),
    ],
)
def test_an_aim_is_reached_by_the_longest_unless_it_says_otherwise(aim, values, is_reached):
    assert aim.is_reached(values) is is_reached


def test_the_summary_tells_median_longest_and_whether_the_aim_is_reached():
    aims = (Aim("stall", "longest wait", 1_500.0), Aim("other", "not measured in these runs", 5.0))
    outcome = Outcome("F5", "SIGKILL of a follower", aims, [{"stall": 20.0}, {"stall": 90.0}, {"stall": 30.0}])
    outcome.anomalies.append(Anomaly("duplicate", TopicPartition("t", 0), "twice"))

    (row,) = summary([outcome])

    assert (row["row"], row["runs"], row["anomalies"]) == ("F5", 3, 1)
    assert row["first_anomalies"] == ["duplicate t-0: twice"]
    stall, other = row["measured"]
    assert (stall["median"], stall["longest"], stall["aim"], stall["is_reached"]) == (30.0, 90.0, "< 1,500 ms", True)
    assert (other["median"], other["is_reached"]) == (None, None)


def test_what_never_happened_is_no_number_in_json():
    outcome = Outcome("F7", "a follower stops", (Aim("back", "back to normal", 4_000.0),), [{"back": NEVER_MS}])

    (row,) = summary([outcome])

    assert (row["measured"][0]["longest"], row["measured"][0]["is_reached"]) == (None, False)
    assert shown(row["measured"][0]["longest"], "ms") == "never"


def test_all_rows_with_a_bound_in_time_are_there():
    assert NAMES == ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F12", "F19", "F29")


def test_a_row_that_there_is_not_is_refused_before_anything_starts():
    with pytest.raises(IllegalArgumentError, match="F99"):
        measure(Plan(runs=1), ["F1", "F99"])
