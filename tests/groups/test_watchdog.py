"""A member that beats and does not fetch what it owns is reset; and nobody else is."""

import pytest

from callboard.actors.groups.events import GroupSettings
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk, beat, numbers

STALL_MS = 30_000
BEAT_MS = 1_000


def one_member(desk=None, **more):
    """Return a desk with one member, which owns all four partitions; it has said so."""
    desk = desk or Desk()
    epoch = desk.join("one", **more).member_epoch
    desk.heartbeat("one", epoch, owned=[0, 1, 2, 3])
    return desk


def live(desk, milliseconds, *, name="one", **says):
    """Beat for so long, once in a second; return the last reply. Ends when that resets the member, or is an error."""
    reply = None
    for _ in range(milliseconds // BEAT_MS):
        desk.pass_time(BEAT_MS)
        reply = desk.heartbeat(name, epoch_of(desk, name), **says)
        if reply.error or reply.is_reset:
            break
    return reply


def epoch_of(desk, name):
    group = desk.rules._groups.by_id["billing"]
    return group.members[name].epoch if name in group.members else 1


def stalled_ms(desk):
    return desk.described().members[0].stalled_ms


def test_a_member_that_does_not_fetch_a_partition_is_reset_and_told_why():
    desk = one_member()

    assert not live(desk, STALL_MS, stalled=[2]).is_reset
    began_ms = desk.now_ms
    told = live(desk, STALL_MS, stalled=[2])

    assert desk.now_ms - began_ms == BEAT_MS
    assert (told.error, told.is_reset) == (0, True)
    assert "one of app at 10.0.0.1 was reset: it owned orders-2 and did not fetch it for 30,000 ms" in told.why
    assert desk.described().members[0].state == "reset"


def test_whoever_looks_after_the_cluster_hears_of_a_reset():
    desk = one_member()

    live(desk, 2 * STALL_MS, stalled=[1, 2])
    live(desk, 5_000, stalled=[1, 2])

    (notice,) = desk.notices
    assert notice.name == "group.member_reset"
    told = {name: str(value) for name, value in notice.values.items()}
    assert told["group"] == "billing"
    assert (told["partition"], told["stalled"], told["owned"], told["ms"]) == ("orders-1", "2", "4", "30000")


def test_what_it_owned_goes_to_others_when_it_has_left_and_a_late_commit_is_refused_with_their_name():
    desk = one_member()
    desk.join("two", topics=[])
    two = epoch_of(desk, "two")
    desk.heartbeat("two", two, topics=["orders"])
    desk.heartbeat("one", epoch_of(desk, "one"), owned=[0, 1])
    one = epoch_of(desk, "one")
    for _ in range(32):
        desk.pass_time(BEAT_MS)
        desk.heartbeat("two", epoch_of(desk, "two"), owned=[2, 3])
        is_reset = desk.heartbeat("one", one, stalled=[0]).is_reset

    assert is_reset
    assert numbers(desk.heartbeat("two", two).assignment) == [2, 3], "one may be at work on the others"
    assert desk.commit("one", one, {0: 7}).error == 0
    desk.heartbeat("one", said.LEAVING)

    assert numbers(desk.heartbeat("two", two).assignment) == [0, 1, 2, 3]
    refused = desk.commit("one", one, {0: 9})
    assert refused.error == ErrorCode.UNKNOWN_MEMBER_ID
    assert "was reset" in refused.detail
    assert "two of app" in refused.detail


def test_a_member_that_never_says_that_it_fetches_does_not():
    assert live(one_member(), 2 * STALL_MS, is_fetching=False).is_reset


def test_one_that_is_told_and_stays_is_put_out_after_another_session():
    desk = one_member()
    live(desk, 2 * STALL_MS, stalled=[2])

    for _ in range(9):
        desk.pass_time(BEAT_MS)
        assert desk.heartbeat("one", 1, stalled=[2]).is_reset
    desk.pass_time(BEAT_MS)
    refused = desk.heartbeat("one", 1, stalled=[2])

    assert refused.error == ErrorCode.UNKNOWN_MEMBER_ID
    assert "it was told, and did not leave" in refused.detail
    assert desk.described().members == []


def test_one_that_fetches_again_before_it_has_heard_stays():
    desk = one_member()
    live(desk, 2 * STALL_MS, stalled=[2])

    assert not live(desk, 2 * STALL_MS).is_reset
    assert not live(desk, STALL_MS, stalled=[2]).is_reset
    assert desk.described().members[0].state == "stable"


def test_a_member_that_owns_nothing_need_not_fetch():
    desk = one_member()
    desk.join("two", topics=[])

    for _ in range(100):
        desk.pass_time(BEAT_MS)
        desk.heartbeat("one", epoch_of(desk, "one"))
        assert not desk.heartbeat("two", epoch_of(desk, "two"), is_fetching=False).is_reset


def test_evidence_once_in_a_while_is_enough():
    desk = one_member()

    for _ in range(5):
        assert not live(desk, STALL_MS, stalled=[0]).is_reset
        live(desk, BEAT_MS)

    assert desk.notices == []


def test_stalls_of_different_partitions_do_not_add_up():
    desk = one_member()

    for partition in (0, 1, 2, 3, 0, 1):
        assert not live(desk, STALL_MS - BEAT_MS, stalled=[partition]).is_reset


def test_a_partition_that_was_just_given_has_the_full_time():
    desk = Desk()
    desk.join("two")
    desk.join("one")
    live(desk, STALL_MS - BEAT_MS, name="two", stalled=[0])
    desk.heartbeat("one", said.LEAVING)  # so that two is given what one never had

    live(desk, BEAT_MS, name="two")
    assert not live(desk, STALL_MS, name="two", stalled=[2, 3]).is_reset


def test_a_partition_without_a_leader_is_not_the_members_fault():
    desk = one_member()
    desk.led[2] = -1

    assert not live(desk, 4 * STALL_MS, stalled=[2]).is_reset

    desk.led[2] = 1
    assert not live(desk, STALL_MS, stalled=[2]).is_reset, "the full time, from when it is led"
    assert live(desk, 2 * BEAT_MS, stalled=[2]).is_reset


def test_a_new_leader_begins_the_time_anew():
    desk = one_member()

    for epoch in range(1, 6):
        desk.led[2] = epoch
        assert not live(desk, STALL_MS, stalled=[2]).is_reset


def test_an_unled_partition_does_not_hide_another_one():
    desk = one_member()
    desk.led[0] = -1

    refused = live(desk, 2 * STALL_MS, stalled=[0, 3])

    assert "it owned orders-3 (and 1 more)" in refused.why


def test_a_partition_that_is_to_be_given_back_is_not_looked_at():
    desk = one_member()
    desk.join("two")
    desk.pass_time(5_000)  # one has half of it to give back, and does not come to it

    for _ in range(60):
        desk.pass_time(BEAT_MS)
        desk.heartbeat("two", epoch_of(desk, "two"))
        assert not desk.heartbeat("one", epoch_of(desk, "one"), stalled=[2, 3]).is_reset

    assert desk.described().members[0].state == "revoking"
    assert desk.described().members[0].stalled == []


@pytest.mark.parametrize("gap_ms", [9_000, 3_600_000])
def test_a_gap_between_heartbeats_counts_as_no_more_than_heartbeats_may_be_apart(gap_ms):
    """The client was paused, or the coordinator, or the link between them cut."""
    desk = one_member()
    live(desk, 10_000, stalled=[2])
    before_ms = stalled_ms(desk)

    desk.sleep(gap_ms)  # its session is lengthened for what the coordinator has slept
    desk.heartbeat("one", epoch_of(desk, "one"), stalled=[2])

    assert stalled_ms(desk) - before_ms <= 10_000 // 3


def test_time_counts_also_while_each_answer_waits_for_a_proof():
    desk = one_member()
    desk.proven = False

    for _ in range(60):
        ticket = desk.park("one", 1, max_wait_ms=BEAT_MS, stalled=[2])
        desk.pass_time(BEAT_MS)
        if desk.replies[ticket].is_reset:
            break

    assert desk.now_ms == pytest.approx(STALL_MS, abs=2 * BEAT_MS)


def test_a_longer_session_gives_more_time():
    desk = one_member(session_timeout_ms=60_000)

    assert not live(desk, 60_000, stalled=[2]).is_reset
    assert live(desk, 2 * BEAT_MS, stalled=[2]).is_reset


def test_with_a_setting_of_0_nobody_is_reset_and_stalls_are_shown_all_the_same():
    desk = one_member(Desk(settings=GroupSettings(group_fetch_stall_ms=0)))

    assert not live(desk, 4 * STALL_MS, stalled=[2]).is_reset
    (member,) = desk.described().members
    assert (numbers(member.stalled), member.stalled_ms > 3 * STALL_MS) == ([2], True)


def test_resets_that_do_not_help_become_rarer_and_one_that_did_is_forgotten():
    desk = Desk()
    waited = []
    for number in range(8):
        name = f"m{number}"
        desk.heartbeat(name, desk.join(name).member_epoch)
        began_ms = desk.now_ms
        live(desk, 60 * STALL_MS, name=name, stalled=[2])
        waited.append((desk.now_ms - began_ms) // STALL_MS)
        desk.heartbeat(name, said.LEAVING)

    assert waited == [1, 2, 4, 8, 16, 32, 32, 32]

    desk.heartbeat("last", desk.join("last").member_epoch)
    live(desk, 2 * 33 * STALL_MS, name="last")
    began_ms = desk.now_ms
    live(desk, 60 * STALL_MS, name="last", stalled=[2])
    assert (desk.now_ms - began_ms) // STALL_MS == 1


def test_other_clients_of_the_group_have_the_usual_time():
    desk = one_member()
    live(desk, 2 * STALL_MS, stalled=[2])
    desk.heartbeat("one", said.LEAVING)

    desk.ask(beat("two", said.JOINING, topics=["orders"], assignors=["sticky"]), client_id="another")
    began_ms = desk.now_ms
    assert live(desk, 4 * STALL_MS, name="two", stalled=[2]).is_reset

    assert (desk.now_ms - began_ms) // STALL_MS == 1


def test_a_static_member_comes_back_at_once_in_its_place():
    desk = one_member(instance_id="rack-7")
    desk.join("other")
    desk.heartbeat("one", epoch_of(desk, "one"), owned=[0, 1])
    for _ in range(32):
        desk.pass_time(BEAT_MS)
        desk.heartbeat("other", epoch_of(desk, "other"), owned=[2, 3])
        told = desk.heartbeat("one", epoch_of(desk, "one"), stalled=[1])
    assert told.is_reset

    desk.heartbeat("one", said.LEAVING_FOR_A_WHILE, instance_id="rack-7")
    back = desk.join("one again", instance_id="rack-7")

    assert (back.error, numbers(back.assignment)) == (0, [0, 1])


def test_another_coordinator_begins_anew():
    desk = one_member()
    live(desk, STALL_MS, stalled=[2])

    desk = desk.restarted()

    assert not live(desk, STALL_MS, stalled=[2]).is_reset
    assert live(desk, 3 * BEAT_MS, stalled=[2]).is_reset


def test_a_coordinator_that_cannot_write_puts_nobody_out():
    desk = one_member()
    live(desk, STALL_MS, stalled=[2])
    desk.proven = desk.survives = False
    desk.send(said.OffsetFetchRequest(group_id="billing"))
    desk.rules.on_sent(desk.under_way[-1].number, desk.now_ms)
    desk.take(desk.rules.on_unproven("too few in sync"))
    desk.under_way.clear()
    desk.proven = desk.survives = True

    assert not live(desk, 2 * STALL_MS, stalled=[2]).is_reset

    desk.commit("one", epoch_of(desk, "one"), {0: 1})  # it can write again
    assert not live(desk, STALL_MS - BEAT_MS, stalled=[2]).is_reset
    assert live(desk, 3 * BEAT_MS, stalled=[2]).is_reset


def test_a_coordinator_whose_appends_take_long_resets_nobody():
    desk = one_member()
    live(desk, STALL_MS - 2 * BEAT_MS, stalled=[2])
    desk.survives = False
    desk.send(said.OffsetFetchRequest(group_id="billing"))
    desk.rules.on_sent(desk.under_way[-1].number, desk.now_ms)

    assert not live(desk, 5_000, stalled=[2]).is_reset

    desk.survives = True
    desk.write()
    assert not live(desk, STALL_MS - BEAT_MS, stalled=[2]).is_reset
    assert live(desk, 3 * BEAT_MS, stalled=[2]).is_reset


def test_a_heartbeat_that_waits_is_answered_when_its_member_is_reset():
    desk = one_member()
    for _ in range(29):
        live(desk, BEAT_MS, stalled=[2])
    waiting = desk.park("one", 1, max_wait_ms=3_000, stalled=[2])
    desk.pass_time(2_000)
    assert waiting not in desk.replies

    assert desk.heartbeat("one", 1, stalled=[2]).is_reset

    assert desk.replies[waiting].is_reset


def test_what_a_member_does_not_own_is_not_counted_whatever_it_says():
    desk = one_member()

    assert not live(desk, 3 * STALL_MS, stalled=[7, 99]).is_reset


def test_a_description_says_when_a_member_was_last_known_to_fetch():
    desk = one_member()
    live(desk, BEAT_MS)
    desk.pass_time(400)
    assert desk.described().members[0].fetching_ms_ago == 400

    live(desk, 3_000, stalled=[1])
    (member,) = desk.described().members
    assert (member.fetching_ms_ago, numbers(member.stalled), member.stalled_ms) == (3_400, [1], 2_000)


def test_a_reset_is_told_of_also_when_what_is_said_besides_is_refused():
    desk = one_member()
    live(desk, STALL_MS, stalled=[2])
    desk.pass_time(BEAT_MS)

    refused = desk.heartbeat("one", 1, owned=[7], stalled=[2])

    assert refused.error == ErrorCode.INVALID_REQUEST
    assert [notice.name for notice in desk.notices] == ["group.member_reset"]
