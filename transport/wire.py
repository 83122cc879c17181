"""Below a connection: one attempt to reach a peer, and what travels if it succeeds.

A ``Wire`` is opened, comes up at most once, goes down at most once, and is thrown away. ``DealerWire`` is a
ZeroMQ socket; tests and the simulation have wires of their own under the same ``PeerConnection``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .seam import Stage


class WireListener(Protocol):
    """Hears of one wire. Never called from within ``OpenWire`` or a method of the wire."""

    def on_up(self) -> None:
        """The peer can be talked to."""

    def on_frames(self, frames: list[bytes]) -> None:
        """One multipart message has come."""

    def on_down(self, stage: Stage, detail: str, advice: str) -> None:
        """It did not come up, or is down: nothing more will come. ``stage`` LOST when it had been up."""


class Wire(Protocol):
    @property
    def stage(self) -> Stage:
        """How far it has come: RESOLVE, CONNECT, HANDSHAKE; HELLO once it is up."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send, or queue, one multipart message, in order. Only while up."""

    @property
    def is_congested(self) -> bool:
        """Whether something waits because the peer reads too slowly."""

    def close(self, *, is_graceful: bool) -> None:
        """Throw it away; the listener hears nothing more. Graceful: what was sent may still go out, for a moment."""


OpenWire = Callable[[str, WireListener], Wire]
