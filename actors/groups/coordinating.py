"""The rules of a coordinator: all groups of one partition of ``__consumer_offsets``.

Pure: what comes goes in with the time, effects come out.

1. Loading: ``replay`` is told every record up to the coordinator's own marker, ``on_topics`` the topics, then
   ``loaded``; before that every request is refused with COORDINATOR_LOAD_IN_PROGRESS.
2. A decision changes the state at once. What reveals it (a reply) waits until its records survive: until
   ``on_written`` has said so of its number. When an append fails, or nobody knows, this object is thrown away
   (``give_up`` answers who waits) and another one loads.
3. A reply comes exactly once for each request, perhaps later: from any method that returns effects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...errors import ErrorCode
from .events import Caller, Effect, GroupRequest, GroupSettings, Reply, TopicPicture


class Coordinating:
    """All groups of one partition of ``__consumer_offsets``, in one leader epoch."""

    next_due_ms: int | None  # when ``on_due`` must be called next; None: nothing waits for time

    def __init__(self, settings: GroupSettings) -> None:
        raise NotImplementedError

    # -- loading

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the log, in the log's order. Unknown kinds are passed over.

        Raises:
            StorageCorruption: a record of a known kind that cannot be read.
        """
        raise NotImplementedError

    def loaded(self, now_ms: int, wall_ms: int) -> list[Effect]:
        """Everything was replayed: serve. Every member's session begins anew."""
        raise NotImplementedError

    # -- serving

    def on_request(self, request: GroupRequest, caller: Caller, now_ms: int, wall_ms: int) -> list[Effect]:
        raise NotImplementedError

    def on_topics(
        self, topics: Mapping[str, TopicPicture], now_ms: int, wall_ms: int, deleted: Collection[str] = ()
    ) -> list[Effect]:
        """These are all topics now, by name. May come before ``loaded``, and must have come for requests to be served.

        A topic that was here and is not any more was deleted: its committed offsets go. ``deleted``: ids of others that
        are known to be deleted.
        """
        raise NotImplementedError

    def on_due(self, now_ms: int, wall_ms: int) -> list[Effect]:
        """It is ``next_due_ms``, or later."""
        raise NotImplementedError

    def on_written(self, number: int, now_ms: int) -> list[Effect]:
        """The records of every ``Write`` up to ``number`` survive."""
        raise NotImplementedError

    def give_up(self, code: ErrorCode, detail: str) -> list[Reply]:
        """Answer everybody who waits. Nothing else may be called after it."""
        raise NotImplementedError
