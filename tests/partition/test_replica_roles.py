"""The actor of a replica from role to role: each begins where the log stands, not where the last one thought it did."""

from __future__ import annotations

from collections import Counter

import pytest

from callboard.actors.logdirs import LogDirectory
from callboard.actors.partition.events import (
    Assign,
    Checkpointed,
    Durable,
    Fetched,
    FetcherBegan,
    Follow,
    NewEpochNeeded,
    Unfollow,
)
from callboard.actors.partition.follower import LITTLE_BYTES, TROUBLE_RETRY_MS
from callboard.actors.partition.following import Following
from callboard.actors.partition.leading import Leading
from callboard.actors.partition.replica import Replica
from callboard.actors.partition.retention import RetentionClock
from callboard.config import BrokerSettings, TopicConfig
from callboard.errors import ErrorCode
from callboard.model import TopicPartition
from callboard.storage.log import Log
from callboard.testing.context import sim_context
from callboard.testing.disk import SimDisk
from callboard.testing.logs import a_batch, contents
from callboard.testing.probe import probe
from callboard.transport.messages import FetchEntryReply

from .replicas import KEY


class Stage:
    """One replica, and probes where its siblings are."""

    def __init__(self, **first):
        self.context = sim_context(files=SimDisk())
        self.fetcher = probe(self.context, "b/replication")
        self.hosting = probe(self.context, "b/hosting")
        self.ref = Replica.start(
            self.context,
            "b/partitions/t-3",
            None,
            key=KEY,
            name=TopicPartition("t", 3),
            broker_id=1,
            home=LogDirectory("/data", 0),
            assignment=an_assignment(**first),
            led_epochs={},
            pool_jobs=Counter(),
            retention_clock=RetentionClock(0, 0),
            settings=BrokerSettings(),
            broker_address="b",
        )
        self.context.loop.advance(100)  # its log is opened in the pool

    @property
    def replica(self):
        assert self.ref.actor is not None, "it has failed"
        return self.ref.actor

    def tell(self, message):
        self.ref.post(message)
        self.context.loop.run_until_idle()
        return self

    def assign(self, **changes):
        return self.tell(an_assignment(**changes))

    def fetched(self, *values, at, epoch, of_epoch, **changes):
        """The leader of ``epoch`` sends records that were written in ``of_epoch``."""
        frames, _ = a_batch(values, at=at, epoch=of_epoch)
        reply = FetchEntryReply(
            topic_id=KEY.topic_id,
            partition=KEY.partition,
            leader_epoch=epoch,
            leader=2,
            high_watermark=at,
            log_start_offset=0,
            frames=1,
            **changes,
        )
        return self.tell(Fetched(reply, [b"".join(frames)]))

    def asked(self):
        return [follow.entry for follow in self.fetcher.all_of(Follow)]


def an_assignment(*, leader=2, epoch=1, **changes):
    settings = {
        "isr": (1, 2),
        "config": TopicConfig(),
        "min_insync_replicas": 1,
        "replicas": (1, 2),
        "partition_epoch": epoch,
    }
    return Assign(leader=leader, leader_epoch=epoch, is_leader=leader == 1, **{**settings, **changes})


def test_a_follower_asks_from_its_log_end_and_copies():
    stage = Stage()

    stage.fetched(b"a", b"b", at=0, epoch=1, of_epoch=1).context.loop.advance(100)

    assert contents(stage.replica.log) == [(0, b"a"), (1, b"b")]
    asked = stage.asked()
    assert [(one.fetch_offset, one.last_fetched_epoch, one.leader_epoch) for one in asked] == [(0, -1, 1), (2, 1, 1)]


def test_behind_little_it_asks_when_that_is_on_disk_and_says_so():
    stage = Stage()

    stage.fetched(b"a", at=0, epoch=1, of_epoch=1)
    assert stage.replica.log.log_end_offset == 1
    assert len(stage.asked()) == 1, "the sync runs"
    stage.context.loop.advance(100)

    assert [(one.fetch_offset, one.durable_offset) for one in stage.asked()] == [(0, 0), (1, 1)]
    assert stage.fetcher.all_of(Durable) == [], "it need not be told apart"


def test_behind_much_or_where_nobody_counts_the_disk_it_asks_at_once():
    stage = Stage()
    stage.fetched(b"a" * LITTLE_BYTES, at=0, epoch=1, of_epoch=1)
    assert [(one.fetch_offset, one.durable_offset) for one in stage.asked()] == [(0, 0), (1, 0)]
    stage.context.loop.advance(100)
    assert [told.durable_offset for told in stage.fetcher.all_of(Durable)] == [1]

    stage = Stage(config=TopicConfig(flush="os"))
    stage.fetched(b"a", at=0, epoch=1, of_epoch=1)
    assert [one.fetch_offset for one in stage.asked()] == [0, 1]


