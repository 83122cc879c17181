"""Leadership moved without a failure: back to preferred leaders, and at an operator's word."""

import pytest
from msgspec.structs import replace

from callboard.actors.controller.commands import plan
from callboard.actors.controller.draft import Draft
from callboard.actors.controller.elections import reconcile
from callboard.actors.controller.leadership import elect_leaders, rebalance
from callboard.actors.controller.telling import told_of
from callboard.actors.controller.topics import TopicRules
from callboard.actors.metadata.documents import NO_LEADER, Offline
from callboard.config import TopicConfig
from callboard.errors import ErrorCode
from callboard.model import PartitionKey
from callboard.testing.metadata import image_with, stored, topic_id_of, with_broker, with_documents, without_broker
from callboard.transport import messages as m

T0 = topic_id_of(0)


def partition(image, number=0):
    return image.partition(PartitionKey(T0, number))


def with_partition(image, number=0, **fields):
    return with_documents(image, [(f"partition/{T0}/{number}", replace(partition(image, number), **fields))])


def reconciled(image):
    draft = Draft(image)
    draft.put(reconcile(image))
    return stored(draft)


def led_by_another(image, leader=2, number=0, **fields):
    life = image.incarnation_of(leader)
    return with_partition(image, number, leader=leader, leader_incarnation=life, leader_epoch=1, **fields)


def elect(image, election="preferred", partitions=None):
    """The picture afterwards, and the replies."""
    named = None
    if partitions is not None:
        named = [m.ElectLeadersEntry(topic=topic, partition=number) for topic, number in partitions]
    changes, replies = elect_leaders(image, m.ElectLeadersRequest(election=election, partitions=named))
    return with_documents(image, changes), replies


def lost(image):
    """A partition of which nobody who is in sync or eligible is there: 1 was the last; 3 is back, without 1 and 2."""
    for broker_id in (3, 2, 1):
        image = reconciled(without_broker(image, broker_id))
    return reconciled(with_broker(image, 3, "i3b"))


# -- preferred leaders -----------------------------------------------------------------------------------


def test_a_preferred_leader_that_is_in_sync_gets_leadership_back():
    image = led_by_another(image_with(topics={"a": [[1, 2, 3]]}))

    image = with_documents(image, rebalance(image))

    now = partition(image)
    assert (now.leader, now.leader_incarnation, now.leader_epoch, now.isr) == (1, "i1", 2, (1, 2, 3))
    assert now.partition_epoch == 1
    assert rebalance(image) == []


@pytest.mark.parametrize("fields", [{"isr": (2, 3)}, {"isr": (2, 3), "offline": (Offline(1, "i1"),)}])
def test_one_that_is_not_in_sync_does_not(fields):
    assert rebalance(led_by_another(image_with(topics={"a": [[1, 2, 3]]}), **fields)) == []


def test_one_that_is_away_does_not():
    assert rebalance(reconciled(without_broker(image_with(topics={"a": [[1, 2, 3]]}), 1))) == []


def test_all_that_one_broker_is_preferred_for_come_back_together():
    image = image_with(topics={"a": [[1, 2, 3], [2, 3, 1], [1, 3, 2]]})
    image = led_by_another(led_by_another(image, 2, 0), 3, 2)

    assert [key for key, _ in rebalance(image)] == [f"partition/{T0}/0", f"partition/{T0}/2"]


