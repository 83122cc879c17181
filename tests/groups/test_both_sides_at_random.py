"""Real members at a real coordinator, rules only, and between them whatever a network and deaths may do; by seeds.

Connections keep the order of what is sent on them, may be slow, and may be cut: then the member hears of it, and what
was on its way arrives all the same, perhaps much later, at whoever coordinates by then. Processes die at any time;
another one comes with the same instance id, if the dead one had one. Coordinators change, with or without the last
writes. Some do not fetch for a while, and are reset; some leave with a last commit. Laws: a partition has one owner at
any time; nobody who lives is fenced by a dead one; no committed offset is behind an acknowledged one, and no member is
told to begin behind one; who fetches is not reset; and when all is well again every partition has an owner, and
everybody has all that is theirs.
"""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest

from callboard.actors.groups.events import GroupSettings, TopicPicture
from callboard.client.commits import Commit, Commits, Ended, FindAgain, SendCommit
from callboard.client.membership import (
    Assign,
    FindCoordinator,
    Lose,
    Member,
    MemberSettings,
    Phase,
    Revoke,
    SendHeartbeat,
)
from callboard.errors import CallboardTimeoutError, ConnectionLostError, error_for_code
from callboard.model import OffsetAndMetadata
from callboard.transport import group_messages as said

from .desks import Desk

SEEDS = 25
SAFETY_MS, LIVENESS_MS = 20_000, 25_000
SESSION_MS, BEAT_MS, POLL_MS, COMMIT_MS = 3_000, 500, 4_000, 700  # a stall of a session is enough for a reset
TOPICS = ["clicks", "orders"]
PLACES = ("one", "two", "static-1", "static-2")


class Connection:
    """What a member has sent and the coordinator has not taken yet; in order, each not before its time."""

    def __init__(self):
        self.pipe = deque()  # (at_ms, process, number, request)
        self.is_cut = False


