"""The one place where sockets are made, with every limit set.

ZeroMQ's defaults are made for trusted peers: frames of any size, handshakes of any length, 30 s to notice a
half-open connection, closing that waits for ever. Nothing else in the package calls ``Context.socket``.
(``ROUTER_MANDATORY`` and ``ROUTER_HANDOVER`` cannot be read back; tests judge them by what they do.)

A domain for ZAP is enforced on every bound socket: with ``ZAP_ENFORCE_DOMAIN`` a socket whose handler is
missing or dead refuses every connection, where ZeroMQ's default would let everybody in. The handler is
``admission.py``. (A DEALER has no domain: it would ask its own process whether the server may be talked to.)
"""

from __future__ import annotations

import contextlib
import itertools

import msgspec
import zmq

from ..config import MIB, Limits

ZAP_DOMAIN = b"callboard"
NEVER_MS = 10 * 86_400_000
_monitors = itertools.count(1)


class SocketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and time limits of sockets. Sizes in bytes, times in ms.

    The HWMs bound in *messages* what libzmq keeps for one peer, on top of the kernel's buffers. A ROUTER's are
    small, because its messages can be big: a peer that does not read must not pile up a thousand fetches (what
    does not fit waits in our own queue, which is bounded in bytes), nor one that floods a thousand batches.
    """

    maxmsgsize: int = Limits().request_bytes
    reply_bytes: int = 256 * MIB  # of one frame of a reply
    router_sndhwm: int = 100
    router_rcvhwm: int = 250
    dealer_sndhwm: int = 1_000
    dealer_rcvhwm: int = 1_000
    heartbeat_ivl: int = 1_000
    heartbeat_timeout: int = 3_000
    heartbeat_ttl: int = 6_000  # what we ask of the other side: longer than ours, it may be busier
    handshake_ivl: int = 1_000
    connect_timeout: int = 3_000
    backlog: int = 4_096  # the kernel makes it as many as net.core.somaxconn allows


DEFAULTS = SocketOptions()


def router(context: zmq.Context[zmq.Socket[bytes]], options: SocketOptions = DEFAULTS) -> zmq.Socket[bytes]:
    """Return a ROUTER that is to be bound."""
    socket = context.socket(zmq.ROUTER)
    _common(socket, options)
    socket.setsockopt(zmq.MAXMSGSIZE, options.maxmsgsize)
    socket.setsockopt(zmq.SNDHWM, options.router_sndhwm)
    socket.setsockopt(zmq.RCVHWM, options.router_rcvhwm)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # tell us that a peer is gone or full …
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # … and never give a peer's replies to another of the same name
    socket.setsockopt(zmq.BACKLOG, options.backlog)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    with contextlib.suppress(AttributeError, zmq.ZMQError):  # libzmq before 4.3.? has no such option
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return socket


def dealer(context: zmq.Context[zmq.Socket[bytes]], options: SocketOptions = DEFAULTS) -> zmq.Socket[bytes]:
    """Return a DEALER for one attempt to connect: it does not reconnect, its owner makes another.

    What has come before the connection's end can still be read: hence neither ``IMMEDIATE`` nor a ``RECONNECT_IVL``
    of -1, with which libzmq throws it away (replies of a server that closed right after them: a third was lost). So
    the owner sends only once the connection is up.
    """
    socket = context.socket(zmq.DEALER)
    _common(socket, options)
    socket.setsockopt(zmq.MAXMSGSIZE, options.reply_bytes)
    socket.setsockopt(zmq.SNDHWM, options.dealer_sndhwm)
    socket.setsockopt(zmq.RCVHWM, options.dealer_rcvhwm)
    socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, options.connect_timeout)
    return socket


def zap_handler(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Return the socket on which libzmq asks whether a peer may come in. Only libzmq itself talks to it."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def monitor_of(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """Return the socket on which libzmq tells what happens to the connections of another one.

    Without a bound: libzmq drops news that do not fit, and a connection whose end was dropped would stay in our
    books for ever. They are small, and there are a few for each connection.
    """
    endpoint = (
        f"inproc://monitor/{next(_monitors)}"  # not a descriptor's number: a closed socket's name lives on a little
    )
    listener: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
    listener.setsockopt(zmq.LINGER, 0)
    listener.setsockopt(zmq.RCVHWM, 0)
    try:
        socket.monitor(endpoint, events)
        listener.connect(endpoint)
    except zmq.ZMQError:  # too many open files
        listener.close()
        raise
    return listener


def _common(socket: zmq.Socket[bytes], options: SocketOptions) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, options.heartbeat_ivl)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, options.heartbeat_timeout)
    socket.setsockopt(zmq.HEARTBEAT_TTL, options.heartbeat_ttl)
    socket.setsockopt(zmq.HANDSHAKE_IVL, options.handshake_ivl)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.IPV6, 0)
