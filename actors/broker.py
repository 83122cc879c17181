"""A broker applies what the controller decides: it hosts the replicas that the metadata assign to it.

Rules of this file:

1. The image is the order. Whatever changed, the broker compares what it hosts with what the image says and
   starts, informs or discards replicas; the same image twice changes nothing.
2. A replica leads here when the image names this broker *under its present incarnation*: an order to an
   earlier life of this process is not an order, though its session may still stand in the image.
3. Files are deleted only for a topic that the metadata say was deleted. A log that they do not know at all is
   set aside (``….stray``) and reported: it may belong to metadata that were lost.
4. A directory that belongs to another cluster or another broker is refused. One whose disk failed is used no more
   (``logdirs.py``): its replicas are offline here, the others are served.
5. A replica that was restarted, or has been given up, needs another leader epoch: asked of the controller
   until the image shows it.
6. A replica whose log is damaged, or was made here and is gone (a new disk, a directory that somebody removed), must
   not count as in sync: it is reported as offline, and taken back when it has left the in-sync set. Then it copies all
   of it again.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from ..config import ClusterConfig
from ..errors import CallboardError, ConfigurationError
from ..model import BrokerId, LeaderEpoch, PartitionKey, TopicId, TopicPartition
from ..storage.checkpoint import FAILED_FILE
from ..transport import messages as m
from .asking import ControllerLine
from .controller.image import ClusterImage
from .log import event
from .logdirs import (
    FULL,
    GONE,
    LogDirectories,
    LogDirectory,
    identify,
    is_disk_failure,
    is_log_name,
    measuring,
    prepare,
)
from .made import learn, remove_log
from .metadata.client import MetadataChanged, SessionLost, SessionOpened, Subscribe
from .metadata.documents import Offline, SessionDocument
from .partition.compacting import CompactionTurn
from .partition.events import (
    AnnounceReplicas,
    Assign,
    DirectoryFailed,
    Discard,
    Discarded,
    ForController,
    GoOffline,
    Hosted,
    IsrAnswered,
    IsrProposed,
    LogLost,
    NewEpochNeeded,
)
from .partition.replica import DOORS, Replica
from .partition.retention import RetentionClock
from .runtime import Context, LoopActor, LoopRef
from .supervisor import ChildSpec, GaveUp, OnGiveUp, Restart, StartChild, StopChild

logger = logging.getLogger(__name__)

REELECT_RETRY_MS = 200
ISR_TIMEOUT_MS = 2_000


class AskAgain(msgspec.Struct, frozen=True):
    """Time to ask the controller again for the epochs that are still missing."""


class LookAtRoom(msgspec.Struct, frozen=True):
    """Time to look how much room the directories have."""


class Measured(msgspec.Struct, frozen=True):
    free_bytes: dict[str, int]  # by path


class HostedReplica(msgspec.Struct):
    """What the broker keeps of one replica. ``assignment`` is the newest: a restarted actor begins with it."""

    name: TopicPartition
    assignment: Assign
    home: LogDirectory
    is_lost: bool = False  # rule 6; while it counts as in sync
    is_given_up: bool = False
    is_discarded: bool = False


@dataclass(frozen=True, slots=True)
class _IsrReplied:
    entries: list[m.AlterPartitionEntry]  # as they were asked
    reply: m.Reply | CallboardError


class Broker(LoopActor):
    """Hosts replicas as the image says."""

    handlers: ClassVar[Mapping[type, str]] = {
        MetadataChanged: "on_metadata_changed",
        **dict.fromkeys((SessionOpened, SessionLost), "on_session"),
        NewEpochNeeded: "on_new_epoch_needed",
        GaveUp: "on_gave_up",
        Discarded: "on_discarded",
        AnnounceReplicas: "on_announce_replicas",
        Hosted: "on_hosted",
        AskAgain: "on_ask_again",
        ForController: "on_for_controller",
        IsrProposed: "on_isr_proposed",
        _IsrReplied: "on_isr_replied",
        LogLost: "on_log_lost",
        DirectoryFailed: "on_directory_failed",
        LookAtRoom: "on_look_at_room",
        Measured: "on_measured",
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
        directories: LogDirectories,
        led_epochs: dict[PartitionKey, LeaderEpoch],
        pool_jobs: Counter[PartitionKey],
        retention_clock: RetentionClock,
        compaction_turn: CompactionTurn,
    ) -> None:
        super().__init__(context, address, parent)
        self._config = config
        self._broker_id = broker_id
        self._broker_address = broker_address
        self._directories = directories
        self._led_epochs = led_epochs
        self._pool_jobs = pool_jobs
        self._retention_clock = retention_clock
        self._compaction_turn = compaction_turn
        self._image = ClusterImage.empty()
        self._incarnation = ""  # of the session that this life of the process has; "": none just now
        self._is_identified = False  # the directory is known to be ours
        self._is_first_look = False  # at the metadata, in this life: what they name existed before
        self._hosted: dict[PartitionKey, HostedReplica] = {}
        self._reelections: dict[PartitionKey, m.ReelectRequest] = {}  # asked for, not seen in the image yet
        self._is_asking = False
        self._line = ControllerLine(context, broker_id, broker_address)
        self._proposals: list[m.AlterPartitionEntry] = []  # of this turn

    # -- life ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        for directory in self._directories.live:
            prepare(self.context.files, directory)
            if directory.is_failed:
                event(logger, "directory.offline", logging.ERROR, path=directory.path, why=directory.failure)
        self.on_look_at_room(LookAtRoom())
        self._tell("metadata", Subscribe(self.actor_ref, with_sessions=True))

    def on_stop(self) -> None:
        self._line.close()

    def on_failure(self, *_: Any) -> None:
        self.on_stop()

    def on_announce_replicas(self, _: AnnounceReplicas) -> None:
        for key, hosted in self._hosted.items():
            if (replica := self._replica(hosted)) is not None:
                self._announce(key, replica)

    def _announce(self, key: PartitionKey, replica: LoopRef) -> None:
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
        self._is_first_look = not self._is_identified
        if not self._is_identified:
            self._find_logs()
            self._is_identified = True
        for key in self._affected(changed):
            self._apply(key)
        self._is_first_look = False

    def on_session(self, news: SessionOpened | SessionLost) -> None:
        """What was led under a session that is lost is being given to others."""
        self._incarnation = news.incarnation if isinstance(news, SessionOpened) else ""
        self._apply_all()

    @property
    def _session(self) -> SessionDocument | None:
        """The session of *this* life of the broker, None while the image has none, or still an earlier life's."""
        session = self._image.sessions.get(self._broker_address)
        return session if session is not None and session.incarnation == self._incarnation else None

    def _apply_all(self) -> None:
        for key in sorted({*self._image.partitions_of(self._broker_id), *self._hosted}) if self._is_identified else ():
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
        if hosted is not None and hosted.is_lost:
            self._look_after_lost(key, hosted, assignment)
            assignment = msgspec.structs.replace(assignment, is_lost=hosted.is_lost)
        elif hosted is not None and not hosted.is_given_up and not hosted.home.is_failed and self._is_marked(key):
            self._ask_to_unmark(key, assignment)  # a word of before came late: it is not lost any more
        if hosted is None:
            self._host(key, assignment)
        elif hosted.assignment != assignment:
            hosted.assignment = assignment
            replica = self._replica(hosted)
            if replica is not None:
                replica.post(assignment)
            if assignment.is_leader and hosted.home.is_failed:  # elected anew with this broker's next session
                self._take_offline(key, hosted)
            elif assignment.is_leader and hosted.is_given_up and replica is None:  # likewise
                reason = "it is past its restart limit"
                self._ask_for_election(key, assignment.leader_epoch, is_offline=True, reason=reason)

    def _assignment(self, key: PartitionKey) -> Assign | None:
        """Return this broker's part in a partition, None when it has none."""
        topic, partition = self._image.topic(key.topic_id), self._image.partition(key)
        if topic is None or partition is None or self._broker_id not in partition.replicas:
            return None
        session = self._session
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
            replicas=tuple(partition.replicas),
            partition_epoch=partition.partition_epoch,
        )

    def _host(self, key: PartitionKey, assignment: Assign) -> None:
        topic = self._image.topic(key.topic_id)
        if topic is None:
            return
        name = TopicPartition(topic.name, key.partition)
        if any(other.name == name for other in self._hosted.values()):
            return  # a topic was re-created while its namesake is still being discarded: on_discarded comes back here
        is_lost = self._has_lost(key)
        is_new = assignment.partition_epoch == 0 and not self._is_first_look  # made in this life of the process
        home = self._directories.place(key, is_new=is_new)
        assignment = msgspec.structs.replace(assignment, is_lost=is_lost)
        hosted = self._hosted[key] = HostedReplica(name=name, assignment=assignment, home=home, is_lost=is_lost)
        if is_lost:
            event(logger, "log.lost", logging.ERROR, partition=str(name), directory=home.path)
            self._look_after_lost(key, hosted, assignment)
        if home.is_failed:
            self._take_offline(key, hosted)
        running = self._replica(hosted)
        if running is not None and isinstance(running.actor, Replica) and running.actor.key == key:
            running.post(assignment)  # this actor was restarted, the replica was not: it goes on undisturbed
            self._announce(key, running)  # the doors were, too, and may have asked before this was known
            return

        def start(context: Context, address: str, parent: LoopRef | None) -> LoopRef:
            return Replica.start(
                context,
                address,
                parent,
                key=key,
                name=hosted.name,
                broker_id=self._broker_id,
                home=home,
                assignment=hosted.assignment,
                led_epochs=self._led_epochs,
                pool_jobs=self._pool_jobs,
                retention_clock=self._retention_clock,
                settings=self._config.broker,
                broker_address=self._broker_address,
                compaction_turn=self._compaction_turn,
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
        home, files = self._hosted[key].home, self.context.files
        self.in_pool(lambda: remove_log(files, home, key), lambda _, error: Discarded(key, error))

    def on_discarded(self, discarded: Discarded) -> None:
        hosted = self._hosted.pop(discarded.key, None)
        self._reelections.pop(discarded.key, None)
        self._directories.removed(discarded.key)
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
        self._ask_for_election(needed.key, needed.leader_epoch, is_offline=False, reason=needed.why)

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
        session = self._session
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
        """Say whether the image shows what was asked for: a newer epoch, unless it was led elsewhere; or the mark."""
        partition = self._image.partition(PartitionKey(TopicId(asked.topic_id), asked.partition))
        if partition is None or partition.leader_epoch > asked.leader_epoch:
            return True
        is_marked = Offline(asked.broker_id, asked.incarnation) in partition.offline
        return is_marked if asked.is_offline else not is_marked and partition.leader != asked.broker_id

    # -- logs that are gone ----------------------------------------------------------------------------

    def _has_lost(self, key: PartitionKey) -> bool:
        """Say whether a log of this replica should be on disk, and is not.

        A partition with one replica is led all the same: nobody has a better copy. One that was never made here was
        assigned in an earlier life of the process, which ended too soon: all that it ever had is nothing.
        """
        partition, directories = self._image.partition(key), self._directories
        if partition is None or not self._is_first_look or directories.home_of(key) is not None:
            return False
        if directories.was_never_made(key):
            return False
        is_trusted = self._broker_id in partition.isr or self._broker_id in partition.elr
        return is_trusted and len(partition.replicas) > 1

    def _look_after_lost(self, key: PartitionKey, hosted: HostedReplica, assignment: Assign) -> None:
        """Have it leave the in-sync set; once it has, it may come back by copying everything."""
        partition = self._image.partition(key)
        if partition is None:
            return
        is_trusted = self._broker_id in partition.isr or self._broker_id in partition.elr
        is_marked = self._is_marked(key)
        if is_trusted and not is_marked:
            self._ask_for_election(key, assignment.leader_epoch, is_offline=True, reason="its log is gone or damaged")
        elif not is_trusted:
            hosted.is_lost = False
            self._reelections.pop(key, None)  # that it is lost need not be said any more
            if is_marked:
                self._ask_to_unmark(key, assignment)

    def _is_marked(self, key: PartitionKey) -> bool:
        """Say whether the image has the replica of this life of the broker as offline."""
        partition, session = self._image.partition(key), self._session
        if partition is None or session is None:
            return False
        return Offline(self._broker_id, session.incarnation) in partition.offline

    def _ask_to_unmark(self, key: PartitionKey, assignment: Assign) -> None:
        pending = self._reelections.get(key)
        if pending is None or pending.is_offline:
            reason = "it copies its log anew"
            self._ask_for_election(key, assignment.leader_epoch, is_offline=False, reason=reason)

    def on_log_lost(self, lost: LogLost) -> None:
        """It was elected before anybody could know; or found its log damaged just now."""
        hosted = self._hosted.get(lost.key)
        if hosted is None:
            return
        if not hosted.is_lost:
            hosted.is_lost = True
            hosted.assignment = msgspec.structs.replace(hosted.assignment, is_lost=True)
            if (replica := self._replica(hosted)) is not None:
                replica.post(hosted.assignment)
        event(logger, "log.lost", logging.ERROR, partition=str(hosted.name), why=lost.why)
        self._apply(lost.key)

    # -- the controller --------------------------------------------------------------------------------

    def on_isr_proposed(self, proposed: IsrProposed) -> None:
        self._proposals.append(proposed.entry)

    def on_drained(self) -> None:
        """What the leaders of a turn propose goes to the controller together."""
        if not self._proposals:
            return
        entries, self._proposals = self._proposals, []
        session = self._session
        request = m.AlterPartitionRequest(
            broker_id=self._broker_id, incarnation=session.incarnation if session else "", entries=entries
        )
        self._ask_controller(
            request, lambda reply: self.tell_self(_IsrReplied(entries, reply)), timeout_ms=ISR_TIMEOUT_MS
        )

    def on_isr_replied(self, replied: _IsrReplied) -> None:
        reply = replied.reply
        known: dict[PartitionKey, m.AlterPartitionEntryReply] = {}
        if isinstance(reply, m.AlterPartitionReply) and not reply.error:
            known = {PartitionKey(TopicId(one.topic_id), one.partition): one for one in reply.entries}
        for entry in replied.entries:
            key = PartitionKey(TopicId(entry.topic_id), entry.partition)
            hosted = self._hosted.get(key)
            replica = self._replica(hosted) if hosted is not None else None
            if replica is not None:
                asked = frozenset(one.broker_id for one in entry.isr)
                replica.post(IsrAnswered(entry.leader_epoch, entry.partition_epoch, asked, known.get(key)))

    def on_for_controller(self, asked: ForController) -> None:
        self._ask_controller(asked.request)

    def _ask_controller(
        self,
        request: m.Request,
        on_reply: Callable[[m.Reply | CallboardError], Any] = lambda _: None,
        timeout_ms: int = REELECT_RETRY_MS,
    ) -> None:
        """Ask whoever is active; without an answer the asker asks again, after a time of its own."""
        self._line.ask(self._image, request, on_reply, timeout_ms)

    # -- the directories -------------------------------------------------------------------------------

    def _find_logs(self) -> None:
        """Make sure that the directories are ours, and learn which log lies where."""
        for directory in self._directories.all:
            if not directory.is_readable:
                continue
            try:
                if not directory.is_failed:
                    image = self._image
                    identify(self.context.files, directory, cluster_id=image.cluster_id, broker_id=self._broker_id)
                self._find_logs_in(directory)
            except OSError as error:
                if not is_disk_failure(error):
                    raise
                directory.is_readable = False
                directory.fail(f"cannot be read: {error.strerror or error}")
                event(logger, "directory.offline", logging.ERROR, path=directory.path, why=directory.failure)
        assigned, stamp = self._image.partitions_of(self._broker_id), str(self._image.version)
        try:
            learn(self.context.files, self._directories, assigned, self._image.is_deleted, stamp)
        except OSError as error:  # whoever writes there will hear of it; until then what is not there counts as lost
            event(logger, "made.unknown", logging.WARNING, error=error)

    def _find_logs_in(self, directory: LogDirectory) -> None:
        """Note the logs; remove those of deleted topics, rename those that the metadata do not know (rule 3)."""
        files = self.context.files
        running = {ref.actor.key: ref for ref in self.context.directory if isinstance(ref.actor, Replica)}
        for name in filter(is_log_name, files.list_dir(directory.path)):
            topic_id, _, number = name.rpartition("-")
            key, path = PartitionKey(TopicId(topic_id), int(number)), f"{directory.path}/{name}"
            if self._image.partition(key) is not None:
                if (home := self._directories.found(key, directory)) is not directory:
                    raise ConfigurationError(
                        f"{name} lies in {home.path} and in {directory.path}: remove the wrong one"
                    )
            elif directory.is_failed:
                continue
            elif self._image.is_deleted(key.topic_id):
                if (replica := running.get(key)) is not None:
                    replica.post(Discard())  # this actor was restarted when it should have told it
                    continue
                with contextlib.suppress(FileNotFoundError):  # a job of an earlier life is at it, too
                    files.remove_tree(path)
                event(logger, "log.removed", directory=name, why="topic was deleted meanwhile")
            else:
                files.rename(path, f"{path}.stray")
                event(logger, "log.stray", logging.WARNING, directory=name, now=f"{name}.stray")

    def on_directory_failed(self, failed: DirectoryFailed) -> None:
        """A disk failed under one log: all logs of its directory go offline here, and nothing is synced there again."""
        directory = self._directories.at(failed.path)
        directory.fail(failed.why)
        event(logger, "directory.failed", logging.CRITICAL, path=directory.path, why=directory.failure)
        files, mark, why = self.context.files, f"{directory.path}/{FAILED_FILE}", directory.failure.encode()
        self.context.pool.submit(lambda: files.write_bytes(mark, why), _ignore)  # if the disk still can
        for key in self._directories.keys_in(directory):
            if (hosted := self._hosted.get(key)) is not None:
                self._take_offline(key, hosted)

    def _take_offline(self, key: PartitionKey, hosted: HostedReplica) -> None:
        if (replica := self._replica(hosted)) is not None:
            replica.post(GoOffline())
        event(logger, "partition.offline", logging.ERROR, partition=str(hosted.name), error=hosted.home.failure)
        reason = f"its directory failed: {hosted.home.failure}"
        self._ask_for_election(key, hosted.assignment.leader_epoch, is_offline=True, reason=reason)

    def on_look_at_room(self, _: LookAtRoom) -> None:
        job = measuring(self.context.files, self._directories.live)
        self.in_pool(job, lambda found, _: Measured(found or {}))

    def on_measured(self, measured: Measured) -> None:
        for news, directory in self._directories.on_measured(measured.free_bytes):
            if news == GONE:
                why = "it is gone: somebody removed it, or took its disk away"
                self.on_directory_failed(DirectoryFailed(directory.path, why))
                continue
            level = logging.ERROR if news == FULL else logging.WARNING
            event(logger, f"directory.{news}", level, path=directory.path, free_bytes=directory.free_bytes)
        self.set_timer(self._config.broker.storage_check_ms, LookAtRoom())

    # -- inside ----------------------------------------------------------------------------------------

    def _replica(self, hosted: HostedReplica) -> LoopRef | None:
        return self.context.directory.find(f"{self._broker_address}/partitions/{hosted.name}")

    def _tell(self, sibling: str, message: Any) -> bool:
        ref = self.context.directory.find(f"{self._broker_address}/{sibling}")
        return ref is not None and ref.post(message)


def _ignore(_: Any, __: BaseException | None) -> None:
    """Nobody waits for this job."""
