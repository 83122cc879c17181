"""Looking after groups, through real sockets against scripted coordinators."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from scripted_groups import GroupCluster, group_cluster

from callboard import AdminClient, AsyncAdminClient
from callboard.client.admin_groups import MemberToRemove
from callboard.client.group_offsets import OffsetReset, OffsetShift, OffsetSpec, OffsetTimestamp, PartitionLag
from callboard.errors import (
    CallboardTimeoutError,
    ConnectionFailedError,
    ErrorCode,
    GroupIdNotFoundError,
    GroupSubscribedToTopicError,
    IllegalArgumentError,
    InvalidGroupIdError,
    NonEmptyGroupError,
    NoOffsetForPartitionError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from callboard.model import OffsetAndMetadata, TopicPartition
from callboard.transport import group_messages as g
from callboard.transport.messages import ListOffsetsRequest

T0, T1, T2 = (TopicPartition("t", number) for number in range(3))


@pytest.fixture
def cluster():
    with group_cluster(2) as running:
        yield running


@pytest.fixture
def admin(cluster):
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers, unknown_topic_timeout_ms=50) as client:
        yield client


def a_topic(cluster: GroupCluster, *ranges: tuple[int, int]) -> None:
    """The topic t, whose partitions begin and end at these offsets."""
    topic = cluster.create("t", len(ranges))
    for log, (start, end) in zip(topic.logs, ranges, strict=True):
        log.start, log.end = start, end


# -- looking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [([[], [0]], [[1]]), ([[0]], [[], [], [1]]), ([[0, 1], [0]], [[1]]), ([[0]], [[0, 1], [0, 1], [1]])],
    ids=["deposed", "elected", "deposed without knowing", "and the other one"],
)
def test_groups_that_move_while_brokers_are_asked_are_listed_once(cluster, admin, one, two):
    cluster.create("__consumer_offsets", 2)
    cluster.group("a", 1)
    cluster.group("b", 2)
    cluster.told = {1: one, 2: two}

    assert [group.group_id for group in admin.list_groups()] == ["a", "b"]
    assert (len(cluster.told[1]), len(cluster.told[2])) == (1, 1), "asked until each was told by one"


def test_every_broker_is_asked_for_its_groups(cluster, admin):
    cluster.group("b", 2)
    cluster.group("a", 1, "m1", "m2")

    assert [(one.group_id, one.state, one.members) for one in admin.list_groups()] == [
        ("a", "stable", 2),
        ("b", "empty", 0),
    ]
    assert [one.group_id for one in admin.list_groups(broker_ids=[2])] == ["b"]
    assert [one.group_id for one in admin.list_groups(states_filter=["Stable"])] == ["a"]


def test_a_broker_that_is_loading_is_waited_for(cluster, admin):
    cluster.group("a", 2)
    cluster.loading[2] = 3

    assert [one.group_id for one in admin.list_groups()] == ["a"]
    assert cluster.loading[2] == 0


def test_groups_that_are_not_all_known_in_time_are_an_error_that_names_the_broker(cluster, admin):
    cluster.loading[2] = 1_000_000

    with pytest.raises(CallboardTimeoutError, match="broker 2 is loading 1 part"):
        admin.list_groups(timeout_ms=1_000)
    with pytest.raises(CallboardTimeoutError, match="broker 9 is not there"):
        admin.list_groups(broker_ids=[9], timeout_ms=200)


def test_a_broker_that_has_not_heard_yet_of_its_election_is_waited_for(cluster, admin):
    cluster.create("__consumer_offsets", 2)
    cluster.group("a", 2)
    cluster.behind[2] = 3

    assert [one.group_id for one in admin.list_groups()] == ["a"]


def test_a_listing_waits_until_all_partitions_of_groups_are_led(cluster, admin):
    topic = cluster.create("__consumer_offsets", 2)
    cluster.call(lambda: topic.leaders.__setitem__(1, -1))

    with pytest.raises(CallboardTimeoutError, match="__consumer_offsets 1 of its partitions are led by nobody"):
        admin.list_groups(timeout_ms=100)
    assert admin.list_groups(broker_ids=[1, 2]) == []


def test_groups_of_several_coordinators_are_described_with_one_request_each(cluster, admin):
    for number in range(6):
        cluster.group(f"g{number}", 1 + number % 2, "m")

    described = admin.describe_groups([f"g{number}" for number in range(6)])

    assert list(described) == [f"g{number}" for number in range(6)]
    assert {group.coordinator for group in described.values()} == {1, 2}
    assert len(cluster.requests_of(g.DescribeGroupsRequest)) == 2
    assert len(cluster.requests_of(g.FindCoordinatorsRequest)) == 1


def test_who_coordinates_is_asked_once(cluster, admin):
    cluster.group("a", 2)

    for _ in range(3):
        admin.describe_groups(["a"])

    assert len(cluster.requests_of(g.FindCoordinatorsRequest)) == 1


@pytest.mark.parametrize(
    "code", [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE]
)
def test_what_passes_is_asked_again(cluster, admin, code):
    cluster.group("a", 2, "m")
    cluster.add_fault(g.DescribeGroupsRequest, code, count=3)

    assert admin.describe_groups(["a"])["a"].state == "stable"


def test_a_group_that_has_moved_is_found_at_its_new_coordinator(cluster, admin):
    group = cluster.group("a", 1, t_0=5)
    admin.list_group_offsets("a")
    cluster.call(lambda: setattr(group, "coordinator", 2))

    assert admin.list_group_offsets("a") == {"a": {T0: OffsetAndMetadata(5)}}


def test_nobody_coordinates_for_a_while(cluster, admin):
    cluster.group("a", 2, t_0=5)
    cluster.unavailable["a"] = 3

    assert admin.list_group_offsets(["a"])["a"] == {T0: OffsetAndMetadata(5)}


def test_a_lost_answer_is_asked_for_again(cluster, admin):
    cluster.group("a", 2, t_0=5)
    cluster.add_fault(g.OffsetFetchRequest, "lost connection")

    assert admin.list_group_offsets(["a"])["a"] == {T0: OffsetAndMetadata(5)}


def test_a_coordinator_that_never_comes_is_told_in_time_with_the_reason(cluster, admin):
    cluster.group("b", 2)
    admin.describe_groups(["b"])  # it has its connections, and the time is for answers alone
    cluster.unavailable["a"] = 1_000_000

    with pytest.raises(CallboardTimeoutError, match=r"group 'a' did not answer within 1 s.*COORDINATOR_NOT_AVAIL"):
        admin.describe_groups(["a"], timeout_ms=1_000)


def test_one_group_that_is_refused_keeps_no_other_from_its_answer(cluster, admin):
    cluster.group("a", 2)

    described = admin.describe_groups(["a", "nope", ""], raise_errors=False)

    assert [group.error for group in described.values()] == [
        0,
        ErrorCode.GROUP_ID_NOT_FOUND,
        ErrorCode.INVALID_GROUP_ID,
    ]
    with pytest.raises(GroupIdNotFoundError, match="'nope'"):
        admin.describe_groups(["a", "nope"])
    with pytest.raises(InvalidGroupIdError):
        admin.list_group_offsets("")


def test_offsets_are_listed_by_group_and_partition(cluster, admin):
    cluster.group("a", 1, t_0=5, t_1=6)
    cluster.group("b", 2, u_0=7)

    assert admin.list_group_offsets({"a": [T1, T2], "b": None}) == {
        "a": {T1: OffsetAndMetadata(6)},
        "b": {TopicPartition("u", 0): OffsetAndMetadata(7)},
    }


# -- lag ---------------------------------------------------------------------------------------------


def test_the_lag_of_a_group_is_asked_of_its_coordinator_and_then_of_all_leaders_at_once(cluster, admin):
    a_topic(cluster, (0, 10), (5, 8), (0, 0))
    group = cluster.group("a", 2, "m", t_0=4, t_1=2)
    group.members[0] = g.MemberDescription(
        member_id="m", assigned=[g.TopicPartitions(topic="t", partitions=[0, 2])], topics=["t"]
    )

    lags = admin.group_lag("a")

    assert lags == {
        T0: PartitionLag(4, 0, 10, 6, "m"),
        T1: PartitionLag(2, 5, 8, 3),
        T2: PartitionLag(None, 0, 0, None, "m"),
    }
    assert lags[T1].is_aged_out
    before = len(cluster.requests_of(ListOffsetsRequest))
    assert before == 4  # two leaders, each asked for beginnings and ends
    lookups = len(cluster.requests_of(g.FindCoordinatorsRequest))
    admin.group_lag("a")
    assert len(cluster.requests_of(g.FindCoordinatorsRequest)) == lookups
    assert len(cluster.requests_of(ListOffsetsRequest)) == before + 4


def test_who_asks_for_a_lag_again_waits_for_one_round(cluster, admin):
    a_topic(cluster, (0, 10), (0, 5))
    cluster.group("a", 1, t_0=4, t_1=5)
    admin.group_lag("a")
    asked = len(cluster.requests_of(ListOffsetsRequest))

    cluster.call(setattr, cluster, "held", [])
    with ThreadPoolExecutor(1) as thread:
        lags = thread.submit(admin.group_lag, "a")
        cluster.wait_until(lambda: sum(isinstance(one, ListOffsetsRequest) for one in cluster.requests) == asked + 4)
        cluster.call(cluster.release)

        assert {key: one.lag for key, one in lags.result(10).items()} == {T0: 6, T1: 0}
    assert len(cluster.requests_of(ListOffsetsRequest)) == asked + 4


def test_a_lag_that_is_asked_for_again_has_what_is_new_and_not_what_has_gone(cluster, admin):
    a_topic(cluster, (0, 10), (0, 5))
    group = cluster.group("a", 1, t_0=4)
    assert {key: one.lag for key, one in admin.group_lag("a").items()} == {T0: 6, T1: None}

    cluster.call(group.offsets.clear)
    cluster.call(group.offsets.__setitem__, ("t", 1), g.OffsetFetchEntryReply(topic="t", partition=1, offset=2))

    assert {key: one.lag for key, one in admin.group_lag("a").items()} == {T0: None, T1: 3}


def test_where_a_group_has_not_begun_it_has_no_lag_and_that_is_told(cluster, admin):
    a_topic(cluster, (0, 10), (0, 5))
    cluster.group("a", 1, t_0=4)

    assert admin.group_lag("a") == {T0: PartitionLag(4, 0, 10, 6), T1: PartitionLag(None, 0, 5, None)}


def test_a_partition_without_a_leader_costs_nobody_else_its_lag(cluster, admin):
    a_topic(cluster, (0, 10), (0, 10))
    cluster.group("a", 1, t_0=4, t_1=4, gone_0=3)
    cluster.call(lambda: cluster.topics["t"].leaders.__setitem__(1, -1))

    lags = admin.group_lag("a")

    assert lags[T0].lag == 6
    assert (lags[T1].lag, lags[T1].committed) == (None, 4)
    assert "t-1 has no leader" in lags[T1].error
    assert "gone" in lags["gone", 0].error


def test_the_lag_of_no_group_is_an_error(admin):
    with pytest.raises(GroupIdNotFoundError, match="'nope'"):
        admin.group_lag("nope")


# -- offsets -----------------------------------------------------------------------------------------


def test_offsets_are_altered_as_they_are_given(cluster, admin):
    a_topic(cluster, (0, 10), (0, 10))
    cluster.group("a", 2, t_0=4)

    done = admin.alter_group_offsets("a", {T0: OffsetAndMetadata(9, "why"), T1: 3})

    assert done == {T0: OffsetAndMetadata(9, "why"), T1: OffsetAndMetadata(3)}
    assert admin.list_group_offsets("a")["a"] == done


@pytest.mark.parametrize(
    ("to", "offset"),
    [
        (OffsetSpec.EARLIEST, 2),
        (OffsetSpec.LATEST, 10),
        (OffsetShift(-1), 4),
        (OffsetShift(100), 10),
        (7, 7),
        (0, 2),
        (OffsetTimestamp(10**15), 10),
    ],
)
def test_a_reset_tells_old_and_new_and_commits_what_it_tells(cluster, admin, to, offset):
    a_topic(cluster, (2, 10))
    cluster.group("a", 2, t_0=5)

    assert admin.reset_group_offsets("a", {T0: to}, validate_only=True) == {T0: OffsetReset(5, offset, 2, 10)}
    assert cluster.committed("a") == {("t", 0): 5}
    assert admin.reset_group_offsets("a", {T0: to}) == {T0: OffsetReset(5, offset, 2, 10)}
    assert cluster.committed("a") == {("t", 0): offset}


def test_a_reset_to_a_time_goes_to_the_first_record_at_or_after_it(cluster, admin):
    from callboard import Producer

    cluster.create("t")
    cluster.group("a", 2)
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for at in (1_000, 2_000, 3_000):
            producer.send("t", b"x", timestamp_ms=at).get(10)

    for at, offset in ((500, 0), (1_500, 1), (3_000, 2), (3_001, 3)):
        assert admin.reset_group_offsets("a", {T0: OffsetTimestamp(at)})[T0].offset == offset


def test_a_reset_keeps_what_the_application_noted(cluster, admin):
    a_topic(cluster, (0, 10))
    cluster.group("a", 1)
    admin.alter_group_offsets("a", {T0: OffsetAndMetadata(9, "note")})

    admin.reset_group_offsets("a", {T0: OffsetSpec.EARLIEST})

    assert admin.list_group_offsets("a")["a"] == {T0: OffsetAndMetadata(0, "note")}


def test_a_live_groups_offsets_are_not_changed_and_it_is_told_who_is_in_it(cluster, admin):
    a_topic(cluster, (0, 10))
    cluster.group("a", 2, "m1", "m2", t_0=5)

    for change in (
        lambda: admin.reset_group_offsets("a", {T0: OffsetSpec.EARLIEST}),
        lambda: admin.alter_group_offsets("a", {T0: 3}),
        lambda: admin.delete_groups(["a"]),
    ):
        with pytest.raises(NonEmptyGroupError, match=r"group 'a' has 2 members: m1 \(app at here\), m2 "):
            change()
    assert cluster.committed("a") == {("t", 0): 5}


def test_a_commit_that_may_have_been_made_is_made_again(cluster, admin):
    a_topic(cluster, (0, 10))
    cluster.group("a", 2, t_0=5)
    cluster.add_fault(g.OffsetCommitRequest, "lost connection")

    admin.reset_group_offsets("a", {T0: 7})

    assert cluster.committed("a") == {("t", 0): 7}
    admin.reset_group_offsets("a", {T0: 8})
    first, again, other = cluster.requests_of(g.OffsetCommitRequest)
    assert first.committer == again.committer == other.committer != ""
    assert first.number == again.number < other.number, "which one comes too late is known by that"


def test_a_shift_needs_something_to_shift(cluster, admin):
    a_topic(cluster, (0, 10))

    with pytest.raises(NoOffsetForPartitionError, match="t-0"):
        admin.reset_group_offsets("a", {T0: OffsetShift(-1)})


@pytest.mark.parametrize("key", [TopicPartition("nope", 0), TopicPartition("t", 5)])
def test_a_partition_that_is_not_there_is_refused_and_nothing_changes(cluster, admin, key):
    a_topic(cluster, (0, 10))
    cluster.group("a", 1, t_0=5)

    with pytest.raises(UnknownTopicOrPartitionError):
        admin.reset_group_offsets("a", {T0: 1, key: 1})
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.alter_group_offsets("a", {T0: 1, key: 1})
    assert cluster.committed("a") == {("t", 0): 5}


# -- deleting, putting out ---------------------------------------------------------------------------


def test_offsets_are_deleted_unless_a_member_reads_the_topic(cluster, admin):
    cluster.group("a", 2, t_0=5, u_0=6)
    cluster.group("live", 1, "m", t_0=5, u_0=6)

    assert [result.error for result in admin.delete_group_offsets("a", [T0]).values()] == [0]
    assert cluster.committed("a") == {("u", 0): 6}
    with pytest.raises(GroupSubscribedToTopicError, match="group 'live', t-0"):
        admin.delete_group_offsets("live", [T0, ("u", 0)])
    assert cluster.committed("live") == {("t", 0): 5}


def test_groups_are_deleted_and_each_has_its_result(cluster, admin):
    cluster.group("a", 1)
    cluster.group("b", 2)
    cluster.group("live", 2, "m")

    results = admin.delete_groups(["a", "live", "b", "nope"], raise_errors=False)

    assert {name: result.error for name, result in results.items()} == {
        "a": 0,
        "live": ErrorCode.NON_EMPTY_GROUP,
        "b": 0,
        "nope": ErrorCode.GROUP_ID_NOT_FOUND,
    }
    assert [one.group_id for one in admin.list_groups()] == ["live"]


def test_what_was_done_by_an_attempt_whose_answer_was_lost_counts_as_done(cluster, admin):
    cluster.group("a", 2)
    cluster.group("b", 2, "m")
    cluster.add_fault(g.DeleteGroupsRequest, "lost connection")
    cluster.add_fault(g.RemoveMembersRequest, "lost connection")

    assert admin.delete_groups(["a"])["a"].error == 0
    assert admin.remove_group_members("b", ["m"])["m"].error == 0


def test_members_are_put_out_by_member_id_or_instance_id(cluster, admin):
    group = cluster.group("a", 2, "m1", "m2", "m3")
    group.members[2] = g.MemberDescription(member_id="m3", instance_id="i3")

    results = admin.remove_group_members("a", ["m1", MemberToRemove(group_instance_id="i3")])

    assert {name: result.error for name, result in results.items()} == {"m1": 0, "i3": 0}
    assert [member.member_id for member in group.members] == ["m2"]
    with pytest.raises(UnknownMemberIdError, match=r"^group a has no member m1 \("):
        admin.remove_group_members("a", ["m1"])


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda a: a.describe_groups([5]), TypeError),
        (lambda a: a.list_groups(broker_ids=["1"]), TypeError),
        (lambda a: a.list_groups(states_filter=[1]), TypeError),
        (lambda a: a.list_group_offsets({5: None}), TypeError),
        (lambda a: a.list_group_offsets({"a": ["t-0"]}), TypeError),
        (lambda a: a.reset_group_offsets("a", {T0: "earliest"}), TypeError),
        (lambda a: a.reset_group_offsets("a", {T0: -5}), IllegalArgumentError),
        (lambda a: a.alter_group_offsets("a", {T0: -5}), IllegalArgumentError),
        (lambda a: a.delete_group_offsets("a", ["t"]), TypeError),
        (lambda a: a.remove_group_members("a", [5]), TypeError),
        (lambda a: a.remove_group_members("a", [MemberToRemove()]), IllegalArgumentError),
        (lambda a: a.remove_group_members("a", [MemberToRemove("m", "i")]), IllegalArgumentError),
    ],
)
def test_calls_that_make_no_sense_are_refused_before_anybody_is_asked(cluster, admin, call, error):
    with pytest.raises(error):
        call(admin)
    assert [request for request in cluster.requests if type(request).__module__.endswith("group_messages")] == []


def test_nothing_to_do_is_done(cluster, admin):
    assert admin.describe_groups([]) == {}
    assert admin.list_group_offsets([]) == {}
    assert admin.reset_group_offsets("a", {}) == {}
    assert admin.alter_group_offsets("a", {}) == {}
    assert admin.delete_group_offsets("a", []) == {}
    assert admin.remove_group_members("a", []) == {}


def test_nobody_there_is_told_with_endpoint_and_stage():
    with AdminClient(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=100) as admin:
        for call in (admin.list_groups, lambda: admin.describe_groups(["a"]), lambda: admin.group_lag("a")):
            with pytest.raises(ConnectionFailedError, match=r"tcp://127\.0\.0\.1:1: connect"):
                call()


def test_the_asyncio_twin_looks_after_groups_too(cluster):
    a_topic(cluster, (0, 10))
    cluster.group("a", 2, t_0=4)

    async def main():
        async with AsyncAdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            assert [one.group_id for one in await admin.list_groups()] == ["a"]
            assert (await admin.describe_groups(["a"]))["a"].coordinator == 2
            assert (await admin.group_lag("a"))[T0].lag == 6
            assert (await admin.reset_group_offsets("a", {T0: OffsetShift(1)}))[T0].offset == 5
            assert (await admin.alter_group_offsets("a", {T0: 7})) == {T0: OffsetAndMetadata(7)}
            assert (await admin.list_group_offsets("a")) == {"a": {T0: OffsetAndMetadata(7)}}
            assert (await admin.delete_group_offsets("a", [T0]))[T0].error == 0
            assert (await admin.remove_group_members("a", ["m"], raise_errors=False))["m"].error
            assert (await admin.delete_groups(["a"]))["a"].error == 0

    asyncio.run(main())
