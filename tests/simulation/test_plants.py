"""The simulation finds the bugs that others have had. (One that finds nothing proves nothing.)"""

import pytest

from callboard.testing.nemesis import Fault
from callboard.testing.plants import PLANTS, hunt, planted
from callboard.testing.simulation import run_seed, shrink

CATALOGUE = ("B1", "B2", "B3", "B4", "B6", "B7", "B9", "B10", "B14", "B19", "B22", "B24", "B25", "B26")


@pytest.fixture(scope="module")
def hunts(workers):
    """All hunts, begun together: by name, to be waited for."""
    return {name: workers.submit(hunt, name) for name in sorted(PLANTS)}


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_a_planted_bug_is_found_by_a_law_that_fits_it_and_the_same_seed_is_good_without_it(name, hunts):
    plant = PLANTS[name]

    outcome = hunts[name].result()

    assert outcome is not None, f"{name}: {plant.what}: not found in {plant.seeds_max} seeds"
    assert {failure.name for failure in outcome.failures} & plant.finds
    assert not any("TypeError" in failure.detail for failure in outcome.failures), "the plant fell over its own feet"
    again = run_seed(outcome.seed, plant.profile)
    assert again.is_good, again.report()


def test_the_bugs_of_the_catalogue_that_a_simulation_can_find_are_planted():
    assert set(CATALOGUE) <= set(PLANTS)


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
