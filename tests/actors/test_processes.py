"""A process as an actor: on virtual time, with a process that does what the test says."""

import signal

import pytest

from callboard.actors.lifecycle import ChildFailed, ChildStarted, ChildStopped, KillProcess, PauseProcess
from callboard.actors.processes import (
    READY_MS_MAX,
    ProcessActor,
    ProcessDied,
    ProcessLost,
    ProcessPlan,
    ProcessReady,
    exit_text,
)
from callboard.actors.runtime import Fail
from callboard.actors.supervisor import Backoff, ChildSpec, OnGiveUp, Supervisor, SupervisorSpec
from callboard.config import ClusterConfig, ProcessOptions
from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop
from callboard.testing.probe import probe


class FakeProcess:
    """A process that obeys: SIGKILL ends it, SIGTERM too unless it is stubborn."""

    def __init__(self, loop, pid, options):
        self.loop, self.pid, self.options = loop, pid, options
        self.sentinel, self.channel = 1000 + pid, 2000 + pid
        self.is_read_out = False
        self.said, self.signals = [], []
        self.exitcode, self.is_closed, self.is_stubborn = None, False, False

    def says(self, event, **values):
        self.said.append({"event": event, **values})
        self.loop.make_readable(self.channel)

    def ends(self, exitcode):
        self.exitcode = exitcode
        self.loop.make_readable(self.sentinel)

    def read(self):
        said, self.said = self.said, []
        return said

    def send_signal(self, number):
        self.signals.append(number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            return
        if self.exitcode is None and not (self.is_stubborn and number == signal.SIGTERM):
            self.exitcode = 0 if number == signal.SIGTERM else -number
            if self.sentinel in self.loop._readers:
                self.loop.make_readable(self.sentinel)

    def reap(self, timeout_s):
        return self.exitcode

    def close(self):
        self.is_closed = True


class FakeLauncher:
    def __init__(self, loop):
        self.loop, self.launched = loop, []

    def launch(self, options):
        process = FakeProcess(self.loop, len(self.launched) + 1, options)
        self.launched.append(process)
        return process


class World:
    def __init__(self):
        self.loop = SimLoop()
        self.context = sim_context(loop=self.loop)
        self.launcher = FakeLauncher(self.loop)
        self.parent = probe(self.context, "parent")
        self.owner = probe(self.context, "owner")
        self.plan = ProcessPlan("broker-1", self.options, broker_id=1)
        self.start = ProcessActor.starter(plan=self.plan, launcher=self.launcher, owner="owner")

    def options(self, plan, incarnation):
        return ProcessOptions(
            name=plan.name, cluster=ClusterConfig(), incarnation=incarnation, run_dir="/run", restarts=plan.starts
        )

    def alone(self):
        self.ref = self.start(self.context, "broker-1", self.parent.actor_ref)
        self.loop.run_until_idle()
        return self.process

    def supervised(self, **spec):
        child = ChildSpec(
            name="broker-1",
            start=self.start,
            backoff=Backoff(50, 5_000, 0.0),
            on_give_up=OnGiveUp.LEAVE_OFFLINE,
            shutdown_ms=1_000,
        )
        spec = SupervisorSpec(children=(child,), **spec)
        self.ref = Supervisor.start(self.context, "host", self.parent.actor_ref, spec=spec)
        self.loop.run_until_idle()
        return self.process

    @property
    def process(self):
        return self.launcher.launched[-1]

    def serve(self):
        self.process.says("ready", endpoints=["tcp://127.0.0.1:9192"])
        self.loop.run_until_idle()

    def lost(self):
        return self.owner.all_of(ProcessLost)


@pytest.fixture
def world():
    return World()


def test_a_process_serves_when_it_says_so(world):
    world.alone()
    assert not world.parent.all_of(ChildStarted)

    world.serve()
    assert world.parent.all_of(ChildStarted)
    assert world.owner.all_of(ProcessReady) == [ProcessReady(world.plan)]
    assert (world.plan.pid, world.plan.endpoints, world.plan.is_ready) == (1, ("tcp://127.0.0.1:9192",), True)


def test_a_death_fails_the_actor_and_is_told_to_the_owner_with_its_incarnation(world):
    process = world.alone()
    world.serve()
    incarnation = world.plan.incarnation
    process.ends(-signal.SIGKILL)
    world.loop.run_until_idle()

    [lost] = world.lost()
    assert (lost.pid, lost.incarnation, lost.exitcode, lost.was_stopped) == (1, incarnation, -9, False)
    [failed] = world.parent.all_of(ChildFailed)
    assert isinstance(failed.exception, ProcessDied)
    assert str(failed.exception) == "broker-1 (pid 1) was ended by SIGKILL"
    assert process.is_closed
    assert world.plan.pid == 0


def test_what_a_process_says_before_its_end_is_its_reason(world):
    process = world.alone()
    process.says("failed", error="the port is in use", is_configuration=True)
    process.ends(70)
    world.loop.run_until_idle()

    [lost] = world.lost()
    assert (lost.reason, lost.is_configuration) == ("the port is in use", True)
    assert "ended with status 70: the port is in use" in str(world.parent.all_of(ChildFailed)[0].exception)


def test_a_stop_is_sigterm_and_a_normal_end(world):
    process = world.alone()
    world.serve()
    world.ref.stop()
    world.loop.run_until_idle()

    assert process.signals == [signal.SIGTERM]
    assert world.parent.all_of(ChildStopped)
    assert world.lost()[0].was_stopped


def test_a_process_that_ignores_sigterm_is_killed_after_its_time(world):
    process = world.supervised()
    world.serve()
    process.is_stubborn = True
    world.ref.stop()
    world.loop.advance(999)
    assert process.signals == [signal.SIGTERM]

    world.loop.advance(1)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert world.parent.all_of(ChildStopped)
    assert process.is_closed


def test_a_process_that_is_never_ready_is_killed(world):
    process = world.alone()
    world.loop.advance(READY_MS_MAX)

    assert process.signals == [signal.SIGKILL]
    assert "not ready within" in str(world.parent.all_of(ChildFailed)[0].exception)


def test_a_process_that_is_ready_in_time_lives_on(world):
    world.alone()
    world.serve()
    world.loop.advance(READY_MS_MAX)

    assert world.ref.is_alive()


def test_a_failure_of_the_actor_kills_the_process(world):
    process = world.alone()
    world.ref.tell(Fail())
    world.loop.run_until_idle()

    assert process.signals == [signal.SIGKILL]
    assert len(world.lost()) == 1


def test_nonsense_from_a_process_is_only_logged(world, caplog):
    world.alone().says("gibberish")
    world.loop.run_until_idle()

    assert world.ref.is_alive()
    assert "process.said_nonsense" in caplog.text


def test_a_dead_process_is_restarted_under_a_new_incarnation_and_keeps_its_endpoints(world):
    world.supervised()
    world.serve()
    first = world.plan.incarnation
    world.process.ends(1)
    world.loop.advance(49)
    assert len(world.launcher.launched) == 1
    assert world.plan.endpoints

    world.loop.advance(1)
    assert len(world.launcher.launched) == 2
    assert world.plan.incarnation != first
    assert world.process.options.restarts == 1


def test_a_process_past_its_limit_is_left_offline(world):
    world.supervised(intensity=10, period_ms=30_000)
    for _ in range(11):
        world.serve()
        world.process.ends(1)
        world.loop.advance(100)
        state = world.ref.actor.describe().children[0].state
        if state != "given up":
            world.loop.run_until(lambda: world.plan.pid)
    world.loop.advance(60_000)

    assert len(world.launcher.launched) == 11
    assert world.ref.is_alive()
    assert world.ref.actor.describe().children[0].state == "given up"


def test_a_kill_from_outside_while_it_serves_does_not_count_and_is_made_good_at_once(world):
    world.supervised(intensity=10, period_ms=30_000)
    for kill in range(20):
        world.serve()
        world.process.ends(-signal.SIGKILL)
        world.loop.advance(50)
        assert len(world.launcher.launched) == kill + 2


def test_a_kill_before_it_ever_served_counts(world):
    world.supervised(intensity=0)
    world.process.ends(-signal.SIGKILL)
    world.loop.advance(60_000)

    assert len(world.launcher.launched) == 1


def test_kills_that_were_asked_for_do_not_count(world):
    world.supervised(intensity=0)
    for kill in (KillProcess("kill"), KillProcess("term")):
        world.serve()
        world.context.directory.find("host/broker-1").tell(kill)
        world.loop.advance(50)
    world.serve()
    world.process.says("chaos")  # the process was asked directly, and says so before it obeys
    world.process.ends(-signal.SIGKILL)
    world.loop.advance(50)

    assert len(world.launcher.launched) == 4
    assert world.launcher.launched[0].signals == [signal.SIGKILL]
    assert world.launcher.launched[1].signals == [signal.SIGTERM]


def test_the_tree_shows_a_process(world):
    world.supervised()
    world.serve()
    [line] = world.ref.actor.describe().children

    assert (line.address, line.kind, line.pid, line.state) == ("host/broker-1", "process", 1, "running")


@pytest.mark.parametrize(
    ("exitcode", "text"),
    [(0, "ended with status 0"), (-9, "was ended by SIGKILL"), (-200, "was ended by signal 200")],
)
def test_an_exit_code_in_words(exitcode, text):
    assert exit_text(exitcode) == text


# -- experiments ---------------------------------------------------------------------------------------


def test_a_paused_process_goes_on_when_its_time_is_over(world):
    process = world.alone()
    world.serve()
    world.ref.tell(PauseProcess(500))
    world.loop.advance(499)
    before = list(process.signals)
    world.loop.advance(2)

    assert before == [signal.SIGSTOP]
    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_longer_pause_is_not_ended_by_the_first_one_s_timer(world):
    process = world.alone()
    world.serve()
    world.ref.tell(PauseProcess(100))
    world.ref.tell(PauseProcess(500))
    world.loop.advance(200)

    assert process.signals == [signal.SIGSTOP, signal.SIGSTOP]


def test_a_pause_ends_at_once_when_somebody_asks(world):
    process = world.alone()
    world.serve()
    world.ref.tell(PauseProcess(500))
    world.ref.tell(PauseProcess(0))
    world.loop.advance(1_000)

    assert process.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_paused_process_is_let_go_on_before_it_is_stopped(world):
    process = world.alone()
    world.serve()
    world.ref.tell(PauseProcess(60_000))
    world.loop.run_until_idle()
    world.ref.stop()
    world.loop.run_until_idle()

    assert process.signals == [signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM]
    assert len(world.parent.all_of(ChildStopped)) == 1


def test_a_process_that_was_killed_for_a_while_is_started_again_only_then(world):
    world.supervised()
    world.serve()
    world.context.directory.find("host/broker-1").tell(KillProcess("kill", 2_000))
    world.loop.advance(1_999)
    before = len(world.launcher.launched)
    world.loop.advance(60)

    assert before == 1
    assert len(world.launcher.launched) == 2


def test_a_host_that_stops_does_not_wait_for_a_process_that_is_kept_down(world):
    world.supervised()
    world.serve()
    world.context.directory.find("host/broker-1").tell(KillProcess("kill", 60_000))
    world.loop.advance(1_000)
    world.ref.stop()
    world.loop.run_until_idle()

    assert len(world.parent.all_of(ChildStopped)) == 1
    assert len(world.launcher.launched) == 1


def test_a_kill_without_a_time_after_one_with_a_time_comes_back_at_once(world):
    world.supervised()
    world.serve()
    world.context.directory.find("host/broker-1").tell(KillProcess("kill", 1_000))
    world.loop.advance(1_100)
    world.serve()
    world.context.directory.find("host/broker-1").tell(KillProcess("kill"))
    world.loop.advance(200)

    assert len(world.launcher.launched) == 3
