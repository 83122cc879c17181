"""The rows of the fault matrix whose faults befall one actor or one process, as measurements.

A row strikes as often as the plan says, each time a cluster that is whole, and returns what it has measured. What it
aims at stands beside it, and what each figure is counted from. Rows whose faults befall all brokers, links or hosts are
in ``fault_hosts``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..client.admin import AdminClient
from ..client.consumer import Consumer
from ..client.producer import Producer
from ..errors import CallboardError
from ..model import TopicPartition
from ..transport import messages as m
from .aims import Aim
from .clusters import RunningCluster
from .failover import percentile
from .fault_figures import back_to_normal_ms, under_way
from .fault_stage import TWICE, Stage, normal_ms
from .straggler import Straggler

SILENCE_S = 5.0  # of a process that is stopped: F6 asks for 5 to 30 s
HANG_S = 8.0  # longer than ``stall_ms``: the process ends itself meanwhile
IN_FORCE_S = 0.1  # from the answer to an experiment until it has begun: 20 ms, and a turn of the loop
AFTER_S = 1.0  # behind a fault, in which siblings may feel it
STALL_S = 3.0  # behind the death of a follower: twice what is aimed at
LAG_S = 7.0  # behind a follower's silence: the lag time (3 s), what is aimed at behind it, and a second to look at
CHASE = 5  # kills in a row
ACTIVE = "controller.active"
DEADLINE_MS = 1_000  # of each call of ``Callers``, and …
POLL_MS = 200  # … of their polls

Measured = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One row: ``strike`` is called with a stage that may be in any state, and returns one value for each aim's key."""

    name: str
    what: str
    aims: tuple[Aim, ...]
    strike: Callable[[Stage], Measured]
    partitions: int = 0  # 0: as the plan says
    rate: int = 0


# -- actors ----------------------------------------------------------------------------------------


def fail_leaders_actor(stage: Stage) -> Measured:
    before_ms = stage.rest()
    leader = stage.leader()
    since_ns = time.monotonic_ns()
    recovery_ms = stage.writable_ms([0], lambda: _fail(stage, leader))
    time.sleep(AFTER_S)
    siblings = stage.waits_ms(since_ns, since_ns + int(AFTER_S * 1e9), range(1, stage.partitions))
    during_ms = percentile(siblings, 0.99)
    times = during_ms / max(before_ms, 0.001)
    return {"recovery": recovery_ms, "siblings": during_ms, "before": before_ms, "times": times}


def fail_leaders_actor_under_way(stage: Stage) -> Measured:
    """F2: with many records appended that nobody has been answered for. Not whole before: as it comes."""
    stage.wait_for(stage.load.watch([0]))
    leader = stage.running.wait_for_leader(stage.topic)
    since_ns = time.monotonic_ns()
    stage.writable_ms([0], lambda: _fail(stage, leader))
    return {"under_way": float(under_way(stage.sends(since_ns), since_ns))}


def _fail(stage: Stage, broker: int) -> None:
    stage.running.kill_actor(f"broker-{broker}/partitions/{stage.topic}-0")


# -- F3 --------------------------------------------------------------------------------------------


def hang_leader(stage: Stage) -> Measured:
    return _stand_still(stage, lambda leader: stage.running.hang_broker(leader, HANG_S), whole_broker=True)


def hang_leaders_actor(stage: Stage) -> Measured:
    def pause(leader: int) -> None:
        stage.running.pause_actor(f"broker-{leader}/partitions/{stage.topic}-0", HANG_S)

    return _stand_still(stage, pause, whole_broker=False)


def _stand_still(stage: Stage, strike: Callable[[int], object], *, whole_broker: bool) -> Measured:
    """What is acknowledged before the order has come into force does not count as a failover."""
    stage.rest()
    leader = stage.leader()
    led = stage.led_by(leader) if whole_broker else [0]
    with callers(stage) as overdue:
        began_s = time.monotonic()
        strike(leader)
        time.sleep(IN_FORCE_S)
        stage.writable_ms(led, lambda: None)
        failover_ms = (time.monotonic() - began_s) * 1e3
        time.sleep(2 * DEADLINE_MS / 1_000)
    stage.running.heal(leader)
    return {"failover": failover_ms, "overdue": max(overdue)}


