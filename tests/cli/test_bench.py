"""``callboard bench``: real kills and real members, and the tables that tell of them."""

import re

import orjson

from callboard.cli import bench
from callboard.cli.exits import ExitStatus
from callboard.model import TopicPartition

DISTRIBUTION = r"( +\d+ ms){3}"


def test_one_kill_is_measured_and_shown_with_where_the_time_went(callboard):
    ended = callboard("bench", "failover", "--kills", "1", "--partitions", "3", "--rate", "100")

    assert ended.status == ExitStatus.OK, ended
    lines = [line.strip() for line in ended.out.splitlines()]
    assert re.fullmatch(r"victim was (not )?the controller: 1 signals, [1-3] partitions", lines[0])
    assert lines[1].split() == ["p50", "p99", "max"]
    for name, _ in bench.PARTS:
        assert any(re.fullmatch(re.escape(name) + DISTRIBUTION, line) for line in lines), f"{name}: {ended.out}"
    told = re.fullmatch(r"(\d+) records acknowledged, 0 anomalies, 0 errors seen by clients", lines[-1])
    assert told
    assert int(told[1]) > 0


def test_what_was_lost_is_told_and_is_a_failure(callboard, monkeypatch):
    """No run of a sound cluster shows this: the figures are made up, the table and the status are not."""
    from callboard.testing import failover
    from callboard.testing.history import Anomaly

    lost = failover.Measured(
        plan=failover.Plan(kills=1),
        failovers=[],
        sent=7,
        errors=["NotEnoughReplicasError"],
        anomalies=[Anomaly("lost", TopicPartition("orders", 2), "offset 5 was acknowledged and is not there")],
    )
    monkeypatch.setattr(failover, "measure", lambda _: lost)

    ended = callboard("bench", "failover", "--kills", "1")

    assert ended.status == ExitStatus.FAILED
    assert "7 records acknowledged, 1 anomalies, 1 errors seen by clients" in ended.out
    assert "offset 5 was acknowledged and is not there" in ended.out


def test_a_row_of_the_fault_matrix_is_measured_on_a_real_cluster_and_shown(callboard):
    ended = callboard("bench", "faults", "--rows", "f2", "--runs", "2")

    assert ended.status == ExitStatus.OK, ended
    head, _, first, second, last = ended.out.splitlines()
    assert re.fullmatch(" row +what was done +what was measured +median +longest +aim +reached *", head)
    assert re.fullmatch(r" *F2 +… with records appended and not answered +records under way +\d+ +\d+ +- *", first)
    assert re.fullmatch(r" +stored twice +0 +0 +0 +yes *", second)
    assert re.fullmatch(r"[1-9][\d,]* records acknowledged, 0 anomalies, 0 errors seen by clients", last)


def test_rows_as_json_and_what_was_lost_in_them_is_a_failure(callboard, monkeypatch):
    """No run of a sound cluster shows this: the figures are made up, the table and the status are not."""
    from callboard.testing import fault_matrix
    from callboard.testing.aims import Aim
    from callboard.testing.fault_figures import Outcome
    from callboard.testing.history import Anomaly

    missed = Outcome("F5", "SIGKILL of a follower", (Aim("stall", "longest wait", 10.0),), [{"stall": 20.0}])
    lost = Outcome("F7", "SIGSTOP of a follower", (), [])
    lost.anomalies.append(Anomaly("lost-write", TopicPartition("orders", 2), "offset 5 is not there"))
    found = [missed]
    monkeypatch.setattr(fault_matrix, "measure", lambda *_: found)

    ended = callboard("bench", "faults", "--runs", "1")
    assert (ended.status, "NO" in ended.out) == (ExitStatus.OK, True), "an aim that is missed is told, no more"
    found.append(lost)
    ended = callboard("bench", "faults", "--runs", "1", "--json")

    assert ended.status == ExitStatus.FAILED
    rows = orjson.loads(ended.out)["rows"]
    assert [(row["row"], row["anomalies"]) for row in rows] == [("F5", 0), ("F7", 1)]
    assert rows[0]["measured"][0]["is_reached"] is False


