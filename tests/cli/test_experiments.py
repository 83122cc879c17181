"""``callboard pause | hang | slow | cut | delay | heal`` and ``callboard events``: what is asked, what is shown."""

import orjson
import pytest

from callboard import errors
from callboard.cli import events as events_command
from callboard.cli import eventview
from callboard.client.experiments import Experiments, Happened
from callboard.transport import messages as m
from callboard.transport.messages import EventDescription, ExperimentReply


class FakeReplies:
    def __init__(self, replies, failed):
        self.replies, self.errors = replies, failed


class FakeAdmin:
    """An admin client with the real ``Experiments`` behind it, and a host that answers as told."""

    def __init__(self, *timelines, away=()):
        self.asked, self.timelines, self.away = [], list(timelines), away
        self.experiments = Experiments(self)
        self.config = type("Config", (), {"request_timeout_ms": 1_000})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def _hosts(self, timeout_ms):
        return ["host"]

    def _ask_hosts(self, hosts, request, timeout_ms):
        self.asked.append(request)
        if request.address in self.away:
            return FakeReplies({}, {"host": errors.UnknownAddressError(f"nothing lives at {request.address!r}")})
        return FakeReplies({"host": ExperimentReply(address=request.address, what=request.what, count=1)}, {})

    def events(self, after=None, max_wait_ms=0):
        told = self.timelines.pop(0) if self.timelines else []
        if isinstance(told, BaseException):
            raise told
        return Happened(told, {"ring": 1})


class FakeClients:
    def __init__(self, admin):
        self.made = admin

    def admin(self, bootstrap_servers, timeout_ms):
        return self.made


@pytest.fixture
def asked(callboard):
    def run(*arguments, admin=None):
        admin = admin or FakeAdmin()
        return callboard(*arguments, clients=FakeClients(admin)), admin.asked

    return run


# -- experiments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["pause", "broker-2"], m.ExperimentRequest(address="broker-2", what="pause", for_ms=5_000)),
        (["hang", "broker-2", "--for", "300ms"], m.ExperimentRequest(address="broker-2", what="hang", for_ms=300)),
        (
            ["slow", "broker-1/router", "--ms", "20", "--for", "1.5s"],
            m.ExperimentRequest(address="broker-1/router", what="slow", ms=20, for_ms=1_500),
        ),
    ],
)
def test_an_experiment_is_asked_for_as_said(asked, arguments, request_):
    ended, requests = asked(*arguments)

    assert ended.status == 0
    assert requests == [request_]
    assert "callboard events --follow" in ended.out


@pytest.mark.parametrize(("options", "halves"), [([], ("both", "both")), (["--one-way"], ("to", "from"))])
def test_a_link_is_cut_in_two_halves(asked, options, halves):
    _, requests = asked("cut", "broker-1", "broker-2", "--for", "2m", *options)

    assert [(one.address, one.peer, one.direction, one.for_ms) for one in requests] == [
        ("broker-1", "broker-2", halves[0], 120_000),
        ("broker-2", "broker-1", halves[1], 120_000),
    ]


def test_no_half_of_a_link_stays_cut_when_the_other_end_is_not_there(asked):
    ended, requests = asked("delay", "broker-1", "broker-9", "--ms", "5", admin=FakeAdmin(away=("broker-9",)))

    assert ended.status == 4
    assert "broker-9" in ended.err
    assert [(one.address, one.what) for one in requests] == [
        ("broker-1", "delay"),
        ("broker-9", "delay"),
        ("broker-1", "end"),
    ]


def test_heal_ends_what_there_is_at_each_address(asked):
    ended, requests = asked("heal", "broker-1", "broker-2", "--json")

    assert [(one.address, one.what) for one in requests] == [("broker-1", "end"), ("broker-2", "end")]
    assert orjson.loads(ended.out) == {"broker-1": 1, "broker-2": 1}


@pytest.mark.parametrize("text", ["5", "5 parsecs", "-1s", "0ms", "s", "", "1e3s", "9999999999s"])
def test_what_is_no_duration_is_refused(asked, text):
    ended, requests = asked("pause", "broker-2", "--for", text)

    assert ended.status == 2
    assert "500ms, 5s or 2m" in ended.err
    assert requests == []


