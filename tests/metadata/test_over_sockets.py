"""The metadata process over real sockets, a real file and a real event loop."""

import asyncio
import itertools
import random
import time

import pytest
import uvloop

from callboard.actors.context import Context, ThreadPool
from callboard.actors.controller.controller import ACTIVE, AdminCommand, Controller
from callboard.actors.metadata.client import MetadataChanged, MetadataClient
from callboard.actors.metadata.server import MetadataServer
from callboard.config import BrokerSettings, ClusterConfig
from callboard.storage.files import OsFiles
from callboard.storage.metadata_store import SqliteStore
from callboard.transport import messages as m
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock

DEADLINE_S = 20.0  # generous: a loaded machine is no bug


class Processes:
    """A metadata process and brokers' clients and controllers, each with its own sockets, on one real loop."""

    def __init__(self, loop, directory):
        self.loop, self.clock, self.directory = loop, SystemClock(), directory
        self.endpoint = f"ipc://{directory}/m.sock"
        self.closing = []
        self.ids = itertools.count(1)

    def context(self, name):
        pool, transport = ThreadPool(self.loop, 1, name), ZmqTransport(self.loop, self.clock)
        self.closing += [transport, pool]
        life = next(self.ids)
        ids = itertools.count(1)
        return Context(
            name=name,
            loop=self.loop,
            clock=self.clock,
            random=random.Random(1),
            new_id=lambda: f"{life:016x}{next(ids):016x}",
            transport=transport,
            files=OsFiles(),
            pool=pool,
        )

    def start_metadata(self):
        return MetadataServer.start(
            self.context("metadata"),
            "metadata",
            open_store=lambda: SqliteStore(f"{self.directory}/metadata.db"),
            binds=[self.endpoint, "tcp://127.0.0.1:0"],
            incarnation="m",
        )

    def start_broker(self, number, incarnation, told):
        context = self.context(f"broker-{number}")
        client = MetadataClient.start(
            context,
            f"broker-{number}/metadata",
            endpoint=self.endpoint,
            session_name=f"broker-{number}",
            incarnation=incarnation,
            document={
                "kind": "broker",
                "broker_id": number,
                "endpoints": [f"tcp://127.0.0.1:{number}"],
                "machine": "m",
            },
            settings=BrokerSettings(),
            subscribers=[told],
        )
        controller = Controller.start(
            context,
            f"broker-{number}/controller",
            config=ClusterConfig(),
            client_address=f"broker-{number}/metadata",
        )
        return client, controller

    def until(self, condition):
        limit = time.monotonic() + DEADLINE_S

        async def look():
            while not condition():
                assert time.monotonic() < limit, "it did not come to hold"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(look())

    def ask(self, controller, request):
        replies = []
        controller.post(AdminCommand(request, replies.append))
        self.until(lambda: replies)
        return replies[0]

    def close(self):
        for one in self.closing:
            one.close()
        self.loop.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def processes(request, tmp_path):
    running = Processes(uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop(), tmp_path)
    yield running
    running.close()


def test_a_topic_survives_the_metadata_process_and_leaders_follow_the_brokers(processes):
    first, told = processes.start_metadata(), []
    client, controller = processes.start_broker(1, "life 1", told.append)
    processes.until(lambda: controller.actor.role == ACTIVE)
    result = processes.ask(controller, m.CreateTopicsRequest(topics=[m.NewTopic(name="orders", num_partitions=3)]))
    assert result.topics[0].error == 0
    for ref in (controller, client, first):
        future = ref.stop()
        processes.until(lambda ref=ref: not ref.is_alive())
        assert future.get(timeout=0)

    second, told = processes.start_metadata(), []
    client, controller = processes.start_broker(1, "life 2", told.append)
    topic_id = result.topics[0].topic_id

    def leads_again():
        pictures = [one.image for one in told if isinstance(one, MetadataChanged)]
        topic = pictures[-1].topic(topic_id) if pictures else None
        return topic and all(pictures[-1].leader_of(one) == 1 for one in topic.partitions.values())

    processes.until(leads_again)
    assert controller.actor.controller_epoch == 2
    for ref in (controller, client, second):
        ref.stop()
        processes.until(lambda ref=ref: not ref.is_alive())


def test_the_end_of_a_session_moves_leaders_in_moments(processes):
    processes.start_metadata()
    told = []
    _, controller = processes.start_broker(1, "a", told.append)
    processes.until(lambda: controller.actor.role == ACTIVE)
    victim, _ = processes.start_broker(2, "b", lambda _: None)
    processes.until(lambda: len(told[-1].image.brokers) == 2)
    wish = m.NewTopic(name="orders", assignments={number: [2, 1] for number in range(50)})
    assert processes.ask(controller, m.CreateTopicsRequest(topics=[wish])).topics[0].error == 0
    host = processes.context("host").transport.connect(processes.endpoint, client_id="host", on_state=lambda _: None)
    processes.until(lambda: host.is_ready)
    victim.kill(RuntimeError("kill -9"))

    host.request(m.EndSessionRequest(name="broker-2", incarnation="b"), lambda *_: None)

    def has_moved():
        return all(partition.leader == 1 for _, partition in told[-1].image.partitions())

    processes.until(has_moved)
    assert {partition.isr for _, partition in told[-1].image.partitions()} == {(1,)}
