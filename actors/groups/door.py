"""What a broker's router does for groups: who coordinates is answered from the picture, the rest is passed on.

Rules of this file:

1. It decides nothing about groups. A request goes to the coordinator of its group's partition, if that is here; if not,
   the answer says why: NOT_COORDINATOR (look it up again) or COORDINATOR_LOAD_IN_PROGRESS (it will be, wait).
2. Every request gets exactly one answer: the coordinator's, or one from here when that ends (``CoordinatorGone``).
3. What waits is counted, heartbeats apart: members are parked at their coordinator, a second long, and do not keep
   commits out. (The router's rule 2.)
4. The first who asks for a coordinator has ``__consumer_offsets`` made; until it is led there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ...config import ClusterConfig
from ...errors import ErrorCode
from ...model import OFFSETS_TOPIC
from ...transport import group_messages as said
from ...transport import messages as m
from ...transport.seam import Inbound, PeerInfo
from ..context import Context
from ..controller.image import ClusterImage, TopicImage
from ..controller.internal import OFFSETS_TOPIC_WANTED, offsets_replication_factor
from ..partition.events import ForController
from .asking import Ask, CoordinatorGone, GroupAnswers, GroupTicket
from .checks import check_group_id
from .events import Caller
from .gathering import Gathering, ListGathering, deleting, describing
from .naming import partition_of

REQUEST_BYTES_MAX = 4 << 20  # what it makes a coordinator write is larger, and must fit into one batch
CREATE_AGAIN_MS = 500  # between requests for the topic

Problem = tuple[ErrorCode, str]


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """A request that a coordinator has been told."""

    peer: bytes
    partition: int
    request_id: int
    is_heartbeat: bool
    gathering: Gathering | None  # None: its answer is the reply


class GroupDoor:
    """See the top of the file. Part of the router's actor."""

    def __init__(
        self,
        context: Context,
        *,
        config: ClusterConfig,
        broker_address: str,
        door: str,
        next_number: Callable[[], int],
        reply: Callable[[bytes, m.Reply], None],
        peer: Callable[[bytes], PeerInfo | None],
    ) -> None:
        self._context = context
        self._config = config
        self._broker_address = broker_address
        self._door = door
        self._next_number = next_number  # outlives the actor: late answers find nobody
        self._reply = reply
        self._peer = peer
        self._image = ClusterImage.empty()
        self._waiting: dict[int, _Waiting] = {}
        self._parked = 0  # heartbeats among them
        self._asked_ms: int | None = None  # for the topic, the last time
        self.requests: Mapping[type, Callable[[Inbound, Any], None]] = {
            said.FindCoordinatorsRequest: self._find_coordinators,
            said.GroupHeartbeatRequest: self._pass_on,
            said.OffsetCommitRequest: self._pass_on,
            said.OffsetFetchRequest: self._pass_on,
            said.DeleteOffsetsRequest: self._pass_on,
            said.RemoveMembersRequest: self._pass_on,
            said.ListGroupsRequest: self._list,
            said.DescribeGroupsRequest: self._describe,
            said.DeleteGroupsRequest: self._delete,
        }

    @property
    def parked(self) -> int:
        """Heartbeats that wait at coordinators."""
        return self._parked

    @property
    def others(self) -> int:
        """What else waits there."""
        return len(self._waiting) - self._parked

    def on_image(self, image: ClusterImage) -> None:
        self._image = image

    # -- who coordinates -------------------------------------------------------------------------------

    def _find_coordinators(self, inbound: Inbound, request: said.FindCoordinatorsRequest) -> None:
        topic = self._image.topic_named(OFFSETS_TOPIC)
        if topic is None and request.group_ids:
            self._have_topic_made()
        entries = [self._coordinator_of(group_id, topic) for group_id in request.group_ids]
        self._answer(inbound, said.CoordinatorsReply(version=self._image.version, coordinators=entries))

    def _coordinator_of(self, group_id: str, topic: TopicImage | None) -> said.CoordinatorEntry:
        if wrong := check_group_id(group_id):
            return said.CoordinatorEntry(group_id=group_id, error=wrong.code, detail=wrong.detail)
        if topic is None:
            return said.CoordinatorEntry(
                group_id=group_id, error=ErrorCode.COORDINATOR_NOT_AVAILABLE, detail=self._why_no_topic()
            )
        partition = topic.partitions[partition_of(group_id, len(topic.partitions))]
        leader = self._image.leader_of(partition)
        if leader < 0:
            return said.CoordinatorEntry(
                group_id=group_id,
                error=ErrorCode.COORDINATOR_NOT_AVAILABLE,
                detail=f"its partition of {OFFSETS_TOPIC} has no leader just now",
            )
        return said.CoordinatorEntry(group_id=group_id, broker_id=leader)

    def _why_no_topic(self) -> str:
        live = len(self._image.brokers)
        wanted = offsets_replication_factor(self._config.broker, self._config.brokers, self._image)
        if live < wanted:
            return f"{OFFSETS_TOPIC} is to have {wanted} replicas and waits for as many brokers; {live} live"
        return f"{OFFSETS_TOPIC} is being created"

    def _have_topic_made(self) -> None:
        """Ask the controller, not too often; the client comes again until it is there."""
        now_ms = self._context.clock.monotonic_ms()
        if self._asked_ms is not None and now_ms - self._asked_ms < CREATE_AGAIN_MS:
            return
        self._asked_ms = now_ms
        hosting = self._context.directory.find(f"{self._broker_address}/hosting")
        if hosting is not None:
            hosting.post(ForController(OFFSETS_TOPIC_WANTED))

    # -- passing on ------------------------------------------------------------------------------------

    def _pass_on(self, inbound: Inbound, request: Any) -> None:
        topic = self._image.topic_named(OFFSETS_TOPIC)
        if topic is None:
            self._refuse(inbound, ErrorCode.NOT_COORDINATOR, f"there is no {OFFSETS_TOPIC} yet: look it up first")
        elif wrong := check_group_id(request.group_id):
            self._refuse(inbound, wrong.code, wrong.detail)
        elif inbound.size > REQUEST_BYTES_MAX:
            detail = f"a request of {inbound.size:,} bytes about one group; {REQUEST_BYTES_MAX:,} are the limit"
            self._refuse(inbound, ErrorCode.LIMIT_EXCEEDED, detail)
        else:
            partition = partition_of(request.group_id, len(topic.partitions))
            if problem := self._ask(inbound, partition, request, None):
                self._refuse(inbound, *problem)

    def _list(self, inbound: Inbound, request: said.ListGroupsRequest) -> None:
        topic = self._image.topic_named(OFFSETS_TOPIC)
        here = self._image.broker_id_of(self._broker_address)
        led = [] if topic is None else [n for n, one in topic.partitions.items() if self._image.leader_of(one) == here]
        self._gather(inbound, ListGathering(request, led))

    def _describe(self, inbound: Inbound, request: said.DescribeGroupsRequest) -> None:
        self._gather(inbound, describing(request, self._partition_of))

    def _delete(self, inbound: Inbound, request: said.DeleteGroupsRequest) -> None:
        self._gather(inbound, deleting(request, self._partition_of))

    def _partition_of(self, group_id: str) -> int:
        topic = self._image.topic_named(OFFSETS_TOPIC)
        return partition_of(group_id, len(topic.partitions)) if topic is not None else 0

    def _gather(self, inbound: Inbound, gathering: Gathering) -> None:
        for partition, request in gathering.parts.items():
            if problem := self._ask(inbound, partition, request, gathering):
                gathering.on_reply(partition, m.ErrorReply(error=problem[0], detail=problem[1]))
        if gathering.is_complete:
            self._answer(inbound, gathering.reply())

    def _ask(self, inbound: Inbound, partition: int, request: Any, gathering: Gathering | None) -> Problem | None:
        """Tell the partition's coordinator; or return why there is none here."""
        coordinator = self._context.directory.find(f"{self._broker_address}/coordinators/{partition}")
        number, peer = self._next_number(), self._peer(inbound.peer)
        host = host_of(peer.address) if peer else ""
        caller = Caller(GroupTicket(self._door, number), peer.client_id if peer else "", host)
        if coordinator is None or not coordinator.post(Ask(request, caller)):
            return self._whereabouts(partition)
        is_heartbeat = isinstance(request, said.GroupHeartbeatRequest)
        self._parked += is_heartbeat
        self._waiting[number] = _Waiting(inbound.peer, partition, inbound.message.id, is_heartbeat, gathering)
        return None

    def _whereabouts(self, partition: int) -> Problem:
        topic = self._image.topic_named(OFFSETS_TOPIC)
        found = topic.partitions.get(partition) if topic is not None else None
        leader = self._image.leader_of(found) if found is not None else -1
        if leader >= 0 and leader == self._image.broker_id_of(self._broker_address):
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "the coordinator of these groups is being started"
        where = f"broker {leader} coordinates these groups" if leader >= 0 else "nobody coordinates these groups now"
        return ErrorCode.NOT_COORDINATOR, where

    # -- answers ---------------------------------------------------------------------------------------

    def on_answers(self, answers: GroupAnswers) -> None:
        for number, reply in answers.answers:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:  # else of an earlier life of this door
                self._answered(waiting, reply)

    def on_coordinator_gone(self, gone: CoordinatorGone) -> None:
        """It has failed: what was asked of it may have been done, or not; a client asks again."""
        for number in [number for number, one in self._waiting.items() if one.partition == gone.partition]:
            detail = "the coordinator of this group failed and is being restarted"
            reply = m.ErrorReply(error=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, detail=detail)
            self._answered(self._waiting.pop(number), reply)

    def _answered(self, waiting: _Waiting, reply: m.Reply) -> None:
        self._parked -= waiting.is_heartbeat
        gathering = waiting.gathering
        if gathering is not None:
            gathering.on_reply(waiting.partition, reply)
            if not gathering.is_complete:
                return
            reply = gathering.reply()
        msgspec.structs.force_setattr(reply, "id", waiting.request_id)
        self._reply(waiting.peer, reply)

    def _answer(self, inbound: Inbound, reply: m.Reply) -> None:
        msgspec.structs.force_setattr(reply, "id", inbound.message.id)
        self._reply(inbound.peer, reply)

    def _refuse(self, inbound: Inbound, error: ErrorCode, detail: str) -> None:
        self._answer(inbound, m.ErrorReply(error=error, detail=detail))


def host_of(address: str) -> str:
    """Return where a peer is, for a person. Over ipc its address is ``localhost:USER:GROUP:PROCESS``, in numbers."""
    name, *ids = address.split(":")
    if name == "localhost" and len(ids) == 3 and all(one.isdecimal() for one in ids):
        return f"this host, process {ids[2]}"
    return address
