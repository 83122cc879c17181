"""A real cluster for somebody's tests: what it can, what comes of its experiments, and that nothing is left."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pykka
import pytest

from callboard.client.timeline import noticed_by
from callboard.errors import BrokerNotAvailableError, CallboardError, InvalidRequestError, UnknownAddressError
from callboard.testing.clusters import RunningCluster, cluster, is_alive
from callboard.transport.loop import SystemClock

pytestmark = pytest.mark.processes
QUICK = """
[broker]
heartbeat_ms = 100
session_timeout_ms = 1_000
lease_ttl_ms = 1_000
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Three brokers whose silence is noticed soon; not so soon that it is for a busy machine."""
    settings = tmp_path_factory.mktemp("settings") / "cluster.toml"
    settings.write_text(QUICK)
    with cluster(brokers=3, options=("--config", str(settings))) as it:
        yield it


@pytest.fixture(autouse=True)
def healed(request):
    """Leave no experiment to the next test."""
    yield
    if "running" in request.fixturenames:
        request.getfixturevalue("running").heal()


def names(events):
    return [event.name for event in events]


def since(running, begun):
    return [event for event in running.events() if event.monotonic_ms >= begun.monotonic_ms]


def opened_again(events, name):
    """Say whether the last that the metadata process said of a session is that it was opened."""
    return [one.name for one in events if one.process == "metadata" and one.values.get("name") == name][-1:] == [
        "session.opened"
    ]


# -- using it ------------------------------------------------------------------------------------------


def test_a_broker_that_was_away_when_the_administrator_came_is_asked_when_it_is_back():
    def wait_for_brokers(expected):
        until = time.monotonic() + 60
        while {broker.id for broker in admin.describe_cluster().brokers} != expected:
            assert time.monotonic() < until
            time.sleep(0.02)

    with cluster(brokers=2) as own, own.admin() as admin:
        own.kill_broker(2, for_s=1.0)
        wait_for_brokers({1})
        assert set(admin.describe_replicas()) == {1}

        wait_for_brokers({1, 2})

        assert set(admin.describe_replicas()) == {1, 2}


def test_records_go_in_and_come_out(running, topic_name):
    running.create_topic(topic_name, partitions=2, flush="os")
    with running.producer() as producer:
        producer.send(topic_name, b"one").get(timeout=30)
    with running.consumer(topic_name) as consumer:
        polled = {}
        while not polled:
            polled = consumer.poll(timeout_ms=1_000)

    assert [record.value for records in polled.values() for record in records] == [b"one"]


def test_leader_and_in_sync_replicas_are_told(running, topic_name):
    running.create_topic(topic_name, partitions=3)
    leader = running.leader_of(topic_name, 2)

    assert leader in {1, 2, 3}
    assert leader in running.wait_for_isr(topic_name, 2, len(running.isr_of(topic_name, 2)))


def test_a_partition_that_does_not_exist_is_told_by_number(running, topic_name):
    running.create_topic(topic_name)

    with pytest.raises(CallboardError, match="has 1 partitions, none with the number 7"):
        running.leader_of(topic_name, 7)


def test_clients_that_a_test_forgot_are_closed_with_the_cluster():
    with cluster(brokers=1) as it:
        producer = it.producer()
        admin = it.admin()
    for use in (lambda: producer.send("orders", b"x"), admin.describe_cluster):
        with pytest.raises(CallboardError, match="closed"):
            use()


def test_a_user_s_own_stop_all_does_not_disturb_the_cluster(running, topic_name):
    class Own(pykka.ThreadingActor):
        """Somebody's actor."""

    Own.start()
    running.create_topic(topic_name)
    pykka.ActorRegistry.stop_all()
    with running.producer() as producer:
        there = producer.send(topic_name, b"still here").get(timeout=30)

    assert there.offset == 0


# -- breaking it ---------------------------------------------------------------------------------------


def test_a_killed_leader_is_told_with_who_noticed_and_how_long_nobody_led(running, topic_name):
    running.create_topic(topic_name)
    leader = running.kill_leader(topic_name)
    for event in ("leader.elected", "partition.leads"):  # told by two processes, so in any order
        running.wait_for_event(event, partition=f"{topic_name}-0", epoch=2)
    (gap,) = [gap for gap in running.gaps() if gap.partition == f"{topic_name}-0"]

    assert (gap.old_leader, gap.cause) == (f"broker-{leader}", "sentinel")
    assert gap.is_over
    assert gap.begin_ms <= gap.elected_ms <= gap.end_ms


