"""What needs a process of its own: forks, signals, the end of the interpreter, the cost of an import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from callboard import AdminClient, Consumer, ForkedClientError, Producer, TopicPartition

pytestmark = pytest.mark.processes


def in_fork(function) -> str:
    """Run a function in a forked child; return what it returned or raised, as text."""
    out, inn = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(inn, repr(function()).encode())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(inn, repr(error).encode())
        finally:
            os._exit(0)
    os.close(inn)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(out, "rb") as pipe:
        assert status == 0
        return pipe.read().decode()


@pytest.mark.filterwarnings("ignore:This process")  # fork beside threads is what is tested
def test_objects_made_before_a_fork_raise_at_once_and_new_ones_work(cluster):
    cluster.create("t")
    servers = cluster.bootstrap_servers
    producer, consumer, admin = (
        Producer(bootstrap_servers=servers),
        Consumer("t", bootstrap_servers=servers),
        AdminClient(bootstrap_servers=servers),
    )
    producer.send("t", b"0").get(10)
    consumer.poll(20)

    for use in (
        lambda: producer.send("t", b"x"),
        lambda: producer.flush(),
        lambda: producer.send_batch("t", [b"x"]),
        lambda: consumer.poll(1_000),
        lambda: consumer.seek(TopicPartition("t", 0), 0),
        lambda: admin.list_topics(),
    ):
        begin = time.monotonic()
        assert in_fork(use).startswith("ForkedClientError")
        assert time.monotonic() - begin < 5

    def make_a_new_one() -> int:
        with Producer(bootstrap_servers=servers) as fresh:
            return fresh.send("t", b"1").get(10).offset

    assert in_fork(make_a_new_one) == "1"
    assert "before this process was forked" in in_fork(lambda: consumer.health().trouble)
    assert in_fork(lambda: (producer.close(), consumer.close(), admin.close())) == "(None, None, None)"
    assert producer.send("t", b"2").get(10).offset == 2  # the parent's go on
    for each in (producer, consumer, admin):
        each.close()


def test_a_fork_error_says_what_to_do(cluster):
    error = ForkedClientError("x")
    assert not error.retriable


@pytest.mark.parametrize("what", ["get", "flush", "poll", "position", "admin", "send"])
def test_ctrl_c_ends_every_call_that_waits(what):
    producer = Producer(bootstrap_servers="127.0.0.1:1", buffer_memory=1_024, batch_size=1_024)
    consumer = Consumer("t", bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=60_000)
    admin = AdminClient(bootstrap_servers="127.0.0.1:1", bootstrap_timeout_ms=60_000)
    future = producer.send("t", b"x" * 600)
    calls = {
        "get": lambda: future.get(60),
        "flush": lambda: producer.flush(60),
        "poll": lambda: consumer.poll(60_000),
        "position": lambda: (consumer.unsubscribe(), consumer.assign([("t", 0)]), consumer.position(("t", 0))),
        "admin": lambda: admin.list_topics(),
        "send": lambda: producer.send("t", b"x" * 600),
    }
    main = threading.main_thread().ident
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            calls[what]()
    finally:
        timer.join()
        _ = future.exception, consumer.close(), admin.close()
        future.add_errback(lambda _: None)
        producer.close(timeout=0)
    assert time.monotonic() - begin < 5


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_a_program_that_forgets_to_close_still_delivers_and_ends(cluster):
    cluster.create("t")

    done = run_python(f"""
        from callboard import Consumer, Producer
        consumer = Consumer("t", bootstrap_servers={cluster.bootstrap_servers})
        producer = Producer(bootstrap_servers={cluster.bootstrap_servers}, linger_ms=60_000)
        for i in range(100):
            producer.send("t", b"%d" % i)
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.log("t").end == 100


def test_a_program_whose_records_cannot_be_delivered_ends_and_says_so():
    begin = time.monotonic()
    done = run_python("""
        from callboard import Producer
        producer = Producer(bootstrap_servers="127.0.0.1:1", close_timeout_ms=100)
        producer.send("t", b"x")
    """)

    assert done.returncode == 0
    assert "1 record was not delivered" in done.stderr
    assert time.monotonic() - begin < 20


def test_importing_the_client_brings_neither_actors_nor_asyncio():
    done = run_python("""
        import sys
        before = set(sys.modules)
        import callboard
        assert not {"zmq", "msgspec", "threading", "callboard.client"} & (set(sys.modules) - before)
        from callboard import AdminClient, Consumer, Producer
        heavy = {"pykka", "asyncio", "rich", "click", "uvloop", "psutil", "callboard.actors", "callboard.cli"}
        print(sorted(heavy & set(sys.modules)))
    """)

    assert done.stderr == ""
    assert done.stdout.strip() == "[]"
