"""The promises of actors/runtime.py, on virtual time."""

import queue
from collections import deque

import pykka
import pytest

from callboard.actors.mailbox import Mailbox
from callboard.actors.runtime import (
    BATCH_MAX,
    ActorDeadError,
    BlockingAskError,
    ChaosError,
    ChildFailed,
    ChildStarted,
    ChildStopped,
    Fail,
    LoopActor,
)
from callboard.errors import InvariantViolated

from .echoes import Derived, Echo, Later, Say

# -- messages ------------------------------------------------------------------------------------------


def test_messages_are_handled_in_order_and_as_one_batch(echo, loop):
    for text in "abc":
        echo.actor_ref.tell(Say(text))
    loop.run_until_idle()

    assert echo.journal == ["start", "a", "b", "c", "drained"]
    assert echo.handled == 3


def test_a_long_mailbox_is_drained_in_bounded_batches(echo, loop):
    for number in range(BATCH_MAX + 1):
        echo.actor_ref.tell(Say(str(number)))
    loop.run_until_idle()

    assert echo.journal.count("drained") == 2
    assert echo.journal.index("drained") == 1 + BATCH_MAX
    assert echo.handled == BATCH_MAX + 1


def test_nothing_drained_means_no_call_of_on_drained(echo):
    assert echo.journal == ["start"]


def test_an_ask_is_answered_with_what_the_handler_returns(echo, loop):
    answer = echo.actor_ref.ask(Say("hello"))
    loop.run_until_idle()

    assert answer.get() == "hello"


def test_a_subclass_of_a_message_is_handled_like_its_base(echo, loop):
    answer = echo.actor_ref.ask(Derived("x"))
    loop.run_until_idle()

    assert answer.get() == "x"


def test_a_subclass_of_an_actor_inherits_handlers_and_may_replace_them(context, loop):
    class Louder(Echo):
        handlers = {int: "on_int"}

        def on_say(self, message):
            return message.upper()

        def on_int(self, message):
            return message + 1

    ref = Louder.start(context, "louder")
    answers = [ref.ask(Say("a")), ref.ask(1)]
    loop.run_until_idle()

    assert [answer.get() for answer in answers] == ["A", 2]


def test_a_message_that_nobody_handles_is_a_bug_and_fails_the_actor(echo, loop, parent):
    echo.actor_ref.tell(object())
    loop.run_until_idle()

    [failed] = parent.all_of(ChildFailed)
    assert isinstance(failed.exception, InvariantViolated)
    assert "no handler for object" in str(failed.exception)


def test_pykkas_proxies_work(echo, loop):
    proxy = echo.actor_ref.proxy()
    answer = proxy.on_say(Say("via proxy"))
    handled = proxy.address
    loop.run_until_idle()

    assert answer.get() == "via proxy"
    assert handled.get() == "echo"


# -- the life of an actor ------------------------------------------------------------------------------


def test_the_parent_hears_of_start_and_of_normal_end(echo, loop, parent):
    echo.actor_ref.stop()
    loop.run_until_idle()

    assert [type(message) for message in parent.told] == [ChildStarted, ChildStopped]
    assert parent.told[0].ref is echo.actor_ref


def test_a_stop_comes_after_what_was_told_before_and_sees_a_drained_mailbox(echo, loop):
    echo.actor_ref.tell(Say("a"))
    stopped = echo.actor_ref.stop()
    late = echo.actor_ref.ask(Say("late"))
    loop.run_until_idle()

    assert echo.journal == ["start", "a", "drained", "stop"]
    assert stopped.get() is True
    with pytest.raises(ActorDeadError):
        late.get()


def test_a_stop_of_a_dead_actor_answers_false(echo, loop):
    echo.actor_ref.stop()
    loop.run_until_idle()

    assert echo.actor_ref.stop().get() is False


def test_pykkas_own_stop_ends_the_actor_too(echo, loop, parent):
    echo.stop()
    loop.run_until_idle()

    assert not echo.actor_ref.is_alive()
    assert parent.all_of(ChildStopped)


def test_an_actor_may_stop_later_than_it_was_asked_to(context, loop, parent):
    class Slow(Echo):
        def on_stop_request(self):
            self.set_timer(100, Say("now"))

        def on_say(self, message):
            self.finish()

    ref = Slow.start(context, "slow", parent.actor_ref)
    stops = [ref.stop(), ref.stop()]
    loop.run_until_idle()
    assert ref.is_alive()
    assert ref.actor.describe().state == "stopping"

    loop.advance(100)
    assert not ref.is_alive()
    assert [stop.get() for stop in stops] == [True, True]


