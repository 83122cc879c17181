"""Metadata never goes back, and is asked for no more often than helps."""

from __future__ import annotations

from callboard.client.metadata import (
    REFRESH_PAUSE_MS_LATER,
    REFRESH_PAUSE_MS_MAX,
    REFRESH_QUIET_MS,
    Metadata,
    RefreshPolicy,
)
from callboard.errors import ErrorCode
from callboard.transport.messages import BrokerMetadata, MetadataReply, PartitionMetadata, TopicMetadata


def a_topic(name="t", topic_id="a", leader=1, epoch=0, partitions=1, **more) -> TopicMetadata:
    parts = [PartitionMetadata(partition=i, leader=leader, leader_epoch=epoch) for i in range(partitions)]
    return TopicMetadata(name=name, topic_id=topic_id, partitions=parts, **more)


def a_reply(version: int, *topics: TopicMetadata, cluster="c", brokers=(1, 2)) -> MetadataReply:
    known = [BrokerMetadata(id=i, endpoints=[f"tcp://h:{i}"]) for i in brokers]
    return MetadataReply(version=version, cluster_id=cluster, controller_id=1, brokers=known, topics=list(topics))


def test_an_older_reply_changes_nothing():
    metadata = Metadata()
    metadata.on_reply(a_reply(5, a_topic(leader=2, epoch=3)), ["t"], 0)

    assert not metadata.on_reply(a_reply(4, a_topic(leader=1, epoch=2)), ["t"], 1)

    assert metadata.leader("t", 0).broker_id == 2
    assert metadata.version == 5


def test_a_hint_of_a_newer_epoch_survives_a_reply_of_an_older_one():
    metadata = Metadata()
    metadata.on_reply(a_reply(5, a_topic(leader=1, epoch=3)), ["t"], 0)

    assert metadata.on_leader_hint("a", 0, 2, 4)
    metadata.on_reply(a_reply(5, a_topic(leader=1, epoch=3)), ["t"], 0)

    assert metadata.leader("t", 0)[3:] == (2, 4)


def test_a_hint_about_an_unknown_broker_or_an_old_epoch_is_not_taken():
    metadata = Metadata()
    metadata.on_reply(a_reply(5, a_topic(leader=1, epoch=3)), ["t"], 0)

    assert not metadata.on_leader_hint("a", 0, 9, 4)
    assert not metadata.on_leader_hint("a", 0, 2, 3)
    assert not metadata.on_leader_hint("other", 0, 2, 4)


def test_another_cluster_is_learnt_from_scratch():
    metadata = Metadata()
    metadata.on_reply(a_reply(50, a_topic()), ["t"], 0)

    assert metadata.on_reply(a_reply(1, cluster="d"), ["t"], 0)

    assert metadata.leader("t", 0) is None
    assert metadata.version == 1


def test_a_broker_that_knows_of_no_cluster_yet_takes_nothing_from_us():
    metadata = Metadata(unknown_topic_timeout_ms=100)
    metadata.on_reply(a_reply(50, a_topic()), ["t"], 0)

    assert not metadata.on_reply(a_reply(0, cluster="", brokers=()), ["t"], 10)

    assert metadata.leader("t", 0).broker_id == 1
    assert set(metadata.brokers) == {1, 2}
    assert not metadata.is_gone("t", 10_000)


