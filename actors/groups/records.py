"""Records of ``__consumer_offsets``: what a coordinator remembers."""

from __future__ import annotations

from .events import Record


def marker(leader_epoch: int) -> Record:
    """Return the record that a coordinator appends before it loads: its acknowledgement settles all before it."""
    raise NotImplementedError
