"""One event, one line, ``key=value``: how every actor logs.

``event(logger, "leader.elected", partition="orders-0", leader=2)`` becomes
``leader.elected partition=orders-0 leader=2``. A value that holds blanks, quotes or line ends is written as a
JSON string, so that a line stays one line whatever a record, a path or an error says. A failure's traceback
is folded into one value too (``where=``), innermost frame first.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Collection, Mapping
from types import TracebackType

from ..errors import ErrorCode

WHERE_FRAMES_MAX = 12  # of a traceback; the innermost are kept


def event(logger: logging.Logger, name: str, level: int = logging.INFO, /, **values: object) -> None:
    """Log one event. Nothing is formatted until a handler writes it.

    Whoever wants the event and not its text (``timeline``) finds an ``EventLine`` in the record's arguments.
    """
    if logger.isEnabledFor(level):
        logger.log(level, "%s", EventLine(name, values))


class EventLine:
    """An event on its way through ``logging``: its text is made when, and if, it is written."""

    __slots__ = ("name", "values")

    def __init__(self, name: str, values: Mapping[str, object]) -> None:
        self.name, self.values = name, values

    def __str__(self) -> str:
        return line_of(self.name, self.values)


def line_of(name: str, values: Mapping[str, object]) -> str:
    """Return ``name key=value …`` on one line."""
    return " ".join([name, *(f"{key}={_text(value)}" for key, value in values.items())])


def where(trace: TracebackType | None) -> str:
    """Return a traceback as ``file:line function < file:line function``, innermost first."""
    frames = traceback.extract_tb(trace)[-WHERE_FRAMES_MAX:]
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def error_text(error: BaseException | None) -> str:
    """Return ``ClassName: message``, one line, for logs and for the tree's last failure."""
    if error is None:
        return ""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def code_text(code: int) -> str:
    """Return the name of an error code; of one that only a newer Callboard has, the number."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)


def plain_text(value: object) -> str:
    """Return a value of an event as text: an error by its class and message, a collection by its members."""
    if isinstance(value, BaseException):
        value = error_text(value)
    elif isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        value = ",".join(str(one) for one in value)
    return str(value)


def _text(value: object) -> str:
    text = plain_text(value)
    if text and text.isprintable() and not any(mark in text for mark in ' "='):
        return text
    return json.dumps(text, ensure_ascii=False)
