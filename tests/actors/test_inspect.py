"""Looking inside a process, and the top of a process."""

import pytest

from callboard.actors.inspect import Inspection
from callboard.actors.lifecycle import KillProcess
from callboard.actors.root import AbortProcess, Root, StopProcess
from callboard.actors.runtime import LoopActor
from callboard.actors.supervisor import ChildSpec, SupervisorSpec, supervisor
from callboard.config import nearest_address
from callboard.errors import ErrorCode
from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop
from callboard.transport.messages import KillRequest


class Worker(LoopActor):
    handlers = {str: "on_text"}

    def on_text(self, text):
        raise ValueError(text)


class World:
    def __init__(self, *, intensity=3):
        self.loop = SimLoop()
        self.context = sim_context(loop=self.loop)
        self.happened = []
        inner = SupervisorSpec(intensity=intensity, children=(ChildSpec(name="orders-0", start=Worker.starter()),))
        partitions = supervisor("partitions", inner)
        branch = supervisor("broker-1", SupervisorSpec(intensity=0, children=(partitions,)))
        self.root = Root.start(
            self.context,
            branch,
            on_ready=lambda: self.happened.append("ready"),
            on_end=lambda error: self.happened.append(error),
            on_kill=lambda how: self.happened.append(f"SIG{how}"),
            before_kill=lambda: self.happened.append("chaos"),
        )
        self.loop.run_until_idle()
        self.inspection = Inspection(self.context, "broker-1")

    def kill(self, address, how=""):
        reply = self.inspection.kill(KillRequest(address=address, how=how))
        self.loop.run_until_idle()
        return reply


@pytest.fixture
def world():
    return World()


def test_the_tree_is_read_without_asking_anybody(world):
    tree = world.inspection.describe().tree

    assert tree.address == "broker-1"
    assert tree.children[0].children[0].address == "broker-1/partitions/orders-0"


@pytest.mark.parametrize("address", ["broker-1/partitions/orders-0", "host/broker-1/partitions/orders-0"])
@pytest.mark.parametrize("how", ["", "raise", "exit"])
def test_an_actor_is_failed_by_its_address_as_seen_from_inside_or_outside(world, address, how):
    reply = world.kill(address, how)
    line = world.inspection.describe().tree.children[0].children[0]

    assert (reply.error, reply.address) == (0, "broker-1/partitions/orders-0")
    assert reply.what == f"Worker: {how or 'raise'}"
    assert line.state == "restarting"
    assert "was told to" in line.last_failure


def test_an_unknown_address_is_refused_with_the_nearest_one(world):
    reply = world.kill("broker-1/partitions/order-0")

    assert reply.error == ErrorCode.UNKNOWN_ADDRESS
    assert "did you mean 'broker-1/partitions/orders-0'?" in reply.detail


def test_an_unknown_way_to_kill_is_refused(world):
    assert world.kill("broker-1/partitions", "gently").error == ErrorCode.INVALID_REQUEST
    assert world.kill("broker-1", "gently").error == ErrorCode.INVALID_REQUEST


def test_the_actor_at_the_very_top_cannot_be_killed(world):
    assert world.kill("process").error == ErrorCode.UNKNOWN_ADDRESS


@pytest.mark.parametrize(("how", "signal"), [("", "SIGkill"), ("kill", "SIGkill"), ("term", "SIGterm")])
def test_a_process_says_that_it_was_chaos_then_answers_and_then_obeys(world, how, signal):
    assert world.kill("host/broker-1", how).what == f"process: {how or 'kill'}"
    assert world.happened == ["ready", "chaos"]

    world.loop.advance(1_000)
    assert world.happened[-1] == signal


def test_the_root_actor_is_meant_when_the_way_is_an_actors(world):
    world.kill("broker-1", "raise")

    assert str(world.happened[-1]) == "broker-1 was told to fail"


def test_a_process_of_a_simulation_cannot_be_killed():
    context = sim_context()
    ref = Worker.start(context, "broker-1")
    reply = Inspection(context, "broker-1").kill(KillRequest(address="broker-1"))

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert ref.is_alive()


def test_a_process_ends_when_it_is_stopped(world):
    world.root.tell(StopProcess("SIGTERM"))
    world.loop.advance(1)

    assert world.happened == ["ready", None]
    assert len(world.context.directory) == 0


def test_a_process_ends_when_its_tree_gives_up():
    world = World(intensity=0)
    world.context.directory.find("broker-1/partitions/orders-0").tell("boom")
    world.loop.advance(1)

    error = world.happened[-1]
    assert "broker-1/partitions failed more than 0 times" in str(error)
    assert str(error.__cause__.__cause__) == "boom"


def test_a_process_that_is_aborted_ends_with_that_error(world):
    error = OSError("no space")
    world.root.tell(AbortProcess(error))
    world.loop.advance(1)

    assert world.happened[-1] is error
    assert len(world.context.directory) == 0


def test_a_tree_that_cannot_be_made_ends_the_process():
    loop = SimLoop()
    ended = []

    def start(context, address, parent):
        raise OSError("cannot be made")

    Root.start(
        sim_context(loop=loop),
        ChildSpec(name="broker-1", start=start),
        on_ready=lambda: None,
        on_end=ended.append,
        on_kill=lambda how: None,
    )
    loop.run_until_idle()

    assert [str(error) for error in ended] == ["cannot be made"]


def test_a_kill_before_its_time_is_told_once(world):
    world.context.directory.find("process").tell(KillProcess("kill"))
    world.loop.advance(1_000)

    assert world.happened == ["ready", "chaos", "SIGkill"]


def test_many_addresses_that_end_alike_are_named_in_part():
    known = [f"broker-{number}/partitions/orders-0" for number in range(1, 6)]

    told = nearest_address("orders-0", known)

    assert told == (
        "; did you mean 'broker-1/partitions/orders-0' or 'broker-2/partitions/orders-0' or "
        "'broker-3/partitions/orders-0' (2 more)?"
    )
    assert nearest_address("", known) == ""
