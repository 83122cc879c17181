"""Faults of a real cluster, one by one by name, and a random mix of them: ``make soak MINUTES=…``.

Each fault is a function that breaks something and returns when the break is over (not when the cluster is whole again:
``make_whole`` waits for that). Numbers such as F4 are those of the fault matrix in docs/guarantees.md.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Mapping

from ..client.admin import AdminClient
from ..errors import CallboardError
from .clusters import RunningCluster, cluster
from .group_history import group_anomalies
from .group_load import GroupLoad
from .workload import Load, Reader, verdict

SILENCE_S = 2.5  # longer than the session of a silent broker lasts (1.5 s)
WHOLE_S = 60.0
CUT_S = 2.5
SESSION_MS = 30_000  # of the group's members: longer than any fault lasts

Fault = Callable[[RunningCluster, str], None]


def raise_in_leader(running: RunningCluster, topic: str) -> None:
    """F1, F2: the leader's actor fails, with records appended that nobody has been answered for."""
    _epoch_after(running, topic, lambda leader: running.kill_actor(f"broker-{leader}/partitions/{topic}-0"))


def hang_leader(running: RunningCluster, topic: str) -> None:
    """F3: the event loop of the leader's broker stands still."""
    _epoch_after(running, topic, lambda leader: running.hang_broker(leader, SILENCE_S))


def kill_leader(running: RunningCluster, topic: str) -> None:
    """F4: SIGKILL of the leader's process."""
    _epoch_after(running, topic, lambda leader: _killed(running, leader))


def kill_follower(running: RunningCluster, topic: str) -> None:
    """F5: SIGKILL of a follower's process."""
    _killed(running, _follower(running, topic))


def pause_leader(running: RunningCluster, topic: str) -> None:
    """F6: SIGSTOP of the leader's process; resumed it is deposed, whatever it still has in its queues."""
    _epoch_after(running, topic, lambda leader: _paused(running, leader))


def pause_follower(running: RunningCluster, topic: str) -> None:
    """F7: SIGSTOP of a follower's process."""
    _paused(running, _follower(running, topic))


def kill_controller(running: RunningCluster, _topic: str) -> None:
    """F8: SIGKILL of the active controller's process."""
    _killed(running, _controller(running))


def pause_controller(running: RunningCluster, _topic: str) -> None:
    """F9: SIGSTOP of the active controller's process, past its lease."""
    before = _controller(running)
    _paused(running, before)
    _wait(lambda: _controller(running) not in (-1, before), "another controller")


def kill_metadata(running: RunningCluster, _topic: str) -> None:
    """SIGKILL of the metadata process: brokers serve on with what they know."""
    before = _metadata_pid(running)
    os.kill(before, 9)
    _wait(lambda: _metadata_pid(running) not in (0, before), "the metadata process to be back")
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:

        def is_reached() -> bool:
            try:
                admin.experiments.end("metadata")  # of none: a new process has no experiments
            except CallboardError:
                return False
            return True

        _wait(is_reached, "the metadata process to be reached")  # else a cut that follows finds nobody


def kill_all(running: RunningCluster, _topic: str) -> None:
    """F12: SIGKILL of all brokers at once."""
    pids = {broker_id: running.kill_broker(broker_id) for broker_id in range(1, running.brokers + 1)}
    for broker_id, pid in pids.items():
        running.wait_for_new_pid(broker_id, pid)


def cut_leader_off(running: RunningCluster, topic: str) -> None:
    """F19: the leader's broker and the metadata process hear nothing of each other: it may not lead on."""
    _epoch_after(running, topic, lambda leader: running.cut(leader, "metadata", CUT_S))


def cut_followers(running: RunningCluster, topic: str) -> None:
    """F19: leader and one follower hear nothing of each other, one way only."""
    running.cut(_follower(running, topic), running.wait_for_leader(topic), CUT_S, one_way=True)
    time.sleep(CUT_S)


def flap(running: RunningCluster, topic: str) -> None:
    """F19: the link between leader and a follower comes and goes."""
    leader, follower = running.wait_for_leader(topic), _follower(running, topic)
    for _ in range(5):
        running.cut(leader, follower, 0.2)
        time.sleep(0.4)


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        raise_in_leader,
        hang_leader,
        kill_leader,
        kill_follower,
        pause_leader,
        pause_follower,
        kill_controller,
        pause_controller,
        kill_metadata,
        kill_all,
        cut_leader_off,
        cut_followers,
        flap,
    )
}


