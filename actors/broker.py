"""A broker applies what the controller decides: it hosts the replicas that the metadata assign to it.

Rules of this file:

1. The image is the order. Whatever changed, the broker compares what it hosts with what the image says and
   starts, informs or discards replicas; the same image twice changes nothing.
2. A replica leads here when the image names this broker *under its present incarnation*: an order to an
   earlier life of this process is not an order.
3. Files are deleted only for a topic that the metadata say was deleted. A log that they do not know at all is
   set aside (``….stray``) and reported: it may belong to metadata that were lost.
4. A directory that belongs to another cluster or another broker is refused.
5. A replica that was restarted, or has been given up, needs another leader epoch: asked of the controller
   until the image shows it.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import orjson

from ..config import ClusterConfig
from ..errors import ConfigurationError, StorageError
from ..model import BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicPartition
from ..transport import messages as m
from ..transport.addresses import choose_endpoint
from ..transport.seam import Connection
from .controller.controller import AdminCommand
from .controller.image import ClusterImage
from .log import event
from .metadata.client import MetadataChanged, Subscribe
from .metadata.documents import Offline
from .partition.events import AnnounceReplicas, Assign, Discard, Discarded, ForController, Hosted
from .partition.replica import DOORS, NewEpochNeeded, Replica
from .runtime import Context, LoopActor, LoopRef
from .supervisor import ChildSpec, GaveUp, OnGiveUp, Restart, StartChild, StopChild

logger = logging.getLogger(__name__)

IDENTITY_FILE = "broker.json"
REELECT_RETRY_MS = 200


class AskAgain(msgspec.Struct, frozen=True):
    """Time to ask the controller again for the epochs that are still missing."""


class HostedReplica(msgspec.Struct):
    """What the broker keeps of one replica. ``assignment`` is the newest: a restarted actor begins with it."""

    name: TopicPartition
    assignment: Assign
    is_given_up: bool = False
    is_discarded: bool = False


class Broker(LoopActor):
    """Hosts replicas as the image says."""

    handlers: ClassVar[Mapping[type, str]] = {
        MetadataChanged: "on_metadata_changed",
        NewEpochNeeded: "on_new_epoch_needed",
        GaveUp: "on_gave_up",
        Discarded: "on_discarded",
        AnnounceReplicas: "on_announce_replicas",
        Hosted: "on_hosted",
        AskAgain: "on_ask_again",
        ForController: "on_for_controller",
    }

    def __init__(
        self,
        context: Context,
        address: str,
        parent: LoopRef | None,
        *,
        config: ClusterConfig,
        broker_id: BrokerId,
        broker_address: str,
        directory: str,
        led_epochs: dict[PartitionKey, LeaderEpoch],
        pool_jobs: Counter[PartitionKey],
    ) -> None:
        super().__init__(context, address, parent)
        self._config = config
        self._broker_id = broker_id
        self._broker_address = broker_address
        self._directory = directory
        self._led_epochs = led_epochs
        self._pool_jobs = pool_jobs
        self._image = ClusterImage.empty()
        self._is_identified = False  # the directory is known to be ours
        self._hosted: dict[PartitionKey, HostedReplica] = {}
        self._reelections: dict[PartitionKey, m.ReelectRequest] = {}  # asked for, not seen in the image yet
        self._is_asking = False
        self._peers: dict[int, Connection] = {}

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        files = self.context.files
        files.make_dir(self._directory)
        data_dir = posixpath.dirname(self._directory)
        for parent in (data_dir, posixpath.dirname(data_dir) or "."):
            with contextlib.suppress(PermissionError):  # a parent that is not ours to read was there before us
                files.sync_dir(parent)  # or power loss takes the directory, with every record that was synced in it
        self._tell("metadata", Subscribe(self.actor_ref))

    def on_stop(self) -> None:
        for connection in self._peers.values():
            connection.close()

    def on_failure(self, *failure: Any) -> None:
        self.on_stop()

    def on_announce_replicas(self, _: AnnounceReplicas) -> None:
        for key, hosted in self._hosted.items():
            replica = self._replica(hosted)
            if replica is not None:
                for door in DOORS:
                    self._tell(door, Hosted(key, replica))

    def on_hosted(self, up: Hosted) -> None:
        """A replica's actor has (re)started: give it the newest order, its own may be from before its restart."""
        hosted = self._hosted.get(up.key)
        if hosted is None:
            if self._image.is_deleted(up.key.topic_id):
                up.ref.post(Discard())  # of an earlier life of this actor, which could not tell it
        elif hosted.is_discarded:
            up.ref.post(Discard())
        else:
            hosted.is_given_up = False
            up.ref.post(hosted.assignment)

    # -- what the controller decided -----------------------------------------------------------------

    def on_metadata_changed(self, changed: MetadataChanged) -> None:
        self._image = changed.image
        if not self._is_identified:
            self._identify()
            self._set_strays_aside()
        for key in self._affected(changed):
            self._apply(key)

    def _affected(self, changed: MetadataChanged) -> list[PartitionKey]:
        """Return the partitions to look at: after a snapshot, or a change of this broker's session, all."""
        assigned = set(self._image.partitions_of(self._broker_id)) | set(self._hosted)
        session_key = f"session/{self._broker_address}"
        if changed.keys is None or session_key in changed.keys:
            return sorted(assigned)
        topics = {key.split("/")[1] for key in changed.keys if key.startswith(("topic/", "partition/"))}
        return sorted(key for key in assigned if key.topic_id in topics)

    def _apply(self, key: PartitionKey) -> None:
        hosted = self._hosted.get(key)
        assignment = self._assignment(key)
        if assignment is None:
            if hosted is not None:
                self._discard(hosted)
            return
        if hosted is None:
            self._host(key, assignment)
        elif hosted.assignment != assignment:
            hosted.assignment = assignment
            if (replica := self._replica(hosted)) is not None:
                replica.post(assignment)
            elif hosted.is_given_up and assignment.is_leader:  # elected anew with this broker's next session
                reason = "it is past its restart limit"
                self._ask_for_election(key, assignment.leader_epoch, is_offline=True, reason=reason)

    def _assignment(self, key: PartitionKey) -> Assign | None:
        """Return this broker's part in a partition, None when it has none."""
        topic, partition = self._image.topic(key.topic_id), self._image.partition(key)
        if topic is None or partition is None or self._broker_id not in partition.replicas:
            return None
        session = self._image.sessions.get(self._broker_address)
        incarnation = session.incarnation if session else None
        is_leader = partition.leader == self._broker_id and partition.leader_incarnation == incarnation
        config = topic.config(self._config.topic)
        return Assign(
            leader=partition.leader,
            leader_epoch=LeaderEpoch(partition.leader_epoch),
            is_leader=is_leader,
            isr=tuple(partition.isr),
            config=config,
            min_insync_replicas=config.min_insync_replicas,
        )

    def _host(self, key: PartitionKey, assignment: Assign) -> None:
        topic = self._image.topic(key.topic_id)
        if topic is None:
            return
        hosted = HostedReplica(name=TopicPartition(topic.name, key.partition), assignment=assignment)
        if any(other.name == hosted.name for other in self._hosted.values()):
            return  # a topic was re-created while its namesake is still being discarded: on_discarded comes back here
        self._hosted[key] = hosted
        running = self._replica(hosted)
        if running is not None and isinstance(running.actor, Replica) and running.actor.key == key:
            running.post(assignment)  # this actor was restarted, the replica was not: it goes on undisturbed
            return

        def start(context: Context, address: str, parent: LoopRef | None) -> LoopRef:
            return Replica.start(
                context,
                address,
                parent,
                key=key,
                name=hosted.name,
                broker_id=self._broker_id,
                directory=self._log_directory(key),
                assignment=hosted.assignment,
                led_epochs=self._led_epochs,
                pool_jobs=self._pool_jobs,
                checkpoint_ms=self._config.broker.checkpoint_ms,
                producer_expiry_ms=self._config.broker.producer_expiry_ms,
                broker_address=self._broker_address,
            )

        spec = ChildSpec(
            name=str(hosted.name), start=start, restart=Restart.TRANSIENT, on_give_up=OnGiveUp.LEAVE_OFFLINE
        )
        self._tell("partitions", StartChild(spec))

    def _discard(self, hosted: HostedReplica) -> None:
        """Have the replica delete its log and end: its topic was deleted."""
        if hosted.is_discarded:
            return
        hosted.is_discarded = True
        replica = self._replica(hosted)
        if replica is None or not replica.post(Discard()):
            self._tell("partitions", StopChild(str(hosted.name)))  # or it would be restarted meanwhile
            self._remove_log(next(key for key, other in self._hosted.items() if other is hosted))

    def _remove_log(self, key: PartitionKey) -> None:
        directory, files = self._log_directory(key), self.context.files
        self.in_pool(lambda: files.remove_tree(directory), lambda _, error: Discarded(key, error))

    def on_discarded(self, discarded: Discarded) -> None:
        hosted = self._hosted.pop(discarded.key, None)
        self._reelections.pop(discarded.key, None)
        for door in DOORS:
            self._tell(door, discarded)
        if discarded.error is not None:
            event(logger, "log.not_removed", logging.ERROR, partition=discarded.key, error=discarded.error)
        if hosted is None:
            return
        event(logger, "log.removed", partition=str(hosted.name))
        self._tell("partitions", StopChild(str(hosted.name)))
        for key in self._image.partitions_of(self._broker_id):
            if key not in self._hosted:
                self._apply(key)

    # -- epochs that are missing -----------------------------------------------------------------------

    def on_new_epoch_needed(self, needed: NewEpochNeeded) -> None:
        self._ask_for_election(needed.key, needed.leader_epoch, is_offline=False, reason="its actor was restarted")

    def on_gave_up(self, gave_up: GaveUp) -> None:
        """A replica is past its restart limit: it is offline on this broker, its leadership moves."""
        for key, hosted in self._hosted.items():
            if str(hosted.name) == gave_up.name:
                hosted.is_given_up = True
                if hosted.is_discarded:
                    self._remove_log(key)
                    return
                event(logger, "partition.offline", logging.ERROR, partition=str(hosted.name), error=gave_up.exception)
                epoch = hosted.assignment.leader_epoch
                self._ask_for_election(key, epoch, is_offline=True, reason=str(gave_up.exception))
                return

    def _ask_for_election(self, key: PartitionKey, leader_epoch: int, *, is_offline: bool, reason: str) -> None:
        session = self._image.sessions.get(self._broker_address)
        request = self._reelections[key] = m.ReelectRequest(
            broker_id=self._broker_id,
            incarnation=session.incarnation if session else "",
            topic_id=key.topic_id,
            partition=key.partition,
            leader_epoch=leader_epoch,
            is_offline=is_offline,
            reason=reason[:200],
        )
        self._ask_controller(request)
        if not self._is_asking:
            self._is_asking = True
            self.set_timer(REELECT_RETRY_MS, AskAgain())

    def on_ask_again(self, _: AskAgain) -> None:
        """Ask until the image shows the epochs: the controller may be changing, the answer may be lost."""
        self._reelections = {key: asked for key, asked in self._reelections.items() if not self._is_answered(asked)}
        for request in self._reelections.values():
            self._ask_controller(request)
        self._is_asking = bool(self._reelections)
        if self._is_asking:
            self.set_timer(REELECT_RETRY_MS, AskAgain())

    def _is_answered(self, asked: m.ReelectRequest) -> bool:
        """Say whether the image shows what was asked for: a newer epoch, or that the replica is offline."""
        partition = self._image.partition(PartitionKey(TopicId(asked.topic_id), asked.partition))
        if partition is None or partition.leader_epoch > asked.leader_epoch:
            return True
        return asked.is_offline and Offline(asked.broker_id, asked.incarnation) in partition.offline

    def on_for_controller(self, asked: ForController) -> None:
        self._ask_controller(asked.request)

    def _ask_controller(self, request: m.Request) -> None:
        controller_id = self._image.controller_id
        if controller_id == self._broker_id:
            self._tell("controller", AdminCommand(request, lambda _: None))
        elif controller_id >= 0:
            connection = self._peer(controller_id)
            if connection is not None:
                connection.request(request, lambda _reply, _payload: None, timeout_ms=REELECT_RETRY_MS)

    def _peer(self, broker_id: int) -> Connection | None:
        session = self._image.sessions.get(f"broker-{broker_id}")
        if session is None or not session.peer_endpoints:
            return None
        endpoint = choose_endpoint(session.peer_endpoints, session.machine)
        connection = self._peers.get(broker_id)
        if connection is None or connection.endpoint != endpoint:
            if connection is not None:
                connection.close()
            connection = self.context.transport.connect(
                endpoint, client_id=self._broker_address, on_state=lambda _: None
            )
            self._peers[broker_id] = connection
        return connection

    # -- the directory ---------------------------------------------------------------------------------

    def _identify(self) -> None:
        """Refuse a directory of another cluster or broker; mark a new one as ours."""
        files, path = self.context.files, f"{self._directory}/{IDENTITY_FILE}"
        ours = {"cluster_id": self._image.cluster_id, "broker_id": self._broker_id}
        if not files.exists(path):
            files.write_atomic(path, orjson.dumps(ours))
        elif (found := _identity(files.read_bytes(path))) != ours:
            raise ConfigurationError(
                f"{self._directory} belongs to broker {found.get('broker_id')} of cluster {found.get('cluster_id')}, "
                f"not to broker {self._broker_id} of cluster {self._image.cluster_id}: "
                "were the metadata lost? Start with the right --data-dir"
            )
        self._is_identified = True

    def _set_strays_aside(self) -> None:
        """Remove the logs of deleted topics; rename those that the metadata do not know (rule 3)."""
        files = self.context.files
        running = {ref.actor.key: ref for ref in self.context.directory if isinstance(ref.actor, Replica)}
        for name in files.list_dir(self._directory):
            topic_id, dash, number = name.rpartition("-")
            if not dash or not number.isdecimal() or len(topic_id) != 32:
                continue
            path = f"{self._directory}/{name}"
            if self._image.is_deleted(TopicId(topic_id)):
                if (replica := running.get(PartitionKey(TopicId(topic_id), int(number)))) is not None:
                    replica.post(Discard())  # this actor was restarted when it should have told it
                    continue
                with contextlib.suppress(FileNotFoundError):  # a job of an earlier life is at it, too
                    files.remove_tree(path)
                event(logger, "log.removed", directory=name, why="topic was deleted meanwhile")
            elif self._image.partition(PartitionKey(TopicId(topic_id), int(number))) is None:
                files.rename(path, f"{path}.stray")
                event(logger, "log.stray", logging.WARNING, directory=name, now=f"{name}.stray")

    def _log_directory(self, key: PartitionKey) -> str:
        return f"{self._directory}/{key}"

    # -- inside ----------------------------------------------------------------------------------------

    def _replica(self, hosted: HostedReplica) -> LoopRef | None:
        return self.context.directory.find(f"{self._broker_address}/partitions/{hosted.name}")

    def _tell(self, sibling: str, message: Any) -> bool:
        ref = self.context.directory.find(f"{self._broker_address}/{sibling}")
        return ref is not None and ref.post(message)


def _identity(content: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StorageError(f"{IDENTITY_FILE} is damaged: {error}") from None
    return found if isinstance(found, dict) else {}
