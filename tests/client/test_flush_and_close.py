"""The end of what a producer does: flush, close and with blocks are bounded, and say what was not delivered."""

from __future__ import annotations

import time

import pytest

from callboard import DeliveryError, ErrorCode, IllegalStateError, Producer
from callboard.transport.messages import ProduceRequest


def test_flush_raises_for_failures_that_nobody_has_seen_and_only_once(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD)
    future = p.send("t", b"1")

    with pytest.raises(DeliveryError, match=r"1 record was not delivered \(t-0\)") as caught:
        p.flush(10)

    assert [failed.record_value for failed in caught.value.failed] == [b"1"]
    assert future.failed()
    p.flush(10)


def test_flush_is_silent_about_failures_that_were_seen(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD)
    seen = []
    p.send("t", b"1").add_errback(seen.append)
    p.flush(10)

    assert len(seen) == 1


def test_the_end_of_a_with_block_raises_for_what_was_not_delivered(cluster):
    cluster.create("t")
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD, count=10)

    with pytest.raises(DeliveryError), Producer(bootstrap_servers=cluster.bootstrap_servers) as p:
        p.send("t", b"x")


def test_the_error_of_a_with_block_is_not_hidden(cluster):
    cluster.create("t")
    cluster.add_fault(ProduceRequest, ErrorCode.INVALID_RECORD, count=10)

    def fail() -> None:
        with Producer(bootstrap_servers=cluster.bootstrap_servers) as p:
            p.send("t", b"x")
            raise KeyError("the application's")

    with pytest.raises(KeyError) as caught:
        fail()
    assert "not delivered" in caught.value.__notes__[0]


def test_what_was_never_sent_fails_at_close_as_not_stored(cluster, producer):
    cluster.create("t")
    p = producer(max_in_flight_requests_per_connection=1, batch_size=0)
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, "drop", count=1_000)
    p.send("t", b"1")
    cluster.wait_until(lambda: p.metrics()["requests_sent"] >= 2)
    behind = p.send("t", b"2")

    with pytest.raises(DeliveryError):
        p.close(timeout=0.2)

    assert isinstance(behind.exception, IllegalStateError)
    assert not behind.exception.outcome_unknown


def test_close_is_bounded_and_tells_what_was_left(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, "drop", count=1_000)
    sent = p.send("t", b"1")

    begin = time.monotonic()
    with pytest.raises(DeliveryError, match="closed before this record was acknowledged"):
        p.close(timeout=0.2)

    assert time.monotonic() - begin < 3
    assert sent.exception.outcome_unknown, "the broker got it, and may have stored it"
    with pytest.raises(IllegalStateError):
        p.send("t", b"2")
    p.close()


def test_flush_tells_what_is_late(cluster, producer):
    cluster.create("t")
    p = producer()
    p.send("t", b"0").get(10)
    cluster.add_fault(ProduceRequest, "drop", count=1)
    p.send("t", b"1")

    with pytest.raises(DeliveryError, match="still on their way"):
        p.flush(0.05)
    with pytest.raises(DeliveryError):
        p.close(timeout=0)


def test_a_lingering_batch_leaves_at_flush(cluster, producer):
    cluster.create("t")
    p = producer(linger_ms=60_000)
    futures = [p.send("t", b"%d" % i) for i in range(10)]

    p.flush(10)

    assert all(future.succeeded() for future in futures)
