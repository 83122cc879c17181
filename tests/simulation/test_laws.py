"""Each law finds the smallest state that breaks it, and nothing in one that keeps them all."""

import pytest

from callboard.actors.metadata.documents import Life, PartitionDocument
from callboard.model import PartitionKey, TopicId, TopicPartition
from callboard.testing.history import History, Moved, Polled, Send, anomalies, divergences
from callboard.testing.laws import LawBroken, Laws, same_logs
from callboard.testing.losses import Loss, without_losses
from callboard.testing.observing import BatchMark, ReplicaView

KEY = PartitionKey(TopicId("0" * 32), 0)
A, B, C = (BatchMark(at, at + 2, 1, 100 + at) for at in (0, 2, 4))
OTHER = BatchMark(2, 4, 2, 999)  # where B stands


def a_view(broker=1, marks=(A, B), **fields):
    marks = list(marks)
    end = marks[-1].next_offset if marks else 0
    values = {
        "broker": broker,
        "life": f"{broker}-1",
        "key": KEY,
        "role": "leader" if fields.get("is_leader") else "follower",
        "epoch": 1,
        "is_leader": False,
        "isr": frozenset(),
        "min_insync_replicas": 1,
        "flush": "ack",
        "log_start_offset": 0,
        "high_watermark": 0,
        "log_end_offset": end,
        "durable_offset": end,
        "cuts": 0,
        "marks": marks,
    }
    return ReplicaView(**{**values, **fields})


def a_leader(broker=1, marks=(A, B), **fields):
    marks = list(marks)
    values = {"is_leader": True, "isr": frozenset({1, 2, 3}), "high_watermark": marks[-1].next_offset if marks else 0}
    return a_view(broker, marks, **{**values, **fields})


def a_document(**fields):
    return PartitionDocument(**{"replicas": (1, 2, 3), "isr": (1, 2, 3), "leader": 1, "leader_epoch": 1, **fields})


@pytest.fixture
def laws():
    """Three replicas, of which broker 1 leads and has committed A and B."""
    made = Laws()
    made.on_document(KEY, a_document())
    for broker in (2, 3):
        made.on_replica(a_view(broker))
    made.on_replica(a_leader())
    return made


def test_what_is_sound_breaks_no_law(laws):
    laws.on_replica(a_view(2, (A, B, C), high_watermark=4))
    laws.on_replica(a_view(3, (A, B, C), high_watermark=4))
    laws.on_replica(a_leader(1, (A, B, C)))
    laws.on_ack(1, KEY, 1, 4)
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, partition_epoch=1, isr=(2, 3)))
    laws.on_replica(a_leader(2, (A, B, C), epoch=2, isr=frozenset({2, 3})))

    assert laws.ghosts[KEY].marks == [A, B, C]
    assert laws.checks >= 10


def broken_by(act):
    with pytest.raises(LawBroken) as caught:
        act()
    return caught.value.law


def test_two_leaders_in_one_epoch(laws):
    assert broken_by(lambda: laws.on_replica(a_leader(2))) == "single-leader"


def test_the_same_broker_in_another_life_is_another_leader(laws):
    assert broken_by(lambda: laws.on_replica(a_leader(life="1-2"))) == "single-leader"


def test_an_epoch_that_goes_back(laws):
    laws.on_replica(a_view(2, epoch=3))
    assert broken_by(lambda: laws.on_replica(a_view(2, epoch=2))) == "monotone-epochs"


@pytest.mark.parametrize("name", ["leader_epoch", "partition_epoch"])
def test_an_epoch_in_the_store_that_goes_back(laws, name):
    laws.on_document(KEY, a_document(leader_epoch=5, partition_epoch=5))
    later = {"leader_epoch": 5, "partition_epoch": 5, name: 4}
    assert broken_by(lambda: laws.on_document(KEY, a_document(**later))) == "monotone-epochs"


def test_a_controller_epoch_that_goes_back(laws):
    laws.on_controller_epoch(4)
    assert broken_by(lambda: laws.on_controller_epoch(3)) == "monotone-epochs"


@pytest.mark.parametrize(
    "fields",
    [
        {"high_watermark": 5},
        {"high_watermark": 1, "log_start_offset": 2},
        {"durable_offset": 5},
        {"log_start_offset": 5, "high_watermark": 5},
    ],
)
def test_offsets_out_of_order(fields):
    assert broken_by(lambda: Laws().on_replica(a_leader(isr=frozenset({1}), **fields))) == "offsets-in-order"


def test_a_high_watermark_that_falls_within_its_epoch(laws):
    assert broken_by(lambda: laws.on_replica(a_leader(high_watermark=2))) == "high-watermark-never-falls"


