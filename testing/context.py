"""A context of virtual time for tests: same seed, same run."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count
from typing import Any

from ..actors.context import Context
from ..errors import IllegalStateError
from .loop import SimClock, SimLoop, SimPool


def sim_context(seed: int = 0, name: str = "test", *, loop: SimLoop | None = None, **overrides: Any) -> Context:
    """Return a deterministic context. ``overrides`` replace its fields; several may share one ``loop``.

    Transport and files are absent unless given: an actor that reaches for them says so by failing.
    """
    loop = loop or SimLoop(seed)
    chance = random.Random(f"{seed}/{name}")
    ids = count(1)
    context = Context(
        name=name,
        loop=loop,
        clock=SimClock(loop),
        random=chance,
        new_id=lambda: f"{random.Random(f'{seed}/{name}/{next(ids)}').getrandbits(128):032x}",
        transport=Absent("transport"),
        files=Absent("files"),
        pool=SimPool(loop, chance=chance),
        boot="the first",
    )
    return replace(context, **overrides)


class Absent:
    """A seam that this context does not have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise IllegalStateError(f"this context has no {self._name}: pass {self._name}=... to sim_context")
