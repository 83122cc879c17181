"""Two lanes of tests beside each other: what waits for real processes, and what only computes.

Half of the suite waits: for processes to begin, to die, to be missed. The other half is rules, logs, simulated
clusters: it computes and looks at no clock. `make test` runs both at once, in two processes of pytest (pytest-xdist):

- The first runs, one after the other, what real time matters to. The machine is its own as far as that is possible.
- The second runs only files that look at no clock (``COMPUTES``), and stands back where the first wants the processor:
  how slowly it goes shows nowhere, and it may take longer.
- Files that start processes and wait for what these say, however long it takes (``PATIENT``), come last in both: they
  are what evens out the lanes. Whoever is ready first helps: the first process takes the second's files, too, when it
  has nothing else left to do.

Whole files are given out, so a module's fixtures are made once. Without ``-n`` all runs in one process, in order.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

COMPUTES = (  # what takes longest comes first
    "tests/simulation/",
    "tests/storage/",
    "tests/cluster/test_compaction.py",
    "tests/cluster/test_damaged_replicas.py",
    "tests/cluster/test_directories.py",
    "tests/cluster/test_disk_full.py",
    "tests/cluster/test_large_commits.py",
    "tests/cluster/test_lost_sessions.py",
    "tests/cluster/test_retention.py",
    "tests/cluster/test_simulated_",
    "tests/cluster/test_slow_disk.py",
    "tests/fuzz/test_inputs.py",
    "tests/fuzz/test_shapes.py",
    "tests/groups/",
    "tests/partition/",
    "tests/controller/",
    "tests/metadata/test_store.py",
    "tests/replication/",
    "tests/actors/test_added_children.py",
    "tests/actors/test_supervisor.py",
    "tests/client/test_fencing.py",
    "tests/client/test_fetcher.py",
    "tests/client/test_membership.py",
    "tests/client/test_sender.py",
    "tests/client/test_two_fetches.py",
    "tests/metadata/test_sessions.py",
    "tests/test_house.py",
    "tests/testing/test_group_history.py",
    "tests/testing/test_history.py",
)
PATIENT = (
    "tests/cli/test_commands.py",
    "tests/cli/test_consume",
    "tests/cli/test_groups",
    "tests/cli/test_join.py",
    "tests/examples/",
)
FIRST = "gw0"  # xdist's name of the process that has the machine to itself
NICENESS = 5  # a third of the processor where others want all of it: slower, but not starved
TIMEOUT_S = 600.0  # for what stands back


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # xdist says nothing of its types
    """Gives the first process what looks at the clock, before anything else; the others never get such a file."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: Any) -> None:
        """Put the file that this process is to run at the head of the queue, and have it taken from there."""
        waits = [file for file in self.workqueue if not file.startswith(COMPUTES + PATIENT)]
        computes, patient = (
            [file for place in places for file in self.workqueue if file.startswith(place)]
            for places in (COMPUTES, PATIENT)
        )
        is_first = node is min(self.nodes, key=lambda each: int(each.gateway.id.removeprefix("gw")))
        files = waits + patient + computes if is_first else computes + patient
        if files:
            self.workqueue.move_to_end(files[0], last=False)
            super()._assign_work_unit(node)
        else:
            node.shutdown()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Stand back in any process of xdist's but the first; ``tmp_path`` is short in all, as unix sockets need it."""
    worker = getattr(config, "workerinput", {}).get("workerid")
    if worker is None:
        return
    config.option.basetemp = os.path.join(tempfile.gettempdir(), worker)
    if worker != FIRST:
        os.nice(NICENESS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give what may be slow its time, and refuse what needs real processes in a file that is said to compute only."""
    for item in items:
        if not item.nodeid.startswith(COMPUTES + PATIENT):
            continue
        if item.get_closest_marker("processes") and item.nodeid.startswith(COMPUTES):
            raise pytest.UsageError(f"{item.nodeid} starts processes: its file does not only compute (tests/lanes.py)")
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
