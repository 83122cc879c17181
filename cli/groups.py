"""``callboard groups``: who is in a consumer group, how far behind it is, and changing that."""

from __future__ import annotations

from .commands import Entry, LazyGroup

groups = LazyGroup(
    name="groups",
    help="Look after consumer groups: members, lag, committed offsets.",
    entries={
        "list": Entry("groups_show", "list_", "List the groups."),
        "describe": Entry("groups_show", "describe", "Show state, members and assignment of groups."),
        "lag": Entry("groups_show", "lag", "Show how far groups are behind, partition by partition."),
        "reset-offsets": Entry("groups_change", "reset_offsets", "Have a group without members go on elsewhere."),
        "delete": Entry("groups_change", "delete", "Forget groups, or what they have committed of topics."),
        "remove-member": Entry("groups_change", "remove_member", "Put members out of a group."),
    },
)
