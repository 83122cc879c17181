"""What a broker asks of a controller elsewhere, on a link that was cut and heals."""

from dataclasses import replace

from callboard.actors.asking import ControllerLine
from callboard.actors.controller.image import ClusterImage
from callboard.actors.metadata.documents import LeaseDocument, SessionDocument
from callboard.errors import CallboardError
from callboard.testing.context import sim_context
from callboard.testing.transport import LoopbackTransport
from callboard.transport import messages as m
from callboard.transport.seam import ServerIdentity

DOOR = "tcp://127.0.0.1:7001"
ASKED_MS = 2_000


class Stage:
    def __init__(self):
        context = sim_context()
        self.loop = context.loop
        self.context = replace(context, transport=LoopbackTransport(context.loop, context.clock))
        identity = ServerIdentity(role="broker", name="broker-1", broker_id=1)
        self.arrived = []
        self.server = self.context.transport.serve([DOOR], m.PeerRequest, self.on_requests, identity=identity)
        self.answers = []
        self.line = ControllerLine(self.context, 2, "broker-2")
        session = SessionDocument(incarnation="life", broker_id=1, peer_endpoints=(DOOR,))
        self.image = replace(
            ClusterImage.empty(),
            sessions={"broker-1": session},
            brokers={1: session},
            lease=LeaseDocument(holder="broker-1", incarnation="life", controller_epoch=1),
        )

    def on_requests(self, inbound):
        for one in inbound:
            self.arrived.append(one.message.incarnation)
            self.server.reply(one.peer, m.AlterPartitionReply(id=one.message.id))

    def ask(self, question):
        request = m.AlterPartitionRequest(broker_id=2, incarnation=question, entries=[])
        self.line.ask(self.image, request, self.answers.append, ASKED_MS)


def test_a_question_from_before_a_link_healed_does_not_arrive_long_after():
    stage = Stage()
    stage.context.transport.cut(DOOR, is_silent=True)
    stage.ask("old")
    stage.loop.advance(900)
    stage.context.transport.heal(DOOR)
    stage.loop.advance(10_000)

    assert stage.arrived == []
    (answer,) = stage.answers
    assert isinstance(answer, CallboardError)


def test_a_second_after_a_link_has_healed_questions_are_answered_however_long_it_was_cut():
    for cut_ms in (50, 900, 5_100, 30_000):
        stage = Stage()
        stage.context.transport.cut(DOOR, is_silent=True)
        stage.ask("old")
        stage.loop.advance(cut_ms)
        stage.context.transport.heal(DOOR)
        stage.loop.advance(1_250)

        stage.ask("new")
        stage.loop.advance(10)

        assert stage.arrived[-1:] == ["new"], cut_ms


def test_the_first_question_waits_for_the_connection():
    stage = Stage()

    stage.ask("first")
    stage.loop.advance(10)

    assert stage.arrived == ["first"]
    assert isinstance(stage.answers[0], m.AlterPartitionReply)
