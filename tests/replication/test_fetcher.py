"""A broker's fetcher on a virtual loop; the test plays the leader's door."""

from __future__ import annotations

from dataclasses import replace

from callboard.actors.controller.image import ClusterImage
from callboard.actors.metadata.client import MetadataChanged, SessionLost, SessionOpened
from callboard.actors.metadata.documents import SessionDocument
from callboard.actors.partition.events import Durable, Fetched, FetcherBegan, Follow, Unfollow
from callboard.actors.replication.fetcher import LINGER_MS, RETRY_MS_MAX, Fetcher
from callboard.config import BrokerSettings, Limits
from callboard.errors import ErrorCode
from callboard.model import PartitionKey
from callboard.testing.context import sim_context
from callboard.testing.probe import probe
from callboard.testing.transport import LoopbackTransport
from callboard.transport import messages as m
from callboard.transport.seam import ServerIdentity

TOPIC = "a" * 32
A, B = (PartitionKey(TOPIC, number) for number in range(2))
DOOR = "tcp://127.0.0.1:7001"
LEADER = 1


class Stage:
    def __init__(self):
        context = sim_context()
        self.loop = context.loop
        self.context = replace(context, transport=LoopbackTransport(context.loop, context.clock))
        self.requests = []  # that the leader's door got and has not answered
        self.progress = []
        self.open()
        self.followers = {key: probe(self.context, f"broker-2/partitions/t-{key.partition}") for key in (A, B)}
        self.ref = Fetcher.start(
            self.context,
            "broker-2/replication",
            None,
            settings=BrokerSettings(),
            limits=Limits(),
            broker_id=2,
            broker_address="broker-2",
        )
        self.sessions()

    def open(self):
        identity = ServerIdentity(role="broker", name="broker-1", broker_id=LEADER)
        self.server = self.context.transport.serve([DOOR], m.PeerRequest, self.on_requests, identity=identity)

    def on_requests(self, inbound):
        for one in inbound:
            (self.progress if isinstance(one.message, m.ReplicaProgressRequest) else self.requests).append(one)

    def sessions(self, *, own="own-life-1", leader="leader-life-1"):
        documents = {
            "broker-1": SessionDocument(incarnation=leader, broker_id=LEADER, peer_endpoints=(DOOR,)),
            "broker-2": SessionDocument(incarnation=own, broker_id=2),
        }
        image = replace(
            ClusterImage.empty(),
            sessions=documents,
            brokers={session.broker_id: session for session in documents.values()},
        )
        return self.tell(SessionOpened("broker-2", own)).tell(MetadataChanged(image, None))

    def tell(self, message, *, for_ms=50):
        self.ref.post(message)
        return self.advance(for_ms)

    def advance(self, for_ms):
        self.loop.advance(for_ms)
        return self

    def follow(self, key, offset=0):
        return self.tell(self.a_follow(key, offset))

    def follow_both(self):
        self.ref.post(self.a_follow(A))
        return self.tell(self.a_follow(B))

    def a_follow(self, key, offset=0):
        entry = m.FetchEntry(
            topic_id=key.topic_id, partition=key.partition, leader_epoch=1, fetch_offset=offset, durable_offset=0
        )
        return Follow(key, LEADER, entry, self.followers[key].actor_ref)

    def reply(self, *keys, error=0):
        inbound = self.requests.pop(0)
        entries = [m.FetchEntryReply(topic_id=key.topic_id, partition=key.partition, frames=1) for key in keys]
        payload = [b"%d" % key.partition for key in keys]
        answer = m.ErrorReply(id=inbound.message.id, error=error, detail="why") if error else None
        self.server.reply(
            inbound.peer, answer or m.FetchReply(id=inbound.message.id, entries=entries), [] if error else payload
        )
        self.advance(1)
        return inbound.message

    def fetched(self, key):
        return [frames for fetched in self.followers[key].all_of(Fetched) for frames in fetched.frames]

    def asked(self):
        """(session, sequence, partitions) of the requests that wait at the leader."""
        return [
            (one.message.session, one.message.sequence, [entry.partition for entry in one.message.entries])
            for one in self.requests
        ]


def test_one_request_asks_for_all_that_begin_in_a_turn_and_each_gets_its_own_frames():
    stage = Stage()
    stage.follow_both()
    assert stage.asked() == [(1, 0, [0, 1])]

    stage.reply(B, A)

    assert (stage.fetched(A), stage.fetched(B)) == ([b"0"], [b"1"])


def test_the_next_request_waits_for_who_is_at_work_but_not_long():
    stage = Stage()
    stage.follow_both()
    stage.reply(A)
    assert stage.asked() == [], "A is at work on its answer"

    stage.advance(10)

    assert stage.asked() == [(1, 1, [])]
    stage.follow(A, 5)
    assert stage.asked() == [(1, 1, []), (1, 2, [0])]


def test_progress_goes_out_while_the_fetch_is_parked():
    stage = Stage().follow(A)

    stage.tell(Durable(A, 1, 7))

    (told,) = stage.progress
    assert told.message.replica_incarnation == "own-life-1"
    assert [(entry.partition, entry.durable_offset) for entry in told.message.entries] == [(0, 7)]


