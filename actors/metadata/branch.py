"""The supervision tree of the metadata process: one server over one file."""

from __future__ import annotations

from collections.abc import Callable

from ...config import ProcessOptions
from ...storage.metadata_store import DocumentStore, SqliteStore
from ..context import Context
from ..inspect import Inspection
from ..restarts import Strategy
from ..specs import ChildSpec, SupervisorSpec
from ..supervisor import supervisor
from .joining import Wish
from .server import MetadataServer

FILE_NAME = "metadata.db"


def metadata_branch(
    options: ProcessOptions, context: Context, open_store: Callable[[], DocumentStore] | None = None
) -> ChildSpec:
    """Return the tree: a server whose failure opens the store anew; past its limit the process ends.

    Args:
        open_store: makes another store than the SQLite file in the data directory (a simulated one).
    """
    config = options.cluster
    directory = f"{config.data_dir}/{options.name}"

    def open_file() -> DocumentStore:
        context.files.make_dir(directory)
        return SqliteStore(f"{directory}/{FILE_NAME}")

    server = ChildSpec(
        name="server",
        start=MetadataServer.starter(
            open_store=open_store or open_file,
            binds=[bind.strip() for bind in options.metadata_endpoint.split(",")],
            incarnation=options.incarnation,
            cluster_id=options.cluster_id,
            settings=config.broker,
            limits=config.limits,
            insecure=config.insecure,
            own_host=Wish(options.host_name, options.cluster_id, config.brokers, 1) if options.cluster_id else None,
            inspection=Inspection(context, options.name),
        ),
    )
    tree = SupervisorSpec(strategy=Strategy.ONE_FOR_ALL, intensity=3, period_ms=5_000, children=(server,))
    return supervisor(options.name, tree)
