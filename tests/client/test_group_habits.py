"""What people write who know another client, and what they leave out: each call does what its words say."""

from __future__ import annotations

from test_consumer import fill, read
from test_groups import T0, member  # noqa: F401  (a fixture)


def test_a_consumer_that_reads_nothing_is_told_what_its_group_has_committed(cluster, member):  # noqa: F811
    cluster.create("t")
    fill(cluster, 3)
    first = member("t")
    read(first, 3)
    first.close()

    assert member().committed(T0, timeout_ms=5_000) == 3
