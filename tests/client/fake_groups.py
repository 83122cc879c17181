"""The coordinator of all groups of a fake cluster: the broker's own rules, on a log in memory.

It sits on one broker and can be moved to another, which reads the log; every write survives at once.
"""

from __future__ import annotations

from typing import Any

from callboard.actors.groups.coordinating import Coordinating
from callboard.actors.groups.events import Caller, GroupSettings, Reply, TopicPicture, Write
from callboard.errors import ErrorCode
from callboard.transport import group_messages as g
from callboard.transport.seam import Inbound

REQUESTS = (g.GroupHeartbeatRequest, g.OffsetCommitRequest, g.OffsetFetchRequest, g.DescribeGroupsRequest)
REPLIES = {
    g.GroupHeartbeatRequest: g.GroupHeartbeatReply,
    g.OffsetCommitRequest: g.OffsetCommitReply,
    g.OffsetFetchRequest: g.OffsetFetchReply,
}


class FakeGroups:
    """Everything on the cluster's thread."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.broker = 1  # the coordinator; 0: nobody just now
        self.settings = GroupSettings(broker_id=1, group_session_timeout_ms_min=50)
        self.log: list[tuple[bytes, bytes | None]] = []
        self.waiting: dict[int, Any] = {}  # replies to be given, by ticket
        self._ahead_ms = 0  # of the real clock; moved by time_passes only
        self._tickets = 0
        self._timer: Any = None
        self.begin()

    def begin(self) -> None:
        """Another coordinator: it knows what is in the log."""
        self.waiting.clear()
        self.rules = Coordinating(self.settings)
        for key, value in self.log:
            self.rules.replay(key, value)
        self._perform(self.rules.loaded(*self._now()))
        self.on_topics()

    def move(self, broker: int) -> None:
        self.broker = broker
        self._cluster.version += 1
        self.begin()

    def time_passes(self, ms: int) -> None:
        """It is so much later for the coordinator, at once, and for nobody else."""
        self._ahead_ms += ms
        self._perform(self.rules.on_due(*self._now()))

    def on_topics(self) -> None:
        pictures = {name: TopicPicture(topic.topic_id, len(topic.logs)) for name, topic in self._cluster.topics.items()}
        self._perform(self.rules.on_topics(pictures, *self._now(), version=self._cluster.version))

    def find(self, broker: int, inbound: Inbound, reply: Any) -> None:
        request = inbound.message
        entries = [
            g.CoordinatorEntry(group_id=group_id, broker_id=self.broker)
            if self.broker
            else g.CoordinatorEntry(group_id=group_id, error=ErrorCode.COORDINATOR_NOT_AVAILABLE)
            for group_id in request.group_ids
        ]
        reply(g.CoordinatorsReply(id=request.id, version=self._cluster.version, coordinators=entries))

    def on_request(self, broker: int, inbound: Inbound, reply: Any) -> None:
        request = inbound.message
        if broker != self.broker:
            kind = REPLIES[type(request)]
            reply(kind(id=request.id, error=ErrorCode.NOT_COORDINATOR, detail=f"it is broker {self.broker}"))
            return
        self._tickets += 1
        self.waiting[self._tickets] = reply
        self._perform(self.rules.on_request(request, Caller(self._tickets), *self._now()))

    def _perform(self, effects: list[Any]) -> None:
        while effects:
            written = 0
            for effect in effects:
                if isinstance(effect, Write):
                    self.log += effect.records
                    written = effect.number
                elif isinstance(effect, Reply):
                    reply = self.waiting.pop(effect.ticket, None)
                    if reply is not None:
                        reply(effect.reply)
            effects = self.rules.on_written(written, self._now()[0]) if written else []
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.rules.next_due_ms
        if due is not None:
            self._timer = self._cluster.loop.call_later(max(1, due - self._now()[0]) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._perform(self.rules.on_due(*self._now()))

    def _now(self) -> tuple[int, int]:
        clock = self._cluster.clock
        return clock.monotonic_ms() + self._ahead_ms, clock.wall_ms() + self._ahead_ms
