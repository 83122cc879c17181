"""Who is in sync: what a leader knows of its followers, and the in-sync set that it wants committed. Pure.

The in-sync set (ISR) is the promise behind ``acks=all``: whoever is in it holds, or will hold before anything is
acknowledged, all that is acknowledged. So it is never changed by a leader alone: a change is *proposed* to the
controller, compared there with the partition's epochs (R5), and true when it is committed. Rules of this file:

1. What a follower says counts only in the leader's own epoch, and only after its lineage was found to agree (R2, R3).
   A member that was not heard in this epoch holds the watermark back: nobody guesses where it is.
2. The *maximal* ISR decides what is committed: the committed set and the additions that are proposed. A member that is
   proposed for removal counts until the removal is committed (R3, B9).
3. One proposal at a time. Until its outcome is known it stays proposed, and the same one is sent again; a partition
   epoch above the one it was compared with settles it. One that only removes may be given up for what is true now, for
   all of its members count in any case (rule 2): a link that has healed must not cost anybody his place. Told that the
   partition was changed meanwhile, the leader waits for the metadata: what changed may be the minimum, and a set must
   never be judged by an older one.
4. In: whose copy has reached the high watermark *and* the start of this epoch (R4), in the life in which it did so: the
   proposal names the incarnation (B10). Under ``flush="ack"`` a copy is what is durable. Who left must be heard anew,
   and nobody joins who would be out again by rule 5. Whoever the controller does not take (it may be dead, and holds
   all that it held) does not keep the others out: the next proposal is made without it, and it is proposed again
   later, and later each time, alone.
5. Out: who has not had everything for ``replica_lag_ms``. Had everything when? When it holds now what the log was at a
   moment before (Kafka's rule); and whoever holds all of an idle log has it now, however long ago it spoke.
6. What was deleted stays deleted, whoever of the set leads next: ``delete_records`` is confirmed when no member's log
   would begin before that after a crash, and whose log would does not join.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import ErrorCode
from ...model import BrokerId, LeaderEpoch, Offset
from ...transport.messages import FollowerDescription, IsrMember
from .events import IsrAnswered, ProposeIsr
from .progress import Position, high_watermark

UNHEARD, NO_OFFSET = Offset(-1), Offset(0)

# After these the proposal was not committed, and never will be with that partition epoch. INELIGIBLE_REPLICA is not one
# of them by itself: who was not live may be so when another copy of the proposal arrives. Nor is FENCED_LEADER_EPOCH:
# it may have been committed before the next epoch began, and whoever was added may lead in that one.
_SETTLED = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
)
LOOKS_PER_LAG = 3  # at followers that are behind, within the time they are given
REFUSAL_DOUBLINGS_MAX = 6  # of the looks before a follower that was not taken is proposed again


@dataclass(slots=True)
class Follower:
    """One other replica, as its fetches of this epoch show it."""

    broker_id: BrokerId
    caught_up_ms: int  # when it last had everything; begins with the epoch
    incarnation: str = ""  # of its broker, at its last fetch; another one begins unheard
    log_end_offset: Offset = UNHEARD  # <= the leader's; moved by fetches alone
    durable_offset: Offset = UNHEARD  # <= log_end_offset; moved by fetches and progress
    log_start_offset: Offset = NO_OFFSET  # of its log after any crash; moved by fetches and progress
    told_start_offset: Offset = NO_OFFSET  # where the leader's log begins, as it was told last
    mark_offset: Offset = UNHEARD  # the leader's log end at mark_ms: held, it was caught up then
    mark_ms: int = 0
    refusals: int = 0  # in a row, in this life of it, of being added to the set
    looks_to_wait: int = 0  # before it is proposed again

    @property
    def is_heard(self) -> bool:
        return self.log_end_offset != UNHEARD


@dataclass(frozen=True, slots=True)
class _Proposal:
    partition_epoch: int  # it is compared with this one
    isr: tuple[IsrMember, ...]
    members: frozenset[BrokerId]


class InSync:
    """The in-sync set of one leader in one epoch."""

    def __init__(
        self,
        broker_id: BrokerId,
        *,
        epoch: LeaderEpoch,
        partition_epoch: int,
        replicas: Iterable[int],
        isr: Iterable[int],
        flush: str,
        lag_ms: int,
        now_ms: int,
    ) -> None:
        self.broker_id = broker_id
        self.epoch = epoch
        self.partition_epoch = partition_epoch  # of the committed set; only grows
        self.isr = frozenset(BrokerId(one) for one in isr)  # committed; holds broker_id, always
        self.flush = flush
        self.lag_ms = lag_ms
        self.followers = {
            BrokerId(one): Follower(BrokerId(one), caught_up_ms=now_ms) for one in replicas if one != broker_id
        }
        self._proposal: _Proposal | None = None
        self._overtaken: _Proposal | None = None  # the one before, if its answer was not known when it was void
        self._is_refused = False  # lately: the next look asks again, not the next fetch

    # -- who holds what ------------------------------------------------------------------------------

    @property
    def maximal(self) -> frozenset[BrokerId]:
        """The committed set and the additions that are proposed (rule 2)."""
        return self.isr | self._proposal.members if self._proposal else self.isr

    def high_watermark(self, own: Position) -> Offset | None:
        """Return what the maximal set holds; None: a member of it was not heard in this epoch."""
        if len(self.isr) == 1 and self._proposal is None:
            return own.durable_offset if self.flush == "ack" else own.log_end_offset
        positions = {self.broker_id: own}
        for broker_id in self.maximal:  # R3
            if broker_id == self.broker_id:
                continue
            follower = self.followers.get(broker_id)
            if follower is None or not follower.is_heard:
                return None
            positions[broker_id] = Position(follower.log_end_offset, follower.durable_offset)
        return high_watermark(positions, self.maximal, flush=self.flush)

    def log_start_offset(self, own: Offset) -> Offset:
        """Return where the log begins, at the earliest, whoever of the maximal set leads after any crash."""
        others = [self.followers.get(one) for one in self.maximal if one != self.broker_id]
        return min([own, *(one.log_start_offset if one and one.is_heard else Offset(0) for one in others)])

    def held_by(self, follower: Follower) -> Offset:
        """Return below which offset a follower holds the log, in the sense of the topic's ``flush``."""
        return follower.durable_offset if self.flush == "ack" else follower.log_end_offset

    # -- what is heard -------------------------------------------------------------------------------

    def on_position(
        self,
        follower: Follower,
        incarnation: str,
        log_end_offset: Offset,
        durable_offset: Offset,
        leader_end_offset: Offset,
        now_ms: int,
        log_start_offset: Offset = NO_OFFSET,
    ) -> None:
        """A follower has said, in this epoch and of a log that agrees with this one, how far it is."""
        if incarnation != follower.incarnation:
            follower.incarnation = incarnation
            follower.mark_offset = UNHEARD
            follower.told_start_offset = Offset(0)
            follower.refusals = follower.looks_to_wait = 0
        follower.looks_to_wait = min(follower.looks_to_wait, 1)  # it lives, at least
        follower.log_end_offset = log_end_offset
        follower.durable_offset = min(durable_offset, log_end_offset)
        follower.log_start_offset = log_start_offset
        self._note_caught_up(follower, leader_end_offset, now_ms)

    def on_progress(
        self,
        follower: Follower,
        durable_offset: Offset,
        leader_end_offset: Offset,
        now_ms: int,
        log_start_offset: Offset = NO_OFFSET,
    ) -> None:
        """More of what it has is on its disk."""
        follower.log_start_offset = max(follower.log_start_offset, log_start_offset)
        follower.durable_offset = max(follower.durable_offset, min(durable_offset, follower.log_end_offset))
        self._note_caught_up(follower, leader_end_offset, now_ms)

    def before_append(self, leader_end_offset: Offset, now_ms: int) -> None:
        """The log is about to grow: whoever holds all of it is caught up until now (rule 5)."""
        for follower in self.followers.values():
            if follower.is_heard and self.held_by(follower) >= leader_end_offset:
                follower.caught_up_ms = now_ms

    def _note_caught_up(self, follower: Follower, leader_end_offset: Offset, now_ms: int) -> None:
        held = self.held_by(follower)
        if held >= leader_end_offset:
            follower.caught_up_ms = now_ms
        elif follower.mark_offset != UNHEARD and held >= follower.mark_offset:
            follower.caught_up_ms = max(follower.caught_up_ms, follower.mark_ms)
        elif follower.mark_offset != UNHEARD:
            return  # not there yet
        follower.mark_offset, follower.mark_ms = leader_end_offset, now_ms

    # -- the set -------------------------------------------------------------------------------------

    def propose(
        self, leader_end_offset: Offset, needed_offset: Offset, now_ms: int, needed_start_offset: Offset = NO_OFFSET
    ) -> ProposeIsr | None:
        """Return the change that is due, if one is and none is under way.

        Args:
            needed_offset: the high watermark or the start of this epoch, whichever is higher (rule 4).
            needed_start_offset: where the leader's log begins: what was deleted stays deleted (rule 6).
        """
        if self._proposal is not None or self._is_refused:
            return None
        joining = self._joining(leader_end_offset, needed_offset, now_ms, needed_start_offset)
        leaving = {
            one.broker_id
            for one in self.followers.values()
            if one.broker_id in self.isr and self._is_lagging(one, leader_end_offset, now_ms)
        }
        if not joining and not leaving:
            return None
        members = (self.isr | joining) - leaving
        isr = tuple(
            IsrMember(broker_id=one, incarnation=self.followers[one].incarnation if one in self.followers else "")
            for one in sorted(members)
        )
        self._proposal = _Proposal(self.partition_epoch, isr, members)
        return self._proposed()

    def _joining(
        self, leader_end_offset: Offset, needed_offset: Offset, now_ms: int, needed_start_offset: Offset
    ) -> set[BrokerId]:
        """Return who is to be added: all that were never refused; if there are none, one of the others (rule 4)."""
        ready = [
            one
            for one in self.followers.values()
            if one.broker_id not in self.isr
            and one.is_heard
            and not one.looks_to_wait
            and self.held_by(one) >= needed_offset
            and one.log_start_offset >= needed_start_offset
            and not self._is_lagging(one, leader_end_offset, now_ms)
        ]
        clean = {one.broker_id for one in ready if not one.refusals}
        return clean or {one.broker_id for one in sorted(ready, key=lambda one: one.refusals)[:1]}

    def on_look(self) -> ProposeIsr | None:
        """Return the proposal that nobody has answered: it is sent again, unchanged (rule 3).

        None: there is none, or it only removes, and is to be made anew. A copy of it that is still under way may be
        committed all the same; the metadata tell.
        """
        self._is_refused = False
        if self._proposal is not None and self._proposal.members <= self.isr:
            self._proposal = None
        for follower in self.followers.values():
            follower.looks_to_wait = max(0, follower.looks_to_wait - 1)
        return self._proposed()

    def on_answered(self, answered: IsrAnswered) -> bool:
        """Take in what the controller said; True: the committed or the maximal set is another one now."""
        proposal, reply = self._proposal, answered.reply
        if reply is None:
            return False  # unknown: it stays proposed
        is_other = proposal is None or answered.partition_epoch != proposal.partition_epoch
        if proposal is None or is_other or (reply.error and answered.asked != proposal.members):
            self._on_overtaken_answered(answered.partition_epoch, reply.error)
            return False
        if not reply.error:
            return reply.leader_epoch == self.epoch and self.on_committed(reply.isr, reply.partition_epoch)
        if reply.error == ErrorCode.INELIGIBLE_REPLICA:
            if reply.leader_epoch != self.epoch or reply.partition_epoch <= proposal.partition_epoch:
                return False  # another copy of it may yet be taken
            self._note_refusal(proposal)
            self._proposal = None
            self.on_committed(self.isr, reply.partition_epoch)
            return True
        if reply.error not in _SETTLED:
            return False
        self._proposal, self._is_refused = None, True
        return True

    def _on_overtaken_answered(self, partition_epoch: int, error: int) -> None:
        """The metadata came first, and the next proposal with them: who was refused waits all the same."""
        overtaken = self._overtaken
        if overtaken is not None and overtaken.partition_epoch == partition_epoch:
            self._overtaken = None
            if error == ErrorCode.INELIGIBLE_REPLICA:
                self._note_refusal(overtaken)

    def _note_refusal(self, proposal: _Proposal) -> None:
        for broker_id in sorted(proposal.members - self.isr):
            follower = self.followers[broker_id]
            follower.looks_to_wait = 1 << min(follower.refusals, REFUSAL_DOUBLINGS_MAX)
            follower.refusals += 1

    def on_committed(self, isr: Iterable[int], partition_epoch: int) -> bool:
        """The set as the metadata have it, at a partition epoch; False: that is known, or old."""
        if partition_epoch <= self.partition_epoch:
            return False
        self.partition_epoch = partition_epoch
        before, self.isr = self.isr, frozenset(BrokerId(one) for one in isr)
        for follower in self.followers.values():
            if follower.broker_id in self.isr:
                follower.refusals = follower.looks_to_wait = 0
            elif follower.broker_id in before:  # where it was then is no reason to take it back
                follower.log_end_offset = follower.durable_offset = follower.mark_offset = UNHEARD
        if self._proposal is not None and self._proposal.partition_epoch < partition_epoch:
            self._overtaken, self._proposal = self._proposal, None
        return True

    def _proposed(self) -> ProposeIsr | None:
        if self._proposal is None:
            return None
        return ProposeIsr(self.epoch, self._proposal.partition_epoch, self._proposal.isr)

    def _is_lagging(self, follower: Follower, leader_end_offset: Offset, now_ms: int) -> bool:
        if follower.is_heard and self.held_by(follower) >= leader_end_offset:
            return False
        return now_ms - follower.caught_up_ms > self.lag_ms

    def needs_watching(self, leader_end_offset: Offset) -> bool:
        """Say whether time alone may change something: a member lags, or a proposal is not answered."""
        if self._proposal is not None or self._is_refused:
            return True
        if any(one.looks_to_wait for one in self.followers.values()):
            return True
        return any(
            one.broker_id in self.isr and not (one.is_heard and self.held_by(one) >= leader_end_offset)
            for one in self.followers.values()
        )

    def look_after_ms(self, leader_end_offset: Offset, now_ms: int) -> int:
        """Return when to look again if nothing happens: the moment a member's time is up, or a third of that time.

        Who looked in a steady rhythm only would leave a member that long behind its time in the set: each write waits.
        """
        rhythm_ms = self.lag_ms // LOOKS_PER_LAG
        if self._proposal is not None:
            return rhythm_ms
        left = [
            one.caught_up_ms + self.lag_ms + 1 - now_ms
            for one in self.followers.values()
            if one.broker_id in self.isr and not (one.is_heard and self.held_by(one) >= leader_end_offset)
        ]
        return min([rhythm_ms, *(ms for ms in left if ms > 0)])

    # -- for people ------------------------------------------------------------------------------------

    def described(self, leader_end_offset: Offset, now_ms: int) -> list[FollowerDescription]:
        return [
            FollowerDescription(
                broker_id=one.broker_id,
                log_end_offset=one.log_end_offset,
                durable_offset=one.durable_offset,
                lag=leader_end_offset - one.log_end_offset if one.is_heard else -1,
                is_in_sync=one.broker_id in self.isr,
                caught_up_ms_ago=0 if self.held_by(one) >= leader_end_offset else max(0, now_ms - one.caught_up_ms),
            )
            for one in self.followers.values()
        ]
