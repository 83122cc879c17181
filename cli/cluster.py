"""``callboard cluster``: the same as the ready file says, from outside, with what the machine says of each process."""

from __future__ import annotations

from typing import Any

import click

from ..transport.messages import DescribeClusterReply, LogDirectoryDescription, ProcessDescription
from . import human
from .commands import Command, Entry, LazyGroup
from .connect import Clients
from .options import bootstrap_option, json_option, timeout_option
from .output import print_json, print_table

cluster = LazyGroup(
    name="cluster",
    help="Describe brokers, processes and clients.",
    entries={
        "describe": Entry("cluster", "describe", "Show brokers, controller, and each process's figures."),
        "clients": Entry("cluster", "connected", "Show who is connected to which broker."),
    },
)


@click.command(cls=Command, short_help="Show brokers, controller, and each process's figures.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def describe(clients: Clients, bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """Show brokers and endpoints, who the controller is, and CPU, memory, disk and uptime of each process."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        reply = admin.describe_cluster()
        processes = admin.describe_processes()
        directories = admin.describe_log_dirs()
    if as_json:
        print_json(_document(reply, processes, directories))
        return
    click.echo(
        f"cluster {reply.cluster_id}  controller {_name(reply.controller_id)} (epoch {reply.controller_epoch})"
        f"  metadata version {reply.version}"
    )
    print_table(
        ("process", "state", "pid", "endpoints", "up", "CPU", "memory", "disk", "disk free", "restarts"),
        [
            (
                process.name,
                process.state,
                process.pid or "–",
                " ".join(map(_endpoint, process.endpoints)),
                human.duration(process.uptime_ms),
                f"{process.cpu_percent:.0f} %",
                human.size(process.memory_bytes),
                human.size(process.disk_bytes),
                human.size(process.disk_free_bytes),
                process.restarts,
            )
            for process in processes
        ],
        right=("pid", "CPU", "memory", "disk", "disk free", "restarts"),
    )
    click.echo()
    print_table(
        ("broker", "directory", "state", "replicas", "free", "why"),
        [
            (
                broker,
                directory.path,
                directory.state,
                directory.replicas,
                human.size(directory.free_bytes) if directory.free_bytes >= 0 else "?",
                directory.reason,
            )
            for broker, some in directories.items()
            for directory in some
        ],
        right=("broker", "replicas", "free"),
    )


@click.command("clients", cls=Command, short_help="Show who is connected to which broker.")
@bootstrap_option
@timeout_option
@json_option
@click.pass_obj
def connected(clients: Clients, bootstrap_servers: str, timeout_ms: int, as_json: bool) -> None:
    """Show every connection of a client to a broker: its client id, for how long, what has gone over it."""
    with clients.admin(bootstrap_servers, timeout_ms) as admin:
        found = admin.describe_clients()
    if as_json:
        print_json(found)
        return
    print_table(
        ("client id", "software", "broker", "for", "requests", "received", "sent", "dropped"),
        [
            (
                client.client_id,
                client.software,
                client.broker_id,
                human.duration(client.connected_ms),
                client.requests,
                human.size(client.bytes_in),
                human.size(client.bytes_out),
                client.dropped,
            )
            for client in found
        ],
        right=("broker", "requests", "received", "sent", "dropped"),
    )


def _document(
    reply: DescribeClusterReply,
    processes: list[ProcessDescription],
    directories: dict[int, list[LogDirectoryDescription]],
) -> dict[str, Any]:
    return {
        "cluster_id": reply.cluster_id,
        "metadata_version": reply.version,
        "controller_id": reply.controller_id,
        "controller_epoch": reply.controller_epoch,
        "brokers": reply.brokers,
        "hosts": reply.hosts,
        "processes": processes,
        "log_directories": {str(broker): some for broker, some in directories.items()},
    }


def _name(broker_id: int) -> str:
    return f"broker-{broker_id}" if broker_id >= 0 else "none"


def _endpoint(endpoint: str) -> str:
    """Return what one would give to --bootstrap-servers; sockets of this host by their file's name alone."""
    scheme, _, rest = endpoint.partition("://")
    return rest if scheme == "tcp" else f"{scheme}:{rest.rpartition('/')[2]}"
