"""Runs of seeds in processes beside this one, a core each: a run is a function of its seed, wherever it runs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from callboard.testing.simulation import Outcome, run_seed

WORKERS_MAX = 4  # a worker's start costs as much as two seeds


@pytest.fixture(scope="package")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Processes for ``run_seed`` and ``hunt``. What nobody has waited for is not begun any more at the end."""
    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads this process has
    pool = ProcessPoolExecutor(min(os.cpu_count() or 1, WORKERS_MAX), mp_context=context)
    yield pool
    pool.shutdown(cancel_futures=True)


class Runs:
    """Runs of seeds, each made once in these processes, whoever asks for it."""

    def __init__(self, workers: ProcessPoolExecutor) -> None:
        self._workers = workers
        self._begun: dict[tuple[int, str], Future[Outcome]] = {}

    def begin(self, seed: int, profile: str) -> Future[Outcome]:
        key = (seed, profile)
        if key not in self._begun:
            self._begun[key] = self._workers.submit(run_seed, *key)
        return self._begun[key]

    def of(self, seed: int, profile: str) -> Outcome:
        return self.begin(seed, profile).result()


@pytest.fixture(scope="package")
def runs(workers: ProcessPoolExecutor) -> Runs:
    return Runs(workers)
