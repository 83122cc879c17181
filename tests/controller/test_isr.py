"""A leader's word on its in-sync set: compare-and-set on both epochs, and on the lives of who is added."""

import pytest
from msgspec.structs import replace

from callboard.actors.controller.draft import Draft
from callboard.actors.controller.elections import reconcile
from callboard.actors.controller.isr import alter_partitions
from callboard.actors.metadata.documents import Life, Offline
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
from callboard.transport import messages as m

T0 = topic_id_of(0)


def partition(image, number=0):
    return image.partition(PartitionKey(T0, number))


def reconciled(image):
    draft = Draft(image)
    draft.put(reconcile(image))
    return stored(draft)


def ask(image, isr, *, number=0, leader_epoch=None, partition_epoch=None, broker_id=None, incarnation=None, lives=None):
    """What the leader asks for, as a leader that knows the picture; all of it may be given otherwise."""
    now = partition(image, number)
    lives = lives or {}
    entry = m.AlterPartitionEntry(
        topic_id=T0,
        partition=number,
        leader_epoch=now.leader_epoch if leader_epoch is None else leader_epoch,
        partition_epoch=now.partition_epoch if partition_epoch is None else partition_epoch,
        isr=[m.IsrMember(broker_id=one, incarnation=lives.get(one, image.incarnation_of(one))) for one in isr],
    )
    broker_id = now.leader if broker_id is None else broker_id
    incarnation = image.incarnation_of(broker_id) if incarnation is None else incarnation
    return m.AlterPartitionRequest(broker_id=broker_id, incarnation=incarnation, entries=[entry])


def altered(image, request):
    """The picture after the request, and the answer to its first entry."""
    changes, replies = alter_partitions(image, request)
    return with_documents(image, changes), replies[0]


def refused(image, request):
    changes, replies = alter_partitions(image, request)
    error = ErrorCode(replies[0].error)
    assert error == ErrorCode.INELIGIBLE_REPLICA or changes == []
    return error


def test_a_leader_takes_a_follower_out_and_the_answer_is_the_partition_as_it_is_then():
    image, reply = altered(image_with(topics={"a": [[1, 2, 3]]}), ask(image_with(topics={"a": [[1, 2, 3]]}), [1, 3]))

    assert (partition(image).isr, partition(image).partition_epoch, partition(image).leader_epoch) == ((1, 3), 1, 0)
    assert reply == m.AlterPartitionEntryReply(topic_id=T0, partition=0, leader_epoch=0, partition_epoch=1, isr=[1, 3])


def test_a_follower_that_caught_up_in_its_present_life_is_added():  # R4
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 2))
    image = reconciled(with_broker(image, 2, "i2b"))
    assert partition(image).isr == (1, 3)

    image, reply = altered(image, ask(image, [1, 3, 2]))

    assert reply.error == 0
    assert partition(image).isr == (1, 2, 3)


def test_a_follower_that_caught_up_in_an_earlier_life_is_not_added():  # R4, B10
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 2))
    image = reconciled(with_broker(image, 2, "i2b"))

    assert refused(image, ask(image, [1, 2, 3], lives={2: "i2"})) == ErrorCode.INELIGIBLE_REPLICA


@pytest.mark.parametrize("life", ["i2", ""])
def test_a_zombie_whose_session_has_ended_is_not_added(life):  # B5
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 2))

    assert refused(image, ask(image, [1, 2, 3], lives={2: life})) == ErrorCode.INELIGIBLE_REPLICA


def test_a_replica_that_its_broker_gave_up_is_not_added():
    image = image_with(topics={"a": [[1, 2, 3]]})

    now = replace(partition(image), isr=(1, 3), offline=(Offline(2, "i2"),))
    image = with_documents(image, [(f"partition/{T0}/0", now)])

    assert refused(image, ask(image, [1, 2, 3])) == ErrorCode.INELIGIBLE_REPLICA


