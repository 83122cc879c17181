"""Who may lead without loss: eligible leaders outside the ISR, and what a reboot does with flush=os."""

import pytest
from msgspec.structs import replace

from callboard.actors.controller.draft import Draft
from callboard.actors.controller.elections import Reelected, reconcile, reelect
from callboard.actors.controller.leadership import rebalance
from callboard.actors.metadata.documents import NO_LEADER, Life
from callboard.config import TopicConfig
from callboard.model import PartitionKey
from callboard.testing.metadata import (
    image_with,
    stored,
    topic_id_of,
    with_broker,
    with_documents,
    without_broker,
)
from callboard.transport.messages import ReelectRequest

T0 = topic_id_of(0)


def reconciled(image, **options):
    draft = Draft(image)
    draft.put(reconcile(image, **options))
    return stored(draft)


def partition(image):
    return image.partition(PartitionKey(T0, 0))


def state(image):
    now = partition(image)
    return now.leader, now.isr, now.elr


def gone(image, *broker_ids):
    """The picture after these ended one after the other, each seen by the controller."""
    for broker_id in broker_ids:
        image = reconciled(without_broker(image, broker_id))
    return image


def back(image, broker_id, *, is_after_reboot=False, life="b"):
    return reconciled(with_broker(image, broker_id, f"i{broker_id}{life}", is_after_reboot=is_after_reboot))


def replicated(flush="ack"):
    return image_with(topics={"a": [[1, 2, 3]]}, configs={"flush": flush})  # min_insync_replicas 2


# -- eligible leaders ------------------------------------------------------------------------------------


def test_nobody_is_eligible_outside_the_isr_while_records_are_committed_without_them():
    assert state(gone(replicated(), 3)) == (1, (1, 2), ())


def test_who_leaves_when_the_isr_falls_below_the_minimum_stays_eligible():
    assert state(gone(replicated(), 3, 2)) == (1, (1,), (2,))


def test_an_eligible_replica_leads_when_the_last_in_sync_one_is_away_and_is_the_isr_then():  # R6, B8
    image = gone(replicated(), 3, 2, 1)
    assert state(image) == (NO_LEADER, (1,), (2,))

    image = back(image, 2)

    assert state(image) == (2, (2,), (1,))
    assert partition(image).leader_epoch == 2
    assert partition(image).leader_incarnation == "i2b"


def test_the_in_sync_replica_comes_before_an_eligible_one():
    image = gone(replicated(), 3, 2, 1)
    image = with_broker(with_broker(image, 2, "i2b"), 1, "i1b")

    assert state(reconciled(image)) == (1, (1,), (2,))


def test_an_eligible_replica_that_is_given_up_is_eligible_no_more():
    image = back(gone(replicated(), 3, 2), 2)
    word = ReelectRequest(broker_id=2, incarnation="i2b", topic_id=T0, partition=0, leader_epoch=0, is_offline=True)

    decided = reelect(image, word)
    assert isinstance(decided, Reelected)
    image = with_documents(image, [decided.change])

    assert state(image) == (1, (1,), ())


def test_a_follower_given_up_leaves_the_isr_and_is_not_eligible():  # R6
    image = gone(replicated(), 3)
    word = ReelectRequest(broker_id=2, incarnation="i2", topic_id=T0, partition=0, leader_epoch=0, is_offline=True)

    image = with_documents(image, [reelect(image, word).change])

    assert state(image) == (1, (1,), ())


def test_a_partition_with_one_replica_has_nobody_else():
    assert state(gone(image_with(topics={"a": [[1]]}), 1)) == (NO_LEADER, (1,), ())


# -- reboots ---------------------------------------------------------------------------------------------


def test_with_flush_ack_a_reboot_takes_nobody_out():
    image = reconciled(with_broker(replicated("ack"), 2, "i2b", is_after_reboot=True))

    assert state(image) == (1, (1, 2, 3), ())


def test_with_flush_os_a_follower_whose_machine_booted_leaves_the_isr():
    image = reconciled(with_broker(replicated("os"), 2, "i2b", is_after_reboot=True))

    assert state(image) == (1, (1, 3), ())


