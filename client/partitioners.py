"""Which partition a record goes to.

Rules: a partition named by the caller wins. A key decides by its hash modulo the number of partitions, so equal
keys go to one partition for as long as that number stays (docs: what adding partitions does to keys). A record
without a key may go anywhere: the built-in partitioners leave that to the producer, which stays with one
partition until a batch is full and then takes the next (sticky), or takes them in turn (round robin).

The default hash is CRC-32 (librdkafka's, 50 ns); ``"murmur2"`` is Java's and kafka-python's, by name: choose it when
other clients write the same topics.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..config import nearest
from ..errors import ConfigurationError


class Partitioner(Protocol):
    """Chooses partitions. Must be thread-safe and quick; must not block."""

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        """Return a partition, ``0 <= it < partitions``; None: the producer chooses (sticky).

        ``key`` and ``value`` are serialized. ``available``: those with a leader just now (all of them when unknown).
        """


class Crc32Partitioner:
    """CRC-32 of the key modulo partitions; without a key: sticky. The default."""

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        return None if key is None else zlib.crc32(key) % partitions


class Murmur2Partitioner:
    """Java's and kafka-python's hash; without a key: sticky."""

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        return None if key is None else (murmur2(key) & 0x7FFFFFFF) % partitions


class RoundRobinPartitioner:
    """One after the other, whatever the key."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}  # by topic; a race of two threads costs evenness, nothing else

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        turn = self._next.get(topic, 0)
        self._next[topic] = turn + 1
        return available[turn % len(available)] if available else turn % partitions


BY_NAME: dict[str, Callable[[], Partitioner]] = {
    "crc32": Crc32Partitioner,
    "murmur2": Murmur2Partitioner,
    "round_robin": RoundRobinPartitioner,
}


class _Function:
    """A plain function of the application, ``(key, all_partitions, available) -> partition`` as in kafka-python."""

    def __init__(self, function: Callable[[bytes | None, Sequence[int], Sequence[int]], int]) -> None:
        self._function = function

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        return self._function(key, range(partitions), available)


def make_partitioner(given: Any) -> Partitioner:
    """Return the partitioner for a name, an object with ``.partition(…)`` or a callable.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(given, str):
        if given not in BY_NAME:
            names = list(BY_NAME)
            raise ConfigurationError(
                f"producer: there is no partitioner {given!r}{nearest(given, names)}; there are {', '.join(names)}"
            )
        return BY_NAME[given]()
    if isinstance(given, type):
        raise ConfigurationError(f"producer: partitioner: expected an object, got the class {given.__name__}; call it")
    if callable(getattr(given, "partition", None)):
        return given  # type: ignore[no-any-return]
    if callable(given):
        return _Function(given)
    kind = type(given).__name__
    raise ConfigurationError(
        f"producer: partitioner: expected a name, an object with .partition(…), or a callable; got {kind}"
    )


def murmur2(data: bytes) -> int:
    """Return MurmurHash2 of ``data`` with Kafka's seed, as an unsigned 32-bit number."""
    length, mask, m = len(data), 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
