"""Looking inside a process, and breaking something in it on purpose.

An address is a path in the supervision tree. Inside a process it begins with the process's name
(``broker-1/partitions/orders-0``); seen from outside the host stands before it
(``host/broker-1/partitions/orders-0``). Both forms are understood here.

Everything runs on the loop of the actors that are looked at, so they are read directly: nobody is asked, and
a supervisor that is busy restarting something is seen as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..config import nearest_address, shown
from ..errors import ErrorCode
from ..transport.messages import (
    ActorDescription,
    ClientDescription,
    DescribeTreeReply,
    DescribeTreeRequest,
    EventsReply,
    EventsRequest,
    ExperimentRequest,
    KillReply,
    KillRequest,
    Reply,
    Request,
)
from ..transport.seam import PeerInfo
from .context import Context, Directory
from .experiments import Experiments
from .lifecycle import PROCESS_ADDRESS, Fail, KillProcess
from .log import event
from .refs import LoopRef

logger = logging.getLogger(__name__)

REQUESTS = (DescribeTreeRequest, KillRequest, ExperimentRequest, EventsRequest)  # every process answers them
ACTOR_WAYS = ("raise", "exit")
PROCESS_WAYS = ("kill", "term")
STAYS_DOWN = "only a process can be kept down for a while; an actor can be paused or hung"


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
    event(logger, "experiment.begun", what="kill", address=address, how=how or ACTOR_WAYS[0])
    return KillReply(address=address, what=f"{ref.actor_class.__name__}: {how or ACTOR_WAYS[0]}")


class Inspection:
    """Answers what every process answers, for the process whose root actor is ``root_address``."""

    def __init__(self, context: Context, root_address: str) -> None:
        self._directory = context.directory
        self._timeline = context.timeline
        self._experiments = Experiments(context, root_address)
        self._root_address = root_address

    def answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Answer one of ``REQUESTS``, now or (events) when there is something to tell."""
        match request:
            case KillRequest():
                reply(self.kill(request))
            case ExperimentRequest():
                reply(self._experiments.begin(request, self._local(request.address)))
            case EventsRequest() if self._timeline is not None:
                self._timeline.answer(request, reply)
            case EventsRequest():
                reply(EventsReply())
            case _:
                reply(self.describe())

    def describe(self) -> DescribeTreeReply:
        root = self._directory.find(self._root_address)
        return DescribeTreeReply(tree=describe(root) if root is not None else None)

    def kill(self, request: KillRequest) -> KillReply:
        """Fail an actor; or the whole process, when the address is the process's and ``how`` is a way to do that.

        The root actor has the process's address: ``"raise"`` and ``"exit"`` mean it, everything else the process.
        """
        address = self._local(request.address)
        if address != self._root_address or request.how in ACTOR_WAYS:
            if request.for_ms:
                return refusal(address, STAYS_DOWN)
            return kill(self._directory, address, request.how)
        how = request.how or PROCESS_WAYS[0]
        if how not in PROCESS_WAYS:
            return refusal(
                address, f"a process is killed by {', '.join(PROCESS_WAYS + ACTOR_WAYS)}, not by {shown(how)}"
            )
        if request.for_ms:
            return refusal(address, "only its host can keep a process down for a while: ask by way of the host")
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
    detail = f"nothing lives at {shown(address)}{nearest_address(address, known)}"
    return KillReply(error=ErrorCode.UNKNOWN_ADDRESS, detail=detail, address=address)


def refusal(address: str, detail: str) -> KillReply:
    return KillReply(error=ErrorCode.INVALID_REQUEST, detail=f"{address}: {detail}", address=address)


def described_client(peer: PeerInfo, now_ms: int, broker_id: int) -> ClientDescription:
    """Return a client as the broker that it is connected to tells of it."""
    return ClientDescription(
        client_id=peer.client_id,
        software=peer.software,
        broker_id=broker_id,
        connected_ms=now_ms - peer.connected_ms,
        requests=peer.requests,
        bytes_in=peer.bytes_in,
        bytes_out=peer.bytes_out,
        dropped=peer.dropped,
    )
