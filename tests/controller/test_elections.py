"""Elections: from the live in-sync replicas, in one go, under a new epoch; never an unclean one."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.controller.draft import Draft
from callboard.actors.controller.elections import NotReelected, Reelected, elected, reconcile, reelect
from callboard.actors.controller.eligibility import Terms
from callboard.actors.metadata.documents import NO_LEADER, Offline, PartitionDocument
from callboard.errors import ErrorCode
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


def reconciled(image):
    """The picture after the controller has done what there is to do."""
    draft = Draft(image)
    draft.put(reconcile(image))
    return stored(draft)


def partition(image, number=0):
    return image.partition(PartitionKey(T0, number))


def test_a_picture_with_nothing_to_decide_gives_nothing():
    assert reconcile(image_with(topics={"a": [[1, 2, 3], [2, 3, 1]]})) == []


def test_the_next_in_sync_replica_leads_when_a_leaders_session_ends():
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 1))

    assert partition(image) == PartitionDocument(
        replicas=(1, 2, 3), isr=(2, 3), leader=2, leader_incarnation="i2", leader_epoch=1, partition_epoch=1
    )


def test_a_follower_whose_session_ended_leaves_the_isr_and_the_leader_epoch_stays():
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 3))

    assert partition(image) == PartitionDocument(
        replicas=(1, 2, 3), isr=(1, 2), leader=1, leader_incarnation="i1", leader_epoch=0, partition_epoch=1
    )


def test_everything_that_one_session_had_a_part_in_changes_together():
    topics = {"a": [[1, 2, 3], [2, 3, 1], [3, 1, 2]], "b": [[2, 3, 1]], "c": [[2, 3, 4]]}
    image = without_broker(image_with([1, 2, 3, 4], topics=topics), 1)

    assert len(reconcile(image)) == 4
    assert reconcile(reconciled(image)) == []


def test_the_last_in_sync_replica_is_never_dropped_and_waits():  # R6, B8
    image = image_with(topics={"a": [[1, 2, 3]]})
    for broker_id in (2, 3, 1):
        image = reconciled(without_broker(image, broker_id))

    assert (partition(image).leader, partition(image).isr) == (NO_LEADER, (1,))
    assert partition(image).leader_incarnation == ""


def test_who_left_before_the_isr_fell_below_the_minimum_is_never_elected():  # R6, B8
    image = image_with(topics={"a": [[1, 2, 3]]})
    for broker_id in (2, 3, 1):
        image = reconciled(without_broker(image, broker_id))
    image = reconciled(with_broker(image, 2, "i2b"))
    assert (partition(image).leader, partition(image).isr, partition(image).elr) == (NO_LEADER, (1,), (3,))

    image = reconciled(with_broker(image, 1, "i1b"))
    assert (partition(image).leader, partition(image).leader_incarnation) == (1, "i1b")
    assert partition(image).isr == (1,)


def test_all_that_die_in_one_moment_stay_eligible():  # F12
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 1, 2, 3))
    assert (partition(image).leader, partition(image).isr) == (NO_LEADER, (1, 2, 3))

    image = reconciled(with_broker(image, 2, "i2b"))
    assert (partition(image).leader, partition(image).isr) == (2, (2,))


def test_a_leader_that_comes_back_as_another_life_is_deposed():
    image = reconciled(with_broker(image_with(topics={"a": [[1, 2, 3]]}), 1, "i1b"))

    assert (partition(image).leader, partition(image).leader_epoch) == (2, 1)


def test_the_only_replica_leads_again_under_a_new_epoch_and_incarnation():
    image = reconciled(with_broker(image_with(topics={"a": [[1]]}), 1, "i1b"))

    assert partition(image) == PartitionDocument(
        replicas=(1,), isr=(1,), leader=1, leader_incarnation="i1b", leader_epoch=1, partition_epoch=1
    )


def test_the_only_replica_away_and_back_has_had_two_elections():
    image = reconciled(without_broker(image_with(topics={"a": [[1]]}), 1))
    assert (partition(image).leader, partition(image).leader_epoch) == (NO_LEADER, 1)

    image = reconciled(with_broker(image, 1, "i1b"))
    assert (partition(image).leader, partition(image).leader_epoch) == (1, 2)


def test_a_partition_without_a_leader_is_not_elected_again_and_again():
    image = reconciled(without_broker(image_with(topics={"a": [[1]]}), 1))

    assert reconcile(image) == []


def test_looking_at_some_partitions_only():
    image = without_broker(image_with(topics={"a": [[1], [2], [1]]}), 1)

    assert [key for key, _ in reconcile(image, {PartitionKey(T0, 2)})] == [f"partition/{T0}/2"]


def test_a_topic_that_is_gone_meanwhile_is_nothing_to_decide():
    assert reconcile(image_with(), {PartitionKey(T0, 0)}) == []


# -- at a broker's word ----------------------------------------------------------------------------------


def word(broker_id=1, *, epoch=0, incarnation=None, offline=False, number=0):
    return ReelectRequest(
        broker_id=broker_id,
        incarnation=incarnation or f"i{broker_id}",
        topic_id=T0,
        partition=number,
        leader_epoch=epoch,
        is_offline=offline,
    )


def after(image, request):
    decided = reelect(image, request)
    assert isinstance(decided, Reelected)
    return with_documents(image, [decided.change] if decided.change else [])


def test_a_leader_that_restarted_its_replica_hands_over():  # F1
    image = after(image_with(topics={"a": [[1, 2, 3]]}), word())

    assert (partition(image).leader, partition(image).leader_epoch, partition(image).isr) == (2, 1, (1, 2, 3))


def test_the_only_replica_that_restarted_gets_a_new_epoch():
    image = after(image_with(topics={"a": [[1]]}), word())

    assert (partition(image).leader, partition(image).leader_epoch, partition(image).leader_incarnation) == (1, 1, "i1")


def test_a_follower_that_restarted_changes_nothing():
    assert reelect(image_with(topics={"a": [[1, 2, 3]]}), word(2)) == Reelected(0)


def test_a_word_that_comes_twice_counts_once():
    image = after(image_with(topics={"a": [[1]]}), word())

    again = reelect(image, word())

    assert again == NotReelected(ErrorCode.FENCED_LEADER_EPOCH, "it was elected anew already", 1)


def test_a_replica_given_up_is_offline_and_its_leadership_moves():
    image = after(image_with(topics={"a": [[1, 2]]}), word(offline=True))

    assert (partition(image).leader, partition(image).isr) == (2, (2,))
    assert partition(image).offline == (Offline(1, "i1"),)
    assert not image.may_serve(partition(image), 1)
    assert reconcile(image) == []


def test_the_only_replica_given_up_leaves_no_leader_but_stays_in_sync():
    image = after(image_with(topics={"a": [[1]]}), word(offline=True))

    assert (partition(image).leader, partition(image).isr, partition(image).leader_epoch) == (NO_LEADER, (1,), 1)
    assert reelect(image, word(epoch=1, offline=True)) == Reelected(1)


def test_a_follower_given_up_leaves_the_isr():
    image = after(image_with(topics={"a": [[1, 2]]}), word(2, offline=True))

    assert (partition(image).leader, partition(image).isr, partition(image).leader_epoch) == (1, (1,), 0)


def test_the_brokers_next_life_tries_its_replica_again():
    image = after(image_with(topics={"a": [[1]]}), word(offline=True))

    image = reconciled(with_broker(image, 1, "i1b"))

    assert (partition(image).leader, partition(image).offline) == (1, ())


def test_a_replica_that_works_again_in_the_same_life_is_taken_back():
    image = after(image_with(topics={"a": [[1]]}), word(offline=True))

    image = after(image, word(epoch=1))

    assert (partition(image).leader, partition(image).offline, partition(image).leader_epoch) == (1, (), 2)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (word(incarnation="an earlier life"), ErrorCode.STALE_BROKER_EPOCH),  # B5, B10
        (word(number=7), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (word(epoch=9), ErrorCode.UNKNOWN_LEADER_EPOCH),
        (word(3), ErrorCode.INVALID_REQUEST),
        (word(4), ErrorCode.STALE_BROKER_EPOCH),
    ],
)
def test_a_word_that_does_not_fit_the_picture_is_refused(request_, error):
    decided = reelect(image_with(topics={"a": [[1, 2]]}), request_)

    assert isinstance(decided, NotReelected)
    assert decided.error == error


# -- laws ------------------------------------------------------------------------------------------------


def check(image, before, now):
    """What must hold of every step of a partition's life."""
    assert now.isr
    assert set(now.isr) <= set(now.replicas)
    assert now.leader == NO_LEADER or now.leader in now.isr
    assert set(now.isr) <= set(before.isr) or now.isr == (now.leader,), "nobody but a leader joins by an election"
    assert not set(now.isr) & set(now.elr)
    assert now.leader_epoch - before.leader_epoch in (0, 1)
    if (now.leader, now.leader_incarnation) != (before.leader, before.leader_incarnation):
        assert now.leader_epoch == before.leader_epoch + 1
        assert now.leader == NO_LEADER or now.leader in (*before.isr, *before.elr), "unclean"
    assert (now.partition_epoch > before.partition_epoch) == (now != before)
    if any(image.may_serve(now, one) for one in now.isr):
        assert image.leader_of(now) != NO_LEADER
        assert image.may_serve(now, now.leader)
        assert all(image.may_serve(now, one) for one in now.isr)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ends", "begins", "restarts", "word", "offline"]), st.integers(1, 4)), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.lists(st.permutations([1, 2, 3, 4]), min_size=1, max_size=3), st.integers(1, 4))
