"""The rows of the fault matrix whose faults befall all brokers, a host, or what lies between hosts, as measurements.

Links between hosts are those of a proxy in this process (``hosts``): a cut is silence, new connections hear nothing,
and what had been sent arrives when it heals. What a host asks of brokers of *other* hosts passes their links, not its
own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .aims import Aim
from .clusters import RunningCluster, cluster, is_alive
from .fault_figures import MS, Outcome, back_to_normal_ms
from .fault_rows import LAG_S, Measured
from .fault_stage import Plan, Stage, finish, normal_ms
from .hosts import Host, joined_hosts
from .workload import KEPT_BYTES, Load, verdict

VICTIM = "b"  # leads some partitions; the metadata process is on "a"
SETTLED_S = 0.5  # before the end of a spell: what was sent until then has been answered
CUT_S = 4.0  # longer than a session (1.5 s) and than the lag time (3 s)
FLAPS, FLAP_MS = 8, 300
NARROW_BYTES_PER_S = 12_500  # 100 kbit a second
FILL_RECORD_BYTES = 64 << 10
FILL_RATE = 2_000

Hosts = Mapping[str, Host]


@dataclass(frozen=True)
class HostRow:
    """``measure`` starts what it needs, and may give several outcomes."""

    name: str
    what: str
    measure: Callable[[Plan], list[Outcome]]


# -- F12: all brokers at once ----------------------------------------------------------------------


def kill_all(plan: Plan) -> list[Outcome]:
    what = f"SIGKILL of all brokers, {plan.fill_bytes / (1 << 30):g} GiB in {plan.fill_partitions} partitions"
    outcome = Outcome("F12", what, (Aim("ready", "until every partition takes records again", 5_000.0),))
    with cluster(brokers=3) as running:
        running.create_topic("f12", partitions=plan.fill_partitions, replication_factor=3)
        filled = _fill(running, plan)
        with Stage(running, "f12", plan, partitions=plan.fill_partitions) as stage:
            stage.more_sends += filled.sends()
            for _ in range(plan.runs):
                stage.rest()
                outcome.runs.append({"ready": stage.writable_ms(range(plan.fill_partitions), partial(_kill, running))})
            finish(outcome, stage)
    return [outcome]


def _kill(running: RunningCluster) -> None:
    pids = [running.broker_pid(broker) for broker in range(1, running.brokers + 1)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _fill(running: RunningCluster, plan: Plan) -> Load:
    """Put so many bytes into the topic; each of its records is one of the history, too."""
    size = min(FILL_RECORD_BYTES, max(KEPT_BYTES, plan.fill_bytes // plan.fill_partitions))
    load = Load(
        running.bootstrap_servers,
        "f12",
        partitions=plan.fill_partitions,
        rate=FILL_RATE,
        record_bytes=size,
        name="filling",
        on_full="block",
    )
    try:
        while load.acknowledged * size < plan.fill_bytes:
            load.wait_for_progress(50)
    finally:
        load.stop()
    return load


# -- F29: the host supervisor ----------------------------------------------------------------------


def kill_host(plan: Plan) -> list[Outcome]:
    """After each kill another load takes over where the cluster is started again, at other ports."""
    outcome = Outcome(
        "F29",
        "SIGKILL of the host supervisor",
        (
            Aim("orphans", "until no process of it is left", 2_000.0),
            Aim("ready", "from its next start until all serve"),
        ),
    )
    with cluster(brokers=3) as running:
        running.create_topic("f29", partitions=plan.partitions, replication_factor=3)
        loads: list[Load] = []
        for number in range(plan.runs):
            load = _load(running, plan, number)
            loads.append(load)
            load.wait_for_progress(plan.rate)
            orphans_ms = _kill_supervisor(running)
            load.abandon()  # of what was under way nobody knows
            began_ns = time.monotonic_ns()
            running.start()
            outcome.runs.append({"orphans": orphans_ms, "ready": (time.monotonic_ns() - began_ns) / MS})
        last = _load(running, plan, plan.runs)
        try:
            last.wait_for_progress(plan.rate)
        finally:
            last.stop()
        others = [send for load in loads for send in load.sends()]
        outcome.anomalies += verdict(last, running.bootstrap_servers, partitions=plan.partitions, sends=others)
        outcome.errors += [str(error) for error in last.errors]
        outcome.acknowledged = sum(load.acknowledged for load in (*loads, last))
    return [outcome]


def _load(running: RunningCluster, plan: Plan, number: int) -> Load:
    return Load(running.bootstrap_servers, "f29", partitions=plan.partitions, rate=plan.rate, name=f"load {number}")


def _kill_supervisor(running: RunningCluster) -> float:
    pids, began_ns = running.pids(), time.monotonic_ns()
    running.kill()  # returns when all have ended
    took_ms = (time.monotonic_ns() - began_ns) / MS
    return took_ms if not any(map(is_alive, pids)) else float("inf")


# -- F19, F7: links between three hosts of one broker each -----------------------------------------


def cut_host(hosts: Hosts) -> Callable[[], None]:
    """Nobody reaches the leader's host, nor it the metadata process."""
    host = hosts[VICTIM]
    host.cut()
    return host.heal


