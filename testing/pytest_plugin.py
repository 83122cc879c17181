"""For somebody's pytest: the fixture ``callboard_cluster``, a real cluster for one test.

    def test_orders_survive(callboard_cluster):
        callboard_cluster.create_topic("orders")
        …

    @pytest.mark.callboard(brokers=1, options=("--config", "cluster.toml"))
    def test_alone(callboard_cluster): …

Found by its entry point (``pytest11``) where Callboard is installed. Nothing but pytest is imported until a test asks
for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .clusters import RunningCluster

BROKERS = 3


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "callboard(brokers=3, options=()): how the fixture callboard_cluster is to be")


@pytest.fixture
def callboard_cluster(request: pytest.FixtureRequest) -> Iterator[RunningCluster]:
    """A cluster of this test's own: real processes, free ports, nothing left behind."""
    from .clusters import cluster

    mark = request.node.get_closest_marker("callboard")
    wanted = dict(mark.kwargs) if mark is not None else {}
    with cluster(wanted.pop("brokers", BROKERS), **wanted) as running:
        yield running
