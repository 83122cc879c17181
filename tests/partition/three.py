"""Three replicas of one partition by the real rules, over lists instead of logs, and a toy controller that compares.

Whatever travels waits in ``Network`` until a test delivers it: late, twice, in any order, or never. What a crash leaves
is the test's to say, too. The laws are looked at by ``Cluster.check``.
"""

from __future__ import annotations

import itertools
from typing import Any

from callboard.actors.partition.events import (
    Answer,
    Append,
    Copy,
    Fetch,
    FetchNext,
    IsrAnswered,
    Produce,
    Progress,
    ProposeIsr,
    Read,
    Ticket,
    Truncate,
)
from callboard.actors.partition.follower import Follower, next_fetch
from callboard.actors.partition.leader import Leader, refusal_of_fetch
from callboard.errors import ErrorCode
from callboard.storage.batch import check_batch, decode_batch, encode_batch
from callboard.storage.epochs import EpochHistory
from callboard.storage.producers import ProducerStates
from callboard.testing.logs import a_batch
from callboard.transport.messages import AlterPartitionEntryReply, ProduceEntryReply

from .replicas import KEY, LAG_MS

BROKERS = (1, 2, 3)
MINIMUM = 2
NOBODY = -1


class Controller:
    """Who leads and who is in sync, as the store has it: compared on both epochs and on the life of who is added."""

    def __init__(self) -> None:
        self.leader, self.leader_epoch, self.partition_epoch = 1, 1, 0
        self.isr: frozenset[int] = frozenset(BROKERS)
        self.elr: frozenset[int] = frozenset()
        self.lives: dict[int, int] = dict.fromkeys(BROKERS, 1)  # of the live ones
        self.leader_life = 1

    @property
    def state(self) -> tuple[int, int, int, frozenset[int], int]:
        return self.leader, self.leader_epoch, self.partition_epoch, self.isr, self.leader_life

    def alter(self, broker: int, life: int, proposal: ProposeIsr) -> AlterPartitionEntryReply:
        error = ErrorCode.NONE
        members = frozenset(one.broker_id for one in proposal.isr)
        lives = {one.broker_id: one.incarnation for one in proposal.isr}
        if self.lives.get(broker) != life:
            error = ErrorCode.STALE_BROKER_EPOCH
        elif proposal.leader_epoch != self.leader_epoch:
            error = ErrorCode.FENCED_LEADER_EPOCH
        elif self.leader != broker:
            error = ErrorCode.NOT_LEADER_FOR_PARTITION
        elif proposal.partition_epoch != self.partition_epoch:
            error = ErrorCode.INVALID_UPDATE_VERSION
        elif any(lives[one] != str(self.lives.get(one)) for one in members - self.isr):
            error = ErrorCode.INELIGIBLE_REPLICA
            self._commit(self.isr)  # no other copy of it is taken
        else:
            self._commit(members)
        return AlterPartitionEntryReply(
            topic_id=KEY.topic_id,
            partition=KEY.partition,
            error=error,
            leader_epoch=self.leader_epoch,
            partition_epoch=self.partition_epoch,
            isr=sorted(self.isr),
        )

    def end(self, broker: int) -> None:
        """A session has ended: the broker leaves the set, unless it is its last member."""
        self.lives.pop(broker, None)
        if broker in self.isr and len(self.isr) > 1:
            self._commit(self.isr - {broker})
        self.elect()

    def begin(self, broker: int, life: int) -> None:
        self.lives[broker] = life
        self.elect()

    def elect(self, *, besides: int = NOBODY) -> None:
        """Have a live leader, in the life it was elected in; ``besides``: rather not this one."""
        if self.leader != besides and self.leader != NOBODY and self.lives.get(self.leader) == self.leader_life:
            return
        able = [one for one in BROKERS if one in self.lives and one in self.isr] or [
            one for one in BROKERS if one in self.lives and one in self.elr
        ][:1]
        leader = min(able, key=lambda one: one in (besides, self.leader), default=NOBODY)
        if leader == NOBODY and self.leader == NOBODY:
            return
        if leader != NOBODY and leader not in self.isr:
            self._commit(frozenset({leader}))
        self.leader, self.leader_epoch = leader, self.leader_epoch + 1
        self.leader_life = self.lives.get(leader, 0)
        self.partition_epoch += 1

    def _commit(self, isr: frozenset[int]) -> None:
        held = (self.isr | self.elr) - isr
        self.isr, self.partition_epoch = isr, self.partition_epoch + 1
        self.elr = frozenset() if len(isr) >= MINIMUM else held