class Process:
    """A member and its application."""

    def __init__(self, world, place, life):
        self.world, self.place = world, place
        names = iter(range(1, 1_000))
        instance = place if place.startswith("static") else ""
        settings = MemberSettings("billing", instance, ("sticky",), SESSION_MS, BEAT_MS, POLL_MS)
        self.member = Member(settings, lambda: f"{place}.{life}/{next(names)}", self.stalled)
        self.connection = Connection()
        self.commits = Commits()
        self.waiting = {}  # number of a heartbeat, -number of a commit -> until when
        self.revoking = []  # (at_ms, partitions): when the application will have given them back
        self.stuck_until_ms = self.deaf_until_ms = self.deaf_from_ms = 0
        self.knows_until_ms = 0  # it knows no coordinator until then
        self.member.on_subscribe(["orders"], world.now)

    @property
    def owned(self):
        return set(self.member.owned) if self.member.may_work(self.world.now) else set()

    def stalled(self, owned, now_ms):
        return sorted(owned)[:2] if now_ms < self.deaf_until_ms else []

    def begin(self, effect):
        """It is told where to begin: nowhere behind what anybody was told that it is committed."""
        for key, offset in effect.committed.items():
            known = self.world.acknowledged.get(key, -1)
            assert offset >= known, f"{self.world.now}: {self.place} begins {key} at {offset}, behind {known}"
        self.world.told += len(effect.committed)

    def perform(self, effects):
        world = self.world
        for effect in effects:
            if isinstance(effect, Assign) and self.member.may_work(world.now):
                self.begin(effect)
            if isinstance(effect, SendHeartbeat):
                self.send(effect.number, effect.request, effect.timeout_ms)
            elif isinstance(effect, SendCommit):
                self.send(-effect.number, self.as_request(effect), COMMIT_MS)
            elif isinstance(effect, Ended):
                if effect.error is None:
                    for key, given in effect.commit.offsets.items():
                        world.acknowledged[key] = max(given.offset, world.acknowledged.get(key, 0))
            elif isinstance(effect, Revoke):
                self.revoking.append((world.now + world.chance.choice((0, 5, 300)), effect.partitions))
            elif isinstance(effect, Lose):
                self.revoking.clear()
                self.member.is_losing = False
            elif isinstance(effect, FindCoordinator | FindAgain):
                self.knows_until_ms = world.now + world.chance.choice((0, 10, 100))

    def send(self, number, request, timeout_ms):
        world, pipe = self.world, self.connection.pipe
        delay = world.delay()
        if pipe:
            delay = max(delay, pipe[-1][0] - world.now)
        pipe.append((world.now + delay, self, number, request))
        self.waiting[number] = world.now + timeout_ms

    def as_request(self, effect):
        return said.OffsetCommitRequest(
            group_id="billing",
            member_id=effect.member_id,
            member_epoch=effect.member_epoch,
            entries=as_entries(effect.offsets),
            number=effect.number,
        )

    def commit(self):
        """Commit more than anybody has of each partition, as one that deals with record after record."""
        if offsets := self.done_with():
            is_waiting, until_ms = self.world.chance.random() < 0.5, self.world.now + 10_000
            name, epoch = self.member.member_id, self.member.epoch
            self.commits.on_commit(Commit(offsets, name, epoch, is_waiting=is_waiting, until_ms=until_ms))

    def done_with(self):
        return {key: OffsetAndMetadata(next(self.world.offsets)) for key in sorted(self.owned)}

    def silent(self, number, error):
        if number < 0:
            self.perform(self.commits.on_silence(-number, error, self.world.now))
        else:
            self.perform(self.member.on_silence(number, error, self.world.now))

    def cut(self):
        """The connection ends; what is on it may still arrive."""
        self.world.old.append(self.connection)
        self.connection.is_cut = True
        self.connection = Connection()
        waiting, self.waiting = self.waiting, {}
        for number in [number for number in waiting if number < 0]:
            self.silent(number, ConnectionLostError("cut"))
        self.knows_until_ms = self.world.now + self.world.chance.choice((0, 20, 200))
        self.perform(self.member.on_coordinator_lost(ConnectionLostError("cut"), self.world.now))

    def hear(self, number, reply):
        if self.waiting.pop(number, None) is None:
            return
        now, member = self.world.now, self.member
        if number > 0:
            if not reply.error and reply.is_reset:
                self.world.resets += 1
                assert self.deaf_from_ms, f"{now}: {self.place} was reset, and has fetched all the time: {reply.why}"
            self.perform(member.on_answer(number, reply, now))
        else:
            error = error_for_code(reply.error, reply.detail) if reply.error else None
            self.perform(self.commits.on_answer(-number, error, reply.entries, now, member.member_id, member.epoch))

    def turn(self):
        now, member = self.world.now, self.member
        member.is_application_here = now >= self.stuck_until_ms
        if member.is_application_here:
            member.on_poll(now)
            for due in [one for one in self.revoking if one[0] <= now]:
                self.revoking.remove(due)
                self.perform(member.on_revoked(due[1]))
        for number in [number for number, until in self.waiting.items() if until <= now]:
            del self.waiting[number]
            self.silent(number, CallboardTimeoutError("silent"))
        if member.is_application_here and self.world.chance.random() < 0.1:
            self.commit()
        if not self.world.is_healthy and self.world.chance.random() < 0.01:
            member.on_topics(self.world.chance.choice((["orders"], ["clicks"], TOPICS)))
        is_known = now >= self.knows_until_ms
        self.perform(member.drain(now, has_coordinator=is_known))
        self.perform(self.commits.drain(now, member.member_id, member.epoch, has_coordinator=is_known))


def as_entries(offsets):
    return [
        said.OffsetCommitEntry(topic=key.topic, partition=key.partition, offset=given.offset)
        for key, given in offsets.items()
    ]