def test_a_topic_is_gone_only_after_it_was_unknown_for_a_while():
    metadata = Metadata(unknown_topic_timeout_ms=100)
    unknown = TopicMetadata(name="t", error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    metadata.on_reply(a_reply(1, unknown), ["t"], 1_000)

    assert not metadata.is_gone("t", 1_099)
    assert metadata.is_gone("t", 1_100)

    metadata.on_reply(a_reply(2, a_topic()), ["t"], 1_100)
    assert not metadata.is_gone("t", 9_999)


def test_a_topic_that_is_left_out_of_an_answer_about_it_is_unknown():
    metadata = Metadata(unknown_topic_timeout_ms=0)
    metadata.on_reply(a_reply(1, a_topic()), ["t"], 0)

    metadata.on_reply(a_reply(2), ["t"], 0)

    assert metadata.leader("t", 0) is None
    assert metadata.is_gone("t", 0)


def test_a_topic_made_anew_has_another_id_and_may_begin_at_a_lower_epoch():
    metadata = Metadata()
    metadata.on_reply(a_reply(1, a_topic(topic_id="a", epoch=7)), ["t"], 0)

    metadata.on_reply(a_reply(2, a_topic(topic_id="b", epoch=0)), ["t"], 0)

    assert metadata.leader("t", 0)[1:] == ("b", 0, 1, 0)


def test_available_partitions_are_those_with_a_leader():
    metadata = Metadata()
    topic = TopicMetadata(
        name="t",
        topic_id="a",
        partitions=[PartitionMetadata(partition=0, leader=-1), PartitionMetadata(partition=1, leader=2)],
    )
    metadata.on_reply(a_reply(1, topic), ["t"], 0)

    assert metadata.available("t") == [1]
    assert not metadata.has_leaders("t")


def asked_in_vain(policy: RefreshPolicy, now: int, times: int) -> list[int]:
    """Return the pauses before each of so many questions whose answers bring nothing new."""
    pauses = []
    for _ in range(times):
        policy.want(now)
        due = policy.due_ms(now)
        pauses.append(due - now)
        now = due
        policy.on_asked()
        policy.on_answer(now, is_news=False)
    return pauses


def test_metadata_is_asked_for_at_once_and_then_with_pauses_of_half_the_time_that_it_was_in_vain():
    pauses = asked_in_vain(RefreshPolicy(max_age_ms=300_000), 10_000, 80)

    assert pauses[:6] == [0, 5, 5, 5, 7, 11], "an election takes milliseconds"
    assert pauses == sorted(pauses)
    assert REFRESH_PAUSE_MS_MAX in pauses
    assert pauses[-1] == REFRESH_PAUSE_MS_LATER


def test_a_connection_that_was_lost_is_asked_about_at_once_however_long_it_was_in_vain_before():
    policy = RefreshPolicy(max_age_ms=300_000)
    now = 10_000 + sum(asked_in_vain(policy, 10_000, 40))

    policy.on_trouble(now)

    assert policy.due_ms(now) == now
    assert asked_in_vain(policy, now, 3) == [0, 5, 5]


def test_what_is_needed_after_a_quiet_time_is_another_matter():
    policy = RefreshPolicy(max_age_ms=300_000)
    now = 10_000 + sum(asked_in_vain(policy, 10_000, 40)) + 2 * REFRESH_QUIET_MS

    assert asked_in_vain(policy, now, 3) == [0, 5, 5]


def test_what_was_wanted_before_the_question_was_sent_is_answered_by_it():
    policy = RefreshPolicy(max_age_ms=300_000)
    policy.want(0)
    policy.on_asked()
    policy.want(1)
    policy.on_sent()
    policy.on_answer(2, is_news=True)

    assert policy.due_ms(2) > 2

    policy.want(3)
    policy.on_asked()
    policy.on_sent()
    policy.want(4)
    policy.on_answer(5, is_news=True)
    assert policy.due_ms(5) == 5, "what was wanted later is not"


def test_news_make_the_next_question_free():
    policy = RefreshPolicy(max_age_ms=300_000)
    policy.want(0)
    policy.on_asked()
    policy.on_answer(0, is_news=True)

    policy.want(0)

    assert policy.due_ms(0) == 0


def test_nobody_asks_twice_at_a_time_nor_without_need():
    policy = RefreshPolicy(max_age_ms=300_000)

    assert policy.due_ms(0) is None
    policy.want(0)
    policy.on_asked()
    policy.want(0)
    assert policy.due_ms(0) is None

    policy.on_answer(5, is_news=True)
    assert policy.due_ms(5) == 5


def test_good_metadata_is_asked_for_again_when_it_is_too_old():
    policy = RefreshPolicy(max_age_ms=300_000)
    policy.want(0)
    policy.on_asked()
    policy.on_answer(5, is_news=True)

    assert policy.due_ms(6) == 300_005
