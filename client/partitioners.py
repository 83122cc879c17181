"""Which partition a record goes to.

Rules: a partition named by the caller wins. A key decides by its hash modulo the number of partitions, so equal
keys go to one partition for as long as that number stays (docs: what adding partitions does to keys). A record
without a key may go anywhere: the built-in partitioners leave that to the producer, which stays with one
partition until a batch is full and then takes the next (sticky), or takes them in turn (round robin).

The default hash is CRC-32 (librdkafka's, 50 ns); ``"murmur2"`` is Java's and kafka-python's, by name: choose it when
other clients write the same topics.

Partitioners of one's own are asked with what stands in ``Partitioner``. Those written for kafka-python 3 (an object
whose ``.partition`` takes six arguments) and for its older releases (a function of three) are asked as there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

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


class Unserialized(NamedTuple):
    """Key and value as the application gave them to ``send``: what partitioners in kafka-python's manner see, too."""

    key: Any
    value: Any


class KafkaPythonPartitioner:
    """An object in kafka-python's manner: ``.partition(topic, key, serialized_key, value, serialized_value, cluster)``.

    ``cluster`` knows the topic's partitions, and nothing else. The hook ``on_new_batch`` is not called: None for a
    record without a key leaves it to the producer, which stays with one partition until a batch is full.
    """

    def __init__(self, given: Any) -> None:
        self._partition = given.partition

    def partition(
        self, topic: str, key: bytes | None, value: bytes | None, partitions: int, available: Sequence[int]
    ) -> int | None:
        """Choose for records of ``send_batch``, whose columns are kept as bytes only."""
        return self.partition_of(Unserialized(key, value), topic, key, value, partitions, available)

    def partition_of(
        self,
        given: Unserialized,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partitions: int,
        available: Sequence[int],
    ) -> int | None:
        view = ClusterView(topic, partitions, available)
        return self._partition(topic, given.key, key, given.value, value, view)  # type: ignore[no-any-return] # theirs


class ClusterView:
    """What a partitioner in kafka-python's manner may ask of the cluster: about the record's own topic."""

    def __init__(self, topic: str, partitions: int, available: Sequence[int]) -> None:
        self._topic, self._partitions, self._available = topic, partitions, available

    def topics(self) -> set[str]:
        return {self._topic}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._partitions)) if topic == self._topic else None

    def available_partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(self._available) if topic == self._topic else None


def make_partitioner(given: Any) -> Partitioner:
    """Return the partitioner for a name, an object with ``.partition(…)`` (ours or kafka-python's) or a callable.

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
        if _takes(given.partition, 5):
            return given  # type: ignore[no-any-return]
        if _takes(given.partition, 6):
            return KafkaPythonPartitioner(given)
        raise ConfigurationError(
            f"producer: partitioner: {type(given).__name__}.partition must take (topic, key, value, partitions, "
            "available), or as in kafka-python (topic, key, serialized_key, value, serialized_value, cluster)"
        )
    if callable(given):
        return _Function(given)
    kind = type(given).__name__
    raise ConfigurationError(
        f"producer: partitioner: expected a name, an object with .partition(…), or a callable; got {kind}"
    )


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Say whether a function can be called with so many arguments by position."""
    import inspect  # 5 ms, for who has a partitioner of his own

    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # written in C and says nothing of its arguments: ours is assumed
        return count == 5
    return True


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
