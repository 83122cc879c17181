"""A real cluster for a figure, and fresh topics in it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from callboard import AdminClient
from callboard.testing.clusters import RunningCluster, cluster
from callboard.transport import codec
from callboard.transport import messages as m

from .feeder import Feeder

_numbers = itertools.count(1)


class Bench:
    """One running cluster and its administrator."""

    def __init__(self, running: RunningCluster, admin: AdminClient) -> None:
        self.running = running
        self.admin = admin
        self.servers = running.bootstrap_servers

    @contextmanager
    def topic(self, partitions: int = 1, *, replication_factor: int = 1, **configs: Any) -> Iterator[m.TopicMetadata]:
        """A topic of its own, with fresh files; deleted afterwards."""
        name = f"bench-{next(_numbers)}"
        new = {"num_partitions": partitions, "replication_factor": replication_factor, "configs": configs}
        self.admin.create_topics({name: new})
        try:
            yield self.admin.describe_topics([name])[0]
        finally:
            self.admin.delete_topics([name])

    def endpoint(self, broker_id: int = 1) -> str:
        """Where a broker is reached by ipc (tcp when it has no socket file)."""
        feeder = Feeder(f"tcp://{self.servers[0]}")
        feeder.hello()
        reply = codec.decode_reply(feeder.ask([codec.encode(m.MetadataRequest(id=2, topics=[]))])[0])
        feeder.close()
        brokers = reply.brokers if isinstance(reply, m.MetadataReply) else []
        endpoints = next(broker.endpoints for broker in brokers if broker.id == broker_id)
        return next((each for each in endpoints if each.startswith("ipc:")), endpoints[0])


@contextmanager
def bench(directory: str | None, brokers: int = 1) -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory(prefix="callboard-bench-", dir=directory) as path,
        cluster(brokers, directory=path) as running,
        AdminClient(bootstrap_servers=running.bootstrap_servers) as admin,
    ):
        yield Bench(running, admin)