def test_whatever_happens_in_whatever_order_the_laws_of_elections_hold(steps, orders, factor):
    image = image_with([1, 2, 3, 4], topics={"a": [order[:factor] for order in orders]})
    leaders = {}  # (partition, epoch) -> who
    for lives, (what, broker_id) in enumerate(steps):
        before, was = image, dict(image.partitions())
        if what == "ends":
            image = without_broker(image, broker_id)
        elif what in ("begins", "restarts"):
            image = with_broker(image, broker_id, f"life {lives}")
        else:
            for number in range(len(orders)):
                now = partition(image, number)
                request = word(
                    broker_id,
                    epoch=now.leader_epoch,
                    incarnation=image.incarnation_of(broker_id) or "none",
                    offline=what == "offline",
                    number=number,
                )
                decided = reelect(image, request)
                if isinstance(decided, Reelected) and decided.change:
                    image = with_documents(image, [decided.change])
        if what in ("ends", "begins", "restarts"):
            image = reconciled(image)
        else:
            assert reconcile(image) == []
        for key, now in image.partitions():
            check(image, was[key], now)
            if now.leader != NO_LEADER:
                who = (now.leader, now.leader_incarnation)
                assert leaders.setdefault((key, now.leader_epoch), who) == who, "two leaders in one epoch"
        assert image.version >= before.version


def test_it_does_not_matter_whether_changes_are_seen_one_by_one_or_coalesced():
    """A missed picture costs nothing: who leads in the end is live and in sync either way."""
    for seed in range(50):
        chance = random.Random(seed)
        one_by_one = coalesced = image_with([1, 2, 3, 4], topics={"a": [chance.sample([1, 2, 3, 4], 3)]})
        for step in range(6):
            broker_id = chance.randint(1, 4)
            if chance.random() < 0.5:
                one_by_one, coalesced = (with_broker(one, broker_id, f"l{step}") for one in (one_by_one, coalesced))
            else:
                one_by_one, coalesced = (without_broker(one, broker_id) for one in (one_by_one, coalesced))
            one_by_one = reconciled(one_by_one)
        coalesced = reconciled(coalesced)
        for image in (one_by_one, coalesced):
            now = partition(image)
            assert elected(image, now, Terms(min_insync_replicas=2)) is now
            assert set(now.isr) <= set(now.replicas)
