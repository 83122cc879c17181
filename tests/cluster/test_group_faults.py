"""Groups on real processes while those are killed and stopped: F10, F11 of the fault matrix, and who must not notice.

The verdict on commits and owners is the checker's (``callboard.testing.group_history``).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import pytest

from callboard.testing.clusters import cluster
from callboard.testing.group_history import group_anomalies
from callboard.testing.group_load import GroupLoad
from callboard.testing.group_member import MemberProcess
from callboard.testing.workload import Load

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

PARTITIONS = 4
DEADLINE_S = 60.0  # generous: a loaded machine is no bug
LATE_S = 3.0  # a takeover may be later than its session by so much on a machine that is busy; bench has the figures
SESSION_MS = 2_000
STORM = 60  # commits of every member, before, and again after


@pytest.fixture(scope="module")
def running():
    with cluster(brokers=3) as one:
        yield one


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s"
        time.sleep(0.01)


# -- F10 -------------------------------------------------------------------------------------------


def test_a_coordinator_killed_in_a_storm_of_commits_takes_no_offset_back_and_nobody_notices(running):
    running.create_topic("storm", partitions=PARTITIONS, replication_factor=3)
    with ExitStack() as stack:
        load = Load(running.bootstrap_servers, "storm", partitions=PARTITIONS, rate=1_500)
        stack.callback(load.stop)
        groups = []
        for name in ("bills", "mails", "audits"):
            group = GroupLoad(running.bootstrap_servers, "storm", name, members=2, session_timeout_ms=10_000)
            stack.callback(group.stop)
            groups.append(group)
        for group in groups:
            group.wait_until_shared(PARTITIONS)
        admin = running.admin()
        before = {group.group: group.owned for group in groups}
        for group in groups:
            for member in group.members:
                member.given_back.clear()  # of the time when they came together

        for group in groups:
            group.wait_for_commits(STORM)
            coordinator = admin.describe_groups([group.group])[group.group].coordinator
            old = running.kill_broker(coordinator)
            for each in groups:
                each.wait_for_commits(STORM)
            running.wait_for_new_pid(coordinator, old)

        assert {group.group: group.owned for group in groups} == before
        for group in groups:
            group.stop()
            assert group_anomalies(group.history) == []
            assert ([member.given_back for member in group.members], group.errors, group.refused) == ([[], []], [], [])
            assert group.history.reads
