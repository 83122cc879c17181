"""``callboard produce``: the lines of stdin become records, in their order."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import DeliveryError
from . import human
from .commands import Command
from .connect import Clients
from .exits import CommandFailed, one_line, status_for
from .options import WholeNumber, bootstrap_option
from .output import say

if TYPE_CHECKING:
    from ..client.producer import Producer

CLOSE_S_MAX = 30.0
PROGRESS_S = 0.2


@click.command(cls=Command, short_help="Send the lines of stdin to a topic.")
@click.argument("topic")
@bootstrap_option
@click.option("--key-separator", metavar="TEXT", help="What stands before its first TEXT in a line is the key.")
@click.option("--partition", type=WholeNumber(min=0), help="Send everything to this partition.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most N records a second.")
@click.option(
    "--acks", type=click.Choice(["0", "1", "all"]), default="all", show_default=True, help="Who must have it."
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="Of each batch.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress and no closing line on stderr.")
@click.pass_obj
def produce(
    clients: Clients,
    topic: str,
    bootstrap_servers: str,
    key_separator: str | None,
    partition: int | None,
    rate: float | None,
    acks: str,
    compression: str,
    quiet: bool,
) -> None:
    """Send each line of stdin to TOPIC as a record; its line feed is not part of it.

    Without --key-separator a record has no key. Ends when stdin ends and everything is acknowledged; the first
    record that cannot be delivered ends it at once.
    """
    if key_separator == "":
        raise click.UsageError("--key-separator cannot be empty")
    producer = clients.producer(
        bootstrap_servers,
        acks=acks if acks == "all" else int(acks),
        compression_type=None if compression == "none" else compression,
    )
    sending = Sending(producer, topic, partition, progress=not quiet and sys.stderr.isatty())
    try:
        for key, value in paced(split(sys.stdin.buffer, key_separator), rate):
            sending.send(key, value)
        producer.flush()
    except DeliveryError as error:
        sending.note(error)
    finally:
        # After close() no callback comes any more: the closing line tells the whole truth, also after Ctrl-C.
        try:
            producer.close(timeout=CLOSE_S_MAX)
        except DeliveryError as error:
            sending.note(error)
        sending.end_progress()
        if not quiet:
            say(sending.summary())
    if sending.failure is not None:
        raise sending.failed()


def split(lines: IO[bytes] | Iterator[bytes], key_separator: str | None) -> Iterator[tuple[bytes | None, bytes]]:
    """Yield ``(key, value)`` for each line.

    Raises:
        CommandFailed: a line has no separator; which line is told. Those before it are sent.
    """
    separator = key_separator.encode() if key_separator is not None else None
    for number, line in enumerate(lines, start=1):
        value = line[:-1] if line.endswith(b"\n") else line
        if separator is None:
            yield None, value
            continue
        key, found, rest = value.partition(separator)
        if not found:
            raise CommandFailed(
                f"line {number} has no {key_separator!r} between key and value; what is before it was sent"
            )
        yield key, rest


def paced(records: Iterator[Any], rate: float | None) -> Iterator[Any]:
    """Yield ``records``, at most ``rate`` a second: record n not before n/rate seconds after the first."""
    if rate is None:
        yield from records
        return
    begin = time.monotonic()
    for number, record in enumerate(records):
        ahead_s = begin + number / rate - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
        yield record


class Sending:
    """Counts what is sent, acknowledged and refused. Acknowledgements come on the client's own thread."""

    def __init__(self, producer: Producer[Any, Any], topic: str, partition: int | None, *, progress: bool) -> None:
        self.topic = topic
        self.sent = 0  # moved by send; read by the progress line
        self.acknowledged = 0  # <= sent; moved by the client's thread only
        self.bytes = 0  # of keys and values sent
        self.failure: BaseException | None = None  # the first one; set by the client's thread, read by send
        self._producer = producer
        self._partition = partition
        self._begin = time.monotonic()
        self._next_progress = self._begin + PROGRESS_S if progress else float("inf")
        self._lock = threading.Lock()

    def send(self, key: bytes | None, value: bytes) -> None:
        if self.failure is not None:
            raise self.failed()
        future = self._producer.send(self.topic, value=value, key=key, partition=self._partition)
        self.sent += 1
        self.bytes += len(value) + len(key or b"")
        future.add_callback(self._on_acknowledged)
        future.add_errback(self._on_failed)
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_S
            click.echo(f"\r\x1b[2K{self._figures()}", err=True, nl=False)

    def failed(self) -> CommandFailed:
        """Return the error that ends the command because a record was not delivered."""
        failure = self.failure or RuntimeError("no failure")
        missing = self.sent - self.acknowledged
        return CommandFailed(
            f"{human.count(missing, 'record')} not delivered to {self.topic}: {one_line(failure)}", status_for(failure)
        )

    def note(self, error: DeliveryError) -> None:
        """Keep the error of flush or close, unless a record's own failure is known: that one says more."""
        self.failure = self.failure or error

    def end_progress(self) -> None:
        if self._next_progress != float("inf"):
            click.echo("\r\x1b[2K", err=True, nl=False)

    def summary(self) -> str:
        return f"{self._figures()} to {self.topic}"

    def _figures(self) -> str:
        elapsed_s = time.monotonic() - self._begin
        return (
            f"{human.count(self.sent, 'record')} sent, {self.acknowledged:,} acknowledged,"
            f" {human.size(self.bytes)} in {elapsed_s:.1f} s ({human.rate(self.sent, elapsed_s)})"
        )

    def _on_acknowledged(self, _metadata: Any) -> None:
        with self._lock:
            self.acknowledged += 1

    def _on_failed(self, error: BaseException) -> None:
        with self._lock:
            self.failure = self.failure or error
