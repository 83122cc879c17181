"""The fault matrix on real processes, under load: nothing lost, nothing twice, no error reaches an application.

The faults themselves, and their numbers, are in ``callboard.testing.soak``; the verdict is the history checker's.
"""

import time

import pytest

from callboard.testing.clusters import cluster, is_alive
from callboard.testing.failover import Logs, Plan, measure, summary
from callboard.testing.soak import FAULTS, make_whole, raise_in_leader
from callboard.testing.workload import Load, Reader, verdict

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PARTITIONS = 6
RATE = 300
ORPHANS_S = 2.0  # F29
WRITABLE_S = (
    30.0  # "stuck": how fast it is, `callboard bench failover` tells; this holds on a machine that is busy, too
)
SATURATION_S, LONG_S = 6, 300
LAG_MS, AWAY_S, BACK_S = 1_000, 2.0, 2.0  # out of every in-sync set after the first, in again within the last


@pytest.fixture(scope="module")
def running():
    with cluster(brokers=3) as one:
        yield one


def whole_under(running, topic, break_it):
    """Break something while records flow; return the load, which has gone on afterwards, and the reader."""
    running.create_topic(topic, partitions=PARTITIONS, replication_factor=3)
    load = Load(running.bootstrap_servers, topic, partitions=PARTITIONS, rate=RATE, name=topic)
    reader = Reader(running.bootstrap_servers, topic, partitions=PARTITIONS, name=f"reader of {topic}")
    try:
        load.wait_for_progress(RATE // 3)
        break_it()
        again = load.watch(range(PARTITIONS))
        assert again.is_complete.wait(WRITABLE_S), f"partitions {sorted(again.missing)} take no records"
        make_whole(running, topic)
        found = verdict(load, running.bootstrap_servers, reader, partitions=PARTITIONS)
    finally:
        load.stop()
        reader.stop()
    assert found == []
    assert (load.errors, reader.errors) == ([], [])
    return load, reader


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"raise_in_leader"}))
def test_a_fault_loses_nothing_repeats_nothing_and_reaches_no_application(running, fault):
    topic = fault.replace("_", "-")

    load, reader = whole_under(running, topic, lambda: FAULTS[fault](running, topic))

    assert load.acknowledged > RATE // 2
    assert reader.polled


def test_an_actor_that_fails_between_append_and_acknowledgement_repeats_nothing(running):
    def five_times():
        for _ in range(5):
            raise_in_leader(running, "raise-in-leader")

    whole_under(running, "raise-in-leader", five_times)


def test_a_killed_host_leaves_nobody_and_what_was_acknowledged_is_there_at_the_next_start():
    with cluster(brokers=3) as running:
        running.create_topic("kept", partitions=PARTITIONS, replication_factor=3)
        load = Load(running.bootstrap_servers, "kept", partitions=PARTITIONS, rate=RATE, delivery_timeout_ms=60_000)
        load.wait_for_progress(RATE)
        pids = running.pids()

        began = time.monotonic()
        running.kill()  # returns when they have ended
        took_s = time.monotonic() - began

        assert not [pid for pid in pids if is_alive(pid)]
        assert took_s < ORPHANS_S
        running.start()
        acknowledged = load.acknowledged
        load.abandon()  # the ports are others now: what was under way has an unknown outcome
        assert verdict(load, running.bootstrap_servers, partitions=PARTITIONS) == []
        assert acknowledged >= RATE


def saturate(directory, seconds, changes_min, partitions):
    """Load that asks for more than there is, in-sync sets that change; return what the logs say of it.

    A disk that takes a second for one sync is no false alarm (F18, ``test_slow_disk.py``), and one that is shared does.
    Nor would it be one that an actor is paused for longer than an actor may be: that is done here on purpose.
    """
    settings = directory / "cluster.toml"
    settings.write_text(f"[broker]\nstorage_slow_ms = 60_000\nactor_stall_ms = 60_000\nreplica_lag_ms = {LAG_MS}\n")
    with cluster(brokers=3, options=("--config", str(settings))) as running:
        running.create_topic("busy", partitions=partitions, replication_factor=3)
        load = Load(
            running.bootstrap_servers, "busy", partitions=partitions, rate=50_000, record_bytes=500, on_full="block"
        )
        logs = Logs(running.data_dir / "log")
        load.wait_for_progress(1_000)
        logs.skip()
        until, changes, events = time.monotonic() + seconds, 0, []
        while time.monotonic() < until or (changes < changes_min and time.monotonic() < until + seconds):
            running.pause_actor("broker-3/replication", AWAY_S)  # it follows nobody
            load.wait_for_progress(1_000)
            time.sleep(AWAY_S + BACK_S)
            events += logs.events()
            logs.skip()
            changes = sum(name == "isr.changed" and "joined" in values for _, _, name, values in events)
        load.stop()
        return events, changes, load


def judge(events, changes, load, changes_min):
    happened = [one for one in events if one[2] in ("session.ended", "session.lost", "leader.elected", "lease.vacant")]
    assert happened == []
    assert load.errors == []
    assert changes >= changes_min


def test_saturating_load_and_changing_in_sync_sets_cause_no_failover(tmp_path):
    judge(*saturate(tmp_path, SATURATION_S, 20, 30), 20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_five_minutes_of_saturating_load_with_a_thousand_changes_cause_no_failover(tmp_path):
    judge(*saturate(tmp_path, LONG_S, 1_000, 60), 1_000)


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_failover_is_measured_with_where_the_time_went(how):
    figures = summary(measure(Plan(kills=2, how=how, partitions=12, rate=300)))

    assert (figures["anomalies"], figures["errors_seen_by_clients"]) == (0, 0)
    assert set(figures["victim_was"]) == {"not the controller", "the controller"}
    for group in figures["victim_was"].values():
        assert group["partitions"] == 4
        assert 0 < group["ms"]["p50"] <= group["ms"]["max"] < 10_000
        assert 0 < group["detect_ms"]["p50"] < group["ms"]["max"]
