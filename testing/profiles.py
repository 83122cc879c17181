"""What kinds of cluster, load and faults the simulation runs: profiles, by name.

A profile says what *may* be; the seed chooses what is. ``default`` has every kind of fault that comes at a random time;
the others have fewer, so that each is met more often and beside few others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .nemesis import CHASES, CLOCK_LEAP, KINDS, LOSSY, UNCLEAN

ORDERED_ERRORS = (  # a kind of fault, and what an error says that comes of it
    ("store-refuses", "simulated: the write failed"),
    ("store-forgets", "simulated: the write failed"),
    ("full-disk", "log.full"),
    ("full-disk", "No space left on device"),
    ("sync-error", "Input/output error"),
    ("sync-error", "directory.offline"),
    ("sync-error", "partition.offline"),
    ("slow-disk", "disk.slow"),
    ("elect-unclean", "leader.elected_unclean"),
    ("chase-controller", "disk.slow"),
    ("pause", "disk.slow"),  # a sync that was under way meanwhile
)


@dataclass(frozen=True)
class Profile:
    """What kind of cluster, load and faults. ``name`` and a seed make a run."""

    name: str = "default"
    brokers: int = 3
    partitions: int = 2
    replication_factor: int = 3
    min_insync_replicas: int = 0  # 0: as the cluster chooses
    flush: str = "ack"
    producers: int = 2
    consumers: int = 1
    members: int = 0  # of a consumer group, at most at once
    members_beside: int = 0  # of a second one
    static_share: float = 0.0  # of members: come back under the same group_instance_id
    pattern_share: float = 0.0  # of groups: subscribed to a pattern
    added_partitions: int = 0  # to the topic, while it is used; then another topic is made as well (``growth.py``)
    safety_ms: float = 2_000.0
    kinds: dict[str, float] = field(default_factory=lambda: dict(KINDS))
    offsets_configs: Mapping[str, Any] = field(default_factory=dict)  # of __consumer_offsets, instead of the usual ones
    settings: Mapping[str, Any] = field(default_factory=dict)  # of brokers, for all seeds; the seed chooses others
    clock_rates: tuple[float, ...] = (1.0,)  # one of them is each process's


QUICK: dict[str, Any] = {"replica_lag_ms": 400, "leader_rebalance_ms": 700}  # more happens in a run's few seconds
CHASING = CHASES | {name: KINDS[name] for name in ("kill", "power", "pause", "cut-one-way", "clog")}
REBOOTS = {name: KINDS[name] for name in ("kill", "power", "power-all", "pause", "fail-actor", "cut")} | {
    name: CHASES[name] for name in ("chase-leader", "chase-joiner", "lag")
}
CLOCKS = CLOCK_LEAP | {name: KINDS[name] for name in ("clock-jump", "pause", "kill", "fail-actor")}
ORDERED = UNCLEAN | {
    "lag": 3.0,
    "kill": 3.0,
    "power": 1.0,
    "estrange": 1.0,
    "pause": 1.0,
    "chase-leader": 3.0,
}

GROUPS = {
    "kill": 3.0,
    "kill-client": 3.0,
    "pause": 4.0,
    "cut": 1.5,
    "cut-one-way": 1.0,
    "isolate": 1.0,
    "power": 1.0,
    "flaky": 1.0,
    "fail-actor": 1.5,
    "kill-metadata": 0.5,
}
KIB = 1 << 10
GROUP_SETTINGS: dict[str, Any] = {
    "group_session_timeout_ms_min": 100,
    "group_fetch_stall_ms": 2_000,  # of a member that is to be mended within the time that a run has
    "offsets_topic_partitions": 2,
}

TWO_GROUPS = Profile(
    "groups",
    partitions=3,
    producers=1,
    consumers=0,
    members=4,
    members_beside=2,
    static_share=0.3,
    kinds=GROUPS,
    safety_ms=3_000.0,
    settings={**QUICK, **GROUP_SETTINGS},
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(),
        Profile("single", replication_factor=1),
        Profile("calm", kinds={}),
        Profile("deaths", kinds={name: KINDS[name] for name in ("kill", "kill-metadata", "power", "fail-actor")}),
        Profile("links", kinds={name: KINDS[name] for name in ("cut", "cut-one-way", "isolate", "clog", "flaky")}),
        Profile("lossy", kinds=LOSSY),
        Profile("chases", kinds=CHASING, safety_ms=2_500.0, settings=QUICK),
        Profile("reboots", flush="os", kinds=REBOOTS, safety_ms=2_500.0, settings=QUICK),
        Profile("clocks", kinds=CLOCKS, clock_rates=(1.0, 0.9, 0.99, 1.01, 1.1), settings=QUICK),
        Profile("unclean", kinds=ORDERED, safety_ms=3_500.0, settings=QUICK),
        TWO_GROUPS,
        replace(
            TWO_GROUPS,
            name="growth",
            members=3,
            pattern_share=0.7,
            added_partitions=2,
            kinds={name: GROUPS[name] for name in ("kill", "kill-client", "pause", "cut", "isolate", "fail-actor")},
        ),
        Profile(
            "compaction",
            partitions=3,
            producers=1,
            consumers=0,
            members=3,
            kinds={name: GROUPS[name] for name in ("kill", "power", "kill-client", "fail-actor", "pause")},
            safety_ms=4_000.0,
            offsets_configs={"segment_bytes": KIB, "min_cleanable_dirty_ratio": 0.2},
            settings={**QUICK, **GROUP_SETTINGS, "compaction_check_ms": 100, "checkpoint_ms": 50},
        ),
        Profile("pauses", kinds={name: KINDS[name] for name in ("pause", "clock-jump", "kill")}),
    )
}


USUAL_PROFILES = tuple(name for name in PROFILES if name != "lossy")  # see LOSSY
