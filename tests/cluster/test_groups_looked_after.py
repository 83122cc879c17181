"""Who looks after groups does not notice that a coordinator ends: another one is found, and asked again."""

from __future__ import annotations

import pytest

from callboard import OffsetSpec, TopicPartition
from callboard.testing.clusters import cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

GROUPS = [f"group-{number}" for number in range(8)]


def test_every_call_about_groups_outlives_the_coordinator_that_is_killed():
    with cluster(brokers=3) as running:
        running.create_topic("orders", partitions=2, replication_factor=3)
        with running.producer() as producer:
            for partition in (0, 1):
                producer.send("orders", b"x", partition=partition).get(30)
        with running.admin(request_timeout_ms=60_000) as admin:
            first, second = (TopicPartition("orders", number) for number in (0, 1))
            for group_id in GROUPS:
                admin.alter_group_offsets(group_id, {first: 1, second: 0})
            victim = admin.describe_groups(GROUPS[:1])[GROUPS[0]].coordinator

            # It stays away, however slow the machine is: what it coordinated must have moved.
            running.kill_broker(victim, for_s=300)

            assert {lag.lag for lag in admin.group_lag(GROUPS[0]).values()} == {0, 1}
            assert [one.group_id for one in admin.list_groups()] == GROUPS
            described = admin.describe_groups(GROUPS)
            assert victim not in {group.coordinator for group in described.values()}
            moved = admin.reset_group_offsets(GROUPS[0], {first: OffsetSpec.EARLIEST})
            assert (moved[first].before, moved[first].offset) == (1, 0)
            offsets = admin.list_group_offsets(GROUPS)
            assert [{key.partition: one.offset for key, one in offsets[group_id].items()} for group_id in GROUPS] == [
                {0: 0, 1: 0},
                *[{0: 1, 1: 0}] * 7,
            ]
            assert {result.error for result in admin.delete_groups(GROUPS).values()} == {0}
            assert admin.list_groups() == []
