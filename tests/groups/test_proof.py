"""What a coordinator says without writing anything waits for a proof that it is the coordinator still."""

from __future__ import annotations

from callboard.actors.groups.members import Member
from callboard.actors.groups.proof import NEVER_PROVEN_MS, Proofs
from callboard.actors.groups.records import PROOF
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk

PROOF_MS = 1_500  # session_timeout_ms of brokers


def unproven(desk):
    """Let the desk hear nothing of the store, and its writes wait."""
    desk.proven = desk.survives = False
    return desk


def hand_over(desk):
    desk.rules.on_sent(desk.under_way[-1].number, desk.now_ms)


def read(desk):
    return desk.send(said.OffsetFetchRequest(group_id="billing"))


def a_desk_with_a_member():
    desk = Desk()
    return desk, desk.join("m1").member_epoch


# -- reads -------------------------------------------------------------------------------------------


def test_a_read_waits_for_a_proof_that_is_younger_than_its_question():
    desk = unproven(Desk())

    first = read(desk)
    assert [write.records for write in desk.under_way] == [[PROOF]]
    hand_over(desk)
    second = read(desk)
    desk.write(1)

    assert desk.replies[first].error == 0
    assert second not in desk.replies, "the first proof was handed over before it was asked"
    desk.write()
    assert desk.replies[second].error == 0


def test_reads_and_decisions_of_one_turn_share_one_proof():
    desk, epoch = a_desk_with_a_member()
    unproven(desk)

    commit = desk.send(
        said.OffsetCommitRequest(
            group_id="billing",
            member_id="m1",
            member_epoch=epoch,
            entries=[said.OffsetCommitEntry(topic="orders", partition=0, offset=5)],
        )
    )
    tickets = [read(desk), read(desk)]

    assert len(desk.under_way) == 1, "what is to be written anyway proves it"
    desk.write()
    assert all(ticket in desk.replies for ticket in [commit, *tickets])


# -- heartbeats --------------------------------------------------------------------------------------


def test_a_heartbeat_is_answered_at_once_while_the_store_says_who_coordinates():
    desk, epoch = a_desk_with_a_member()
    desk.survives = False

    desk.pass_time(9_000)
    assert desk.heartbeat("m1", epoch).error == 0
    assert not desk.under_way


def test_a_heartbeat_waits_when_the_last_proof_is_old_and_what_survives_is_one():
    desk, epoch = a_desk_with_a_member()
    unproven(desk)

    desk.pass_time(PROOF_MS)
    assert desk.heartbeat("m1", epoch).error == 0, "old enough to be told by"
    desk.pass_time(1)
    ticket = desk.send(said.GroupHeartbeatRequest(group_id="billing", member_id="m1", member_epoch=epoch))
    assert ticket not in desk.replies

    hand_over(desk)
    desk.pass_time(1_000)
    desk.write()
    assert desk.replies[ticket].error == 0
    desk.pass_time(PROOF_MS - 1_000)
    assert desk.heartbeat("m1", epoch).error == 0, "proven as of when it was handed over"
    desk.pass_time(1)
    unanswered = desk.send(said.GroupHeartbeatRequest(group_id="billing", member_id="m1", member_epoch=epoch))
    assert unanswered not in desk.replies


def test_a_parked_heartbeat_whose_time_is_over_waits_likewise():
    desk, epoch = a_desk_with_a_member()
    unproven(desk)
    ticket = desk.park("m1", epoch, max_wait_ms=2_000)

    desk.pass_time(2_000)

    assert ticket not in desk.replies
    desk.write()
    assert desk.replies[ticket].error == 0


def test_whoever_an_old_coordinator_keeps_alive_is_alive_for_the_new_one():
    """The worst case: deposed right after its last proof, it answers one heartbeat as late as it may."""
    old, epoch = a_desk_with_a_member()
    new = old.restarted()
    unproven(old)

    old.pass_time(PROOF_MS)
    assert old.heartbeat("m1", epoch).error == 0
    believes_until_ms = old.now_ms + 10_000
    new.pass_time(believes_until_ms - new.now_ms - 1)

    assert [member.member_id for member in new.described().members] == ["m1"]
    new.pass_time(1)
    assert new.described().members == []


def test_being_heard_never_shortens_what_a_loading_coordinator_gave():
    member = Member("m1", session_timeout_ms=10_000, rebalance_timeout_ms=10_000, now_ms=0)
    member.seen_ms = 1_500

    member.heard(100)

    assert member.seen_ms == 1_500


# -- when there is none ------------------------------------------------------------------------------


def test_who_waits_for_a_proof_that_is_refused_is_refused_and_nothing_is_lost():
    desk, epoch = a_desk_with_a_member()
    unproven(desk)
    ticket = read(desk)
    hand_over(desk)

    desk.under_way.clear()
    desk.take(desk.rules.on_unproven("it cannot be shown"))

    assert desk.replies[ticket].error == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert "it cannot be shown" in desk.replies[ticket].detail
    assert desk.heartbeat("m1", epoch).error == 0
    again = read(desk)
    desk.write()
    assert desk.replies[again].error == 0


def test_when_a_decision_went_with_the_proof_everything_must_be_given_up():
    desk, _ = a_desk_with_a_member()
    unproven(desk)
    read(desk)
    desk.send(said.GroupHeartbeatRequest(group_id="billing", member_id="m1", member_epoch=said.LEAVING))
    hand_over(desk)

    assert desk.rules.on_unproven("it cannot be shown") is None


# -- what the store says -----------------------------------------------------------------------------


def test_the_stores_word_is_of_an_epoch():
    proofs = Proofs()
    assert proofs.proven_ms(3, 7) == NEVER_PROVEN_MS

    proofs.confirm({3: 7}, 100)
    assert [proofs.proven_ms(*one) for one in ((3, 7), (3, 6), (4, 7))] == [100, NEVER_PROVEN_MS, NEVER_PROVEN_MS]
    proofs.confirm({}, 200)
    assert proofs.proven_ms(3, 7) == NEVER_PROVEN_MS


def test_the_stores_word_does_not_get_older():
    proofs = Proofs()
    proofs.confirm({3: 7}, 100)
    proofs.confirm({3: 7}, 50)

    assert proofs.proven_ms(3, 7) == 100
