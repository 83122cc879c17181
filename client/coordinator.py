"""Which broker coordinates a group. Pure.

Asked of any broker when somebody needs it; again, with growing pauses, until one knows. What is known is believed until
somebody who asked that broker has reason to doubt it. An answer that is of older metadata than the last one is a broker
that lags: it counts as none.
"""

from __future__ import annotations

from ..errors import (
    BrokerResponseError,
    CallboardError,
    CoordinatorNotAvailableError,
    ErrorCode,
    error_for_code,
)
from ..transport.group_messages import CoordinatorEntry

FIRST_PAUSE_MS = 5  # an election takes milliseconds …
PAUSE_MS_MAX = 250  # … the pauses double up to this
ELSEWHERE = (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.BROKER_NOT_AVAILABLE)


class Coordinator:
    """What is known of one group's coordinator."""

    def __init__(self) -> None:
        self.broker_id: int | None = None  # None: not known, or in doubt
        self.error: CallboardError | None = None  # of the last attempt; None: it is known, or was not looked up yet
        self.fatal: CallboardError | None = None  # asking again will not help: the group id is refused
        self.is_wanted = False
        self.is_asking = False
        self._version = -1  # of the metadata that the last answer was of
        self._failures = 0  # in a row
        self._not_before_ms = 0

    def want(self) -> None:
        """Somebody needs it."""
        self.is_wanted = True

    def doubt(self) -> None:
        """Whoever is known is silent, or says that it is another broker."""
        self.broker_id = None
        self.is_wanted = True

    def should_ask(self, now_ms: int) -> bool:
        """Say whether to ask a broker now; if so it counts as asked."""
        if not self.is_wanted or self.broker_id is not None or self.is_asking or self.fatal is not None:
            return False
        if now_ms < self._not_before_ms:
            return False
        self.is_asking = True
        return True

    def next_event_ms(self) -> int | None:
        """Return when to look at ``should_ask`` again if nothing else happens."""
        if not self.is_wanted or self.broker_id is not None or self.is_asking or self.fatal is not None:
            return None
        return self._not_before_ms

    def on_answer(self, entry: CoordinatorEntry, version: int, now_ms: int) -> bool:
        """A broker has answered; return whether the coordinator is known now."""
        if entry.error:
            error = error_for_code(entry.error, entry.detail)
            if not error.retriable:
                self.is_asking, self.error, self.fatal = False, error, error
                return False
            return self.on_failure(error, now_ms)
        if entry.broker_id < 0 or version < self._version:
            return self.on_failure(CoordinatorNotAvailableError(entry.detail), now_ms)
        self.is_asking = False
        self.broker_id, self._version = entry.broker_id, version
        self.error, self._failures = None, 0
        self._not_before_ms = now_ms + FIRST_PAUSE_MS  # whoever doubts it at once gets the same answer
        return True

    def on_failure(self, error: CallboardError, now_ms: int) -> bool:
        """Nobody has answered, or nobody knows."""
        self.is_asking = False
        self.error = error
        self._failures += 1
        self._not_before_ms = now_ms + min(PAUSE_MS_MAX, FIRST_PAUSE_MS << min(self._failures - 1, 10))
        return False


def is_coordinator_wrong(error: CallboardError) -> bool:
    """Say whether an error means that the group's coordinator must be looked up again before the next attempt.

    It does not answer, or says that it is another broker. What it refuses for other reasons it refuses as coordinator.
    """
    return not isinstance(error, BrokerResponseError) or error.errno in ELSEWHERE