def test_b9_a_copy_of_a_refused_proposal_is_refused_when_its_follower_lives_again():
    """The leader was told so, and acknowledges without it: the copy would make it a member that lacks what it lacks."""
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 2))
    before = partition(image)
    request = ask(image, [1, 2, 3], lives={2: "i2b"})

    image, reply = altered(image, request)
    assert reply.error == ErrorCode.INELIGIBLE_REPLICA
    assert reply.partition_epoch == partition(image).partition_epoch == before.partition_epoch + 1
    assert (partition(image).isr, partition(image).leader_epoch) == (before.isr, before.leader_epoch)

    image = reconciled(with_broker(image, 2, "i2b"))
    assert refused(image, request) == ErrorCode.INVALID_UPDATE_VERSION


def test_a_member_that_stays_needs_no_word_on_its_life():
    image = image_with(topics={"a": [[1, 2, 3]]})

    image, reply = altered(image, ask(image, [1, 2], lives={2: "not told"}))

    assert (reply.error, partition(image).isr) == (0, (1, 2))


def test_what_was_decided_on_an_older_partition_epoch_is_refused_and_the_present_told():  # R5, B9, B37
    image = image_with(topics={"a": [[1, 2, 3]]})
    image, _ = altered(image, ask(image, [1, 2]))
    late = ask(image, [1, 2, 3], partition_epoch=0)

    changes, replies = alter_partitions(image, late)

    assert changes == []
    assert replies[0].error == ErrorCode.INVALID_UPDATE_VERSION
    assert (replies[0].partition_epoch, replies[0].isr) == (1, [1, 2])


def test_a_proposal_on_its_way_when_the_follower_died_cannot_bring_it_back():  # B9
    image = image_with(topics={"a": [[1, 2, 3]]})
    image, _ = altered(image, ask(image, [1, 2]))
    on_its_way = ask(image, [1, 2, 3])
    image = reconciled(without_broker(image, 2))

    assert refused(image, on_its_way) == ErrorCode.INVALID_UPDATE_VERSION


def test_a_leader_of_an_earlier_epoch_changes_nothing():  # B6, R5
    image = image_with(topics={"a": [[1, 2, 3]]})
    old = ask(image, [1])
    image = reconciled(without_broker(image, 1))
    image = reconciled(with_broker(image, 1, "i1"))

    assert refused(image, old) == ErrorCode.FENCED_LEADER_EPOCH


def test_a_leader_epoch_that_nobody_gave_out_is_refused():
    image = image_with(topics={"a": [[1, 2, 3]]})

    assert refused(image, ask(image, [1, 2], leader_epoch=5)) == ErrorCode.UNKNOWN_LEADER_EPOCH


def test_a_broker_of_another_life_is_refused_before_anything_else():  # B5
    image = image_with(topics={"a": [[1, 2, 3]]})

    assert refused(image, ask(image, [1], incarnation="an earlier one")) == ErrorCode.STALE_BROKER_EPOCH
    assert refused(image, ask(image, [1], incarnation="")) == ErrorCode.STALE_BROKER_EPOCH
    assert refused(without_broker(image, 1), ask(image, [1])) == ErrorCode.STALE_BROKER_EPOCH


def test_only_the_leader_may_ask():
    image = image_with(topics={"a": [[1, 2, 3]]})

    assert refused(image, ask(image, [1, 2], broker_id=2)) == ErrorCode.NOT_LEADER_FOR_PARTITION


def test_a_leader_that_lives_again_but_was_not_elected_again_may_not_ask():
    image = with_broker(image_with(topics={"a": [[1, 2, 3]]}), 1, "i1b")

    assert refused(image, ask(image, [1])) == ErrorCode.NOT_LEADER_FOR_PARTITION


@pytest.mark.parametrize("isr", [[], [2, 3], [1, 1], [1, 9]])
def test_sets_that_cannot_be(isr):
    image = image_with(topics={"a": [[1, 2, 3]]})

    assert refused(image, ask(image, isr)) == ErrorCode.INVALID_REQUEST