def test_a_row_that_there_is_not_is_an_error_that_names_those_that_are(callboard):
    ended = callboard("bench", "faults", "--rows", "F99")

    assert ended.status != ExitStatus.OK
    assert "F19" in ended.err


def test_a_member_that_dies_and_one_that_closes_are_measured_and_shown(callboard, monkeypatch):
    from callboard.testing import rebalance

    quick = rebalance.Plan(
        members=3, partitions=6, rate=200, session_timeout_ms=1_000, quiet_s=0.3, joins=1, heartbeat_interval_ms=200
    )
    measured = rebalance.measure(quick)
    monkeypatch.setattr(rebalance, "measure", lambda _: measured)

    ended = callboard("bench", "groups", "--groups", "0")

    assert ended.status == ExitStatus.OK, ended
    assert "3 members, 6 partitions, 200 records a second" in ended.out
    assert ended.out.count("partitions that moved and need not") == 2
    assert [one.partitions for one in measured.departures] == [2, 3]
    assert [one.moved_from_others for one in measured.departures] == [0, 0]
    for one in measured.departures:
        assert one.assigned_ms > 0
        assert 0 < one.acknowledged_p50_ms <= one.acknowledged_p99_ms
        assert one.busy_percent > 0
    assert len(measured.first_records_ms) == 1
    assert re.search(
        r"a member joins +first member of a group: records after +[\d,]+ ms( +[\d,]+ ms) +< 150 ms", ended.out
    )


def test_what_is_not_measured_is_not_shown(callboard, monkeypatch):
    from callboard.testing import rebalance

    def measured(plan):
        assert (plan.joins, plan.rounds) == (2, 0)
        return rebalance.Measured(plan, first_records_ms=[20.0, 30.0])

    monkeypatch.setattr(rebalance, "measure", measured)

    ended = callboard("bench", "groups", "--joins", "2", "--rounds", "0", "--groups", "0")

    told, heads, _, row = ended.out.splitlines()
    assert told == "10 members, 100 partitions, 300 records a second"
    assert heads.split() == ["what", "was", "done", "what", "was", "measured", "median", "longest", "aim", "reached"]
    assert re.fullmatch(r" *a member joins +first member of a group: records after +25 ms +30 ms +< 150 ms +yes *", row)


def test_a_partition_that_moved_for_nothing_is_a_failure(callboard, monkeypatch):
    """No run of a sound group shows this: the figures are made up, the table and the status are not."""
    from callboard.testing import rebalance

    departures = [rebalance.Departure("closed", 10, 1, assigned_ms=30.0)]
    monkeypatch.setattr(rebalance, "measure", lambda plan: rebalance.Measured(plan, departures))

    ended = callboard("bench", "groups", "--groups", "0")

    assert ended.status == ExitStatus.FAILED
    assert re.search(r"a member is closed +partitions that moved and need not +1 +1 +0 +NO", ended.out), ended.out
    assert re.search(r"until its partitions are others' +30 ms +30 ms +< 100 ms +yes", ended.out), ended.out


def test_heartbeats_and_commits_are_measured_and_shown():
    from callboard.testing import group_costs, group_figures, rebalance

    plan = group_costs.Plan(groups=12, partitions=4, in_flight=6, pairs=1, run_s=0.3, settle_s=0.1)

    measured = group_costs.measure(plan)

    assert measured.heartbeats_a_second > 0
    assert min(*measured.commits_a_second, *measured.produces_a_second) > 0
    (row,) = group_figures.rows(rebalance.Measured(rebalance.Plan()), measured)
    assert row["what"] == "12 groups"
    medians = {figure["text"]: figure["median"] for figure in row["measured"]}
    assert medians["offsets committed a second"] == round(4 * measured.commits_a_second[0], 2)
    assert all(value is not None for value in medians.values())