@contextmanager
def callers(stage: Stage) -> Iterator[list[float]]:
    """Make calls of all kinds with deadlines to the leader of partition 0 meanwhile.

    Yields:
        By how many ms each call ended behind its deadline (0: not at all); complete when the block has ended.
    """
    topic = f"{stage.topic}-called"
    if topic not in stage.admin.list_topics():
        (described,) = stage.admin.describe_topics([stage.topic])
        stage.admin.create_topics({topic: {"assignments": {0: list(described.partitions[0].replicas)}}})
    over, overdue = threading.Event(), [0.0]

    def called(deadline_ms: float, call: Callable[[], object]) -> None:
        began_s = time.monotonic()
        with suppress(CallboardError):  # refused in time is in time
            call()
        overdue.append(max(0.0, (time.monotonic() - began_s) * 1e3 - deadline_ms))

    def produce() -> None:
        producer: Producer[Any, Any] = Producer(
            bootstrap_servers=stage.servers, delivery_timeout_ms=DEADLINE_MS, request_timeout_ms=DEADLINE_MS
        )
        with suppress(CallboardError), producer:
            producer.send(topic, b"first", partition=0)
            while not over.wait(0.02):
                future = producer.send(topic, b"called", partition=0)
                called(DEADLINE_MS, partial(future.get, 10 * DEADLINE_MS))

    def poll() -> None:
        consumer: Consumer[Any, Any] = Consumer(bootstrap_servers=stage.servers, auto_offset_reset="earliest")
        with consumer:
            consumer.assign([TopicPartition(topic, 0)])
            while not over.is_set():
                called(POLL_MS, lambda: consumer.poll(timeout_ms=POLL_MS))

    def describe() -> None:
        with AdminClient(bootstrap_servers=stage.servers) as admin:
            while not over.wait(0.02):
                called(DEADLINE_MS, lambda: admin.describe_topics([topic], timeout_ms=DEADLINE_MS))

    threads = [threading.Thread(target=each, name=each.__name__) for each in (produce, poll, describe)]
    for thread in threads:
        thread.start()
    try:
        yield overdue
    finally:
        over.set()
        for thread in threads:
            thread.join()


# -- F4, F5 ----------------------------------------------------------------------------------------


def kill_leader(stage: Stage) -> Measured:
    stage.rest()
    leader = stage.leader()
    pid = stage.running.broker_pid(leader)
    was_controller = stage.controller() == leader
    failover_ms = stage.writable_ms(stage.led_by(leader), lambda: os.kill(pid, signal.SIGKILL))
    stage.running.wait_for_new_pid(leader, pid)
    return {"controller" if was_controller else "other": failover_ms}


def chase_leader(stage: Stage) -> Measured:
    """Kill whoever leads partition 0, and its successor the moment it leads, five times in a row."""
    stage.rest()
    longest_ms = 0.0
    for _ in range(CHASE):
        leader = stage.running.wait_for_leader(stage.topic)
        pid = stage.running.broker_pid(leader)

        def strike(leader: int = leader, pid: int = pid) -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            stage.running.wait_for_leader(stage.topic, other_than=leader)

        longest_ms = max(longest_ms, stage.writable_ms([0], strike))
    return {"failover": longest_ms}


def kill_follower(stage: Stage) -> Measured:
    stage.rest()
    follower = stage.follower()
    pid = stage.running.broker_pid(follower)
    since_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    time.sleep(STALL_S)
    stage.running.wait_for_new_pid(follower, pid)
    end_ns = since_ns + int(STALL_S * 1e9)
    return {"stall": stage.longest_wait_ms(since_ns, end_ns, stage.followed_by(follower))}


# -- F6, F7: silence -------------------------------------------------------------------------------


def pause_leader(stage: Stage) -> Measured:
    """What had come in while it was stopped is there when it goes on: some of it from a straggler."""
    stage.rest()
    leader = stage.leader()
    led = stage.as_led(leader)
    straggler = Straggler(stage.admin, leader)
    try:
        with stopped(stage.running, leader) as since_s:
            writable_ms = stage.writable_ms([one.partition for one in led], lambda: None)
            for acks in (m.ACKS_ALL, 1):
                straggler.produce(led, acks)
            straggler.fetch(led)
            time.sleep(max(0.0, since_s + SILENCE_S - time.monotonic()))
        straggler.wait()
    finally:
        straggler.close()
    stage.more_sends += straggler.sends()
    polled = stage.more_polls.setdefault(f"straggler {len(stage.more_polls)}", [])
    polled += straggler.polled(led)
    return {
        "writable": writable_ms,
        "acknowledged": float(straggler.acknowledged[m.ACKS_ALL]),
        "acknowledged_1": float(straggler.acknowledged[1]),
        "read": float(len(polled)),
    }


def pause_follower(stage: Stage) -> Measured:
    before_ms = stage.rest()
    follower = stage.follower()
    followed = stage.followed_by(follower)
    since_ns = time.monotonic_ns()
    with stopped(stage.running, follower):
        time.sleep(LAG_S)
        end_ns = time.monotonic_ns()
        sends = stage.sends(end_ns - int(0.5e9))
    back_ms = back_to_normal_ms(sends, since_ns, end_ns - int(0.5e9), normal_ms(before_ms), followed)
    return {"back": back_ms, "before": before_ms}


@contextmanager
def stopped(running: RunningCluster, broker: int) -> Iterator[float]:
    """SIGSTOP, and SIGCONT at the end of the block. Yields when (``time.monotonic``)."""
    pid = running.broker_pid(broker)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# -- F8, F9: the controller ------------------------------------------------------------------------


