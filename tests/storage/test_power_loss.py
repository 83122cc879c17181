"""Power loss at any moment: every record that was called durable is there afterwards, and nothing else stands between.

Each seed is one life: appends of random sizes, flushes that end sooner or later, checkpoints, rolls, clean restarts,
kills, cuts; then the power goes, possibly in the middle of an operation. The disk keeps what was synced and any part
of the rest. Whatever is read back must be a prefix of what was written, at least as long as what was durable.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from callboard.config import TopicConfig
from callboard.storage.flushing import FlushJob
from callboard.storage.log import Log
from callboard.testing.disk import SimCrash, SimDisk
from callboard.testing.logs import append, append_many, contents, open_log

CONFIG = TopicConfig(segment_bytes=2_048, index_interval_bytes=512)
IMAGES_PER_LIFE = 4


class Life:
    """One log and what it has promised."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.disk = SimDisk(seed)
        self.written: list[bytes] = []  # every record, by offset; cut by truncation
        self.durable = 0  # records that must survive
        self.sequence = 0
        self.start = 0  # deleted below it
        self.start_on_disk = 0  # what was promised to be deleted stays so
        self.log: Log = open_log(self.disk, CONFIG)
        self.job: FlushJob | None = None

    def live(self, steps: int) -> None:
        actions = (
            [self.append] * 10
            + [self.append_many] * 3
            + [self.begin_flush, self.run_flush] * 6
            + [self.begin_checkpoint] * 2
            + [self.restart, self.kill, self.cut, self.delete]
        )
        for _ in range(steps):
            self.chance.choice(actions)()

    def append(self) -> None:
        values = [self.value() for _ in range(self.chance.randint(1, 3))]
        before = len(self.written)
        self.written += values  # it may reach the disk before the call returns
        append(self.log, *values, epoch=before // 40, producer_id=1, sequence=self.sequence, timestamp=before)
        self.sequence += len(values)

    def append_many(self) -> None:
        batches = [[self.value()] for _ in range(self.chance.randint(2, 8))]
        self.written += [value for batch in batches for value in batch]
        append_many(self.log, batches)

    def value(self) -> bytes:
        return b"%d:" % self.chance.randrange(10**6) + b"v" * self.chance.choice((0, 10, 300, 1_500))

    def begin_flush(self) -> None:
        if self.job is None:
            self.job = self.log.begin_flush()

    def begin_checkpoint(self) -> None:
        if self.job is None:
            self.job = self.log.begin_checkpoint(0)

    def run_flush(self) -> None:
        if self.job is not None:
            job, self.job = self.job, None
            job()
            self.log.end_flush(job, None)
            self.durable = max(self.durable, self.log.durable_offset)
            self.start_on_disk = self.log.durable_log_start_offset

    def restart(self) -> None:
        self.log.close(0)
        self.job = None
        self.durable = len(self.written)
        self.start_on_disk = self.start
        self.log = open_log(self.disk, CONFIG)
        assert self.log.recovery.was_clean

    def kill(self) -> None:
        self.disk = self.disk.kill()
        self.job = None
        self.log = open_log(self.disk, CONFIG)
        assert self.log.log_end_offset == len(self.written), "a kill loses nothing"
        assert self.start_on_disk <= self.log.log_start_offset <= self.start
        self.start = self.log.log_start_offset
        assert self.log.durable_offset <= self.durable or self.durable == self.log.durable_offset

    def cut(self) -> None:
        if self.chance.random() < 0.7:
            return
        end = self.chance.randint(max(self.log.log_end_offset // 2, self.start), self.log.log_end_offset)
        self.durable = min(self.durable, max(end - 3, 0))  # from now on the batch that holds ``end`` may be gone
        self.start_on_disk = min(self.start_on_disk, max(end - 3, 0))
        self.log.truncate_to(end)
        self.job = None if self.job is not None and self.job.is_done else self.job
        del self.written[self.log.log_end_offset :]
        self.durable = self.log.durable_offset
        self.start = self.log.log_start_offset
        self.start_on_disk = self.log.durable_log_start_offset
        self.sequence = _next_sequence(self.log)

    def delete(self) -> None:
        if self.chance.random() < 0.5:
            self.start = self.chance.randint(self.start, len(self.written))  # it may be on disk before the call returns
            self.log.delete_before(self.start, len(self.written))
        else:
            self.log.retain(0, None, self.chance.choice((0, 2_000, 6_000)), len(self.written))
            self.start = self.log.log_start_offset


def _next_sequence(log: Log) -> int:
    state = log.producers.copy().get(1)
    return state.batches[-1].last_sequence + 1 if state else 0


def check(image: SimDisk, life: Life, seed: str) -> None:
    log = open_log(image, CONFIG)
    found = contents(log)
    kept = log.log_end_offset
    assert kept >= life.durable, f"seed {seed}: {life.durable - kept} durable records lost"
    start = log.log_start_offset
    assert min(life.start_on_disk, kept) <= start <= life.start, f"seed {seed}: begins at {start}"
    assert found == list(enumerate(life.written[:kept]))[start:], f"seed {seed}: something else is read"
    assert log.durable_offset <= kept
    after = Life.__new__(Life)
    after.__dict__.update(
        life.__dict__, disk=image, log=log, job=None, written=life.written[:kept], durable=life.durable
    )
    after.sequence = _next_sequence(log)
    after.chance = random.Random(f"after {seed}")
    after.append()  # and the log goes on
    after.begin_flush()
    after.run_flush()
    again = open_log(image.crash(seed), CONFIG)
    assert contents(again) == list(enumerate(after.written))[start:], f"seed {seed}: lost after the recovery"


def run(seed: str) -> int:
    """Live one life up to the power loss; return how many images were checked."""
    life = Life(seed)
    dies_within = life.chance.random() < 0.6
    life.live(life.chance.randint(1, 25))
    if dies_within:
        life.disk.stop_after(life.chance.randint(0, 25))
    with contextlib.suppress(SimCrash):
        life.live(25)
    for number in range(IMAGES_PER_LIFE):
        check(life.disk.crash(f"{seed}/{number}"), life, f"{seed}/{number}")
    return IMAGES_PER_LIFE


@pytest.mark.parametrize("block", range(10))
def test_no_durable_record_is_lost_to_power_loss(block):
    for seed in range(12):
        run(f"{block}/{seed}")


@pytest.mark.long
def test_no_durable_record_is_lost_in_20_000_images():
    assert sum(run(f"long/{seed}") for seed in range(20_000 // IMAGES_PER_LIFE)) == 20_000
