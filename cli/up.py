"""``callboard up``: a cluster in the foreground. Settings come from the file, then from the options given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..config import ClusterConfig, configure, load_toml
from ..errors import BrokerResponseError, CallboardError, ConnectionFailedError
from .commands import Command
from .exits import CommandFailed, ExitStatus, one_line


@click.command(
    cls=Command,
    short_help="Run a cluster in the foreground.",
    epilog="Ctrl-C or SIGTERM stops the cluster cleanly: everything acknowledged stays. Each option can stand in the"
    " configuration file too (docs/operations.md); an option given here wins.",
)
@click.option("--brokers", type=int, help="Broker processes, 1 to 64.  [default: 3]")
@click.option(
    "--data-dir",
    "data_dirs",
    metavar="DIR",
    multiple=True,
    help="Where everything is kept; each further one holds logs, too.  [default: callboard-data]",
)
@click.option("--host", metavar="ADDRESS", help="Where the brokers listen.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Broker i listens on PORT + i - 1; 0: any free ports.  [default: 9192]")
@click.option("--config", "config_file", metavar="FILE.toml", help="Settings of the cluster.")
@click.option("--join", metavar="ENDPOINT", help="Add this host's brokers to the cluster there: tcp://HOST:PORT.")
@click.option("--metadata-listen", metavar="ENDPOINT", help="Let other hosts join here: tcp://HOST:PORT.")
@click.option("--advertise", metavar="HOST[:PORT]", help="Where others reach this host.  [default: --host]")
@click.option("--advertise-peers", metavar="HOST[:PORT]", help="Where other brokers do.  [default: as --advertise]")
@click.option("--peer-port", type=int, help="Broker i listens for brokers on PORT + i - 1.  [default: 0, any free]")
@click.option(
    "--host-name", metavar="NAME", help="Of this host in the cluster.  [default: host; joined: the machine's]"
)
@click.option(
    "--first-broker-id", type=int, help="With --join: its brokers' ids from here on.  [default: the next free]"
)
@click.option("--ready-file", metavar="PATH", help="Write a JSON file, atomically, when the cluster serves.")
@click.option("--experiments", is_flag=True, help="Allow `callboard pause`, hang, slow, cut and delay; see the docs.")
@click.option("--insecure", is_flag=True, help="Allow a host that is not loopback: there is no encryption yet.")
def up(
    config_file: str | None,
    ready_file: str | None,
    insecure: bool,
    experiments: bool,
    data_dirs: tuple[str, ...],
    **options: Any,
) -> int:
    """Run a cluster: a metadata process and the brokers, supervised by this process.

    With --join, only brokers: they become part of the cluster whose first host listens there.
    """
    options["insecure"] = True if insecure else None
    options["experiments"] = True if experiments else None
    if data_dirs:
        options["data_dir"], options["data_dirs"] = data_dirs[0], data_dirs[1:]
    config = cluster_config(config_file, options)
    from ..actors.host import run_host

    try:
        return run_host(config, ready_file=ready_file, announce=click.echo)
    except (BrokerResponseError, ConnectionFailedError):
        raise  # the cluster that it should join refused, or does not answer: as with any other command
    except (CallboardError, OSError) as error:
        raise CommandFailed(one_line(error), ExitStatus.ENVIRONMENT) from error


def cluster_config(config_file: str | None, options: dict[str, Any]) -> ClusterConfig:
    """Return the configuration that a file and options make together; an option that is None was not given.

    Relative directories in the file are relative to the file, not to where the command is given.

    Raises:
        ConfigurationError: a setting is unknown or unusable; the message says whether file or option.
    """
    values: dict[str, Any] = {}
    if config_file is not None:
        values = load_toml(config_file)
        configure(ClusterConfig, values, config_file)
        if "data_dir" in values:
            values["data_dir"] = str(Path(config_file).parent / values["data_dir"])
        if "data_dirs" in values:
            values["data_dirs"] = [str(Path(config_file).parent / each) for each in values["data_dirs"]]
    given = {name: value for name, value in options.items() if value is not None}
    return configure(ClusterConfig, {**values, **given}, "up")
