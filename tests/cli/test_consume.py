"""``callboard consume``: from where, how many, until when."""

import io
import os
import signal
import sys

import pytest

from callboard import ConsumerRecord, TopicPartition
from callboard.cli import consume as command


def record(offset, partition=0):
    return ConsumerRecord("orders", partition, 0, offset, 0, 0, None, b"value-%d" % offset, [])


class FakeConsumer:
    """Gives out the polls it was made with, then nothing."""

    def __init__(self, *polls):
        self.polls, self.calls, self.settings, self.is_closed = list(polls), [], {}, False
        self.now = 0.0

    def subscribe(self, topics):
        self.calls.append(("subscribe", topics))

    def assign(self, partitions):
        self.calls.append(("assign", partitions))

    def seek(self, partition, offset):
        self.calls.append(("seek", partition, offset))

    def poll(self, timeout_ms, max_records):
        self.now += timeout_ms / 1_000
        batch = self.polls.pop(0) if self.polls else []
        if isinstance(batch, BaseException):
            raise batch
        taken, rest = batch[:max_records], batch[max_records:]
        if rest:
            self.polls.insert(0, rest)
        return {TopicPartition("orders", 0): taken} if taken else {}

    def close(self, *, autocommit=True):
        self.is_closed, self.is_committed = True, autocommit


class FakeClients:
    def __init__(self, consumer):
        self.made = consumer

    def consumer(self, bootstrap_servers, **settings):
        self.made.settings = settings
        return self.made


@pytest.fixture
def consume(callboard, monkeypatch):
    def run(consumer, *options):
        monkeypatch.setattr(command.time, "monotonic", lambda: consumer.now)
        return callboard("consume", "orders", *options, clients=FakeClients(consumer))

    return run


def test_it_ends_after_so_many_records_even_in_the_middle_of_a_poll(consume):
    consumer = FakeConsumer([record(0)], [record(1), record(2), record(3)])

    ended = consume(consumer, "--max-messages", "3", "--from-beginning")

    assert (ended.status, ended.out, ended.err) == (0, "value-0\nvalue-1\nvalue-2\n", "3 records\n")
    assert consumer.calls == [("subscribe", ["orders"])]
    assert consumer.settings == {"auto_offset_reset": "earliest", "group_id": None}
    assert consumer.is_closed


def test_a_member_of_a_group_commits_what_it_has_printed(consume):
    consumer = FakeConsumer([record(0), record(1)])

    ended = consume(consumer, "--group", "billing", "-n", "2", "--from-beginning")

    assert (ended.status, ended.out) == (0, "value-0\nvalue-1\n")
    assert consumer.calls == [("subscribe", ["orders"])]
    assert consumer.settings == {"auto_offset_reset": "earliest", "group_id": "billing"}
    assert consumer.is_committed


def test_what_could_not_be_written_is_not_committed(consume, monkeypatch):
    consumer = FakeConsumer([record(0)])

    class Gone:
        def write(self, data):
            raise BrokenPipeError

    class Stdout(io.StringIO):
        buffer = Gone()

    monkeypatch.setattr(sys, "stdout", Stdout())

    assert consume(consumer, "--group", "billing").status == 0
    assert consumer.is_closed
    assert not consumer.is_committed


@pytest.mark.parametrize("options", [["--partition", "0"], ["--partition", "0", "--offset", "1"]])
def test_a_member_does_not_choose_its_partitions(consume, options):
    ended = consume(FakeConsumer(), "--group", "billing", *options)

    assert ended.status == 2
    assert "--group is given its partitions" in ended.err


def test_without_from_beginning_it_begins_with_what_is_written_next(consume):
    consumer = FakeConsumer()

    consume(consumer, "--max-messages", "0")

    assert consumer.settings["auto_offset_reset"] == "latest"


def test_it_ends_when_nothing_comes_for_so_long(consume):
    consumer = FakeConsumer([record(0)], [], [record(1)])

    ended = consume(consumer, "--timeout-ms", "600")

    assert (ended.status, ended.out) == (0, "value-0\nvalue-1\n")
    assert 0.6 <= consumer.now < 2.5


def test_fewer_than_asked_for_within_the_time_is_a_failure(consume):
    ended = consume(FakeConsumer([record(0)]), "--max-messages", "5", "--timeout-ms", "300")

    assert ended.status == 1
    assert "asked for 5 records, got 1; then none came for 300 ms" in ended.err


def test_ctrl_c_ends_it_with_130_and_closes_the_consumer(consume):
    consumer = FakeConsumer([record(0)], KeyboardInterrupt())

    ended = consume(consumer)

    assert (ended.status, ended.out) == (130, "value-0\n")
    assert ended.err == "1 record\ncallboard: interrupted\n"
    assert consumer.is_closed


def test_sigterm_ends_it_as_ctrl_c_does_so_that_a_member_leaves(consume):
    class Terminated(FakeConsumer):
        def poll(self, timeout_ms, max_records):
            polled = super().poll(timeout_ms, max_records)
            if not polled:
                os.kill(os.getpid(), signal.SIGTERM)
            return polled

    before = signal.getsignal(signal.SIGTERM)
    consumer = Terminated([record(0)])

    ended = consume(consumer, "--group", "g")

    assert (ended.status, ended.out) == (130, "value-0\n")
    assert (consumer.is_closed, consumer.is_committed) == (True, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_partition_from_one_offset(consume):
    consumer = FakeConsumer([record(7)])

    ended = consume(consumer, "--partition", "2", "--offset", "7", "--format", "%o", "-n", "1")

    partition = TopicPartition("orders", 2)
    assert consumer.calls == [("assign", [partition]), ("seek", partition, 7)]
    assert consumer.settings["auto_offset_reset"] == "none"  # an offset that is not there is told, not skipped
    assert ended.out == "7\n"


def test_several_partitions_each_once(consume):
    consumer = FakeConsumer()

    consume(consumer, "--partition", "2", "--partition", "0", "--partition", "2", "-n", "0")

    assert consumer.calls == [("assign", [TopicPartition("orders", 2), TopicPartition("orders", 0)])]


def test_it_ends_when_the_reader_of_its_output_goes_while_nothing_comes(consume, monkeypatch):
    monkeypatch.setattr(command, "reader_has_gone", lambda: True)

    assert consume(FakeConsumer([record(0)]))[:2] == (0, "value-0\n")


def test_a_pipe_without_reader_is_noticed(monkeypatch):
    import os

    reading, writing = os.pipe()
    with open(writing, "wb", closefd=True) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert not command.reader_has_gone()
        os.close(reading)
        assert command.reader_has_gone()
