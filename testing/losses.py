"""What may be lost, and was: power that takes what was on no disk (``flush="os"``), elections that a person ordered.

With ``flush="os"`` a record is committed when it is in the page cache of all that are in sync; a machine that loses
power forgets what it had not synced. So a replica whose machine lost power is *unsure* until it was in sync anew, in a
later life; so much is known here better than in the cluster, which must find out. The rules:

1. Whoever is unsure need not hold what is committed. Whoever is not must, as ever.
2. Of those who may be elected (ISR and ELR) an unsure one leads only if none of them is sure, alive or not: a kill
   takes nothing. (But for the next life of one that was sure for less than ``actors.boots.SETTLED_MS``: a broker cannot
   tell that its machine has not booted since.) Or if it was elected by a person's order: alone in sync and with nobody
   eligible, as an unclean election leaves it. An order allows nothing to any other election, before or after it.
3. What a leader by rule 2 does not have is *lost*: a ``Loss``, of what lies above the end of its log when it begins,
   and was acknowledged before. It is not asked for any more, and clients' histories are judged without it; what it, or
   a later leader, acknowledges at the same offsets is promised as ever.
4. Each loss is told in the log, by the name of the election.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from ..actors.metadata.documents import NO_LEADER, PartitionDocument
from ..actors.metadata.sessions import first_life
from ..model import PartitionKey, TopicPartition
from .history import History, Moved, Polled
from .observing import ReplicaView

UNKNOWN = -1  # the epoch of what nobody was told of an acknowledgement
TELLING = re.compile(r"^leader\.elected_(?:unclean|after_reboot) .*?partition=\S+-(\d+) .*?epoch=(\d+)")


class Loss(NamedTuple):
    """What stood in [from_offset, to_offset) was committed, and the leader of ``epoch`` does not have it.

    ``last_epoch``: of the leader before; others may have been elected between, and never have begun.
    """

    key: PartitionKey
    last_epoch: int
    epoch: int
    broker: int
    from_offset: int
    to_offset: int


class Losses:
    """Who is unsure, who might have led, what was lost."""

    def __init__(self) -> None:
        self.found: list[Loss] = []
        self._suspect: dict[int, int] = {}  # broker -> its last life that ended by power loss
        self._life: dict[int, int] = {}  # broker -> its latest life
        self._sure: dict[tuple[PartitionKey, int], int] = {}  # … the latest life of which it is known to hold all
        self._could_lead: dict[tuple[PartitionKey, int], tuple[int, ...]] = {}  # by leader epoch: who was sure then
        self._led: dict[PartitionKey, int] = {}  # the latest epoch in which a leader has begun
        self._chosen: dict[PartitionKey, int] = {}  # elected by order, and has not begun to lead
        self._given_up: dict[PartitionKey, tuple[int, int]] = {}  # the latest epoch that may begin with less; its start
        self._ordered: set[int] = set()  # partitions whose unclean election a person has ordered
        self._by_order: set[tuple[PartitionKey, int]] = set()  # leader epochs that began as an unclean election does

    # -- what happens ------------------------------------------------------------------------------

    def on_life(self, broker: int, life: str) -> None:
        self._life[broker] = number_of(life)

    def on_power_loss(self, broker: int, life: str) -> None:
        self._suspect[broker] = number_of(life)

    def on_order(self, partition: int) -> None:
        self._ordered.add(partition)

    def on_document(self, key: PartitionKey, before: PartitionDocument | None, after: PartitionDocument) -> None:
        if before is not None and after.leader != NO_LEADER and after.leader_epoch != before.leader_epoch:
            candidates = (*before.isr, *before.elr)
            if key.partition in self._ordered and after.isr == (after.leader,) and not after.elr:
                self._by_order.add((key, after.leader_epoch))
                if after.leader not in candidates:
                    self._chosen[key] = after.leader
            self._could_lead[key, after.leader_epoch] = tuple(
                one for one in candidates if self._is_known_sure(key, one)
            )
        if self._chosen.get(key) not in after.isr:
            self._chosen.pop(key, None)  # somebody else was elected before it began
        for mark in after.caught_up:
            if mark.broker_id != after.leader:  # a leader is sure when it has begun: what it has is the truth then
                self._note_sure(key, mark.broker_id, mark.incarnation)

    def on_leads(self, view: ReplicaView, missing: tuple[int, int] | None) -> bool:
        """A leader begins; ``missing``: from and to which offset it misses what was committed. False: it must not."""
        key, epoch = view.key, view.epoch
        may_miss = self._chosen.pop(key, None) is not None or self.is_unsure(key, view.broker)
        if missing is not None:
            if not may_miss or (self._could_lead.get((key, epoch), ()) and (key, epoch) not in self._by_order):
                return False
            self.found.append(Loss(key, self._led.get(key, -1), epoch, view.broker, *missing))
        if may_miss:
            self._given_up[key] = (epoch, view.log_end_offset)
        self._led[key] = max(self._led.get(key, -1), epoch)
        self._note_sure(key, view.broker, view.life)
        return True

    def on_late_commit(self, view: ReplicaView) -> bool:
        """A leader commits. True: it was given up, and what it commits that its successor does not have is lost."""
        epoch, start_offset = self._given_up.get(view.key, (-1, 0))
        if view.epoch >= epoch:
            return False
        if view.high_watermark > start_offset:
            self.found.append(Loss(view.key, -1, epoch, view.broker, start_offset, view.high_watermark))
        return True

    # -- what is asked -----------------------------------------------------------------------------

    def is_unsure(self, key: PartitionKey, broker: int) -> bool:
        if self._chosen.get(key) == broker:
            return True
        return self._sure.get((key, broker), -1) <= self._suspect.get(broker, -2)

    def _is_known_sure(self, key: PartitionKey, broker: int) -> bool:
        if broker not in self._suspect:
            return True
        return not self.is_unsure(key, broker) and self._sure[key, broker] == self._life[broker]

    def epoch_of(self, key: PartitionKey) -> int:
        """Return the latest epoch whose leader may have begun with less than was committed; -1: there was none."""
        return self._given_up.get(key, (-1, 0))[0]

    def untold(self, lines: Iterable[str]) -> list[Loss]:
        """Return the losses that the log does not tell of."""
        told = [(int(match[1]), int(match[2])) for match in map(TELLING.match, lines) if match]
        return [
            one
            for one in self.found
            if not any(number == one.key.partition and one.last_epoch < epoch <= one.epoch for number, epoch in told)
        ]

    def _note_sure(self, key: PartitionKey, broker: int, life: str) -> None:
        self._sure[key, broker] = max(self._sure.get((key, broker), -1), number_of(life))


def number_of(life: str) -> int:
    """Return which life of its process this is: they count from 1."""
    return int(first_life(life).rpartition("-")[2])


def without_losses(history: History, losses: Iterable[Loss], topic: str, final: str) -> History:
    """Return a history without what was lost: nobody promised that it is still there, or that nothing else is.

    An acknowledgement of it counts as an unknown outcome. A reader of it, unless the reader at the end found the same,
    is somewhere else then. What was acknowledged there in the epoch of the loss, or later, is not lost by it.
    """
    ranges: dict[TopicPartition, list[tuple[int, int, int]]] = {}
    for loss in losses:
        place = TopicPartition(topic, loss.key.partition)
        ranges.setdefault(place, []).append((loss.from_offset, loss.to_offset, loss.epoch))
    epochs = {(send.partition, send.offset, send.value): send.epoch for send in history.sends if send.outcome == "ok"}

    def is_lost(partition: TopicPartition, offset: int, value: Hashable) -> bool:
        epoch = epochs.get((partition, offset, value), UNKNOWN)
        return any(start <= offset < end and epoch < before for start, end, before in ranges.get(partition, ()))

    there = {(one.partition, one.offset): one.value for one in history.polls.get(final, ()) if isinstance(one, Polled)}
    kept = History(finals=history.finals, starts=history.starts)
    for send in history.sends:
        is_gone = (
            is_lost(send.partition, send.offset, send.value) and there.get((send.partition, send.offset)) != send.value
        )
        kept.sends.append(send._replace(outcome="info", offset=-1, epoch=-1) if is_gone else send)
    for consumer, polls in history.polls.items():
        for poll in polls:
            if not isinstance(poll, Polled) or not is_lost(poll.partition, poll.offset, poll.value):
                kept.polls[consumer].append(poll)
                continue
            if there.get((poll.partition, poll.offset)) == poll.value:  # sent again, and at the same place
                kept.polls[consumer].append(poll)
            kept.polls[consumer].append(Moved(poll.partition))
    return kept