def test_after_a_lost_connection_everything_is_asked_anew():
    stage = Stage()
    stage.follow_both()

    stage.server.close()
    stage.advance(10)
    stage.requests.clear()
    stage.open()
    stage.advance(2_000)

    (again, *more) = stage.asked()
    assert again[1:] == (0, [0, 1])
    assert not more
    stage.reply(A)
    assert stage.fetched(A) == [b"0"]


def test_a_request_that_was_lost_on_a_link_is_asked_anew_within_a_second_after_it_has_healed():
    """Whenever within its time the link heals: what is sent into a cut must not be waited for behind it."""
    for cut_ms in range(2_050, 5_000, 225):
        stage = Stage().follow(A)
        stage.context.transport.cut(DOOR, is_silent=True)
        stage.requests.clear()
        stage.advance(cut_ms)

        stage.context.transport.heal(DOOR)
        stage.advance(1_250)

        assert [partitions for _, _, partitions in stage.asked()] == [[0]], cut_ms


def test_a_session_that_the_leader_forgot_begins_anew_at_once():
    stage = Stage().follow(A)

    stage.reply(error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)

    assert stage.asked() == [(2, 0, [0])]


def test_the_refusal_of_an_older_session_does_not_end_the_new_one():
    """The leader's router was restarted while two requests were under way: both are refused."""
    stage = Stage().follow(A).follow(B)
    assert stage.asked() == [(1, 0, [0]), (1, 1, [1])]

    stage.reply(error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    assert stage.asked() == [(1, 1, [1]), (2, 0, [0, 1])]
    stage.reply(error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    stage.advance(2)

    assert stage.asked() == [(2, 0, [0, 1])]
    stage.reply(A, B)
    assert (stage.fetched(A), stage.fetched(B)) == ([b"0"], [b"1"])


def test_a_leader_that_refuses_again_and_again_is_asked_less_often():
    stage = Stage().follow(A)
    waits = []
    for _ in range(8):
        stage.reply(error=ErrorCode.OVERLOADED)
        began = stage.context.clock.monotonic_ms()
        while not stage.requests:
            stage.advance(1)
        waits.append(stage.context.clock.monotonic_ms() - began)

    assert waits == sorted(waits)
    assert RETRY_MS_MAX - 2 <= waits[-1] <= RETRY_MS_MAX + 2


def test_in_another_life_of_this_broker_all_is_asked_anew():
    """What is parked goes on in the name of the life that has ended: the leader could never add it to the ISR."""
    stage = Stage()
    stage.follow_both()
    assert stage.requests[0].message.replica_incarnation == "own-life-1"

    stage.sessions(own="own-life-2")

    assert stage.asked()[-1] == (2, 0, [0, 1])
    assert stage.requests[-1].message.replica_incarnation == "own-life-2"


def test_the_session_of_an_earlier_life_that_still_stands_is_not_ours():
    stage = Stage()
    stage.tell(SessionLost("broker-2", "own-life-1", 0, ""))  # and the picture shows it as before

    stage.follow(A)

    assert stage.requests[-1].message.replica_incarnation == ""


def test_in_another_life_of_the_leader_the_line_is_another():
    stage = Stage().follow(A)
    first = stage.requests.pop(0)

    stage.sessions(leader="leader-life-2")

    (again,) = stage.requests
    assert again.peer != first.peer
    assert again.message.sequence == 0


def test_an_answer_to_who_follows_no_more_is_dropped_and_an_unused_line_is_closed():
    stage = Stage().follow(A)
    stage.tell(Unfollow(A))

    stage.reply(A)
    stage.advance(50)

    assert stage.fetched(A) == []
    stage.advance(LINGER_MS)
    assert stage.server.peers() == []
    stage.follow(A, 3)
    assert stage.requests[-1].message.entries[0].fetch_offset == 3


def test_a_partition_that_pauses_finds_its_line_as_it_was():
    """The only one there: a new connection in the middle of a failover would cost more than the pause."""
    stage = Stage().follow(A)
    (peer,) = stage.server.peers()
    for _ in range(3):
        stage.reply(A)
        stage.tell(Unfollow(A), for_ms=LINGER_MS - 100)
        stage.follow(A, 1)

    assert [one.peer for one in stage.server.peers()] == [peer.peer]
    assert {session for session, _, _ in stage.asked()} == {1}


def test_a_line_stays_for_who_is_long_at_work_on_an_answer():
    """A follower asks again behind a sync, which may take longer than a line lingers that nobody needs."""
    stage = Stage().follow(A)
    (peer,) = stage.server.peers()
    stage.reply(A)
    stage.advance(2 * LINGER_MS)

    stage.tell(Durable(A, 1, 1))
    stage.follow(A, 1)

    assert [one.peer for one in stage.server.peers()] == [peer.peer]
    assert stage.requests[-1].message.entries[0].fetch_offset == 1
    stage.reply(A)
    stage.advance(2 * LINGER_MS)
    stage.tell(Unfollow(A))
    assert stage.ref.is_alive(), "it knows of whom it has been told"


def test_a_restarted_fetcher_has_everybody_ask_again():
    stage = Stage()
    stage.ref.stop()
    stage.advance(10)

    Fetcher.start(
        stage.context,
        "broker-2/replication",
        None,
        settings=BrokerSettings(),
        limits=Limits(),
        broker_id=2,
        broker_address="broker-2",
    )
    stage.advance(10)

    for key in (A, B):
        assert stage.followers[key].all_of(FetcherBegan)[-1:] == [FetcherBegan()]
