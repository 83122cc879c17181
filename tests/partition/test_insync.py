"""Who is in sync: proposed by the leader, true when the controller has committed it."""

import itertools

import pytest

from callboard.errors import ErrorCode

from .replicas import (
    LAG_MS,
    a_leader,
    acknowledged,
    answered,
    errors,
    fetch,
    members,
    produce,
    progress,
    proposals,
    unknown,
)


def without_3(**changes):
    """Brokers 1 and 2 are in sync and have everything; 3 is not."""
    leader = a_leader(isr=[1, 2], **changes)
    fetch(leader, 2, 10)
    return leader


# -- in ----------------------------------------------------------------------------------------------


def test_a_follower_that_has_reached_the_high_watermark_is_proposed_with_its_incarnation():
    leader = without_3()

    assert proposals(fetch(leader, 3, 9)) == []
    (proposal,) = proposals(fetch(leader, 3, 10))

    assert members(proposal) == [1, 2, 3]
    assert {one.broker_id: one.incarnation for one in proposal.isr}[3] == "life-1-of-3"
    assert (proposal.leader_epoch, proposal.partition_epoch) == (5, 20)
    assert leader.isr == {1, 2}, "it is in when that is committed"


def test_a_follower_below_the_start_of_this_epoch_is_not_proposed_although_it_reached_the_high_watermark():
    leader = a_leader(isr=[1, 2], high_watermark=6)

    assert proposals(fetch(leader, 3, 8)) == [], "R4: what this leader had when it began may be committed yet"
    (proposal,) = proposals(fetch(leader, 3, 10))
    assert members(proposal) == [1, 2, 3]


def test_under_flush_ack_a_copy_counts_when_it_is_on_disk():
    leader = without_3()

    assert proposals(fetch(leader, 3, 10, durable=7)) == []
    (proposal,) = proposals(progress(leader, 3, 10))

    assert members(proposal) == [1, 2, 3]


def test_under_flush_os_a_copy_counts_in_the_page_cache():
    leader = without_3(flush="os")

    (proposal,) = proposals(fetch(leader, 3, 10, durable=0))

    assert members(proposal) == [1, 2, 3]


def test_one_proposal_at_a_time_and_the_same_one_again_until_it_is_answered():
    leader = a_leader(isr=[1], min_insync_replicas=1)
    (proposal,) = proposals(fetch(leader, 2, 10))

    assert proposals(fetch(leader, 3, 10)) == []
    leader.on_isr_answered(unknown(proposal), 0)
    assert leader.on_look_at_followers(1_000) == [proposal]
    (next_one,) = proposals(leader.on_isr_answered(answered(proposal), 0))

    assert leader.isr == {1, 2}
    assert members(next_one) == [1, 2, 3]


# -- out ---------------------------------------------------------------------------------------------


def test_who_has_not_caught_up_for_replica_lag_ms_is_proposed_to_leave():
    leader = a_leader()
    for broker in (2, 3):
        fetch(leader, broker, 10)
    produce(leader, now_ms=1_000)
    fetch(leader, 2, 11, now_ms=1_001)

    assert leader.on_look_at_followers(1_000 + LAG_MS) == []
    (proposal,) = proposals(leader.on_look_at_followers(1_001 + LAG_MS))

    assert members(proposal) == [1, 2]


def test_the_next_look_is_due_the_moment_the_time_of_a_member_is_up():
    leader = a_leader()
    for broker in (2, 3):
        fetch(leader, broker, 10)
    produce(leader, now_ms=1_000)
    fetch(leader, 2, 11, now_ms=1_001)

    now_ms, looks = 1_001, []
    while not proposals(leader.on_look_at_followers(now_ms)):
        now_ms += leader.look_after_ms(now_ms)
        looks.append(now_ms)

    assert looks[-1] == 1_000 + LAG_MS + 1, "not up to a third of its time later"
    assert len(looks) <= 4
    assert leader.look_after_ms(now_ms) == LAG_MS // 3, "what was proposed is asked again in a steady rhythm"


