"""What every example begins with: one option, and a topic to play with."""

from __future__ import annotations

import argparse

from callboard import AdminClient, Producer, StringSerializer
from callboard.errors import TopicAlreadyExistsError

DEFAULT = "127.0.0.1:9192"  # where `callboard up` listens
COUNTRIES = ("France", "USA", "Brazil", "India", "Japan")


def arguments(description: str | None, topic: str) -> argparse.Namespace:
    """Return ``bootstrap_servers`` and ``topic`` as given on the command line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--bootstrap-servers", default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--topic", default=topic, help=f"created if it is not there; default: {topic}")
    return parser.parse_args()


def ensure_topic(bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Create the topic, unless it is there."""
    with AdminClient(bootstrap_servers=bootstrap_servers) as admin:
        try:
            admin.create_topics({topic: {"num_partitions": partitions}})
        except TopicAlreadyExistsError:
            print(f"topic {topic} is there already")


def send_customers(bootstrap_servers: str, topic: str, count: int = 1_000) -> None:
    """Have something to read: so many customers (the key) with their countries (the value)."""
    text = StringSerializer()
    with Producer(bootstrap_servers=bootstrap_servers, key_serializer=text, value_serializer=text) as producer:
        for number in range(count):
            producer.send(topic, key=f"customer-{number}", value=COUNTRIES[number % len(COUNTRIES)])
