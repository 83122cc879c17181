"""The rules of sending against a world that loses, delays, refuses and moves: by Hypothesis, and by examples."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.client.patience import LOOK_AGAIN_MS, SLOW_ANSWER_MS, DoubtBrokers
from callboard.client.sender import TELL_WAITING_MS, NeedProducerId, TellWaiting
from callboard.errors import (
    CallboardTimeoutError,
    ErrorCode,
    InvalidRecordError,
    UnknownTopicOrPartitionError,
)

from .sender_world import SETTINGS, World


def a_step() -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    partition, broker = st.integers(0, 1), st.integers(0, 1)
    errors = st.sampled_from(
        [
            ErrorCode.NOT_LEADER_FOR_PARTITION,
            ErrorCode.REQUEST_TIMED_OUT,
            ErrorCode.NOT_ENOUGH_REPLICAS,
            ErrorCode.INVALID_RECORD,
            ErrorCode.MESSAGE_SIZE_TOO_LARGE,
            ErrorCode.OVERLOADED,
        ]
    )
    return st.one_of(
        st.tuples(st.just("send"), st.tuples(partition, st.integers(1, 3))),
        st.tuples(st.just("send"), st.tuples(partition, st.integers(1, 3))),
        st.tuples(st.just("handle"), st.tuples(broker)),
        st.tuples(st.just("handle"), st.tuples(broker)),
        st.tuples(st.just("handle_floating"), st.tuples(st.integers(0, 9))),
        st.tuples(st.just("answer"), st.just(())),
        st.tuples(st.just("answer"), st.just(())),
        st.tuples(st.just("lose"), st.tuples(broker)),
        st.tuples(st.just("move"), st.tuples(partition)),
        st.tuples(st.just("learn"), st.just(())),
        st.tuples(st.just("tick"), st.tuples(st.sampled_from([1, 20, 150, 400, 1_000, 2_500]))),
        st.tuples(st.just("refuse"), st.tuples(errors)),
        st.tuples(st.just("depose"), st.just(())),
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(a_step(), max_size=80))
def test_whatever_happens_order_holds_nothing_is_twice_and_every_future_ends_once(steps):
    world = World()
    for name, arguments in steps:
        if name == "refuse":
            world.refuse_next = arguments[0]
        else:
            getattr(world, name)(*arguments)
        world.check()

    world.finish()
    while world.floating:
        world.handle_floating(0)

    world.check_end()


ROUGH = [  # one partition, one broker, hardly an answer: what it takes to come near the rules about epochs
    ("send", (0, 1)),
    ("handle", (0,)),
    ("handle", (0,)),
    ("handle_floating", (0,)),
    ("handle_floating", (3,)),
    ("answer", ()),
    ("lose", (0,)),
    ("depose", ()),
    ("learn", ()),
    ("tick", (20,)),
    ("tick", (400,)),
    ("tick", (1_000,)),
]


@pytest.mark.parametrize("seed", range(40))
def test_long_rough_runs_keep_order_and_append_nothing_twice(seed):
    for run in range(10):
        rng = random.Random(seed * 1_000 + run)
        world = World(partitions=1)
        weights = [rng.choice((1, 2, 5)) for _ in ROUGH]
        for name, arguments in rng.choices(ROUGH, weights, k=120):
            getattr(world, name)(*arguments)
            world.check()
        while world.floating and rng.random() < 0.5:
            world.handle_floating(0)
        world.finish()
        while world.floating:
            world.handle_floating(0)
        world.check_end()
        for settled in world.settled.values():  # nothing was refused: only time may have run out
            assert settled.error is None or isinstance(settled.error, CallboardTimeoutError), settled


@settings(max_examples=150, deadline=None)
@given(st.lists(a_step(), max_size=60))
def test_without_idempotence_order_holds_as_long_as_nothing_is_lost(steps):
    world = World(SETTINGS._replace(is_idempotent=False))
    for name, arguments in steps:
        if name == "refuse":
            world.refuse_next = arguments[0]
        elif name in ("send", "handle", "answer", "learn", "move"):
            getattr(world, name)(*arguments)
            world.check()

    world.finish()

    world.check_end()


def test_one_batch_takes_one_decision():
    world = World()
    world.send(0)  # it has its producer id now
    world.handle(0)
    world.answer()
    asked, leader = [], world.leader
    world.leader = lambda topic, partition: asked.append(partition) or leader(topic, partition)

    world.send(0)

    assert asked == [0]


def test_a_lost_answer_is_asked_again_and_not_appended_twice():
    world = World()
    batch = world.send(0)
    world.handle(0)
    world.answers.clear()

    world.lose(0)
    world.finish()

    assert world.settled[batch].base_offset == 0
    assert world.logs["id-1", 0].values == [b"0"]


def test_a_batch_goes_to_the_new_leader_as_soon_as_it_is_known():
    world = World()
    batch = world.send(0)
    world.move(0)
    world.handle(0)
    world.answer()

    assert not world.requests[1]
    world.learn()  # no time has passed: the backoff is not waited for
    world.handle(1)
    world.answer()

    assert world.settled[batch].error is None


def test_a_leader_that_was_stopped_is_doubted_and_its_batches_go_to_who_leads_instead():
    """It neither answers nor ends its connection; resumed, what it still says counts for nothing."""
    world = World(SETTINGS._replace(timeout_ms=60_000, delivery_timeout_ms=60_000))
    batch = world.send(0)
    world.move(0)
    world.learn()
    assert not world.requests[1], "it may still answer"

    world.now += SLOW_ANSWER_MS
    assert DoubtBrokers((0,)) in world.sender.on_tick(world.now)
    assert world.sender.next_event_ms(world.now) <= world.now + LOOK_AGAIN_MS
    world.learn()
    world.handle(1)
    world.answer()
    assert world.settled[batch].error is None

    world.handle(0)
    world.answer()
    assert world.logs["id-1", 0].values == [b"0"]


def test_what_was_sent_to_a_topic_made_anew_fails_and_what_was_not_goes_there():
    world = World()
    sent = world.send(0)
    world.connected[0] = False
    waiting = world.send(0)
    world.connected[0] = True
    world.topic_id = "id-2"
    world.leaders[0] = world.leaders[0]._replace(topic_id="id-2", leader_epoch=0)

    world.learn()
    world.finish()

    assert isinstance(world.settled[sent].error, UnknownTopicOrPartitionError)
    assert world.settled[sent].error.outcome_unknown, "nobody has answered: it may lie in the old one"
    assert world.settled[waiting].error is None
    assert world.logs["id-2", 0].values == [b"1"]


def test_records_of_a_topic_that_is_gone_fail():
    world = World()
    world.connected[0] = False
    batch = world.send(0)
    world.is_topic_gone = True

    world.learn()

    assert isinstance(world.settled[batch].error, UnknownTopicOrPartitionError)
    assert not world.settled[batch].error.outcome_unknown, "it was never sent"


def test_what_was_sent_to_a_topic_that_is_gone_may_have_been_stored():
    world = World()
    batch = world.send(0)
    world.is_topic_gone = True

    world.learn()

    assert isinstance(world.settled[batch].error, UnknownTopicOrPartitionError)
    assert world.settled[batch].error.outcome_unknown
    assert "may have taken effect" in str(world.settled[batch].error)


def test_a_refusal_of_a_retry_whose_first_attempt_was_lost_leaves_the_outcome_unknown():
    world = World()
    batch = world.send(0)
    world.handle(0)
    world.answers.clear()
    world.lose(0)
    world.refuse_next = ErrorCode.INVALID_RECORD
    world.tick(20)
    world.handle(0)
    world.answer()

    assert world.logs["id-1", 0].values == [b"0"]
    assert isinstance(world.settled[batch].error, InvalidRecordError)
    assert world.settled[batch].error.outcome_unknown


def test_what_a_deposed_leader_had_appended_is_not_sent_again_under_another_epoch():  # B15
    world = World(SETTINGS._replace(delivery_timeout_ms=1_000))
    world.connected[0] = False
    first = world.send(0)
    world.tick(900)
    world.connected[0] = True
    world.drain()
    second = world.send(0)
    world.handle(0)
    world.answers.clear()  # of the first
    world.depose()
    world.handle(0)
    world.connected[0] = False
    world.answer()  # the second: not here any more, but appended

    world.tick(100)  # the first is over its time: its sequence is given up
    assert world.settled[first].error.outcome_unknown
    world.connected[0] = True
    world.finish()

    assert world.logs["id-1", 0].values == [b"0", b"1"]
    assert (world.settled[second].error, world.settled[second].base_offset) == (None, 1)


def told_of(world, error):
    """Refuse what is under way with this; return the errors of the batches that are told to wait."""
    world.refuse_next = error
    world.handle(0)
    ((request_id, entries),) = world.answers
    world.answers.clear()
    effects = world.sender.on_reply(request_id, entries, None, world.now, 0.5)
    world.perform(effects)
    return [effect.error.errno for effect in effects if isinstance(effect, TellWaiting)]


def test_a_partition_that_is_refused_for_want_of_room_for_a_while_is_told_of():
    world = World()
    world.connected[0] = False
    world.send(0)
    world.tick(TELL_WAITING_MS // 2)  # its leader was out of reach: that is no want of room
    world.connected[0] = True
    world.tick(100)

    assert told_of(world, ErrorCode.STORAGE_FULL) == []
    world.tick(TELL_WAITING_MS // 2)
    assert told_of(world, ErrorCode.NOT_ENOUGH_REPLICAS) == []
    world.tick(TELL_WAITING_MS // 2)
    assert told_of(world, ErrorCode.STORAGE_FULL) == [ErrorCode.STORAGE_FULL]


def test_once_one_is_appended_a_partition_is_not_refused_any_more():
    world = World()
    world.send(0)
    assert told_of(world, ErrorCode.STORAGE_FULL) == []
    world.tick(100)
    world.handle(0)
    world.answer()
    world.tick(TELL_WAITING_MS)

    world.send(0)
    assert told_of(world, ErrorCode.STORAGE_FULL) == []


def test_a_batch_expires_at_its_delivery_timeout_whatever_brokers_do():
    world = World()
    world.connected[0] = False
    batch = world.send(0)

    world.tick(SETTINGS.delivery_timeout_ms - 1)
    assert batch not in world.settled
    world.tick(1)

    assert isinstance(world.settled[batch].error, CallboardTimeoutError)


def test_more_than_five_requests_are_never_under_way():
    world = World()

    for _ in range(20):
        world.send(0)

    assert len(world.requests[0]) == 5


def test_with_acks_none_a_batch_ends_when_it_was_handed_over():
    world = World(SETTINGS._replace(acks=0, is_idempotent=False))
    batch = world.send(0)
    (request_id,) = world.sender.requests

    world.perform(world.sender.on_sent_without_reply(request_id, True, world.now, 0.5))

    assert world.settled[batch].error is None
    assert world.settled[batch].base_offset == -1


def test_with_acks_none_a_batch_that_could_not_be_handed_over_is_retried():
    world = World(SETTINGS._replace(acks=0, is_idempotent=False))
    batch = world.send(0)
    (request_id,) = world.sender.requests

    world.perform(world.sender.on_sent_without_reply(request_id, False, world.now, 0.5))

    assert batch not in world.settled
    assert world.sender.next_event_ms(world.now) is not None


def test_a_producer_id_is_asked_for_once_and_before_anything_is_sent():
    world = World()
    world.perform = lambda effects: world.seen.extend(effects)  # type: ignore[method-assign]
    world.seen = []  # type: ignore[attr-defined]

    world.send(0)
    world.send(1)

    assert [type(effect) for effect in world.seen] == [NeedProducerId]


def test_who_waits_for_an_answer_is_not_looked_at_with_every_other_record():
    world = World(partitions=100)
    for partition in range(100):
        world.send(partition)
    assert (len(world.sender.active), len(world.sender.pending)) == (100, 90), "five requests of a broker are under way"
    while world.sender.pending:
        world.handle(0)
        world.handle(1)
        world.answer()
        world.answer()
    asked = []
    world.leader = lambda topic, partition: asked.append(partition) or world.known[partition]

    world.handle(0)
    world.answer()
    world.send(7)

    assert asked == [7]
    world.finish()
    world.check_end()


def test_nothing_is_due_while_nothing_is_sent():
    world = World()

    assert world.sender.next_event_ms(world.now) is None
    assert world.sender.drain(world.now) == []
