"""A message whose last frame never comes: how the connection is found that sends it. Pure rules, no socket.

libzmq keeps the frames of a message until the last one is there, where nobody can see them. What can be seen of a
connection are two counts: the bytes that the kernel has received on it, and the messages that came out. On one
connection messages come one after the other, so:

1. A connection that has received more than the largest message since its last one came out sends what is none.
2. It may be that messages wait to be read: so it must be found so twice in a row, between which all are read.

The counts cost a system call a connection: they are looked at only while memory is scarce (``actors/memory``).
"""

from __future__ import annotations

from dataclasses import dataclass

SLACK_BYTES = 8 << 20  # framing, and what the kernel has received and libzmq has not


@dataclass(slots=True)
class _Seen:
    received: int  # when the messages were first seen to be as many
    messages: int
    times: int = 0  # that it was found to have received too much since


class Endless:
    """What was seen of the connections of one server."""

    def __init__(self, message_bytes_max: int) -> None:
        self._bytes_max = message_bytes_max + SLACK_BYTES
        self._seen: dict[int, _Seen] = {}

    def must_end(self, descriptor: int, received: int, messages: int) -> bool:
        """Take in the counts of a connection; say whether it sends a message without an end."""
        seen = self._seen.get(descriptor)
        if seen is None:  # what it has received before counts only if no message has ever come of it
            seen = self._seen[descriptor] = _Seen(0 if not messages else received, messages)
        if messages != seen.messages:
            seen.received, seen.messages, seen.times = received, messages, 0
        seen.times += received - seen.received > self._bytes_max
        return seen.times == 2  # once: it takes a moment until whoever was shown out is seen to have gone

    def ended(self, descriptor: int) -> None:
        self._seen.pop(descriptor, None)