def test_a_restart_without_a_reboot_takes_nobody_out():
    image = reconciled(with_broker(replicated("os"), 2, "i2b"))

    assert state(image) == (1, (1, 2, 3), ())


def test_a_leader_whose_machine_booted_is_followed_by_a_replica_that_is_sure():  # B2
    image = reconciled(with_broker(replicated("os"), 1, "i1b", is_after_reboot=True))

    assert state(image) == (2, (2, 3), ())


def test_an_eligible_replica_whose_machine_booted_is_eligible_no_more():  # R6
    image = back(gone(replicated("os"), 3, 2), 2, is_after_reboot=True)

    assert state(image) == (1, (1,), ())


def test_who_is_unsure_waits_for_those_who_may_be_sure():  # B8
    image = back(gone(replicated("os"), 3, 2, 1), 1, is_after_reboot=True)
    assert state(image) == (NO_LEADER, (1,), (2,))

    image = back(image, 2)

    assert state(image) == (2, (2,), ())


def test_when_nobody_will_be_sure_the_last_leader_leads_with_what_it_has():
    image = gone(replicated("os"), 2)  # in sync: 1, 3
    image = reconciled(without_broker(image, 1, 3))
    assert state(image) == (NO_LEADER, (1, 3), ())
    image = back(image, 3, is_after_reboot=True)
    assert state(image) == (NO_LEADER, (1, 3), ())

    image = back(image, 1, is_after_reboot=True)

    assert state(image) == (1, (1,), ())
    assert partition(image).caught_up == (Life(1, "i1b"),)
    assert reconcile(image) == []


@pytest.mark.parametrize("last_leader", [1, 2])
def test_the_last_leader_it_is_even_when_another_is_preferred(last_leader):
    image = replicated("os")
    if last_leader == 2:
        word = ReelectRequest(broker_id=1, incarnation="i1", topic_id=T0, partition=0, leader_epoch=0)
        image = with_documents(image, [reelect(image, word).change])
    assert partition(image).leader == last_leader
    image = reconciled(without_broker(image, 1, 2, 3))
    for broker_id in (1, 2, 3):
        image = back(image, broker_id, is_after_reboot=True)

    assert state(image) == (last_leader, (last_leader,), ())


def test_the_only_replica_leads_again_after_a_reboot_with_what_it_has():
    image = image_with(topics={"a": [[1]]}, configs={"flush": "os"})

    assert state(back(gone(image, 1), 1, is_after_reboot=True)) == (1, (1,), ())


def test_who_caught_up_since_the_reboot_is_as_good_as_any():
    image = replicated("os")
    rebooted = with_broker(image, 2, "i2b", is_after_reboot=True)
    caught_up = partition(image)

    caught_up = replace(caught_up, isr=(1, 2), caught_up=(Life(2, "i2b"),))
    image = with_documents(rebooted, [(f"partition/{T0}/0", caught_up)])

    assert state(gone(image, 1)) == (2, (2,), (1,))


def test_a_mark_of_a_life_that_is_over_says_nothing():
    image = back(gone(image_with(topics={"a": [[1]]}, configs={"flush": "os"}), 1), 1, is_after_reboot=True)
    assert partition(image).caught_up == (Life(1, "i1b"),)

    image = back(gone(image, 1), 1)

    assert state(image) == (1, (1,), ())
    assert partition(image).caught_up == ()


def test_the_clusters_own_default_of_flush_counts():
    image = with_broker(image_with(topics={"a": [[1, 2, 3]]}), 2, "i2b", is_after_reboot=True)

    assert reconcile(image) == []
    assert state(reconciled(image, defaults=TopicConfig(flush="os"))) == (1, (1, 3), ())


def test_a_preferred_leader_that_is_unsure_does_not_get_leadership_back():
    image = with_broker(replicated("os"), 1, "i1b", is_after_reboot=True)
    led = replace(partition(image), leader=2, leader_incarnation="i2", leader_epoch=1, isr=(1, 2, 3))
    image = with_documents(image, [(f"partition/{T0}/0", led)])

    assert rebalance(image) == []

    caught_up = replace(led, caught_up=(Life(1, "i1b"),))
    assert len(rebalance(with_documents(image, [(f"partition/{T0}/0", caught_up)]))) == 1
