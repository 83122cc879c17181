"""Members that are out, being stuck or replaced under their instance id: what they are told, and cannot commit."""

from __future__ import annotations

import threading

import pytest
from filling import fill, read
from group_members import T0, Recorder, committed, poll_until

from callboard import CommitFailedError
from callboard.client.group import GroupSide
from callboard.errors import FencedInstanceIdError


def test_a_stuck_application_loses_its_partitions_and_its_late_commit_names_the_owner(cluster, member):
    cluster.create("t")
    fill(cluster, 10)
    listener = Recorder()
    first = member(max_poll_interval_ms=200, enable_auto_commit=False)
    first.subscribe("t", listener=listener)
    read(first, 10)
    second = member("t")

    poll_until(lambda: second.assignment() == {T0}, second)
    with pytest.raises(CommitFailedError) as caught:
        first.commit()
    assert second.group_metadata().member_id in str(caught.value)
    assert committed(cluster) is None

    assert first.health().group_state == "stuck"
    second.close(autocommit=False)
    poll_until(lambda: len(listener.calls) == 3, first)
    assert listener.calls == [("assigned", [T0]), ("lost", [T0]), ("assigned", [T0])]


def test_a_commit_of_a_partition_that_was_lost_is_told_apart_from_a_mistake(cluster, member):
    cluster.create("t")
    first = member("t", max_poll_interval_ms=200)
    first.poll(0)
    second = member("t")
    poll_until(lambda: second.assignment() == {T0}, second)
    first.poll(0)

    with pytest.raises(CommitFailedError):
        first.commit({T0: 5})


def test_a_member_whose_instance_id_was_taken_is_told_and_stays_away(cluster, member):
    cluster.create("t")
    first = member("t", group_instance_id="one")
    first.poll(0)
    second = member("t", group_instance_id="one")
    second.poll(0)
    assert second.assignment() == {T0}

    with pytest.raises(FencedInstanceIdError):
        poll_until(lambda: False, first)

    assert first.assignment() == set()
    with pytest.raises(FencedInstanceIdError):
        first.commit()  # nothing is left to commit, and that is no success


def test_what_a_barred_member_has_lost_is_told_before_the_error(cluster, member, monkeypatch):
    cluster.create("t")
    listener = Recorder()
    first = member(group_instance_id="one")
    first.subscribe("t", listener=listener)
    first.poll(0)
    begun, may_go_on, lose = threading.Event(), threading.Event(), GroupSide._lose

    def lose_later(self, effect):
        begun.set()
        assert may_go_on.wait(10)
        lose(self, effect)

    monkeypatch.setattr(GroupSide, "_lose", lose_later)
    member("t", group_instance_id="one").poll(0)
    assert begun.wait(10)  # it is barred, and its partitions are not lost yet

    assert first.poll(0) == {}
    may_go_on.set()
    with pytest.raises(FencedInstanceIdError):
        poll_until(lambda: False, first)

    assert listener.calls[-1] == ("lost", [T0])
    assert first.assignment() == set()