def kill_controller(stage: Stage) -> Measured:
    stage.rest()
    controller = stage.controller()
    pid = stage.running.broker_pid(controller)
    others = stage.followed_by(controller)
    stage.logs.skip()
    since_s, since_ns = time.time(), time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    time.sleep(STALL_S)
    stage.running.wait_for_new_pid(controller, pid)
    return {
        "controller": _controllers(stage, since_s)[0],
        "stall": stage.longest_wait_ms(since_ns, since_ns + int(STALL_S * 1e9), others),
    }


def pause_controller(stage: Stage) -> Measured:
    """Orders wait for it when it goes on: a topic, and what it believes of others. None may come of it."""
    stage.rest()
    controller = stage.controller()
    straggler = Straggler(stage.admin, controller)
    topic = f"{stage.topic}-ordered-{time.monotonic_ns()}"
    stage.logs.skip()
    since_s = time.time()
    try:
        with stopped(stage.running, controller):
            straggler.ask(m.CreateTopicsRequest(topics=[m.NewTopic(name=topic, num_partitions=1)]))
            time.sleep(SILENCE_S)
        straggler.wait()
    finally:
        straggler.close()
    time.sleep(AFTER_S)
    active_ms, changes = _controllers(stage, since_s)
    return {"controller": active_ms, "changes": float(changes + (topic in stage.admin.list_topics()))}


def _controllers(stage: Stage, since_s: float) -> tuple[float, int]:
    """Return how long until another controller was active, by the logs, and what an older one has changed after that.

    Raises:
        CallboardError: there was no other one.
    """
    events = stage.logs.events()
    active = [
        (int(values["controller_epoch"]), at_s) for at_s, _, name, values in events if name == "controller.active"
    ]
    if not active:
        raise CallboardError("no other controller has become active")
    epoch, active_s = min(active)
    changes = sum(
        name.startswith(("leader.", "isr.", "partitions.")) and int(values.get("controller_epoch", epoch)) < epoch
        for at_s, _, name, values in events
        if at_s > active_s
    )
    return (active_s - since_s) * 1e3, changes


ROWS = (
    Row(
        "F1",
        "the actor of a leader fails",
        (
            Aim("recovery", "until its partition takes records again", 300.0),
            Aim("times", "siblings' p99 in the second after, to before", 2.0, "x", of="median"),
            Aim("before", "siblings' p99 before"),
            Aim("siblings", "siblings' p99 in the second after"),
        ),
        fail_leaders_actor,
    ),
    Row(
        "F2",
        "… with records appended and not answered",
        (Aim("under_way", "records under way", unit=""), Aim(TWICE, "stored twice", 0.0, "")),
        fail_leaders_actor_under_way,
        partitions=1,
        rate=2_000,
    ),
    Row(
        "F3",
        "the event loop of the leader's broker stands still for 8 s",
        (
            Aim("failover", "until its partitions take records again", 3_000.0),
            Aim("overdue", "calls with deadlines: latest end behind one", 100.0),
        ),
        hang_leader,
    ),
    Row(
        "F3",
        "the actor of a leader handles nothing for 8 s",
        (
            Aim("failover", "until its partition takes records again", 3_000.0),
            Aim("overdue", "calls with deadlines: latest end behind one", 100.0),
        ),
        hang_leaders_actor,
    ),
    Row(
        "F4",
        "SIGKILL of a leader",
        (
            Aim("other", "until its partitions take records again", 400.0),
            Aim("controller", "… when it was the active controller, too", 800.0),
        ),
        kill_leader,
    ),
    Row(
        "F4",
        "SIGKILL of a leader and of each successor, 5 in a row",
        (Aim("failover", "until the partition takes records again, longest of 5"),),
        chase_leader,
    ),
    Row(
        "F5",
        "SIGKILL of a follower",
        (Aim("stall", "longest wait of a record", 1_500.0),),
        kill_follower,
    ),
    Row(
        "F6",
        "SIGSTOP of a leader for 5 s, then SIGCONT",
        (
            Aim("writable", "until its partitions take records again", 2_500.0),
            Aim("acknowledged", "records it acknowledged afterwards, acks=all", 0.0, ""),
            Aim("acknowledged_1", "… acks=1", 0.0, ""),
            Aim("read", "records it showed above what was committed", unit=""),
        ),
        pause_leader,
    ),
    Row(
        "F7",
        "SIGSTOP of a follower for 7 s",
        (Aim("back", "until the p99 of writes is back to normal", 4_000.0), Aim("before", "the p99 of writes before")),
        pause_follower,
    ),
    Row(
        "F8",
        "SIGKILL of the active controller",
        (
            Aim("controller", "until another one is active", 1_000.0),
            Aim("stall", "longest wait where another broker leads", 1_500.0),
        ),
        kill_controller,
    ),
    Row(
        "F9",
        "SIGSTOP of the active controller for 5 s, then SIGCONT",
        (
            Aim("controller", "until another one is active"),
            Aim("changes", "state changes by the old one afterwards", 0.0, ""),
        ),
        pause_controller,
    ),
)
