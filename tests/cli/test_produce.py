"""``callboard produce``: lines in, records out, every ending told."""

import pytest

from callboard import errors
from callboard.cli.produce import paced, split


class FakeFuture:
    def __init__(self, error):
        self.error = error

    def add_callback(self, function):
        if self.error is None:
            function(None)
        return self

    def add_errback(self, function):
        if self.error is not None:
            function(self.error)
        return self


class FakeProducer:
    """Acknowledges at once; fails the records whose value is in ``failing``."""

    def __init__(self, failing=None):
        self.sent, self.settings, self.is_closed = [], {}, False
        self.failing = failing or {}

    def send(self, topic, value, key=None, partition=None):
        self.sent.append((topic, key, value, partition))
        return FakeFuture(self.failing.get(value))

    def flush(self, timeout=None):
        pass

    def close(self, timeout=None):
        self.is_closed = True


class FakeClients:
    def __init__(self, producer):
        self.made = producer

    def producer(self, bootstrap_servers, **settings):
        self.made.settings = {"bootstrap_servers": bootstrap_servers, **settings}
        return self.made


def produce(callboard, *options, stdin, producer=None):
    producer = producer or FakeProducer()
    return producer, callboard("produce", "orders", *options, stdin=stdin, clients=FakeClients(producer))


def test_each_line_is_a_record_without_its_line_feed(callboard):
    producer, ended = produce(callboard, stdin="one\n\nthree \r\nlast")

    assert [value for _, _, value, _ in producer.sent] == [b"one", b"", b"three \r", b"last"]
    assert ended.status == 0
    assert ended.err.startswith("4 records sent, 4 acknowledged")
    assert producer.is_closed


def test_the_key_is_what_stands_before_the_first_separator(callboard):
    producer, _ = produce(callboard, "--key-separator", "::", stdin="a::b::c\n::empty\n")

    assert [(key, value) for _, key, value, _ in producer.sent] == [(b"a", b"b::c"), (b"", b"empty")]


def test_a_line_without_separator_ends_it_with_the_line_number_and_sends_what_came_before(callboard):
    producer, ended = produce(callboard, "--key-separator", ":", stdin="a:1\noops\nb:2\n")

    assert [value for _, _, value, _ in producer.sent] == [b"1"]
    assert ended.status == 1
    assert "line 2 has no ':'" in ended.err
    assert producer.is_closed


def test_the_first_record_that_fails_ends_it_with_its_reason_and_status(callboard):
    failing = {b"2": errors.error_for_code(3, "no topic 'orders'")}
    producer, ended = produce(callboard, stdin="1\n2\n3\n4\n", producer=FakeProducer(failing))

    assert len(producer.sent) < 4
    assert ended.status == 4
    assert ended.err.splitlines()[-1].startswith("callboard: 1 record not delivered to orders: no topic 'orders'")


def test_options_reach_the_producer(callboard):
    options = ["--acks", "1", "--compression", "zstd", "--partition", "2", "-b", "h:1,h:2", "--quiet"]
    producer, ended = produce(callboard, *options, stdin="x\n")

    assert producer.settings == {"bootstrap_servers": "h:1,h:2", "acks": 1, "compression_type": "zstd"}
    assert producer.sent[0][3] == 2
    assert ended.err == ""


def test_the_environment_names_the_brokers(callboard, monkeypatch):
    monkeypatch.setenv("CALLBOARD_BOOTSTRAP_SERVERS", "there:9")

    producer, _ = produce(callboard, stdin="")

    assert producer.settings["bootstrap_servers"] == "there:9"


def test_lines_are_read_as_they_come():
    read = []
    lines = (read.append(line) or line for line in (b"a\n", b"b\n"))

    records = split(lines, None)

    assert next(records) == (None, b"a")
    assert read == [b"a\n"]


def test_a_rate_spaces_the_records(monkeypatch):
    now, naps = [100.0], []

    def sleep(seconds):
        naps.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr("callboard.cli.produce.time.monotonic", lambda: now[0])
    monkeypatch.setattr("callboard.cli.produce.time.sleep", sleep)

    assert list(paced(iter("abc"), rate=4.0)) == ["a", "b", "c"]
    assert naps == [0.25, 0.25]


@pytest.mark.parametrize("rate", [None, 1e9])
def test_no_rate_or_a_vast_one_loses_nothing(rate):
    assert list(paced(iter(range(1_000)), rate)) == list(range(1_000))