@pytest.mark.parametrize("behind", [a_view(2, (A, B)), a_view(2, (A, B, C), durable_offset=4)])
def test_a_high_watermark_above_what_a_member_holds_on_disk(laws, behind):
    laws.on_replica(behind)
    laws.on_replica(a_view(3, (A, B, C)))
    assert broken_by(lambda: laws.on_replica(a_leader(1, (A, B, C)))) == "committed-is-held"


def test_with_flush_os_being_in_the_log_is_enough(laws):
    for broker in (2, 3):
        laws.on_replica(a_view(broker, (A, B, C), durable_offset=4, flush="os"))
    laws.on_replica(a_leader(1, (A, B, C), flush="os"))


def test_a_high_watermark_that_moves_with_too_few_in_sync(laws):
    alone = a_leader(1, (A, B, C), isr=frozenset({1}), min_insync_replicas=2)
    laws.on_document(KEY, a_document(isr=(1,)))
    assert broken_by(lambda: laws.on_replica(alone)) == "enough-in-sync"


def test_a_set_that_shrinks_in_the_step_of_the_move_was_enough_if_so_many_hold_it(laws):
    """A leader that was paused finds both in its mailbox: what lets the high watermark move, and a smaller set."""
    laws.on_replica(a_view(2, (A, B, C)))
    laws.on_document(KEY, a_document(isr=(1,)))

    laws.on_replica(a_leader(1, (A, B, C), isr=frozenset({1}), min_insync_replicas=2))


def test_one_offset_that_is_committed_twice():
    laws = Laws()
    laws.on_replica(a_leader(1, (A, B), isr=frozenset({1})))
    assert broken_by(lambda: laws.on_replica(a_leader(2, (A,), epoch=2, isr=frozenset({2})))) == "leader-completeness"
    zombie = a_leader(1, (A, OTHER._replace(epoch=1)), isr=frozenset({1}), cuts=1)
    assert broken_by(lambda: laws.on_replica(zombie)) in ("commit-agreement", "log-matching")


def test_a_leader_that_lacks_what_was_committed(laws):
    laws.on_document(KEY, a_document(isr=(1, 3), leader=1))
    short = a_leader(2, (A,), epoch=2, isr=frozenset({2}))
    assert broken_by(lambda: laws.on_replica(short)) == "leader-completeness"


def test_a_candidate_that_cuts_away_what_was_committed(laws):
    assert broken_by(lambda: laws.on_replica(a_view(2, (A,), cuts=1))) == "candidate-completeness"


def test_a_candidate_that_has_not_on_disk_what_was_committed(laws):
    laws.on_document(KEY, a_document(isr=(1, 2)))
    laws.on_replica(a_view(2, (A, B, C)))
    laws.on_replica(a_view(3, (A, B, C), durable_offset=4))
    laws.on_replica(a_leader(1, (A, B, C), isr=frozenset({1, 2})))
    assert broken_by(lambda: laws.on_document(KEY, a_document(isr=(1, 2, 3)))) == "candidate-completeness"


def test_a_log_that_is_opened_anew_has_on_disk_what_its_last_life_had_synced(laws):
    laws.on_replica_down(KEY, 2)
    laws.on_replica(a_view(2, (A, B), life="2-2", durable_offset=0))
    laws.on_replica(a_leader(1, (A, B), isr=frozenset({1, 2, 3})))


def test_a_candidate_of_the_eligible_replicas_counts_too(laws):
    laws.on_document(KEY, a_document(isr=(1,), elr=(2,)))
    laws.on_replica(a_view(3, (A,), cuts=1))
    assert broken_by(lambda: laws.on_replica(a_view(2, (A, OTHER), cuts=1))) == "candidate-agreement"


def test_a_replica_in_neither_set_may_lack_anything_but_hold_nothing_else_below_its_high_watermark(laws):
    laws.on_document(KEY, a_document(isr=(1, 2)))
    laws.on_replica(a_view(3, (), cuts=1))
    laws.on_replica(a_view(3, (A, OTHER), cuts=1, high_watermark=2))
    assert broken_by(lambda: laws.on_replica(a_view(3, (A, OTHER), cuts=1, high_watermark=4))) == "log-matching"


@pytest.mark.parametrize(
    "fields",
    [
        {"isr": ()},
        {"isr": (1, 4)},
        {"elr": (4,), "isr": (1,)},
        {"isr": (1, 2), "elr": (2,)},
        {"leader": 3, "isr": (1, 2)},
    ],
)
def test_sets_that_cannot_be(fields):
    assert broken_by(lambda: Laws().on_document(KEY, a_document(**fields))) == "quorum"


def test_an_acknowledgement_of_what_is_not_committed(laws):
    assert broken_by(lambda: laws.on_ack(1, KEY, 1, 4)) == "acked-is-committed"


