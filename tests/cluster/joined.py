"""What tests of joined hosts say often."""

import time

from callboard import Consumer

DEADLINE_S = 60.0


def wait_for(condition, what):
    until = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.02)
    return value


def live(admin):
    return {broker.id for broker in admin.describe_cluster().brokers}


def leader(admin, topic, partition=0):
    (described,) = admin.describe_topics([topic])
    return described.partitions[partition].leader


def placed(admin, topic, *replicas):
    admin.create_topics({topic: {"assignments": {number: list(each) for number, each in enumerate(replicas)}}})
    return topic


def read_all(servers, topic, count):
    with Consumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        found, until = [], time.monotonic() + DEADLINE_S
        while len(found) < count and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=500).values():
                found += [(record.offset, record.value) for record in records]
        for records in consumer.poll(timeout_ms=100).values():
            found += [(record.offset, record.value) for record in records]
    return found
