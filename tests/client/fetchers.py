"""What tests of the rules of fetching share: a fetcher of partitions that broker 1 leads, requests, answers."""

from __future__ import annotations

from callboard.client.fetch_state import Credit
from callboard.client.fetcher import Fetcher, FetchSettings, SendFetch
from callboard.client.lookahead import Span
from callboard.client.metadata import PartitionLeader
from callboard.model import TopicPartition
from callboard.transport.messages import LATEST_TIMESTAMP, FetchEntryReply

A, B = TopicPartition("t", 0), TopicPartition("t", 1)
EPOCH = 4  # of all that is fetched

SETTINGS = FetchSettings(
    wait_ms=500,
    min_bytes=1,
    buffer_bytes=10_000,
    partition_bytes=1_000,
    retry_backoff_ms=10,
    retry_backoff_max_ms=1_000,
    reset_timestamp=LATEST_TIMESTAMP,
)


class AView:
    """Broker 1 leads everything; what the batches hold is written in them: see ``data``."""

    def __init__(self) -> None:
        self.leaders = {key: PartitionLeader("t", "id", key.partition, 1, 0) for key in (A, B)}
        self.connected = True
        self.error = None

    def leader(self, topic, partition):
        return self.leaders.get((topic, partition))

    def is_connected(self, broker_id):
        return self.connected

    def partition_error(self, key, now_ms):
        return self.error

    def span(self, data):
        next_offset, first, batches = map(int, data.split(b" ")[:3])
        return Span(first, next_offset, batches, EPOCH)


def data(next_offset: int, size: int = 20, first: int = 0, batches: int = 1) -> bytes:
    return (b"%d %d %d " % (next_offset, first, batches)).ljust(size, b"x")


def a_fetcher(*keys, settings=SETTINGS, offset=0):
    fetcher = Fetcher(settings, AView())
    credits_ = {}
    for number, key in enumerate(keys or (A,)):
        credits_[key] = Credit()
        fetcher.on_assign(key, number + 1, credits_[key], offset=offset, reset_to=None)
    fetcher.credits = credits_
    return fetcher


def fetch(fetcher, now=0) -> SendFetch:
    (effect,) = fetcher.drain(now)
    assert isinstance(effect, SendFetch)
    return effect


def reply(fetcher, request, *frames, partition=0, error=0, now=0, **more):
    entry = FetchEntryReply(topic_id="id", partition=partition, error=error, frames=len(frames), **more)
    return fetcher.on_reply(request.request_id, [entry], {("id", partition): list(frames)}, None, now)
