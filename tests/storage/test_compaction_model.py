"""Any sequence of appends, compactions and crashes, against a dictionary: no key loses its latest value."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard.actors.partition.follower import Follower, next_fetch
from callboard.config import TopicConfig
from callboard.model import LeaderEpoch, Offset
from callboard.storage.compaction import BYTES_PER_KEY, Compaction, Terms
from callboard.storage.inspection import LogView
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import DIRECTORY, append, batches, checkpoint, flush, latest_by_key, open_log
from callboard.transport.messages import FetchEntryReply

CONFIG = TopicConfig(
    segment_bytes=1_024,
    index_interval_bytes=100,
    cleanup_policy="compact",
    min_cleanable_dirty_ratio=0.0,
    delete_retention_ms=800,
)

keys = st.sampled_from([b"a", b"b", b"c", b"d", b"", b"long" * 20])
a_value = st.sampled_from([None, b"1", b"", b"x" * 300, b"y" * 600])
some = st.lists(st.tuples(keys, a_value), min_size=1, max_size=5)


def latest(records):
    found = {}
    for key, value in records:
        found.pop(key, None)
        if value is not None:
            found[key] = value
    return found


class CompactionModel(RuleBasedStateMachine):
    """``records`` is every record ever written, by offset; those below ``durable`` survive power loss."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimDisk()
        self.log = open_log(self.disk, CONFIG)
        self.records: list[tuple[bytes, bytes | None]] = []
        self.ends: list[int] = [0]  # where batches ended when they were written
        self.durable = 0
        self.high_watermark = 0
        self.now_ms = 0
        self.epoch = 0
        self.sequence = 0
        self.compaction: Compaction | None = None

    # -- growing -------------------------------------------------------------------------------------

    @rule(records=some, is_idempotent=st.booleans(), is_new_epoch=st.booleans(), times=st.integers(1, 6))
    def append(self, records, is_idempotent, is_new_epoch, times):
        self.epoch += is_new_epoch
        for _ in range(times):
            append(
                self.log,
                *[value for _, value in records],
                keys=[key for key, _ in records],
                epoch=self.epoch,
                timestamp=self.now_ms,
                producer_id=1 if is_idempotent else -1,
                sequence=self.sequence if is_idempotent else -1,
            )
            self.sequence += len(records) if is_idempotent else 0
            self.records += records
            self.ends.append(len(self.records))

    @rule(is_checkpoint=st.booleans(), is_committed=st.booleans())
    def flush(self, is_checkpoint, is_committed):
        if is_checkpoint:
            checkpoint(self.log)
        flush(self.log)
        self.durable = self.log.durable_offset
        if is_committed:
            self.high_watermark = self.durable

    @rule(ms=st.sampled_from([100, 900]))
    def time_passes(self, ms):
        self.now_ms += ms

    # -- compacting ----------------------------------------------------------------------------------

    @precondition(lambda self: self.compaction is None)
    @rule(room=st.sampled_from([1, 3, 100]), is_all_committed=st.booleans())
    def begin_compaction(self, room, is_all_committed):
        if is_all_committed:
            self.flush(is_checkpoint=True, is_committed=True)
        terms = Terms(self.high_watermark, self.now_ms, True, room * BYTES_PER_KEY)
        self.compaction = self.log.begin_compaction(terms)

    @precondition(lambda self: self.compaction is None)
    @rule(room=st.sampled_from([2, 100]), is_flushed=st.booleans(), ms=st.sampled_from([0, 900]))
    def compact(self, room, is_flushed, ms):
        self.now_ms += ms
        self.begin_compaction(room, is_all_committed=True)
        if self.compaction is not None:
            self.end_compaction()
            if is_flushed:
                flush(self.log)

    @precondition(lambda self: self.compaction is not None)
    @rule()
    def end_compaction(self):
        compaction, self.compaction = self.compaction, None
        while not compaction.step():
            pass
        assert compaction.clean_to <= self.high_watermark <= self.durable
        self.log.end_compaction(compaction, self.now_ms)

    @precondition(lambda self: self.compaction is not None)
    @rule(steps=st.integers(0, 14), power=st.booleans(), seed=st.integers(0, 1_000))
    def crash_while_it_is_made(self, steps, power, seed):
        self.disk.stop_after(steps)
        with contextlib.suppress(SimCrash):
            self.end_compaction()
            flush(self.log)
        self.disk.stop_after(None)
        (self.power_loss if power else lambda _: self.kill())(seed)

    # -- ending ----------------------------------------------------------------------------------------

    @rule()
    def close_and_reopen(self):
        self.log.close(self.now_ms)
        self.durable = len(self.records)
        self._reopen(self.disk)
        assert self.log.recovery.was_clean

    @rule()
    def kill(self):
        self._reopen(self.disk.kill())
        assert self.log.log_end_offset == len(self.records)

    @rule(seed=st.integers(0, 1_000))
    def power_loss(self, seed):
        self._reopen(self.disk.crash(seed))
        end = self.log.log_end_offset
        assert self.durable <= end <= len(self.records)
        self._cut(end)

    @rule()
    def lose_the_producers(self):
        disk = self.disk.kill()
        if disk.exists(f"{DIRECTORY}/producers"):
            disk.erase(f"{DIRECTORY}/producers")
        known = {state.producer_id: state.batches[-1].last_sequence for state in self.log.producers.copy().values()}
        self._reopen(disk)
        found = {state.producer_id: state.batches[-1].last_sequence for state in self.log.producers.copy().values()}
        assert found == known

    @precondition(lambda self: len(self.records) > self.high_watermark)
    @rule(data=st.data())
    def truncate(self, data):
        self.log.truncate_to(data.draw(st.integers(self.high_watermark, len(self.records))))
        end = self.log.log_end_offset
        self._cut(end)
        self.durable = min(self.log.durable_offset, end)
        self.high_watermark = min(self.high_watermark, end)
        self._find_sequence()

    def _cut(self, end: int) -> None:
        del self.records[end:]
        self.ends = [one for one in self.ends if one <= end]

    def _reopen(self, disk: SimDisk) -> None:
        view = LogView(disk, DIRECTORY)
        assert [damage for damage in view.report().damages if damage.offset < view.recovery_offset] == []
        self.disk, self.compaction = disk, None
        self.log = open_log(disk, CONFIG, now_ms=self.now_ms)
        assert not [name for name in disk.list_dir(DIRECTORY) if name.endswith((".swap", ".cleaned"))]
        self.durable = min(self.durable, self.log.log_end_offset)
        self._find_sequence()

    def _find_sequence(self) -> None:
        state = self.log.producers.copy().get(1)
        self.sequence = state.batches[-1].last_sequence + 1 if state else 0
        self.epoch = max(self.epoch, self.log.epochs.latest)

    # -- always ----------------------------------------------------------------------------------------

    @invariant()
    def a_reader_from_the_start_ends_with_the_latest_values(self):
        assert latest_by_key(self.log) == latest(self.records)

    @invariant()
    def what_is_read_was_written_there_in_order(self):
        expected, last = self.log.log_start_offset, -1
        for batch in batches(self.log):
            assert batch.header.base_offset == expected
            expected = batch.header.next_offset
            for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
                assert offset > last
                assert self.records[offset] == (key, value)
                last = offset
        assert expected == len(self.records) == self.log.log_end_offset

    @invariant()
    def nothing_above_the_high_watermark_has_gone(self):
        kept = [offset for batch in batches(self.log) for offset in batch.offsets if offset >= self.high_watermark]
        assert kept == list(range(self.high_watermark, len(self.records)))

    @rule(data=st.data())
    def a_follower_that_lags_ends_with_the_same(self, data):
        """It has what was written up to some batch that the leader may have compacted away since."""
        ends, epochs = self.ends, self.log.epochs
        known = data.draw(st.sampled_from(ends))
        copy = open_log(SimDisk(), CONFIG)
        at = 0
        for end in [end for end in ends if 0 < end <= known]:
            some = self.records[at:end]
            append(copy, *[v for _, v in some], keys=[k for k, _ in some], epoch=epochs.epoch_at(at))
            at = end
        follower = Follower(LeaderEpoch(self.epoch), copy.epochs, Offset(0))
        while copy.log_end_offset < len(self.records):
            fetch = next_fetch(copy.epochs, Offset(copy.log_start_offset), Offset(copy.log_end_offset))
            assert epochs.divergence(fetch.last_fetched_epoch, fetch.fetch_offset, len(self.records)) is None
            reply = FetchEntryReply(topic_id="t", partition=0, leader_epoch=self.epoch, log_start_offset=0)
            frames = self.log.read(fetch.fetch_offset, 1_000, len(self.records))
            effects = follower.on_fetched(reply, frames, Offset(0), Offset(copy.log_end_offset))
            copied = effects[0]
            copy.append([[batch] for batch in copied.batches], copied.headers, 0)
        assert latest_by_key(copy) == latest(self.records)
        assert copy.epochs.entries == epochs.entries


TestCompactionModel = CompactionModel.TestCase
TestCompactionModel.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
