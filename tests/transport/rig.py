"""What the tests of real sockets share: a loop that is run until something holds, and a transport on it."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager

import msgspec
import uvloop

from callboard.config import Limits
from callboard.transport import messages
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.seam import ConnectOptions, ServerIdentity, Stage
from callboard.transport.selector_loop import SelectorLoop
from callboard.transport.sockets import SocketOptions

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop, "selector": SelectorLoop}
BROKER = ServerIdentity(role="broker", name="broker-1", cluster_id="c", broker_id=1, incarnation="i1")
QUICK = ConnectOptions(backoff_min_ms=5, backoff_max_ms=20)


def raise_it(error):
    raise error


class Rig:
    """One loop, one transport; closes what it made."""

    def __init__(self, kind="selector", options=SocketOptions()):  # noqa: B008 - frozen
        self.loop = SelectorLoop(on_failure=raise_it) if kind == "selector" else LOOPS[kind]()
        self.clock = SystemClock()
        self.transport = ZmqTransport(self.loop, self.clock, options=options)

    def close(self):
        self.transport.close()
        self.loop.close()

    def until(self, condition, timeout_s=60.0):
        """Run the loop until ``condition()`` holds."""
        limit = time.monotonic() + timeout_s

        def look():
            if condition() or time.monotonic() > limit:
                self.loop.stop()
            else:
                self.loop.call_later(0.001, look)

        self.loop.call_soon(look)
        (self.loop.run if isinstance(self.loop, SelectorLoop) else self.loop.run_forever)()
        assert condition(), f"did not come to hold within {timeout_s} s"

    def serve_echo(self, binds=("tcp://127.0.0.1:0",), **limits):
        """Serve requests of clients: every one is answered with its own payload, and kept in ``seen``."""
        seen = []

        def on_requests(batch):
            seen.extend(batch)
            for inbound in batch:
                reply = messages.ProduceReply(id=inbound.message.id, detail=type(inbound.message).__name__)
                server.reply(inbound.peer, reply, inbound.payload)

        server = self.transport.serve(
            list(binds), messages.ClientRequest, on_requests, identity=BROKER, limits=Limits(**limits)
        )
        return server, seen

    def connect(self, endpoint, options=QUICK, client_id="tester"):
        states = []
        connection = self.transport.connect(endpoint, client_id=client_id, on_state=states.append, options=options)
        return connection, states

    def ready(self, endpoint, **options):
        connection, states = self.connect(endpoint, **options)
        self.until(lambda: states and states[-1].stage is Stage.READY)
        return connection, states

    def ask(self, connection, message, payload=(), timeout_ms=5_000):
        """Return what the caller is told: (reply or error, payload)."""
        answers = []
        connection.request(message, lambda *answer: answers.append(answer), payload, timeout_ms)
        self.until(lambda: answers)
        assert len(answers) == 1
        return answers[0]


@contextmanager
def rig(kind="selector", **options):
    made = Rig(kind, SocketOptions(**options))
    try:
        yield made
    finally:
        made.close()


def produce(frames=2, **fields):
    """A sound produce request for as many payload frames."""
    return messages.ProduceRequest(entries=[messages.ProduceEntry(topic_id="t", partition=0, frames=frames)], **fields)


def copy(value, **fields):
    return msgspec.structs.replace(value, **fields)
