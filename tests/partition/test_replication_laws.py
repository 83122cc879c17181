"""Whatever is late, comes twice or is lost, whoever crashes: what is committed is held by all who may be elected."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .replicas import LAG_MS
from .three import BROKERS, Cluster

broker = st.sampled_from(BROKERS)
place = st.integers(0, 1 << 16)


class Replication(RuleBasedStateMachine):
    @initialize(flush=st.sampled_from(["ack", "os"]))
    def begin(self, flush):
        self.cluster = Cluster(flush)

    @rule(count=st.integers(1, 3))
    def produce(self, count):
        for one in BROKERS:  # at everybody who believes to lead
            for _ in range(count):
                self.cluster.produce(one)

    @rule(broker=broker)
    def sync(self, broker):
        self.cluster.sync(broker)

    @precondition(lambda self: self.cluster.network)
    @rule(place=place, twice=st.booleans())
    def deliver(self, place, twice):
        self.cluster.deliver(place % len(self.cluster.network), twice=twice)

    @precondition(lambda self: self.cluster.network)
    @rule(count=st.integers(1, 12))
    def deliver_in_order(self, count):
        for _ in range(min(count, len(self.cluster.network))):
            self.cluster.deliver(0)

    @precondition(lambda self: self.cluster.network)
    @rule(place=place)
    def lose(self, place):
        del self.cluster.network[place % len(self.cluster.network)]

    @rule(broker=broker)
    def show(self, broker):
        self.cluster.show(broker)

    @rule(broker=broker, ms=st.sampled_from([10, LAG_MS // 2, LAG_MS + 1]))
    def look(self, broker, ms):
        self.cluster.now_ms += ms
        self.cluster.look(broker)

    @rule(broker=broker)
    def ask_again(self, broker):
        self.cluster.ask_again(broker)

    @rule(broker=broker, is_power=st.booleans(), kept=st.integers(0, 30), is_noticed=st.booleans())
    def crash(self, broker, is_power, kept, is_noticed):
        self.cluster.crash(broker, kept if is_power and self.cluster.flush == "ack" else None)
        if is_noticed:
            self.cluster.controller.end(broker)

    @rule(broker=broker)
    def notice(self, broker):
        """The controller ends a session: of a dead broker, or of one that was only slow, which opens another."""
        self.cluster.controller.end(broker)
        if self.cluster.replicas[broker].is_alive:
            self.cluster.crash(broker)

    @rule(broker=broker)
    def restart(self, broker):
        if not self.cluster.replicas[broker].is_alive:
            self.cluster.restart(broker)

    @rule()
    def move_leadership(self):
        self.cluster.controller.elect(besides=self.cluster.controller.leader)

    @invariant()
    def laws(self):
        if hasattr(self, "cluster"):
            self.cluster.check()

    def teardown(self):
        if hasattr(self, "cluster"):
            heal(self.cluster)


def heal(cluster):
    """When nothing is lost any more, all are soon in sync, equal, and acknowledge."""
    for broker in BROKERS:
        if not cluster.replicas[broker].is_alive:
            cluster.restart(broker)
    before = len(cluster.acknowledged)
    for turn in range(200):
        cluster.now_ms += LAG_MS // 3
        for broker in BROKERS:
            cluster.show(broker)
            cluster.sync(broker)
            cluster.look(broker)
            if turn % 10 == 0:
                cluster.ask_again(broker)  # as after a time-out: what was lost is asked for again
        for _ in range(len(cluster.network)):
            cluster.deliver(0)
        cluster.check()
        if cluster.controller.isr != set(BROKERS) or cluster.controller.leader not in BROKERS:
            continue
        if len(cluster.acknowledged) > before and len({tuple(one.log) for one in cluster.replicas.values()}) == 1:
            return
        cluster.produce(cluster.controller.leader)
    raise AssertionError(f"not in sync again: {cluster.controller.state}")


CHANCES = {
    "produce": 6,
    "sync": 12,
    "in_order": 60,
    "deliver": 8,
    "lose": 1,
    "show": 16,
    "look": 3,
    "ask": 10,
    "crash": 0.5,
    "restart": 4,
    "notice": 0.4,
    "move": 0.5,
}

TestReplication = Replication.TestCase
TestReplication.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("flush", ["ack", "os"])
@pytest.mark.parametrize("seed", range(30))
def test_the_laws_hold_over_long_runs_by_chance(seed, flush):
    chance, machine = random.Random(seed), Replication()
    machine.begin(flush)
    for _ in range(1_500):
        (step,) = chance.choices(list(CHANCES), CHANCES.values())
        one = chance.choice(BROKERS)
        network = machine.cluster.network
        if step in ("in_order", "deliver", "lose") and not network:
            continue
        match step:
            case "produce":
                machine.produce(chance.randint(1, 2))
            case "sync":
                machine.sync(one)
            case "in_order":
                machine.deliver_in_order(chance.randint(1, 6))
            case "deliver":
                machine.deliver(chance.randrange(1 << 16), chance.random() < 0.3)
            case "lose":
                machine.lose(chance.randrange(1 << 16))
            case "show":
                machine.show(one)
            case "look":
                machine.look(one, chance.choice([10, LAG_MS + 1]))
            case "ask":
                machine.ask_again(one)
            case "crash":
                machine.crash(one, chance.random() < 0.5, chance.randint(0, 200), chance.random() < 0.5)
            case "restart":
                machine.restart(one)
            case "notice":
                machine.notice(one)
            case "move":
                machine.move_leadership()
        machine.cluster.check()
    machine.teardown()
    assert len(machine.cluster.acknowledged) > 3, "it must have been about something"
