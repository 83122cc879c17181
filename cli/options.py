"""Options that several commands share, and the values that they parse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import click

from ..model import is_topic_name

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BOOTSTRAP_SERVERS = "127.0.0.1:9192"
BOOTSTRAP_VARIABLE = "CALLBOARD_BOOTSTRAP_SERVERS"
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000}


class WholeNumber(click.IntRange):
    """An integer in a range, which is refused in plain words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no whole number", param, ctx)
        return super().convert(value, param, ctx)


MILLISECONDS = WholeNumber(min=1)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """A time such as ``500ms``, ``5s``, ``1.5s``, ``2m``: milliseconds for the command. Bounds are the cluster's."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]+)\s*", str(value))
        unit = UNITS_MS.get(found[2]) if found else None
        if found is None or unit is None or (milliseconds := round(float(found[1]) * unit)) < 1:
            self.fail(f"{value!r} is no duration: write 500ms, 5s or 2m", param, ctx)
        return milliseconds


DURATION = Duration()


class TopicChoice(NamedTuple):
    """A topic, or some of its partitions."""

    topic: str
    partitions: tuple[int, ...]  # empty: all


NUMBERS_MAX = 100_000  # in one range: no topic has so many partitions


class Topics(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """``TOPIC`` or ``TOPIC:0-2,5``, as it is shown."""

    name = "TOPIC[:N,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TopicChoice:
        if isinstance(value, TopicChoice):
            return value
        topic, colon, numbers = str(value).partition(":")
        found = _numbers(numbers) if colon else ()
        if not is_topic_name(topic) or found is None:
            self.fail(f"{value!r} is no topic: write TOPIC, or TOPIC:0-2,5", param, ctx)
        return TopicChoice(topic, found)


def _numbers(text: str) -> tuple[int, ...] | None:
    """Return the numbers in ``0-2,5``, each once; None: it is not written like that."""
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < NUMBERS_MAX:
            return None
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return tuple(numbers)


TOPICS = Topics()

bootstrap_option: Callable[[F], F] = click.option(
    "--bootstrap-servers",
    "-b",
    envvar=BOOTSTRAP_VARIABLE,
    default=DEFAULT_BOOTSTRAP_SERVERS,
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT,…",
    help="Brokers to ask first; one that answers is enough.",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
timeout_option: Callable[[F], F] = click.option(
    "--timeout-ms",
    type=MILLISECONDS,
    default=10_000,
    show_default=True,
    help="Give up when the cluster has not answered for so long.",
)


def settings_from(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the settings in ``NAME=VALUE`` texts; numbers, true, false and null are told from words as in JSON.

    Which names there are, and their bounds, is not known here: the controller refuses what it does not know.

    Raises:
        click.UsageError: a text has no ``=`` or no name, or a name comes twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise click.UsageError(f"a setting is written NAME=VALUE, not {pair!r}")
        if name in settings:
            raise click.UsageError(f"the setting {name!r} is given twice")
        settings[name] = _value(value.strip())
    return settings


def _value(text: str) -> Any:
    import orjson

    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text
