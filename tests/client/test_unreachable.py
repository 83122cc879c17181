"""Nobody can be reached: the log says so soon, with endpoint and stage, and what was asked is tried on all the same."""

from __future__ import annotations

import logging
import threading

import pytest

from callboard import AdminClient, ConnectionFailedError, Consumer, TopicPartition
from callboard.client import cluster as clusters


@pytest.fixture
def said(monkeypatch):
    """What is logged, as it comes; soon."""
    monkeypatch.setattr(clusters, "TELL_AFTER_MS", 20)
    monkeypatch.setattr(clusters, "TELL_LOST_AFTER_MS", 20)

    class Lines(logging.Handler):
        def __init__(self):
            super().__init__()
            self.lines, self.has_come = [], threading.Event()

        def emit(self, record):
            self.lines.append(record.getMessage())
            self.has_come.set()

    handler = Lines()
    logging.getLogger("callboard.client").addHandler(handler)
    yield handler
    logging.getLogger("callboard.client").removeHandler(handler)


def test_a_dead_endpoint_is_told_once_long_before_the_call_gives_up(said):
    admin = AdminClient(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=1_000)
    with admin, pytest.raises(ConnectionFailedError):
        admin.list_topics()

    (line,) = said.lines
    assert "no broker could be reached; tried tcp://127.0.0.1:1: connect: connection refused" in line
    assert line.startswith(admin.client_id)
    assert line.endswith("; trying on")


def test_a_call_that_gives_up_soon_is_all_that_is_said(said):
    with AdminClient(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=59) as admin:
        with pytest.raises(ConnectionFailedError):
            admin.list_topics()
        assert not said.has_come.wait(0.1)


def test_a_broker_that_comes_after_the_warning_is_found(cluster, said):
    for broker in (1, 2):
        cluster.stop_broker(broker)
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        assert said.has_come.wait(10)
        for broker in (1, 2):
            cluster.start_broker(broker)

        assert admin.list_topics() == []
    assert len(said.lines) == 1


def test_all_brokers_lost_is_told_while_a_consumer_waits(cluster, said):
    cluster.create("t")
    with Consumer(bootstrap_servers=cluster.bootstrap_servers) as consumer:
        consumer.assign([TopicPartition("t", 0)])
        consumer.seek_to_beginning()
        consumer.poll(timeout_ms=100)
        assert said.lines == []
        for broker in (1, 2):
            cluster.stop_broker(broker)

        assert said.has_come.wait(10)
        assert "no broker could be reached" in said.lines[0]


def test_a_client_that_reaches_a_broker_in_time_says_nothing(cluster, said, monkeypatch):
    monkeypatch.setattr(clusters, "TELL_AFTER_MS", 500)
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        admin.list_topics()

        assert not said.has_come.wait(0.7)
