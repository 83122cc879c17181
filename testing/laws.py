"""What must hold at every moment, whatever fails: each law by its name. Checked after each step of a replica.

The laws are those of the model-checked specifications of Kafka's replication (KIP-101, 279, 320, 966) and of KRaft's
simulation. Beside the replicas they look at a *ghost*: all that was ever committed in each partition, as the first
leader that committed it had it. Nothing in the cluster knows it; that is why it can judge all.

| law | what must hold |
|---|---|
| single-leader | of one partition, no two replicas lead in one epoch |
| monotone-epochs | epochs of leaders, partitions and the controller never go back |
| offsets-in-order | log start <= high watermark <= log end, durable <= log end |
| high-watermark-never-falls | … within one leader's epoch |
| committed-is-held | all of the maximal ISR hold what lies below the high watermark (on disk, with flush=ack) |
| one-lineage | … and what they hold there is what the leader holds there |
| isr-is-stored | whom a leader waits for includes whoever the store has in the ISR, in its epoch |
| enough-in-sync | the high watermark moves only while the ISR has min_insync_replicas members |
| commit-agreement | what is committed at an offset is never committed as something else |
| leader-completeness | a leader has all that was committed before its epoch |
| candidate-completeness | whoever may be elected (ISR and ELR) has all that is committed (on disk, with flush=ack) |
| candidate-agreement | … and nothing else where that stands |
| log-matching | below their high watermarks replicas hold the same |
| quorum | ISR and ELR are replicas, without overlap; the ISR is not empty; a leader is in it |
| acked-is-committed | what was acknowledged to acks=all is committed |
| no-deposed-ack | … and is held by every leader of a later epoch that has begun |
| no-deposed-commit | what a leader commits after its time is held by every leader of a later epoch that has begun |
| one-controller | the store takes a controller's word under the epoch of the lease as it is held, only |
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..actors.metadata.documents import NO_LEADER, PartitionDocument
from ..errors import InvariantViolated
from ..model import PartitionKey
from .losses import Losses
from .observing import BatchMark, ReplicaView


class LawBroken(InvariantViolated):
    """A law did not hold. ``law`` is its name."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


class Ghost:
    """What was ever committed in one partition."""

    def __init__(self) -> None:
        self.marks: list[BatchMark] = []
        self.matched: dict[int, int] = {}  # broker -> so many of them are known to stand in its log

    @property
    def end_offset(self) -> int:
        return self.marks[-1].next_offset if self.marks else 0

    def give_up(self, first: BatchMark) -> None:
        """That batch and all behind it are lost, and nobody may be blamed."""
        place = self.marks.index(first)
        del self.marks[place:]
        self.matched = {broker: min(known, place) for broker, known in self.matched.items()}