def test_a_member_that_was_never_heard_in_this_epoch_leaves_after_replica_lag_ms():
    leader = a_leader()
    fetch(leader, 2, 10)

    assert leader.needs_watching, "nothing else may ever happen"
    (proposal,) = proposals(leader.on_look_at_followers(LAG_MS + 1))

    assert members(proposal) == [1, 2]


def test_a_follower_of_a_busy_log_is_caught_up_when_it_holds_what_the_log_was_a_moment_before():
    leader = a_leader(isr=[1, 2], replicas=[1, 2])
    for now_ms in range(0, 5 * LAG_MS, 500):  # always one batch behind
        fetch(leader, 2, leader.log_end_offset - (1 if now_ms else 0), now_ms=now_ms)
        produce(leader, now_ms=now_ms + 1)

    assert proposals(leader.on_look_at_followers(5 * LAG_MS)) == []


def test_a_follower_that_only_falls_further_behind_leaves_although_it_fetches():
    leader = a_leader(isr=[1, 2], replicas=[1, 2])
    left = []
    for now_ms in range(0, 3 * LAG_MS, 500):
        produce(leader, 10, now_ms=now_ms)
        left += proposals(fetch(leader, 2, 10 + now_ms // 500, now_ms=now_ms + 1))

    assert members(left[0]) == [1]


def test_whoever_holds_all_of_an_idle_log_stays_however_long_ago_it_spoke():
    leader = a_leader()
    for broker in (2, 3):
        fetch(leader, broker, 10)

    assert not leader.needs_watching
    assert leader.on_look_at_followers(1_000 * LAG_MS) == []


def test_the_time_without_anything_to_copy_does_not_count_as_lag():
    leader = a_leader(isr=[1, 2], replicas=[1, 2])
    fetch(leader, 2, 10)

    produce(leader, now_ms=100 * LAG_MS)

    assert leader.on_look_at_followers(100 * LAG_MS + 10) == []


# -- the maximal set -----------------------------------------------------------------------------------


def test_b9_a_proposed_addition_counts_before_it_is_committed():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    produce(leader)

    assert acknowledged(fetch(leader, 2, 11)) == [], "the store may have committed it, and 3 may be elected"
    assert acknowledged(fetch(leader, 3, 11)) == [10]
    leader.on_isr_answered(answered(proposal), 0)
    assert leader.isr == {1, 2, 3}


def test_a_proposed_removal_counts_until_it_is_committed():
    leader = a_leader()
    fetch(leader, 2, 10)
    (proposal,) = proposals(leader.on_look_at_followers(LAG_MS + 1))
    produce(leader)

    assert acknowledged(fetch(leader, 2, 11)) == []
    assert acknowledged(leader.on_isr_answered(answered(proposal), 0)) == [10]


def test_a_proposal_whose_outcome_is_unknown_still_counts():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    leader.on_isr_answered(unknown(proposal), 0)
    produce(leader)

    assert acknowledged(fetch(leader, 2, 11)) == []


@pytest.mark.parametrize(
    "error",
    [
        ErrorCode.NOT_CONTROLLER,
        ErrorCode.STALE_BROKER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.NOT_LEADER_FOR_PARTITION,
        ErrorCode.FENCED_LEADER_EPOCH,
    ],
)
def test_an_answer_that_does_not_say_that_it_never_was_committed_leaves_it_proposed(error):
    """After FENCED above all: sent twice, it may have been committed, and the added replica may lead by now."""
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    leader.on_isr_answered(unknown(proposal), 0)
    newer = {"leader_epoch": 6, "partition_epoch": 22} if error == ErrorCode.FENCED_LEADER_EPOCH else {}
    leader.on_isr_answered(answered(proposal, error, **newer), 0)
    produce(leader)

    assert acknowledged(fetch(leader, 2, 11)) == []
    assert leader.on_look_at_followers(1_000) == [proposal]


def test_what_is_committed_is_learned_from_the_image_as_well_as_from_the_answer():
    for first, second in (("image", "answer"), ("answer", "image")):
        leader = without_3()
        (proposal,) = proposals(fetch(leader, 3, 10))
        for source in (first, second):
            if source == "image":
                assert proposals(leader.on_isr([1, 2, 3], 21, 2, 0)) == []
            else:
                assert proposals(leader.on_isr_answered(answered(proposal), 0)) == []

        assert leader.isr == {1, 2, 3}
        assert leader.insync.partition_epoch == 21


def test_an_older_image_does_not_take_a_committed_set_back():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    leader.on_isr_answered(answered(proposal), 0)

    leader.on_isr([1, 2], 20, 2, 0)

    assert leader.isr == {1, 2, 3}


def test_an_answer_to_an_earlier_proposal_is_void():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    (again,) = proposals(leader.on_isr([1, 2], 21, 2, 0))  # something else has changed: it was overtaken

    leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)
    produce(leader)

    assert again.partition_epoch == 21
    assert acknowledged(fetch(leader, 2, 11)) == [], "the second one is under way"


def test_b9_whom_another_copy_of_the_proposal_may_yet_add_counts_although_one_was_refused():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    refused = answered(proposal, ErrorCode.INELIGIBLE_REPLICA, isr=[1, 2], partition_epoch=proposal.partition_epoch)

    leader.on_isr_answered(refused, 0)
    produce(leader)
    assert acknowledged(fetch(leader, 2, 11)) == [], "the partition epoch has not moved: nothing keeps a copy out"

    effects = leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA, isr=[1, 2]), 0)
    assert acknowledged(effects) == [10]


