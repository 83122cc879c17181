"""What is said at each door of a cluster: by clients, between brokers, to the metadata process, to the host.

Mutations must be harmless, not powerless: whoever may talk at the inner doors may also end a session or kill an actor.
So what is recorded speaks for a broker of its own (``INTRUDER``), kills what does not exist, and elects for the
victim's topic: damage can then hit what is sound only by being wrongly believed.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypeVar

import msgspec
import zmq

from callboard import AdminClient
from callboard.testing.clusters import RunningCluster
from callboard.transport import codec
from callboard.transport import messages as m
from callboard.transport.addresses import machine_identity

from .live import VICTIM, handmade, real_traffic

INTRUDER, INTRUDER_ID = "intruder", 7_091
_lives = itertools.count()  # an incarnation that has ended never opens a session again, nor does its name elsewhere
INVENTED = "f00df00df00d4f00df00df00df00df00"  # the id of a topic that only the intruder speaks of

R = TypeVar("R", bound=m.Reply)


class Doors(NamedTuple):
    """Endpoints of one cluster of one broker, all of them tcp, and whose process is behind each."""

    clients: str
    peers: str
    metadata: str
    host: str
    pids: dict[str, int]


class Conversation:
    """Sound requests and their answers over a connection of its own; keeps what it has sent."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._ids = itertools.count(1)
        self.sent: list[list[bytes]] = []
        self.ask(m.Hello(client_id=INTRUDER), m.HelloReply)

    def ask(self, request: m.Request, kind: type[R]) -> R:
        """Send a request; return its answer, which is of ``kind``, refused or not."""
        number = next(self._ids)
        frames = [codec.encode(msgspec.structs.replace(request, id=number))]
        self.sent.append(frames)
        self._socket.send_multipart(frames)
        while self._socket.poll(30_000):
            reply = codec.decode_reply(self._socket.recv_multipart()[0])
            if reply.id == number:
                assert isinstance(reply, kind), reply
                return reply
        raise AssertionError(f"no answer to {request}")

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)


def doors_of(running: RunningCluster) -> Doors:
    """Find the inner doors as a broker of another host does: by the metadata process, and what it tells."""
    metadata = running.ready()["join"]
    documents = _documents(metadata)
    peers = documents["session/broker-1"]["peer_endpoints"][0]
    host = documents["session/host"]["endpoints"][0]
    pids = {"peers": running.broker_pid(1), "metadata": running.ready()["metadata"]["pid"], "host": running.pid}
    return Doors(f"tcp://{running.bootstrap_servers[0]}", peers, metadata, host, {"clients": pids["peers"], **pids})


def traffic_at(door: str, doors: Doors, running: RunningCluster) -> list[list[bytes]]:
    """Return the messages of a sound conversation at a door."""
    if door == "clients":
        return real_traffic(running.bootstrap_servers) + handmade()
    with AdminClient(bootstrap_servers=running.bootstrap_servers) as admin:
        if VICTIM not in admin.list_topics():
            admin.create_topics({VICTIM: {"num_partitions": 2}})
    documents = _documents(doors.metadata)
    with Conversation(getattr(doors, door)) as talk:
        {"peers": _between_brokers, "metadata": _of_a_broker_with_the_store, "host": _with_the_host}[door](
            talk, documents
        )
        return talk.sent


def _documents(metadata: str) -> dict[str, dict[str, object]]:
    with Conversation(metadata) as talk:
        snapshot = talk.ask(m.StoreLoadRequest(), m.StoreSnapshotReply)
    return {document.key: document.value for document in snapshot.documents}


def _with_the_host(talk: Conversation, _: dict) -> None:
    assert talk.ask(m.DescribeTreeRequest(), m.DescribeTreeReply).tree is not None
    assert talk.ask(m.DescribeProcessesRequest(), m.DescribeProcessesReply).processes
    for address in ("nowhere", "not/anything/at-all", "no-such-process/no-such-actor"):  # nor is any part of these
        for how in ("", "exit", "kill"):
            assert talk.ask(m.KillRequest(address=address, how=how), m.KillReply).error


