"""Exactly once: the records and the offset up to which they were read go to a database in one transaction.

Either both are there or neither, whatever happens in between. So nothing is committed to Callboard: when partitions
are assigned the consumer seeks to where the database says. This program shows it: it starts itself as a worker,
kills that twice with SIGKILL in the middle of its work, starts it again, and looks whether each record is in the
database once.

One danger is left. A worker that was only paused (a long garbage collection, a suspended virtual machine) comes
back when others have its partitions, and could still write. So the generation of the group stands beside the
offset, and the database takes nothing from an older one: a fencing sink.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from callboard import Consumer, ConsumerRebalanceListener, TopicPartition
from callboard.examples.starting import DEFAULT, ensure_topic, send_customers

RECORDS, KILLS, GROUP = 2_000, 2, "offsets-in-a-database"
TABLES = """
CREATE TABLE IF NOT EXISTS customers (partition INTEGER, offset INTEGER, customer TEXT, country TEXT);
CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next_offset INTEGER, generation INTEGER);
"""


class Fenced(Exception):
    """The database has seen a later generation of the group: this worker must not write any more."""


class Sink:
    """The database: customers, and how far each partition is in it."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._database.executescript(TABLES)

    def begin(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        if self._database.in_transaction:
            self._database.execute("COMMIT")

    def rollback(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def close(self) -> None:
        self._database.close()

    def next_offset(self, partition: TopicPartition) -> int:
        found = self._database.execute(
            "SELECT next_offset FROM offsets WHERE partition = ?", (partition.partition,)
        ).fetchone()
        return int(found[0]) if found else 0

    def store(self, partition: int, offset: int, customer: str, country: str) -> None:
        self._database.execute("INSERT INTO customers VALUES (?, ?, ?, ?)", (partition, offset, customer, country))

    def store_offset(self, partition: int, next_offset: int, generation: int) -> None:
        """Note how far a partition is read.

        Raises:
            Fenced: a member of a later generation has written already.
        """
        taken = self._database.execute(
            "INSERT INTO offsets VALUES (?, ?, ?) ON CONFLICT (partition) DO UPDATE"
            " SET next_offset = excluded.next_offset, generation = excluded.generation"
            " WHERE generation <= excluded.generation",
            (partition, next_offset, generation),
        )
        if taken.rowcount == 0:
            raise Fenced(f"partition {partition}: generation {generation} is an old one")

    def counts(self) -> tuple[int, int]:
        """Return how many records are stored, and how many different ones."""
        rows = "SELECT count(*), count(DISTINCT partition || ':' || offset) FROM customers"
        stored, different = self._database.execute(rows).fetchone()
        return int(stored), int(different)


class SeeksToTheDatabase(ConsumerRebalanceListener):
    """What is not in the database yet when partitions go is not lost: whoever gets them reads it again."""

    def __init__(self, sink: Sink, consumer: Consumer[bytes, bytes]) -> None:
        self._sink, self._consumer = sink, consumer

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._sink.commit()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for partition in assigned:
            self._consumer.seek(partition, self._sink.next_offset(partition))


def work(options: argparse.Namespace) -> None:
    """Read until everything is in the database, one transaction a poll. Prints a line after each."""
    with (
        closing(Sink(options.database)) as sink,
        Consumer(
            bootstrap_servers=options.bootstrap_servers,
            group_id=GROUP,
            enable_auto_commit=False,
            session_timeout_ms=1_000,  # a worker that was killed is missed after a second
            heartbeat_interval_ms=200,
            max_poll_records=50,
        ) as consumer,
    ):
        consumer.subscribe([options.topic], listener=SeeksToTheDatabase(sink, consumer))
        consumer.poll(0)  # joins the group, so that the assignment is there
        for partition in consumer.assignment():
            consumer.seek(partition, sink.next_offset(partition))
        while sink.counts()[0] < RECORDS:
            polled = consumer.poll(timeout_ms=100)
            sink.begin()
            for partition, records in polled.items():
                for record in records:
                    sink.store(record.partition, record.offset, record.key.decode(), record.value.decode())
                sink.store_offset(partition.partition, records[-1].offset + 1, consumer.group_metadata().generation_id)
            print("in the middle of a transaction", flush=True)  # where the killed ones die
            sink.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap-servers", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--topic", default="customersOnce", help="created if it is not there; default: customersOnce")
    parser.add_argument("--database", default="", help="of a worker: where to write")
    options = parser.parse_args()
    if options.database:
        work(options)
        return

    ensure_topic(options.bootstrap_servers, options.topic, partitions=3)
    send_customers(options.bootstrap_servers, options.topic, RECORDS)
    with tempfile.TemporaryDirectory() as directory:
        database = str(Path(directory) / "customers.sqlite")
        for life in range(KILLS + 1):
            command = [sys.executable, __file__, "--bootstrap-servers", options.bootstrap_servers]
            command += ["--topic", options.topic, "--database", database]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
                for transactions, _ in enumerate(worker.stdout or (), start=1):
                    if life < KILLS and transactions == 5 * (life + 1):
                        os.kill(worker.pid, signal.SIGKILL)
                        break
            with closing(Sink(database)) as sink:
                stored, different = sink.counts()
            ended = "killed" if worker.returncode else "done"
            print(f"worker {life + 1} {ended}: {stored} records stored, {different} different ones")
    print(f"exactly once: {stored == different == RECORDS}")


if __name__ == "__main__":
    main()
