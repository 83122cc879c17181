"""The simulation finds the bugs that others have had. (One that finds nothing proves nothing.)"""

import pytest

from callboard.testing.nemesis import Fault
from callboard.testing.plants import PLANTS, hunt, planted
from callboard.testing.simulation import run_seed, shrink


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_bug_is_found_within_its_seeds(name):
    outcome = hunt(name)

    assert outcome is not None, f"{name}: {PLANTS[name].what}: not found in {PLANTS[name].seeds_max} seeds"


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_plant_is_gone_after_its_block(name):
    with planted(name) as plant:
        seed = plant.seeds_max
    assert run_seed(seed, plant.profile).is_good


def test_a_failing_schedule_is_shrunk_to_the_faults_that_it_needs():
    with planted("own-session"):
        outcome = hunt("own-session")
        smaller = shrink(outcome, outcome.profile)

        assert not smaller.is_good
        assert len(smaller.faults) <= 2 < len(outcome.faults)
        for place in range(len(smaller.faults)):
            fewer = [*smaller.faults[:place], *smaller.faults[place + 1 :]]
            assert run_seed(outcome.seed, outcome.profile, fewer).is_good, "every one that is left is needed"


def test_a_report_says_what_failed_and_how_to_run_it_again():
    with planted("own-session"):
        outcome = run_seed(0, "deaths", [Fault(400.0, "kill", "broker-1", 60.0)])

    text = outcome.report(faults_before=9)
    assert "single-leader" in text
    assert "kill broker-1 for 60 ms" in text
    assert "1 of 9" in text
    assert "make simulate SEED=0 PROFILE=deaths" in text
