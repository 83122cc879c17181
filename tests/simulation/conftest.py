"""Runs of seeds in processes beside this one, a core each: a run is a function of its seed, wherever it runs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

WORKERS_MAX = 4  # a worker's start costs as much as two seeds


@pytest.fixture(scope="package")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Processes for ``run_seed`` and ``hunt``. What nobody has waited for is not begun any more at the end."""
    context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads this process has
    pool = ProcessPoolExecutor(min(os.cpu_count() or 1, WORKERS_MAX), mp_context=context)
    yield pool
    pool.shutdown(cancel_futures=True)