def test_a_kill_for_a_while_keeps_the_broker_away_for_that_time(running):
    running.kill_broker(3, for_s=0.7)
    begun = running.wait_for_event("experiment.begun", what="kill", address="host/broker-3")
    started = running.wait_for_event("process.started", name="broker-3", start=2)

    assert started.monotonic_ms - begun.monotonic_ms >= 700
    running._wait_until(lambda: running.broker_pid(3) != 0, "broker 3")


def test_a_process_that_is_away_can_be_neither_killed_nor_disturbed_just_now(running):
    """It was called a malformed request, which one need not try again."""
    pid = running.broker_pid(3)
    running.kill_broker(3, for_s=2.0)
    with running.admin() as admin:
        for disturb in (admin.kill, admin.experiments.pause, admin.experiments.hang):
            with pytest.raises(BrokerNotAvailableError, match="broker-3 does not run just now") as told:
                disturb("broker-3", for_ms=500)
            assert told.value.retriable
    running._wait_until(lambda: running.broker_pid(3) not in (0, pid), "broker 3")


def test_a_paused_broker_is_noticed_by_its_silence_and_goes_on_by_itself(running):
    pid = running.broker_pid(2)
    running.pause_broker(2, for_s=2.0)
    begun = running.wait_for_event("experiment.begun", what="pause", address="host/broker-2")
    stopped = psutil.Process(pid).status()
    silence = running.wait_for_event("session.ended", name="broker-2", reason="not heard of in time")
    running.wait_for_event("experiment.ended", what="pause", address="host/broker-2", why="over")

    assert stopped == psutil.STATUS_STOPPED
    assert silence.monotonic_ms - begun.monotonic_ms >= 800
    assert running.broker_pid(2) == pid
    running._wait_until(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED, "the process to go on")


def test_a_broker_cut_off_from_the_metadata_process_loses_its_session_and_gets_another(running):
    running.cut(1, "metadata", for_s=2.0)
    begun = running.wait_for_event("experiment.begun", address="broker-1", what="cut", peer="metadata")
    running._wait_until(
        lambda: "session.ended" in names(e for e in since(running, begun) if e.values.get("name") == "broker-1"),
        "the silence of broker 1 to be noticed",
    )
    running.wait_for_event("experiment.ended", what="cut", target="metadata both", why="over")
    running._wait_until(lambda: opened_again(since(running, begun), "broker-1"), "broker 1 to be back")

    assert running.broker_pid(1) != 0


def test_a_cut_that_is_healed_is_told_as_ended_by_hand(running):
    running.cut(1, 2, for_s=60.0, one_way=True)
    running.heal(1, 2)

    assert running.wait_for_event("experiment.ended", what="cut", target="broker-2 to").values["why"] == "asked"
    assert running.wait_for_event("experiment.ended", what="cut", target="broker-1 from").values["why"] == "asked"


def test_a_paused_actor_answers_only_when_its_time_is_over(running, topic_name):
    running.create_topic(topic_name)
    address = f"broker-{running.leader_of(topic_name)}/partitions/{topic_name}-0"
    running.pause_actor(address, for_s=0.5)
    with running.producer() as producer:
        producer.send(topic_name, b"late").get(timeout=30)
    acknowledged_ms = SystemClock().monotonic_ms()  # the clock of all processes of this machine
    ended = running.wait_for_event("experiment.ended", what="pause", target=address)

    assert ended.values["why"] == "over"
    assert acknowledged_ms >= ended.monotonic_ms


def test_a_hung_loop_is_noticed(running):
    running.hang_broker(1, for_s=2.0)
    begun = running.wait_for_event("experiment.begun", what="hang", address="broker-1")
    ended = running.wait_for_event("experiment.ended", what="hang", address="broker-1")

    assert ended.monotonic_ms - begun.monotonic_ms >= 2_000
    assert any(
        event.name == "session.ended"
        and event.values["name"] == "broker-1"
        and event.monotonic_ms >= begun.monotonic_ms
        for event in running.events()
    )


