"""Which partitions are led, as a broker's coordinators may believe it: for the watchdog (``watchdog.py``).

Written by who hosts the coordinators, read by them. A picture that the store has not confirmed for ``CONFIRMED_MS`` may
be of a time that is past: then nothing is known to be led.
"""

from __future__ import annotations

from ...model import TopicId
from ..controller.image import ClusterImage
from .events import GroupPartition
from .proof import NEVER_PROVEN_MS

CONFIRMED_MS = 5_000
NOT_LED = -1


class Leaders:
    """The picture of one broker, and when it was the store's."""

    def __init__(self) -> None:
        self._image = ClusterImage.empty()
        self._confirmed_ms = NEVER_PROVEN_MS  # only grows

    def on_image(self, image: ClusterImage) -> None:
        self._image = image

    def confirm(self, at_ms: int) -> None:
        """The picture was the store's at that time."""
        self._confirmed_ms = max(self._confirmed_ms, at_ms)

    def leader_epoch_of(self, partition: GroupPartition, now_ms: int) -> int:
        """Return in which epoch the partition is led now, by a broker that lives; ``NOT_LED``: in none, for sure."""
        topic = self._image.topic(TopicId(partition.topic_id))
        document = topic.partitions.get(partition.partition) if topic is not None else None
        if document is None or now_ms - self._confirmed_ms > CONFIRMED_MS or self._image.leader_of(document) < 0:
            return NOT_LED
        return document.leader_epoch