class Replica:
    """One replica: ``log`` survives a crash, below ``synced`` the power's end too."""

    def __init__(self, broker: int) -> None:
        self.broker = broker
        self.life = 1
        self.is_alive = True
        self.log: list[tuple[int, bytes]] = []  # (epoch, value), by offset
        self.synced = 0
        self.epochs = EpochHistory()
        self.high_watermark = 0
        self.part: Leader | Follower | None = None
        self.leader = NOBODY
        self.token = 0  # of the fetch that it waits for

    def rebuild(self) -> None:
        self.epochs = EpochHistory()
        for offset, (epoch, _) in enumerate(self.log):
            self.epochs.assign(epoch, offset)

    def cut(self, end: int) -> None:
        del self.log[end:]
        self.epochs.truncate_from_end(end)
        self.synced = min(self.synced, end)


class Cluster:
    def __init__(self, flush: str) -> None:
        self.flush = flush
        self.controller = Controller()
        self.replicas = {broker: Replica(broker) for broker in BROKERS}
        self.network: list[tuple[Any, ...]] = []  # (kind, to, …)
        self.committed: list[tuple[int, bytes]] = []  # by offset: below the high watermark of some leader, once
        self.acknowledged: dict[int, bytes] = {}
        self.led: dict[int, int] = {}  # by epoch
        self.waiting: dict[int, bytes] = {}  # value by ticket
        self.now_ms = 0
        self._numbers = itertools.count(1)
        for broker in BROKERS:
            self.show(broker)

    # -- what happens ----------------------------------------------------------------------------------

    def produce(self, broker: int) -> None:
        replica = self.replicas[broker]
        if not isinstance(leader := replica.part, Leader):
            return
        number = next(self._numbers)
        value = b"%d" % number
        frames = encode_batch(None, [value], 1_000)
        self.waiting[number] = value
        effects = leader.on_produce(Produce(Ticket(number, 0), -1, -1, frames), check_batch(frames))
        if any(isinstance(effect, Append) for effect in effects):
            replica.log.append((leader.epoch, value))
            replica.epochs.assign(leader.epoch, len(replica.log) - 1)
            effects += leader.on_appended(len(replica.log), self.now_ms)
        self.perform(replica, leader, effects)

    def sync(self, broker: int) -> None:
        replica = self.replicas[broker]
        if not replica.is_alive:
            return
        replica.synced = len(replica.log)
        if isinstance(leader := replica.part, Leader):
            self.perform(replica, leader, leader.on_flushed(replica.synced))
        elif isinstance(replica.part, Follower):
            progress = Progress(broker, str(replica.life), replica.part.epoch, replica.synced)
            self.network.append(("progress", replica.leader, progress))

    def show(self, broker: int) -> None:
        """The broker's picture is the store's now."""
        replica, (leader_id, epoch, partition_epoch, isr, leader_life) = self.replicas[broker], self.controller.state
        if not replica.is_alive:
            return
        part = replica.part
        if part is not None and part.epoch == epoch:
            if isinstance(part, Leader):
                self.perform(replica, part, part.on_isr(isr, partition_epoch, MINIMUM, self.now_ms))
            return
        if part is not None:
            replica.high_watermark = part.high_watermark
            if isinstance(part, Leader):
                self.perform(replica, part, part.on_deposed(leader_id, epoch))
        replica.part, replica.leader, replica.token = None, leader_id, 0
        if leader_id == broker and leader_life == replica.life:
            self._lead(replica, epoch, partition_epoch, isr)
        elif leader_id not in (NOBODY, broker):
            replica.epochs.truncate_from_end(len(replica.log))
            replica.part = Follower(epoch, replica.epochs, replica.high_watermark)
            self._follow(replica, replica.part.begin(0, len(replica.log)))

    def look(self, broker: int) -> None:
        replica = self.replicas[broker]
        if isinstance(leader := replica.part, Leader):
            self.perform(replica, leader, leader.on_look_at_followers(self.now_ms))

    def ask_again(self, broker: int) -> None:
        """The fetcher begins another session: what was asked for is void."""
        replica = self.replicas[broker]
        if isinstance(replica.part, Follower):
            self._ask(replica)

    def crash(self, broker: int, kept: int | None = None) -> None:
        """End a process; ``kept``: with the power gone too, so much of what was not synced is left."""
        replica = self.replicas[broker]
        replica.is_alive, replica.part, replica.high_watermark, replica.token = False, None, 0, 0
        if kept is not None:
            replica.cut(max(replica.synced, min(kept, len(replica.log))))

    def restart(self, broker: int) -> None:
        replica = self.replicas[broker]
        replica.life, replica.is_alive = replica.life + 1, True
        replica.rebuild()
        self.controller.begin(broker, replica.life)
        self.show(broker)

    def deliver(self, place: int, *, twice: bool = False) -> None:
        message = self.network[place]
        may_come_twice = message[0] in ("fetch", "progress", "isr")
        if not (twice and may_come_twice):
            del self.network[place]
        getattr(self, f"_on_{message[0]}")(*message[1:])

    # -- laws --------------------------------------------------------------------------------------------

    def check(self) -> None:
        for broker in self.controller.isr | self.controller.elr:
            replica = self.replicas[broker]
            held = replica.synced if self.flush == "ack" else len(replica.log)
            assert held >= len(self.committed), f"{broker} may be elected, and holds {held} of {len(self.committed)}"
            assert replica.log[: len(self.committed)] == self.committed
        for offset, value in self.acknowledged.items():
            assert self.committed[offset][1] == value
        for replica in self.replicas.values():
            if replica.part is not None:
                known = replica.part.high_watermark
                assert replica.log[:known] == self.committed[:known], "a high watermark above what is held"

    # -- inside ------------------------------------------------------------------------------------------

    def _lead(self, replica: Replica, epoch: int, partition_epoch: int, isr: frozenset[int]) -> None:
        assert self.led.setdefault(epoch, replica.broker) == replica.broker, "two leaders of one epoch"
        assert replica.log[: len(self.committed)] == self.committed, "a leader that lacks what is committed"
        replica.epochs.assign(epoch, len(replica.log))
        replica.part = Leader(
            KEY,
            broker_id=replica.broker,
            epoch=epoch,
            isr=isr,
            min_insync_replicas=MINIMUM,
            flush=self.flush,
            max_message_bytes=1_000_000,
            producers=ProducerStates(),
            epochs=replica.epochs,
            log_start_offset=0,
            log_end_offset=len(replica.log),
            durable_offset=replica.synced,
            high_watermark=replica.high_watermark,
            replicas=BROKERS,
            partition_epoch=partition_epoch,
            lag_ms=LAG_MS,
            now_ms=self.now_ms,
        )
        self._note_committed(replica, replica.part)

    def perform(self, replica: Replica, leader: Leader, effects: list[Any]) -> None:
        self._note_committed(replica, leader)
        for effect in effects:
            if isinstance(effect, Read):
                frames = [
                    b"".join(a_batch([value], at=at, epoch=epoch)[0])
                    for at, (epoch, value) in enumerate(replica.log[: effect.up_to_offset])
                    if at >= effect.fetch.fetch_offset
                ]
                self.perform(replica, leader, leader.on_read(effect.fetch, frames, sum(map(len, frames))))
            elif isinstance(effect, ProposeIsr):
                self.network.append(("isr", replica.broker, replica.life, effect))
            elif isinstance(effect, Answer) and isinstance(effect.reply, ProduceEntryReply):
                if not effect.reply.error:
                    self.acknowledged[effect.reply.base_offset] = self.waiting[effect.ticket.session]
            elif isinstance(effect, Answer):
                self.network.append(("reply", effect.ticket.entry, effect.ticket.session, effect.reply, effect.frames))

    def _note_committed(self, replica: Replica, leader: Leader) -> None:
        known = leader.high_watermark
        assert self.committed[:known] == replica.log[: min(known, len(self.committed))], "committed, and changed"
        self.committed += replica.log[len(self.committed) : known]

    def _ask(self, replica: Replica) -> None:
        part = replica.part
        assert isinstance(part, Follower)
        asked = next_fetch(replica.epochs, 0, len(replica.log))
        replica.token = next(self._numbers)
        fetch = Fetch(
            ticket=Ticket(replica.token, replica.broker, "peers"),
            leader_epoch=part.epoch,
            fetch_offset=asked.fetch_offset,
            max_bytes=1 << 20,
            replica_id=replica.broker,
            replica_incarnation=str(replica.life),
            last_fetched_epoch=asked.last_fetched_epoch,
            durable_offset=min(replica.synced, asked.fetch_offset),
            high_watermark=part.high_watermark,
        )
        self.network.append(("fetch", replica.leader, fetch))

    def _follow(self, replica: Replica, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Copy):
                for batch, header in zip(effect.batches, effect.headers, strict=True):
                    assert header.base_offset == len(replica.log)
                    replica.epochs.assign(header.leader_epoch, header.base_offset)
                    replica.log.append((header.leader_epoch, decode_batch(bytes(batch), 0).values[0]))
            elif isinstance(effect, Truncate):
                replica.cut(effect.to_offset)
                replica.synced = len(replica.log)  # a cut syncs what is left
            else:
                assert isinstance(effect, FetchNext), effect
                self._ask(replica)

    def _on_fetch(self, to: int, fetch: Fetch) -> None:
        replica = self.replicas[to]
        if isinstance(leader := replica.part, Leader):
            self.perform(replica, leader, leader.on_fetch(fetch, self.now_ms))
        elif replica.is_alive:
            refusal = refusal_of_fetch(KEY, ErrorCode.NOT_LEADER_FOR_PARTITION)
            self.network.append(("reply", fetch.ticket.entry, fetch.ticket.session, refusal, ()))

    def _on_reply(self, to: int, token: int, reply: Any, frames: Any) -> None:
        replica = self.replicas[to]
        if isinstance(follower := replica.part, Follower) and replica.token == token:
            self._follow(replica, follower.on_fetched(reply, frames, 0, len(replica.log)))

    def _on_progress(self, to: int, progress: Progress) -> None:
        replica = self.replicas[to]
        if isinstance(leader := replica.part, Leader):
            self.perform(replica, leader, leader.on_progress(progress, self.now_ms))

    def _on_isr(self, broker: int, life: int, proposal: ProposeIsr) -> None:
        reply = self.controller.alter(broker, life, proposal)
        asked = frozenset(one.broker_id for one in proposal.isr)
        answer = IsrAnswered(proposal.leader_epoch, proposal.partition_epoch, asked, reply)
        self.network.append(("answer", broker, answer))

    def _on_answer(self, to: int, answered: IsrAnswered) -> None:
        replica = self.replicas[to]
        if isinstance(leader := replica.part, Leader):
            self.perform(replica, leader, leader.on_isr_answered(answered, self.now_ms))
