"""A partition of a topic that no name can mean is refused at once: nobody is asked about it."""

from __future__ import annotations

import pytest

from callboard import Consumer, TopicPartition
from callboard.errors import ConfigurationError, InvalidTopicError

NAMES = ["or ders", "\ud800", "a" * 250, ".."]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_by_whoever_takes_a_partition(name):
    with Consumer(group_id="g", bootstrap_servers="127.0.0.1:1", enable_auto_commit=False) as consumer:
        for call in (
            lambda key: consumer.assign([key]),
            consumer.committed,
            lambda key: consumer.beginning_offsets([key]),
            lambda key: consumer.commit({key: 5}),
        ):
            with pytest.raises(InvalidTopicError, match="is not a topic name"):
                call(TopicPartition(name, 0))


def test_a_group_id_that_cannot_be_printed_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be printed"):
        Consumer(group_id="bill\ning", bootstrap_servers="127.0.0.1:1")
