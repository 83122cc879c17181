"""The data of the demo: every flight that left New York in January 2013, as records.

A record's key is the aircraft (its tail number), so that an aircraft's flights stay in order in one partition; the
155 cancelled flights that had no aircraft yet have no key. Its value is JSON with a sequence number: the row's
place in the file.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import orjson

DATA = Path(__file__).parent / "data"
FLIGHTS = 27_004


class Flight(NamedTuple):
    sequence: int  # the row's place in the file, from 0
    carrier: str
    key: bytes | None
    value: bytes


def load() -> list[Flight]:
    """Return all flights, in the file's order."""
    with gzip.open(DATA / "flights-2013-01.csv.gz", "rt", encoding="ascii", newline="") as file:
        return [_flight(sequence, row) for sequence, row in enumerate(csv.DictReader(file))]


def airlines() -> dict[str, str]:
    """Return the airline's name for each carrier's code."""
    with (DATA / "airlines.csv").open(encoding="ascii", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def _flight(sequence: int, row: dict[str, str]) -> Flight:
    key = row["tailnum"].encode() or None
    return Flight(sequence, row["carrier"], key, orjson.dumps({"seq": sequence, **row}))
