"""A follower's end of a fetch session: what to ask one leader's broker next. Pure.

A thousand partitions that follow the same broker share one session: a request names only what has changed since the
last one, so an idle partition costs nothing and a busy one the same among ten as among a thousand. Rules:

1. **One request waits at the leader**, the newest. A further one may be sent while it waits (a partition has begun to
   follow): the leader answers the older at once.
2. What was answered is *owed*: its partition is at work on the answer and asks again in the same turn of the loop. The
   next request waits for that, not long: the leader parks the others meanwhile.
3. **Any doubt ends the session**: a lost connection, a time-out, an answer that does not fit. The next one names
   everything that is wanted. So nothing relies on delivery.
4. Progress of the disk is told between fetches, without an answer. The next request, after ``wait_ms`` at most, says it
   again: what was lost is soon made good. It is said beside the entries: a fetch that is named is asked again, and a
   second answer to it would be taken for one to the next fetch.
5. No list is longer than ``entries_max``, which a leader's door would refuse for ever. The rest goes with the next
   request, which is due at once.
"""

from __future__ import annotations

from itertools import islice

from msgspec.structs import replace

from ...model import PartitionKey, TopicId
from ...transport.messages import (
    FetchEntry,
    FetchEntryReply,
    FetchReply,
    FetchRequest,
    ForgottenEntry,
    ReplicaProgressEntry,
    ReplicaProgressRequest,
)

NO_SESSION = 0


def key_of(entry: FetchEntry | FetchEntryReply) -> PartitionKey:
    """Return which partition an entry is about."""
    return PartitionKey(TopicId(entry.topic_id), entry.partition)


def _progress_of(entry: FetchEntry) -> ReplicaProgressEntry:
    return ReplicaProgressEntry(
        topic_id=entry.topic_id,
        partition=entry.partition,
        leader_epoch=entry.leader_epoch,
        durable_offset=entry.durable_offset,
        log_start_offset=entry.log_start_offset,
    )


