"""Who coordinates here: a coordinator for each partition of ``__consumer_offsets`` that this broker leads.

The picture is the order, as for replicas (``../broker.py``): whatever changed, what should be here is compared with
what is, and coordinators are started and stopped. Rules of this file:

1. A coordinator belongs to one leader epoch; for another epoch there is another one. It counts that this broker leads
   *under its present incarnation*.
2. A restart of this actor disturbs no coordinator that is right as it is.
3. Coordinators hear of topics from here: one look at the picture for all of them.
4. A coordinator that is past its restart limit cannot be helped here: another leader is asked for, and gets a new one.
5. When the store confirms the picture, coordinators can see it (``proof.py``), and who leads what (``leaders.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ...config import BrokerSettings
from ...model import OFFSETS_TOPIC, BrokerId, LeaderEpoch, PartitionKey, TopicId
from ..controller.image import ClusterImage
from ..log import event
from ..metadata.client import MetadataChanged, PictureConfirmed, SessionLost, SessionOpened, Subscribe
from ..metadata.documents import kind_of
from ..partition.events import NewEpochNeeded
from ..partition.retention import RetentionClock
from ..restarts import OnGiveUp, Restart
from ..runtime import Context, LoopActor, LoopRef
from ..specs import ChildSpec, GaveUp, StartChild, StopChild
from .asking import CoordinatorBegan, TopicsTold
from .coordinator import Coordinator
from .events import TopicPicture
from .leaders import Leaders
from .proof import Proofs

logger = logging.getLogger(__name__)


class GroupHosting(LoopActor):
    """See the top of the file."""

    handlers: ClassVar[Mapping[type, str]] = {
        MetadataChanged: "on_metadata_changed",
        SessionOpened: "on_session",
        SessionLost: "on_session",
        PictureConfirmed: "on_confirmed",
        CoordinatorBegan: "on_coordinator_began",
        GaveUp: "on_gave_up",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        settings: BrokerSettings,
        broker_id: BrokerId,
        broker_address: str,
        numbers: Iterator[int],
        retention_clock: RetentionClock,
        proofs: Proofs,
        leaders: Leaders,
    ) -> None:
        """``proofs``, ``leaders``: of the process, likewise; this actor writes them."""
        super().__init__(context, address, parent)
        self._settings = settings
        self._broker_id = broker_id
        self._broker_address = broker_address
        self._numbers = numbers
        self._retention_clock = retention_clock
        self._proofs, self._leaders = proofs, leaders
        self._image = ClusterImage.empty()
        self._incarnation = ""  # of the session that this life of the process has; "": none just now
        self._topic_id = TopicId("")  # of __consumer_offsets; "": there is none
        self._hosted: dict[int, LeaderEpoch] = {}  # by partition; started, as far as this life of the actor knows
        self._told: TopicsTold | None = None  # None: nothing is known yet

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        for ref in self.context.directory:  # of an earlier life of this actor
            if isinstance(ref.actor, Coordinator):
                self._hosted[ref.actor.partition] = ref.actor.leader_epoch
        self._tell("metadata", Subscribe(self.actor_ref, with_sessions=True, with_confirmations=True))

    # -- the picture ---------------------------------------------------------------------------------

    def on_metadata_changed(self, changed: MetadataChanged) -> None:
        self._image = changed.image
        self._leaders.on_image(changed.image)
        keys = changed.keys
        if keys is None or any(kind_of(key) == "topic" for key in keys):
            self._tell_topics()
        topic = self._image.topic_named(OFFSETS_TOPIC)
        self._topic_id = topic.topic_id if topic is not None else TopicId("")
        own = f"partition/{self._topic_id}/"
        if keys is None or any(key.startswith(own) or kind_of(key) in ("topic", "session") for key in keys):
            self._apply()

    def on_session(self, news: SessionOpened | SessionLost) -> None:
        self._incarnation = news.incarnation if isinstance(news, SessionOpened) else ""
        if self._told is not None:  # else the picture is not known yet
            self._apply()

    def on_confirmed(self, confirmed: PictureConfirmed) -> None:
        """The picture that was applied last was the store's at that time (``proof.py``)."""
        if self._told is not None and confirmed.incarnation == self._incarnation:
            self._proofs.confirm(self._wanted(), confirmed.at_ms)
            self._leaders.confirm(confirmed.at_ms)

    def _apply(self) -> None:
        wanted = self._wanted()
        for partition in [partition for partition in self._hosted if partition not in wanted]:
            del self._hosted[partition]
            self._tell("coordinators", StopChild(str(partition)))
        for partition, epoch in wanted.items():
            if self._hosted.get(partition) != epoch:
                self._hosted[partition] = epoch
                self._tell("coordinators", StartChild(self._spec(partition, epoch)))

    def _wanted(self) -> dict[int, LeaderEpoch]:
        """Return what is led here: partition → leader epoch (rule 1)."""
        session = self._image.sessions.get(self._broker_address)
        topic = self._image.topic(self._topic_id)
        if topic is None or session is None or session.incarnation != self._incarnation:
            return {}
        return {
            number: LeaderEpoch(partition.leader_epoch)
            for number, partition in topic.partitions.items()
            if partition.leader == self._broker_id and partition.leader_incarnation == self._incarnation
        }

    def _spec(self, partition: int, epoch: LeaderEpoch) -> ChildSpec:
        start = Coordinator.starter(
            partition=partition,
            leader_epoch=epoch,
            broker_id=self._broker_id,
            broker_address=self._broker_address,
            settings=self._settings,
            numbers=self._numbers,
            retention_clock=self._retention_clock,
            proofs=self._proofs,
            leaders=self._leaders,
        )
        return ChildSpec(name=str(partition), start=start, restart=Restart.TRANSIENT, on_give_up=OnGiveUp.LEAVE_OFFLINE)

    # -- topics --------------------------------------------------------------------------------------

    def _tell_topics(self) -> None:
        topics = {
            topic.name: TopicPicture(topic.topic_id, topic.document.partitions)
            for topic in self._image.topics.values()
            if topic.document.partitions
        }
        self._told = TopicsTold(topics, tuple(self._image.deleted), self._image.version)
        for partition in self._hosted:
            self._tell(f"coordinators/{partition}", self._told)

    def on_coordinator_began(self, began: CoordinatorBegan) -> None:
        if self._told is not None:
            began.ref.post(self._told)

    # -- failures ------------------------------------------------------------------------------------

    def on_gave_up(self, gave_up: GaveUp) -> None:
        partition = int(gave_up.name)
        epoch = self._hosted.get(partition)
        if epoch is None:
            return
        event(logger, "coordinator.offline", logging.ERROR, partition=partition, epoch=epoch, error=gave_up.exception)
        key = PartitionKey(self._topic_id, partition)
        self._tell("hosting", NewEpochNeeded(key, epoch, f"its coordinator failed: {gave_up.exception}"[:200]))

    def _tell(self, sibling: str, message: Any) -> bool:
        ref = self.context.directory.find(f"{self._broker_address}/{sibling}")
        return ref is not None and ref.post(message)
