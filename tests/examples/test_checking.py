"""The demo's judgement: it says yes to the file itself, and no to every kind of damage."""

from collections import Counter

import pytest

from callboard.examples.checking import Read, compare
from callboard.examples.flights import FLIGHTS, airlines, load

PARTITIONS = 6


@pytest.fixture(scope="module")
def flights():
    return load()


@pytest.fixture
def log(flights):
    """The flights as a good log holds them, by partition: small enough to damage, all keys included."""
    ends = Counter()
    records = []
    for flight in flights:
        partition = hash(flight.key) % PARTITIONS if flight.key is not None else flight.sequence % PARTITIONS
        records.append(Read(partition, ends[partition], flight.key, flight.value))
        ends[partition] += 1
    return records


def test_the_file_is_the_one_that_was_cut(flights):
    assert len(flights) == FLIGHTS
    assert [flight.sequence for flight in flights] == list(range(FLIGHTS))
    assert Counter(flight.carrier for flight in flights).most_common(2) == [("UA", 4_637), ("B6", 4_427)]
    assert sum(flight.key is None for flight in flights) == 155
    assert len({flight.key for flight in flights}) == 3_149
    assert {flight.carrier for flight in flights} <= set(airlines())


def test_a_good_log_is_found_good(flights, log):
    verdict = compare(flights, log)

    assert verdict.is_good
    assert verdict.in_log.total() == FLIGHTS


def test_a_lost_record_is_found(flights, log):
    verdict = compare(flights, log[:-1])

    assert (verdict.is_good, verdict.lost) == (False, 1)


def test_a_record_that_is_there_twice_is_found(flights, log):
    twice = log[100]._replace(offset=sum(record.partition == log[100].partition for record in log))

    verdict = compare(flights, [*log, twice])

    assert (verdict.is_good, verdict.twice, verdict.lost) == (False, 1, 0)


def test_two_flights_of_an_aircraft_in_the_wrong_order_are_found(flights, log):
    first = next(i for i, record in enumerate(log) if record.key is not None)
    second = next(i for i, record in enumerate(log) if record.key == log[first].key and i > first)
    log[first], log[second] = (
        log[first]._replace(value=log[second].value),
        log[second]._replace(value=log[first].value),
    )

    verdict = compare(flights, log)

    assert (verdict.is_good, verdict.out_of_order, verdict.lost, verdict.twice) == (False, 1, 0, 0)


def test_a_changed_value_and_a_changed_key_are_found(flights, log):
    log[0] = log[0]._replace(value=log[0].value.replace(b'"distance":"', b'"distance":"9'))
    log[1] = log[1]._replace(key=b"another")

    assert compare(flights, log).changed == 2


def test_a_gap_in_the_offsets_is_found(flights, log):
    log[-1] = log[-1]._replace(offset=log[-1].offset + 1)

    assert compare(flights, log).gaps == 1
