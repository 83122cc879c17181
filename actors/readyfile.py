"""The ready file: what a program needs to use a cluster that it has started. JSON, replaced atomically.

``{"pid", "cluster_id", "data_dir", "bootstrap_servers": ["127.0.0.1:9192", …],
"brokers": [{"id", "pid", "endpoint", "endpoints"}, …], "metadata": {"pid"}}``; a broker that is away has pid 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .processes import ProcessPlan


def ready_document(*, pid: int, cluster_id: str, data_dir: str, plans: Sequence[ProcessPlan]) -> Mapping[str, Any]:
    """Return what the ready file says now."""
    brokers = [plan for plan in plans if plan.broker_id >= 0]
    return {
        "pid": pid,
        "cluster_id": cluster_id,
        "data_dir": data_dir,
        "bootstrap_servers": [server for plan in brokers if (server := host_and_port(plan.endpoints))],
        "brokers": [
            {
                "id": plan.broker_id,
                "pid": plan.pid if plan.is_ready else 0,
                "endpoint": host_and_port(plan.endpoints),
                "endpoints": list(plan.endpoints),
            }
            for plan in brokers
        ],
        "metadata": {"pid": next((plan.pid for plan in plans if plan.broker_id < 0), 0)},
    }


def host_and_port(endpoints: Sequence[str]) -> str:
    """Return ``HOST:PORT`` of the first tcp endpoint, "" when there is none."""
    return next((one.removeprefix("tcp://") for one in endpoints if one.startswith("tcp://")), "")
