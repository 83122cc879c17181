"""How the demo decides: is what came out of the log exactly what went in? Pure, so that tests can show it a bad log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from callboard.examples.flights import Flight


class Read(NamedTuple):
    """What the demo keeps of a record that it has read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes


class Verdict(NamedTuple):
    """What was found. All numbers but the counts are 0, if all is well."""

    in_file: Counter[str]  # flights by carrier
    in_log: Counter[str]
    lost: int  # flights of the file that are not in the log
    twice: int  # records beyond the first of a flight
    changed: int  # records that are not the flight they say they are, or under another key
    out_of_order: int  # aircraft whose flights are not in the file's order, or in more than one partition
    gaps: int  # partitions whose offsets are not 0, 1, 2, …

    @property
    def is_good(self) -> bool:
        return self.in_file == self.in_log and not any(self[2:])


def compare(flights: Sequence[Flight], records: Iterable[Read]) -> Verdict:
    """Compare the log with the file; ``records`` in the order of each partition."""
    seen: Counter[int] = Counter()
    in_log: Counter[str] = Counter()
    changed = 0
    by_key: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for record in records:
        row = orjson.loads(record.value)
        sequence = row["seq"]
        seen[sequence] += 1
        in_log[row["carrier"]] += 1
        offsets[record.partition].append(record.offset)
        if not (0 <= sequence < len(flights) and (record.key, record.value) == flights[sequence][2:]):
            changed += 1
        if record.key is not None:
            by_key[record.key].append((record.partition, sequence))
    return Verdict(
        in_file=Counter(flight.carrier for flight in flights),
        in_log=in_log,
        lost=sum(flight.sequence not in seen for flight in flights),
        twice=sum(count - 1 for count in seen.values()),
        changed=changed,
        out_of_order=sum(not _in_order(places) for places in by_key.values()),
        gaps=sum(numbers != list(range(len(numbers))) for numbers in offsets.values()),
    )


def _in_order(places: list[tuple[int, int]]) -> bool:
    """Say whether one key's (partition, sequence) lie in one partition and in the order they were sent."""
    partitions = {partition for partition, _ in places}
    sequences = [sequence for _, sequence in places]
    return len(partitions) == 1 and sequences == sorted(sequences)
