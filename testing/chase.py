"""Faults that wait for their moment: they look at the cluster, as the laws do, and strike where it hurts.

Bugs of replication live in windows of milliseconds: between an append and its copies, between a proposal and its
commit, between a decision and the store. A fault at a random time hits such a window now and then; a *chase* waits
for it, as a person does who wants to break the thing. For as long as it is open, and as often as its ``amount`` says:

- ``chase-leader``: a leader has appended, in its own epoch, what not every live replica has. What befalls it: ``kill``,
  ``power``, ``fail`` (the replica's actor alone) or ``cut`` (from brokers and metadata).
- ``chase-joiner``: a leader wants a follower in the in-sync set, and it is not stored yet. The follower: ``power``,
  ``kill``, or ``cut`` (from the leader); its leader's word, and its own copies, travel slowly meanwhile.
- ``chase-controller``: the controller has decided something of a partition, and its commit has not left the process,
  which is paused until another controller holds the lease.
- ``chase-coordinator``: a group has several members, and each has its partitions. Its coordinator's broker is cut from
  brokers and metadata; members still reach it. When another broker coordinates the group, one member's process dies,
  and who comes in its place asks for the coordinator as it is now: so the group has members on both sides.
- ``chase-member``: likewise a group, and one of its members is paused until it is out and does not know.

What is random comes from a stream of each fault's own. What it looks at is what ``observing`` shows: it touches
nothing before it strikes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..actors.controller.controller import Controller
from ..actors.metadata.documents import PartitionDocument
from ..model import PartitionKey
from .nemesis import GROUP_CHASES, PAUSE_MS_MAX, Fault, Nemesis
from .observing import GroupView, ReplicaView, is_deciding
from .simulated import METADATA, SimulatedProcess

SLOW_WORD_MS = 60.0  # what a leader's proposal takes when its follower is chased
CUT_MS = (100.0, 400.0, 1_200.0)
BACK_MS = (60.0, 250.0, 900.0)
PAUSE_MS = 1_500.0  # of a member: longer than its session
SETTLED_MS = 200.0  # from when a member has its partitions to when it is paused, at most: it has something to commit
STRANGE_MS = 4_000.0  # that a coordinator is cut off: until its session is over, its successor serves, members are out


@dataclass
class _Chase:
    fault: Fault
    chance: random.Random
    done: set[Any] = field(default_factory=set)  # moments that were used

    @property
    def is_used_up(self) -> bool:
        return len(self.done) >= max(1, int(self.fault.amount))


@dataclass
class _Strange:
    """The process of a coordinator that was cut off."""

    name: str
    chance: random.Random
    has_successor: bool = False


class Chases:
    """Those that are open. Shown every change of a replica, of the store, and of a controller."""

    def __init__(
        self,
        seed: int | str,
        nemesis: Nemesis,
        *,
        views_of: Callable[[PartitionKey], Iterable[ReplicaView]],
        document_of: Callable[[PartitionKey], PartitionDocument | None],
        controller_of: Callable[[], str],
    ) -> None:
        """``views_of``: the live replicas of a partition; ``controller_of``: the holder of the lease."""
        self._seed, self._nemesis = seed, nemesis
        self._views_of, self._document_of, self._controller_of = views_of, document_of, controller_of
        self._open: list[_Chase] = []
        self._asleep: dict[str, tuple[int, random.Random]] = {}  # controllers, and the epoch that they were paused in
        self._strange: dict[str, _Strange] = {}  # by group

    def begin(self, fault: Fault) -> None:
        chase = _Chase(fault, random.Random(f"chase/{self._seed}/{fault.kind}/{fault.target}/{fault.at_ms}"))
        self._open.append(chase)
        self._nemesis.later(fault.for_ms, self._end, chase)

    def on_view(self, view: ReplicaView) -> None:
        if not self._open or not view.is_leader:
            return
        document = self._document_of(view.key)
        if document is None or document.leader_epoch != view.epoch:
            return
        for chase in list(self._open):
            if chase.fault.target != f"partition-{view.key.partition}":
                continue
            if chase.fault.kind == "chase-leader":
                self._chase_leader(chase, view)
            elif chase.fault.kind == "chase-joiner":
                self._chase_joiner(chase, view, document)

    def on_controller(self, process: SimulatedProcess, controller: Controller) -> None:
        for chase in list(self._open):
            if chase.fault.kind == "chase-controller" and is_deciding(controller):
                name, epoch = process.options.name, controller.controller_epoch
                if self._use(chase, epoch):
                    self._asleep[name] = (epoch, chase.chance)
                    self._nemesis.pause(name, PAUSE_MS_MAX)

    def on_lease(self, epoch: int) -> None:
        """The store has granted the lease under an epoch: who was paused under an older one wakes up."""
        for name, (paused_in, chance) in list(self._asleep.items()):
            if epoch > paused_in:
                del self._asleep[name]
                self._nemesis.later(chance.choice((1.0, 10.0, 60.0)) * chance.random(), self._nemesis.resume, name)

    def on_group(self, process: SimulatedProcess, group: GroupView) -> None:
        """A coordinator has done something, and has this group."""
        name = process.options.name
        if (strange := self._strange.get(group.group_id)) is not None:
            self._chase_successor(strange, name, group)
            return
        if len(group.members) > 1 and group.is_settled:
            for chase in self._open:
                if chase.fault.kind in GROUP_CHASES and self._use(chase, (group.group_id, group.epoch)):
                    self._strike_group(chase, name, group)
                    return

    # -- each kind -------------------------------------------------------------------------------------

    def _chase_leader(self, chase: _Chase, view: ReplicaView) -> None:
        has_written = bool(view.marks) and view.marks[-1].epoch == view.epoch
        if not has_written or all(one.log_end_offset >= view.log_end_offset for one in self._views_of(view.key)):
            return
        if self._use(chase, view.epoch):
            delay_ms = chase.chance.choice((0.0, 0.0, 1.0, 5.0))
            self._nemesis.later(delay_ms, self._strike_leader, chase, f"broker-{view.broker}", view.key)

    def _strike_leader(self, chase: _Chase, name: str, key: PartitionKey) -> None:
        chance, nemesis, how = chase.chance, self._nemesis, chase.fault.other
        if how == "fail":
            nemesis.fail_replica(name, key)
        elif how == "cut":
            nemesis.cut_from_servers(name, chance.choice(CUT_MS) * (0.5 + chance.random()))
        else:
            back_ms = chance.choice(BACK_MS) * (0.5 + chance.random())
            nemesis.kill(name, back_ms, power_loss=how == "power", is_noticed=chance.random() < 0.9)

    def _chase_joiner(self, chase: _Chase, view: ReplicaView, document: PartitionDocument) -> None:
        for joiner in sorted(view.isr - set(document.isr)):
            if self._use(chase, (view.epoch, document.partition_epoch, joiner)):
                leader, follower = f"broker-{view.broker}", f"broker-{joiner}"
                slow_ms = SLOW_WORD_MS * (0.5 + chase.chance.random())
                controller = self._controller_of()
                for other in dict.fromkeys((controller, METADATA)):
                    if other not in (leader, follower, ""):
                        self._nemesis.slow_link(leader, other, slow_ms, 4 * slow_ms)
                self._nemesis.later(0.0, self._strike_joiner, chase, leader, follower)

    def _strike_joiner(self, chase: _Chase, leader: str, follower: str) -> None:
        chance, nemesis, how = chase.chance, self._nemesis, chase.fault.other
        if how == "cut":
            nemesis.cut_between(leader, follower, chance.choice(CUT_MS) * (0.5 + chance.random()))
        else:
            is_noticed = chance.random() < 0.5
            if chance.random() < 0.7:  # it cannot copy at once what it has lost
                for one, other in ((leader, follower), (follower, leader)):
                    nemesis.slow_link(one, other, 5 * SLOW_WORD_MS, 10 * SLOW_WORD_MS)
            nemesis.kill(follower, 5.0 + 10 * chance.random(), power_loss=how == "power", is_noticed=is_noticed)

    def _strike_group(self, chase: _Chase, name: str, group: GroupView) -> None:
        nemesis, chance = self._nemesis, chase.chance
        if chase.fault.kind == "chase-member":
            delay_ms = SETTLED_MS * chance.random()
            nemesis.later(delay_ms, nemesis.pause, process_of(chance.choice(group.members)), PAUSE_MS)
        else:
            self._strange[group.group_id] = _Strange(name, chance)
            nemesis.cut_from_servers(name, STRANGE_MS)
            nemesis.later(STRANGE_MS, self._strange.pop, group.group_id)

    def _chase_successor(self, strange: _Strange, name: str, group: GroupView) -> None:
        if name != strange.name and group.members and not strange.has_successor:
            strange.has_successor = True
            member = strange.chance.choice(group.members)
            place = process_of(member).partition("+")[0]  # whichever life it is in
            self._nemesis.later(0.0, self._nemesis.kill_client, place)

    # -- inside ----------------------------------------------------------------------------------------

    def _use(self, chase: _Chase, moment: Any) -> bool:
        """Take a moment; False: it was taken before, or the chase is over."""
        if moment in chase.done or chase.is_used_up:
            return False
        chase.done.add(moment)
        return True

    def _end(self, chase: _Chase) -> None:
        self._open.remove(chase)


def process_of(member_id: str) -> str:
    """Return the process of a member of a simulation."""
    return member_id.partition("/")[0]
