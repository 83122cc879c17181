"""Any sequence of operations, against a list: what is read is what was written, durable records outlive everything."""

from __future__ import annotations

import errno

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard.config import TopicConfig
from callboard.errors import StorageFull
from callboard.storage.flushing import FlushJob
from callboard.storage.producers import Duplicate
from callboard.testing.disk import SimDisk
from callboard.testing.logs import DIRECTORY, a_batch, append, append_many, contents, open_log

CONFIG = TopicConfig(segment_bytes=1_024, index_interval_bytes=200, segment_ms=1_000)

payloads = st.sampled_from([b"", b"x", b"y" * 30, b"z" * 400, b"w" * 1_500, None])
some = st.lists(payloads, min_size=1, max_size=4)


class LogModel(RuleBasedStateMachine):
    """``records`` is the log; those below ``durable`` survive power loss, those below ``start`` are deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = SimDisk()
        self.log = open_log(self.disk, CONFIG)
        self.records: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.epochs: list[int] = []  # of each record
        self.batches: list[tuple[int, int, int]] = []  # of the idempotent producer: sequence, count, base offset
        self.known_from = 0  # batches that end below it are deleted, and the snapshot that knew them was lost
        self.epoch = 0
        self.durable = 0
        self.start = 0  # the log start offset
        self.start_on_disk = 0  # after a crash the log begins here or later, at ``start`` at the latest
        self.now_ms = 0
        self.job: FlushJob | None = None
        self.attempts = 0  # to append to a disk that is full, or fails
        self.refused: list[tuple[int, list[bytes | None]]] = []  # where, what: power loss may bring back what was cut

    # -- growing -------------------------------------------------------------------------------------

    @rule(values=some, timestamp=st.integers(0, 50), is_new_epoch=st.booleans())
    def append(self, values, timestamp, is_new_epoch):
        self.epoch += is_new_epoch
        sequence = sum(count for _, count, _ in self.batches)
        header = append(
            self.log,
            *values,
            epoch=self.epoch,
            timestamp=timestamp,
            now_ms=self.now_ms,
            producer_id=1,
            sequence=sequence,
        )
        self.batches.append((sequence, len(values), header.base_offset))
        self._wrote(values, timestamp)

    @rule(batches=st.lists(some, min_size=1, max_size=5))
    def append_many(self, batches):
        append_many(self.log, batches, self.now_ms)
        self.epoch = max(self.log.epochs.latest, 0)
        for values in batches:
            self._wrote(values, 1_000)

    @rule(values=some, room=st.integers(0, 2_000))
    def append_to_a_full_disk(self, values, room):
        values = self._marked(values)
        frames, header = a_batch(values, at=len(self.records), epoch=self.epoch)
        self.disk.capacity_bytes = self.disk.used_bytes() + room
        try:
            self.log.append([frames], [header], self.now_ms)
        except StorageFull:
            self.refused.append((len(self.records), values))
        else:
            self._wrote(values, 1_000)
        self.disk.capacity_bytes = None

    @rule(values=some, written=st.integers(0, 300))
    def append_to_a_failing_disk(self, values, written):
        values = self._marked(values)
        frames, header = a_batch(values, at=len(self.records), epoch=self.epoch)
        self.disk.fail("append", errno.EIO, written=written)
        try:
            self.log.append([frames], [header], self.now_ms)
        except Exception as error:  # noqa: BLE001
            assert "append failed" in str(error)  # noqa: PT017
            self.refused.append((len(self.records), values))
        self.disk.heal()

    def _marked(self, values):
        """What may be refused is like nothing else: so it is known again, if power loss brings it back."""
        self.attempts += 1
        return [*values, b"attempt %d" % self.attempts]

    def _wrote(self, values, timestamp):
        self.records += values
        self.timestamps += [timestamp] * len(values)
        self.epochs += [self.epoch] * len(values)

    @rule(ms=st.sampled_from([10, 600, 1_500]))
    def time_passes(self, ms):
        self.now_ms += ms
        self.log.roll_if_due(self.now_ms)

    # -- becoming durable ------------------------------------------------------------------------------

    @precondition(lambda self: self.job is None)
    @rule()
    def begin_flush(self):
        self.job = self.log.begin_flush()

    @precondition(lambda self: self.job is None)
    @rule()
    def begin_checkpoint(self):
        self.job = self.log.begin_checkpoint(self.now_ms)

    @precondition(lambda self: self.job is not None)
    @rule()
    def finish_job(self):
        job, self.job = self.job, None
        job()
        self.log.end_flush(job, None)
        self.durable = self.log.durable_offset
        self.start_on_disk = self.log.durable_log_start_offset

    # -- deleting from the front -----------------------------------------------------------------------

    @precondition(lambda self: self.log.log_end_offset > self.start)
    @rule(data=st.data())
    def delete_before(self, data):
        offset = data.draw(st.integers(self.start, len(self.records)))
        self.log.delete_before(offset, len(self.records))
        self.start = offset

    @rule(retention_ms=st.sampled_from([None, 100, 2_000]), retention_bytes=st.sampled_from([None, 0, 1_500]))
    def retain(self, retention_ms, retention_bytes):
        before = self.log.size_bytes
        self.log.retain(1_060, retention_ms, retention_bytes, len(self.records))
        assert self.log.log_start_offset >= self.start
        assert retention_ms == 100 or retention_bytes is None or self.log.size_bytes >= min(retention_bytes, before)
        deleted = self.timestamps[self.start : self.log.log_start_offset]
        assert retention_bytes is not None or all(at + (retention_ms or 0) < 1_060 for at in deleted)
        assert retention_bytes is not None or retention_ms is not None or not deleted
        self.start = self.log.log_start_offset

    # -- ending ----------------------------------------------------------------------------------------

    @rule()
    def close_and_reopen(self):
        self.log.close(self.now_ms)
        self.durable = len(self.records)
        self.start_on_disk = self.start
        self._reopen(self.disk)
        assert self.log.recovery.was_clean
        assert self.log.recovery.scanned_bytes == 0

    @rule()
    def kill(self):
        self._reopen(self.disk.kill())
        assert self.log.log_end_offset == len(self.records)

    @rule(seed=st.integers(0, 1_000))
    def power_loss(self, seed):
        self._reopen(self.disk.crash(seed))
        end = self.log.log_end_offset
        found = contents(self.log, 700)
        for at, values in self.refused:  # written, cut, and the cut did not reach the disk, nor what came in its place
            if (
                self.durable <= at <= len(self.records)
                and end == at + len(values)
                and found[-len(values) :] == list(enumerate(values, at))
            ):
                self._cut(at)
                self._wrote(values, 1_000)
                break
        assert self.durable <= end <= len(self.records)
        self._cut(end)

    @rule(seed=st.integers(0, 1_000), names=st.sets(st.sampled_from(["producers", "clean-shutdown", "index"])))
    def kill_and_lose_side_files(self, seed, names):
        disk = self.disk.kill()
        for name in disk.list_dir(DIRECTORY):
            if any(lost in name for lost in names):
                disk.erase(f"{DIRECTORY}/{name}")
        self._reopen(disk)
        if "producers" in names:
            self.known_from = self.start
        assert self.log.log_end_offset == len(self.records)

    def _reopen(self, disk: SimDisk) -> None:
        self.disk, self.job = disk, None
        self.log = open_log(disk, CONFIG, now_ms=self.now_ms)
        assert self.log.durable_offset <= self.log.log_end_offset
        assert min(self.start_on_disk, self.log.log_end_offset) <= self.log.log_start_offset <= self.start
        self.start = self.start_on_disk = self.log.log_start_offset

    @precondition(lambda self: len(self.records) > self.start)
    @rule(data=st.data())
    def truncate(self, data):
        offset = data.draw(st.integers(self.start, len(self.records)))
        self.log.truncate_to(offset)
        if self.job is not None and self.job.is_done:
            self.job = None
        end = self.log.log_end_offset
        assert end <= offset
        assert offset - end < 5, "no more than the batch that held it"
        self._cut(end)
        self.known_from = max(
            self.known_from, min(self.start, end)
        )  # rebuilt from what is left, if no snapshot is older
        self.durable = self.log.durable_offset
        self.start = min(self.start, end)  # the cut is at a batch's begin
        self.start_on_disk = self.log.durable_log_start_offset

    def _cut(self, end: int) -> None:
        self.refused = [(at, values) for at, values in self.refused if at >= self.durable]
        del self.records[end:], self.timestamps[end:], self.epochs[end:]
        self.batches = [batch for batch in self.batches if batch[2] < end]
        self.durable = min(self.durable, end)

    # -- always ----------------------------------------------------------------------------------------

    @invariant()
    def everything_is_read_back(self):
        assert contents(self.log, 700) == list(enumerate(self.records))[self.start :]

    @invariant()
    def offsets_are_in_order(self):
        log = self.log
        assert log.durable_offset <= log.log_end_offset == len(self.records)
        assert self.start_on_disk <= log.log_start_offset == self.start <= log.log_end_offset
        assert log.durable_offset <= max(self.durable, log.recovery.log_end_offset)

    @invariant()
    def epochs_are_those_of_the_records(self):
        starts = {}
        for offset, epoch in enumerate(self.epochs):
            if offset >= self.start:
                starts.setdefault(epoch, offset)
        found = self.log.epochs.entries
        assert found[len(found) - len(starts) :] == tuple(starts.items())
        assert len(found) <= len(starts) + 1, "of what is deleted only the last epoch may be known"

    @invariant()
    def the_last_five_batches_are_known(self):
        for sequence, count, base_offset in self.batches[-5:]:
            if base_offset + count <= self.known_from:
                continue
            _, header = a_batch([b""] * count, producer_id=1, sequence=sequence)
            verdict = self.log.producers.check(header)
            assert isinstance(verdict, Duplicate)
            assert (verdict.base_offset, verdict.last_offset) == (base_offset, base_offset + count - 1)

    @invariant()
    def timestamps_are_found(self):
        for timestamp in (0, 20, 50, 1_000, 1_001):
            wanted = next(((o, t) for o, t in enumerate(self.timestamps) if t >= timestamp and o >= self.start), None)
            assert self.log.offset_for_timestamp(timestamp) == wanted


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
