"""What tests of Callboard, and of programs that use it, need: real clusters, deterministic loops, faulty disks.

    with callboard.testing.cluster(brokers=3) as cluster: …

Each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clusters import ClusterDidNotStart as ClusterDidNotStart
    from .clusters import RunningCluster as RunningCluster
    from .clusters import cluster as cluster

__all__ = ["ClusterDidNotStart", "RunningCluster", "cluster"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import clusters

    return getattr(clusters, name)
