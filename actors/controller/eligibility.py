"""Who may lead without loss: the arithmetic of in-sync sets, eligible leaders and reboots. Pure.

Everything rests on one law: *whatever is committed is held by every member of the ISR, and by every member of
the ELR* (eligible leader replicas, KIP-966).

- The leader moves the high watermark only on the word of all of its ISR, so the first half holds.
- It does not move it while the ISR is smaller than ``min_insync_replicas``. So who leaves the ISR when it falls
  below the minimum, or is below it already, goes on holding all that is committed: it goes into the ELR, and
  stays there until the ISR has reached the minimum again (from then on it may miss something).
- A replica may come to hold less than it did. One that its broker gave up (``Offline``) holds nothing any more.
  And with ``flush=os`` a reboot of its machine takes back what was not synced: such a replica is *unsure*, in
  that life of its broker, until it was in sync in it (``caught_up``). Where nobody else can lead it stays in the
  ISR, written down (``unsure``): its broker's next life, of the same boot, would not know. A killed process makes
  nobody unsure: the page cache outlives it. With ``flush=ack`` only what is durable counts: a reboot takes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ...config import TopicConfig
from ...model import BrokerId
from ..metadata.documents import Life, Offline, PartitionDocument
from .image import ClusterImage, TopicImage


@dataclass(frozen=True, slots=True)
class Terms:
    """What of a topic's settings matters to who may lead."""

    min_insync_replicas: int = 1
    is_synced: bool = True  # flush=ack: what counts as replicated survives a reboot

    @staticmethod
    def of(topic: TopicImage | None, defaults: TopicConfig) -> Terms:
        """Return the terms of a topic; ``defaults``: the cluster's settings for topics."""
        if topic is None:
            return Terms()
        return Terms(topic.document.min_insync_replicas, topic.config(defaults).flush == "ack")


def eligible_after(
    partition: PartitionDocument, isr: Collection[int], terms: Terms, lost: Collection[int], *, is_led: bool = True
) -> tuple[int, ...]:
    """Return the ELR when the ISR becomes ``isr``.

    Args:
        lost: hold less than they did.
        is_led: somebody may commit. Without a leader nobody does, however many are in sync.
    """
    if is_led and len(isr) >= terms.min_insync_replicas:
        return ()
    held = {*partition.isr, *partition.elr} - set(isr) - set(lost)
    return in_order(partition, held)


def in_order(partition: PartitionDocument, members: Collection[int]) -> tuple[int, ...]:
    """Return these replicas in the order of the partition's: the preferred leader first."""
    return tuple(broker_id for broker_id in partition.replicas if broker_id in members)


def is_unsure(image: ClusterImage, partition: PartitionDocument, terms: Terms, broker_id: int) -> bool:
    """Say whether a replica may miss what it had: its machine has booted, and it was not in sync since."""
    if broker_id in partition.unsure:
        return True
    session = image.brokers.get(BrokerId(broker_id))
    if terms.is_synced or session is None or not session.is_after_reboot:
        return False
    return Life(broker_id, session.incarnation) not in partition.caught_up


def lost_members(image: ClusterImage, partition: PartitionDocument, terms: Terms) -> set[int]:
    """Return who of the ISR and the ELR holds less than it did: given up by its broker, or unsure."""
    members = (*partition.isr, *partition.elr)
    given_up = {one.broker_id for one in offline_now(image, partition)}
    return {one for one in members if one in given_up or is_unsure(image, partition, terms, one)}


def offline_now(image: ClusterImage, partition: PartitionDocument) -> tuple[Offline, ...]:
    """Return the marks that still count: those of a broker's present life."""
    return tuple(one for one in partition.offline if image.incarnation_of(one.broker_id) == one.incarnation)


def caught_up_with(
    image: ClusterImage, partition: PartitionDocument, members: Collection[int], now_in_sync: Iterable[int]
) -> tuple[Life, ...]:
    """Return the marks of who was in sync in a life after a reboot: those there are, and ``now_in_sync``.

    Args:
        members: of the ISR and of the ELR; nobody else's marks are kept.
    """
    marks = [mark for mark in partition.caught_up if image.incarnation_of(mark.broker_id) == mark.incarnation]
    for broker_id in now_in_sync:
        session = image.brokers.get(BrokerId(broker_id))
        if session is not None and session.is_after_reboot:
            marks.append(Life(broker_id, session.incarnation))
    return tuple(dict.fromkeys(mark for mark in marks if mark.broker_id in members))
