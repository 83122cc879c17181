"""Dead letters: records that a consumer could not read, kept in a topic of their own."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import (
    CallboardError,
    ConfigurationError,
    DeliveryError,
    IllegalArgumentError,
    IllegalStateError,
    SerializationError,
    UnknownTopicOrPartitionError,
)
from ..model import AnyRecord, Header, RecordMetadata
from .config import ClientConfig, ConsumerConfig, ProducerConfig, from_keywords
from .producer import Producer
from .records import check_topic

HEADER = "callboard.dlq."  # … and topic, partition, offset, timestamp, group, error
ERROR_CHARS_MAX = 1_000
SETTLED = ("acks", "key_serializer", "value_serializer")  # not for the application to choose
RECORD_BYTES_MAX = 64 << 20  # of a letter, on this side: what fits is for the topic to say


def dlq(topic: str, **settings: Any) -> DeadLetters:
    """Return a handler for ``on_bad_record`` that sends what cannot be read to a dead-letter topic, and goes on.

        Consumer("orders", group_id="billing", value_deserializer=JsonSerializer(),
                 on_bad_record=callboard.dlq("orders.dead"))

    A letter is the record as it lies in the log: key and value are its bytes, its headers come first; behind them say
    ``callboard.dlq.topic``, ``.partition``, ``.offset``, ``.timestamp`` (ms), ``.group`` (of a consumer that has
    one) and ``.error`` where it was and what was wrong with it. It is sent with ``acks="all"``, and the position
    moves when it is acknowledged: a record is read, or is in the dead-letter topic, or is the next one. After a crash
    between the two it is there twice.

    If it cannot be sent, ``poll`` raises ``DeliveryError`` with the cause, after ``delivery_timeout_ms`` at most; the
    position stays, and the next ``poll`` tries again.

    Args:
        settings: of the producer, by name: ``client.config.ProducerConfig``. By default brokers, times and
            ``client_id`` are the consumer's, and ``delivery_timeout_ms`` is its ``request_timeout_ms``.

    Raises:
        ConfigurationError: an unknown setting, or one that is not to be chosen (``acks``, the serializers).
        InvalidTopicError: no topic can be called so.
    """
    return DeadLetters(topic, settings)


class DeadLetters:
    """What ``dlq`` returns. Thread-safe. A consumer that is given it makes one of its own from it, and closes that.

    Called by a handler of the application's it needs ``bootstrap_servers``, and ``close``.
    """

    def __init__(self, topic: str, settings: dict[str, Any], group_id: str | None = None) -> None:
        check_topic(topic)
        for name in SETTLED:
            if name in settings:
                raise ConfigurationError(
                    f"dlq: {name} is not to be chosen: letters are raw bytes, sent with acks='all'"
                )
        self.topic, self.group_id = topic, group_id
        self._given = dict(settings)
        self._settings = {"max_request_size": RECORD_BYTES_MAX, **settings, "acks": "all"}
        from_keywords(ProducerConfig, self._settings, "dlq")
        self._lock = threading.Lock()
        self._producer: Producer[bytes, bytes] | None = None  # made with the first letter
        self._is_closed = False

    def for_consumer(self, config: ConsumerConfig, client_id: str) -> DeadLetters:
        """Return what this consumer uses: its own brokers and times, where nothing else was said."""
        common = {name: getattr(config, name) for name in ClientConfig.__struct_fields__ if name != "on_error"}
        common.update(client_id=f"{client_id}-dlq", delivery_timeout_ms=config.request_timeout_ms)
        return DeadLetters(self.topic, {**common, **self._given}, config.group_id)

    def __call__(self, error: SerializationError) -> RecordMetadata:
        """Send the record that the error is about; return where it is, once all in-sync replicas have it.

        Raises:
            DeliveryError: it is not there, or perhaps (``outcome_unknown``); the cause is chained.
            IllegalArgumentError: the error is of no record.
        """
        record: AnyRecord | None = error.record
        if record is None:
            raise IllegalArgumentError("dlq: the error is not about a record that was read")
        try:
            if record.topic == self.topic:  # it would be read again, and come back for ever
                raise IllegalStateError("a topic cannot be its own dead-letter topic")
            headers = [*record.headers, *self._headers(record, error)]
            return self._open().send(self.topic, record.value, key=record.key, headers=headers).get()
        except CallboardError as failure:
            raise self._undelivered(record, failure) from failure

    def close(self, timeout: float | None = None) -> None:
        """Stop; what is under way fails after ``timeout`` seconds (None: ``close_timeout_ms``)."""
        with self._lock:
            self._is_closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout)

    def __repr__(self) -> str:
        return f"<DeadLetters to {self.topic}>"

    def _open(self) -> Producer[bytes, bytes]:
        with self._lock:
            if self._is_closed:
                raise IllegalStateError("it is closed")
            if self._producer is None:
                self._producer = Producer(**self._settings)
            return self._producer

    def _headers(self, record: AnyRecord, error: SerializationError) -> list[Header]:
        told = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "group": self.group_id,
            "error": str(error)[:ERROR_CHARS_MAX],
        }
        return [(HEADER + name, _bytes(value)) for name, value in told.items() if value is not None]

    def _undelivered(self, record: AnyRecord, failure: CallboardError) -> DeliveryError:
        advice = ""
        if isinstance(failure, UnknownTopicOrPartitionError):
            advice = f"; create it: callboard topics create {self.topic}"
        error = DeliveryError(
            f"{record.topic}-{record.partition} offset {record.offset} is not in the dead-letter topic"
            f" {self.topic!r}: {failure}{advice}"
        )
        error.outcome_unknown = failure.outcome_unknown
        return error


def _bytes(value: object) -> bytes:
    return str(value).encode(errors="backslashreplace")