class World:
    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.desk = Desk(
            {"orders": TopicPicture("o1", 4), "clicks": TopicPicture("c1", 2)},
            settings=GroupSettings(broker_id=1, group_session_timeout_ms_min=100, group_fetch_stall_ms=100),
        )
        self.processes, self.lives = {}, dict.fromkeys(PLACES, 0)
        self.old = []  # connections that were cut
        self.offsets = itertools.count(1)
        self.acknowledged = {}  # by partition: the highest offset
        self.told = self.resets = 0  # partitions with the answer that gives them; members
        self.asked = {}  # ticket -> (process, number)
        self.is_healthy = False
        self.slow = 0.0
        for place in PLACES[:2]:
            self.start(place)

    @property
    def now(self):
        return self.desk.now_ms

    def delay(self):
        if self.is_healthy:
            return 1
        if self.chance.random() < self.slow:
            return self.chance.randrange(100, 6_000)
        return self.chance.choice((0, 1, 5, 40))

    def start(self, place):
        self.lives[place] += 1
        self.processes[place] = Process(self, place, self.lives[place])

    # -- what happens

    def step(self):
        self.desk.pass_time(self.chance.choice((1, 5, 20, 60)))
        if not self.is_healthy:
            self.misfortune()
            if not self.desk.survives and self.chance.random() < 0.5:
                self.desk.write(self.chance.randint(1, 3))
        for process in list(self.processes.values()):
            process.turn()
        self.deliver()
        self.check()

    def misfortune(self):
        chance, live = self.chance, list(self.processes.values())
        roll = chance.random()
        if roll < 0.01:
            self.move()
        elif roll < 0.03 and live:
            chance.choice(live).cut()
        elif roll < 0.04 and live:
            self.die(chance.choice(live))
        elif roll < 0.06:
            place = chance.choice(PLACES)
            if place not in self.processes:
                self.start(place)
        elif roll < 0.065 and live:
            chance.choice(live).stuck_until_ms = self.now + chance.choice((1_000, 6_000))
        elif roll < 0.07:
            picture = self.desk.topics["orders"]
            more = picture._replace(partitions=min(8, picture.partitions + 1))
            self.desk.set_topics({**self.desk.topics, "orders": more})
        elif roll < 0.08:
            self.desk.survives = not self.desk.survives
            if self.desk.survives:
                self.desk.write()
        elif roll < 0.09:
            self.slow = chance.choice((0.0, 0.0, 0.02, 0.3))
        elif roll < 0.10 and live:
            self.leave(chance.choice(live))
        elif roll < 0.12 and live:
            process = chance.choice(live)
            process.deaf_from_ms, process.deaf_until_ms = self.now, self.now + chance.choice((1_000, 12_000))
        elif roll < 0.122:
            partition = chance.randrange(4)
            self.desk.led[partition] = chance.choice((-1, self.desk.led.get(partition, 0) + 1))

    def die(self, process):
        self.old.append(process.connection)
        del self.processes[process.place]

    def leave(self, process):
        member, last = process.member, {}
        if process.commits.is_idle and member.phase is Phase.JOINED and self.chance.random() < 0.7:
            last = process.done_with()
        process.perform(member.on_leave(self.now, as_entries(last)))
        self.die(process)

    def move(self):
        """Another coordinator: some of what was under way survives, and who waits hears nothing."""
        for write in self.desk.under_way[: self.chance.randrange(3)]:
            self.desk.log += write.records
        self.desk = self.desk.restarted()
        self.asked.clear()
        for process in self.processes.values():
            process.cut()
            process.member.on_coordinator_moved(self.now)

    def deliver(self):
        connections = [*self.old, *(process.connection for process in self.processes.values())]
        self.chance.shuffle(connections)
        for connection in connections:
            while connection.pipe and connection.pipe[0][0] <= self.now:
                _, process, number, request = connection.pipe.popleft()
                ticket = self.desk.send(request)
                if not connection.is_cut:
                    self.asked[ticket] = process, number
        self.old = [one for one in self.old if one.pipe]
        for ticket in [ticket for ticket in self.asked if ticket in self.desk.replies]:
            process, number = self.asked.pop(ticket)
            if self.processes.get(process.place) is process:
                process.hear(number, self.desk.replies[ticket])

    # -- laws

    def check(self):
        owners = {}
        for process in self.processes.values():
            for key in process.owned:
                other = owners.setdefault(key, process.place)
                assert other == process.place, f"{self.now}: {key} is owned by {other} and {process.place}"
            error = process.member.error
            assert process.member.phase is not Phase.BARRED, f"{self.now}: {process.place}: {error}"
        group = self.desk.rules._groups.by_id.get("billing")
        committed = group.offsets.committed if group is not None else {}
        there = {(key.topic, key.partition): value.offset for key, value in committed.items()}
        for key, offset in self.acknowledged.items():
            assert there.get(key, -1) >= offset, f"{self.now}: {key}: {there.get(key)} after {offset} was acknowledged"

    def heal(self):
        self.is_healthy, self.slow, self.desk.survives = True, 0.0, True
        self.desk.led.clear()
        self.desk.write()
        if not self.processes:
            self.start(PLACES[0])
        for process in self.processes.values():
            process.stuck_until_ms = process.knows_until_ms = process.deaf_until_ms = 0

    def is_well(self):
        members = [process.member for process in self.processes.values()]
        subscribed = {topic for member in members for topic in member.topics}
        wanted = [(name, number) for name in subscribed for number in range(self.desk.topics[name].partitions)]
        return (
            sorted(wanted) == sorted(key for process in self.processes.values() for key in process.owned)
            and all(member.phase is Phase.JOINED and member.is_complete for member in members)
            and all(key.topic in member.topics for member in members for key in member.owned)
        )


def run(seed):
    world = World(seed)
    while world.now < SAFETY_MS:
        world.step()
    world.heal()
    until_ms = world.now + LIVENESS_MS
    while world.now < until_ms:
        world.step()
    members = [process.member for process in world.processes.values()]
    assert world.is_well(), [(one.member_id, one.phase, one.topics, sorted(one.owned)) for one in members]
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_owner_at_any_time_and_everything_has_one_in_the_end(seed):
    run(seed)
