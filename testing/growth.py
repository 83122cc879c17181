"""Topics grow while groups read them: partitions are added to the topic of a run, and another topic is made.

Asked for as a person would: of every broker, again and again, until it is there, whatever goes wrong meanwhile. What is
there is what the metadata store holds. Then somebody sends to it, and who is subscribed must read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..model import TopicPartition
from ..transport.messages import CreatePartitionsRequest, CreateTopicsRequest, NewPartitions, NewTopic, Request
from .loop import SimLoop

AGAIN_MS = 150.0  # between requests
LATER_TOPIC = "orders-later"  # what is made; ``PATTERN`` matches it and the topic of a run
PATTERN = r"orders(-.*)?"
LATER_PARTITIONS = 2


class Growth:
    """What comes of the topics of one run. Every change: a name, and how many partitions it has then."""

    def __init__(
        self,
        seed: str,
        loop: SimLoop,
        ask: Callable[[Request], None],
        counts: Callable[[], Mapping[str, int]],
        on_grown: Callable[[Sequence[TopicPartition]], None],
    ) -> None:
        """``ask`` the brokers; ``counts``: partitions of topics, as they are stored; ``on_grown``: these are there."""
        self._loop, self._ask, self._counts, self._on_grown = loop, ask, counts, on_grown
        self._chance = random.Random(f"growth/{seed}")
        self._waited_for: dict[str, int] = {}  # asked for, not there yet

    def begin(self, topic: NewTopic, added: int, span_ms: float) -> None:
        """Within ``span_ms`` add so many partitions to the topic, and make another one like it."""
        later = NewTopic(
            name=LATER_TOPIC,
            num_partitions=LATER_PARTITIONS,
            replication_factor=topic.replication_factor,
            configs=topic.configs,
        )
        count = topic.num_partitions + added
        grow = CreatePartitionsRequest(topics=[NewPartitions(name=topic.name, count=count)])
        for request, name, wanted in (
            (grow, topic.name, count),
            (CreateTopicsRequest(topics=[later]), LATER_TOPIC, LATER_PARTITIONS),
        ):
            self._waited_for[name] = wanted
            self._loop.call_later(span_ms * self._chance.uniform(0.2, 0.8) / 1000, self._want, request, name, wanted, 0)

    @property
    def missing(self) -> str:
        """What is not there yet; "": nothing."""
        return ", ".join(f"{name} with {count} partitions" for name, count in self._waited_for.items())

    def _want(self, request: Any, name: str, count: int, before: int) -> None:
        known = self._counts().get(name, 0)
        before = before or known or -1  # -1: there was no such topic
        if known < count:
            self._ask(request)
            self._loop.call_later(AGAIN_MS / 1000, self._want, request, name, count, before)
            return
        del self._waited_for[name]
        self._on_grown([TopicPartition(name, number) for number in range(max(0, before), count)])
