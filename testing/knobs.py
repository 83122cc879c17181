"""What a seed chooses of a run that is no fault: how the cluster, the topic and the clients are set."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ..client.config import ConsumerConfig, ProducerConfig
from ..config import BrokerSettings, ClusterConfig
from .profiles import Profile

KIB = 1 << 10


class Knobs:
    """Each call draws from ``chance``, so the order of the calls is part of a run."""

    def __init__(self, profile: Profile, chance: random.Random, endpoint_of: Callable[[int], str]) -> None:
        """``endpoint_of``: of the broker with that number; not asked before clients are."""
        self._profile, self._chance, self._endpoint_of = profile, chance, endpoint_of

    def cluster(self) -> ClusterConfig:
        chance = self._chance
        settings: dict[str, Any] = {
            "checkpoint_ms": chance.choice((50, 500, 5_000)),
            "retention_check_ms": chance.choice((100, 60_000)),
            "storage_min_free_bytes": 0,
            "offsets_topic_ahead_ms": 0,  # where there are groups they ask
            **self._profile.settings,
        }
        return ClusterConfig(brokers=self._profile.brokers, data_dir="/data", broker=BrokerSettings(**settings))

    def topic(self) -> dict[str, Any]:
        chance = self._chance
        configs: dict[str, Any] = {
            "flush": self._profile.flush,
            "segment_bytes": chance.choice((KIB, 4 * KIB, 1 << 20)),
            "segment_ms": chance.choice((100, 1_000, 3_600_000)),
            "index_interval_bytes": chance.choice((0, 256, 4 * KIB)),
        }
        if self._profile.min_insync_replicas:
            configs["min_insync_replicas"] = self._profile.min_insync_replicas
        return configs

    def client(self) -> dict[str, Any]:
        """What all clients have in common; draws nothing."""
        return {
            "bootstrap_servers": [self._endpoint_of(one + 1) for one in range(self._profile.brokers)],
            "request_timeout_ms": 1_000,
            "retry_backoff_ms": 20,
            "retry_backoff_max_ms": 200,
        }

    def producer(self) -> ProducerConfig:
        chance = self._chance
        return ProducerConfig(
            batch_size=chance.choice((60, 300, 10_000)),
            linger_ms=chance.choice((0, 0, 5)),
            delivery_timeout_ms=chance.choice((1_500, 4_000, 20_000)),
            timeout_ms=chance.choice((300, 1_000)),
            max_in_flight_requests_per_connection=chance.choice((1, 2, 5)),
            **self.client(),
        )

    def consumer(self) -> ConsumerConfig:
        chance = self._chance
        return ConsumerConfig(
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=chance.choice((64, 500, 1 << 20)),
            fetch_max_bytes=chance.choice((KIB, 1 << 20)),
            **self.client(),
        )
