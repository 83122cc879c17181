"""The ring of events: what is kept, what is forgotten, who is woken."""

import logging

import pytest

from callboard.actors.log import event
from callboard.actors.timeline import VALUE_CHARS_MAX, WAITERS_MAX, Timeline, TimelineHandler
from callboard.testing.loop import SimClock, SimLoop
from callboard.transport.messages import EventsRequest


class Ring:
    def __init__(self, events_max=4):
        self.loop = SimLoop()
        self.timeline = Timeline("broker-1", "ring-1", self.loop, SimClock(self.loop), events_max=events_max)
        self.replies = []

    def note(self, *names):
        for name in names:
            self.timeline.note(name, {})

    def ask(self, after=None, wait_ms=0, ring="ring-1"):
        request = EventsRequest(after={} if after is None else {ring: after}, max_wait_ms=wait_ms)
        self.timeline.answer(request, self.replies.append)
        return self.replies[-1] if self.replies else None


@pytest.fixture
def ring():
    return Ring()


def names(reply):
    return [one.name for one in reply.events]


def test_each_event_has_its_number_and_its_time(ring):
    ring.note("leader.elected", "isr.shrunk")
    reply = ring.ask()

    assert [(one.sequence, one.name, one.process) for one in reply.events] == [
        (1, "leader.elected", "broker-1"),
        (2, "isr.shrunk", "broker-1"),
    ]
    assert (reply.ring, reply.last, reply.missed) == ("ring-1", 2, 0)
    assert reply.events[0].wall_ms == 1_700_000_000_000


def test_only_what_came_after_the_last_one_seen_is_told(ring):
    ring.note("a", "b", "c")

    assert names(ring.ask(after=1)) == ["b", "c"]
    assert names(ring.ask(after=3)) == []


def test_the_oldest_are_forgotten_and_counted(ring):
    ring.note("a", "b", "c", "d", "e", "f")
    reply = ring.ask(after=1)

    assert names(reply) == ["c", "d", "e", "f"]
    assert reply.missed == 1


@pytest.mark.parametrize("after", [-1, -(1 << 63), (1 << 63) - 1])
def test_a_number_that_nobody_gave_does_no_harm(ring, after):
    ring.note("a")
    reply = ring.ask(after=after)

    assert (names(reply), reply.missed) == (["a"] if after < 0 else [], 0)


def test_a_number_of_an_earlier_life_means_nothing(ring):
    ring.note("a", "b")

    assert names(ring.ask(after=2, ring="of another life")) == ["a", "b"]


def test_who_waits_is_answered_when_something_happens(ring):
    ring.ask(after=0, wait_ms=1_000)
    nothing_yet = list(ring.replies)
    ring.note("a")
    ring.loop.run_until_idle()

    assert nothing_yet == []
    assert names(ring.replies[0]) == ["a"]
    assert len(ring.replies) == 1


def test_who_waits_in_vain_is_answered_with_nothing(ring):
    ring.ask(after=0, wait_ms=1_000)
    ring.loop.run_until(lambda: bool(ring.replies))

    assert ring.loop.now_us == 1_000_000
    assert names(ring.replies[0]) == []


def test_one_waiter_too_many_is_answered_at_once(ring):
    for _ in range(WAITERS_MAX + 1):
        ring.ask(after=0, wait_ms=1_000)

    assert len(ring.replies) == 1


def test_what_another_process_told_keeps_its_place_and_time(ring):
    other = Ring()
    other.note("partition.leads")
    ring.note("process.ended")
    ring.timeline.extend(other.ask().events)

    assert [(one.sequence, one.name) for one in ring.ask().events] == [(1, "process.ended"), (2, "partition.leads")]


@pytest.fixture
def logger(ring):
    logger = logging.Logger("callboard.test", logging.INFO)
    logger.addHandler(TimelineHandler(ring.timeline))
    return logger


def test_notable_events_are_kept_with_their_values_as_text(ring, logger):
    event(logger, "leader.elected", logging.WARNING, partition="orders-0", isr=(1, 2), error=ValueError("x"))
    (kept,) = ring.ask().events

    assert kept.values == {"partition": "orders-0", "isr": "1,2", "error": "ValueError: x"}
    assert kept.level == "warning"


def test_what_is_not_notable_is_not_kept(ring, logger):
    event(logger, "log.opened", partition="orders-0")
    event(logger, "client.connected", client_id="me")
    logger.warning("leader.elected in somebody's words")

    assert ring.ask().events == []


def test_values_are_bounded_and_tracebacks_left_to_the_log(ring, logger):
    event(logger, "actor.failed", error="x" * 10_000, where="replica.py:1 on_produce")
    (kept,) = ring.ask().events

    assert kept.values == {"error": "x" * VALUE_CHARS_MAX}
