"""Whole clusters by seeds: whatever fails, no law is broken, and when it is healed all is well again."""

import os
import subprocess
import sys

import pytest

from callboard.testing.nemesis import CHASED_HOW, CHASES, GROUP_CHASES, KINDS, Fault, schedule
from callboard.testing.profiles import PROFILES
from callboard.testing.recording import read_lines
from callboard.testing.simulate import main, regression_seeds
from callboard.testing.simulation import Simulation, run_seed

SEEDS_A_CHUNK = 10
CHUNKS = {
    "default": 3,
    "deaths": 2,
    "links": 1,
    "pauses": 1,
    "single": 1,
    "calm": 1,
    "chases": 2,
    "reboots": 2,
    "clocks": 1,
    "unclean": 1,
}


SEEDS = [(name, chunk * SEEDS_A_CHUNK) for name, count in CHUNKS.items() for chunk in range(count)]


@pytest.fixture(scope="module", autouse=True)
def begun(runs):
    """All runs that are asked for below are begun together."""
    for profile, first in SEEDS:
        for seed in range(first, first + SEEDS_A_CHUNK):
            runs.begin(seed, profile)
    for seed, profile in regression_seeds():
        runs.begin(seed, profile)


@pytest.mark.parametrize(("profile", "first"), SEEDS)
def test_no_seed_breaks_a_law(runs, profile, first):
    for seed in range(first, first + SEEDS_A_CHUNK):
        outcome = runs.of(seed, profile)
        assert outcome.is_good, outcome.report()
        assert outcome.acked > 0, f"seed {seed}: nothing was acknowledged, so nothing was shown"
        assert outcome.checks >= 10, f"seed {seed}: the laws were not looked at"


@pytest.mark.parametrize(("seed", "profile"), regression_seeds())
def test_a_seed_that_failed_once_does_not_fail_again(runs, seed, profile):
    outcome = runs.of(seed, profile)

    assert outcome.is_good, outcome.report()


def test_a_calm_run_has_no_error_at_all(runs):
    outcome = runs.of(1, "calm")

    assert outcome.faults == []
    assert (outcome.unknown, outcome.failed) == (0, 0)
    assert outcome.acked > 50


# -- one seed, one run -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_same_seed_is_the_same_run(seed, runs):
    first, second = runs.of(seed, "default"), run_seed(seed)

    assert first.digest == second.digest, "in another process, after other runs"
    assert first.events == second.events
    assert first.digest != runs.of(seed + 3, "default").digest


def test_a_run_does_not_depend_on_how_strings_are_hashed(runs):
    """Each of the workers hashes as it likes, one process as it is told."""
    seeds = list(enumerate(("default", "deaths", "pauses", "links", "chases", "reboots", "groups"), 2))
    program = (
        "from callboard.testing.simulation import run_seed\n"
        f"for seed, profile in {seeds}:\n"
        "    print(run_seed(seed, profile).digest)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=500,
        check=True,
    )

    digests = process.stdout.split()
    assert digests == [runs.of(seed, profile).digest for seed, profile in seeds]
    assert len(set(digests)) == len(seeds)


def test_what_the_clients_saw_is_kept_as_events(runs):
    events = read_lines(runs.of(3, "default").events)

    assert {event.f for event in events} >= {"send", "poll", "assign", "fault"}
    assert [event.i for event in events] == list(range(len(events)))
    assert [event.t for event in events] == sorted(event.t for event in events)


# -- schedules ---------------------------------------------------------------------------------------


def schedules(count):
    names = ["broker-1", "broker-2", "broker-3"]
    for seed in range(count):
        yield schedule(seed, brokers=names, clients=["producer-1"], span_ms=3_000, replication_factor=3)


def test_every_kind_of_fault_is_scheduled_by_some_seed_and_none_by_others():
    made = list(schedules(300))

    assert {fault.kind for faults in made for fault in faults} == set(KINDS)
    assert any(not faults for faults in made), "to be left in peace is a case, too"
    assert all(0 <= fault.at_ms <= 3_000 and fault.for_ms >= 50 for faults in made for fault in faults)


def test_every_kind_of_chase_is_scheduled_with_every_end():
    names = ["broker-1", "broker-2", "broker-3"]
    kinds = CHASES | GROUP_CHASES
    made = [schedule(seed, brokers=names, clients=[], span_ms=3_000, kinds=kinds, partitions=2) for seed in range(200)]
    faults = [fault for one in made for fault in one]

    assert {fault.kind for fault in faults} == set(kinds)
    for kind, how in CHASED_HOW.items():
        assert {fault.other for fault in faults if fault.kind == kind} == set(how)
    assert {fault.target for fault in faults if fault.kind in CHASED_HOW} == {"partition-0", "partition-1", "groups"}
    assert {fault.kind for fault in faults if fault.target == "groups"} == set(GROUP_CHASES)


def test_something_is_lost_in_some_run_where_it_may_be_and_the_run_is_good(runs):
    losses = 0
    for name, first in SEEDS:
        losses += sum(runs.of(first + one, name).losses for one in range(SEEDS_A_CHUNK) if name == "reboots")

    assert losses, "nothing was ever lost: the rules of losses were not tried"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_unclean_election_by_order_loses_something_and_the_run_is_good(seed):
    """Broker 3 is far behind when both others die; a person has it lead."""
    faults = [
        Fault(100.0, "cut", "broker-3", 2_400.0, "broker-1"),
        Fault(100.0, "cut", "broker-3", 2_400.0, "broker-2"),
        Fault(1_300.0, "kill", "broker-1", 2_500.0, "", 1.0),
        Fault(1_300.0, "kill", "broker-2", 2_500.0, "", 1.0),
        Fault(1_400.0, "elect-unclean", "all", 1_500.0),
    ]
    run = Simulation(seed, PROFILES["unclean"], faults)

    outcome = run.run()

    assert outcome.is_good, outcome.report()
    assert run.laws.losses.found


def test_a_broken_disk_is_not_ordered_where_it_holds_the_only_copy():
    for seed in range(100):
        faults = schedule(seed, brokers=["broker-1"], clients=["c"], span_ms=3_000, replication_factor=1)
        assert "sync-error" not in {fault.kind for fault in faults}


def test_a_run_whose_faults_are_given_is_the_run_whose_faults_are_chosen(runs):
    chosen = runs.of(3, "default")

    assert run_seed(3, faults=chosen.faults).digest == chosen.digest


# -- the command -------------------------------------------------------------------------------------


def test_the_command_runs_seeds_and_says_how_many(capsys):
    assert main(["--seeds", "3", "--first", "200", "--profile", "links"]) == 0

    assert capsys.readouterr().out.startswith("3 runs, 0 failed")


def test_the_command_runs_one_seed_and_keeps_its_events(capsys, tmp_path):
    assert main(["--seed", "3", "--profile", "default", "--events", str(tmp_path / "events.jsonl")]) == 0

    assert "seed 3, profile default: good" in capsys.readouterr().out
    assert len(read_lines((tmp_path / "events.jsonl").read_bytes().splitlines())) > 100
    assert set(PROFILES) >= {"default", "deaths", "links", "pauses"}
