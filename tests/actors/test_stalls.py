"""Who handles nothing of what it is told is found; who is slow, idle, new, or was stopped with the process is not."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from callboard.actors.root import Root
from callboard.actors.runtime import LoopActor
from callboard.actors.specs import ChildSpec, SupervisorSpec
from callboard.actors.stalls import LOOKS, Seen, StallWatch
from callboard.actors.supervisor import Strategy, supervisor
from callboard.testing.context import sim_context

STALL_MS = 5_000
PERIOD_MS = STALL_MS // LOOKS


def looks(watch, *handled, waiting=1, life=1, begin_ms=0, period_ms=PERIOD_MS):
    """Look once a period at one actor; return who was found by the last look."""
    found = []
    for number, count in enumerate(handled):
        found = watch.stalled([(Seen("a", waiting, count), life)], begin_ms + number * period_ms)
    return found


def test_an_actor_that_handles_nothing_for_the_whole_time_has_stalled():
    assert looks(StallWatch(STALL_MS), *[7] * (LOOKS + 1)) == [("a", STALL_MS)]


def test_before_that_nobody_is_accused():
    assert looks(StallWatch(STALL_MS), *[7] * LOOKS) == []


def test_one_message_handled_begins_the_time_anew():
    assert looks(StallWatch(STALL_MS), 7, 7, 7, 8, 8, 8) == []


def test_an_empty_mailbox_is_no_stall():
    assert looks(StallWatch(STALL_MS), *[7] * 20, waiting=0) == []


def test_a_successor_is_not_blamed_for_its_predecessor():
    watch = StallWatch(STALL_MS)
    looks(watch, *[7] * LOOKS)

    assert looks(watch, 7, life=2, begin_ms=STALL_MS) == []


def test_time_in_which_the_whole_process_was_stopped_does_not_count():
    watch = StallWatch(STALL_MS)
    looks(watch, 7, 7)

    assert looks(watch, 7, begin_ms=60_000) == []


class Listener(LoopActor):
    handlers: ClassVar[Mapping[type, str]] = {str: "on_word"}

    def on_word(self, word: str) -> None:
        self.role = word


def test_a_supervisor_restarts_the_actor_that_has_stalled():
    context = sim_context()
    spec = SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE, children=(ChildSpec(name="listener", start=Listener.starter()),)
    )
    Root.start(
        context,
        supervisor("broker-1", spec),
        on_ready=lambda: None,
        on_end=lambda _: None,
        on_kill=lambda _: None,
        stall_ms=STALL_MS,
    )
    context.loop.run_until_idle()
    first = context.directory.find("broker-1/listener")
    first.actor.mailbox.replace_drain(partial(id, first.actor))  # it is called, and handles nothing
    first.tell("hello")

    context.loop.advance(2 * STALL_MS)

    second = context.directory.find("broker-1/listener")
    assert second is not first
    assert not first.is_alive()
    second.tell("hello")
    context.loop.run_until_idle()
    assert second.actor.role == "hello"