class Laws:
    """Checks every law on what it is shown, and remembers what it needs for that.

    Raises:
        LawBroken: from every method.
    """

    def __init__(self) -> None:
        self.checks = 0
        self.losses = Losses()
        self.views: dict[tuple[PartitionKey, int], ReplicaView] = {}  # the last of each replica, dead or alive
        self.ghosts: dict[PartitionKey, Ghost] = {}
        self.documents: dict[PartitionKey, PartitionDocument] = {}
        self.controller_epoch = -1
        self._leaders: dict[tuple[PartitionKey, int], tuple[int, str]] = {}  # who led in which epoch
        self._live: dict[PartitionKey, set[int]] = {}  # brokers whose replica is open
        # What is on disk, as far as any life of a replica has known: one that opens its log begins to count anew.
        self._durable: dict[tuple[PartitionKey, int], int] = {}

    # -- what happens ------------------------------------------------------------------------------

    def on_replica(self, view: ReplicaView) -> None:
        """A replica has done something."""
        self.checks += 1
        place = (view.key, view.broker)
        before = self.views.get(place)
        self.views[place] = view
        self._live.setdefault(view.key, set()).add(view.broker)
        ghost = self._ghost(view.key)
        if before is not None and _may_hold_less(before, view):
            ghost.matched[view.broker] = 0
        self._durable[place] = min(view.log_end_offset, max(view.durable_offset, self._durable.get(place, 0)))
        offsets_in_order(view)
        if before is not None and before.life == view.life and view.epoch < before.epoch:
            raise LawBroken("monotone-epochs", f"{_name(view)}: {before.epoch}, then {view.epoch}")
        if view.is_leader:
            self._on_leader(view, before)
        if view.high_watermark >= 0:
            self._log_matching(view)
        self._candidate_completeness(view)

    def on_replica_down(self, key: PartitionKey, broker: int) -> None:
        """Its process has died, or its log was closed: what it holds is known again when it is back."""
        self._live.get(key, set()).discard(broker)
        self._ghost(key).matched.pop(broker, None)

    def live_views(self, key: PartitionKey) -> list[ReplicaView]:
        """Return the replicas of a partition that are open, by broker."""
        return [self.views[key, broker] for broker in sorted(self._live.get(key, set()))]

    def on_broker_down(self, broker: int, *, power_lost_in: str = "") -> None:
        """Its process has died. ``power_lost_in``: its life, if its machine has lost power."""
        if power_lost_in and any(view.flush == "os" for (_, one), view in self.views.items() if one == broker):
            self.losses.on_power_loss(broker, power_lost_in)
        for key in self._live:
            self.on_replica_down(key, broker)

    def on_document(self, key: PartitionKey, document: PartitionDocument | None) -> None:
        """The store holds another state of a partition."""
        self.checks += 1
        before = self.documents.pop(key, None)
        if document is None:
            return
        self.documents[key] = document
        quorum(key, document)
        self.losses.on_document(key, before, document)
        if before is not None:
            for name in ("leader_epoch", "partition_epoch"):
                was, now = getattr(before, name), getattr(document, name)
                if now < was:
                    raise LawBroken("monotone-epochs", f"{key}: {name} {was}, then {now}")
        for broker in self._live.get(key, set()):
            self._candidate_completeness(self.views[key, broker])

    def on_controller_commit(self, epoch: int, lease_epoch: int, is_held: bool) -> None:
        """The store has taken a transaction in the name of the controller of ``epoch``."""
        self.checks += 1
        if epoch != lease_epoch or not is_held:
            detail = f"epoch {epoch} has written while the lease was of epoch {lease_epoch}"
            raise LawBroken("one-controller", detail if is_held else f"{detail} and vacant")

    def on_controller_epoch(self, epoch: int) -> None:
        if epoch < self.controller_epoch:
            raise LawBroken("monotone-epochs", f"controller: {self.controller_epoch}, then {epoch}")
        self.controller_epoch = epoch

    def on_ack(self, broker: int, key: PartitionKey, epoch: int, base_offset: int) -> None:
        """A broker acknowledges an ``acks=all`` batch."""
        self.checks += 1
        if epoch < self.losses.epoch_of(key):
            return  # on its way since before a loss
        ghost = self._ghost(key)
        where = f"{key}: broker {broker} in epoch {epoch} acknowledges offset {base_offset}"
        mark = next((one for one in reversed(ghost.marks) if one.base_offset <= base_offset < one.next_offset), None)
        if mark is None:
            raise LawBroken("acked-is-committed", f"{where}, committed is what lies below {ghost.end_offset}")
        for (other_key, other), view in self.views.items():
            is_later_leader = other_key == key and view.is_leader and view.epoch > epoch and other in self._live[key]
            if is_later_leader and mark.base_offset >= view.log_start_offset and mark not in view.marks:
                raise LawBroken("no-deposed-ack", f"{where}, broker {other} leads in {view.epoch} without it")

    # -- laws of leaders ---------------------------------------------------------------------------

    def _on_leader(self, view: ReplicaView, before: ReplicaView | None) -> None:
        leader = self._leaders.setdefault((view.key, view.epoch), (view.broker, view.life))
        if leader != (view.broker, view.life):
            raise LawBroken("single-leader", f"{_name(view)}: in epoch {view.epoch} {leader} led before")
        is_same = before is not None and before.is_leader and before.epoch == view.epoch
        known = before.high_watermark if before is not None and is_same else -1
        if view.high_watermark < known:
            raise LawBroken("high-watermark-never-falls", f"{_name(view)}: {known}, then {view.high_watermark}")
        if not is_same:
            self._leader_completeness(view)
        if view.high_watermark > known:
            self._on_commit(view, before if is_same else None)

    def _on_commit(self, view: ReplicaView, before: ReplicaView | None) -> None:
        """A leader's high watermark has moved. ``before``: as it led in this epoch when it was last looked at."""
        ghost = self._ghost(view.key)
        if view.high_watermark <= ghost.end_offset and before is None:
            return  # what an earlier leader had committed
        if self.losses.on_late_commit(view):
            return
        self._no_deposed_commit(view)
        self._isr_is_stored(view)
        self._committed_is_held(view, ghost.end_offset)
        if view.high_watermark > ghost.end_offset:
            self._enough_in_sync(view, before)
        self._commit_agreement(view, ghost)
        for other in self._live.get(view.key, set()):
            self._candidate_completeness(self.views[view.key, other])

    def _no_deposed_commit(self, view: ReplicaView) -> None:
        """Leaders of later epochs have begun: what is committed now must stand in their logs."""
        for later in self.live_views(view.key):
            if not later.is_leader or later.epoch <= view.epoch:
                continue
            start = max(view.log_start_offset, later.log_start_offset)
            if differing := _differing(view.marks, later.marks, start, view.high_watermark):
                detail = f"{_name(view)}: commits {differing} in epoch {view.epoch}"
                raise LawBroken("no-deposed-commit", f"{detail}, broker {later.broker} leads in {later.epoch} without")

    def _isr_is_stored(self, view: ReplicaView) -> None:
        document = self.documents.get(view.key)
        if document is None or document.leader_epoch != view.epoch:
            return
        if missing := sorted(set(document.isr) - view.isr):
            detail = f"{_name(view)}: to {view.high_watermark} on the word of {sorted(view.isr)}"
            raise LawBroken("isr-is-stored", f"{detail}, stored in the ISR are {missing}, too")

    def _enough_in_sync(self, view: ReplicaView, before: ReplicaView | None) -> None:
        """A step is all that its mailbox held: the set may have shrunk behind the move. Then enough of it hold that."""
        if len(view.isr) >= view.min_insync_replicas:
            return
        counted = before.isr if before is not None else view.isr
        is_unsure = self.losses.is_unsure  # it did hold it
        holders = [
            one for one in counted if is_unsure(view.key, one) or self._held_by(view, one) >= view.high_watermark
        ]
        if len(holders) < view.min_insync_replicas:
            detail = f"{_name(view)}: to {view.high_watermark} with {sorted(view.isr)} in sync"
            raise LawBroken("enough-in-sync", detail)

    def _held_by(self, leader: ReplicaView, member: int) -> int:
        """Return below which offset a replica holds the log in the sense of ``flush``; -1: it was never seen."""
        other = self.views.get((leader.key, member))
        if other is None:
            return -1
        return self._durable[leader.key, member] if leader.flush == "ack" else other.log_end_offset

    def _committed_is_held(self, view: ReplicaView, from_offset: int) -> None:
        for member in sorted(view.isr):
            if self.losses.is_unsure(view.key, member):
                continue  # it did hold it
            other = self.views.get((view.key, member))
            held = self._held_by(view, member)
            if other is None or held < view.high_watermark:
                detail = f"{_name(view)}: high watermark {view.high_watermark}, broker {member} holds {held}"
                raise LawBroken("committed-is-held", detail)
            start = max(from_offset, view.log_start_offset, other.log_start_offset)
            if differing := _differing(view.marks, other.marks, start, view.high_watermark):
                detail = f"{_name(view)}: high watermark {view.high_watermark}, broker {member} has not {differing}"
                raise LawBroken("one-lineage", detail)

    def _commit_agreement(self, view: ReplicaView, ghost: Ghost) -> None:
        """Extend the ghost by what this leader has committed; what overlaps must be the same."""
        first = _first_at(view.marks, ghost.marks[-1].base_offset if ghost.marks else 0)
        for mark in islice(view.marks, first, None):
            if mark.next_offset > view.high_watermark:
                return
            if mark.next_offset > ghost.end_offset:
                if ghost.marks and mark.base_offset != ghost.end_offset:
                    raise LawBroken("commit-agreement", f"{_name(view)}: {mark} behind {ghost.marks[-1]}")
                ghost.marks.append(mark)
            elif mark != ghost.marks[-1]:
                raise LawBroken("commit-agreement", f"{_name(view)}: {mark}, committed was {ghost.marks[-1]}")

    def _leader_completeness(self, view: ReplicaView) -> None:
        document = self.documents.get(view.key)
        if document is not None and document.leader_epoch > view.epoch:
            return  # it begins after its time: what was committed since is not before its epoch
        missing, ghost = self._missing(view), self._ghost(view.key)
        lost = None if missing is None else (missing.base_offset, ghost.end_offset)
        if self.losses.on_leads(view, lost):
            if missing is not None:
                ghost.give_up(missing)
        else:
            detail = f"{_name(view)}: leads in epoch {view.epoch}, its log ends at {view.log_end_offset}"
            raise LawBroken("leader-completeness", f"{detail} and lacks {missing}")

    # -- laws of all replicas ----------------------------------------------------------------------

    def _candidate_completeness(self, view: ReplicaView) -> None:
        document = self.documents.get(view.key)
        if document is None or view.broker not in (*document.isr, *document.elr):
            return
        if self.losses.is_unsure(view.key, view.broker):
            return
        if missing := self._missing(view):
            law = "candidate-agreement" if view.log_end_offset > missing.base_offset else "candidate-completeness"
            detail = f"{_name(view)}: in ISR {document.isr} or ELR {document.elr}, log end {view.log_end_offset}"
            raise LawBroken(law, f"{detail}, lacks {missing}")
        durable, committed = self._durable[view.key, view.broker], self._ghost(view.key).end_offset
        if view.flush == "ack" and durable < committed:
            detail = f"{_name(view)}: in ISR {document.isr} or ELR {document.elr}, on disk below {durable}"
            raise LawBroken("candidate-completeness", f"{detail}, committed below {committed}")

    def _log_matching(self, view: ReplicaView) -> None:
        document = self.documents.get(view.key)
        if document is not None and view.broker not in document.isr and self.losses.epoch_of(view.key) >= 0:
            return  # it may not have heard of the loss
        if missing := self._missing(view, up_to_offset=min(view.high_watermark, view.log_end_offset)):
            raise LawBroken("log-matching", f"{_name(view)}: below {view.high_watermark} it lacks {missing}")

    def _missing(self, view: ReplicaView, up_to_offset: int | None = None) -> BatchMark | None:
        """Return the first committed batch that a replica does not have; None: it has all."""
        ghost = self._ghost(view.key)
        known = ghost.matched.get(view.broker, 0)
        at = _first_at(view.marks, ghost.marks[known].base_offset) if known < len(ghost.marks) else 0
        for place in range(known, len(ghost.marks)):
            mark = ghost.marks[place]
            if up_to_offset is not None and mark.next_offset > up_to_offset:
                break
            if mark.next_offset > view.log_start_offset:
                if at >= len(view.marks) or view.marks[at] != mark:
                    return mark
                at += 1
            ghost.matched[view.broker] = place + 1
        return None

    def _ghost(self, key: PartitionKey) -> Ghost:
        ghost = self.ghosts.get(key)
        if ghost is None:
            ghost = self.ghosts[key] = Ghost()
        return ghost


