"""What ``delete_records`` confirmed stays deleted, whoever leads next: the leader waits for each that is in sync."""

from callboard.actors.partition.events import Answer, DeleteRecords, Progress, Ticket
from callboard.actors.partition.retention import Deletions
from callboard.errors import ErrorCode

from .replicas import KEY, a_fetch, a_leader, answered, fetch, members, proposals, replies


def told(leader, broker, start, *, durable=10):
    return leader.on_progress(Progress(broker, f"life-1-of-{broker}", 5, durable, start), 0)


def with_start(broker, start, offset=10):
    return a_fetch(broker, offset, log_start=start)


def both_fetched(**changes):
    leader = a_leader(**changes)
    for broker in (2, 3):
        fetch(leader, broker, 10)
    return leader


def test_nothing_is_deleted_for_good_before_each_in_sync_replica_has_it_on_disk():
    leader = both_fetched()
    leader.on_deleted(4)

    assert leader.deleted_offset(4) == 0
    told(leader, 2, 4)
    assert leader.deleted_offset(4) == 0
    told(leader, 3, 4)
    assert leader.deleted_offset(0) == 0, "its own disk, too"
    assert leader.deleted_offset(4) == 4


def test_a_member_that_was_not_heard_in_this_epoch_is_waited_for():
    leader = a_leader()
    leader.on_fetch(with_start(2, 4), 0)

    assert leader.deleted_offset(4) == 0
    leader.on_fetch(with_start(3, 4), 0)
    assert leader.deleted_offset(4) == 4


def test_who_has_left_the_set_is_not_waited_for():
    leader = both_fetched()
    leader.on_deleted(4)
    told(leader, 2, 4)

    leader.on_isr([1, 2], 21, 2, 0)

    assert leader.deleted_offset(4) == 4


def test_below_the_minimum_nobody_can_say():
    """Who left when too few remained may be elected as well (ELR), and need not have deleted."""
    leader = both_fetched()
    leader.on_deleted(4)
    leader.on_isr([1], 21, 2, 0)

    assert leader.deleted_offset(4) == 0


def test_who_would_bring_records_back_does_not_join():
    leader = a_leader(isr=[1, 2], log_start_offset=4)
    leader.on_fetch(with_start(2, 4), 0)

    assert proposals(leader.on_fetch(with_start(3, 0), 0)) == []
    (proposal,) = proposals(told(leader, 3, 4))
    assert members(proposal) == [1, 2, 3]
    leader.on_isr_answered(answered(proposal), 0)
    assert leader.deleted_offset(4) == 4


def test_parked_followers_are_told_at_once_and_those_on_their_way_when_they_come():
    leader = a_leader()
    leader.on_fetch(with_start(2, 0), 0)  # parked; 3 is still copying
    assert [reply.log_start_offset for reply in replies(leader.on_deleted(4))] == [4]
    assert replies(leader.on_fetch(with_start(2, 0), 0)) == [], "it knows, and is at its disk with it"

    assert [reply.log_start_offset for reply in replies(leader.on_fetch(with_start(3, 0), 0))] == [4]
    assert replies(leader.on_fetch(with_start(3, 0), 0)) == []


def test_who_was_told_and_did_not_hear_it_is_told_again():
    leader = both_fetched()
    leader.on_deleted(4)
    leader.on_fetch(with_start(2, 0), 0)
    leader.on_fetch(with_start(3, 4), 0)

    assert leader.needs_watching
    assert [reply.log_start_offset for reply in replies(leader.on_look_at_followers(1_000))] == [4]
    leader.on_fetch(with_start(2, 4), 1_000)
    assert not leader.needs_watching


def test_a_request_is_answered_when_its_offset_is_deleted_everywhere():
    leader, deletions = both_fetched(), Deletions(KEY)
    request = DeleteRecords(Ticket(1, 0), 5, 4)
    assert deletions.judge(request, leader) == 4
    deletions.wait(4, request.ticket)
    leader.on_deleted(4)

    assert deletions.on_durable(leader.deleted_offset(4), leader) == []
    for broker in (2, 3):
        told(leader, broker, 4)
    (answer,) = deletions.on_durable(leader.deleted_offset(4), leader)

    assert isinstance(answer, Answer)
    assert (answer.reply.error, answer.reply.log_start_offset) == (ErrorCode.NONE, 4)