@pytest.mark.parametrize("arguments", [["slow", "broker-1"], ["slow", "broker-1", "--ms", "0"], ["cut", "broker-1"]])
def test_what_is_missing_or_out_of_bounds_is_wrong_use(asked, arguments):
    ended, requests = asked(*arguments)

    assert (ended.status, requests) == (2, [])


# -- events ------------------------------------------------------------------------------------------------


def event(wall_ms, process, what, /, **values):
    return EventDescription(wall_ms=wall_ms, process=process, name=what, values=values)


FAILOVER = [
    event(1_000, "broker-1", "partition.leads", partition="orders-0", epoch="4", log_end="7"),
    event(2_000, "host", "process.ended", name="broker-1", pid="11", exitcode="-9", why="", is_asked="False"),
    event(2_001, "host", "actor.failed", actor="host/broker-1", error="ProcessDied: broker-1 …"),
    event(2_012, "broker-3", "leader.elected", partition="orders-0", leader="2", was="1", epoch="5", isr="2,3"),
    event(2_020, "broker-2", "partition.leads", partition="orders-0", epoch="5", log_end="7"),
]


def test_a_failover_reads_as_a_story(asked):
    ended, _ = asked("events", admin=FakeAdmin(FAILOVER))

    assert [line.split(maxsplit=1)[1] for line in ended.out.splitlines()] == [
        "broker-1   partition.leads     orders-0 in epoch 4 log_end=7",
        "host       process.ended       broker-1 (pid 11) was ended by SIGKILL  [noticed by sentinel]",
        "broker-3   leader.elected      orders-0: broker-2 in epoch 5, was broker-1, in sync 2,3",
        "broker-2   partition.leads     orders-0 in epoch 5 log_end=7",
        "orders-0 had no leader for 20 ms (elected after 12 ms, led 8 ms later): broker-1 → broker-2",
    ]


def test_json_is_one_object_a_line_gaps_included(asked):
    ended, _ = asked("events", "--json", admin=FakeAdmin(FAILOVER))
    told = [orjson.loads(line) for line in ended.out.splitlines()]

    assert [one["event"] for one in told] == [*(one.name for one in FAILOVER), "partition.had_no_leader"]
    assert told[1]["noticed_by"] == "sentinel"
    assert told[1]["at"] == "1970-01-01T00:00:02.000Z"
    assert told[-1]["ms"] == 20


def test_a_long_timeline_comes_in_parts(asked):
    ended, _ = asked("events", "--all", admin=FakeAdmin(FAILOVER[:2], FAILOVER[2:]))

    assert len(ended.out.splitlines()) == len(FAILOVER) + 1


def test_a_partition_without_a_leader_is_told_at_the_end(asked):
    ended, _ = asked("events", admin=FakeAdmin(FAILOVER[:2]))

    assert ended.out.splitlines()[-1].endswith("orders-0 has no leader since: broker-1 was lost (sentinel)")


def test_since_hides_what_is_older_but_knows_it(asked, monkeypatch):
    monkeypatch.setattr(events_command.time, "time_ns", lambda: 2_030_000_000)
    ended, _ = asked("events", "--since", "20ms", admin=FakeAdmin(FAILOVER))

    assert [line.split()[1] for line in ended.out.splitlines()] == ["broker-3", "broker-2", "orders-0"]


def test_following_goes_on_when_the_one_who_was_asked_dies(asked, monkeypatch):
    monkeypatch.setattr(events_command.time, "sleep", lambda _: None)
    lost = errors.ConnectionLostError("the broker that was asked is gone")
    ended, _ = asked("events", "--follow", admin=FakeAdmin(FAILOVER[:1], lost, FAILOVER[1:], KeyboardInterrupt()))

    assert ended.status == 130
    assert "had no leader for 20 ms" in ended.out


def test_what_is_not_known_by_name_is_shown_as_it_is():
    line = eventview.line_of(event(0, "broker-1", "isr.shrunk", partition="orders-0", isr="1,2", why="lag"))

    assert line.endswith("broker-1   isr.shrunk          partition=orders-0 isr=1,2 why=lag")


@pytest.mark.parametrize(
    "name", ["experiment.begun", "experiment.ended", "process.ended", "session.ended", "leader.elected"]
)
def test_an_event_without_its_values_is_shown_all_the_same(name):
    assert name in eventview.line_of(EventDescription(name=name))