def offsets_in_order(view: ReplicaView) -> None:
    if view.is_leader and not view.log_start_offset <= view.high_watermark <= view.log_end_offset:
        detail = f"log start {view.log_start_offset}, high watermark {view.high_watermark}, end {view.log_end_offset}"
        raise LawBroken("offsets-in-order", f"{_name(view)}: {detail}")
    if view.durable_offset > view.log_end_offset or view.log_start_offset > view.log_end_offset:
        detail = f"log start {view.log_start_offset}, durable {view.durable_offset}, end {view.log_end_offset}"
        raise LawBroken("offsets-in-order", f"{_name(view)}: {detail}")


def quorum(key: PartitionKey, document: PartitionDocument) -> None:
    replicas, isr, elr = set(document.replicas), set(document.isr), set(document.elr)
    is_sound = isr and isr <= replicas and elr <= replicas and not isr & elr
    if not is_sound or document.leader not in (isr | {NO_LEADER}):
        raise LawBroken("quorum", f"{key}: {document}")


def same_logs(views: Iterable[ReplicaView]) -> dict[PartitionKey, dict[int, list[BatchMark]]]:
    """Return what each replica holds below its leader's high watermark: for ``history.divergences``."""
    by_key: dict[PartitionKey, list[ReplicaView]] = {}
    for view in views:
        by_key.setdefault(view.key, []).append(view)
    found: dict[PartitionKey, dict[int, list[BatchMark]]] = {}
    for key, replicas in by_key.items():
        start = max(view.log_start_offset for view in replicas)
        end = max((view.high_watermark for view in replicas if view.is_leader), default=0)
        found[key] = {
            view.broker: [mark for mark in view.marks if start < mark.next_offset <= end] for view in replicas
        }
    return found


def _may_hold_less(before: ReplicaView, after: ReplicaView) -> bool:
    is_same_log = before.life == after.life and before.cuts == after.cuts
    return not is_same_log or after.log_end_offset < before.log_end_offset


def _differing(marks: list[BatchMark], others: list[BatchMark], start: int, end: int) -> BatchMark | None:
    """Return the first batch within [start, end) that does not stand in the other log as well."""
    at, there = _first_at(marks, start), _first_at(others, start)
    for place in range(at, len(marks)):
        mark = marks[place]
        if mark.next_offset > end:
            return None
        if there >= len(others) or others[there] != mark:
            return mark
        there += 1
    return None


def _first_at(marks: list[BatchMark], base_offset: int) -> int:
    """Return the place of the first mark at or behind an offset. Most often near the end."""
    at = len(marks)
    while at and marks[at - 1].base_offset >= base_offset:
        at -= 1
    return at


def _name(view: ReplicaView) -> str:
    return f"{view.key} on broker {view.broker} ({view.role})"
