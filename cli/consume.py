"""``callboard consume``: records to stdout, one after the other, until told to stop."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..model import TopicPartition
from . import human, records
from .commands import Command
from .connect import Clients
from .exits import CommandFailed
from .options import MILLISECONDS, WholeNumber, bootstrap_option
from .output import say

if TYPE_CHECKING:
    from ..client.consumer import Consumer

POLL_MS = 250  # between two looks at whether the reader of stdout is still there
BATCH_RECORDS_MAX = 5_000


@click.command(cls=Command, short_help="Print the records of a topic.")
@click.argument("topic")
@bootstrap_option
@click.option("--group", metavar="GROUP", help="Be a member of this consumer group, and commit what was printed.")
@click.option("--from-beginning", is_flag=True, help="Begin with the oldest record; else with the next to be written.")
@click.option("--partition", type=WholeNumber(min=0), multiple=True, help="Only this partition; may be repeated.")
@click.option("--offset", type=WholeNumber(min=0), help="Begin there; with one --partition.")
@click.option("--max-messages", "-n", type=WholeNumber(min=0), metavar="N", help="End after N records.")
@click.option("--timeout-ms", type=MILLISECONDS, help="End when no record has come for so long.")
@click.option(
    "--format",
    "template",
    default="value",
    show_default=True,
    metavar="FORMAT",
    help="value, json, or text with %t topic, %p partition, %o offset, %e leader epoch, %k key, %v value,"
    " %h headers, %T timestamp, %%, \\n, \\t.",
)
@click.option("--quiet", "-q", is_flag=True, help="No closing line on stderr.")
@click.pass_obj
def consume(
    clients: Clients,
    topic: str,
    bootstrap_servers: str,
    group: str | None,
    from_beginning: bool,
    partition: tuple[int, ...],
    offset: int | None,
    max_messages: int | None,
    timeout_ms: int | None,
    template: str,
    quiet: bool,
) -> None:
    """Print the records of TOPIC; within a partition in their order, between partitions in none.

    Goes on until Ctrl-C or SIGTERM, unless --max-messages or --timeout-ms end it. Fewer than --max-messages within the
    time is a failure.

    With --group it shares the partitions with the group's other members and goes on where the group has committed; only
    where nothing is committed does --from-beginning count. What was printed is committed every few seconds, and at the
    end; when the reader of a pipe goes away, what it did not take is not.
    """
    if group is not None and (partition or offset is not None):
        raise click.UsageError("--group is given its partitions: it goes without --partition and --offset")
    if offset is not None and (len(partition) != 1 or from_beginning):
        raise click.UsageError("--offset goes with exactly one --partition and without --from-beginning")
    try:
        write = records.formatter(template)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    printed = 0
    # With --offset "none": an offset that is not there is an error, not silence until something new is written.
    reset = "none" if offset is not None else "earliest" if from_beginning else "latest"
    consumer = clients.consumer(bootstrap_servers, auto_offset_reset=reset, group_id=group)
    is_written = True
    with _ended_by_sigterm():
        try:
            _choose_partitions(consumer, topic, partition, offset)
            for batch in _polled(consumer, max_messages, timeout_ms):
                lines = b"".join(map(write, batch))
                printed += len(batch)  # before they are written: Ctrl-C as soon as a line is seen must find it counted
                is_written = False
                sys.stdout.buffer.write(lines)
                sys.stdout.buffer.flush()
                is_written = True
        finally:
            if is_written:
                consumer.close()
            else:
                consumer.close(autocommit=False)
            if not quiet:
                say(human.count(printed, "record"))
    if max_messages is not None and printed < max_messages:
        raise CommandFailed(
            f"asked for {human.count(max_messages, 'record')}, got {printed:,}; then none came for {timeout_ms} ms"
        )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is in here as Ctrl-C does: a member commits and leaves, nobody waits for its session's end."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _choose_partitions(
    consumer: Consumer[Any, Any], topic: str, partitions: tuple[int, ...], offset: int | None
) -> None:
    if not partitions:
        consumer.subscribe([topic])
        return
    chosen = [TopicPartition(topic, number) for number in dict.fromkeys(partitions)]
    consumer.assign(chosen)
    if offset is not None:
        consumer.seek(chosen[0], offset)


def _polled(consumer: Consumer[Any, Any], max_messages: int | None, timeout_ms: int | None) -> Any:
    """Yield lists of records as they come; end at the count, after the silence, or when stdout's reader has gone."""
    left = max_messages
    last_s = time.monotonic()
    while left is None or left > 0:
        wait_ms = POLL_MS if timeout_ms is None else min(POLL_MS, timeout_ms)
        polled = consumer.poll(timeout_ms=wait_ms, max_records=min(left or BATCH_RECORDS_MAX, BATCH_RECORDS_MAX))
        batch = [record for records_ in polled.values() for record in records_]
        if batch:
            yield batch
            left = None if left is None else left - len(batch)
            last_s = time.monotonic()
        elif timeout_ms is not None and (time.monotonic() - last_s) * 1_000 >= timeout_ms:
            return
        elif reader_has_gone():
            raise BrokenPipeError


def reader_has_gone() -> bool:
    """Say whether stdout is a pipe that nobody reads any more; without records to write one would never notice."""
    try:
        descriptor = sys.stdout.fileno()
        poller = select.poll()
    except (OSError, ValueError, AttributeError):
        return False
    if os.isatty(descriptor):
        return False
    poller.register(descriptor, 0)  # errors are always told
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poller.poll(0))
