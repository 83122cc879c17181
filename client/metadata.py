"""What a client knows of the cluster: brokers, topics, leaders. Pure.

Rules of this file:

1. Metadata never goes back: a reply of an older ``version`` than what is known changes nothing (another broker may
   lag), and within one topic id a partition's leader epoch only grows.
2. Another cluster id is another cluster: everything known is dropped. A broker that names none knows nothing yet:
   that a topic is not in its reply says nothing.
3. A topic that a broker does not know counts as gone only when it was unknown for ``unknown_topic_timeout_ms``: it
   may just have been created, and the news not have reached that broker.
4. Asking: at once when somebody needs it. After an attempt that brought nothing new, again after a pause of half
   the time that it has been needed in vain: an election takes milliseconds, so the first pauses are as short, and
   what is noticed late is noticed late by half of what it took. A connection that was lost begins a new count. And
   when the last good answer is ``metadata_max_age_ms`` old; nothing is asked for its own sake while nobody uses a
   topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..config import TopicConfig
from ..errors import ErrorCode
from ..transport.messages import BrokerMetadata, MetadataReply, PartitionMetadata, TopicMetadata

REFRESH_PAUSE_MS_MIN = 5
REFRESH_PAUSE_MS_MAX = 250  # while an election may still be on its way …
REFRESH_PAUSE_MS_LATER = 1_000  # … and when it has been in vain for so long that somebody must come and help
REFRESH_LATER_MS = 10_000
REFRESH_QUIET_MS = 2_000  # nobody has needed anything for so long: what is needed now is another matter


class PartitionLeader(NamedTuple):
    """Where requests about a partition go, and what they say."""

    topic: str
    topic_id: str
    partition: int
    broker_id: int  # -1: nobody leads just now
    leader_epoch: int


class Topic(NamedTuple):
    """One topic as far as is known."""

    name: str
    topic_id: str
    version: int  # of the metadata it came with
    partitions: Mapping[int, PartitionMetadata]
    is_internal: bool
    configs: Mapping[str, object]

    @property
    def message_bytes_max(self) -> int:
        value = self.configs.get("max_message_bytes", TopicConfig().max_message_bytes)
        return value if isinstance(value, int) else TopicConfig().max_message_bytes


class Metadata:
    """The cache. ``version`` never falls within one cluster."""

    def __init__(self, unknown_topic_timeout_ms: int = 2_000) -> None:
        self.cluster_id = ""
        self.version = -1
        self.controller_id = -1
        self.brokers: dict[int, BrokerMetadata] = {}
        self.topics: dict[str, Topic] = {}
        self.unknown_since_ms: dict[str, int] = {}  # topics that a broker did not know, and none has since
        self.topic_errors: dict[str, tuple[int, str]] = {}  # code and detail of the last refusal, by topic
        self.updated_ms = -1  # of the last reply that was taken
        self._unknown_topic_timeout_ms = unknown_topic_timeout_ms
        self._leaders: dict[tuple[str, int], PartitionLeader] = {}

    # -- events ------------------------------------------------------------------------------------

    def on_reply(self, reply: MetadataReply, asked: Iterable[str] | None, now_ms: int) -> bool:
        """Take a reply; ``asked`` None: for all topics. False: it knew less than what is known, nothing changed."""
        if not reply.cluster_id:
            return False  # a broker that has only begun, and knows nothing yet: not even which topics there are
        if reply.cluster_id != self.cluster_id:
            self._forget(reply.cluster_id)
        if reply.version < self.version:
            return False
        self.version = reply.version
        self.controller_id = reply.controller_id
        self.brokers = {broker.id: broker for broker in reply.brokers}
        self.updated_ms = now_ms
        named = {topic.name for topic in reply.topics}
        for topic in reply.topics:
            self._on_topic(topic, reply.version, now_ms)
        missing = set(self.topics) - named if asked is None else set(asked) - named
        for name in missing:
            self._on_unknown(name, now_ms)
        return True

    def on_leader_hint(self, topic_id: str, partition: int, broker_id: int, leader_epoch: int) -> bool:
        """A broker has said who leads instead of it. Taken when it is news and that broker is known."""
        for key, known in self._leaders.items():
            if (known.topic_id, known.partition) == (topic_id, partition):
                if leader_epoch <= known.leader_epoch or broker_id not in self.brokers:
                    return False
                self._leaders[key] = known._replace(broker_id=broker_id, leader_epoch=leader_epoch)
                return True
        return False

    # -- questions ---------------------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> PartitionLeader | None:
        """Return who leads; ``broker_id`` -1: nobody just now. None: no such partition is known."""
        return self._leaders.get((topic, partition))

    def leads(self, broker_id: int) -> bool:
        """Say whether a broker leads any of the partitions that are known."""
        return any(leader.broker_id == broker_id for leader in self._leaders.values())

    def is_gone(self, topic: str, now_ms: int) -> bool:
        """Say whether the topic does not exist, as far as anybody should believe it."""
        since = self.unknown_since_ms.get(topic)
        return since is not None and now_ms - since >= self._unknown_topic_timeout_ms

    def doubt_unknown(self, topic: str, since_ms: int) -> None:
        """Somebody begins to need a topic: that it was unknown before ``since_ms`` says nothing any more."""
        if self.updated_ms <= since_ms:
            self.unknown_since_ms.pop(topic, None)
            self.topic_errors.pop(topic, None)

    def gone_at_ms(self, topic: str) -> int | None:
        """Return when ``is_gone`` will become true if nothing else is heard."""
        since = self.unknown_since_ms.get(topic)
        return None if since is None else since + self._unknown_topic_timeout_ms

    def available(self, topic: str) -> list[int]:
        """Return the partitions with a leader just now."""
        known = self.topics.get(topic)
        if known is None:
            return []
        return [partition for partition in known.partitions if self._leaders[topic, partition].broker_id >= 0]

    def has_leaders(self, topic: str) -> bool:
        """Say whether the topic is known and every partition has a leader."""
        known = self.topics.get(topic)
        return known is not None and bool(known.partitions) and len(self.available(topic)) == len(known.partitions)

    # -- inside ------------------------------------------------------------------------------------

    def _on_topic(self, topic: TopicMetadata, version: int, now_ms: int) -> None:
        if topic.error == ErrorCode.NONE and topic.topic_id:
            self.unknown_since_ms.pop(topic.name, None)
            self.topic_errors.pop(topic.name, None)
            self._take_topic(topic, version)
            return
        self.topic_errors[topic.name] = (topic.error, topic.detail)
        if topic.error in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.INVALID_TOPIC, ErrorCode.NONE):
            self._on_unknown(topic.name, now_ms)

    def _take_topic(self, topic: TopicMetadata, version: int) -> None:
        partitions = {part.partition: part for part in topic.partitions}
        known = self.topics.get(topic.name)
        if known is not None:
            for number in known.partitions:
                if number not in partitions or known.topic_id != topic.topic_id:
                    self._leaders.pop((topic.name, number), None)
        for number, part in partitions.items():
            before = self._leaders.get((topic.name, number))
            if before is not None and before.leader_epoch > part.leader_epoch:
                continue  # a hint told of a newer epoch than this reply
            self._leaders[topic.name, number] = PartitionLeader(
                topic.name, topic.topic_id, number, part.leader, part.leader_epoch
            )
        self.topics[topic.name] = Topic(
            topic.name, topic.topic_id, version, dict(sorted(partitions.items())), topic.is_internal, topic.configs
        )

    def _on_unknown(self, name: str, now_ms: int) -> None:
        known = self.topics.pop(name, None)
        for number in known.partitions if known is not None else ():
            self._leaders.pop((name, number), None)
        self.unknown_since_ms.setdefault(name, now_ms)

    def _forget(self, cluster_id: str) -> None:
        self.cluster_id, self.version, self.controller_id = cluster_id, -1, -1
        self.brokers, self.topics, self._leaders = {}, {}, {}
        self.unknown_since_ms, self.topic_errors = {}, {}


class RefreshPolicy:
    """When to ask for metadata. ``due_ms`` None: not until somebody needs it or it is too old."""

    def __init__(self, max_age_ms: int) -> None:
        self.max_age_ms = max_age_ms
        self.is_asking = False
        self.is_wanted = False
        self.answered_ms = -1  # of the last good answer
        self.failures = 0  # in a row
        self._since_ms = -1  # since when newer metadata have been wanted in vain; -1: they have not
        self._wanted_ms = 0  # when they were wanted last
        self._not_before_ms = 0

    def want(self, now_ms: int) -> None:
        """Somebody cannot go on with what is known."""
        if self._since_ms < 0 or now_ms - self._wanted_ms > REFRESH_QUIET_MS:
            self._since_ms = now_ms
        self._wanted_ms = now_ms
        self.is_wanted = True

    def on_trouble(self, now_ms: int) -> None:
        """Something has happened that newer metadata will tell of: ask at once, and again soon."""
        self._since_ms = self._wanted_ms = now_ms
        self._not_before_ms = now_ms
        self.is_wanted = True

    def due_ms(self, now_ms: int) -> int | None:
        """Return when to ask (may be in the past); None: no reason to."""
        if self.is_asking:
            return None
        if self.is_wanted:
            return max(now_ms, self._not_before_ms)
        if self.answered_ms >= 0:
            return self.answered_ms + self.max_age_ms
        return None

    def on_asked(self) -> None:
        self.is_asking, self.is_wanted = True, False

    def on_sent(self) -> None:
        """What was asked had to wait until somebody could be asked: it answers what was wanted meanwhile, too."""
        if self.is_asking:
            self.is_wanted = False

    def on_answer(self, now_ms: int, *, is_news: bool) -> None:
        """An answer came. The next one, if it is wanted soon, comes at once after news, else after a pause."""
        self.is_asking = False
        self.answered_ms = now_ms
        self.failures = 0
        if is_news:
            self._since_ms = -1
            self._not_before_ms = now_ms
        else:
            self._pause(now_ms)

    def on_failure(self, now_ms: int) -> None:
        self.is_asking = False
        self.failures += 1
        self.is_wanted = True
        self._pause(now_ms)

    def _pause(self, now_ms: int) -> None:
        vain_ms = now_ms - self._since_ms if self._since_ms >= 0 else 0
        longest = REFRESH_PAUSE_MS_MAX if vain_ms < REFRESH_LATER_MS else REFRESH_PAUSE_MS_LATER
        self._not_before_ms = now_ms + min(longest, max(REFRESH_PAUSE_MS_MIN, vain_ms // 2))
