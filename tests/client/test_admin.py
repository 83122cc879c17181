"""Administration through real sockets against scripted brokers."""

from __future__ import annotations

import pytest

from callboard import AdminClient, ConfigurationError, ConnectionFailedError, ErrorCode, IllegalStateError, NewTopic
from callboard.client import admin_io
from callboard.errors import (
    CallboardTimeoutError,
    EligibleLeadersNotAvailableError,
    IllegalArgumentError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from callboard.model import TopicPartition
from callboard.transport.messages import CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest


@pytest.fixture
def admin(cluster):
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers, unknown_topic_timeout_ms=50) as client:
        yield client


@pytest.mark.parametrize(
    "topics",
    [["t"], "t", [NewTopic("t", 1)], {"t": {"num_partitions": 1, "configs": {"flush": "os"}}}, {"t": 1}],
)
def test_topics_are_created_from_names_objects_and_mappings(cluster, admin, topics):
    results = admin.create_topics(topics)

    assert results["t"].error == 0
    assert admin.list_topics() == ["t"]


def test_a_created_topic_is_known_to_every_broker(cluster, admin):
    admin.create_topics({"t": {"num_partitions": 3}})

    (topic,) = admin.describe_topics(["t"])
    assert [part.leader for part in topic.partitions] == [1, 2, 1]


def test_a_refusal_is_raised_or_returned(cluster, admin):
    cluster.create("t")

    with pytest.raises(TopicAlreadyExistsError, match="'t'"):
        admin.create_topics(["t"])
    assert admin.create_topics(["t"], raise_errors=False)["t"].error == ErrorCode.TOPIC_ALREADY_EXISTS


def test_validating_changes_nothing(cluster, admin):
    admin.create_topics(["t"], validate_only=True)

    assert admin.list_topics() == []


def test_topics_are_deleted(cluster, admin):
    cluster.create("t")

    admin.delete_topics(["t"])

    assert admin.list_topics() == []
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.delete_topics(["t"])


def brokers_are_behind(cluster, times):
    """The next answers to who asks for topics are those of a broker that has not heard of any."""
    left = [times]

    def is_behind(inbound):
        if not isinstance(inbound.message, MetadataRequest) or inbound.message.topics is not None or not left[0]:
            return None
        left[0] -= 1
        return "behind"

    cluster.call(cluster.faults.append, is_behind)
    return left


@pytest.mark.parametrize("change", ["made", "seen"])
def test_what_is_told_never_goes_back(cluster, admin, change):
    if change == "made":
        admin.create_topics(["t"], wait_for_metadata=False)
    else:
        cluster.create("t")
        assert admin.list_topics() == ["t"]
    left = brokers_are_behind(cluster, times=3)

    assert admin.list_topics() == ["t"]
    assert left == [0]


def test_an_old_answer_is_better_than_none(cluster, admin, monkeypatch):
    monkeypatch.setattr(admin_io, "BEHIND_MS", 20)
    admin.create_topics(["t"])
    brokers_are_behind(cluster, times=1_000)

    assert admin.list_topics() == []


def test_another_cluster_at_the_same_address_is_no_older_one(cluster, admin):
    admin.create_topics(["t"])
    cluster.cluster_id, cluster.version = "another", 1

    assert admin.list_topics() == ["t"]
    assert admin._shell._told == ("another", 1)


def test_the_controller_is_looked_for_until_it_is_found(cluster, admin):
    cluster.add_fault(CreateTopicsRequest, ErrorCode.NOT_CONTROLLER, count=2)

    assert admin.create_topics(["t"])["t"].error == 0


def test_a_creation_whose_answer_was_lost_counts_as_done(cluster, admin):
    cluster.add_fault(CreateTopicsRequest, "lost connection")

    assert admin.create_topics(["t"])["t"].error == 0


def test_a_deletion_whose_answer_was_lost_counts_as_done(cluster, admin):
    cluster.create("t")
    cluster.add_fault(DeleteTopicsRequest, "lost connection")

    assert admin.delete_topics(["t"])["t"].error == 0


