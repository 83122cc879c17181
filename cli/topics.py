"""``callboard topics``: what there is, what a topic is made of, and changing it."""

from __future__ import annotations

from .commands import Entry, LazyGroup

topics = LazyGroup(
    name="topics",
    help="Create, list, describe, alter, delete topics.",
    entries={
        "create": Entry("topics_change", "create", "Create topics."),
        "list": Entry("topics_show", "list_", "List the topics."),
        "describe": Entry("topics_show", "describe", "Show partitions, leaders, offsets and settings of topics."),
        "alter": Entry("topics_change", "alter", "Change settings of a topic."),
        "add-partitions": Entry("topics_change", "add_partitions", "Give a topic more partitions."),
        "delete-records": Entry("topics_change", "delete_records", "Delete the oldest records of a partition."),
        "delete": Entry("topics_change", "delete", "Delete topics and all that is in them."),
    },
)