def test_an_actor_that_starts_later_tells_its_parent_then(context, loop, parent):
    class Late(Echo):
        starts_later = True

        def on_say(self, message):
            self.started()

    ref = Late.start(context, "late", parent.actor_ref)
    loop.run_until_idle()
    assert ref.actor.describe().state == "starting"
    assert not parent.told

    ref.tell(Say("go"))
    ref.tell(Say("twice is once"))
    loop.run_until_idle()
    assert parent.told == [ChildStarted(ref)]


def test_two_actors_cannot_have_one_address(context, loop, echo):
    with pytest.raises(InvariantViolated, match="two actors under the address 'echo'"):
        Echo.start(context, "echo")


def test_an_address_is_free_again_before_the_parent_hears_of_the_end(context, loop):
    restarted = []

    class Restarter(LoopActor):
        handlers = {ChildFailed: "on_child_failed", ChildStarted: "on_child_started"}

        def on_child_started(self, message):
            pass

        def on_child_failed(self, message):
            restarted.append(Echo.start(self.context, "child", self.actor_ref))

    restarter = Restarter.start(context, "restarter")
    first = Echo.start(context, "child", restarter)
    first.tell(Say("boom"))
    loop.run_until_idle()

    assert context.directory.find("child") is restarted[0]
    assert context.directory.find("child") is not first


def test_an_actor_describes_itself(echo, loop):
    loop.advance(1500)
    echo.actor_ref.tell(Say("a"))
    line = echo.describe()

    assert (line.address, line.kind, line.state, line.mailbox, line.uptime_ms) == ("echo", "Echo", "running", 1, 1500)


# -- failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"), [("boom", ValueError), ("exit", SystemExit), ("interrupt", KeyboardInterrupt)]
)
def test_whatever_a_tell_raises_ends_this_actor_and_no_other(context, echo, loop, parent, text, error):
    sibling = Echo.start(context, "sibling", parent.actor_ref)
    echo.actor_ref.tell(Say(text))
    loop.run_until_idle()

    [failed] = parent.all_of(ChildFailed)
    assert (failed.ref, failed.phase, type(failed.exception)) == (echo.actor_ref, "message", error)
    assert echo.journal[-1] == f"failure {error.__name__}"
    assert echo.describe().state == "failed"
    answer = sibling.ask(Say("alive"))
    loop.run_until_idle()
    assert answer.get() == "alive"


def test_an_exception_under_ask_is_the_reply_and_fails_the_actor(echo, loop, parent):  # B35
    answer = echo.actor_ref.ask(Say("boom"))
    behind = echo.actor_ref.ask(Say("behind"))
    loop.run_until_idle()

    with pytest.raises(ValueError, match="boom"):
        answer.get()
    with pytest.raises(ActorDeadError):
        behind.get()
    assert len(parent.all_of(ChildFailed)) == 1


def test_a_system_exit_under_ask_does_not_end_the_asker(echo, loop, parent):
    answer = echo.actor_ref.ask(Say("exit"))
    loop.run_until_idle()

    with pytest.raises(ActorDeadError, match="SystemExit") as caught:
        answer.get()
    assert isinstance(caught.value.__cause__, SystemExit)
    assert parent.all_of(ChildFailed)


def test_a_failure_in_on_start_runs_on_failure_and_reaches_the_parent(context, loop, parent):
    ref = Echo.start(context, "echo", parent.actor_ref, fails_in=["start"])
    actor = ref.actor
    waiting = ref.ask(Say("a"))
    loop.run_until_idle()

    assert actor.journal == ["start", "failure ValueError"]
    assert [(type(message), message.phase) for message in parent.told] == [(ChildFailed, "start")]
    with pytest.raises(ActorDeadError):
        waiting.get()


