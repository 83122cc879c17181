"""A network between named processes that delays, loses, repeats, cuts and heals. Seeded.

It does to messages what TCP and ZeroMQ do, and nothing that they cannot:

- Within one connection order is kept. A link that is cut delivers nothing; what was sent waits (the kernel sends it
  again) and comes *late*, all of it, once the link is healed, unless an end has given the connection up meanwhile.
- An end that has heard nothing for ``silence_ms`` (ZeroMQ's heartbeats) gives the connection up: what was under way
  is lost silently. So it is when a connection is reset. What had left before may yet arrive, after its sender has
  connected anew and asked again: that is how a request is seen twice, or long after it was sent.
- A process that is paused accepts connections (its kernel does) and says nothing; on waking it finds all its mail.
- A process that was killed hangs up, one whose machine lost power does not.
- Single messages may be lost: a bounded queue that was full.

A link is one direction between two processes: ``("broker-1", "metadata")``. Cuts may hold in one direction only.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import IllegalStateError
from ..transport import codec
from ..transport.addresses import parse_address
from ..transport.loop import Loop
from ..transport.messages import ProduceReply
from ..transport.seam import Stage
from ..transport.wire import WireListener
from .loop import SimLoop
from .machine import ProcessLoop
from .transport import LoopbackNetwork, LoopbackServer

LinkName = tuple[str, str]
LATE_MS = 200  # TCP sends again what a healed link had swallowed: within so long
REPLAY_MS = 1_000  # how long copies of what a reset connection carried may linger


@dataclass(frozen=True)
class LinkQuality:
    """How a link behaves when it is not cut."""

    delay_ms: float = 0.1  # at least …
    jitter_ms: float = 0.1  # … and, exponentially distributed, so much more on average
    loss: float = 0.0  # of each message: it never arrives
    reset: float = 0.0  # with each message: its connection ends
    replay: float = 0.5  # of a reset: what was under way arrives all the same, late


class SimNetwork(LoopbackNetwork):
    """See the top of the file. ``quality`` holds for all links but those in ``qualities``."""

    def __init__(self, loop: SimLoop, seed: int | str = 0, *, silence_ms: float = 3_500) -> None:
        super().__init__()
        self.loop = loop
        self.normal = LinkQuality()  # what ``heal_all`` goes back to
        self.quality = self.normal
        self.qualities: dict[LinkName, LinkQuality] = {}
        self.silence_ms = silence_ms
        self.on_acked: Callable[[LoopbackServer, ProduceReply], None] | None = None  # sees it as it is sent
        self.lost = self.resets = self.delivered = 0
        self._chance = random.Random(f"network/{seed}")
        self._silent: dict[LinkName, int] = {}  # cut links, and since which cut
        self._asleep: dict[str, int] = {}  # processes that say nothing, and since which silence
        self._silences = 0
        self._wires: dict[SimWire, None] = {}  # in order
        self._owners: dict[str, str] = {}  # of endpoints, also of those where nobody listens just now
        self._digest = hashlib.blake2b(digest_size=8)

    def open_wire(self, loop: Loop, owner: str, endpoint: str, listener: WireListener) -> SimWire:
        if not isinstance(loop, ProcessLoop):
            raise IllegalStateError("on this network a process has a ProcessLoop")
        wire = SimWire(self, loop, owner, endpoint, listener)
        self._wires[wire] = None
        return wire

    def bind(self, text: str, server: LoopbackServer) -> str:
        for endpoint, other in list(self._servers.items()):
            if isinstance(other.loop, ProcessLoop) and other.loop.is_dead:
                del self._servers[endpoint]  # its kernel has closed it
        endpoint = super().bind(text, server)
        self._owners[endpoint] = server.owner
        return endpoint

    def expect(self, endpoint: str, owner: str) -> None:
        """Say who will listen at an endpoint, for those who try to connect earlier."""
        self._owners[parse_address(endpoint).endpoint] = owner

    def owner_of(self, endpoint: str) -> str:
        """Return which process listens, or last listened, at an endpoint."""
        return self._owners.get(parse_address(endpoint).endpoint, endpoint)

    @property
    def digest(self) -> str:
        """What has been delivered so far, when, in which order: the same for two runs that were the same."""
        return self._digest.hexdigest()

    # -- what goes wrong -------------------------------------------------------------------------------

    def cut_link(self, source: str, target: str) -> None:
        """Nothing of what ``source`` sends arrives at ``target`` until ``heal_link``."""
        if (source, target) not in self._silent:
            self._silences += 1
            self._silent[source, target] = self._silences
            self.loop.call_later(self.silence_ms / 1000, self._give_up_if_silent, source, target, self._silences)

    def heal_link(self, source: str, target: str) -> None:
        if self._silent.pop((source, target), None) is not None:
            for wire in list(self._wires):
                wire.release(source, target)

    def heal_all(self) -> None:
        for source, target in list(self._silent):
            self.heal_link(source, target)
        self.qualities.clear()
        self.quality = self.normal

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._silent

    def fell_asleep(self, name: str) -> None:
        """A process was paused: it says nothing, and hangs up nowhere."""
        self._silences += 1
        self._asleep[name] = self._silences
        self.loop.call_later(self.silence_ms / 1000, self._give_up_on_sleeper, name, self._silences)

    def woke_up(self, name: str) -> None:
        self._asleep.pop(name, None)

    def hung_up(self, name: str) -> None:
        """A process was killed: its kernel closes all its connections."""
        for wire in list(self._wires):
            if name in (wire.client, wire.server_name):
                wire.end_of(name)

    def vanished(self, name: str) -> None:
        """The machine of a process has lost power: whoever is connected with it finds out by its silence."""
        for wire in list(self._wires):
            if name in (wire.client, wire.server_name):
                wire.vanish(name)
                self.loop.call_later(self.silence_ms / 1000, wire.end_of, name)

    def reset_link(self, client: str, server: str) -> None:
        """End every connection that ``client`` has with ``server``; what is under way is lost, or comes late."""
        for wire in list(self._wires):
            if (wire.client, wire.server_name) == (client, server):
                self.reset(wire)

    def reset(self, wire: SimWire) -> None:
        self.resets += 1
        wire.reset(
            self._chance, is_replayed=self._chance.random() < self.quality_of(wire.client, wire.server_name).replay
        )

    # -- what lanes ask --------------------------------------------------------------------------------

    def quality_of(self, source: str, target: str) -> LinkQuality:
        return self.qualities.get((source, target), self.quality)

    def delay_us_of(self, source: str, target: str) -> int:
        quality = self.quality_of(source, target)
        jitter_ms = quality.jitter_ms * self._chance.expovariate(1.0)
        return int((quality.delay_ms + jitter_ms) * 1000)

    def late_us(self) -> int:
        return self._chance.randint(1_000, LATE_MS * 1000)

    def loses(self, source: str, target: str) -> bool:
        quality = self.quality_of(source, target)
        if quality.loss and self._chance.random() < quality.loss:
            self.lost += 1
            return True
        return False

    def resets_now(self, source: str, target: str) -> bool:
        quality = self.quality_of(source, target)
        return bool(quality.reset) and self._chance.random() < quality.reset

    def note(self, source: str, target: str, frames: Sequence[bytes]) -> None:
        """Remember one delivery in the digest."""
        self.delivered += 1
        sizes = ",".join([str(len(frame)) for frame in frames])
        self._digest.update(f"{self.loop.now_us} {source}>{target} {sizes}\n".encode())
        for frame in frames[1:]:
            self._digest.update(frame)

    def sees_reply(self, server: LoopbackServer, frames: list[bytes]) -> None:
        if self.on_acked is not None and b'"produce.reply"' in frames[0]:
            reply = codec.decode_reply(frames[0])
            if isinstance(reply, ProduceReply):
                self.on_acked(server, reply)

    def gone(self, wire: SimWire) -> None:
        self._wires.pop(wire, None)

    def _give_up_if_silent(self, source: str, target: str, silence: int) -> None:
        if self._silent.get((source, target)) == silence:
            for wire in list(self._wires):
                wire.not_heard(source, target)
            self.loop.call_later(self.silence_ms / 1000, self._give_up_if_silent, source, target, silence)

    def _give_up_on_sleeper(self, name: str, silence: int) -> None:
        if self._asleep.get(name) == silence:
            for wire in list(self._wires):
                if wire.client == name:
                    wire.not_heard(name, wire.server_name)
                elif wire.server_name == name:
                    wire.not_heard(name, wire.client)


class _Lane:
    """One direction of one connection: first in, first out, whatever the loop does."""

    def __init__(self, network: SimNetwork, source: str, target: str) -> None:
        self.source, self.target = source, target
        self.loop: ProcessLoop | None = None  # of the receiver; None until it is known who that is
        self.is_closed = False  # nobody listens at the other end
        self._network = network
        self._travelling: deque[tuple[Callable[..., None], Sequence[bytes]]] = deque()
        self._stalled: deque[tuple[Callable[..., None], Sequence[bytes]]] = deque()  # behind a cut, in order
        self._arrived: deque[tuple[Callable[..., None], Sequence[bytes]]] = deque()
        self._last_us = 0  # when the last one arrives: nothing overtakes it

    def put(self, deliver: Callable[..., None], frames: Sequence[bytes] = (), *, extra_us: int = 0) -> None:
        self._travelling.append((deliver, frames))
        base = self._network.loop
        at_us = base.now_us + extra_us + self._network.delay_us_of(self.source, self.target)
        self._last_us = max(self._last_us, at_us)
        base.call_later((self._last_us - base.now_us) / 1e6, self._arrive)

    def release(self) -> None:
        """The link is healed: what waited behind the cut comes, a little later and in order."""
        stalled, self._stalled = self._stalled, deque()
        extra_us = self._network.late_us() if stalled else 0
        waiting, self._travelling = self._travelling, deque()  # they left after those that were stalled …
        for deliver, frames in stalled:
            self.put(deliver, frames, extra_us=extra_us)
        self._travelling.extend(waiting)  # … so they arrive behind them: each timer takes the first there is

    def cut_short(self, chance: random.Random) -> None:
        """Lose a part from the end of what is under way."""
        for queue in (self._travelling, self._stalled):
            keep = chance.randint(0, len(queue))
            for place in range(keep, len(queue)):
                queue[place] = (_nothing, ())

    def delay(self, by_us: int) -> None:
        """Whatever is put from now on arrives no earlier than that."""
        self._last_us = max(self._last_us, self._network.loop.now_us + by_us)

    def _arrive(self) -> None:
        item = self._travelling.popleft()
        if self._stalled or self._network.is_cut(self.source, self.target):
            self._stalled.append(item)
            return
        if self.loop is None:
            self._call(*item)  # at the kernel's: no process is involved
            return
        self._arrived.append(item)
        self.loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._call(*self._arrived.popleft())

    def _call(self, deliver: Callable[..., None], frames: Sequence[bytes]) -> None:
        if self.is_closed:
            return
        if frames:
            self._network.note(self.source, self.target, frames)
            deliver(frames)
        else:
            deliver()


class SimWire:
    """A ``Wire`` and the server's ``Link``: both ends of one connection."""

    def __init__(
        self, network: SimNetwork, loop: ProcessLoop, client: str, endpoint: str, listener: WireListener
    ) -> None:
        self.endpoint = endpoint
        self.peer = network.next_link()
        self.stage = Stage.CONNECT
        self.is_congested = False
        self.client = client
        self.server_name = network.owner_of(endpoint)
        self._network = network
        self._listener = listener
        self._server: LoopbackServer | None = None
        self._is_down = False  # the client's end is over
        self._is_over = False  # the server's end is
        self._there = _Lane(network, client, self.server_name)
        self._back = _Lane(network, self.server_name, client)
        self._back.loop = loop
        self._there.put(self._connect)

    # -- the client's end ------------------------------------------------------------------------------

    def send(self, frames: Sequence[bytes]) -> None:
        if self._is_down:
            return
        if self._network.resets_now(self.client, self.server_name):
            self._network.reset(self)
        elif not self._network.loses(self.client, self.server_name):
            self._there.put(self._on_request, [bytes(frame) for frame in frames])

    def close(self, *, is_graceful: bool) -> None:
        if not self._is_down:
            self._is_down = True
            self._back.is_closed = True
            self._there.put(self._closed_by_client)

    def _up(self) -> None:
        if not self._is_down:
            self.stage = Stage.HELLO
            self._listener.on_up()

    def _on_reply(self, frames: list[bytes]) -> None:
        if not self._is_down:
            self._listener.on_frames(frames)

    def _refused(self) -> None:
        self._go_down("connection refused", "is a broker running there?")

    def _lost(self) -> None:
        self._go_down("the peer closed it or died", "")

    def _silence(self) -> None:
        self._go_down("nothing was heard of it", "")
        self._there.put(self._closed_by_client)

    def _go_down(self, detail: str, advice: str) -> None:
        if self._is_down:
            return
        self._is_down = True
        self._back.is_closed = True
        self._listener.on_down(Stage.LOST if self.stage is Stage.HELLO else Stage.CONNECT, detail, advice)
        self._forget_if_over()

    # -- the server's end ------------------------------------------------------------------------------

    def deliver(self, frames: list[bytes]) -> None:
        server = self._server
        if server is not None:
            self._network.sees_reply(server, frames)
        if self._network.resets_now(self.server_name, self.client):
            self._network.reset(self)
        elif not self._network.loses(self.server_name, self.client):
            self._back.put(self._on_reply, frames)

    def end(self) -> None:
        self._is_over = True
        self._back.put(self._lost)

    def _connect(self) -> None:
        """The first packet is there; the kernel answers, whatever the process does."""
        server = self._network.server_at(self.endpoint)
        if server is None or not isinstance(server.loop, ProcessLoop) or server.loop.is_dead:
            self._is_over = True
            self._back.put(self._refused)
            return
        self._server = server
        self.server_name = self._there.target = self._back.source = server.owner  # a guess, if nobody had bound before
        self._there.loop = server.loop
        self._there.loop.call_soon(self._meet)

    def _meet(self) -> None:
        if self._server is not None and not self._is_over:
            self._server.meet(self)
            self._back.put(self._up)

    def _on_request(self, frames: list[bytes]) -> None:
        if self._server is not None and not self._is_over:
            self._server.on_frames(self, frames)

    def _closed_by_client(self) -> None:
        if not self._is_over:
            self._is_over = True
            if self._server is not None:
                self._server.forget(self.peer)
        self._forget_if_over()

    def _not_heard_by_server(self) -> None:
        if not self._is_over:
            self._closed_by_client()
            self._back.put(self._lost)

    # -- what the network does to it ---------------------------------------------------------------------

    def release(self, source: str, target: str) -> None:
        for lane in (self._there, self._back):
            if (lane.source, lane.target) == (source, target):
                lane.release()

    def not_heard(self, source: str, target: str) -> None:
        """``target`` has heard nothing of ``source`` for too long."""
        if (source, target) == (self.server_name, self.client) and self.stage is Stage.HELLO:
            if self._back.loop is not None:
                self._back.loop.call_soon(self._silence)
        elif (source, target) == (self.client, self.server_name) and self._there.loop is not None:
            self._there.loop.call_soon(self._not_heard_by_server)

    def vanish(self, name: str) -> None:
        """One of the two processes is no more; nobody hangs up for it."""
        if name == self.client:
            self._back.is_closed = True
        else:
            self._there.is_closed = True

    def end_of(self, name: str) -> None:
        """One of the two processes is no more, and its kernel (or silence) says so."""
        if name == self.client:
            self._is_down = True
            self._back.is_closed = True
            self._there.put(self._closed_by_client)
        else:
            self._is_over = True
            self._there.is_closed = True
            self._back.put(self._lost)
            self._forget_if_over()

    def reset(self, chance: random.Random, *, is_replayed: bool) -> None:
        """The connection breaks in the middle."""
        self._back.cut_short(chance)
        self._back.put(self._lost)
        if is_replayed:
            self._there.delay(chance.randint(1, REPLAY_MS * 1000))
        else:
            self._there.cut_short(chance)
        self._there.put(self._closed_by_client)

    def _forget_if_over(self) -> None:
        if self._is_down and self._is_over:
            self._network.gone(self)


def _nothing(*_: Any) -> None:
    """What is delivered of a message that was lost on the way."""
