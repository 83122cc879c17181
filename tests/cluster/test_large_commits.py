"""Commits of very many offsets, larger than other topics' batches may be; and what is left of them on disk."""

from __future__ import annotations

from callboard.actors.lifecycle import Fail
from callboard.config import MIB, TopicConfig
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .grouped import GROUP, Grouped

METADATA = "x" * 4_000


def commit_of(count, offset, metadata=""):
    entries = [
        said.OffsetCommitEntry(topic="orders", partition=number, offset=offset, metadata=metadata)
        for number in range(count)
    ]
    return said.OffsetCommitRequest(group_id=GROUP, entries=entries)


def test_a_commit_of_more_than_a_thousand_offsets_is_one_batch_and_survives_its_coordinator():
    count = 1_200
    grouped = Grouped(1, partitions=count)
    broker = grouped.coordinator()
    before = grouped.offsets_leader(broker).log.log_end_offset

    reply = grouped.until_answered(commit_of(count, 5))

    assert (reply.error, reply.entries) == (0, []), "none is refused"
    assert grouped.offsets_leader(broker).log.log_end_offset - before >= count
    ref = grouped.actor(1).actor_ref
    ref.post(Fail())
    grouped.cluster.run_until(lambda: (one := grouped.actor(1)) is not None and one.actor_ref is not ref)
    assert grouped.committed() == dict.fromkeys(range(count), 5)


def test_commits_larger_than_a_batch_of_other_topics_are_compacted_with_the_segments_as_they_ship():
    grouped = Grouped(1, partitions=300, broker={"compaction_check_ms": 1_000, "checkpoint_ms": 200})
    first = grouped.until_answered(commit_of(300, 0, METADATA))
    assert first.error == 0
    log = grouped.offsets_leader(1).log
    batch_bytes = log.size_bytes
    assert batch_bytes > TopicConfig().max_message_bytes

    for offset in range(1, 10):
        assert grouped.ask(commit_of(300, offset, METADATA)).error == 0

    assert log.size_bytes > 10 * MIB
    grouped.cluster.run_until(lambda: log.size_bytes <= 4 * MIB + 2 * batch_bytes)
    grouped.actor(1).actor_ref.post(Fail())
    grouped.cluster.run_until(lambda: grouped.actor(1) is None)
    assert grouped.committed() == dict.fromkeys(range(300), 9)


def test_a_read_that_cannot_be_proven_is_refused_and_members_and_decisions_stay():
    grouped = Grouped()
    epoch = grouped.join("a").member_epoch
    assert grouped.until_answered(grouped.commit(41, member="a", epoch=epoch)).error == 0
    broker = grouped.coordinator()
    for other in [one for one in grouped.live if one != broker]:
        grouped.cluster.crash(f"broker-{other}")
    grouped.cluster.run_until(lambda: len(grouped.offsets_leader(broker).part.rules.isr) == 1)

    read = grouped.ask(said.OffsetFetchRequest(group_id=GROUP), broker)
    beat = grouped.ask(grouped.heartbeat("a", epoch), broker)

    assert read.error == ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert "NOT_ENOUGH_REPLICAS" in read.detail
    assert beat.error == 0, "the store says who coordinates"
    for other in (1, 2, 3):
        if other != broker:
            grouped.cluster.restart(f"broker-{other}")
    assert grouped.committed() == {0: 41}