@pytest.mark.parametrize(
    ("where", "phase", "journal"),
    [
        ("drained", "drain", ["start", "a", "drained", "failure ValueError"]),
        ("stop", "stop", ["start", "a", "drained", "stop", "failure ValueError"]),
    ],
)
def test_a_failure_in_a_hook_is_a_failure_of_that_phase(context, loop, parent, where, phase, journal):
    ref = Echo.start(context, "echo", parent.actor_ref, fails_in=[where])
    actor = ref.actor
    ref.tell(Say("a"))
    stopped = ref.stop()
    loop.run_until_idle()

    assert actor.journal == journal
    assert [message.phase for message in parent.all_of(ChildFailed)] == [phase]
    assert stopped.is_done


def test_a_failure_in_on_failure_does_not_hide_the_first(context, loop, parent):
    ref = Echo.start(context, "echo", parent.actor_ref, fails_in=["failure"])
    ref.tell(Say("boom"))
    loop.run_until_idle()

    [failed] = parent.all_of(ChildFailed)
    assert str(failed.exception) == "boom"


def test_after_a_failure_nothing_more_is_handled(echo, loop):
    for text in ("boom", "a", "b"):
        echo.actor_ref.tell(Say(text))
    loop.run_until_idle()

    assert echo.journal == ["start", "boom", "failure ValueError"]
    with pytest.raises(ActorDeadError):
        echo.actor_ref.tell(Say("c"))
    assert echo.actor_ref.post(Say("c")) is False


def test_an_exception_after_the_normal_end_is_logged_and_is_no_second_end(context, loop, parent, caplog):
    class Hasty(Echo):
        def on_say(self, message):
            self.finish()
            raise ValueError("too late")

    Hasty.start(context, "hasty", parent.actor_ref).tell(Say("a"))
    loop.run_until_idle()

    assert [type(message) for message in parent.told] == [ChildStarted, ChildStopped]
    assert "actor.failed_after_its_end actor=hasty" in caplog.text


@pytest.mark.parametrize(("how", "error"), [("raise", ChaosError), ("exit", SystemExit), (OSError(5, "io"), OSError)])
def test_chaos_fails_an_actor_as_it_asks(echo, loop, parent, how, error):
    echo.actor_ref.tell(Fail(how))
    loop.run_until_idle()

    assert isinstance(parent.all_of(ChildFailed)[0].exception, error)


def test_a_failure_is_one_log_line(echo, loop, caplog):
    echo.actor_ref.tell(Say("boom"))
    loop.run_until_idle()

    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message.startswith('actor.failed actor=echo phase=message error="ValueError: boom" where=')
    assert "on_say" in record.message
    assert "\n" not in record.message


# -- time and other threads ----------------------------------------------------------------------------


def test_a_timer_tells_its_message_after_its_delay(echo, loop):
    echo.actor_ref.tell(Later(250, "ring"))
    loop.advance(249)
    assert "ring" not in echo.journal

    loop.advance(1)
    assert "ring" in echo.journal


def test_a_failure_by_a_timer_says_so(echo, loop, parent):
    echo.actor_ref.tell(Later(1, "boom"))
    loop.advance(1)

    assert parent.all_of(ChildFailed)[0].phase == "timer"


def test_a_timer_is_void_once_the_actor_has_ended(echo, loop):
    echo.actor_ref.tell(Later(250, "ring"))
    echo.actor_ref.stop()
    loop.advance(1000)

    assert echo.journal[-1] == "stop"


def test_a_timer_cancelled_while_its_message_waits_in_the_mailbox_is_void(context, loop):
    class Canceller(Echo):
        def on_say(self, message):
            super().on_say(message)
            if message == "cancel":
                self.timer.cancel()

    actor = Canceller.start(context, "canceller").actor
    loop.run_until_idle()
    actor.timer = actor.set_timer(10, Say("ring"))
    loop.call_later(0.010, actor.actor_ref.tell, Say("never first"))
    actor.mailbox.queue.append(Say("cancel"))  # told, and not yet drained, when the timer rings
    loop.advance(20)

    assert "cancel" in actor.journal
    assert "ring" not in actor.journal


def test_a_pool_job_comes_back_as_a_message(context, loop, echo):
    echo.in_pool(lambda: 6 * 7, lambda result, error: Say(f"{result} {error}"))
    echo.in_pool(lambda: 1 / 0, lambda result, error: Say(f"{result} {error}"))
    loop.advance(10)

    assert "42 None" in echo.journal
    assert "None division by zero" in echo.journal


def test_what_the_end_of_a_pool_job_raises_fails_the_actor(context, loop, echo, parent):
    echo.in_pool(lambda: 1, lambda result, error: 1 / 0)
    loop.advance(10)

    assert isinstance(parent.all_of(ChildFailed)[0].exception, ZeroDivisionError)


