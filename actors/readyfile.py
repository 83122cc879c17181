"""The ready file: what a program needs to use a cluster that it has started. JSON, replaced atomically.

``{"pid", "cluster_id", "data_dir", "bootstrap_servers": ["127.0.0.1:9192", …],
"brokers": [{"id", "pid", "endpoint", "endpoints"}, …], "metadata": {"pid"}, "host", "join"}``; a broker that is away
has pid 0. Endpoints are as others are told; ``join`` is what other hosts give to ``--join``, "" where none can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import ClusterConfig
from .advertising import advertised, for_clients, where_to_join
from .processes import ProcessPlan


def ready_document(
    *, pid: int, cluster_id: str, data_dir: str, plans: Sequence[ProcessPlan], config: ClusterConfig | None = None
) -> Mapping[str, Any]:
    """Return what the ready file says now."""
    config = config or ClusterConfig()
    brokers = [plan for plan in plans if plan.broker_id >= 0]
    told = {plan.name: told_endpoints(plan, config) for plan in plans}
    return {
        "pid": pid,
        "cluster_id": cluster_id,
        "data_dir": data_dir,
        "bootstrap_servers": [server for plan in brokers if (server := host_and_port(told[plan.name]))],
        "brokers": [
            {
                "id": plan.broker_id,
                "pid": plan.pid if plan.is_ready else 0,
                "endpoint": host_and_port(told[plan.name]),
                "endpoints": list(told[plan.name]),
            }
            for plan in brokers
        ],
        "metadata": {"pid": next((plan.pid for plan in plans if plan.broker_id < 0), 0)},
        "host": config.host_name,
        "join": config.join or join_address(plans, config),
    }


def told_endpoints(plan: ProcessPlan, config: ClusterConfig) -> tuple[str, ...]:
    """Return a process's endpoints as others are told."""
    if plan.broker_id >= 0:
        return advertised(plan.endpoints, for_clients(config), plan.number)
    return (*(one for one in plan.endpoints if not one.startswith("tcp://")), *filter(None, [_join_of(plan, config)]))


def join_address(plans: Sequence[ProcessPlan], config: ClusterConfig) -> str:
    """Return what to give to ``--join`` on other hosts; "": nobody can join."""
    return next((_join_of(plan, config) for plan in plans if plan.broker_id < 0), "")


def _join_of(plan: ProcessPlan, config: ClusterConfig) -> str:
    return where_to_join(plan.endpoints, config)


def host_and_port(endpoints: Sequence[str]) -> str:
    """Return ``HOST:PORT`` of the first tcp endpoint, "" when there is none."""
    return next((one.removeprefix("tcp://") for one in endpoints if one.startswith("tcp://")), "")