def test_who_is_refused_after_the_metadata_have_told_of_it_waits_like_others():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    (again,) = proposals(leader.on_isr([1, 2], 21, 2, 0))  # the refusal's own commit; its answer is on its way

    leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)
    leader.on_isr_answered(answered(again, ErrorCode.INELIGIBLE_REPLICA), 0)

    assert proposals(fetch(leader, 3, 10)) == []
    assert leader.insync.followers[3].refusals == 2


def test_a_proposal_that_was_overtaken_is_made_anew_from_what_is_true_now():
    leader = a_leader(isr=[1, 2])
    fetch(leader, 2, 10)
    (proposal,) = proposals(fetch(leader, 3, 10))
    overtaken = answered(proposal, ErrorCode.INVALID_UPDATE_VERSION, isr=[1], partition_epoch=21)

    assert proposals(leader.on_isr_answered(overtaken, 0)) == [], (
        "what changed may be the minimum: wait for the metadata"
    )
    assert leader.isr == {1, 2}
    (again,) = proposals(leader.on_isr([1, 2], 21, 2, 0))

    assert (members(again), again.partition_epoch) == ([1, 2, 3], 21)


# -- whoever is not taken ------------------------------------------------------------------------------


def test_whoever_waits_is_acknowledged_when_an_addition_is_refused():
    """Else nothing may happen again on an otherwise idle partition, and the producer times out."""
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    produce(leader)
    fetch(leader, 2, 11)

    effects = leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)

    assert acknowledged(effects) == [10]


def test_b10_a_follower_is_proposed_in_the_life_that_caught_up_and_in_the_next_when_that_has():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)

    assert proposals(fetch(leader, 3, 8, life="life-2")) == [], "it has lost its tail"
    (again,) = proposals(fetch(leader, 3, 10, life="life-2"))

    assert {one.broker_id: one.incarnation for one in again.isr}[3] == "life-2-of-3"