def test_a_partition_that_is_not_there():
    image = image_with(topics={"a": [[1, 2, 3]]})
    entry = m.AlterPartitionEntry(topic_id="f" * 32, partition=0, leader_epoch=0, partition_epoch=0)
    request = m.AlterPartitionRequest(broker_id=1, incarnation="i1", entries=[entry])

    assert refused(image, request) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_asking_for_what_is_so_already_changes_nothing():
    image = image_with(topics={"a": [[1, 2, 3]]})

    changes, replies = alter_partitions(image, ask(image, [3, 2, 1]))

    assert changes == []
    assert (replies[0].error, replies[0].partition_epoch) == (0, 0)


def test_one_refused_entry_does_not_touch_the_others():
    image = image_with(topics={"a": [[1, 2, 3], [2, 3, 1], [1, 3, 2]]})
    entries = [ask(image, [1, 2], number=number).entries[0] for number in (0, 1, 2)]
    request = m.AlterPartitionRequest(broker_id=1, incarnation="i1", entries=entries)

    changes, replies = alter_partitions(image, request)

    assert [key for key, _ in changes] == [f"partition/{T0}/0", f"partition/{T0}/2"]
    assert [reply.error for reply in replies] == [0, ErrorCode.NOT_LEADER_FOR_PARTITION, 0]


def test_the_same_partition_twice_in_a_request_counts_once():
    image = image_with(topics={"a": [[1, 2, 3]]})
    entry = ask(image, [1, 2]).entries[0]
    request = m.AlterPartitionRequest(broker_id=1, incarnation="i1", entries=[entry, entry])

    changes, replies = alter_partitions(image, request)

    assert len(changes) == 1
    assert [reply.error for reply in replies] == [0, ErrorCode.INVALID_UPDATE_VERSION]


def test_who_leaves_while_the_isr_falls_below_the_minimum_stays_eligible_until_it_is_reached_again():  # R6
    image = image_with(topics={"a": [[1, 2, 3]]})  # min_insync_replicas 2
    image, _ = altered(image, ask(image, [1, 2]))
    assert partition(image).elr == (), "the minimum is kept, so records are committed without it"
    image, _ = altered(image, ask(image, [1]))
    assert partition(image).elr == (2,)

    image, _ = altered(image, ask(image, [1, 3]))

    assert (partition(image).isr, partition(image).elr) == ((1, 3), ())


def test_who_is_eligible_and_joins_again_is_eligible_no_more():
    image = image_with([1, 2, 3, 4], topics={"a": [[1, 2, 3, 4]]})  # min_insync_replicas 3
    image, _ = altered(image, ask(image, [1]))
    assert partition(image).elr == (2, 3, 4)

    image, _ = altered(image, ask(image, [1, 3]))

    assert (partition(image).isr, partition(image).elr) == ((1, 3), (2, 4))


def test_who_is_added_in_a_life_after_a_reboot_is_marked_as_caught_up_in_it():
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}, configs={"flush": "os"}), 2))
    image = reconciled(with_broker(image, 2, "i2b", is_after_reboot=True))

    image, _ = altered(image, ask(image, [1, 2, 3]))

    assert partition(image).caught_up == (Life(2, "i2b"),)
    assert reconcile(image) == []


@pytest.mark.parametrize("bound", [(1 << 15) - 1, (1 << 31) - 1, (1 << 62)])
def test_epochs_have_64_bits(bound):  # B38

    image = image_with(topics={"a": [[1, 2, 3]]})
    now = replace(partition(image), leader_epoch=bound, partition_epoch=bound)
    image = with_documents(image, [(f"partition/{T0}/0", now)])

    image, reply = altered(image, ask(image, [1, 2]))
    assert (reply.leader_epoch, reply.partition_epoch) == (bound, bound + 1)

    image = reconciled(without_broker(image, 1))
    assert (partition(image).leader_epoch, partition(image).partition_epoch) == (bound + 1, bound + 2)
