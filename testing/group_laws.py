"""What must hold of a group's targets at every moment: checked on what its coordinator decides, come what may.

One law so far, *no-needless-move*: where every member stays and nothing is taken away (each member is subscribed to
what it was, or more, all of them to the same; topics have their partitions, or more), the sticky assignor takes no
partition from a member that had it as its target: what is new goes to whoever has least, so balance asks for no more.
"""

from __future__ import annotations

from .laws import LawBroken
from .observing import GroupView


class GroupLaws:
    """Checks each view against the one before, of the same state of a coordinator.

    Raises:
        LawBroken: from every method.
    """

    def __init__(self) -> None:
        self.checks = 0
        self._views: dict[tuple[object, str], GroupView] = {}  # by the coordinator's state, and the group

    def on_group(self, state: object, view: GroupView) -> None:
        """``state``: which load of a coordinator this is; what one that is thrown away has decided counts no more."""
        before = self._views.get((state, view.group_id))
        if before is not None and before.epoch == view.epoch:
            return
        self._views[state, view.group_id] = view
        if before is None or not _is_growth(before, view):
            return
        self.checks += 1
        for rank, target in before.targets.items():
            if taken := target - view.targets[rank]:
                detail = f"group {view.group_id}, epoch {view.epoch}: {', '.join(map(str, sorted(taken)))} of {rank}"
                raise LawBroken("no-needless-move", detail)


def _is_growth(before: GroupView, now: GroupView) -> bool:
    return (
        before.assignor == now.assignor == "sticky"
        and before.topics.keys() == now.topics.keys()
        and len(set(now.topics.values())) == len(set(before.topics.values())) == 1
        and all(before.topics[rank] <= topics for rank, topics in now.topics.items())
        and all(count <= now.counts.get(topic_id, 0) for topic_id, count in before.counts.items())
    )