def test_by_hand_each_partition_has_its_answer():
    image = led_by_another(image_with(topics={"a": [[1, 2, 3], [2, 3, 1], [3, 2, 1]]}))
    image = led_by_another(image, 2, 2, isr=(1, 2))

    image, replies = elect(image, partitions=[("a", 0), ("a", 1), ("a", 2), ("a", 7), ("b", 0)])

    assert [reply.error for reply in replies] == [
        0,
        ErrorCode.ELECTION_NOT_NEEDED,
        ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert (replies[0].leader, replies[0].leader_epoch) == (1, 2)
    assert partition(image).leader == 1


def test_asked_for_all_only_those_that_needed_it_are_told():
    image = led_by_another(image_with(topics={"a": [[1, 2, 3], [2, 3, 1]]}))

    _, replies = elect(image)

    assert [(reply.topic, reply.partition, reply.error) for reply in replies] == [("a", 0, 0)]


def test_the_same_partition_twice_is_elected_once():
    image = led_by_another(image_with(topics={"a": [[1, 2, 3]]}))

    image, replies = elect(image, partitions=[("a", 0), ("a", 0)])

    assert [reply.error for reply in replies] == [0, ErrorCode.ELECTION_NOT_NEEDED]
    assert partition(image).leader_epoch == 2


# -- unclean elections -----------------------------------------------------------------------------------


def test_nobody_but_an_operator_elects_who_may_miss_something():
    image = lost(image_with(topics={"a": [[1, 2, 3]]}))
    assert (partition(image).leader, partition(image).isr, partition(image).elr) == (NO_LEADER, (1,), (2,))

    image, replies = elect(image, "unclean", [("a", 0)])

    now = partition(image)
    assert (now.leader, now.leader_incarnation, now.isr, now.elr) == (3, "i3b", (3,), ())
    assert (replies[0].leader, replies[0].leader_epoch) == (3, now.leader_epoch)
    assert reconcile(image) == []


def test_a_preferred_election_elects_nobody_unclean():
    image = lost(image_with(topics={"a": [[1, 2, 3]]}))

    image, replies = elect(image, "preferred", [("a", 0)])

    assert replies[0].error == ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
    assert partition(image).leader == NO_LEADER


def test_an_unclean_election_is_not_held_where_a_leader_lives():
    _, replies = elect(image_with(topics={"a": [[1, 2, 3]]}), "unclean", [("a", 0)])

    assert replies[0].error == ErrorCode.ELECTION_NOT_NEEDED


def test_nor_where_no_replica_lives():
    image = reconciled(without_broker(image_with(topics={"a": [[1, 2]]}), 1, 2))

    image, replies = elect(image, "unclean", [("a", 0)])

    assert replies[0].error == ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
    assert "brokers 1, 2" in replies[0].detail


def test_a_replica_that_was_given_up_is_not_elected_even_so():
    image = lost(image_with(topics={"a": [[1, 2, 3]]}))
    image = with_partition(image, offline=(Offline(3, "i3b"),))

    _, replies = elect(image, "unclean", [("a", 0)])

    assert replies[0].error == ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE


def test_of_several_the_one_that_was_in_sync_last_is_elected():
    image = image_with(topics={"a": [[1, 2, 3]]}, configs={"flush": "os"})
    image = reconciled(without_broker(image, 3))
    image = reconciled(without_broker(image, 1, 2))
    image = reconciled(with_broker(with_broker(image, 3, "i3b"), 2, "i2b", is_after_reboot=True))
    assert partition(image).leader == NO_LEADER

    image, _ = elect(image, "unclean")

    assert (partition(image).leader, partition(image).isr) == (2, (2,))


# -- what is told ----------------------------------------------------------------------------------------


def told(image, request):
    draft = Draft(image)
    plan(TopicRules(), draft, request, now_ms=0, new_id=lambda: "n")
    return [(one.name, one.fields["partition"]) for one in told_of(draft, TopicConfig())]


def test_an_unclean_election_is_told_loudly():
    image = lost(image_with(topics={"a": [[1, 2, 3]]}))

    assert told(image, m.ElectLeadersRequest(election="unclean")) == [("leader.elected_unclean", "a-0")]


def test_a_preferred_election_is_told_as_any():
    image = led_by_another(image_with(topics={"a": [[1, 2, 3]]}))

    assert told(image, m.ElectLeadersRequest()) == [("leader.elected", "a-0")]


def test_another_in_sync_set_is_told():
    image = image_with(topics={"a": [[1, 2]]})
    isr = [m.IsrMember(broker_id=1)]
    entry = m.AlterPartitionEntry(topic_id=T0, partition=0, leader_epoch=0, partition_epoch=0, isr=isr)

    request = m.AlterPartitionRequest(broker_id=1, incarnation="i1", entries=[entry])

    assert told(image, request) == [("isr.changed", "a-0")]


def test_a_leader_that_may_miss_what_was_not_synced_is_told_as_such():
    image = image_with(topics={"a": [[1]]}, configs={"flush": "os"})
    image = reconciled(without_broker(image, 1))
    image = with_broker(image, 1, "i1b", is_after_reboot=True)
    draft = Draft(image)
    draft.put(reconcile(image))

    assert [one.name for one in told_of(draft, TopicConfig())] == ["leader.elected_after_reboot"]


def test_there_are_two_kinds_of_elections():
    draft = Draft(image_with(topics={"a": [[1]]}))

    reply = plan(TopicRules(), draft, m.ElectLeadersRequest(election="dirty"), now_ms=0, new_id=lambda: "n")(1)

    assert reply.error == ErrorCode.INVALID_REQUEST
    assert "preferred or unclean" in reply.detail