def _between_brokers(talk: Conversation, documents: dict) -> None:
    (victim,) = (key[6:] for key, value in documents.items() if key[:6] == "topic/" and value["name"] == VICTIM)
    life = documents["session/broker-1"]["incarnation"]
    for offset, wait_ms in ((0, 0), (0, 20), (1 << 40, 0)):
        entries = [m.FetchEntry(topic_id=victim, partition=n, leader_epoch=-1, fetch_offset=offset) for n in (0, 1, 2)]
        talk.ask(m.FetchRequest(max_wait_ms=wait_ms, entries=entries), m.FetchReply)
        talk.ask(m.FetchRequest(replica_id=INTRUDER_ID, max_wait_ms=wait_ms, entries=entries), m.Reply)
    for broker_id, incarnation in ((1, life), (1, "another"), (INTRUDER_ID, INTRUDER)):
        talk.ask(
            m.ReelectRequest(
                broker_id=broker_id, incarnation=incarnation, topic_id=victim, partition=1, leader_epoch=0, reason="x"
            ),
            m.Reply,
        )
    talk.ask(m.CreateTopicsRequest(topics=[m.NewTopic(name="intruded", num_partitions=1)]), m.Reply)
    talk.ask(m.DescribeTreeRequest(), m.DescribeTreeReply)
    talk.ask(m.KillRequest(address="nowhere", how="raise"), m.KillReply)


def _of_a_broker_with_the_store(talk: Conversation, documents: dict) -> None:
    """A broker's life as ``actors/metadata/client.py`` leads it, and a controller's commits under the true epoch."""
    epoch = documents["lease"]["controller_epoch"]
    life = next(_lives)
    name, broker_id = f"{INTRUDER}-{life}", INTRUDER_ID + life
    document = {
        "kind": "broker",
        "broker_id": broker_id,
        "endpoints": ["tcp://127.0.0.1:1"],
        "peer_endpoints": ["tcp://127.0.0.1:1"],
        "machine": machine_identity(),
    }
    ours = {"name": name, "incarnation": "i1"}
    session = talk.ask(m.OpenSessionRequest(**ours, timeout_ms=600_000, document=document), m.SessionReply)
    assert not session.error, session
    talk.ask(m.HeartbeatRequest(**ours), m.SessionReply)
    assert talk.ask(m.CampaignRequest(**ours), m.LeaseReply).error, "the lease is held by the broker"
    talk.ask(m.RenewRequest(name=name, controller_epoch=epoch), m.LeaseReply)
    talk.ask(m.ResignRequest(name=name, controller_epoch=epoch), m.LeaseReply)
    topic = {"name": "invented", "partitions": 1, "configs": {"flush": "os"}}
    partition = {"replicas": [broker_id], "isr": [broker_id], "leader": -1}
    puts = [
        m.Put(key=f"topic/{INVENTED}", value=topic, if_version=0),
        m.Put(key=f"partition/{INVENTED}/0", value=partition, if_version=0),
    ]
    written = talk.ask(m.StoreCommitRequest(controller_epoch=epoch, puts=puts), m.StoreCommitReply)
    gone = [m.Put(key=put.key, value=None, if_version=written.version) for put in puts]
    talk.ask(m.StoreCommitRequest(controller_epoch=epoch, puts=gone), m.StoreCommitReply)
    talk.ask(m.StoreCommitRequest(controller_epoch=epoch + 7, puts=puts), m.StoreCommitReply)
    watch = m.StoreWatchRequest(store_incarnation=session.store_incarnation, after_version=0, max_wait_ms=5)
    talk.ask(watch, m.Reply)
    talk.ask(msgspec.structs.replace(watch, after_version=1 << 40), m.Reply)
    talk.ask(m.AllocateProducerIdsRequest(count=10), m.AllocateProducerIdsReply)
    talk.ask(m.EndSessionRequest(**ours, reason="it goes"), m.SessionReply)
    talk.ask(m.OpenSessionRequest(name=name, incarnation="i2", document=document), m.SessionReply)
    talk.ask(m.DescribeTreeRequest(), m.DescribeTreeReply)
    talk.ask(m.KillRequest(address="nowhere"), m.KillReply)
