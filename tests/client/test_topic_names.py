"""A topic's name is judged where it is typed: nothing is sent for one that can never be."""

import pytest

from callboard import Consumer, Producer
from callboard.errors import InvalidTopicError


@pytest.mark.parametrize("name", ["bad name", "..", "a/b", "x" * 250, "caf\u00e9"])
def test_a_name_that_no_topic_can_have_is_refused_at_once(name):
    with Producer(bootstrap_servers="127.0.0.1:1") as producer:
        with pytest.raises(InvalidTopicError, match="is not a topic name"):
            producer.send(name, b"value")
        with pytest.raises(InvalidTopicError, match="is not a topic name"):
            producer.send_batch(name, [b"value"])


@pytest.mark.parametrize("name", ["bad name", "..", "", "x" * 250, "\udc80"])
def test_nobody_waits_for_a_topic_that_can_never_be(name):
    consumer = Consumer(bootstrap_servers="127.0.0.1:1", group_id="g")
    with consumer, pytest.raises(InvalidTopicError, match="is not a topic name"):
        consumer.subscribe([name])
