"""Figures and names as people read them. Pure: a short text out."""

from __future__ import annotations


def size(count: int) -> str:
    """Return a number of bytes with a unit: ``0 B``, ``1.5 KiB``, ``12 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(milliseconds: float) -> str:
    """Return a duration in its two greatest units: ``12 ms``, ``3.4 s``, ``5 min 6 s``, ``2 d 3 h``."""
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1_000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {second} s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minute} min"
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h"


def count(number: int, noun: str) -> str:
    """Return ``1 record``, ``27,004 records``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def rate(number: int, seconds: float) -> str:
    """Return how many a second: ``22,503/s``; nothing is said of too short a time."""
    return f"{number / seconds:,.0f}/s" if seconds > 0.001 else "–"


def visible(text: str) -> str:
    """Return a text that others have chosen (the id of a group, of a client) so that a terminal only shows it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