def test_a_pool_job_is_void_once_the_actor_has_ended(context, loop, echo, parent):
    echo.in_pool(lambda: 1, lambda result, error: 1 / 0)
    echo.actor_ref.stop()
    loop.advance(10)

    assert not parent.all_of(ChildFailed)


def test_a_blocking_ask_on_the_loops_thread_raises_and_sends_nothing(echo, loop):
    with pytest.raises(BlockingAskError, match="would wait for ever"):
        echo.actor_ref.ask(Say("a"), block=True)
    loop.run_until_idle()

    assert "a" not in echo.journal


def test_get_on_the_loops_thread_raises_until_the_answer_is_there(echo, loop):
    answer = echo.actor_ref.ask(Say("a"))
    with pytest.raises(BlockingAskError, match="await"):
        answer.get()
    with pytest.raises(BlockingAskError):
        answer.map(str.upper).get()

    loop.run_until_idle()
    assert answer.get() == "a"
    assert answer.map(str.upper).get() == "A"


def test_a_blocking_ask_inside_a_handler_fails_that_actor_with_the_same_clear_error(context, loop, echo, parent):
    class Asker(Echo):
        def on_say(self, message):
            return echo.actor_ref.ask(message, block=True)

    Asker.start(context, "asker", parent.actor_ref).tell(Say("a"))
    loop.run_until_idle()

    assert isinstance(parent.all_of(ChildFailed)[0].exception, BlockingAskError)


def test_a_future_takes_one_value_only(echo, loop):
    answer = echo.actor_ref.ask(Say("a"))
    loop.run_until_idle()

    with pytest.raises(queue.Full):
        answer.set("b")
    assert answer.get() == "a"


# -- races with other threads, made to happen ------------------------------------------------------------


class RacyMailbox(Mailbox):
    """Lets another thread tell something in the worst moment: after the last look, before the flag is cleared."""

    def __init__(self):
        super().__init__()
        self.in_the_worst_moment = None

    @property
    def is_scheduled(self):
        return self._is_scheduled

    @is_scheduled.setter
    def is_scheduled(self, value):
        act = getattr(self, "in_the_worst_moment", None)
        if not value and act is not None:
            self.in_the_worst_moment = None
            act()
        self._is_scheduled = value


class RacyQueue(deque):
    """Ends the actor between an asker's look at it and the asker's message."""

    before_append = None

    def append(self, entry):
        act, self.before_append = self.before_append, None
        if act is not None:
            act()
        super().append(entry)


class Racy(Echo):
    _create_actor_inbox = staticmethod(RacyMailbox)


def test_a_tell_that_comes_while_the_drain_clears_its_flag_is_not_lost(context, loop):
    actor = Racy.start(context, "racy").actor
    loop.run_until_idle()
    actor.mailbox.in_the_worst_moment = lambda: actor.actor_ref.tell(Say("late"))
    actor.actor_ref.tell(Say("a"))
    loop.run_until_idle()

    assert actor.journal == ["start", "a", "drained", "late", "drained"]


def test_an_ask_that_comes_while_the_actor_ends_is_answered(context, loop, echo):
    ref = echo.actor_ref
    queue_ = ref._queue = echo.mailbox.queue = RacyQueue()
    queue_.before_append = echo.finish
    answer = ref.ask(Say("a"))

    with pytest.raises(ActorDeadError):
        answer.get()


# -- Pykka ---------------------------------------------------------------------------------------------


def test_another_librarys_stop_all_does_not_reach_our_actors(echo, loop):
    class Foreign(pykka.ThreadingActor):
        pass

    foreign = Foreign.start()
    pykka.ActorRegistry.stop_all()
    loop.run_until_idle()

    assert not foreign.is_alive()
    assert echo.actor_ref.is_alive()
    assert pykka.ActorRegistry.get_all() == []


def test_our_constructor_sets_all_that_pykkas_does(echo):
    class Foreign(pykka.ThreadingActor):
        pass

    assert set(vars(Foreign())) <= set(vars(echo))


def test_no_identifier_is_drawn_from_the_operating_system(context, loop, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", lambda: pytest.fail("uuid4 in a constructor"))

    assert Echo.start(context, "here/is/my/address").actor_urn == "here/is/my/address"
