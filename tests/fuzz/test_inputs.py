"""A hundred thousand ways to be wrong: every decoder answers with an error of its own, or with what is sound."""

import os

import pytest

from .targets import all_targets, run

QUICK_INPUTS = 200  # for each percent of weight: 20,000 in all, some seconds
LONG_INPUTS = int(os.environ.get("INPUTS", "1000000"))


def names():
    return [target.name for target in all_targets(None)]


@pytest.mark.parametrize("name", names())
def test_bad_input_is_refused_and_breaks_nothing(name, tmp_path):
    target = next(target for target in all_targets(tmp_path) if target.name == name)

    run(target, min(target.weight * QUICK_INPUTS, 1_000), seed=1)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_a_million_bad_inputs(tmp_path):
    seed = int(os.environ.get("SEED", "7"))

    for target in all_targets(tmp_path):
        run(target, max(1, LONG_INPUTS * target.weight // 100), seed)