@pytest.mark.parametrize("partitions", [None, [("t", 0)], {"t": [0]}, [TopicPartition("t", 0)]])
@pytest.mark.parametrize("election", ["preferred", 0, "PREFERRED"])
def test_an_election_that_is_not_needed_is_told_and_is_no_error(cluster, admin, election, partitions):
    cluster.create("t")

    results = admin.elect_leaders(election, partitions)

    assert [(key, entry.error, entry.leader) for key, entry in results.items()] == [
        (TopicPartition("t", 0), ErrorCode.ELECTION_NOT_NEEDED, 1)
    ]


def test_an_election_that_elects_nobody_is_raised_or_returned(cluster, admin):
    cluster.create("t")

    with pytest.raises(EligibleLeadersNotAvailableError, match="t-0"):
        admin.elect_leaders("unclean", {"t": [0]})
    assert admin.elect_leaders("unclean", {"t": [0]}, raise_errors=False)["t", 0].error == 83


@pytest.mark.parametrize(
    ("election", "partitions", "kind"),
    [
        ("dirty", None, IllegalArgumentError),
        (2, None, IllegalArgumentError),
        (True, None, TypeError),
        (None, None, TypeError),
        ("preferred", [("t", "0")], TypeError),
        ("preferred", [(7, 0)], TypeError),
        ("preferred", [("t",)], TypeError),
    ],
)
def test_elections_that_make_no_sense_are_refused_before_anybody_is_asked(admin, election, partitions, kind):
    with pytest.raises(kind):
        admin.elect_leaders(election, partitions)


def test_no_controller_is_told_in_time(cluster, admin):
    cluster.add_fault(CreateTopicsRequest, ErrorCode.NOT_CONTROLLER, count=1_000)

    with pytest.raises(CallboardTimeoutError, match="NOT_CONTROLLER"):
        admin.create_topics(["t"], timeout_ms=200)


def test_nobody_there_is_told_with_endpoint_and_stage():
    with AdminClient(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=100) as admin:
        for call in (admin.list_topics, admin.describe_cluster, lambda: admin.create_topics(["t"])):
            with pytest.raises(ConnectionFailedError, match=r"tcp://127\.0\.0\.1:1: connect"):
                call()


def test_waiting_for_topics_ends_when_they_have_leaders_or_are_not_there(cluster, admin):
    cluster.create("t", 2)

    admin.wait_for_topics(["t"])
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.wait_for_topics(["nope"], timeout_ms=5_000)
    cluster.call(lambda: cluster.topics["t"].leaders.__setitem__(0, -1))
    cluster.call(lambda: setattr(cluster, "version", cluster.version + 1))
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as other, pytest.raises(CallboardTimeoutError):
        other.wait_for_topics(["t"], timeout_ms=100)


def test_settings_are_described_with_their_defaults(cluster, admin):
    cluster.create("t", flush="os")

    configs = admin.describe_configs(["t"])["t"]

    assert configs["flush"] == "os"
    assert configs["max_message_bytes"] == 1 << 20


def test_the_cluster_is_described(cluster, admin):
    described = admin.describe_cluster()

    assert [broker.id for broker in described.brokers] == [1, 2]
    assert described.controller_id == 1


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda a: a.create_topics([5]), TypeError, "NewTopic or a name"),
        (lambda a: a.create_topics({"t": {"num_partition": 3}}), ConfigurationError, "'num_partitions'"),
        (lambda a: a.create_topics({"t": {"num_partitions": "3"}}), TypeError, "topic t"),
        (lambda a: a.create_partitions({"t": {"total": 3}}), ConfigurationError, "count"),
        (lambda a: a.delete_topics([b"t"]), TypeError, "names"),
        (lambda a: a.kill(5), TypeError, "address"),
        (lambda a: AdminClient(bootstrap_server="x"), ConfigurationError, "'bootstrap_servers'"),
        (lambda a: AdminClient(bootstrap_servers="x:y"), ConfigurationError, "not a port"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(admin, call, error, says):
    with pytest.raises(error, match=says) as caught:
        call(admin)
    assert "\n" not in str(caught.value)


def test_a_closed_client_says_so(cluster):
    admin = AdminClient(bootstrap_servers=cluster.bootstrap_servers)
    admin.close()
    admin.close()

    with pytest.raises(IllegalStateError, match="closed"):
        admin.list_topics()