def test_an_acknowledgement_of_what_a_later_leader_does_not_have(laws):
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, isr=(2,)))
    laws.on_replica(a_leader(2, (A, B), epoch=2, isr=frozenset({2})))
    laws.views[KEY, 2].marks.pop()
    assert broken_by(lambda: laws.on_ack(1, KEY, 1, 2)) == "no-deposed-ack"


def test_a_commit_of_a_deposed_leader_that_its_successor_does_not_have(laws):
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, partition_epoch=1, isr=(2, 3)))
    laws.on_replica(a_leader(2, (A, B, OTHER._replace(base_offset=4, next_offset=6)), epoch=2, high_watermark=4))
    alone = a_leader(1, (A, B, C), isr=frozenset({1}))
    assert broken_by(lambda: laws.on_replica(alone)) == "no-deposed-commit"


def test_a_leader_that_does_not_wait_for_whom_the_store_has_in_sync(laws):
    laws.on_replica(a_view(2, (A, B, C)))
    assert broken_by(lambda: laws.on_replica(a_leader(1, (A, B, C), isr=frozenset({1, 2})))) == "isr-is-stored"


def test_a_member_that_holds_something_else_where_it_counts(laws):
    laws.on_document(KEY, a_document(isr=(1, 2)))
    laws.on_replica(a_view(2, (A, B, C._replace(crc=1))))
    laws.on_replica(a_view(3, (A, B, C)))
    assert broken_by(lambda: laws.on_replica(a_leader(1, (A, B, C)))) == "one-lineage"


@pytest.mark.parametrize("lease", [(3, True), (2, False)])
def test_a_controller_that_writes_without_the_lease(laws, lease):
    laws.on_controller_commit(2, 2, True)
    assert broken_by(lambda: laws.on_controller_commit(2, *lease)) == "one-controller"


# -- what may be lost --------------------------------------------------------------------------------


def lives(*numbers):
    return tuple(Life(one, f"broker-{one}-life-2") for one in numbers)


@pytest.fixture
def os_laws():
    """As ``laws``, with flush=os: nothing of it is on any disk."""
    made = Laws()
    made.on_document(KEY, a_document())
    for broker in (1, 2, 3):
        made.losses.on_life(broker, f"broker-{broker}-life-1")
        made.on_replica(a_view(broker, life=f"broker-{broker}-life-1", flush="os", durable_offset=0))
    made.on_replica(a_leader(life="broker-1-life-1", flush="os", durable_offset=0))
    return made


def reboot(laws, *brokers):
    for broker in brokers:
        laws.on_broker_down(broker, power_lost_in=f"broker-{broker}-life-1")
        laws.losses.on_life(broker, f"broker-{broker}-life-2")


def leads_with_less(laws, isr=(2,)):
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, partition_epoch=1, isr=isr, caught_up=lives(2)))
    laws.on_replica(a_leader(2, (A,), epoch=2, isr=frozenset(isr), life="broker-2-life-2", flush="os"))


def test_when_all_have_lost_power_the_one_that_leads_may_have_less_and_that_must_be_told(os_laws):
    reboot(os_laws, 1, 2, 3)
    leads_with_less(os_laws)

    (loss,) = os_laws.losses.found
    assert (loss.epoch, loss.from_offset, loss.to_offset) == (2, 2, 4)
    assert os_laws.ghosts[KEY].marks == [A]
    assert os_laws.losses.untold([]) == [loss]
    assert os_laws.losses.untold(["leader.elected_after_reboot partition=orders-0 leader=2 was=1 epoch=2 isr=2"]) == []
    assert os_laws.losses.untold(["leader.elected_after_reboot partition=orders-1 leader=2 was=1 epoch=2"]) == [loss]


def test_nobody_leads_with_less_while_one_is_there_or_away_that_lost_nothing(os_laws):
    reboot(os_laws, 1, 2)
    os_laws.on_broker_down(3)  # it was killed: its page cache has everything
    assert broken_by(lambda: leads_with_less(os_laws)) == "leader-completeness"


def test_who_joined_in_its_life_after_the_reboot_holds_all_that_is_committed(os_laws):  # B10
    reboot(os_laws, 2)
    os_laws.on_replica(a_view(2, (A,), life="broker-2-life-2", flush="os"))  # unsure: it may
    os_laws.on_document(KEY, a_document(isr=(1, 3), partition_epoch=1))
    joined = a_document(isr=(1, 2, 3), partition_epoch=2, caught_up=lives(2))
    assert broken_by(lambda: os_laws.on_document(KEY, joined)) == "candidate-completeness"