def make_whole(running: RunningCluster, topic: str) -> None:
    """Return when every partition of a topic has all its replicas in sync, and each of them knows who leads.

    A broker that is still cut off says what was before, of the others too, and reads on as the leader that it was: so
    the metadata of one broker are not enough. The replicas themselves have to be in one leader epoch.

    Raises:
        CallboardError: not within a minute.
    """
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:

        def is_whole() -> bool:
            described = admin.describe_topics([topic])[0]
            roles: dict[int, list[tuple[str, int]]] = {one.partition: [] for one in described.partitions}
            for replicas in admin.describe_replicas([topic]).values():
                for replica in replicas:
                    roles[replica.partition].append((replica.role, replica.leader_epoch))
            return all(
                set(one.isr) == set(one.replicas)
                and sorted(role for role, _ in roles[one.partition])
                == ["follower"] * (len(one.replicas) - 1) + ["leader"]
                and {epoch for _, epoch in roles[one.partition]} == {one.leader_epoch}
                for one in described.partitions
            )

        _wait(is_whole, f"all replicas of {topic} to be in sync and to agree on their leaders")


def soak(minutes: float, *, seed: int, partitions: int = 12, rate: int = 1_000) -> list[str]:
    """Break a cluster at random for so long, under load; return what was wrong at the end.

    A reader reads everything, and a group of two members reads and commits.
    """
    rng, until = random.Random(seed), time.monotonic() + minutes * 60
    with cluster(brokers=3) as running:
        servers = running.bootstrap_servers
        with AdminClient(bootstrap_servers=servers) as admin:
            admin.create_topics({"soak": {"num_partitions": partitions, "replication_factor": 3}})
        load = Load(servers, "soak", partitions=partitions, rate=rate)
        reader = Reader(servers, "soak", partitions=partitions)
        group = GroupLoad(servers, "soak", "soaked", members=2, session_timeout_ms=SESSION_MS, max_poll_records=500)
        try:
            group.wait_until_shared(partitions)
            while time.monotonic() < until:
                for name in rng.sample(sorted(FAULTS), rng.choice((0, 1, 1, 1, 2))):
                    print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                    FAULTS[name](running, "soak")
                make_whole(running, "soak")
                load.wait_for_progress(rate)
                group.wait_for_commits(10)
            group.stop()
            judged = verdict(load, servers, reader, partitions=partitions) + group_anomalies(group.history)
            found = [f"{one.name} {one.partition}: {one.detail}" for one in judged]
        finally:
            group.stop()
            load.stop()
            reader.stop()
    errors = [f"reached the application: {error}" for error in (*load.errors, *reader.errors, *group.errors)]
    print(
        f"{load.acknowledged} records and {group.acknowledged} commits acknowledged, "
        f"{len(found)} anomalies, {len(errors)} errors; "
        f"the group had {len(group.refused)} commits refused and lost partitions "
        f"{sum(how == 'lost' for member in group.members for how, _ in member.given_back)} times"
    )
    return found + errors


# -- inside ----------------------------------------------------------------------------------------


def _epoch_after(running: RunningCluster, topic: str, fault: Callable[[int], None]) -> None:
    """Break the leader of partition 0, and wait until it is led in another epoch.

    Who leads and since which epoch is read together: leadership that goes back to the preferred leader in between would
    have a follower broken, for which nobody is elected.
    """
    before = running.wait_for_led(topic)
    fault(before.leader)

    def is_led_anew() -> bool:
        now = running.partition(topic)
        return now.leader >= 0 and now.leader_epoch > before.leader_epoch

    _wait(is_led_anew, f"{topic}-0 to be led in another epoch than {before.leader_epoch}")


def _killed(running: RunningCluster, broker_id: int) -> None:
    running.wait_for_new_pid(broker_id, running.kill_broker(broker_id))


def _paused(running: RunningCluster, broker_id: int) -> None:
    running.pause_broker(broker_id, SILENCE_S)
    time.sleep(SILENCE_S)


def _metadata_pid(running: RunningCluster) -> int:
    return int(running.ready()["metadata"]["pid"])


def _follower(running: RunningCluster, topic: str) -> int:
    leader = running.wait_for_leader(topic)
    return next(broker_id for broker_id in running.partition(topic).replicas if broker_id != leader)


def _controller(running: RunningCluster) -> int:
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        return admin.describe_cluster().controller_id


def _wait(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WHOLE_S
    while not condition():
        if time.monotonic() > until:
            raise CallboardError(f"waited {WHOLE_S:.0f} s for {what}")
        time.sleep(0.02)


if __name__ == "__main__":
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    problems = soak(float(sys.argv[1]), seed=seed)
    print("\n".join(problems[:50]))
    sys.exit(1 if problems else 0)
