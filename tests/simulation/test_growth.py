"""Topics that grow while groups read them; and the law that nothing moves for it that need not."""

from __future__ import annotations

import pytest

from callboard.actors.groups.events import GroupPartition
from callboard.model import TopicPartition
from callboard.testing.group_laws import GroupLaws
from callboard.testing.growth import LATER_TOPIC
from callboard.testing.laws import LawBroken
from callboard.testing.observing import GroupView
from callboard.testing.profiles import PROFILES
from callboard.testing.simulation import Simulation

ONE, TWO, THREE = (GroupPartition("orders", "o1", number) for number in range(3))


def test_what_is_added_is_read_by_its_subscribers_and_moves_nothing_else():
    run = Simulation(2, PROFILES["growth"])

    outcome = run.run()

    assert outcome.is_good, outcome.report()
    added = [TopicPartition("orders", 3), TopicPartition("orders", 4), TopicPartition(LATER_TOPIC, 0)]
    for group in run.groups.runs:
        assert group.has_pattern
        owned = {one.partition for one in group.history.owned}
        assert owned.issuperset(added)
        assert {one.partition for one in group.history.processed}.issuperset(added)
    assert run.group_laws.checks > 0


def a_view(epoch, targets, topics=("orders",), count=3, **more):
    return GroupView(
        "billing",
        epoch,
        more.get("assignor", "sticky"),
        dict.fromkeys(targets, frozenset(topics)),
        {rank: frozenset(target) for rank, target in targets.items()},
        {"o1": count},
    )


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (a_view(1, {"m:a": [ONE], "m:b": [TWO]}, count=2), a_view(2, {"m:a": [ONE, THREE], "m:b": [TWO]})),
        (a_view(1, {"m:a": [ONE, TWO]}), a_view(2, {"m:a": [ONE], "m:b": [TWO]})),
        (a_view(1, {"m:a": [ONE]}, assignor="range"), a_view(2, {"m:a": [TWO]}, assignor="range")),
        (a_view(1, {"m:a": [ONE]}, ("orders", "more")), a_view(2, {"m:a": []})),
        (a_view(1, {"m:a": [ONE, THREE]}), a_view(2, {"m:a": [ONE]}, count=2)),
    ],
    ids=["given", "a member more", "another assignor", "a topic less", "a topic made anew"],
)
def test_moves_that_are_needed_break_no_law(before, now):
    laws, state = GroupLaws(), object()

    laws.on_group(state, before)
    laws.on_group(state, now)


def test_a_partition_that_moves_because_others_came_breaks_a_law():
    laws, state = GroupLaws(), object()
    laws.on_group(state, a_view(1, {"m:a": [ONE], "m:b": [TWO]}, count=2))

    with pytest.raises(LawBroken, match="no-needless-move: group billing, epoch 2: orders-0 of m:a"):
        laws.on_group(state, a_view(2, {"m:a": [TWO], "m:b": [ONE, THREE]}))


def test_what_a_state_has_decided_that_was_thrown_away_is_compared_with_nothing():
    laws = GroupLaws()
    laws.on_group(object(), a_view(2, {"m:a": [TWO], "m:b": [ONE]}))

    laws.on_group(object(), a_view(3, {"m:a": [ONE], "m:b": [TWO]}))

    assert laws.checks == 0
