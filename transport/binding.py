"""Binding: each endpoint checked before, named in one line when it fails, and cleaned up after.

libzmq removes a unix socket's file before it binds, in use or not: two servers on one path, and the first is
cut off without a word. So a file that somebody still listens on is refused here; one that nobody answers on is
what a killed process left, and goes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as sockets_of_the_os
from collections.abc import Sequence
from typing import NamedTuple

import zmq

from ..errors import ConfigurationError
from .addresses import Address, is_socket, parse_address

_SPECIAL = {"localhost": "127.0.0.1", "*": "0.0.0.0"}


class Bound(NamedTuple):
    """One endpoint that is bound. ``inode`` of the socket file, so that another's is never removed."""

    endpoint: str
    path: str = ""
    inode: int = 0

    def unbind(self, socket: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.ZMQError):
            socket.unbind(self.endpoint)

    def remove_file(self) -> None:
        with contextlib.suppress(OSError):
            if self.path and os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)


def bind_all(socket: zmq.Socket[bytes], binds: Sequence[str], *, is_loopback_only: bool) -> tuple[Bound, ...]:
    """Bind a socket to every endpoint; the result names real ports.

    Raises:
        ConfigurationError: one cannot be bound. What was bound before stays bound until the socket is closed.
    """
    bound: list[Bound] = []
    try:
        for text in binds:
            bound.append(_bind(socket, parse_address(text, what="bind"), is_loopback_only=is_loopback_only))
    except ConfigurationError:
        for item in bound:
            item.unbind(socket)
            item.remove_file()
        raise
    return tuple(bound)


def _bind(socket: zmq.Socket[bytes], address: Address, *, is_loopback_only: bool) -> Bound:
    address = _resolved(address)
    if is_loopback_only and not address.is_loopback:
        raise ConfigurationError(
            f"{address.endpoint} can be reached from other machines and nothing is encrypted: "
            "bind 127.0.0.1, or say --insecure if the network is trusted"
        )
    if address.scheme == "ipc":
        return _bind_ipc(socket, address)
    socket.setsockopt(zmq.IPV6, int(":" in address.host))
    try:
        socket.bind(address.endpoint.removesuffix(":0") + ":*" if address.port == 0 else address.endpoint)
    except zmq.ZMQError as error:
        raise ConfigurationError(f"{address.endpoint} {_why(error)}") from None
    return Bound(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())  # type: ignore[union-attr]


def _resolved(address: Address) -> Address:
    """libzmq takes addresses and names of interfaces; people write names of hosts. Blocks; only at start."""
    if address.is_numeric:
        return address
    if address.host in _SPECIAL:
        return address._replace(host=_SPECIAL[address.host])
    try:
        found = sockets_of_the_os.getaddrinfo(address.host, None, type=sockets_of_the_os.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"{address.endpoint}: {address.host!r} is no address of this machine: {why}") from None
    return address._replace(host=str(min(found, key=lambda info: info[0] != sockets_of_the_os.AF_INET)[4][0]))


def _bind_ipc(socket: zmq.Socket[bytes], address: Address) -> Bound:
    path = address.path
    if os.path.lexists(path) and not is_socket(path):
        raise ConfigurationError(f"{address.endpoint}: a file that is no socket is there; it is left alone")
    if _is_answered(path):
        raise ConfigurationError(f"{address.endpoint} is in use by another process")
    try:
        socket.bind(address.endpoint)
        os.chmod(path, 0o600)
        return Bound(address.endpoint, path, os.stat(path).st_ino)
    except zmq.ZMQError as error:
        raise ConfigurationError(f"{address.endpoint} {_why(error)}") from None
    except OSError as error:
        raise ConfigurationError(f"{address.endpoint}: {error.strerror or error}") from None


def _is_answered(path: str) -> bool:
    """Say whether somebody listens on a unix socket."""
    if not is_socket(path):
        return False
    with sockets_of_the_os.socket(sockets_of_the_os.AF_UNIX) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # a full backlog, no permission: somebody is there
    return True


def _why(error: zmq.ZMQError) -> str:
    reasons = {
        zmq.EADDRINUSE: "is in use by another process; choose another port, or 0 for any free one",
        zmq.EADDRNOTAVAIL: "is not an address of this machine",
        errno.ENODEV: "is not an address of this machine",
        errno.EACCES: "may not be bound by this user; ports below 1024 are reserved",
        errno.ENOENT: "cannot be bound: its directory does not exist",
    }
    return reasons.get(error.errno or 0, f"cannot be bound: {error.strerror}")
