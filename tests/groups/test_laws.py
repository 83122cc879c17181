"""Whatever happens to a group: one owner at any time, and everything has one in the end.

A Hypothesis state machine drives a coordinator, a topic or two, and members that are modelled as clients: each believes
what it was told and owns that until it has given it back, has heard that it is out, or has died. Answers get lost, come
late, writes survive late, coordinators fail between two writes and others read what survived.
"""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callboard.actors.groups.events import GroupPartition, GroupSettings, TopicPicture
from callboard.errors import ErrorCode
from callboard.transport import group_messages as said

from .desks import Desk, beat

GROUP = "billing"
SESSION_MS, REBALANCE_MS = 10_000, 20_000
OUT = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.FENCED_INSTANCE_ID)


class Client:
    """A member as its own process sees it."""

    def __init__(self, name, topics, assignors, instance_id):
        self.name, self.topics, self.assignors, self.instance_id = name, topics, assignors, instance_id
        self.epoch = 0
        self.is_in = True  # it believes so
        self.assigned = set()  # what it was told that it may own
        self.owned = set()  # what it works on: within assigned, and what it has not given back yet
        self.asked = None  # ticket of the heartbeat under way
        self.is_reset = False  # it was told so

    def hear(self, reply):
        self.asked = None
        if reply.error in OUT:
            self.is_in, self.owned, self.assigned = False, set(), set()
            return
        if reply.error:
            return  # e.g. the coordinator has changed: it asks again
        assert reply.member_epoch >= self.epoch, "a member's epoch went back"
        self.is_reset = reply.is_reset
        if reply.assignment is None:
            assert reply.member_epoch == self.epoch
            return
        assigned = {
            GroupPartition(some.topic, some.topic_id, number) for some in reply.assignment for number in some.partitions
        }
        assert reply.member_epoch > self.epoch, "an assignment without a new epoch"
        if self.epoch and assigned == self.assigned:
            assert reply.member_epoch >= self.epoch + 2, "news that is none: not even two changes that cancel out"
        self.epoch = reply.member_epoch
        self.assigned = assigned
        self.owned |= assigned  # what is not in it any more, it gives back later

    def may_own(self):
        return self.owned if self.is_in else set()


