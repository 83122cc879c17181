"""An actor on a simulated loop, and a parent that hears of it."""

import pytest

from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop
from callboard.testing.probe import probe

from .echoes import Echo


@pytest.fixture
def loop():
    return SimLoop()


@pytest.fixture
def context(loop):
    return sim_context(loop=loop)


@pytest.fixture
def parent(context, loop):
    actor = probe(context, "parent")
    loop.run_until_idle()
    return actor


@pytest.fixture
def echo(context, loop, parent):
    ref = Echo.start(context, "echo", parent.actor_ref)
    loop.run_until_idle()
    return ref.actor