class Line:
    """What one broker fetches from another."""

    def __init__(self, broker_id: int, *, wait_ms: int, max_bytes: int, entries_max: int) -> None:
        self.broker_id = broker_id  # the follower's
        self.incarnation = ""  # likewise; set before the first request of each session
        self.wait_ms = wait_ms
        self.max_bytes = max_bytes
        self.entries_max = entries_max
        self._last_session = NO_SESSION
        self._session = NO_SESSION  # > 0 while one is open
        self._sequence = 0  # of the next request in it
        self._under_way: set[int] = set()  # sequences sent and not answered
        self._armed: dict[PartitionKey, FetchEntry] = {}  # parked at the leader, as far as is known
        self._named_in: dict[PartitionKey, int] = {}  # the sequence in which each of them was asked for
        self._changed: dict[PartitionKey, FetchEntry] = {}  # to be named in the next request
        self._owed: set[PartitionKey] = set()
        self._forgotten: set[PartitionKey] = set()
        self._progress: dict[PartitionKey, FetchEntry] = {}  # of armed ones, to be told
        self._told: dict[PartitionKey, FetchEntry] = {}  # told without an answer since the last request

    # -- what partitions want ----------------------------------------------------------------------------

    def follow(self, key: PartitionKey, entry: FetchEntry) -> None:
        """Fetch this, from there on."""
        self._owed.discard(key)
        self._forgotten.discard(key)  # named anew is as good; forgotten in a later request (rule 5) it would be lost
        self._disarm(key)
        self._changed[key] = entry

    def unfollow(self, key: PartitionKey) -> None:
        """Fetch nothing more of it."""
        self._owed.discard(key)
        self._changed.pop(key, None)
        if self._disarm(key):
            self._forgotten.add(key)

    def durable(self, key: PartitionKey, leader_epoch: int, durable_offset: int, log_start_offset: int = 0) -> None:
        """More of its copy is on disk: told at once where a fetch is parked, else with the fetch that comes."""
        for entries in (self._armed, self._changed):
            entry = entries.get(key)
            if entry is None or entry.leader_epoch != leader_epoch:
                continue
            if entry.durable_offset < durable_offset or entry.log_start_offset < log_start_offset:
                entries[key] = replace(
                    entry,
                    durable_offset=max(entry.durable_offset, durable_offset),
                    log_start_offset=max(entry.log_start_offset, log_start_offset),
                )
                if entries is self._armed:
                    self._progress[key] = entries[key]

    def _disarm(self, key: PartitionKey) -> bool:
        self._progress.pop(key, None)
        self._told.pop(key, None)
        return self._armed.pop(key, None) is not None

    @property
    def is_idle(self) -> bool:
        """Nobody follows that broker any more."""
        return not (self._armed or self._changed or self._owed or self._forgotten)

    @property
    def is_owed(self) -> bool:
        """Whether partitions are at work on answers (rule 2)."""
        return bool(self._owed)

    # -- what goes out -----------------------------------------------------------------------------------

    def next_request(self) -> FetchRequest | None:
        """Return the request that is due now, if one is; it counts as sent."""
        is_news = bool(self._changed or self._forgotten)
        if not is_news and (self._under_way or not self._armed):
            return None
        if len(self._under_way) > 1:
            return None  # rule 1: the older one is about to be answered
        if self._session == NO_SESSION:
            self._last_session += 1
            self._session, self._sequence = self._last_session, 0
            self._forgotten.clear()
        forgotten, progress, changed = self._take_forgotten(), self._take_progress(), self._take_changed()
        request = FetchRequest(
            replica_id=self.broker_id,
            replica_incarnation=self.incarnation,
            max_wait_ms=self.wait_ms,
            max_bytes=self.max_bytes,
            session=self._session,
            sequence=self._sequence,
            forgotten=[ForgottenEntry(topic_id=key.topic_id, partition=key.partition) for key in sorted(forgotten)],
            progress=[_progress_of(entry) for entry in progress.values()],
            entries=list(changed.values()),
        )
        self._under_way.add(self._sequence)
        self._named_in.update(dict.fromkeys(changed, self._sequence))
        self._sequence += 1
        self._armed.update(changed)
        return request

    def _take_changed(self) -> dict[PartitionKey, FetchEntry]:
        taken = dict(islice(self._changed.items(), self.entries_max))
        for key in taken:
            del self._changed[key]
        return taken

    def _take_progress(self) -> dict[PartitionKey, FetchEntry]:
        taken = dict(islice({**self._told, **self._progress}.items(), self.entries_max))
        for key in taken:
            self._told.pop(key, None)
            self._progress.pop(key, None)
        return taken

    def _take_forgotten(self) -> set[PartitionKey]:
        taken = set(islice(sorted(self._forgotten), self.entries_max))
        self._forgotten -= taken
        return taken

    def progress(self) -> ReplicaProgressRequest | None:
        """Return what must be told of the disk between two fetches, if anything; it counts as told."""
        if not self._progress:
            return None
        told = dict(islice(self._progress.items(), self.entries_max))
        for key in told:
            del self._progress[key]
        self._told.update(told)
        return ReplicaProgressRequest(
            replica_id=self.broker_id,
            replica_incarnation=self.incarnation,
            entries=[_progress_of(entry) for entry in told.values()],
        )

    # -- what comes back -----------------------------------------------------------------------------------

    def is_current(self, session: int) -> bool:
        """Say whether an answer to a request of that session still means anything, be it an error."""
        return session == self._session

    def on_reply(self, session: int, sequence: int, reply: FetchReply) -> list[FetchEntryReply] | None:
        """Return the answers to hand to their partitions; None: of a session that is over, void."""
        if session != self._session:
            return None
        self._under_way.discard(sequence)
        answers = []
        for entry in reply.entries:
            key = key_of(entry)
            if sequence < self._named_in.get(key, 0):
                continue  # of a fetch that was named again while its answer was on its way
            if self._disarm(key):  # else it follows anew since, from elsewhere
                self._owed.add(key)
                answers.append(entry)
        return answers

    def give_up_waiting(self) -> None:
        """Those who still work on an answer will be named when they ask: the others need not wait for them."""
        self._owed.clear()

    def end_session(self) -> None:
        """It is not known any more what the leader knows: begin anew, naming all that is wanted (rule 3)."""
        self._session = NO_SESSION
        for said in (self._under_way, self._named_in, self._progress, self._told, self._forgotten):
            said.clear()
        self._changed = {**self._armed, **self._changed}
        self._armed = {}