def test_a_dead_replica_that_holds_everything_does_not_keep_a_live_one_out():
    """The image removed 3, which has everything; a last fetch of it arrives, and then it is dead."""
    leader = a_leader(isr=[1, 3])
    fetch(leader, 3, 10)
    assert proposals(leader.on_isr([1], 21, 2, 0)) == [], "where it was when it left is no reason to take it back"
    (proposal,) = proposals(fetch(leader, 3, 10))
    assert members(proposal) == [1, 3]
    assert proposals(leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)) == []

    (live,) = proposals(fetch(leader, 2, 10))

    assert members(live) == [1, 2]


def test_a_dead_replica_that_holds_everything_does_not_keep_a_lagging_one_in():
    leader = a_leader()
    for broker in (2, 3):
        fetch(leader, broker, 10)
    produce(leader, now_ms=0, acks=1)
    leader.on_isr([1, 2], 21, 2, 0)
    (mixed,) = proposals(fetch(leader, 3, 10))  # its last one: it is dead
    assert members(mixed) == [1, 2, 3]

    effects = leader.on_isr_answered(answered(mixed, ErrorCode.INELIGIBLE_REPLICA), LAG_MS + 1)

    assert [members(one) for one in proposals(effects)] == [[1]]


def test_whoever_is_refused_again_and_again_is_asked_for_less_and_less_often():
    leader = without_3()
    asked = []
    (proposal,) = proposals(fetch(leader, 3, 10))
    for look in range(300):
        if proposal is not None:
            asked.append(look)
            leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)
        assert leader.needs_watching
        (proposal,) = proposals(leader.on_look_at_followers(1_000 * look)) or [None]

    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert set(waits[7:]) == {64}


def test_a_refused_follower_that_speaks_is_proposed_at_the_next_look():
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    for _ in range(3):
        leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)
        while not (again := proposals(leader.on_look_at_followers(0))):
            pass
        (proposal,) = again
    leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA), 0)

    assert proposals(fetch(leader, 3, 10)) == []
    (again,) = proposals(leader.on_look_at_followers(0))

    assert members(again) == [1, 2, 3]


# -- min_insync_replicas -------------------------------------------------------------------------------


def test_b7_acks_all_is_refused_before_the_append_when_too_few_are_in_sync():
    leader = a_leader(isr=[1])

    assert errors(produce(leader)) == [ErrorCode.NOT_ENOUGH_REPLICAS]
    assert leader.log_end_offset == 10, "nothing was appended"


def test_b7_whoever_waits_is_told_after_the_append_when_the_set_falls_below_the_minimum():
    leader = a_leader()
    produce(leader)
    produce(leader)

    assert errors(leader.on_isr([1, 2], 21, 2, 0)) == []
    assert errors(leader.on_isr([1], 22, 2, 0)) == [ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND] * 2
    assert leader.log_end_offset == 12, "they may yet be committed"


def test_who_was_refused_as_a_member_holds_the_high_watermark_back_no_longer():
    """It died after it was proposed: whatever waited for it meanwhile is acknowledged when the controller says so."""
    leader = without_3()
    (proposal,) = proposals(fetch(leader, 3, 10))
    produce(leader)
    assert acknowledged(fetch(leader, 2, 11)) == [], "it counts while it is proposed (B9)"

    effects = leader.on_isr_answered(answered(proposal, ErrorCode.INELIGIBLE_REPLICA, isr=[1, 2]), 0)

    assert acknowledged(effects) == [10]


def test_the_high_watermark_stands_while_fewer_than_the_minimum_are_in_sync():
    leader = a_leader(isr=[1])
    produce(leader, acks=1)

    assert leader.high_watermark == 10, "R3: 2 and 3 may be elected, and hold what is below it"
    fetch(leader, 2, 11)
    leader.on_isr([1, 2], 21, 2, 0)
    assert leader.high_watermark == 11


def test_an_altered_minimum_counts_at_once():
    leader = a_leader(isr=[1, 2])
    fetch(leader, 2, 10)
    produce(leader)

    assert errors(leader.on_isr([1, 2], 20, 3, 0)) == [ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND]
    assert errors(produce(leader)) == [ErrorCode.NOT_ENOUGH_REPLICAS]
    leader.on_isr([1, 2], 20, 2, 0)
    assert acknowledged(fetch(leader, 2, 11)) == [], "it was answered already"
    assert leader.high_watermark == 11