def test_an_unclean_election_may_lose_when_a_person_has_ordered_it(laws):
    laws.on_document(KEY, a_document(isr=(1, 3), partition_epoch=1))
    laws.losses.on_order(0)
    laws.on_replica_down(KEY, 1)
    laws.on_replica(a_view(2, (A,), life="broker-2-life-2", cuts=1))
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, partition_epoch=2, isr=(2,)))
    laws.on_replica(a_leader(2, (A,), epoch=2, isr=frozenset({2}), life="broker-2-life-2", cuts=1))

    assert [(one.epoch, one.from_offset) for one in laws.losses.found] == [(2, 2)]


def test_an_order_allows_nothing_to_an_election_that_is_none_of_its(os_laws):
    """Broker 3 lost nothing and could lead; 2 is elected with others in sync, as no unclean election leaves it."""
    os_laws.losses.on_order(0)
    reboot(os_laws, 1, 2)
    os_laws.on_broker_down(3)

    assert broken_by(lambda: leads_with_less(os_laws, isr=(1, 2))) == "leader-completeness"


def test_who_was_elected_by_order_and_has_not_begun_is_forgotten_when_another_is_elected(laws):
    laws.on_document(KEY, a_document(isr=(1, 3), partition_epoch=1))
    laws.losses.on_order(0)
    laws.on_document(KEY, a_document(leader=2, leader_epoch=2, partition_epoch=2, isr=(2,)))
    assert laws.losses.is_unsure(KEY, 2)

    laws.on_document(KEY, a_document(leader=1, leader_epoch=3, partition_epoch=3, isr=(1,)))

    assert not laws.losses.is_unsure(KEY, 2)


def a_history_with_a_loss():
    """An election of epoch 5 lost [2, 4) of the old leader; the new one has acknowledged others in their place."""
    place = TopicPartition("orders", 0)
    old = [Send("p", place, f"old {at}", "ok", at, at, at + 1, epoch=4) for at in range(4)]
    new = [Send("p", place, f"new {at}", "ok", at, at + 10, at + 11, epoch=5) for at in range(2, 6)]
    history = History(finals={"final"}, sends=[*old, *new])
    history.polls["final"] = [Polled(place, send.offset, send.value) for send in (*old[:2], *new)]
    return history, [Loss(KEY, 4, 5, 2, 2, 4)]


def judged(history, losses):
    return {one.name for one in anomalies(without_losses(history, losses, "orders", "final"))}


def test_a_loss_allows_what_it_took():
    history, losses = a_history_with_a_loss()

    assert judged(history, losses) == set()
    assert judged(history, []) != set(), "nobody else may take it"


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4, 5])
def test_a_loss_allows_nothing_but_what_lay_above_the_new_leaders_end_in_an_older_epoch(taken):
    """Each record that must be there, taken away: below the end (0, 1), or acknowledged since, anywhere (2 to 5)."""
    history, losses = a_history_with_a_loss()
    gone = history.polls["final"].pop(taken)

    assert judged(history, losses) & {"lost-write", "unseen"}, gone


def test_a_loss_allows_no_reader_what_the_new_leader_has_shown_and_lost():
    history, losses = a_history_with_a_loss()
    shown = history.polls["final"].pop(3)
    history.polls["c"] = [shown]

    assert "above-hw-read" in judged(history, losses)


def test_a_history_is_judged_without_what_was_lost():
    place = TopicPartition("orders", 0)
    history = History(finals={"final"}, sends=[Send("p", place, 1, "ok", 2, 0, 5), Send("p", place, 2, "ok", 3, 6, 9)])
    history.polls["c"] = [Polled(place, 2, 1), Polled(place, 3, 2), Polled(place, 0, 0)]
    history.polls["final"] = [Polled(place, 2, 1)]

    kept = without_losses(history, [Loss(KEY, 1, 2, 2, 2, 4)], "orders", "final")

    assert [send.outcome for send in kept.sends] == ["ok", "info"], "the first was sent again, and is at its old place"
    assert kept.polls["c"] == [Polled(place, 2, 1), Moved(place), Moved(place), Polled(place, 0, 0)]


def test_what_a_dead_replica_holds_is_looked_at_when_it_is_back(laws):
    laws.on_broker_down(2)
    laws.on_document(KEY, a_document(isr=(1, 2, 3), partition_epoch=1))
    assert broken_by(lambda: laws.on_replica(a_view(2, (A,), life="2-2"))) == "candidate-completeness"


def test_logs_that_differ_below_the_high_watermark_in_the_end():
    same = [a_leader(1, (A, B)), a_view(2, (A, B)), a_view(3, (B,), log_start_offset=2)]
    other = [*same, a_view(4, (A, OTHER))]
    beyond = [*same, a_view(4, (A, B, C))]

    assert not divergences(same_logs(same))
    assert not divergences(same_logs(beyond))
    assert divergences(same_logs(other))
