"""What tests of supervisors share: children that write down their starts and ends, and a world with one supervisor."""

from callboard.actors.runtime import LoopActor
from callboard.actors.supervisor import Backoff, ChildSpec, OnGiveUp, Restart, Supervisor, SupervisorSpec
from callboard.testing.context import sim_context
from callboard.testing.loop import SimLoop
from callboard.testing.probe import probe

BACKOFF = Backoff(min_ms=100, max_ms=1_000, jitter=0.0, reset_after_ms=2_000)


class Worker(LoopActor):
    """Writes its starts and ends into a journal that all share."""

    handlers = {str: "on_order"}

    def __init__(self, context, address, parent, journal, *, start_ms=0, stop_ms=0, fails_to_start=None):
        super().__init__(context, address, parent)
        self.name = address.rsplit("/", 1)[-1]
        self.journal, self.start_ms, self.stop_ms, self.fails_to_start = journal, start_ms, stop_ms, fails_to_start
        if fails_to_start == "constructor":
            raise OSError("in the constructor")

    starts_later = True

    def on_start(self):
        self.journal.append(f"+{self.name}")
        if self.fails_to_start:
            raise OSError("in on_start")
        if self.start_ms:
            self.set_timer(self.start_ms, "serve")
        else:
            self.started()

    def on_order(self, order):
        if order == "serve":
            self.started()
        elif order == "end":
            self.finish()
        elif order == "boom":
            raise ValueError("boom")

    def on_stop_request(self):
        if self.stop_ms:
            self.set_timer(self.stop_ms, "end")
        else:
            self.finish()

    def on_stop(self):
        self.journal.append(f"-{self.name}")

    def on_failure(self, *_failure):
        self.journal.append(f"!{self.name}")


class World:
    """One supervisor under a probe, and its journal."""

    def __init__(self, seed=0, *, shuffle=False):
        self.loop = SimLoop(seed, shuffle=shuffle)
        self.context = sim_context(seed, loop=self.loop)
        self.parent = probe(self.context, "parent")
        self.journal = []

    def child(
        self, name, *, restart=Restart.PERMANENT, waits=True, shutdown_ms=500, on_give_up=OnGiveUp.ESCALATE, **how
    ):
        start = Worker.starter(self.journal, **how)
        return ChildSpec(
            name=name, start=start, restart=restart, backoff=BACKOFF, waits=waits, shutdown_ms=shutdown_ms,
            on_give_up=on_give_up or OnGiveUp.ESCALATE,
        )  # fmt: skip

    def start(self, *children, **spec):
        spec = SupervisorSpec(children=tuple(children), **spec)
        self.ref = Supervisor.start(self.context, "top", self.parent.actor_ref, spec=spec)
        self.loop.run_until_idle()
        return self

    def find(self, name):
        return self.context.directory.find(f"top/{name}")

    def alive(self):
        return sorted(ref.address.removeprefix("top/") for ref in self.context.directory if "/" in ref.address)

    def tell(self, name, message="boom"):
        self.find(name).tell(message)
        self.loop.run_until_idle()

    def journal_of(self, act, *args):
        self.journal.clear()
        act(*args)
        return list(self.journal)

    def lines(self):
        return {line.address.removeprefix("top/"): line for line in self.ref.actor.describe().children}


def abc(world, **how):
    return world.child("a", **how), world.child("b", **how), world.child("c", **how)
