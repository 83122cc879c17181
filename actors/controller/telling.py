"""What a person should know of a commit: one event a partition that changed. Pure."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...config import TopicConfig
from ..metadata.documents import NO_LEADER, PartitionDocument, partition_of
from .draft import Draft
from .eligibility import Terms, is_unsure
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
    if after.leader not in (*before.isr, *before.elr) and after.isr == (after.leader,):  # else it joined in this draft
        return "leader.elected_unclean", logging.ERROR
    terms = Terms.of(topic, defaults)
    if is_unsure(image, before, terms, after.leader):
        if not all(is_unsure(image, before, terms, one) for one in before.isr):  # awaited: so it was an operator's word
            return "leader.elected_unclean", logging.ERROR
        return "leader.elected_after_reboot", logging.WARNING
    return "leader.elected", logging.INFO
