"""What a host tells others about where it can be reached. Pure.

What is bound and what is advertised differ where a machine has several addresses, or where something stands between
(port forwarding, a proxy): then ``advertise`` says the host, and the port if that is another one too. Unix sockets are
advertised as they are; only processes on the same machine take them (``choose_endpoint``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import ClusterConfig
from ..errors import ConfigurationError
from ..transport.addresses import Address, parse_address

EVERYWHERE = frozenset({"0.0.0.0", "::", "*"})  # binds that are no address to connect to


def advertised(endpoints: Sequence[str], wanted: str, number: int = 0) -> tuple[str, ...]:
    """Return the endpoints to tell others, for a door that is bound at ``endpoints``.

    Args:
        wanted: ``HOST`` (the port stays), ``HOST:PORT`` (that port + ``number``), or "": as bound.
        number: of the broker among those of its host, from 0.
    """
    if not wanted:
        return tuple(endpoints)
    there = parse_address(wanted, default_port=0, what="advertise")
    told = []
    for endpoint in endpoints:
        bound = parse_address(endpoint)
        port = there.port + number if there.port else bound.port
        told.append(Address("tcp", there.host, port).endpoint if bound.scheme == "tcp" else endpoint)
    return tuple(told)


def for_clients(config: ClusterConfig) -> str:
    return config.advertise


def for_peers(config: ClusterConfig) -> str:
    """Return what brokers are told: the peers' door has ports of its own, so only the host is taken over."""
    return config.advertise_peers or _host_of(config.advertise)


def for_desk(config: ClusterConfig) -> str:
    return config.advertise_desk or _host_of(config.advertise)


def where_to_join(endpoints: Sequence[str], config: ClusterConfig) -> str:
    """Return what to give to ``--join`` on other hosts; "": the metadata process listens for this host only."""
    told = advertised(endpoints, _host_of(config.advertise))
    return next((endpoint for endpoint in told if endpoint.startswith("tcp://")), "")


def check(config: ClusterConfig) -> None:
    """Refuse what nobody could connect to, before anything is started.

    Raises:
        ConfigurationError: the message says which setting, and what to give.
    """
    for name in ("advertise", "advertise_peers", "advertise_desk"):
        wanted = getattr(config, name)
        if not wanted:
            continue
        there = parse_address(wanted, default_port=0, what=name)
        if there.scheme != "tcp" or there.host in EVERYWHERE:
            raise ConfigurationError(f"{name} {wanted!r}: name one address, or HOST:PORT, that others connect to")
        if there.port and there.port + config.brokers - 1 > 65_535:
            raise ConfigurationError(f"{name} {wanted!r}: {config.brokers} brokers would need ports above 65535")
    if config.first_broker_id and not config.join:
        raise ConfigurationError("first_broker_id is for a host that joins another: give --join, or leave it out")
    bound = parse_address(config.host, default_port=0, what="host")
    if bound.is_numeric and not bound.is_loopback and not config.insecure:  # of a name the door finds out
        raise ConfigurationError(
            f"host {config.host} can be reached from other machines and nothing is encrypted: "
            "bind 127.0.0.1, or say --insecure if the network is trusted"
        )
    if config.host in EVERYWHERE and config.insecure and not config.advertise:
        raise ConfigurationError(
            f"host {config.host} is every address of this machine: say with --advertise by which one others reach it"
        )
    if config.metadata_listen and parse_address(config.metadata_listen, default_port=0, what="metadata_listen").path:
        raise ConfigurationError(f"metadata_listen {config.metadata_listen!r}: use tcp://HOST:PORT")
    if config.join and parse_address(config.join, default_port=0, what="join").port == 0:
        raise ConfigurationError(
            f"join {config.join!r}: use tcp://HOST:PORT, as the first host's `ready` line tells it"
        )


def _host_of(wanted: str) -> str:
    return parse_address(wanted, default_port=0, what="advertise")._replace(port=0).host if wanted else ""
