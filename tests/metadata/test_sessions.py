"""Sessions: kept by heartbeats, ended by silence, never resurrected."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard.actors.metadata.sessions import SESSIONS_MAX, Kept, Opened, Refused, Sessions, first_life, later_life
from callboard.errors import ErrorCode

T = 1_500


def opened(sessions, name="broker-1", incarnation="a", now_ms=0, machine="m", **options):
    return sessions.open(name, incarnation, T, machine, now_ms, **options)


def names(found):
    return [session.name for session in found]


def test_a_session_lasts_as_long_as_it_is_heard_of():
    sessions = Sessions()
    opened(sessions)

    for now_ms in range(250, 10_000, 250):
        assert sessions.heartbeat("broker-1", "a", now_ms)
        assert sessions.expired(now_ms) == []


def test_a_session_not_heard_of_is_over_at_its_deadline_not_before():
    sessions = Sessions()
    opened(sessions)

    assert sessions.expired(T - 1) == []
    assert names(sessions.expired(T)) == ["broker-1"]
    assert sessions.next_deadline_ms() == T


def test_opening_again_in_the_same_incarnation_is_a_heartbeat():
    sessions = Sessions()
    opened(sessions)

    assert isinstance(opened(sessions, now_ms=1_000), Kept)
    assert sessions.expired(T) == []


def test_a_newer_life_replaces_the_older_and_is_not_kept_by_its_heartbeats():
    sessions = Sessions()
    opened(sessions)

    again = opened(sessions, incarnation="b", now_ms=100)

    assert isinstance(again, Opened)
    assert again.replaced.incarnation == "a"
    assert not sessions.heartbeat("broker-1", "a", 200)
    assert sessions.heartbeat("broker-1", "b", 200)


def test_an_ended_incarnation_never_has_a_session_again():  # B10
    sessions = Sessions()
    opened(sessions)
    sessions.end("broker-1", "a")

    refused = opened(sessions, now_ms=1)

    assert isinstance(refused, Refused)
    assert refused.error == ErrorCode.STALE_BROKER_EPOCH


def test_a_replaced_incarnation_does_not_come_back():
    sessions = Sessions()
    opened(sessions)
    opened(sessions, incarnation="b")

    assert isinstance(opened(sessions, incarnation="a"), Refused)
    assert sessions.is_open("broker-1", "b")


def test_an_end_that_overtakes_the_opening_still_counts():
    sessions = Sessions()
    sessions.end("broker-1", "a")

    assert isinstance(opened(sessions), Refused)


def test_ending_another_incarnation_ends_nothing():
    sessions = Sessions()
    opened(sessions)

    assert sessions.end("broker-1", "older") is None
    assert sessions.is_open("broker-1", "a")


def test_the_death_of_a_process_ends_the_session_of_whichever_life_it_was_in():
    sessions = Sessions()
    opened(sessions)
    sessions.end("broker-1")
    opened(sessions, incarnation=later_life("a", 1))
    assert first_life(later_life("a", 1)) == first_life("a") == "a"

    assert sessions.end("broker-1", "b") is None
    ended = sessions.end("broker-1", "a")

    assert ended is not None
    assert ended.incarnation == later_life("a", 1)
    assert isinstance(opened(sessions, incarnation=later_life("a", 1)), Refused)


def test_ending_whichever_incarnation_it_is():
    sessions = Sessions()
    opened(sessions)

    assert sessions.end("broker-1").incarnation == "a"
    assert sessions.end("broker-1") is None


def test_the_same_id_on_another_machine_is_refused_until_the_first_has_ended():
    sessions = Sessions()
    opened(sessions)

    refused = opened(sessions, incarnation="b", machine="other")
    assert refused.error == ErrorCode.DUPLICATE_BROKER_REGISTRATION

    sessions.end("broker-1", "a")
    assert isinstance(opened(sessions, incarnation="b", machine="other"), Opened)


def test_a_life_that_lost_its_session_does_not_displace_a_newer_one():
    sessions = Sessions()
    opened(sessions)
    opened(sessions, incarnation="newer")

    refused = opened(sessions, incarnation="a-again", if_vacant=True)

    assert refused.error == ErrorCode.DUPLICATE_BROKER_REGISTRATION
    assert sessions.is_open("broker-1", "newer")


def test_after_a_restart_of_the_store_everybody_has_the_whole_timeout_to_be_heard_of():  # B27, F21
    sessions = Sessions()
    sessions.restore("broker-1", "a", T, "m", now_ms=50)  # the clock of another boot: nothing stored says when

    assert sessions.expired(50 + T - 1) == []
    assert sessions.heartbeat("broker-1", "a", 50 + T - 1)
    assert sessions.expired(50 + T) == []


def test_a_provisional_session_may_be_replaced_from_another_machine():
    sessions = Sessions()
    sessions.restore("broker-1", "a", T, "m", now_ms=0)

    assert isinstance(opened(sessions, incarnation="b", machine="other"), Opened)


def test_an_end_known_from_the_store_counts():
    sessions = Sessions()
    sessions.restore_ended("broker-1", "a")

    assert isinstance(opened(sessions), Refused)


def test_who_slept_does_not_judge_silence():
    sessions = Sessions()
    opened(sessions)

    sessions.slept(5_000)

    assert sessions.expired(T + 4_999) == []
    assert names(sessions.expired(T + 5_000)) == ["broker-1"]


def test_a_late_heartbeat_never_shortens_a_session():
    sessions = Sessions()
    opened(sessions)
    sessions.slept(5_000)

    sessions.heartbeat("broker-1", "a", 100)

    assert sessions.next_deadline_ms() == T + 5_000


def test_timeouts_are_held_within_bounds():
    sessions = Sessions()

    assert sessions.open("a", "x", 1, "m", 0).session.timeout_ms == 100
    assert sessions.open("b", "x", 10**12, "m", 0).session.timeout_ms == 600_000


def test_there_is_a_limit_of_sessions():
    sessions = Sessions()
    for number in range(SESSIONS_MAX):
        opened(sessions, name=f"broker-{number}")

    assert opened(sessions, name="one-more").error == ErrorCode.LIMIT_EXCEEDED
    assert isinstance(opened(sessions, name="broker-5"), Kept)


class SessionLaws(RuleBasedStateMachine):
    """Whatever happens in whatever order, the rules of the file hold."""

    def __init__(self):
        super().__init__()
        self.sessions = Sessions()
        self.now_ms = 0
        self.ended = set()
        self.heard = {}  # (name, incarnation) -> when last

    names = st.sampled_from(["a", "b"])
    incarnations = st.sampled_from(["1", "2", "3"])

    @rule(ms=st.integers(0, 1_000))
    def time_passes(self, ms):
        self.now_ms += ms

    @rule(name=names, incarnation=incarnations, machine=st.sampled_from(["m", "n"]), if_vacant=st.booleans())
    def open(self, name, incarnation, machine, if_vacant):
        result = self.sessions.open(name, incarnation, T, machine, self.now_ms, if_vacant=if_vacant)
        if (name, incarnation) in self.ended:
            assert isinstance(result, Refused)
        if isinstance(result, Opened) and result.replaced:
            assert not if_vacant
            self.ended.add((name, result.replaced.incarnation))
        if not isinstance(result, Refused):
            self.heard[name, incarnation] = self.now_ms

    @rule(name=names, incarnation=incarnations)
    def heartbeat(self, name, incarnation):
        if self.sessions.heartbeat(name, incarnation, self.now_ms):
            assert (name, incarnation) not in self.ended
            self.heard[name, incarnation] = self.now_ms

    @rule(name=names, incarnation=incarnations)
    def end(self, name, incarnation):
        self.sessions.end(name, incarnation)
        self.ended.add((name, incarnation))

    @precondition(lambda self: self.sessions.next_deadline_ms() is not None)
    @rule()
    def expire(self):
        for session in self.sessions.expired(self.now_ms):
            self.sessions.end(session.name, session.incarnation)
            self.ended.add((session.name, session.incarnation))
            assert self.now_ms - self.heard[session.name, session.incarnation] >= T

    @invariant()
    def nobody_who_was_heard_of_lately_is_expired(self):
        for session in self.sessions.expired(self.now_ms):
            assert self.heard[session.name, session.incarnation] <= self.now_ms - T

    @invariant()
    def nobody_is_open_who_has_ended(self):
        assert not [key for key in self.ended if self.sessions.is_open(*key)]


TestSessionLaws = SessionLaws.TestCase
TestSessionLaws.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
