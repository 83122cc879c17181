"""How a host joins a cluster: it asks the metadata process of the first host, before it starts anything.

What was given is remembered in the data directory, so a later start asks for the same again. The first time there is a
limit to the waiting, because the address is likely to be wrong; later the first host is merely not up yet, and the
host waits for it: after a power cut nobody has to start anything in order.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterable
from typing import Any

from ..config import ClusterConfig
from ..errors import CallboardError, ConfigurationError, ConnectionFailedError, error_for_code
from ..transport.addresses import is_host_name, parse_address
from ..transport.endpoint import ZmqTransport
from ..transport.loop import SystemClock
from ..transport.messages import JoinReply, JoinRequest, Reply
from ..transport.seam import ConnectionState, ConnectOptions
from .datadir import DataDir, Joined
from .entry import new_loop

FIRST_HOST = "host"
FIRST_TIME_MS = 5_000
LATER_MS = 2_000_000_000  # longer than anybody waits
ATTEMPT_MS = 2_000
CONNECT = ConnectOptions(attempt_timeout_ms=ATTEMPT_MS, backoff_max_ms=500)


def host_name(config: ClusterConfig, data: DataDir) -> str:
    """Return what this host is called: as said, as it was, or by default.

    Raises:
        ConfigurationError: it is no name for a host.
    """
    if config.host_name:
        name = config.host_name
    elif data.joined is not None and data.joined.broker_ids:
        name = data.joined.host_name
    elif config.join:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename.partition(".")[0])
    else:
        name = FIRST_HOST
    if not is_host_name(name):
        raise ConfigurationError(
            f"host_name {name!r}: use 1 to 100 letters, digits, '.', '_' or '-'; not 'metadata', not 'broker-…'"
        )
    return name


def join(
    config: ClusterConfig,
    data: DataDir,
    *,
    new_id: str,
    announce: Callable[[str], None],
    stops: Iterable[signal.Signals],
) -> Joined | None:
    """Get this host's broker ids from the cluster at ``config.join``; None: it was told to stop meanwhile.

    Raises:
        InconsistentClusterIdError, DuplicateBrokerRegistrationError, …: the cluster refused.
        UnsupportedVersionError: too far apart.
        ConnectionFailedError: nobody answers there; tells the stage.
        ConfigurationError: something else is there.
    """
    endpoint = parse_address(config.join, what="join").endpoint
    before = data.joined
    has_joined = before is not None and bool(before.broker_ids)
    asking = Joined(
        home=before.home if before is not None else new_id,
        host_name=config.host_name,
        join=endpoint,
        broker_ids=before.broker_ids if before is not None else (),
    )
    data.remember(asking)  # before it asks: what is given is given to this home
    request = JoinRequest(
        host_name=asking.host_name,
        home=asking.home,
        brokers=config.brokers,
        first_broker_id=config.first_broker_id,
        cluster_id=data.identity.cluster_id,
    )
    reply = _Question(endpoint, request, LATER_MS if has_joined else FIRST_TIME_MS, announce).answer(stops)
    if reply is None:
        return None
    joined = Joined(
        home=asking.home, host_name=asking.host_name, join=endpoint, broker_ids=tuple(map(int, reply.broker_ids))
    )
    data.remember(joined, reply.cluster_id)
    return joined


class _Question:
    """One question to the metadata process, on a loop of its own that ends with the answer."""

    def __init__(self, endpoint: str, request: JoinRequest, limit_ms: int, announce: Callable[[str], None]) -> None:
        self._endpoint, self._request = endpoint, request
        self._limit_ms, self._announce = limit_ms, announce
        self._loop = new_loop()
        self._answer: asyncio.Future[JoinReply | None] = self._loop.create_future()
        self._has_told = False
        self._connection: Any = None

    def answer(self, stops: Iterable[signal.Signals]) -> JoinReply | None:
        transport = ZmqTransport(self._loop, SystemClock())
        try:
            for number in stops:
                self._loop.add_signal_handler(number, self._end, None)
            self._connection = transport.connect(
                self._endpoint, client_id=f"join-{self._request.host_name}", on_state=self._on_state, options=CONNECT
            )
            self._connection.request(self._request, self._on_reply, timeout_ms=self._limit_ms)
            return self._loop.run_until_complete(self._answer)
        finally:
            for number in stops:
                self._loop.remove_signal_handler(number)
            transport.close()
            self._loop.close()

    def _on_state(self, state: ConnectionState) -> None:
        hello = self._connection.hello if self._connection is not None else None
        if state.error:
            self._end(error_for_code(state.error, f"{state.endpoint}: {state.stage.value}: {state.detail}"))
        elif state.is_ready and hello is not None and hello.role != "metadata":
            self._end(
                ConfigurationError(
                    f"join: at {state.endpoint} is {hello.name}, not a metadata process: use the address "
                    "that the first host tells at its start, from its --metadata-listen"
                )
            )
        elif not state.is_ready and not self._has_told:
            self._has_told = True
            self._announce(f"waiting for the cluster: {state}")

    def _on_reply(self, reply: Reply | CallboardError, _payload: list[bytes]) -> None:
        if isinstance(reply, JoinReply) and not reply.error:
            self._end(reply)
        elif isinstance(reply, Reply):
            self._end(error_for_code(reply.error, f"join {self._endpoint}: {reply.detail}"))
        elif reply.outcome_unknown:  # asked again, the answer is the same
            self._connection.request(self._request, self._on_reply, timeout_ms=self._limit_ms)
        else:
            self._end(ConnectionFailedError(f"join: {reply}"))

    def _end(self, outcome: JoinReply | CallboardError | None) -> None:
        if self._answer.done():
            return
        if isinstance(outcome, CallboardError):
            self._answer.set_exception(outcome)
        else:
            self._answer.set_result(outcome)
