"""What a person should know of a commit: one event a partition that changed. Pure."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...config import TopicConfig
from ..metadata.documents import NO_LEADER, Life, PartitionDocument, partition_of
from .draft import Draft
from .eligibility import Terms
from .image import ClusterImage, TopicImage


@dataclass(frozen=True, slots=True)
class Told:
    """One event: ``name`` and its fields, as they go to the log."""

    name: str
    level: int
    fields: dict[str, object]


def told_of(draft: Draft, defaults: TopicConfig) -> list[Told]:
    """Return what this draft changes of leaders and in-sync sets; elections that lose something first.

    ``leader.elected_unclean``: by an operator's word, of somebody who may miss what was committed.
    ``leader.elected_after_reboot``: of somebody who may miss what its machine had not synced (``flush=os``).
    """
    told = []
    for put in draft.puts():
        if put.value is None or not put.key.startswith("partition/") or not put.if_version:
            continue
        key = partition_of(put.key)
        before, after, topic = draft.base.partition(key), draft.image.partition(key), draft.image.topic(key.topic_id)
        if before is None or after is None or topic is None:
            continue
        fields: dict[str, object] = {"partition": f"{topic.name}-{key.partition}"}
        if before.leader_epoch != after.leader_epoch:
            name, level = _kind_of_election(draft.base, before, after, topic, defaults)
            fields |= {"leader": after.leader, "was": before.leader, "epoch": after.leader_epoch, "isr": after.isr}
            told.append(Told(name, level, fields))
        elif (before.isr, before.elr) != (after.isr, after.elr):
            fields |= {"isr": after.isr, "was": before.isr, "elr": after.elr, "leader": after.leader}
            told.append(Told("isr.changed", logging.INFO, fields))
    return sorted(told, key=lambda one: -one.level)


def _kind_of_election(
    image: ClusterImage, before: PartitionDocument, after: PartitionDocument, topic: TopicImage, defaults: TopicConfig
) -> tuple[str, int]:
    if after.leader == NO_LEADER:
        return "leader.elected", logging.INFO
    if after.leader not in (*before.isr, *before.elr):
        return "leader.elected_unclean", logging.ERROR
    life = Life(after.leader, after.leader_incarnation)
    is_unsure = life in after.caught_up and life not in before.caught_up
    if is_unsure and not Terms.of(topic, defaults).is_synced:
        if not all(image.may_serve(before, one) for one in before.isr):  # others are awaited, so nobody but an operator
            return "leader.elected_unclean", logging.ERROR
        return "leader.elected_after_reboot", logging.WARNING
    return "leader.elected", logging.INFO
