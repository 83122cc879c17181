"""Groups in simulated clusters: what was done in the runs that are judged, and that each is a run of its seed alone."""

import threading
from collections import Counter

import pytest

from callboard.testing.clients import ClientProcess
from callboard.testing.group_simulation import WATCHER
from callboard.testing.loop import SimLoop
from callboard.testing.nemesis import Fault
from callboard.testing.network import SimNetwork
from callboard.testing.plants import planted
from callboard.testing.profiles import PROFILES
from callboard.testing.recording import read_lines
from callboard.testing.simulation import Simulation, _NotConverged, run_seed
from callboard.testing.strand import Strand

SEEDS = range(12)


@pytest.fixture(scope="module")
def seen(runs):
    """What the clients of some runs saw."""
    found = []
    for run in [runs.begin(seed, "groups") for seed in SEEDS]:
        outcome = run.result()
        assert outcome.is_good, outcome.report()
        assert outcome.resets == [], "nobody forgets to fetch"
        found.append(read_lines(outcome.events))
    return found


@pytest.fixture(scope="module")
def outcomes():
    """Three of these runs, made here, whose members and histories can be looked at: each with its outcome."""
    found = {}
    for seed in SEEDS[:3]:
        run = Simulation(seed, PROFILES["groups"])
        found[run] = run.run()
        assert found[run].is_good, found[run].report()
    return found


@pytest.fixture(scope="module")
def looked_into(outcomes):
    return list(outcomes)


def test_members_commit_are_refused_and_give_back_in_the_runs_that_are_judged(seen):
    ends = Counter(event.type for events in seen for event in events if event.f == "commit")
    owned = Counter(event.f for events in seen for event in events if event.f in ("own", "disown"))

    assert ends["ok"] > 300
    assert ends["fail"] > 0, "a fenced member's commit is a case"
    assert owned["own"] == owned["disown"] > 50, "a run ends, and with it what was held"


def test_members_close_die_and_come_back_under_new_names(seen):
    names = {event.err for events in seen for event in events if event.f == "own"}

    assert any(name.startswith("member-3") for name in names), "one that came later"
    assert any("+2/" in name for name in names), "one in the place of another"
    assert any(name.endswith("/2") for name in names), "one that was out and joined again"


def test_static_members_come_back_in_their_place(looked_into):
    back = [
        place
        for run in looked_into
        for place in ("member-1", "member-2", "member-3", "member-4")
        if place in run.groups.runs[0]._static and run.groups.runs[0]._lives.get(place, 0) > 1
    ]

    assert back


def test_a_kill_reaches_whoever_is_in_that_place_now_and_one_more_comes():
    kills = [Fault(at_ms, "kill-client", "member-1", 50.0) for at_ms in (500.0, 1_200.0)]
    run = Simulation(5, PROFILES["groups"], kills)

    assert run.run().is_good

    lives = [name for name in run.clients if name.startswith("member-1")]
    assert lives == ["member-1", "member-1+2", "member-1+3"]
    assert [run.clients[name].loop.is_dead for name in lives] == [True, True, False]


def test_a_second_group_reads_the_same_beside_the_first(looked_into):
    for run in looked_into:
        first, second = (group.history for group in run.groups.runs)
        assert {one.group for one in first.commits} == {"billing"}
        assert {one.group for one in second.commits} == {"shipping"}
        read = [{(one.partition, one.offset) for one in history.processed} for history in (first, second)]
        assert read[0] == read[1]
        assert len(read[0]) > 10


def test_what_is_committed_is_looked_at_all_the_time(seen):
    for events in seen:
        assert sum(event.f == "read" and event.p == WATCHER for event in events) > 20  # 28 is the fewest that was seen


def test_the_same_seed_is_the_same_run_of_a_group(outcomes, runs):
    for outcome in outcomes.values():
        other = runs.of(outcome.seed, "groups")
        assert outcome.digest == other.digest
        assert outcome.events == other.events


def test_a_member_that_is_paused_past_its_session_comes_back_under_another_name():
    run = Simulation(3, PROFILES["groups"], [Fault(800.0, "pause", "member-1", 2_000.0)])

    assert run.run().is_good

    names = {owned.member for owned in run.groups.runs[0].history.owned if owned.member.startswith("member-1/")}
    assert len(names) > 1


def test_a_member_that_forgets_a_partition_is_reset_and_everything_is_read_all_the_same():
    """Without the watchdog it would be stuck (``test_plants``). Put out at once, it would be beside the next owner."""
    with planted("forgets-a-partition"):
        outcome = run_seed(4, "groups")

    assert outcome.is_good, outcome.report()
    assert {line.split()[0] for line in outcome.resets} == {"group.member_reset"}


def test_no_thread_of_a_run_is_left(outcomes):
    assert outcomes

    assert not [one.name for one in threading.enumerate() if one.name.startswith("strand of")]


def test_blocking_code_runs_in_virtual_time_and_ends_where_its_process_is_killed(strands):
    process, seen = strands

    def body():
        try:
            for _ in range(10):
                seen.append(process.now_ns // 1_000_000)
                strand.sleep(100)
        finally:
            seen.append("ended")

    strand = Strand(process.loop, body)
    process.loop.base.advance(250)
    process.loop.pause()
    process.loop.base.advance(250)
    process.loop.resume()
    process.loop.base.advance(10)
    process.loop.kill()
    strand.kill()

    assert seen == [0, 100, 200, 500, "ended"]
    assert strand.is_over


def test_what_fails_on_a_strand_fails_the_loop(strands):
    process, _ = strands
    Strand(process.loop, lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        process.loop.base.advance(1)


@pytest.fixture
def strands():
    loop = SimLoop(1)
    return ClientProcess("one", loop, SimNetwork(loop, 1), 1), []


def test_the_offsets_of_groups_are_compacted_while_they_are_used():
    run = Simulation(1, PROFILES["compaction"])

    assert run.run().is_good

    logs = [actor.log for _, actor in run._replicas() if actor.config.is_compacted]
    assert sum(log.cleaner.cleaned.offset > 100 for log in logs) == 3


def test_what_must_come_may_take_as_long_as_something_comes_of_it():
    run = Simulation(0, PROFILES["calm"])
    until_us = 100_000_000

    def missing():
        return "" if run.loop.now_us >= until_us else "half of it"

    run._wait_for(missing, 0, lambda: min(run.loop.now_us, until_us) // 20_000_000)
    until_us = 200_000_000
    with pytest.raises(_NotConverged, match="half of it"):
        run._wait_for(missing, run.loop.now_us, lambda: min(run.loop.now_us, 120_000_000) // 20_000_000)

    assert 150_000_000 <= run.loop.now_us < 151_000_000
