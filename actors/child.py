"""A supervisor's notes on one child."""

from __future__ import annotations

import msgspec

from ..transport.loop import Timer
from ..transport.messages import ActorDescription
from .refs import LoopRef
from .restarts import Tally
from .specs import ChildSpec


class Child:
    """What a supervisor knows of one child. ``ref`` is None exactly while nothing lives under its name."""

    __slots__ = (
        "address", "failed_ms", "failure", "is_static", "leaves_to", "ref", "replacement", "restarts", "resume",
        "resume_ms", "serves_since_ms", "spec", "state", "stop_timer", "tally", "wants_start", "wants_stop",
        "was_started",
    )  # fmt: skip

    def __init__(self, spec: ChildSpec, address: str, *, is_static: bool) -> None:
        self.spec = spec
        self.address = address
        self.is_static = is_static
        self.ref: LoopRef | None = None
        self.state = "stopped"  # "starting", "running", "stopping", "restarting" (backoff), "stopped", "given up"
        self.wants_start = True
        self.wants_stop = False
        self.was_started = False
        self.replacement: ChildSpec | None = None  # started when this one is gone
        self.leaves_to: list[LoopRef | None] | None = None  # not None: to be removed, and who wants to know
        self.resume: Timer | None = None
        self.resume_ms = 0  # monotonic: not started before
        self.stop_timer: Timer | None = None
        self.serves_since_ms = 0
        self.tally = Tally()
        self.restarts = 0
        self.failure = ""
        self.failed_ms = 0  # wall clock

    def description(self) -> ActorDescription:
        actor = self.ref.actor if self.ref is not None else None
        own = actor.describe() if actor is not None else ActorDescription(address=self.address)
        return msgspec.structs.replace(
            own,
            state=own.state if self.state == "running" else self.state,
            restart=self.spec.restart.value,
            restarts=self.restarts,
            last_failure=self.failure,
            last_failure_ms=self.failed_ms,
        )