def cut_one_way(hosts: Hosts) -> Callable[[], None]:
    """The leader's broker does not hear its followers; they, and everybody else, hear it."""
    link = hosts[VICTIM].links["peers-0"]
    link.cut("there")
    return partial(link.heal, "there")


def cut_metadata(hosts: Hosts) -> Callable[[], None]:
    """The leader's host and the metadata process hear nothing of each other."""
    link = hosts[VICTIM].links["metadata"]
    link.cut()
    return link.heal


def flap(hosts: Hosts) -> Callable[[], None]:
    """The leader's links to followers and to the metadata process come and go."""
    host = hosts[VICTIM]
    flapping = [host.links[name].flap(FLAPS, FLAP_MS, FLAP_MS) for name in ("peers-0", "metadata")]

    def wait() -> None:
        for each in flapping:
            each.result()

    return wait


def cut_all(hosts: Hosts) -> Callable[[], None]:
    """Every host is alone, and clients reach none."""
    for host in hosts.values():
        host.cut()

    def heal() -> None:
        for host in hosts.values():
            host.heal()

    return heal


CUTS: tuple[tuple[str, Callable[[Hosts], Callable[[], None]]], ...] = (
    (f"the leader's host is cut off for {CUT_S:.0f} s", cut_host),
    (f"the leader does not hear its followers for {CUT_S:.0f} s", cut_one_way),
    (f"the leader's host and the metadata process are cut for {CUT_S:.0f} s", cut_metadata),
    (f"the leader's links come and go, {FLAPS} times {FLAP_MS} ms", flap),
    (f"every host is alone for {CUT_S:.0f} s", cut_all),
)


def cut_links(plan: Plan) -> list[Outcome]:
    outcomes = []
    with joined_hosts({"a": 1, "b": 1, "c": 1}) as hosts:
        for number, (what, cut) in enumerate(CUTS):
            aims = (Aim("back", "from the heal until every partition takes records", 3_000.0),)
            outcome = Outcome("F19", what, aims)
            with Stage(hosts["a"].running, f"f19-{number}", plan, servers=_servers(hosts)) as stage:
                for _ in range(plan.runs):
                    stage.rest()
                    heal = cut(hosts)
                    if cut is not flap:
                        time.sleep(CUT_S)
                        back_ms = stage.writable_ms(range(stage.partitions), heal)
                    else:
                        heal()
                        back_ms = stage.writable_ms(range(stage.partitions), lambda: None)
                    outcome.runs.append({"back": back_ms})
                finish(outcome, stage)
            outcomes.append(outcome)
    return outcomes


def narrow_follower(plan: Plan) -> list[Outcome]:
    """What a follower fetches comes through 100 kbit a second: it falls behind, and is out after the lag time."""
    aims = (
        Aim("back", "until the p99 of writes is back to normal", 4_000.0),
        Aim("before", "the p99 of writes before"),
    )
    outcome = Outcome("F7", "a follower reads at 100 kbit a second for 7 s", aims)
    with joined_hosts({"a": 1, "b": 1, "c": 1}) as hosts:
        (leader,), (follower,) = hosts["b"].broker_ids, hosts["c"].broker_ids
        placed = [[leader, follower]] * plan.partitions  # nobody else reads through the leader's link
        with Stage(hosts["a"].running, "f7-narrow", plan, servers=_servers(hosts), assignments=placed) as stage:
            for _ in range(plan.runs):
                outcome.runs.append(_narrow(hosts["b"], stage))
            finish(outcome, stage)
    return [outcome]


def _narrow(host: Host, stage: Stage) -> Measured:
    before_ms, link = stage.rest(), host.links["peers-0"]
    since_ns = time.monotonic_ns()
    link.bandwidth(NARROW_BYTES_PER_S, "back")
    try:
        time.sleep(LAG_S)
        end_ns = time.monotonic_ns() - int(SETTLED_S * 1e9)
        sends = stage.sends(end_ns)
    finally:
        link.bandwidth(0, "back")
    return {"back": back_to_normal_ms(sends, since_ns, end_ns, normal_ms(before_ms)), "before": before_ms}


def _servers(hosts: Hosts) -> list[str]:
    """Return where clients begin: behind the links, as everything that they learn there."""
    return [f"127.0.0.1:{host.links['clients-0'].port}" for host in hosts.values()]


HOST_ROWS = (
    HostRow("F7", "a follower reads slowly", narrow_follower),
    HostRow("F12", "SIGKILL of all brokers", kill_all),
    HostRow("F19", "links between hosts are cut and heal", cut_links),
    HostRow("F29", "SIGKILL of the host supervisor", kill_host),
)
