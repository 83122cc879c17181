"""What a consumer's group and its application tell each other: between the I/O thread and the threads that poll."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from ..model import TopicPartition
from .evidence import Shelf
from .fetch_state import Credit


class Granted(NamedTuple):
    """A partition is being fetched for a member; it is handed out once its change has been performed."""

    key: TopicPartition
    generation: int
    credit: Credit


class Change(NamedTuple):
    """What the application must do: "assigned", "revoked" or "lost". Performed in order, each once."""

    kind: str
    member_id: str
    member_epoch: int
    generations: Mapping[TopicPartition, int]  # of the positions; only of what is assigned
    partitions: tuple[TopicPartition, ...]
    why: str
    life: int  # of the application, as it was when it subscribed


class Applicant(Shelf, Protocol):
    """The application, as the I/O thread sees it: read from here, moved by the application's threads."""

    def step(self) -> object:
        """Return something that differs with each step of an iteration; None: it is within none."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is inside a poll now."""

    @property
    def left_ms(self) -> int:
        """When it left a poll last; to be asked after ``is_waiting``."""

    @property
    def has_come(self) -> bool:
        """Whether it has polled since it subscribed."""

    def on_change(self, change: Change) -> None:
        """Here is something to do, with the next poll."""

    def on_heartbeat(self) -> None:
        """A heartbeat was answered: look whether something is due that needs no timer of its own."""
