"""Groups over real sockets, said in raw messages: no client's rules are in between."""

from __future__ import annotations

import asyncio
import time

import pytest

from callboard.errors import CallboardError, ErrorCode
from callboard.testing.clusters import cluster
from callboard.transport import group_messages as said
from callboard.transport import messages as m
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock

from .grouped import RETRIED

DEADLINE_S = 30.0  # generous: a loaded machine is no bug
GROUP = "billing"


class Asker:
    """Asks brokers, by their number, and waits for each answer."""

    def __init__(self, servers):
        self.loop = asyncio.new_event_loop()
        self.transport = ZmqTransport(self.loop, SystemClock())
        self.endpoints = {number: f"tcp://{server}" for number, server in enumerate(servers, start=1)}
        self.connections = {}

    def close(self):
        self.transport.close()
        self.loop.close()

    def ask(self, broker, request, timeout_ms=5_000):
        """Return the reply, or the error that the connection tells."""
        connection = self.connections.get(broker)
        if connection is None:
            connection = self.connections[broker] = self.transport.connect(
                self.endpoints[broker], client_id=f"raw-{broker}", on_state=lambda _: None
            )
        answer = self.loop.create_future()
        connection.request(request, lambda reply, _: answer.set_result(reply), timeout_ms=timeout_ms)
        return self.loop.run_until_complete(answer)

    def until_answered(self, request, but_not=0):
        """Ask the coordinator, wherever it is, until it serves; return the reply and the broker."""
        limit = time.monotonic() + DEADLINE_S
        while time.monotonic() < limit:
            for broker in self.endpoints:
                found = self.ask(broker, said.FindCoordinatorsRequest(group_ids=[GROUP]))
                if isinstance(found, CallboardError) or found.coordinators[0].error:
                    continue
                coordinator = found.coordinators[0].broker_id
                reply = self.ask(coordinator, request)
                if not isinstance(reply, CallboardError) and reply.error not in RETRIED and coordinator != but_not:
                    return reply, coordinator
            self.loop.run_until_complete(asyncio.sleep(0.02))
        raise TimeoutError(f"nobody answered {request} within {DEADLINE_S} s")


@pytest.fixture
def running():
    with cluster(brokers=3) as running:
        yield running


def test_members_and_commits_outlive_the_coordinator_that_is_killed(running):
    running.create_topic("orders", partitions=4, replication_factor=3)
    asker = Asker(running.bootstrap_servers)
    try:
        topic_id = asker.ask(1, m.MetadataRequest(topics=["orders"])).topics[0].topic_id
        join = said.GroupHeartbeatRequest(group_id=GROUP, member_id="a", topics=["orders"], assignors=["sticky"])
        joined, first = asker.until_answered(join)
        assert [one.partitions for one in joined.assignment] == [[0, 1, 2, 3]]

        for offset in range(1, 21):
            entry = said.OffsetCommitEntry(topic="orders", topic_id=topic_id, partition=offset % 4, offset=offset)
            commit = said.OffsetCommitRequest(
                group_id=GROUP, member_id="a", member_epoch=joined.member_epoch, entries=[entry]
            )
            reply, broker = asker.until_answered(commit)
            assert (reply.error, reply.entries) == (0, [])
        running.kill_broker(broker)

        fetched, second = asker.until_answered(said.OffsetFetchRequest(group_id=GROUP), but_not=broker)
        assert {one.partition: one.offset for one in fetched.entries} == {0: 20, 1: 17, 2: 18, 3: 19}
        beat = said.GroupHeartbeatRequest(group_id=GROUP, member_id="a", member_epoch=joined.member_epoch)
        reply, _ = asker.until_answered(beat)
        assert (first, second != broker, reply.error) == (broker, True, 0)
        forged = m.ProduceRequest(entries=[m.ProduceEntry(topic_id="f" * 32, partition=0, frames=2)])
        assert asker.ask(second, forged).error == ErrorCode.INVALID_REQUEST, "it serves on"
    finally:
        asker.close()
