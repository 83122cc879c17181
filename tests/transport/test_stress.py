"""Many short exchanges: a wake-up that is lost once in thousands shows as an exchange that never ends.

``EXCHANGES=100000 pytest -m long tests/transport/test_stress.py``, best on one core with something else running there.
"""

import asyncio
import itertools
import os
import threading
import time

import pytest
import uvloop

from callboard.client.latch import Latch
from callboard.transport import messages
from callboard.transport.descriptors import SelectorDescriptors
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.selector_loop import SelectorLoop
from callboard.transport.sockets import SocketOptions

from .rig import BROKER, QUICK, raise_it

pytestmark = pytest.mark.long

EXCHANGES = int(os.environ.get("EXCHANGES", "20000"))
STILL_S = 20  # without an exchange: then it hangs
LOOPS = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "selector": lambda: SelectorLoop(on_failure=raise_it),
    "portable": lambda: SelectorLoop(on_failure=raise_it, make_descriptors=SelectorDescriptors),
}
NARROW = SocketOptions(router_sndhwm=1, router_rcvhwm=1, dealer_sndhwm=1, dealer_rcvhwm=1)


class Running:
    """A loop in a thread of its own."""

    def __init__(self, kind):
        self.loop = LOOPS[kind]()
        run = self.loop.run if isinstance(self.loop, SelectorLoop) else self.loop.run_forever
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def do(self, call):
        """Run ``call`` on the loop, wait, and return its result."""
        results, latch = [], Latch()

        def work():
            try:
                results.append(call())
            finally:
                latch.set()

        self.loop.call_soon_threadsafe(work)
        assert latch.wait(60)
        return results[0]

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.loop.close()


class Exchanges:
    """A server and a client, each on its loop (perhaps the same), that exchange ``EXCHANGES`` messages."""

    def __init__(self, server_loop, client_loop, options, is_later):
        self.done = 0
        self.is_over = Latch()
        self._server_loop, self._client_loop = server_loop, client_loop
        self._here = ZmqTransport(server_loop, SystemClock(), options=options)
        self._there = ZmqTransport(client_loop, SystemClock(), options=options)
        self._is_later, self._numbers = is_later, itertools.count()
        self._left = EXCHANGES

    def serve(self):
        self._server = self._here.serve(
            ["tcp://127.0.0.1:0"], messages.ClientRequest, self._on_requests, identity=BROKER
        )
        return self._server.endpoints[0]

    def connect(self, endpoint):
        self._connection = self._there.connect(endpoint, client_id="", on_state=lambda _: None, options=QUICK)

    def ask(self):
        if self._left:
            self._left -= 1
            self._connection.request(messages.MetadataRequest(), self._on_reply, timeout_ms=600_000)

    def _on_requests(self, batch):
        for inbound in batch:
            reply = messages.MetadataReply(id=inbound.message.id)
            if self._is_later and next(self._numbers) % 3:  # outside the turn that has read it
                self._server_loop.call_soon(self._server.reply, inbound.peer, reply)
            else:
                self._server.reply(inbound.peer, reply)

    def _on_reply(self, reply, _):
        assert isinstance(reply, messages.MetadataReply), reply
        self.done += 1
        if self.done >= EXCHANGES:
            self.is_over.set()
        elif self.done % 2:
            self.ask()
        else:
            self._client_loop.call_soon(self.ask)

    def watch(self):
        """Wait until all are over; fail when there is no progress."""
        before = -1
        while not self.is_over.wait(STILL_S):
            assert self.done > before, f"hangs after {self.done:,} exchanges"
            before = self.done


@pytest.mark.parametrize("in_flight", [1, 3, 40])
@pytest.mark.parametrize("options", [SocketOptions(), NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("is_alone", [True, False], ids=["one loop", "two loops"])
@pytest.mark.parametrize("kind", LOOPS)
def test_no_exchange_hangs(kind, is_alone, options, in_flight):
    server = Running(kind)
    client = server if is_alone else Running("selector")
    it = server.do(lambda: Exchanges(server.loop, client.loop, options, is_later=True))
    try:
        endpoint = server.do(it.serve)
        client.do(lambda: it.connect(endpoint))
        for _ in range(in_flight):
            client.do(it.ask)
        it.watch()
    finally:
        client.do(it._there.close)
        server.do(it._here.close)
        server.end()
        if client is not server:
            client.end()


@pytest.mark.parametrize("kind", LOOPS)
def test_no_wake_up_from_another_thread_is_lost(kind):
    """Threads that hand something in and wait for its end, as ``send(…).get()`` does."""
    running, threads, counts = Running(kind), 4, []

    def work():
        for _ in range(EXCHANGES // threads):
            latch = Latch()
            running.loop.call_soon_threadsafe(running.loop.call_soon, latch.set)
            assert latch.wait(STILL_S), "a wake-up was lost"
        counts.append(1)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    running.end()
    assert len(counts) == threads


def test_timers_ring_in_time_while_others_hand_in_work():
    running, over, late = Running("selector"), threading.Event(), []

    def again(due):
        late.append(time.monotonic() - due)
        if len(late) < EXCHANGES // 20:
            running.loop.call_later(0.001, again, time.monotonic() + 0.001)
        else:
            over.set()

    running.loop.call_soon_threadsafe(again, time.monotonic())
    while not over.wait(0.0005):
        before = len(late)
        running.loop.call_soon_threadsafe(lambda: None)
        assert len(late) >= before
    running.end()
    assert min(late) > -0.002
