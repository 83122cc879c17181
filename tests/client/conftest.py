"""A cluster of scripted brokers for a test; it ends with the test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_broker import FakeCluster, fake_cluster

from callboard import Consumer, DeliveryError, Producer


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Two brokers."""
    with fake_cluster(2) as running:
        yield running


@pytest.fixture
def consumer(cluster):
    """Return a maker of consumers without a group, of all there is; they are closed with the test."""
    made = []

    def make(*topics, **settings):
        given = {"bootstrap_servers": cluster.bootstrap_servers, "auto_offset_reset": "earliest", "retry_backoff_ms": 5}
        made.append(Consumer(*topics, **{**given, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def producer(cluster):
    """Return a maker of producers; they are closed with the test, and what is not delivered then is not told."""
    made = []

    def make(**settings):
        made.append(Producer(**{"bootstrap_servers": cluster.bootstrap_servers, "retry_backoff_ms": 5, **settings}))
        return made[-1]

    yield make
    for each in made:
        try:
            each.close(timeout=5)
        except DeliveryError:
            continue


@pytest.fixture
def member(cluster):
    """Return a maker of consumers in group "g"; they are closed with the test, and commit nothing then."""
    made = []

    def make(*topics, **settings):
        given = {
            "bootstrap_servers": cluster.bootstrap_servers,
            "group_id": "g",
            "auto_offset_reset": "earliest",
            "retry_backoff_ms": 5,
            "heartbeat_interval_ms": 100,
        }
        made.append(Consumer(*topics, **{**given, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close(autocommit=False)