def test_a_loop_that_hangs_for_too_long_is_ended_by_its_own_watch(tmp_path):
    (tmp_path / "cluster.toml").write_text("[broker]\nstall_ms = 500\n")
    with cluster(brokers=1, options=("--config", str(tmp_path / "cluster.toml"))) as it:
        pid = it.broker_pid(1)
        it.hang_broker(1, for_s=600.0)
        ended = it.wait_for_event("process.ended", name="broker-1")
        it.wait_for_new_pid(1, pid)

    assert noticed_by(ended) == "stall"


def test_an_actor_that_handles_nothing_for_too_long_is_restarted_alone(tmp_path):
    """By a time of its own: it does not wait for that of the whole process."""
    (tmp_path / "cluster.toml").write_text("[broker]\nstall_ms = 600_000\nactor_stall_ms = 500\n")
    with cluster(brokers=1, options=("--config", str(tmp_path / "cluster.toml"))) as it:
        it.create_topic("orders")
        pid = it.broker_pid(1)
        it.pause_actor("broker-1/partitions/orders-0", for_s=600.0)
        with it.producer() as producer:
            assert producer.send("orders", b"kept").get(timeout=60).offset == 0

        assert it.broker_pid(1) == pid


def test_what_is_not_there_cannot_be_disturbed(running):
    with pytest.raises(UnknownAddressError, match="broker-1"):
        running.slow("broker-11", 5)
    with pytest.raises(UnknownAddressError):
        running.pause_actor("broker-1/partitions/nothing-0")
    with pytest.raises(InvalidRequestError, match="two processes"):
        running.cut(1, 1)


def test_a_cluster_that_was_not_asked_for_allows_no_experiments(tmp_path):
    plain = RunningCluster(tmp_path, brokers=1)  # of which only the clients are used
    command = [sys.executable, "-m", "callboard", "up", "--brokers", "1", "--port", "0"]
    command += ["--data-dir", str(plain.data_dir), "--ready-file", str(plain.ready_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            while b"ready" not in process.stdout.readline():
                assert process.poll() is None
            with plain.admin() as admin:
                with pytest.raises(InvalidRequestError, match="up --experiments"):
                    admin.experiments.pause("broker-1")
                with pytest.raises(InvalidRequestError, match="up --experiments"):
                    admin.kill("broker-1", for_ms=1_000)
                with pytest.raises(InvalidRequestError, match="up --experiments"):
                    admin.experiments.slow("broker-1/router", ms=5)
        finally:
            process.send_signal(signal.SIGTERM)


# -- nothing left --------------------------------------------------------------------------------------

ONE_TEST = """
    import sys
    import callboard.testing

    with callboard.testing.cluster(brokers=1) as it:
        print(it.directory, it.pid, *it.pids(), flush=True)
        sys.stdin.readline()
"""


def test_nothing_is_left_when_the_test_s_process_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ONE_TEST)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        directory, *pids = process.stdout.readline().split()
        there_before = Path(directory).exists() and all(is_alive(int(pid)) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
    waiting = RunningCluster(Path(directory), brokers=1)
    waiting._wait_until(lambda: not any(is_alive(int(pid)) for pid in pids), "every process to end")
    waiting._wait_until(lambda: not Path(directory).exists(), "the directory to be removed")

    assert there_before
    assert len(pids) >= 3


def test_nothing_is_left_after_the_block():
    with cluster(brokers=1) as it:
        directory, pids = it.directory, [it.pid, *it.pids()]

    assert not directory.exists()
    it._wait_until(lambda: not any(map(is_alive, pids)), "every process to end")


# -- the plugin ----------------------------------------------------------------------------------------


def run_pytest(tmp_path, text, *options):
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_theirs.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)


def test_the_fixture_is_there_for_somebody_s_pytest(tmp_path):
    ended = run_pytest(
        tmp_path,
        """
        import pytest

        @pytest.mark.callboard(brokers=1)
        def test_orders(callboard_cluster):
            callboard_cluster.create_topic("orders")
            assert callboard_cluster.brokers == 1
            assert callboard_cluster.kill_leader("orders", 0) == 1
        """,
        "--strict-markers",
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_plugin_costs_nothing_while_nobody_uses_it(tmp_path):
    ended = run_pytest(
        tmp_path,
        """
        import sys

        def test_nothing():
            heavy = {"zmq", "pykka", "orjson", "msgspec", "psutil", "callboard.actors", "callboard.client"}
            assert heavy & set(sys.modules) == set()
            assert "callboard.testing.pytest_plugin" in sys.modules
        """,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
