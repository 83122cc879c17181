"""Looking inside a process, and breaking something in it on purpose.

An address is a path in the supervision tree. Inside a process it begins with the process's name
(``broker-1/partitions/orders-0``); seen from outside the host stands before it
(``host/broker-1/partitions/orders-0``). Both forms are understood here.

Everything runs on the loop of the actors that are looked at, so they are read directly: nobody is asked, and
a supervisor that is busy restarting something is seen as it is.
"""

from __future__ import annotations

from ..config import nearest, shown
from ..errors import ErrorCode
from ..transport.messages import ActorDescription, DescribeTreeReply, KillReply, KillRequest
from .context import Directory
from .lifecycle import PROCESS_ADDRESS, Fail, KillProcess
from .refs import LoopRef

ACTOR_WAYS = ("raise", "exit")
PROCESS_WAYS = ("kill", "term")


def describe(root: LoopRef) -> ActorDescription | None:
    """Return the tree below ``root``; None when it has ended."""
    actor = root.actor
    return actor.describe() if actor is not None else None


def kill(directory: Directory, address: str, how: str = "") -> KillReply:
    """Fail the actor at ``address``: ``"raise"`` (default) by an exception, ``"exit"`` by SystemExit."""
    if how not in ("", *ACTOR_WAYS):
        return refusal(address, f"an actor is killed by {' or '.join(ACTOR_WAYS)}, not by {shown(how)}")
    ref = directory.find(address)
    if ref is None or address == PROCESS_ADDRESS or not ref.post(Fail(how or ACTOR_WAYS[0])):
        return unknown(address, [one.address for one in directory.refs()])
    return KillReply(address=address, what=f"{ref.actor_class.__name__}: {how or ACTOR_WAYS[0]}")


class Inspection:
    """Answers DescribeTreeRequest and KillRequest for the process whose root actor is ``root_address``."""

    def __init__(self, directory: Directory, root_address: str) -> None:
        self._directory = directory
        self._root_address = root_address

    def describe(self) -> DescribeTreeReply:
        root = self._directory.find(self._root_address)
        return DescribeTreeReply(tree=describe(root) if root is not None else None)

    def kill(self, request: KillRequest) -> KillReply:
        """Fail an actor; or the whole process, when the address is the process's and ``how`` is a way to do that.

        The root actor has the process's address: ``"raise"`` and ``"exit"`` mean it, everything else the process.
        """
        address = self._local(request.address)
        if address != self._root_address or request.how in ACTOR_WAYS:
            return kill(self._directory, address, request.how)
        how = request.how or PROCESS_WAYS[0]
        if how not in PROCESS_WAYS:
            return refusal(
                address, f"a process is killed by {', '.join(PROCESS_WAYS + ACTOR_WAYS)}, not by {shown(how)}"
            )
        process = self._directory.find(PROCESS_ADDRESS)
        if process is None or not process.post(KillProcess(how)):
            return refusal(address, "it is not a process of its own")
        return KillReply(address=address, what=f"process: {how}")

    def _local(self, address: str) -> str:
        """Return the address as it is inside this process: without what stands before its name."""
        steps = address.strip("/").split("/")
        if self._root_address in steps:
            steps = steps[steps.index(self._root_address) :]
        return "/".join(steps)


def unknown(address: str, known: list[str]) -> KillReply:
    detail = f"nothing lives at {shown(address)}{nearest(address, known)}"
    return KillReply(error=ErrorCode.UNKNOWN_ADDRESS, detail=detail, address=address)


def refusal(address: str, detail: str) -> KillReply:
    return KillReply(error=ErrorCode.INVALID_REQUEST, detail=f"{address}: {detail}", address=address)
