"""Experiments inside one process: what an actor does not hear, how slow it gets, and that everything is undone."""

import logging
from dataclasses import replace

import pytest

from callboard.actors.experiments import FOR_MS_MAX
from callboard.actors.inspect import Inspection
from callboard.actors.runtime import LoopActor
from callboard.errors import ErrorCode
from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop
from callboard.transport.faults import Faults
from callboard.transport.messages import EventsRequest, ExperimentRequest, KillRequest


class Worker(LoopActor):
    handlers = {int: "on_number"}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.heard = []

    def on_number(self, number):
        self.heard.append((number, self.context.loop.now_us // 1_000))


class World:
    def __init__(self, faults):
        self.loop = SimLoop()
        self.faults = faults
        self.context = replace(sim_context(loop=self.loop), faults=faults)
        self.root = Worker.start(self.context, "broker-1")
        self.worker = Worker.start(self.context, "broker-1/partitions/orders-0")
        self.loop.run_until_idle()
        self.inspection = Inspection(self.context, "broker-1")

    def ask(self, request):
        replies = []
        self.inspection.answer(request, replies.append)
        return replies[0]

    def begin(self, what, address="broker-1/partitions/orders-0", for_ms=1_000, **more):
        return self.ask(ExperimentRequest(what=what, address=address, for_ms=for_ms, **more))

    def tell(self, *numbers):
        for number in numbers:
            self.worker.tell(number)

    def pass_ms(self, ms):
        ended = []
        self.loop.call_later(ms / 1_000, ended.append, True)
        self.loop.run_until(lambda: bool(ended))

    @property
    def heard(self):
        return self.worker.actor.heard


@pytest.fixture
def world():
    return World(Faults())


# -- who may -------------------------------------------------------------------------------------------


def test_a_cluster_that_allows_no_experiments_refuses_them():
    world = World(None)
    reply = world.begin("pause")
    world.tell(1)
    world.loop.run_until_idle()

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert "callboard up --experiments" in reply.detail
    assert world.heard == [(1, 0)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"what": "freeze"}, "no experiment 'freeze'"),
        ({"what": "paus"}, "did you mean 'pause'"),
        ({"what": "pause", "for_ms": 0}, "1 ms to an hour"),
        ({"what": "pause", "for_ms": FOR_MS_MAX + 1}, "1 ms to an hour"),
        ({"what": "slow"}, "a delay is"),
        ({"what": "delay", "ms": 60_001, "peer": "broker-2"}, "a delay is"),
        ({"what": "cut", "address": "broker-1"}, "the other end"),
        ({"what": "cut", "peer": "broker-2", "direction": "up", "address": "broker-1"}, "both, to or from"),
        ({"what": "cut", "peer": "broker-2"}, "between processes"),
        ({"what": "cut", "peer": "broker-1", "address": "broker-1"}, "not one"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(world, more, said):
    reply = world.begin(**more)

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert said in reply.detail
    assert world.faults.are_none


@pytest.mark.parametrize("address", ["broker-1/partitions/orders-1", "process"])
def test_nobody_at_the_address_is_told_with_the_nearest(world, address):
    reply = world.begin("pause", address)

    assert reply.error == ErrorCode.UNKNOWN_ADDRESS


# -- actors --------------------------------------------------------------------------------------------


def test_a_paused_actor_hears_everything_in_order_when_its_time_is_over(world):
    assert world.begin("pause").count == 1
    world.tell(1, 2)
    world.pass_ms(999)
    before = list(world.heard)
    world.tell(3)
    world.pass_ms(2)

    assert before == []
    assert world.heard == [(1, 1_000), (2, 1_000), (3, 1_000)]


def test_a_paused_actor_that_was_told_nothing_goes_on_as_before(world):
    world.begin("pause")
    world.pass_ms(1_001)
    world.tell(1)
    world.loop.run_until_idle()

    assert [number for number, _ in world.heard] == [1]


def test_a_pause_can_be_ended_before_its_time(world):
    world.begin("pause")
    world.tell(1)
    world.pass_ms(100)
    reply = world.begin("end")
    world.loop.run_until_idle()

    assert reply.count == 1
    assert world.heard == [(1, 100)]


def test_the_end_for_a_process_ends_what_is_below_it(world):
    world.begin("pause")
    world.begin("cut", "broker-1", peer="broker-2")

    assert world.begin("end", "host/broker-1").count == 2
    assert world.faults.are_none


def test_a_slow_actor_takes_its_time_for_each_message(world):
    world.begin("slow", ms=100)
    world.tell(1, 2, 3)
    world.pass_ms(350)
    world.tell(4)
    world.pass_ms(150)

    assert world.heard == [(1, 100), (2, 200), (3, 300), (4, 450)]


def test_a_slow_actor_is_quick_again_afterwards(world):
    world.begin("slow", ms=100, for_ms=150)
    world.tell(1, 2, 3)
    world.pass_ms(160)
    world.tell(4)
    world.loop.run_until_idle()

    assert [number for number, _ in world.heard] == [1, 2, 3, 4]
    assert world.heard[-1][1] == 160


def test_with_a_process_s_address_all_its_actors_are_disturbed(world):
    assert world.begin("slow", "broker-1", ms=10).count == 2


def test_a_second_experiment_on_an_actor_takes_the_first_one_s_place(world):
    world.begin("slow", ms=100)
    world.begin("pause", for_ms=300)
    world.loop.run_until_idle()  # the drain that was on its way
    world.tell(1, 2)
    world.pass_ms(1_100)

    assert world.heard == [(1, 300), (2, 300)]


def test_an_actor_that_ends_meanwhile_is_let_go(world):
    world.begin("pause")
    world.worker.kill(RuntimeError("gone"))
    world.pass_ms(1_100)

    assert not world.worker.is_alive()


# -- links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "is_cut"), [("both", (True, True)), ("to", (True, False)), ("from", (False, True))]
)
def test_a_cut_is_in_force_for_its_time(world, direction, is_cut):
    world.begin("cut", "host/broker-1", peer="host/broker-2", direction=direction)
    then = (world.faults.is_cut("broker-2", "to"), world.faults.is_cut("broker-2", "from"))
    world.pass_ms(1_001)

    assert then == is_cut
    assert world.faults.are_none


def test_a_delay_is_in_force_for_its_time(world):
    world.begin("delay", "broker-1", peer="broker-2", ms=50)
    then = world.faults.delay_ms("broker-2", "to")
    world.pass_ms(1_001)

    assert then == 50
    assert world.faults.are_none


def test_a_longer_cut_is_not_ended_by_the_first_one_s_timer(world):
    world.begin("cut", "broker-1", peer="broker-2", for_ms=100)
    world.begin("cut", "broker-1", peer="broker-2", for_ms=500)
    world.pass_ms(200)

    assert world.faults.is_cut("broker-2", "to")


# -- what is told --------------------------------------------------------------------------------------


def test_beginning_and_end_are_events(world, caplog):
    with caplog.at_level(logging.INFO, "callboard"):
        world.begin("pause", for_ms=100)
        world.pass_ms(101)
        world.ask(KillRequest(address="broker-1/partitions/orders-0"))

    said = [record.getMessage() for record in caplog.records if "experiment." in record.getMessage()]
    assert said == [
        "experiment.begun what=pause address=broker-1/partitions/orders-0 for_ms=100 actors=1",
        "experiment.ended what=pause address=broker-1/partitions/orders-0 target=broker-1/partitions/orders-0 why=over",
        "experiment.begun what=kill address=broker-1/partitions/orders-0 how=raise",
    ]


def test_a_process_that_keeps_no_timeline_says_so(world):
    assert world.ask(EventsRequest()).ring == ""


def test_an_actor_cannot_be_kept_down(world):
    reply = world.ask(KillRequest(address="broker-1/partitions/orders-0", for_ms=100))

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert "paused" in reply.detail
