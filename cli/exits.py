"""How a command ends: one exit status for each kind of ending, one line on stderr that says what to do.

The table below is the only place where the statuses are chosen; ``docs/errors.md`` shows the same table and a
test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from ..errors import (
    BrokerResponseError,
    CallboardError,
    ConfigurationError,
    ConnectionFailedError,
    ConnectionLostError,
    DeliveryError,
    IllegalArgumentError,
)


class ExitStatus(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    ENVIRONMENT = 5
    INTERRUPTED = 130


MEANINGS: Mapping[ExitStatus, tuple[str, str]] = {  # in a word, for --help; in a line, for docs/errors.md
    ExitStatus.OK: ("done", "done; also when the reader of a pipe has gone, as `head` does"),
    ExitStatus.FAILED: (
        "failed",
        "a time limit passed, input was unusable, records were not delivered; or a bug in Callboard",
    ),
    ExitStatus.USAGE: ("wrong use", "unknown command, option, setting or value; nothing was done"),
    ExitStatus.UNREACHABLE: (
        "cluster unreachable",
        "no broker could be reached, or the connection was lost; `callboard up --join`: nobody answers there",
    ),
    ExitStatus.REFUSED: (
        "refused",
        "a broker refused: unknown topic, invalid name, record too large, …; "
        "`callboard up --join`: the cluster refused this host",
    ),
    ExitStatus.ENVIRONMENT: (
        "data directory or port",
        "`callboard up`: the data directory or a port cannot be used, or a process does not start",
    ),
    ExitStatus.INTERRUPTED: (
        "interrupted",
        "Ctrl-C; `callboard consume`: also SIGTERM (but `callboard up` ends with 0: that is how it is stopped)",
    ),
}


class CommandFailed(Exception):
    """Ends the command with a status and one line for the person who gave it."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.status = status


def status_for(error: BaseException) -> ExitStatus:
    """Return the exit status that an error ends a command with."""
    match error:
        case CommandFailed():
            return error.status
        case KeyboardInterrupt():
            return ExitStatus.INTERRUPTED
        case ConfigurationError() | IllegalArgumentError():
            return ExitStatus.USAGE
        case ConnectionFailedError() | ConnectionLostError():
            return ExitStatus.UNREACHABLE
        case BrokerResponseError():
            return ExitStatus.REFUSED
        case DeliveryError():
            cause = first_cause(error)
            return status_for(cause) if cause is not None else ExitStatus.FAILED
        case _:
            return ExitStatus.FAILED


def first_cause(error: DeliveryError) -> BaseException | None:
    """Return why the first of the failed records failed, as far as its future tells."""
    for future in error.failed:
        told = getattr(future, "exception", None)
        cause = told() if callable(told) else told
        if isinstance(cause, BaseException) and not isinstance(cause, DeliveryError):
            return cause
    return None


def one_line(error: BaseException) -> str:
    """Return what is said about an error: one line, no traceback."""
    if isinstance(error, CallboardError | CommandFailed):
        text = str(error) or type(error).__name__
        if isinstance(error, DeliveryError) and (cause := first_cause(error)) is not None and str(cause) not in text:
            text = f"{text}; the first one: {cause}"
    elif isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror or error}"
    else:
        text = f"{type(error).__name__}: {error} (a bug in Callboard; --debug shows where, please report it)"
    return " ".join(text.split())
