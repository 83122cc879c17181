"""Topics: granted whole or refused whole, each refusal with its own error."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from callboard.actors.controller import topics
from callboard.actors.controller.commands import plan
from callboard.actors.controller.draft import Draft
from callboard.actors.controller.topics import TopicRules, delete
from callboard.actors.metadata.documents import DeletedTopicDocument, deleted_key
from callboard.config import BrokerSettings, Limits, TopicConfig
from callboard.errors import ErrorCode
from callboard.model import PartitionKey, TopicId
from callboard.testing.metadata import image_with, stored, topic_id_of, with_documents, without_broker
from callboard.transport import messages as m

T0 = topic_id_of(0)
NEW = TopicId("f" * 32)


def created(wish, image=None, rules=None, **options):
    draft = Draft(image or image_with())
    result = (rules or TopicRules()).create(draft, wish, NEW, now_ms=5, **options)
    return result, draft


def wish(name="orders", partitions=-1, factor=-1, **fields):
    return m.NewTopic(name=name, num_partitions=partitions, replication_factor=factor, **fields)


def error(result):
    return ErrorCode(result.error)


# -- create ----------------------------------------------------------------------------------------------


def test_a_topic_comes_with_all_its_partitions_each_with_a_leader():
    result, draft = created(wish(partitions=6, factor=1))

    assert result == m.TopicResult(name="orders", topic_id=NEW, num_partitions=6, replication_factor=1)
    image = stored(draft)
    assert sorted(image.topic(NEW).partitions) == list(range(6))
    for key, partition in image.partitions():
        assert (partition.leader, partition.leader_incarnation) == (partition.isr[0], f"i{partition.leader}"), key
        assert (partition.leader_epoch, partition.partition_epoch) == (0, 0)
        assert partition.isr == partition.replicas
    assert all(put.if_version == 0 for put in draft.puts())


def test_counts_not_given_are_the_clusters():
    rules = TopicRules(broker=BrokerSettings(default_partitions=4, default_replication_factor=2))

    result, _ = created(wish(), rules=rules)

    assert (result.num_partitions, result.replication_factor) == (4, 2)


def test_without_any_word_there_are_three_replicas_and_two_must_have_each_record():
    result, draft = created(wish(), rules=TopicRules())

    assert result.replication_factor == 3
    assert stored(draft).topic_named("orders").document.min_insync_replicas == 2


def test_the_default_replication_factor_is_less_where_there_are_fewer_brokers():
    rules = TopicRules(broker=BrokerSettings(default_replication_factor=3))

    result, _ = created(wish(), image_with([1]), rules)

    assert result.replication_factor == 1


def test_a_default_factor_that_dead_brokers_make_impossible_is_refused_rather_than_lowered():
    rules = TopicRules(broker=BrokerSettings(default_replication_factor=3))

    result, _ = created(wish(), image_with([1, 2], registered=[3]), rules)

    assert error(result) == ErrorCode.INVALID_REPLICATION_FACTOR
    assert "2 live brokers of 3" in result.detail


@pytest.mark.parametrize("name", ["a", "a.b_c-D9", "x" * 249, "...", "_a"])
def test_names_that_are_allowed(name):
    result, _ = created(wish(name))

    assert result.error == 0


def test_names_that_differ_in_a_dot_and_an_underscore_only_are_two_topics():
    result, _ = created(wish("a.b"), image_with(topics={"a_b": [[1]]}))

    assert result.error == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "a/b", "x" * 250, "a\n", "__mine", "a\0"])
def test_names_that_are_not(name):
    result, draft = created(wish(name))

    assert error(result) == ErrorCode.INVALID_TOPIC
    assert not draft.puts()


def test_the_cluster_itself_may_create_its_own():
    result, draft = created(wish("__consumer_offsets"), is_internal=True)

    assert result.error == 0
    assert draft.image.topic_named("__consumer_offsets").document.is_internal


def test_a_name_in_use_is_refused():
    result, draft = created(wish("orders"), image_with(topics={"orders": [[1]]}))

    assert error(result) == ErrorCode.TOPIC_ALREADY_EXISTS
    assert not draft.puts()


@pytest.mark.parametrize("partitions", [0, -2, -(1 << 40)])
def test_partition_counts_that_cannot_be(partitions):
    result, _ = created(wish(partitions=partitions))

    assert error(result) == ErrorCode.INVALID_PARTITIONS


@pytest.mark.parametrize("factor", [0, -2, 4])
def test_replication_factors_that_cannot_be(factor):
    result, _ = created(wish(factor=factor))

    assert error(result) == ErrorCode.INVALID_REPLICATION_FACTOR


@pytest.mark.parametrize(
    ("limits", "partitions"),
    [
        (Limits(partitions_per_topic=5), 6),
        (Limits(partitions=8), 6),
        (Limits(topics=1), 1),
    ],
)
def test_limits_refuse(limits, partitions):
    image = image_with(topics={"a": [[1], [2], [3]]})

    result, draft = created(wish("b", partitions), image, TopicRules(limits=limits))

    assert error(result) == ErrorCode.LIMIT_EXCEEDED
    assert not draft.puts()


def test_limits_grant_what_is_just_within():
    image = image_with(topics={"a": [[1], [2], [3]]})

    result, _ = created(wish("b", 5), image, TopicRules(limits=Limits(partitions_per_topic=5, partitions=8, topics=2)))

    assert result.error == 0


def test_replicas_may_be_said_by_hand():
    result, draft = created(wish(assignments={0: [3, 1], 1: [2, 3]}))

    assert (result.num_partitions, result.replication_factor) == (2, 2)
    image = stored(draft)
    assert [image.partition(PartitionKey(NEW, number)).replicas for number in (0, 1)] == [(3, 1), (2, 3)]


def test_a_dead_broker_may_be_named_and_is_not_in_sync():
    result, draft = created(wish(assignments={0: [3, 1], 1: [3]} | {1: [3, 2]}), image_with([1, 2], registered=[3]))

    assert result.error == 0
    partition = draft.image.partition(PartitionKey(NEW, 0))
    assert (partition.replicas, partition.isr, partition.leader) == ((3, 1), (1,), 1)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"assignments": {1: [1]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: [1], 2: [1]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: []}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: [1, 1]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: [1, 2], 1: [1]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: [9]}}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ({"assignments": {0: [1]}, "partitions": 2}, ErrorCode.INVALID_PARTITIONS),
        ({"assignments": {0: [1]}, "factor": 2}, ErrorCode.INVALID_REPLICATION_FACTOR),
    ],
)
def test_replicas_said_by_hand_that_cannot_be(fields, code):
    result, draft = created(wish(**fields))

    assert error(result) == code, result
    assert not draft.puts()


def test_a_broker_given_up_on_a_topic_is_still_one_to_put_replicas_on():
    result, _ = created(wish(partitions=3, factor=2), without_broker(image_with(), 3))

    assert result.error == 0


# -- settings --------------------------------------------------------------------------------------------


def test_settings_are_checked_and_kept_as_said():
    result, draft = created(wish(configs={"flush": "os", "segment_bytes": 2_048}))

    assert result.error == 0
    assert draft.image.topic(NEW).document.configs == {"flush": "os", "segment_bytes": 2_048}


def test_kafkas_spelling_is_understood():
    result, draft = created(wish(configs={"segment.bytes": "2048", "min.insync.replicas": "1"}))

    assert result.error == 0
    assert draft.image.topic(NEW).document.configs == {"segment_bytes": 2_048, "min_insync_replicas": 1}


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ({"segment_byte": 1}, "did you mean 'segment_bytes'"),
        ({"flush": "never"}, "flush"),
        ({"segment_bytes": 3}, "segment_bytes"),
        ({"segment_bytes": "many"}, "segment_bytes"),
        ({"segment_bytes": None}, "segment_bytes"),
        ({"segment_ms": 1 << 70}, "64 bits"),
        ({"segment_ms": str(1 << 70)}, "segment_ms"),
    ],
)
def test_settings_that_cannot_be_are_named(configs, said):
    result, draft = created(wish(configs=configs))

    assert error(result) == ErrorCode.INVALID_CONFIGURATION
    assert said in result.detail
    assert "\n" not in result.detail
    assert not draft.puts()


@pytest.mark.parametrize(("factor", "settled"), [(1, 1), (2, 1), (3, 2)])
def test_min_insync_replicas_is_one_less_than_the_replicas_and_fixed_at_creation(factor, settled):
    _, draft = created(wish(factor=factor))

    assert draft.image.topic(NEW).document.min_insync_replicas == settled
    assert "min_insync_replicas" not in draft.image.topic(NEW).document.configs


def test_the_clusters_min_insync_replicas_counts_as_far_as_there_are_replicas():
    rules = TopicRules(defaults=TopicConfig(min_insync_replicas=2))

    assert created(wish(factor=3), rules=rules)[1].image.topic(NEW).document.min_insync_replicas == 2
    assert created(wish(factor=1), rules=rules)[1].image.topic(NEW).document.min_insync_replicas == 1


def test_min_insync_replicas_above_the_replication_factor_is_refused():
    result, _ = created(wish(factor=2, configs={"min_insync_replicas": 3}))

    assert error(result) == ErrorCode.INVALID_CONFIGURATION
    assert "above the replication factor" in result.detail


@pytest.mark.parametrize("none", [0, "0"])
def test_a_topic_cannot_ask_for_min_insync_replicas_of_none(none):
    for result, _ in (
        created(wish(factor=3, configs={"min_insync_replicas": none})),
        altered(orders(min_insync_replicas=1), set={"min.insync.replicas": none}),
    ):
        assert error(result) == ErrorCode.INVALID_CONFIGURATION
        assert "must be at least 1; leave it out" in result.detail


def altered(image, rules=None, **change):
    draft = Draft(image)
    return (rules or TopicRules()).alter(draft, m.TopicConfigChange(name="orders", **change)), draft


def orders(**configs):
    _, draft = created(wish(factor=3, configs=configs))
    return stored(draft)


def test_settings_are_set_and_given_back():
    image = orders(flush="os", segment_ms=5_000)

    result, draft = altered(image, set={"segment.bytes": 4_096}, delete=["flush"])

    assert (result.error, result.num_partitions, result.topic_id) == (0, 1, NEW)
    assert draft.image.topic(NEW).document.configs == {"segment_ms": 5_000, "segment_bytes": 4_096}
    assert draft.image.topic(NEW).document.min_insync_replicas == 2


def test_min_insync_replicas_is_altered_by_name_only():
    image = orders(min_insync_replicas=1)
    assert image.topic(NEW).document.min_insync_replicas == 1

    assert altered(image, set={"flush": "os"})[1].image.topic(NEW).document.min_insync_replicas == 1
    assert altered(image, set={"min_insync_replicas": 3})[1].image.topic(NEW).document.min_insync_replicas == 3
    assert altered(image, delete=["min_insync_replicas"])[1].image.topic(NEW).document.min_insync_replicas == 2
    assert error(altered(image, set={"min_insync_replicas": 4})[0]) == ErrorCode.INVALID_CONFIGURATION


def test_an_alteration_that_changes_nothing_writes_nothing():
    result, draft = altered(orders(flush="os"), set={"flush": "os"})

    assert (result.error, draft.puts()) == (0, [])


def test_deleting_a_setting_that_does_not_exist_names_the_nearest():
    result, _ = altered(orders(), delete=["flusch"])

    assert error(result) == ErrorCode.INVALID_CONFIGURATION
    assert "did you mean 'flush'" in result.detail


def test_altering_a_topic_that_is_not_there():
    result, _ = altered(image_with())

    assert error(result) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


# -- more partitions, fewer topics -------------------------------------------------------------------------


def grown(image, count, rules=None, **fields):
    draft = Draft(image)
    return (rules or TopicRules()).add_partitions(draft, m.NewPartitions(name="a", count=count, **fields)), draft


def test_partitions_are_added_behind_the_others_which_stay_as_they_are():
    image = image_with(topics={"a": [[1], [2]]})

    result, draft = grown(image, 5)

    assert (result.error, result.num_partitions) == (0, 5)
    assert {put.key for put in draft.puts()} == {f"topic/{T0}", *(f"partition/{T0}/{n}" for n in (2, 3, 4))}
    assert draft.image.topic(T0).document.partitions == 5
    assert draft.image.partition(PartitionKey(T0, 2)).leader == 3


def test_added_partitions_may_be_placed_by_hand():
    result, draft = grown(image_with(topics={"a": [[1]]}), 3, assignments=[[3], [3]])

    assert result.error == 0
    assert draft.image.partition(PartitionKey(T0, 2)).replicas == (3,)


@pytest.mark.parametrize(
    ("count", "fields", "code"),
    [
        (2, {}, ErrorCode.INVALID_PARTITIONS),
        (1, {}, ErrorCode.INVALID_PARTITIONS),
        (-5, {}, ErrorCode.INVALID_PARTITIONS),
        (20_000, {}, ErrorCode.LIMIT_EXCEEDED),
        (3, {"assignments": [[1], [2]]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (3, {"assignments": [[1, 2]]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
def test_partition_counts_that_cannot_be_added(count, fields, code):
    result, draft = grown(image_with(topics={"a": [[1], [2]]}), count, **fields)

    assert error(result) == code
    assert not draft.puts()


def test_a_topic_cannot_grow_while_there_are_fewer_brokers_than_replicas():
    image = without_broker(image_with(topics={"a": [[1, 2, 3]]}), 3)

    assert error(grown(image, 2)[0]) == ErrorCode.INVALID_REPLICATION_FACTOR


def test_a_deleted_topic_goes_with_all_its_partitions_and_leaves_a_mark():
    image = image_with(topics={"a": [[1], [2]], "b": [[3]]})
    draft = Draft(image)

    result = delete(draft, "a", now_ms=7)

    assert (result.error, result.topic_id) == (0, T0)
    after = stored(draft)
    assert after.topic_named("a") is None
    assert after.is_deleted(T0)
    assert [key.topic_id for key, _ in after.partitions()] == [topic_id_of(1)]
    assert not after.is_deleted(topic_id_of(1))
    assert all(put.if_version == image.version_of(put.key) for put in draft.puts())


def test_the_oldest_marks_are_forgotten(monkeypatch):
    monkeypatch.setattr(topics, "DELETED_MAX", 2)
    image = image_with(topics={"a": [[1]]})
    for number in (7, 8):
        image = with_documents(
            image, [(deleted_key(topic_id_of(number)), DeletedTopicDocument(name="x", deleted_ms=number))]
        )
    draft = Draft(image)

    delete(draft, "a", now_ms=9)

    assert set(stored(draft).deleted) == {topic_id_of(8), T0}


def test_internal_topics_are_not_a_users_to_delete_alter_or_grow():
    _, draft = created(wish("__own"), is_internal=True)
    draft = Draft(stored(draft))
    rules = TopicRules()

    results = [
        delete(draft, "__own", 0),
        rules.alter(draft, m.TopicConfigChange(name="__own")),
        rules.add_partitions(draft, m.NewPartitions(name="__own", count=9)),
    ]

    assert {error(result) for result in results} == {ErrorCode.INVALID_TOPIC}
    assert not draft.puts()


def test_a_long_name_is_not_repeated_whole_in_an_error():
    result = delete(Draft(image_with()), "x" * 100_000, 0)

    assert len(result.detail) < 400


# -- requests ----------------------------------------------------------------------------------------------


def planned(draft, request, **options):
    ids = itertools.count(100)
    make_reply = plan(TopicRules(), draft, request, now_ms=1, new_id=lambda: f"{next(ids):032x}", **options)
    return make_reply(42)


def test_results_come_in_the_requests_order_good_and_bad_together():
    draft = Draft(image_with(topics={"a": [[1]]}))

    reply = planned(draft, m.CreateTopicsRequest(topics=[wish("b"), wish("a"), wish("c"), wish("b")]))

    assert [(one.name, one.error) for one in reply.topics] == [
        ("b", 0),
        ("a", ErrorCode.TOPIC_ALREADY_EXISTS),
        ("c", 0),
        ("b", ErrorCode.TOPIC_ALREADY_EXISTS),
    ]
    assert reply.version == 42


def test_requests_of_one_draft_see_each_other():
    draft = Draft(image_with())

    planned(draft, m.CreateTopicsRequest(topics=[wish("a")]))
    assert planned(draft, m.DeleteTopicsRequest(names=["a"])).topics[0].error == 0
    assert planned(draft, m.AlterTopicsRequest(topics=[m.TopicConfigChange(name="a")])).topics[0].error != 0
    assert planned(draft, m.CreateTopicsRequest(topics=[wish("a")])).topics[0].error == 0


@pytest.mark.parametrize(
    "request_",
    [
        m.CreateTopicsRequest(topics=[wish("b")], validate_only=True),
        m.CreatePartitionsRequest(topics=[m.NewPartitions(name="a", count=9)], validate_only=True),
        m.AlterTopicsRequest(topics=[m.TopicConfigChange(name="a", set={"flush": "os"})], validate_only=True),
    ],
)
def test_what_is_only_validated_is_answered_and_not_done(request_):
    draft = Draft(image_with(topics={"a": [[1]]}))

    reply = planned(draft, request_)

    assert [one.error for one in reply.topics] == [0]
    assert not draft.puts()


def test_a_request_that_is_none_of_the_controllers_is_refused():
    assert planned(Draft(image_with()), m.ProduceRequest()).error == ErrorCode.INVALID_REQUEST


def test_a_request_of_too_many_topics_is_refused():
    names = ["a"] * 10_001

    assert planned(Draft(image_with()), m.DeleteTopicsRequest(names=names)).error == ErrorCode.LIMIT_EXCEEDED


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_asked_the_picture_stays_whole(data):
    """Every topic has exactly its partitions, each with as many distinct replicas as it says, all on known brokers."""
    image = image_with(registered=[4])
    names = st.sampled_from(["a", "b", "c", "__x", "bad name"])
    numbers = st.integers(-1, 5)
    create = st.builds(
        m.NewTopic,
        name=names,
        num_partitions=numbers,
        replication_factor=st.integers(-1, 4),
        assignments=st.one_of(
            st.just({}),
            st.dictionaries(st.integers(0, 2), st.lists(st.integers(1, 5), max_size=3), max_size=3),
        ),
        configs=st.one_of(
            st.just({}), st.just({"flush": "os"}), st.just({"bad": 1}), st.just({"min_insync_replicas": 2})
        ),
    )
    requests = st.one_of(
        st.builds(m.CreateTopicsRequest, topics=st.lists(create, max_size=3)),
        st.builds(m.DeleteTopicsRequest, names=st.lists(names, max_size=2)),
        st.builds(
            m.CreatePartitionsRequest,
            topics=st.lists(st.builds(m.NewPartitions, name=names, count=numbers), max_size=2),
        ),
        st.builds(
            m.AlterTopicsRequest,
            topics=st.lists(
                st.builds(m.TopicConfigChange, name=names, set=st.sampled_from([{}, {"min_insync_replicas": 3}])),
                max_size=2,
            ),
        ),
    )
    for round_ in range(3):
        draft = Draft(image)
        for number, request in enumerate(data.draw(st.lists(requests, max_size=4))):
            ids = itertools.count(1_000 * round_ + 100 * number + 10)
            plan(TopicRules(), draft, request, now_ms=1, new_id=lambda ids=ids: f"{next(ids):032x}")
        image = stored(draft)
        assert image.topics == draft.image.topics
        assert len({topic.name for topic in image.topics.values()}) == len(image.topics)
        for topic in image.topics.values():
            document = topic.document
            assert sorted(topic.partitions) == list(range(document.partitions))
            assert 1 <= document.min_insync_replicas <= document.replication_factor
            for partition in topic.partitions.values():
                assert len(set(partition.replicas)) == len(partition.replicas) == document.replication_factor
                assert set(partition.replicas) <= {1, 2, 3, 4}
                assert set(partition.isr) <= set(partition.replicas)
                assert partition.isr
                assert partition.leader in (*partition.isr, -1)


# -- replicas --------------------------------------------------------------------------------------------


def test_each_of_three_replicas_begins_in_sync_and_two_of_them_are_the_minimum():
    result, draft = created(wish(partitions=3, factor=3))

    assert result.error == 0
    topic = draft.image.topic(NEW)
    assert topic.document.min_insync_replicas == 2
    assert all(sorted(one.isr) == [1, 2, 3] and one.elr == () for one in topic.partitions.values())


def test_a_factor_above_the_live_brokers_is_refused_in_a_line_that_says_why():
    result, _ = created(wish(factor=4))

    assert error(result) == ErrorCode.INVALID_REPLICATION_FACTOR
    assert "replication factor 4 with 3 live brokers of 3" in result.detail


def below_the_minimum():
    """A partition whose ISR is below its minimum of 2, with one eligible replica outside."""
    image = image_with(topics={"a": [[1, 2, 3]]})
    now = replace(image.partition(PartitionKey(T0, 0)), isr=(1,), elr=(2,))
    return with_documents(image, [(f"partition/{T0}/0", now)])


def with_minimum(image, minimum):
    draft = Draft(image)
    TopicRules().alter(draft, m.TopicConfigChange(name="a", set={"min_insync_replicas": minimum}))
    return stored(draft).partition(PartitionKey(T0, 0))


def test_a_lower_minimum_ends_the_eligibility_of_those_that_records_are_committed_without():  # R6
    now = with_minimum(below_the_minimum(), 1)

    assert (now.isr, now.elr, now.partition_epoch) == ((1,), (), 1)


def test_another_minimum_fences_leaders_that_still_count_by_the_old_one():  # R3, R5
    now = with_minimum(below_the_minimum(), 3)

    assert (now.elr, now.partition_epoch, now.leader_epoch) == ((2,), 1, 0)


def test_the_same_minimum_again_changes_no_partition():
    assert with_minimum(below_the_minimum(), 2).partition_epoch == 0
