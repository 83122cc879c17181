"""The commands of ``callboard topics`` that list something."""

from __future__ import annotations

from typing import Any

import click

from ..transport.messages import ReplicaDescription, TopicMetadata
from . import human
from .commands import Command
from .connect import Clients
from .options import bootstrap_option, json_option, timeout_option
from .output import print_json, print_table

COLUMNS = (
    *("partition", "leader", "epoch", "replicas", "in sync", "first", "next", "high watermark", "durable"),
    *("size", "segments", "lag", "eligible"),
)

Replicas = dict[tuple[str, int, int], ReplicaDescription]  # by topic id, partition, broker


@click.command("list", cls=Command, short_help="List the topics.")
@click.option("--internal", is_flag=True, help="Those too that Callboard keeps for itself.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def list_(clients: Clients, internal: bool, bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """List the topics: partitions, replicas, partitions without a leader."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = [topic for topic in admin.describe_topics() if internal or not topic.is_internal]
    rows: list[dict[str, Any]] = [
        {
            "name": topic.name,
            "topic_id": topic.topic_id,
            "partitions": len(topic.partitions),
            "replication_factor": max((len(each.replicas) for each in topic.partitions), default=0),
            "without_leader": sum(each.leader < 0 for each in topic.partitions),
            "configs": topic.configs,
        }
        for topic in found
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("topic", "partitions", "replicas", "without leader", "settings"),
        [
            (
                row["name"],
                row["partitions"],
                row["replication_factor"],
                row["without_leader"],
                _settings(row["configs"]),
            )
            for row in rows
        ],
        right=("partitions", "replicas", "without leader"),
    )


@click.command(cls=Command, short_help="Show partitions, leaders, offsets and settings of topics.")
@click.argument("names", metavar="[TOPIC…]", nargs=-1)
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def describe(clients: Clients, names: tuple[str, ...], bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """Show each TOPIC, or all: its settings, and of each partition leader, replicas, offsets and size.

    "next" is the log end offset of the leader, "durable" what of it survives power loss there. "lag" tells of each
    follower how many records it is behind; "?" of one that has not fetched from this leader yet. "eligible" are
    replicas that are not in sync, but hold all that is committed.
    """
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = admin.describe_topics(list(names) or None)
        settings = admin.describe_configs([topic.name for topic in found]) if found else {}
        hosted = admin.describe_replicas([topic.name for topic in found]) if found else {}
    replicas = {(each.topic_id, each.partition, broker): each for broker, some in hosted.items() for each in some}
    if as_json:
        print_json([_document(topic, settings[topic.name], replicas) for topic in found])
        return
    for number, topic in enumerate(found):
        if number:
            click.echo()
        _print(topic, replicas)


def _document(topic: TopicMetadata, settings: dict[str, Any], replicas: Replicas) -> dict[str, Any]:
    return {
        "name": topic.name,
        "topic_id": topic.topic_id,
        "is_internal": topic.is_internal,
        "configs": settings,
        "configs_changed": sorted(topic.configs),
        "partitions": [
            {
                "partition": each.partition,
                "leader": each.leader,
                "leader_epoch": each.leader_epoch,
                "replicas": each.replicas,
                "isr": each.isr,
                "elr": each.elr,
                "offline_replicas": each.offline_replicas,
                "hosted": {
                    str(broker): _replica(replica)
                    for broker in each.replicas
                    if (replica := replicas.get((topic.topic_id, each.partition, broker))) is not None
                },
            }
            for each in topic.partitions
        ],
    }


def _replica(replica: ReplicaDescription) -> dict[str, Any]:
    fields: tuple[str, ...] = (
        "role",
        "leader_epoch",
        "log_start_offset",
        "log_end_offset",
        "high_watermark",
        "durable_offset",
    )
    fields += ("size_bytes", "segments", "producers", "directory", "isr", "followers")
    return {name: getattr(replica, name) for name in fields}


def _print(topic: TopicMetadata, replicas: Replicas) -> None:
    click.echo(f"{topic.name}  id {topic.topic_id}  {human.count(len(topic.partitions), 'partition')}")
    if topic.configs:
        click.echo(f"settings: {_settings(topic.configs)}")
    print_table(
        COLUMNS,
        [
            (
                each.partition,
                each.leader if each.leader >= 0 else "none",
                each.leader_epoch,
                _ids(each.replicas),
                _ids(each.isr),
                *_figures(replicas.get((topic.topic_id, each.partition, each.leader))),
                _ids(each.elr),
            )
            for each in topic.partitions
        ],
        right=("partition", "epoch", "first", "next", "high watermark", "durable", "size", "segments"),
    )


def _figures(leader: ReplicaDescription | None) -> tuple[object, ...]:
    if leader is None:
        return ("?",) * 7
    offsets = (leader.log_start_offset, leader.log_end_offset, leader.high_watermark, leader.durable_offset)
    lags = (f"{one.broker_id}:{one.lag if one.lag >= 0 else '?'}" for one in leader.followers)
    return (*offsets, human.size(leader.size_bytes), leader.segments, " ".join(lags) or "none")


def _ids(brokers: list[int]) -> str:
    return ",".join(map(str, brokers)) or "none"


def _settings(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(settings.items()))