class Groups(RuleBasedStateMachine):
    @initialize(survives=st.booleans())
    def begin(self, survives):
        self.topics = {"orders": TopicPicture("o1", 3)}
        self.clients = []
        self.names = 0
        self.epochs = {}  # the highest epoch a partition was given with
        self.idle = set()  # who has said once that it does not fetch
        settings = GroupSettings(broker_id=1, group_fetch_stall_ms=SESSION_MS)
        self.desk = Desk(self.topics, settings=settings, survives=survives)

    # -- what clients do

    def live(self):
        return [client for client in self.clients if client.is_in]

    def hear_all(self):
        for client in self.live():
            if client.asked in self.desk.replies:
                self.note_epochs(client)

    def note_epochs(self, client):
        before, owned = set(client.assigned), set(client.owned)
        reply = self.desk.replies[client.asked]
        client.hear(reply)
        self.is_told_where_to_begin(client, owned, reply)
        for partition in client.assigned - before:
            highest = self.epochs.get(partition, (0, None))
            assert client.epoch > highest[0] or highest[1] == client.name, "fencing by epochs would fail"
            self.epochs[partition] = max(highest, (client.epoch, client.name))

    def is_told_where_to_begin(self, client, owned, reply):
        """What it is told that is committed where it begins is so for good, and nobody else's commit is on its way."""
        for some in reply.committed:
            for number, offset in zip(some.partitions, some.offsets, strict=True):
                partition = GroupPartition(some.topic, some.topic_id, number)
                assert partition in client.assigned
                if partition not in owned:
                    assert offset == self.last_committed(partition)

    def last_committed(self, partition):
        offsets = self.group().offsets
        states = [offsets.committed, *offsets.under_way]
        found = [state[partition] for state in states if partition in state]
        return found[-1].offset if found and found[-1] is not None else -1

    @precondition(lambda self: len(self.live()) < 5)
    @rule(
        topics=st.sets(st.sampled_from(["orders", "clicks"])),
        assignor=st.sampled_from(said.ASSIGNORS),
        instance=st.sampled_from(["", "", "i1", "i2"]),
    )
    def join(self, topics, assignor, instance):
        self.names += 1
        assignors = [assignor, *(name for name in said.ASSIGNORS if name != assignor)]
        client = Client(f"m{self.names}", sorted(topics), assignors, instance)
        if instance:
            for other in self.clients:
                if other.instance_id == instance:  # the one before it is dead, or learns that it is fenced
                    other.is_in = False
        self.clients.append(client)
        self.say(client)

    def say(self, client, **more):
        if client.epoch == 0:
            more |= {"topics": client.topics, "assignors": client.assignors}
            more |= {"session_timeout_ms": SESSION_MS, "rebalance_timeout_ms": REBALANCE_MS}
        else:
            more.setdefault("owned", _as_message(client.owned))
        client.asked = self.desk.send(
            beat(client.name, client.epoch, instance_id=client.instance_id, max_wait_ms=1_000, **more)
        )
        self.hear_all()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def heartbeat(self, data):
        """One heartbeat, also when the one before was not answered: then that answer is lost."""
        self.say(data.draw(st.sampled_from(self.live())))

    @precondition(lambda self: any(client.epoch for client in self.live()))
    @rule(data=st.data(), seconds=st.integers(1, 13))
    def beat_without_fetching(self, data, seconds):
        """For so long that it is reset, perhaps."""
        client = data.draw(st.sampled_from([one for one in self.live() if one.epoch]))
        self.idle.add(client.name)
        for _ in range(seconds):
            self.desk.pass_time(1_000)
            if client.is_in:
                self.say(client, is_fetching=False)
            if client.is_reset:  # it loses everything at once, and leaves
                client.is_in = False
                self.desk.send(beat(client.name, said.LEAVING))
                break
            self.hear_all()
            self.some_were_silent()

    @precondition(lambda self: self.live())
    @rule(data=st.data(), how_many=st.integers(1, 3))
    def give_back(self, data, how_many):
        client = data.draw(st.sampled_from(self.live()))
        for partition in sorted(client.owned - client.assigned)[:how_many]:
            client.owned.discard(partition)
        self.say(client)

    @precondition(lambda self: any(client.epoch for client in self.live()))
    @rule(data=st.data(), topics=st.sets(st.sampled_from(["orders", "clicks"])))
    def subscribe(self, data, topics):
        client = data.draw(st.sampled_from([one for one in self.live() if one.epoch]))
        client.topics = sorted(topics)
        self.say(client, topics=client.topics)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), is_stuck=st.booleans())
    def leave(self, data, is_stuck):
        client = data.draw(st.sampled_from(self.live()))
        client.is_in = False
        self.desk.send(beat(client.name, said.LEAVING, is_stuck=is_stuck))
        self.hear_all()

    @precondition(lambda self: any(client.instance_id for client in self.live()))
    @rule(data=st.data())
    def leave_for_a_while(self, data):
        client = data.draw(st.sampled_from([one for one in self.live() if one.instance_id]))
        client.is_in = False
        self.desk.send(beat(client.name, said.LEAVING_FOR_A_WHILE, instance_id=client.instance_id))
        self.hear_all()

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def die(self, data):
        data.draw(st.sampled_from(self.live())).is_in = False

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def put_out(self, data):
        """One that is put out by hand learns it with its next answer; until then it may be beside the new owner."""
        client = data.draw(st.sampled_from(self.clients))
        client.is_in = False
        self.desk.send(said.RemoveMembersRequest(group_id=GROUP, member_ids=[client.name]))
        self.hear_all()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), back=st.integers(0, 3), offset=st.integers(0, 99), number=st.integers(0, 5))
    def commit(self, data, back, offset, number):
        """Anybody commits, in some generation it was in; a late one must not get in the way of an owner."""
        client = data.draw(st.sampled_from(self.clients))
        picture = self.topics["orders"]
        partition = GroupPartition("orders", picture.topic_id, number)
        owners = self.owners()
        entries = [said.OffsetCommitEntry(topic="orders", partition=number, offset=offset)]
        request = said.OffsetCommitRequest(
            group_id=GROUP, member_id=client.name, member_epoch=client.epoch - back, entries=entries
        )
        before = len(self.desk.log) + len(self.desk.under_way)
        ticket = self.desk.send(request)
        is_taken = len(self.desk.log) + len(self.desk.under_way) > before
        if (reply := self.desk.replies.get(ticket)) is not None and reply.error:
            assert reply.detail
            if client.is_in and partition in client.owned and not back and client.name in self.members():
                assert reply.error == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, reply
        if is_taken:
            assert owners.get(partition) == client.name, "a commit of one that does not own the partition"

    # -- what happens to them

    @rule(milliseconds=st.sampled_from([10, 1_000, 4_000, 11_000]))
    def time_passes(self, milliseconds):
        self.desk.pass_time(milliseconds)
        self.hear_all()
        self.some_were_silent()

    def some_were_silent(self):
        """One whose session has ended is beside the new owner until it learns so: a zombie, fenced in commits."""
        members = self.members()
        for client in self.live():
            if client.name not in members:
                client.is_in = False

    @rule(milliseconds=st.sampled_from([1_000, 30_000]))
    def the_coordinator_is_stopped_for_a_while(self, milliseconds):
        before = self.members()
        is_called_late = (self.desk.rules.next_due_ms or 0) < self.desk.now_ms + milliseconds - 300
        self.desk.sleep(milliseconds)
        self.hear_all()
        if is_called_late:
            assert self.members() == before
        self.some_were_silent()

    @rule(count=st.integers(1, 3))
    def something_survives(self, count):
        self.desk.write(count)
        self.hear_all()

    @rule()
    def everything_survives_at_once_from_now_on(self):
        self.desk.survives = True
        self.desk.write()
        self.hear_all()

    @rule()
    def writes_take_time_from_now_on(self):
        self.desk.survives = False

    @rule(grow=st.booleans(), topic=st.sampled_from(["orders", "clicks"]))
    def topics_change(self, grow, topic):
        picture = self.topics.get(topic)
        if picture is None:
            self.topics[topic] = TopicPicture(f"{topic}-{self.names}-{len(self.desk.log)}", 2)
        elif grow and picture.partitions < 6:
            self.topics[topic] = picture._replace(partitions=picture.partitions + 1)
        elif topic == "clicks":
            del self.topics[topic]
        self.desk.set_topics(self.topics)
        self.hear_all()

    @rule(survived=st.integers(0, 3))
    def another_coordinator_loads(self, survived):
        """Some of what is under way survives, and whoever waits asks again."""
        survives = self.desk.survives
        for write in self.desk.under_way[:survived]:
            self.desk.log += write.records
        self.desk.take(self.desk.rules.give_up(ErrorCode.NOT_COORDINATOR, "elsewhere"))
        self.hear_all()
        self.desk = self.desk.restarted()
        self.desk.survives = survives
        for client in self.clients:
            client.asked = None
        members = self.members()
        for client in self.live():
            if client.epoch == 0 or client.name in members:
                continue
            raise AssertionError("a member that was told so is none after a restart")

    # -- laws

    def group(self):
        return self.desk.rules._groups.by_id.get(GROUP)

    def members(self):
        group = self.group()
        return set(group.members) if group else set()

    def owners(self):
        group = self.group()
        return dict(group.owners) if group else {}

    @invariant()
    def no_partition_has_two_owners(self):
        seen = {}
        for client in self.live():
            for partition in client.may_own():
                other = seen.setdefault(partition, client.name)
                assert other == client.name, f"{partition} is owned by {other} and by {client.name}"

    @invariant()
    def what_a_member_owns_the_coordinator_knows(self):
        owners = self.owners()
        for client in self.live():
            for partition in client.may_own():
                assert owners.get(partition) == client.name

    @invariant()
    def the_rules_agree_with_themselves(self):
        group = self.group()
        if group is None:
            return
        assert group.owners == {part: name for name, member in group.members.items() for part in member.holds}
        assert sum(len(member.holds) for member in group.members.values()) == len(group.owners)
        for member in group.members.values():
            assert member.asked.keys() <= member.holds.keys()
            assert not member.asked.keys() & member.target
            assert member.holds.keys() - member.asked.keys() <= member.target
            assert 1 <= member.epoch <= group.highest
            assert all(1 <= epoch <= member.epoch for epoch in member.holds.values())
        wanted = [part for member in group.members.values() for part in member.target]
        assert len(wanted) == len(set(wanted))
        assert set(wanted) == {
            GroupPartition(name, picture.topic_id, number)
            for name, picture in self.topics.items()
            if name in group.subscribed()
            for number in range(picture.partitions)
        }
        for part in wanted:  # nobody waits for what nobody has
            assert part in group.owners

    @invariant()
    def who_fetches_is_never_reset(self):
        for notice in self.desk.notices:
            assert notice.values["member"].split()[0] in self.idle

    @invariant()
    def replaying_what_was_written_gives_the_same(self):
        unwritten = [record for write in self.desk.under_way for record in write.records]
        again = Desk(self.topics, settings=self.desk.settings, log=[*self.desk.log, *unwritten])
        mine, theirs = self.desk.state(), again.state()
        if unwritten:  # what is committed is not read before it survives
            mine, theirs = ({name: state[:-1] for name, state in one.items()} for one in (mine, theirs))
        assert theirs == mine

    def teardown(self):
        """Let everybody who lives give back: then everything has exactly one owner, and is at rest."""
        if not hasattr(self, "desk"):
            return
        self.everything_survives_at_once_from_now_on()
        for _ in range(30):
            self.time_passes(500)
            for client in self.live():
                client.owned &= client.assigned
                self.say(client)
        # Those who are dead are out by now, in 15 s.
        group = self.group()
        members = {name for name, member in group.members.items() if not member.is_away} if group else set()
        assert members == {client.name for client in self.live()}
        for client in self.live():
            member = group.members[client.name]
            assert member.state == "stable"
            assert client.owned == client.assigned == member.target
        owned = [part for client in self.live() for part in client.owned]
        subscribed = {topic for client in self.live() for topic in client.topics}
        assert (
            len(owned)
            == len(set(owned))
            == sum(picture.partitions for name, picture in self.topics.items() if name in subscribed)
        )
        log = len(self.desk.log)
        for client in self.live():
            self.say(client)
        assert len(self.desk.log) == log, "a group at rest writes nothing"
        assert all(client.asked not in self.desk.replies for client in self.live()), "a group at rest has no news"


def _as_message(partitions):
    found = {}
    for part in sorted(partitions):
        found.setdefault((part.topic, part.topic_id), []).append(part.partition)
    return [
        said.TopicPartitions(topic=topic, topic_id=topic_id, partitions=numbers)
        for (topic, topic_id), numbers in found.items()
    ]


TestGroups = Groups.TestCase
TestGroups.settings = hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None)
