"""Experiments, and what comes of them, as applications ask for them: ``admin.experiments``, ``admin.events()``.

A link between two processes is disturbed in two halves, one in each: this file knows which is which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import CallboardError, CallboardTimeoutError, UnknownAddressError
from ..transport import messages as m
from .admin_io import Replies
from .timeline import merged

if TYPE_CHECKING:
    from .admin import AdminClient

DEFAULT_FOR_MS = 5_000


@dataclass(frozen=True, slots=True)
class Happened:
    """Events in the order of their wall clocks. ``after``: give it to the next call, to go on from here."""

    events: list[m.EventDescription]
    after: dict[str, int] = field(default_factory=dict)
    missed: int = 0  # events that were forgotten before they were asked for


class Experiments:
    """Disturbs a cluster that allows it (``callboard up --experiments``). Everything undoes itself after ``for_ms``.

    Addresses are those of ``describe_tree``; the host's name before them may be left out.

    Every call may raise ``UnknownAddressError`` (nothing lives there), ``InvalidRequestError`` (not allowed here,
    or no sense in it), and what ``AdminClient`` raises.
    """

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def pause(self, address: str, for_ms: int = DEFAULT_FOR_MS) -> m.ExperimentReply:
        """Stop a process by SIGSTOP, or have an actor handle no message, then let it go on."""
        return self._ask(m.ExperimentRequest(address=address, what="pause", for_ms=for_ms))

    def hang(self, address: str, for_ms: int = DEFAULT_FOR_MS) -> m.ExperimentReply:
        """Have the event loop of a process stand still, as when a handler of the actor waits for something."""
        return self._ask(m.ExperimentRequest(address=address, what="hang", for_ms=for_ms))

    def slow(self, address: str, ms: int, for_ms: int = DEFAULT_FOR_MS) -> m.ExperimentReply:
        """Have an actor, or each actor of a process, take ``ms`` for each message."""
        return self._ask(m.ExperimentRequest(address=address, what="slow", ms=ms, for_ms=for_ms))

    def cut(self, one: str, other: str, for_ms: int = DEFAULT_FOR_MS, *, one_way: bool = False) -> None:
        """Lose what travels between two processes; ``one_way``: only what ``one`` sends to ``other``."""
        self._on_link("cut", one, other, 0, for_ms, one_way)

    def delay(self, one: str, other: str, ms: int, for_ms: int = DEFAULT_FOR_MS, *, one_way: bool = False) -> None:
        """Have what travels between two processes take ``ms`` more, each way; or one way."""
        self._on_link("delay", one, other, ms, for_ms, one_way)

    def end(self, address: str) -> int:
        """End what there is at an address, or below it, before its time; return how many inner ones there were."""
        return self._ask(m.ExperimentRequest(address=address, what="end")).count

    # -- inside --------------------------------------------------------------------------------------

    def _on_link(self, what: str, one: str, other: str, ms: int, for_ms: int, one_way: bool) -> None:
        halves = ((one, other, "to" if one_way else "both"), (other, one, "from" if one_way else "both"))
        for done, (address, peer, direction) in enumerate(halves):
            half = m.ExperimentRequest(address=address, what=what, peer=peer, direction=direction, ms=ms, for_ms=for_ms)
            try:
                self._ask(half)
            except CallboardError:
                if done:  # no half of a link stays cut because the other process does not answer
                    with contextlib.suppress(CallboardError):
                        self._ask(m.ExperimentRequest(address=one, what="end"))
                raise

    def _ask(self, request: m.ExperimentRequest) -> m.ExperimentReply:
        replies = ask_everybody(self._admin, request)
        for reply in replies.replies.values():
            if isinstance(reply, m.ExperimentReply):
                return reply
        errors = list(replies.errors.values())
        known = [error for error in errors if not isinstance(error, UnknownAddressError)]
        raise next(iter(known or errors), None) or UnknownAddressError(request.address)


def events(admin: AdminClient, after: Mapping[str, int] | None, max_wait_ms: int) -> Happened:
    """See ``AdminClient.events``."""
    position = dict(after or {})
    replies = ask_everybody(admin, m.EventsRequest(after=position, max_wait_ms=max_wait_ms), max_wait_ms)
    told = [reply for reply in replies.replies.values() if isinstance(reply, m.EventsReply)]
    if not told:
        raise next(iter(replies.errors.values()), None) or CallboardTimeoutError("no host told of its events")
    position.update({reply.ring: reply.last for reply in told if reply.ring})
    return Happened(merged(*(reply.events for reply in told)), position, sum(reply.missed for reply in told))


def ask_everybody(admin: AdminClient, request: m.Request, more_ms: int = 0) -> Replies:
    """Ask the hosts; where there is none (a cluster in one process), the brokers."""
    hosts = admin._hosts(None)
    timeout_ms = admin.config.request_timeout_ms + more_ms
    return admin._ask_hosts(hosts, request, timeout_ms) if hosts else admin._ask_brokers(request, timeout_ms)
