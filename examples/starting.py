"""What every example begins with: one option, and a topic to play with."""

from __future__ import annotations

import argparse

from callboard import AdminClient
from callboard.errors import TopicAlreadyExistsError

DEFAULT = "127.0.0.1:9192"  # where `callboard up` listens


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
