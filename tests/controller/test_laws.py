"""The laws of leadership, over any sequence of deaths, lives, reboots, in-sync sets, elections and records.

The model knows what each replica holds. A record is committed once all of the in-sync set hold it (and who the
leader has asked to add), while the set has its minimum; a reboot takes back what a replica with ``flush=os`` had not
synced. The real rules decide, by the controller's own path: reconcile, then the command.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.controller.commands import plan
from callboard.actors.controller.draft import Draft
from callboard.actors.controller.elections import reconcile
from callboard.actors.controller.leadership import rebalance
from callboard.actors.controller.telling import told_of
from callboard.actors.controller.topics import TopicRules
from callboard.actors.metadata.documents import NO_LEADER
from callboard.config import TopicConfig
from callboard.model import PartitionKey
from callboard.testing.metadata import image_with, stored, topic_id_of, with_broker, without_broker
from callboard.transport import messages as m

T0 = topic_id_of(0)
KEY = PartitionKey(T0, 0)
BROKERS = (1, 2, 3, 4)


@dataclass
class Replica:
    log: list[int] = field(default_factory=list)  # records, by a number that is never given twice
    synced: int = 0  # so many survive a reboot
    epoch: int = -1  # it has the log of the leader of this epoch
    fetched_in: str = ""  # the life in which it had all of it


class Model:
    """One partition on four brokers, and what the controller makes of it."""

    def __init__(self, factor: int, minimum: int, flush: str) -> None:
        self.flush = flush
        configs = {"flush": flush}
        self.image = image_with(BROKERS, topics={"a": [list(BROKERS[:factor])]}, configs=configs)
        draft = Draft(self.image)
        rules = TopicRules()
        rules.alter(draft, m.TopicConfigChange(name="a", set={"min_insync_replicas": minimum}))
        self.image = stored(draft)
        self.replicas = {one: Replica() for one in BROKERS[:factor]}
        self.replicas[1].epoch = 0  # leads from the beginning
        self.committed: set[int] = set()
        self.proposal: m.AlterPartitionRequest | None = None  # on its way
        self.lives = 0
        self.rebooted: set[int] = set()  # and the controller has not looked while they lived: they say so again
        self.records = 0
        self.led: dict[int, tuple[int, str]] = {}  # leader epoch -> who

    @property
    def partition(self) -> Any:
        return self.image.partition(KEY)

    @property
    def minimum(self) -> int:
        return self.image.topic(T0).document.min_insync_replicas

    @property
    def leader(self) -> int:
        return self.image.leader_of(self.partition)

    # -- what happens --------------------------------------------------------------------------------------

    def ends(self, broker_id: int) -> None:
        self.image = without_broker(self.image, broker_id)

    def begins(self, broker_id: int) -> None:
        """A life of a broker begins; when another one was still there, nobody saw it end."""
        self.lives += 1
        is_after_reboot = broker_id in self.rebooted
        self.image = with_broker(self.image, broker_id, f"life {self.lives}", is_after_reboot=is_after_reboot)

    def reboots(self, broker_id: int) -> None:
        self.lives += 1
        self.rebooted.add(broker_id)
        if replica := self.replicas.get(broker_id):
            del replica.log[len(replica.log) if self.flush == "ack" else replica.synced :]
            replica.epoch = -1
        self.image = with_broker(self.image, broker_id, f"life {self.lives}", is_after_reboot=True)

    def writes(self, _: int) -> None:
        if self.leader != NO_LEADER:
            self.records += 1
            self.replicas[self.leader].log.append(self.records)

    def copies(self, broker_id: int) -> None:
        replica = self.replicas.get(broker_id)
        if replica and self.leader not in (NO_LEADER, broker_id) and self.image.may_serve(self.partition, broker_id):
            log = self.replicas[self.leader].log
            pairs = enumerate(zip(log, replica.log, strict=False))
            kept = next((at for at, (theirs, ours) in pairs if theirs != ours), min(len(log), len(replica.log)))
            replica.synced = min(replica.synced, kept)
            replica.log = list(log)
            replica.epoch = self.partition.leader_epoch
            replica.fetched_in = self.image.incarnation_of(broker_id)

    def all_copy(self, _: int) -> None:
        for broker_id in self.replicas:
            self.copies(broker_id)

    def syncs(self, broker_id: int) -> None:
        if replica := self.replicas.get(broker_id):
            replica.synced = len(replica.log)

    def proposes(self, broker_id: int) -> None:
        """The leader asks for this broker to be added, or taken out; it arrives later, or never."""
        partition, leader = self.partition, self.leader
        if leader in (NO_LEADER, broker_id) or broker_id not in self.replicas:
            return
        members = set(partition.isr) ^ {broker_id}
        replica = self.replicas[broker_id]
        if broker_id in members and (
            replica.epoch != partition.leader_epoch or replica.log != self.replicas[leader].log
        ):
            return  # R4: it has not caught up
        entry = m.AlterPartitionEntry(
            topic_id=T0,
            partition=0,
            leader_epoch=partition.leader_epoch,
            partition_epoch=partition.partition_epoch,
            isr=[m.IsrMember(broker_id=one, incarnation=self.replicas[one].fetched_in) for one in sorted(members)],
        )
        life = self.image.incarnation_of(leader)
        self.proposal = m.AlterPartitionRequest(broker_id=leader, incarnation=life, entries=[entry])

    def arrives(self, _: int) -> None:
        if self.proposal is not None:
            self.controller(self.proposal)

    def restarts_replica(self, broker_id: int, *, is_offline: bool = False) -> None:
        request = m.ReelectRequest(
            broker_id=broker_id,
            incarnation=self.image.incarnation_of(broker_id) or "none",
            topic_id=T0,
            partition=0,
            leader_epoch=self.partition.leader_epoch,
            is_offline=is_offline,
        )
        self.controller(request)

    def gives_up(self, broker_id: int) -> None:
        self.restarts_replica(broker_id, is_offline=True)

    def elects_preferred(self, _: int) -> None:
        self.controller(m.ElectLeadersRequest())

    def minimum_changes(self, minimum: int) -> None:
        if minimum <= len(self.replicas):
            change = m.TopicConfigChange(name="a", set={"min_insync_replicas": minimum})
            self.controller(m.AlterTopicsRequest(topics=[change]))

    def rebalances(self, _: int) -> None:
        self.controller(None, is_rebalance=True)

    # -- the controller, and the laws ------------------------------------------------------------------------

    def controller(self, request: m.Request | None = None, *, is_rebalance: bool = False) -> None:
        """A turn of the controller: what the picture asks for, then what it was asked."""
        self.rebooted -= set(self.image.brokers)
        draft = Draft(self.image)
        draft.put(reconcile(draft.image))
        self.store(draft)
        draft = Draft(self.image)
        if is_rebalance:
            draft.put(rebalance(draft.image))
        if request is not None:
            plan(TopicRules(), draft, request, now_ms=0, new_id=lambda: "n")
        self.store(draft)

    def store(self, draft: Draft) -> None:
        if not draft.puts():
            return
        before, told = self.partition, {one.name for one in told_of(draft, TopicConfig())}
        self.image = stored(draft)
        assert "leader.elected_unclean" not in told
        self.check_step(before, self.partition)
        if "leader.elected_after_reboot" in told:
            assert self.flush == "os"
            self.committed &= set(self.replicas[self.partition.leader].log)  # what flush=os loses
        if self.partition.leader_epoch != before.leader_epoch and self.partition.leader != NO_LEADER:
            replica = self.replicas[self.partition.leader]
            assert self.committed <= set(replica.log), "a clean election lost what was committed"
            replica.epoch, replica.fetched_in = self.partition.leader_epoch, self.partition.leader_incarnation

    def commit(self) -> None:
        """The leader moves its high watermark: over the maximal ISR, while the ISR has its minimum (R3)."""
        partition = self.partition
        if self.leader == NO_LEADER or len(partition.isr) < self.minimum:
            return
        counted = set(partition.isr)
        if self.proposal is not None:
            (entry,) = self.proposal.entries
            if (entry.leader_epoch, entry.partition_epoch) == (partition.leader_epoch, partition.partition_epoch):
                counted |= {one.broker_id for one in entry.isr}
        if all(self.replicas[one].epoch == partition.leader_epoch for one in counted):
            self.committed |= set.intersection(*(set(self.replicas[one].log) for one in counted))

    def check_step(self, before: Any, now: Any) -> None:
        assert now.isr
        assert set(now.isr) <= set(now.replicas)
        assert len(set(now.isr)) == len(now.isr)
        assert not set(now.isr) & set(now.elr)
        assert set(now.elr) <= set(now.replicas)
        assert not now.elr or len(now.isr) < self.minimum or now.leader == NO_LEADER
        assert now.leader == NO_LEADER or now.leader in now.isr
        assert now.leader_epoch >= before.leader_epoch
        assert now.partition_epoch > before.partition_epoch or now == before
        if (now.leader, now.leader_incarnation) != (before.leader, before.leader_incarnation):
            assert now.leader_epoch > before.leader_epoch
        if now.leader != NO_LEADER:
            who = (now.leader, now.leader_incarnation)
            assert self.led.setdefault(now.leader_epoch, who) == who, "two leaders in one epoch"
        assert reconcile(self.image) == [], "the same picture gives the same decisions"

    def check(self) -> None:
        for broker_id, life in ((one, self.image.incarnation_of(one)) for one in self.replicas):
            if broker_id == self.leader:
                assert life == self.partition.leader_incarnation
                assert self.committed <= set(self.replicas[broker_id].log)


SEEN_LATER = ("ends", "begins", "reboots")  # the controller may see the picture only after the next step
STEPS = [
    *SEEN_LATER,
    "writes",
    "copies",
    "all_copy",
    "all_copy",
    "syncs",
    "proposes",
    "arrives",
    "restarts_replica",
    "gives_up",
    "elects_preferred",
    "rebalances",
    "minimum_changes",
]


@settings(max_examples=300)
@given(
    st.integers(1, 4),
    st.sampled_from(["ack", "os"]),
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(BROKERS), st.booleans()), max_size=60),
    st.data(),
)
def test_whatever_happens_no_clean_election_loses_what_was_committed(factor, flush, steps, data):
    model = Model(factor, data.draw(st.integers(1, factor), "min_insync_replicas"), flush)
    model.controller()
    for what, broker_id, is_seen_at_once in steps:
        getattr(model, what)(broker_id)
        if is_seen_at_once or what not in SEEN_LATER:
            model.controller()
            model.commit()
            model.check()


OFTEN = ["writes", "writes", "all_copy", "all_copy", "copies", "proposes", "proposes", "arrives", "begins", "ends"]


@pytest.mark.parametrize("flush", ["ack", "os"])
def test_nor_in_long_lives(flush):
    """As above, with chance instead of Hypothesis: it likes short lists, and what goes wrong late needs long ones."""
    commits = 0
    for seed in range(60):
        chance = random.Random(f"{flush}/{seed}")
        model = Model(chance.randint(2, 4), chance.randint(1, 2), flush)
        model.controller()
        for _ in range(150):
            what = chance.choice([*STEPS, *OFTEN])
            getattr(model, what)(chance.choice(BROKERS))
            if what not in SEEN_LATER or chance.random() < 0.7:
                model.controller()
                model.commit()
                model.check()
        commits += len(model.committed)
    assert commits > 60, "the model does commit"


def test_the_model_does_commit_and_lose_what_flush_os_may_lose():
    """The test above could not fail if its model never committed, or nobody ever missed anything."""
    model = Model(3, 2, "os")
    model.copies(2)
    model.copies(3)
    model.writes(0)
    model.copies(2)
    model.copies(3)
    model.commit()
    assert model.committed == {1}
    model.image = without_broker(model.image, 1, 2, 3)
    model.controller()
    for broker_id in (1, 2, 3):
        model.reboots(broker_id)
        model.controller()

    assert model.leader == 1
    assert model.committed == set()
