"""Endpoints as text: ``HOST:PORT``, ``tcp://HOST:PORT``, ``ipc:///PATH``; and which one to take.

An endpoint's canonical form has a scheme. An IPv6 host stands in brackets. A machine is told apart by an
opaque string: two processes with the same one share a kernel and, mostly, a file system, so they may use ipc
(half the latency of tcp) when the socket's file is there.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import ConfigurationError

DEFAULT_PORT = 9_192
IPC_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path is 108 with its zero (104 on macOS, see ``ipc_path_bytes_max``)

MACHINE_VARIABLE = "CALLBOARD_MACHINE"  # tells machines apart that look like one: see ``machine_identity``
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Address(NamedTuple):
    """One endpoint, taken apart. ``path`` only of ipc; ``host`` and ``port`` only of tcp."""

    scheme: str  # "tcp" or "ipc"
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def endpoint(self) -> str:
        if self.scheme == "ipc":
            return f"ipc://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """Say whether no name needs to be resolved."""
        return self.scheme == "ipc" or _ip(self.host) is not None

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can reach it. A name other than ``localhost`` counts as not."""
        if self.scheme == "ipc" or self.host == "localhost":
            return True
        ip = _ip(self.host)
        return ip is not None and ip.is_loopback


def parse_address(text: str, *, default_port: int = DEFAULT_PORT, what: str = "endpoint") -> Address:
    """Take an endpoint apart.

    Raises:
        ConfigurationError: it is not one; says what is wrong with it.
    """
    given = text.strip()
    scheme, separator, rest = given.partition("://")
    if not separator:
        scheme, rest = "tcp", given
    if scheme == "ipc":
        return _ipc(rest, given, what)
    if scheme != "tcp":
        raise ConfigurationError(
            f"{what} {given!r}: unknown scheme {scheme!r}; use HOST:PORT, tcp://HOST:PORT or ipc:///PATH"
        )
    return _tcp(rest, given, default_port, what)


def parse_addresses(given: str | Iterable[str], *, what: str = "bootstrap_servers") -> list[Address]:
    """Take ``"a:1,b:2"`` or a list of such apart; each address once, order kept.

    Raises:
        ConfigurationError: one of them is not an endpoint, or there is none.
    """
    texts = given.split(",") if isinstance(given, str) else [part for item in given for part in item.split(",")]
    found = dict.fromkeys(parse_address(text, what=what) for text in texts if text.strip())
    if not found:
        raise ConfigurationError(f"{what}: no endpoint given; for example '127.0.0.1:{DEFAULT_PORT}'")
    return list(found)


def choose_endpoint(endpoints: Sequence[str], machine: str, *, here: str | None = None) -> str:
    """Return the best of the endpoints that a peer on ``machine`` advertises: ipc when it is this machine and
    the socket's file is there, else the first tcp one.

    Raises:
        ConfigurationError: there is none that could be used from here.
    """
    addresses = [parse_address(endpoint) for endpoint in endpoints]
    if machine and machine == (machine_identity() if here is None else here):
        for address in addresses:
            if address.scheme == "ipc" and is_socket(address.path):
                return address.endpoint
    for address in addresses:
        if address.scheme == "tcp":
            return address.endpoint
    raise ConfigurationError(f"none of the endpoints {list(endpoints)} can be reached from this machine")


def boot_identity() -> str:
    """Return a string that is another after each boot of this machine; empty: this system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # not Linux
        import subprocess

    try:  # macOS
        asked = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine_identity() -> str:
    """Return a string that is the same for all processes under one running kernel, another after a reboot.

    Containers that share kernel and name, but shall not use each other's sockets, are told apart by what the
    environment variable ``CALLBOARD_MACHINE`` says in each.
    """
    import hashlib  # 2 ms that most processes never need

    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:  # not Linux
        import uuid

        boot = f"{uuid.getnode():012x}"
    told = f"/{machine}" if (machine := os.environ.get(MACHINE_VARIABLE)) else ""
    return hashlib.sha256(f"callboard/{boot}/{os.uname().nodename}{told}".encode()).hexdigest()[:16]


def is_host_name(text: str) -> bool:
    """Say whether a host may be called so: it begins addresses of actors, and must not look like a process's name."""
    return bool(_HOST_NAME.fullmatch(text)) and not text.startswith("broker-") and text != "metadata"


def is_socket(path: str) -> bool:
    """Say whether a unix socket's file is there (alive or not)."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def ipc_path_fits(path: str) -> bool:
    """Say whether a path is short enough for a unix socket."""
    return len(os.fsencode(path)) <= ipc_path_bytes_max()


def ipc_path_bytes_max() -> int:
    return IPC_PATH_BYTES_MAX if os.uname().sysname == "Linux" else 103


def _ipc(path: str, given: str, what: str) -> Address:
    if not path.startswith("/"):
        raise ConfigurationError(f"{what} {given!r}: an ipc endpoint needs an absolute path, as in ipc:///run/broker-1")
    if not ipc_path_fits(path):
        raise ConfigurationError(
            f"{what} {given!r}: the path of a unix socket has at most {ipc_path_bytes_max()} bytes; "
            "use a shorter directory"
        )
    return Address("ipc", path=path)


def _tcp(rest: str, given: str, default_port: int, what: str) -> Address:
    host, port_text = _split_port(rest)
    if not host or any(char in host for char in " /@[]"):
        raise ConfigurationError(f"{what} {given!r}: no host in it; use HOST:PORT, as in '127.0.0.1:{DEFAULT_PORT}'")
    if not port_text:
        return Address("tcp", host, default_port)
    if not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5 or int(port_text) > 65_535:
        raise ConfigurationError(f"{what} {given!r}: {port_text!r} is not a port; ports are 0 to 65535")
    return Address("tcp", host, int(port_text))


def _split_port(rest: str) -> tuple[str, str]:
    if rest.startswith("["):
        host, _, after = rest[1:].partition("]")
        return host, after.removeprefix(":")
    if rest.count(":") > 1:  # a bare IPv6 address, without a port
        return rest, ""
    host, _, port = rest.partition(":")
    return host, port


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
