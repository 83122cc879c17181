"""The ZeroMQ transport: a ROUTER a server (``router``), a DEALER a connection, all on one loop and in one context."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq

from ..config import Limits
from ..errors import ForkedClientError, IllegalStateError
from . import sockets
from .addresses import parse_address
from .dealer import DealerWire
from .loop import Clock, Loop
from .peers import PeerConnection
from .seam import ConnectOptions, OnRequests, OnState, ServerIdentity
from .software import SOFTWARE
from .wire import OpenWire

if TYPE_CHECKING:
    from .faults import Faults
    from .router import Routers, RouterServer


class ZmqTransport:
    """A ``Transport`` on ZeroMQ. One a process and loop; a forked child must make its own (``is_forked``)."""

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        *,
        options: sockets.SocketOptions = sockets.DEFAULTS,
        rng: random.Random | None = None,
        faults: Faults | None = None,
    ) -> None:
        """``faults``: what its connections are to suffer; None: they cannot (``transport.faults``)."""
        self._loop, self._clock = loop, clock
        self._options = options
        self._faults = faults
        self._rng = rng or random.Random()
        self._pid = os.getpid()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._routers: Routers | None = None
        self._connections: set[PeerConnection] = set()
        self._is_open = True

    @property
    def is_forked(self) -> bool:
        """Whether this process is not the one that made it: then nothing here may be used, nor closed."""
        return os.getpid() != self._pid

    def serve(
        self,
        binds: Sequence[str],
        union: Any,
        on_requests: OnRequests,
        *,
        identity: ServerIdentity,
        limits: Limits | None = None,
        insecure: bool = False,
    ) -> RouterServer:
        self._refuse_use()
        if self._routers is None:
            from .router import Routers  # a third of this package, and a client never serves

            self._routers = Routers(self._loop, self._clock, self._context, self._options)
        return self._routers.serve(
            binds, union, on_requests, identity=identity, limits=limits or Limits(), insecure=insecure
        )

    def connect(
        self, endpoint: str, *, client_id: str, on_state: OnState, options: ConnectOptions | None = None
    ) -> PeerConnection:
        self._refuse_use()
        open_wire: OpenWire = partial(DealerWire, self._loop, self._context, self._options)
        if self._faults is not None:
            from .faults import with_faults

            open_wire = with_faults(open_wire, self._faults, self._loop, self._clock)
        connection = PeerConnection(
            parse_address(endpoint).endpoint,
            client_id=client_id,
            software=SOFTWARE,
            on_state=on_state,
            options=options or ConnectOptions(),
            open_wire=open_wire,
            loop=self._loop,
            clock=self._clock,
            rng=self._rng,
            on_closed=self._connections.discard,
        )
        self._connections.add(connection)
        return connection

    def end_endless(self) -> None:
        """To be called while memory is scarce, again and again: ``endless`` says when a connection is ended."""
        if self._routers is not None:
            self._routers.end_endless()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self.is_forked:
            return  # the sockets are the parent's
        for connection in list(self._connections):
            connection.close()
        if self._routers is not None:
            self._routers.close()
        self._context.destroy(linger=0)

    def _refuse_use(self) -> None:
        if self.is_forked:
            raise ForkedClientError(f"made by process {self._pid}, which forked this one; make a new one here")
        if not self._is_open:
            raise IllegalStateError("the transport is closed")
