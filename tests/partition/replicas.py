"""What tests of a leader with followers say often: a leader of three replicas, fetches, the controller's answers."""

from __future__ import annotations

import itertools

from callboard.actors.partition.events import Answer, Append, Fetch, IsrAnswered, Produce, Progress, ProposeIsr, Ticket
from callboard.actors.partition.leader import Leader
from callboard.errors import ErrorCode
from callboard.model import PartitionKey
from callboard.storage.batch import check_batch, encode_batch
from callboard.storage.epochs import EpochHistory
from callboard.storage.producers import ProducerStates
from callboard.transport.messages import AlterPartitionEntryReply

KEY = PartitionKey("0" * 32, 3)
LAG_MS = 3_000
tickets = itertools.count(1)


def a_leader(**changes):
    """Broker 1 leads epoch 5 from offset 10 on; brokers 2 and 3 are in sync; two of them are enough."""
    settings = {
        "broker_id": 1,
        "epoch": 5,
        "partition_epoch": 20,
        "replicas": [1, 2, 3],
        "isr": [1, 2, 3],
        "min_insync_replicas": 2,
        "flush": "ack",
        "max_message_bytes": 1 << 20,
        "producers": ProducerStates(),
        "epochs": EpochHistory([(4, 0), (5, 10)]),
        "high_watermark": 10,
        "log_start_offset": 0,
        "log_end_offset": 10,
        "durable_offset": 10,
        "lag_ms": LAG_MS,
    }
    return Leader(KEY, **{**settings, **changes})


def produce(leader, count=1, *, acks=-1, now_ms=0, sequence=-1, is_durable=True):
    """Give the leader a batch and write it, as the actor does; return what came of it before any follower spoke."""
    producer_id = 7 if sequence >= 0 else -1
    frames = encode_batch(
        [None] * count, [b"v"] * count, 1_000, producer_id=producer_id, producer_epoch=0, base_sequence=sequence
    )
    request = Produce(Ticket(next(tickets), 0), leader.epoch, acks, frames)
    effects = leader.on_produce(request, check_batch(frames))
    appended = [effect for effect in effects if isinstance(effect, Append)]
    for append in appended:
        leader.producers.record(append.header.at(append.base_offset, leader.epoch), 1_000)
    if appended:
        effects = leader.on_appended(leader.log_end_offset, now_ms)
        if is_durable:
            effects += leader.on_flushed(leader.log_end_offset)
    return effects


def a_fetch(
    broker, offset, *, durable=None, epoch=5, last_epoch=None, life="life-1", high_watermark=1 << 40, log_start=0
):
    """A follower's fetch: at the end of a log that agrees with the leader's, all on disk, unless said otherwise."""
    return Fetch(
        ticket=Ticket(1_000 + broker, 0, "peers"),
        leader_epoch=epoch,
        fetch_offset=offset,
        max_bytes=1 << 20,
        replica_id=broker,
        replica_incarnation=f"{life}-of-{broker}",
        last_fetched_epoch=(5 if offset > 10 else 4) if last_epoch is None else last_epoch,
        durable_offset=offset if durable is None else durable,
        high_watermark=high_watermark,
        log_start_offset=log_start,
    )


def fetch(leader, broker, offset, *, now_ms=0, **how):
    return leader.on_fetch(a_fetch(broker, offset, **how), now_ms)


def progress(leader, broker, durable, *, epoch=5, life="life-1", now_ms=0):
    return leader.on_progress(Progress(broker, f"{life}-of-{broker}", epoch, durable), now_ms)


def answered(proposal, error=0, *, isr=None, partition_epoch=None, leader_epoch=5):
    """The controller's answer to a proposal: done, unless said otherwise."""
    members = [one.broker_id for one in proposal.isr] if isr is None else isr
    moves = not error or error == ErrorCode.INELIGIBLE_REPLICA  # a refusal of that kind is a commit, too
    epoch = proposal.partition_epoch + moves if partition_epoch is None else partition_epoch
    reply = AlterPartitionEntryReply(
        topic_id=KEY.topic_id,
        partition=KEY.partition,
        error=error,
        leader_epoch=leader_epoch,
        partition_epoch=epoch,
        isr=members,
    )
    return IsrAnswered(
        proposal.leader_epoch, proposal.partition_epoch, frozenset(one.broker_id for one in proposal.isr), reply
    )


def unknown(proposal):
    return IsrAnswered(proposal.leader_epoch, proposal.partition_epoch, frozenset(members(proposal)), None)


def replies(effects):
    return [effect.reply for effect in effects if isinstance(effect, Answer)]


def errors(effects):
    return [reply.error for reply in replies(effects)]


def acknowledged(effects):
    """Base offsets of the produces that were acknowledged."""
    return [reply.base_offset for reply in replies(effects) if hasattr(reply, "base_offset") and not reply.error]


def proposals(effects):
    return [effect for effect in effects if isinstance(effect, ProposeIsr)]


def members(proposal):
    return [one.broker_id for one in proposal.isr]