def test_a_duplicate_with_acks_all_is_refused_while_too_few_are_in_sync_and_acknowledged_later():
    leader = a_leader(isr=[1, 2])
    fetch(leader, 2, 10)
    produce(leader, sequence=0)
    leader.on_isr([1], 21, 2, 0)

    assert errors(produce(leader, sequence=0)) == [ErrorCode.NOT_ENOUGH_REPLICAS]
    leader.on_isr([1, 2], 22, 2, 0)
    assert produce(leader, sequence=0) == [], "it waits like the original"
    assert acknowledged(fetch(leader, 2, 11)) == [10]
    assert leader.log_end_offset == 11


# -- a link that was cut ---------------------------------------------------------------------------------


def test_whoever_caught_up_before_his_removal_was_answered_is_not_proposed_to_leave_again():
    """The proposal was lost with the link that is also why he lagged; both have healed."""
    leader = a_leader(isr=[1, 2], replicas=[1, 2])
    produce(leader)
    (proposal,) = proposals(leader.on_look_at_followers(LAG_MS + 1))
    leader.on_isr_answered(unknown(proposal), LAG_MS + 500)

    fetch(leader, 2, 11, now_ms=LAG_MS + 600)

    assert proposals(leader.on_look_at_followers(LAG_MS + 1_000)) == []
    assert not leader.needs_watching


def test_whoever_lags_still_is_proposed_to_leave_again_with_whoever_lags_now():
    leader = a_leader()
    fetch(leader, 2, 10, now_ms=LAG_MS)
    (first,) = proposals(leader.on_look_at_followers(LAG_MS + 1))
    produce(leader, now_ms=LAG_MS + 2)
    (again,) = proposals(leader.on_look_at_followers(2 * LAG_MS + 3))

    assert (members(first), members(again)) == ([1, 2], [1])
    assert first.partition_epoch == again.partition_epoch == 20


def test_a_removal_that_was_given_up_and_is_committed_all_the_same_is_taken_in():
    leader = a_leader(isr=[1, 2], replicas=[1, 2], min_insync_replicas=1)
    (proposal,) = proposals(leader.on_look_at_followers(LAG_MS + 1))
    fetch(leader, 2, 10, now_ms=LAG_MS + 2)
    assert proposals(leader.on_look_at_followers(LAG_MS + 3)) == []
    produce(leader, now_ms=LAG_MS + 4)

    (joining,) = proposals(leader.on_isr([1], 21, 1, LAG_MS + 5)) or proposals(fetch(leader, 2, 11, now_ms=LAG_MS + 6))
    leader.on_isr_answered(answered(proposal), LAG_MS + 7)

    assert leader.isr == {1}
    assert (members(joining), joining.partition_epoch) == ([1, 2], 21)


def test_the_refusal_of_a_removal_that_was_given_up_does_not_settle_an_addition_of_the_same_epoch():
    """Nobody knows yet whether the addition is committed: it must count."""
    leader = a_leader(isr=[1, 2])
    (removal,) = proposals(leader.on_look_at_followers(LAG_MS + 1))
    fetch(leader, 2, 10, now_ms=LAG_MS + 2)
    assert proposals(leader.on_look_at_followers(LAG_MS + 3)) == []
    (addition,) = proposals(fetch(leader, 3, 10, now_ms=LAG_MS + 4))
    assert addition.partition_epoch == removal.partition_epoch

    leader.on_isr_answered(answered(removal, ErrorCode.INVALID_REQUEST), LAG_MS + 5)
    produce(leader, now_ms=LAG_MS + 6)

    assert acknowledged(fetch(leader, 2, 11, now_ms=LAG_MS + 7)) == [], "3 counts"