def test_a_fetch_that_waits_for_the_disk_comes_also_when_nobody_counts_that_any_more():
    stage = Stage()
    stage.fetched(b"a", at=0, epoch=1, of_epoch=1).context.loop.advance(100)
    checkpoint = stage.replica.log.begin_checkpoint(0)  # while it runs no sync begins
    stage.fetched(b"b", at=1, epoch=1, of_epoch=1)

    stage.assign(config=TopicConfig(flush="os"))
    checkpoint()
    stage.tell(Checkpointed(None)).context.loop.advance(100)

    assert [(one.fetch_offset, one.durable_offset) for one in stage.asked()] == [(0, 0), (1, 1), (2, 2)]


def test_who_led_an_epoch_and_wrote_nothing_in_it_copies_what_an_older_epoch_wrote():
    """It led epoch 3 from offset 1 on. The leader of epoch 4 has a record of epoch 2 there, which it never had."""
    stage = Stage()
    stage.fetched(b"a", at=0, epoch=1, of_epoch=1)
    stage.assign(leader=1, epoch=3)
    assert isinstance(stage.replica.part, Leading)

    stage.assign(leader=2, epoch=4)
    stage.fetched(b"b", at=1, epoch=4, of_epoch=2)

    assert contents(stage.replica.log) == [(0, b"a"), (1, b"b")]
    assert stage.replica.log.epochs.entries == ((1, 0), (2, 1))


def test_a_leader_deposed_and_elected_again_within_one_delta_begins_another_epoch():
    stage = Stage(leader=1, epoch=3)
    first = stage.replica.part

    stage.assign(leader=1, epoch=5)

    assert stage.replica.part is not first
    assert stage.replica.part.rules.epoch == 5
    assert stage.replica.log.epochs.entries == ((5, 0),)


def test_an_old_order_that_comes_late_changes_nothing():
    stage = Stage(leader=1, epoch=3)

    stage.assign(leader=2, epoch=2)

    assert isinstance(stage.replica.part, Leading)
    assert stage.replica.part.rules.epoch == 3


def test_nobody_leads_twice_in_one_epoch_in_one_process():
    stage = Stage(leader=1, epoch=3)
    stage.replica._part = None  # as after a restart of the actor, which led_epochs outlives

    stage.assign(leader=1, epoch=3, partition_epoch=4)

    assert stage.replica.part is None
    assert stage.hosting.all_of(NewEpochNeeded) == [NewEpochNeeded(KEY, 3)]


def test_a_follower_whose_fetcher_was_restarted_while_it_waits_asks_once():
    stage = Stage()
    refused = FetchEntryReply(topic_id=KEY.topic_id, partition=KEY.partition, error=ErrorCode.INTERNAL)
    stage.tell(Fetched(refused, []))
    assert stage.fetcher.all_of(Unfollow)

    stage.tell(FetcherBegan())
    before = len(stage.asked())
    stage.context.loop.advance(2 * TROUBLE_RETRY_MS)

    assert len(stage.asked()) == before


def test_a_follower_that_is_told_where_the_logs_part_cuts_and_says_no_more_than_it_has():
    stage = Stage()
    stage.fetched(b"a", b"b", at=0, epoch=1, of_epoch=1)
    stage.fetched(b"c", at=2, epoch=1, of_epoch=1)
    stage.assign(leader=2, epoch=2)

    stage.tell(
        Fetched(
            FetchEntryReply(
                topic_id=KEY.topic_id,
                partition=KEY.partition,
                leader_epoch=2,
                leader=2,
                log_start_offset=0,
                diverging_epoch=1,
                diverging_end_offset=2,
            ),
            [],
        )
    )

    assert contents(stage.replica.log) == [(0, b"a"), (1, b"b")]
    last = stage.asked()[-1]
    assert (last.leader_epoch, last.fetch_offset, last.durable_offset) == (2, 2, 2)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_replica_without_a_leader_does_nothing_and_one_that_lost_its_log_does_not_lead(is_lost):
    stage = Stage(leader=-1, epoch=3, is_lost=is_lost)
    assert stage.replica.part is None

    stage.assign(leader=1, epoch=4, is_lost=is_lost)

    assert isinstance(stage.replica.part, Leading) is not is_lost


def test_an_opened_log_of_an_earlier_order_follows_the_newest():
    stage = Stage(leader=-1, epoch=1)
    assert isinstance(stage.replica.log, Log)

    stage.assign(leader=2, epoch=2)

    assert isinstance(stage.replica.part, Following)
