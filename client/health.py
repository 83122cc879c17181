"""Whether a consumer reads on, and if not why: for monitoring, in one call that asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ..model import TopicPartition
from .fetch_state import NEVER_FED_MS, FetchState
from .io import IoThread
from .membership import Phase
from .reading import PartitionReader

if TYPE_CHECKING:
    from .application import Application
    from .bad_records import BadRecords
    from .fetching import Fetching
    from .inbox import Inbox


class ConsumerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """``is_ok``: every assigned partition is being read, as far as this side can tell; ``trouble`` says what is not."""

    is_ok: bool
    trouble: list[str]
    assigned: int  # partitions
    paused: int
    fetching: int  # partitions with a fetch at a broker now
    buffered_bytes: int
    unreachable_ms: int  # for how long no broker has been reachable; 0: one is
    last_answer_ms: int  # how long ago a broker answered a fetch; -1: never
    behind: dict[str, int]  # records between position and the last known high watermark, where there are any
    group_state: str = ""  # "joining", "joined", …; "": no member of a group
    last_heartbeat_ms: int = -1  # how long ago the group's coordinator answered; -1: never, or no member
    records_skipped: int = 0  # that could not be read, see ``on_bad_record``
    records_handed_on: int = 0  # … and were taken by a handler


def describe_health(
    readers: Mapping[TopicPartition, PartitionReader], fetching: Fetching, io: IoThread, bad_records: BadRecords
) -> ConsumerHealth:
    """Return the health; called under the consumer's lock, reads what the I/O thread writes."""
    now = io.clock.monotonic_ms()
    cluster, states = fetching.cluster, dict(fetching.fetcher.states)
    trouble = [] if io.is_alive else [_why_dead(io)]
    if io.failure is not None:
        error, at_ms = io.failure
        told = f"{type(error).__name__}: {error}, {now - at_ms} ms ago"
        trouble.append(
            f"a part of the client failed ({told}); see the log, and make a new consumer if it reads no more"
        )
    if io.is_alive and (missing := fetching.missing_topic_error()) is not None:
        trouble.append(str(missing))
    member = fetching.group.member if fetching.group is not None else None
    if member is not None and member.phase not in (Phase.OUT, Phase.JOINED):
        trouble.append(f"group: {member.phase.value}: {member.error or member.why or 'not joined yet'}")
    elif member is not None and member.failures:
        trouble.append(f"group: {member.failures} heartbeats in a row failed: {member.error}")
    unreachable_ms = 0 if cluster.unreachable_since_ms is None else now - cluster.unreachable_since_ms
    if unreachable_ms:
        trouble.append(str(cluster.unreachable_error()))
    stalled = _stalled(fetching, states, now)
    for key, reader in readers.items():
        state, leader = states.get(key), cluster.metadata.leader(*key)
        if why := bad_records.trouble(reader) or reader.error:
            trouble.append(f"{key}: {why}")
        elif leader is None or leader.broker_id < 0:
            trouble.append(f"{key}: no leader")
        elif state is not None and state.failures:
            trouble.append(f"{key}: {state.failures} fetches in a row failed")
        elif key in stalled:
            trouble.append(
                f"{key}: nobody fetches it"
                if state is None
                else f"{key}: its fetches are not answered, or reach nobody"
            )
    behind = {
        str(key): reader.high_watermark - reader.position
        for key, reader in readers.items()
        if reader.high_watermark is not None and reader.position is not None and reader.high_watermark > reader.position
    }
    return ConsumerHealth(
        is_ok=not trouble,
        trouble=trouble,
        assigned=len(readers),
        paused=sum(reader.is_paused for reader in readers.values()),
        fetching=sum(state.in_flight > 0 for state in states.values()),
        buffered_bytes=fetching.fetcher.total.buffered,
        unreachable_ms=unreachable_ms,
        last_answer_ms=-1 if fetching.answered_ms < 0 else now - fetching.answered_ms,
        behind=behind,
        group_state=member.phase.value if member is not None and member.phase is not Phase.OUT else "",
        last_heartbeat_ms=_ago(now, member.answered_ms) if member is not None else -1,
        records_skipped=bad_records.skipped,
        records_handed_on=bad_records.handed_on,
    )


def _stalled(fetching: Fetching, states: Mapping[TopicPartition, FetchState], now_ms: int) -> frozenset[TopicPartition]:
    """What a member owns and says that it does not fetch, but for what it has only just been given."""
    group = fetching.group
    if group is None:
        return frozenset()
    found = group.evidence.stalled(list(group.member.owned), now_ms)
    return frozenset(key for key in found if key not in states or states[key].fed_until_ms > NEVER_FED_MS)


class ConsumerExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer is doing. ``str`` gives it line by line."""

    state: (
        str  # "closed", "not subscribed", "assigned by hand", "all partitions", or of a member: "joining", "joined", …
    )
    group_id: str | None
    member_id: str
    generation: int  # member epoch; -1: none
    coordinator: int  # broker; -1: not known
    assignment: list[str]
    coming: list[str]  # partitions that the next poll takes over
    going: list[str]  # … and gives back
    why: str  # of the last change of the assignment
    last_heartbeat_ms: int  # how long ago the coordinator answered; -1: never
    last_fetch_ms: int  # how long ago a broker answered a fetch; -1: never
    waits_for: str  # what would have to happen for the next record to come
    lost_ms: int = -1  # how long ago the member lost all that it owned, and joined again; -1: never
    lost_why: str = ""
    bad_records: str = ""  # how many could not be read, and what became of them; "": none

    def __str__(self) -> str:
        lines = [f"state: {self.state}", f"waits for: {self.waits_for}"]
        if self.group_id is not None:
            member = f"member {self.member_id}, " if self.member_id else "no member yet, "
            member += f"generation {self.generation}, " if self.generation >= 0 else ""
            coordinator = f"broker {self.coordinator}" if self.coordinator >= 0 else "not known"
            lines.append(f"group: {self.group_id}, {member}coordinator: {coordinator}")
        lines.append(f"assignment: {', '.join(self.assignment) or 'nothing'}" + (f" ({self.why})" if self.why else ""))
        for name, partitions in (("next poll takes over", self.coming), ("next poll gives back", self.going)):
            if partitions:
                lines.append(f"{name}: {', '.join(partitions)}")
        if self.lost_ms >= 0:
            lines.append(f"lost everything: {self.lost_ms / 1000:.1f} s ago ({self.lost_why})")
        if self.bad_records:
            lines.append(f"bad records: {self.bad_records}")
        heartbeat = f"last heartbeat: {_told(self.last_heartbeat_ms)}, " if self.group_id is not None else ""
        lines.append(f"{heartbeat}last fetch: {_told(self.last_fetch_ms)}")
        return "\n".join(lines)


def explain(
    inbox: Inbox,
    fetching: Fetching,
    io: IoThread,
    application: Application | None,
    bad_records: BadRecords,
    *,
    is_assigned_by_hand: bool,
) -> ConsumerExplanation:
    """Return the explanation; called under the consumer's lock, reads what the I/O thread writes."""
    now = io.clock.monotonic_ms()
    group = fetching.group
    member = group.member if group is not None else None
    changes = list(application.changes) if application is not None else []
    if not io.is_alive:
        state = "closed"
    elif is_assigned_by_hand:
        state = "assigned by hand"
    elif inbox.subscription is None:
        state = "not subscribed"
    else:
        phase = member.phase if member is not None else None
        state = "all partitions" if phase is None else (Phase.JOINING if phase is Phase.OUT else phase).value
    return ConsumerExplanation(
        state=state,
        group_id=group.group_id if group is not None else None,
        member_id=member.member_id if member is not None else "",
        generation=member.epoch if member is not None and member.phase is Phase.JOINED else -1,
        coordinator=-1 if group is None or group.coordinator.broker_id is None else group.coordinator.broker_id,
        assignment=sorted(map(str, inbox.readers)),
        coming=sorted(str(key) for change in changes if change.kind == "assigned" for key in change.partitions),
        going=sorted(str(key) for change in changes if change.kind != "assigned" for key in change.partitions),
        why=member.why if member is not None else "",
        last_heartbeat_ms=_ago(now, member.answered_ms) if member is not None else -1,
        last_fetch_ms=_ago(now, fetching.answered_ms),
        waits_for=_waits_for(inbox, fetching, io, bad_records, bool(changes)),
        bad_records=str(bad_records),
        lost_ms=_ago(now, member.lost_ms) if member is not None else -1,
        lost_why=member.lost_why if member is not None else "",
    )


def _waits_for(inbox: Inbox, fetching: Fetching, io: IoThread, bad_records: BadRecords, has_changes: bool) -> str:
    """The first thing that stands between now and the next record."""
    cluster, group = fetching.cluster, fetching.group
    if not io.is_alive:
        return f"nothing: {_why_dead(io)}"
    if inbox.subscription is None and not inbox.readers:
        return "subscribe() or assign()"
    if cluster.unreachable_since_ms is not None:
        return str(cluster.unreachable_error())
    if group is not None and inbox.subscription is not None:
        member = group.member
        if member.phase is Phase.BARRED:
            return f"somebody to help: {member.error}"
        if member.phase is Phase.STUCK:
            return f"the next poll: {member.why}"
        if member.phase is Phase.OUT:
            return "the first poll, with which the member joins"
        if group.coordinator.broker_id is None:
            return f"the group's coordinator: {group.coordinator.error or 'it is being looked up'}"
        if member.phase is not Phase.JOINED:
            return f"the coordinator, broker {group.coordinator.broker_id}, to let the member join"
        if has_changes:
            return "the next poll, which takes over or gives back partitions"
        if not inbox.readers and (missing := fetching.missing_topic_error()) is not None:
            return f"the topic: {missing}"
        if not inbox.readers:
            return "partitions: " + ("there are none for it" if member.is_complete else "others have to give them back")
    states = fetching.fetcher.states
    for key, reader in inbox.readers.items():
        state = states.get(key)
        if why := bad_records.trouble(reader) or reader.error:
            return f"somebody to help: {key}: {why}"
        if reader.is_in_hand:
            return f"the handler of bad records, which has {key} offset {reader.position}"
        if reader.is_paused:
            continue
        if reader.has_data:
            return "the next poll: records are there"
        if state is not None and state.fetch_offset is None:
            return f"where {key} begins"
    if inbox.readers and all(reader.is_paused for reader in inbox.readers.values()):
        return "resume(): all partitions are paused"
    missing = fetching.missing_topic_error()
    return "new records" if missing is None else f"new records, and a topic: {missing}"


def _why_dead(io: IoThread) -> str:
    return "the consumer was made before this process was forked" if io.is_forked else "the consumer is closed"


def _told(ago_ms: int) -> str:
    return f"{ago_ms} ms ago" if ago_ms >= 0 else "none yet"


def _ago(now_ms: int, then_ms: int) -> int:
    return -1 if then_ms < 0 else now_ms - then_ms
