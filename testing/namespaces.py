"""Network namespaces joined by a switch, for tests of hosts whose cables are pulled. Linux, root, iproute2.

    with network(["a", "b"]) as machines:
        subprocess.run([*machines["a"].prefix, "ping", "-c1", machines["b"].address])
        machines["b"].unplug()
        machines["b"].plug_in()

A machine's cable is a veth pair; its far end is on a bridge in a namespace of its own. Nothing of this touches the
network of whoever runs the test. What was made is removed afterwards, whatever happened; names begin with ``cb`` and
the pid.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..errors import CallboardError

NETWORK = "10.231.77"  # private; seen only inside the namespaces


class NamespacesNotAllowed(CallboardError):
    """This system, or this user, makes no network namespaces; the message says why."""


@dataclass(frozen=True)
class Machine:
    """One namespace: an address, and a cable to the switch."""

    namespace: str
    address: str
    switch: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return the command that runs a command on this machine. The process stays the same one: signals reach it."""
        return ("ip", "netns", "exec", self.namespace)

    def unplug(self) -> None:
        """Pull the cable: packets vanish, nobody is told."""
        self._set("down")

    def plug_in(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        _ip("-n", self.switch, "link", "set", _port(self.address), state)


def why_not() -> str:
    """Return why there can be no namespaces here, "" when there can."""
    if shutil.which("ip") is None:
        return "there is no command `ip`"
    name = f"cb{os.getpid()}t"
    try:
        _ip("netns", "add", name)
    except NamespacesNotAllowed as error:
        return str(error)
    try:
        _ip("-n", name, "link", "add", "cbt0", "type", "veth", "peer", "name", "cbt1")
        _ip("-n", name, "link", "add", "cbt2", "type", "bridge")
        _ip("netns", "exec", name, "true")
    except NamespacesNotAllowed as error:
        return str(error)
    finally:
        _ip("netns", "delete", name)
    return ""


@contextmanager
def network(names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Have machines of these names on one switch.

    Raises:
        NamespacesNotAllowed: it cannot be made here.
    """
    switch = f"cb{os.getpid()}-switch"
    with ExitStack() as stack:
        _namespace(stack, switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        machines = {}
        for number, name in enumerate(names, start=1):
            machine = Machine(f"cb{os.getpid()}-{name}", f"{NETWORK}.{number}", switch)
            _namespace(stack, machine.namespace)
            port = _port(machine.address)
            cable = ("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
            _ip("-n", switch, *cable)
            _ip("-n", switch, "link", "set", port, "master", "bridge")
            _ip("-n", switch, "link", "set", port, "up")
            _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", machine.namespace, "link", "set", device, "up")
            machines[name] = machine
        yield machines


def _namespace(stack: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)  # with it go the devices in it


def _port(address: str) -> str:
    return f"port{address.rpartition('.')[2]}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesNotAllowed(f"`ip {' '.join(arguments)}`: {done.stderr.strip() or done.returncode}")
