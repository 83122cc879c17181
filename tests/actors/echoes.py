"""What tests of actors share: one that writes down everything that happens to it."""

from callboard.actors.runtime import LoopActor


class Say(str):
    """Answered with its own text; "boom" and "exit" and "interrupt" raise."""


class Derived(Say):
    """Handled as a Say."""


class Later:
    """Sets a timer for a Say."""

    def __init__(self, delay_ms, text):
        self.delay_ms, self.text = delay_ms, text


class Echo(LoopActor):
    """Writes down everything that happens to it."""

    handlers = {Say: "on_say", Later: "on_later"}

    def __init__(self, context, address, parent=None, *, fails_in=()):
        super().__init__(context, address, parent)
        self.journal = []
        self.fails_in = fails_in

    def on_start(self):
        self.journal.append("start")
        self._maybe_fail("start")

    def on_say(self, message):
        self.journal.append(str(message))
        if message == "boom":
            raise ValueError("boom")
        if message == "exit":
            raise SystemExit(3)
        if message == "interrupt":
            raise KeyboardInterrupt
        return str(message)

    def on_later(self, message):
        return self.set_timer(message.delay_ms, Say(message.text))

    def on_drained(self):
        self.journal.append("drained")
        self._maybe_fail("drained")

    def on_stop(self):
        self.journal.append("stop")
        self._maybe_fail("stop")

    def on_failure(self, kind, value, trace):
        self.journal.append(f"failure {kind.__name__}")
        self._maybe_fail("failure")

    def _maybe_fail(self, where):
        if where in self.fails_in:
            raise ValueError(f"in {where}")
