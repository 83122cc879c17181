"""The picture: brought up by changes it is the one a snapshot shows, and it never changes itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.actors.controller.draft import Draft
from callboard.actors.controller.image import ClusterImage
from callboard.actors.metadata.documents import (
    NO_LEADER,
    LeaseDocument,
    PartitionDocument,
    SessionDocument,
    TopicDocument,
    partition_key,
    session_key,
    topic_key,
    written,
)
from callboard.config import TopicConfig
from callboard.errors import ErrorCode, InvariantViolated
from callboard.model import PartitionKey
from callboard.testing.metadata import (
    image_with,
    stored,
    topic_id_of,
    with_broker,
    with_documents,
    with_topic,
    without_broker,
)
from callboard.transport.messages import Document, MetadataRequest

T0 = topic_id_of(0)
KEY = PartitionKey(T0, 0)


def test_nobody_was_told_anything_yet():
    image = ClusterImage.empty()

    assert (image.version, image.controller_id, image.cluster_id, list(image.partitions())) == (0, -1, "", [])


def test_topics_are_found_by_name_and_by_id():
    image = image_with(topics={"orders": [[1], [2]]})

    assert image.topic_named("orders") is image.topic(T0)
    assert image.topic_named("order") is None
    assert image.partition(PartitionKey(T0, 1)).leader == 2
    assert image.partition(PartitionKey(T0, 2)) is None
    assert image.partitions_of(2) == [PartitionKey(T0, 1)]
    assert image.partition_count() == 2


def test_a_picture_does_not_change_when_the_next_is_made():
    before = image_with(topics={"orders": [[1]]})
    partition = before.partition(KEY)

    after = with_topic(without_broker(before, 1), "more", [[2]], topic_id_of(1))

    assert before.partition(KEY) is partition
    assert before.topic_named("more") is None
    assert 1 in before.brokers
    assert (1 in after.brokers, after.topic_named("more") is not None) == (False, True)


def test_what_was_not_touched_is_shared():
    before = image_with(topics={"a": [[1]], "b": [[2]]})

    after = with_documents(before, [(partition_key(KEY), PartitionDocument(replicas=(1,), isr=(1,)))])

    assert after.topics[topic_id_of(1)] is before.topics[topic_id_of(1)]
    assert after.sessions is before.sessions


def test_a_deleted_topic_takes_its_name_along_and_another_may_have_it():  # B33
    image = image_with(topics={"a": [[1]]})

    image = with_documents(image, [(partition_key(KEY), None), (topic_key(T0), None)])
    assert image.topic_named("a") is None

    image = with_topic(image, "a", [[2]], topic_id_of(5))
    assert image.topic_named("a").topic_id == topic_id_of(5)
    assert image.topic(T0) is None


def test_a_name_that_is_given_to_another_topic_in_the_same_change_is_the_others():  # B33
    image = image_with(topics={"a": [[1]]})
    again = topic_id_of(5)

    for order in (1, -1):
        changes = [(partition_key(KEY), None), (topic_key(T0), None), (topic_key(again), a_topic("a"))][::order]
        after = with_documents(image, changes)
        assert after.topic_named("a").topic_id == again


def a_topic(name):
    return TopicDocument(name=name, partitions=1)


def test_a_leader_leads_while_it_lives_in_the_life_it_was_elected_in():
    image = image_with(topics={"a": [[1]]})
    assert image.leader_of(image.partition(KEY)) == 1

    assert without_broker(image, 1).leader_of(image.partition(KEY)) == NO_LEADER
    assert with_broker(image, 1, "another life").leader_of(image.partition(KEY)) == NO_LEADER


def test_the_controller_is_who_holds_the_lease_in_this_life():
    image = image_with(controller=2)
    assert image.controller_id == 2

    assert without_broker(image, 2).controller_id == -1
    assert with_broker(image, 2, "another life").controller_id == -1
    assert with_documents(image, [("lease", LeaseDocument(controller_epoch=4))]).controller_id == -1


def test_hosts_are_not_brokers():
    image = with_documents(
        image_with([1]),
        [(session_key("host-a"), SessionDocument(incarnation="x", kind="host", endpoints=("tcp://h:1",)))],
    )

    assert list(image.brokers) == [1]
    reply = image.cluster_reply()
    assert [(host.name, host.endpoints) for host in reply.hosts] == [("host-a", ["tcp://h:1"])]
    assert [broker.id for broker in reply.brokers] == [1]


def test_versions_are_known_by_key():
    image = with_topic(image_with([1]), "a", [[1]], T0)

    assert image.version_of(topic_key(T0)) == image.version_of(partition_key(KEY)) == 2
    assert image.version_of(session_key("broker-1")) == 1
    assert [
        image.version_of(key) for key in ("topic/x", "partition/x/0", "session/x", partition_key(PartitionKey(T0, 9)))
    ] == [0] * 4


def test_documents_of_a_newer_callboard_are_no_obstacle():
    image = image_with().with_changes(
        9,
        [
            Document(key="acl/alice", version=9, value={"may": "read"}),
            Document(key="session/broker-9", version=9, value={"incarnation": "x", "broker_id": 9, "rack": "r1"}),
        ],
    )

    assert 9 in image.brokers


@pytest.mark.parametrize(
    "document",
    [
        Document(key=f"topic/{T0}", version=2, value={"partitions": 1}),
        Document(key=f"partition/{T0}/x", version=2, value={"replicas": [1], "isr": [1]}),
        Document(key=f"partition/{T0}/0", version=2, value={"replicas": [1], "isr": [1]}),
    ],
)
def test_a_document_that_cannot_be_is_a_bug_and_named(document):
    with pytest.raises(InvariantViolated, match=T0):
        image_with([1]).with_changes(2, [document])


def test_a_topics_config_is_the_clusters_with_its_own_settings_over_it():
    topic = TopicDocument(name="a", partitions=1, replication_factor=3, min_insync_replicas=2, configs={"flush": "os"})
    image = with_documents(image_with(), [(topic_key(T0), topic)])

    config = image.topic(T0).config(TopicConfig(segment_bytes=4_096, min_insync_replicas=1))

    assert (config.flush, config.segment_bytes, config.min_insync_replicas) == ("os", 4_096, 2)


def test_the_names_of_brokers_are_found_behind_an_address():
    image = image_with([1, 2])

    assert [image.broker_id_of(name) for name in ("broker-2", "host/broker-1", "broker-7")] == [2, 1, -1]


# -- answers ---------------------------------------------------------------------------------------------


def test_metadata_of_all_topics_leaves_internal_ones_out_unless_asked():
    image = image_with(topics={"b": [[1]], "a": [[2]]})
    hidden = TopicDocument(name="__offsets", partitions=1, is_internal=True)
    image = with_documents(image, [(topic_key(topic_id_of(7)), hidden)])

    assert [topic.name for topic in image.metadata_reply(MetadataRequest()).topics] == ["a", "b"]
    everything = image.metadata_reply(MetadataRequest(include_internal=True))
    assert [topic.name for topic in everything.topics] == ["__offsets", "a", "b"]


def test_metadata_tells_leaders_and_who_cannot_serve():
    image = without_broker(image_with(topics={"a": [[1, 2, 3], [2, 3, 1]]}), 1)

    reply = image.metadata_reply(MetadataRequest(topics=["a"]))

    assert [(p.partition, p.leader, p.isr, p.offline_replicas) for p in reply.topics[0].partitions] == [
        (0, -1, [1, 2, 3], [1]),  # before the election: no leader, rather than a dead one
        (1, 2, [2, 3, 1], [1]),
    ]
    assert (reply.version, reply.cluster_id, [broker.id for broker in reply.brokers]) == (
        image.version,
        "c" * 32,
        [2, 3],
    )


def test_metadata_of_a_topic_that_is_not_there_is_its_own_error():
    reply = image_with(topics={"a": [[1]]}).metadata_reply(MetadataRequest(topics=["a", "b", "a"]))

    assert [(topic.name, topic.error) for topic in reply.topics] == [
        ("a", 0),
        ("b", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]


# -- drafts ----------------------------------------------------------------------------------------------


def test_a_draft_compares_with_the_base_however_often_a_document_changes():
    image = image_with(topics={"a": [[1]]})
    draft = Draft(image)

    draft.put([(partition_key(KEY), PartitionDocument(replicas=(1,), isr=(1,), leader_epoch=1))])
    draft.put([(partition_key(KEY), PartitionDocument(replicas=(1,), isr=(1,), leader_epoch=2))])

    (put,) = draft.puts()
    assert (put.if_version, put.value["leader_epoch"]) == (image.version_of(put.key), 2)
    assert draft.image.partition(KEY).leader_epoch == 2
    assert image.partition(KEY).leader_epoch == 0


def test_what_is_made_and_deleted_within_a_draft_is_not_written():
    draft = Draft(image_with())
    draft.put([(topic_key(T0), a_topic("a"))])
    draft.put([(topic_key(T0), None)])

    assert draft.puts() == []
    assert draft.image.topic_named("a") is None


def test_what_is_tried_on_a_fork_is_not_seen():
    draft = Draft(image_with())
    draft.put([(topic_key(T0), a_topic("a"))])
    tried = draft.fork()
    tried.put([(topic_key(topic_id_of(1)), a_topic("b"))])

    assert len(draft) == 1
    assert draft.image.topic_named("b") is None
    assert tried.image.topic_named("a") is not None


CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["topic", "partition", "session", "lease"]), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    max_size=12,
)


def a_change(kind, number, is_delete, salt):
    """Keys and values of one change; a topic comes and goes with its partition."""
    topic_id = topic_id_of(number)
    if kind == "topic":
        partition = PartitionDocument(replicas=(1,), isr=(1,), leader_epoch=salt)
        topic = TopicDocument(name=f"t{number}", partitions=1, created_ms=salt)
        return [
            (topic_key(topic_id), None if is_delete else topic),
            (partition_key(PartitionKey(topic_id, 0)), None if is_delete else partition),
        ]
    if kind == "session":
        session = SessionDocument(incarnation=f"i{salt}", broker_id=number)
        return [(session_key(f"broker-{number}"), None if is_delete else session)]
    if kind == "lease":
        return [("lease", LeaseDocument(holder=f"broker-{number}", controller_epoch=salt))]
    return []


@settings(max_examples=80, deadline=None)
@given(CHANGES)
def test_a_picture_brought_up_by_deltas_equals_the_one_of_a_snapshot(transactions):  # B29
    image, documents, version = image_with([]), {}, 1
    documents["cluster"] = Document(key="cluster", version=1, value={"cluster_id": "c" * 32})
    for transaction in transactions:
        version += 1
        delta = [
            Document(key=key, version=version, value=None if shape is None else written(shape))
            for change in transaction
            for key, shape in a_change(*change, version)
        ]
        image = image.with_changes(version, delta)
        for document in delta:
            documents.pop(document.key, None)
            if document.value is not None:
                documents[document.key] = document

    snapshot = ClusterImage.of(version, documents.values(), "s")

    assert image.topics == snapshot.topics
    assert (image.sessions, image.brokers, image.lease) == (snapshot.sessions, snapshot.brokers, snapshot.lease)
    assert image.metadata_reply(MetadataRequest()) == snapshot.metadata_reply(MetadataRequest())
    for key in documents:
        assert image.version_of(key) == snapshot.version_of(key) == documents[key].version


def test_a_committed_draft_gives_the_picture_it_had_drawn():
    draft = Draft(image_with(topics={"a": [[1]]}))
    draft.put([(topic_key(topic_id_of(1)), a_topic("b"))])

    assert stored(draft).topic_named("b").document == draft.image.topic_named("b").document
