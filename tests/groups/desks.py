"""A coordinator with a log in memory: what it writes survives when the test says so."""

from __future__ import annotations

from callboard.actors.groups.coordinating import Coordinating
from callboard.actors.groups.events import Caller, GroupPartition, GroupSettings, Notice, Reply, TopicPicture, Write
from callboard.actors.groups.records import PROOF
from callboard.transport import group_messages as said

ORDERS = {"orders": TopicPicture("o1", 4)}


class Desk:
    """Drives a ``Coordinating``; ``replies`` has what was answered, by ticket, and ``log`` what survives.

    ``led``: the leader epochs of partitions of orders that are not led in epoch 0.
    """

    def __init__(self, topics=None, *, settings=None, log=(), survives=True, now_ms=0, proven=True):
        self.settings = settings or GroupSettings(broker_id=1)
        self.topics = dict(ORDERS if topics is None else topics)
        self.survives = survives  # what is written, at once
        self.proven = proven  # the store says all the time that this is the coordinator
        self.log = list(log)
        self.under_way = []
        self.replies = {}
        self.notices = []
        self.led = {}
        self.now_ms, self.wall_ms = now_ms, 1_000_000 + now_ms
        self.tickets = 0
        self.rules = Coordinating(self.settings, lambda partition, _: self.led.get(partition.partition, 0))
        for record in self.log:
            self.rules.replay(*record)
        self.rules.on_proven(self.now_ms)
        self.take(self.rules.loaded(self.now_ms, self.wall_ms))
        self.take(self.rules.on_topics(self.topics, self.now_ms, self.wall_ms))

    # -- what it does

    def take(self, effects):
        writes = []
        for effect in effects:
            if isinstance(effect, Reply):
                assert effect.ticket not in self.replies, "a ticket was answered twice"
                self.replies[effect.ticket] = effect.reply
            elif isinstance(effect, Notice):
                self.notices.append(effect)
            else:
                assert isinstance(effect, Write)
                assert effect.records
                assert len({key for key, _ in effect.records}) == len(effect.records), "a key was written twice"
                self.under_way.append(effect)
                writes.append(effect)
        if self.survives and self.under_way:
            self.write()
        return writes

    def write(self, count=None):
        """Let what is under way survive, the oldest ``count`` of it."""
        done, self.under_way = self.under_way[:count], self.under_way[len(self.under_way[:count]) :]
        for write in done:
            self.log += [record for record in write.records if record != PROOF]  # it says nothing
        if done:
            self.take(self.rules.on_written(done[-1].number, self.now_ms))

    def pass_time(self, milliseconds):
        """Let time pass; the coordinator is called whenever it wants to be."""
        until_ms = self.now_ms + milliseconds
        while (due_ms := self.rules.next_due_ms) is not None and due_ms <= until_ms:
            self.wall_ms += max(0, due_ms - self.now_ms)
            self.now_ms = max(self.now_ms, due_ms)
            self.prove()
            self.take(self.rules.on_due(self.now_ms, self.wall_ms))
        self.wall_ms += until_ms - self.now_ms
        self.now_ms = until_ms

    def sleep(self, milliseconds):
        """Let time pass in which the coordinator was not called, though it wanted to be; then it is."""
        self.now_ms += milliseconds
        self.wall_ms += milliseconds
        self.prove()
        self.take(self.rules.on_due(self.now_ms, self.wall_ms))

    def prove(self):
        if self.proven:
            self.rules.on_proven(self.now_ms)

    def set_topics(self, topics, deleted=(), version=0):
        self.topics = dict(topics)
        self.take(self.rules.on_topics(self.topics, self.now_ms, self.wall_ms, deleted, version))

    def restarted(self):
        """Return a desk that has read what survives of this one, as another coordinator would."""
        return Desk(self.topics, settings=self.settings, log=self.log, now_ms=self.now_ms)

    # -- what is asked

    def send(self, request, client_id="app", host="10.0.0.1"):
        """Return the ticket."""
        self.tickets += 1
        self.prove()
        caller = Caller(self.tickets, client_id, host)
        self.take(self.rules.on_request(request, caller, self.now_ms, self.wall_ms))
        return self.tickets

    def ask(self, request, **caller):
        """Return the reply, which comes at once."""
        return self.replies[self.send(request, **caller)]

    def heartbeat(self, member_id, epoch, *, group="billing", **more):
        return self.ask(beat(member_id, epoch, group=group, **more))

    def join(self, member_id, topics=("orders",), *, group="billing", **more):
        more = {"assignors": ["sticky"], **more}
        return self.heartbeat(member_id, said.JOINING, group=group, topics=list(topics), **more)

    def park(self, member_id, epoch, *, group="billing", max_wait_ms=1_000, **more):
        """Send a heartbeat that may be parked; return its ticket."""
        return self.send(beat(member_id, epoch, group=group, max_wait_ms=max_wait_ms, **more))

    def commit(self, member_id, epoch, offsets, *, group="billing", **more):
        """``offsets``: by number of a partition of orders."""
        entries = [said.OffsetCommitEntry(topic="orders", partition=n, offset=offset) for n, offset in offsets.items()]
        request = said.OffsetCommitRequest(
            group_id=group, member_id=member_id, member_epoch=epoch, entries=entries, **more
        )
        return self.ask(request)

    def committed(self, group="billing", **more):
        """Return what is committed, by topic and number: what is told now, or will be when its proof survives."""
        ticket = self.send(said.OffsetFetchRequest(group_id=group, **more))
        held = {one.ticket: one.reply for one in self.rules._groups.surviving.waiting()}
        reply = self.replies[ticket] if ticket in self.replies else held[ticket]
        assert reply.error == 0, reply
        return {(entry.topic, entry.partition): entry.offset for entry in reply.entries}

    def described(self, group="billing"):
        return self.ask(said.DescribeGroupsRequest(group_ids=[group])).groups[0]

    def state(self):
        """Everything that is remembered of groups, for comparison."""
        return {name: _state_of(group) for name, group in sorted(self.rules._groups.by_id.items())}


def _state_of(group):
    return (
        group.value(),
        {name: member.value() for name, member in sorted(group.members.items())},
        dict(sorted(group.owners.items())),
        dict(sorted(group.instances.items())),
        dict(sorted(group._wanted.items())),
        group.highest,
        dict(sorted(group.offsets.committed.items())),
    )


def beat(member_id, epoch, *, group="billing", owned=None, stalled=(), **more):
    """``owned``, and ``stalled``: numbers of partitions of orders, or what the message has."""
    if owned and isinstance(owned[0], int):
        owned = [said.TopicPartitions(topic="orders", partitions=list(owned))]
    if stalled:
        stalled = [said.TopicPartitions(topic="orders", partitions=list(stalled))]
    more = {"is_fetching": not stalled, **more}
    return said.GroupHeartbeatRequest(
        group_id=group, member_id=member_id, member_epoch=epoch, owned=owned, stalled=list(stalled), **more
    )


def numbers(assignment):
    """Return the numbers of partitions, of all topics, in an assignment."""
    return [number for some in assignment for number in some.partitions]


def orders(number):
    return GroupPartition("orders", "o1", number)


def commit_request(entries, member_id="m1", epoch=1, group="billing"):
    return said.OffsetCommitRequest(group_id=group, member_id=member_id, member_epoch=epoch, entries=entries)


def entry(partition=0, offset=1, topic="orders", **more):
    return said.OffsetCommitEntry(topic=topic, partition=partition, offset=offset, **more)
