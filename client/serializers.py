"""From what the application has to bytes, and back.

A serializer is a callable ``(data) -> bytes | None``, or an object with ``serialize(topic, headers, data)``; a
deserializer a callable ``(bytes) -> object``, or an object with ``deserialize(topic, headers, data)``. None stays None
without asking: a record without a key, or a tombstone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import ConfigurationError, SerializationError
from ..model import Header

Encode = Callable[[str, "Sequence[Header] | None", Any], "bytes | None"]  # (topic, headers, data)
Decode = Callable[[str, "Sequence[Header]", bytes], Any]


class Serializer(Protocol):
    """Turns an object into bytes."""

    def serialize(self, topic: str, headers: Sequence[Header] | None, data: Any) -> bytes | None: ...


class Deserializer(Protocol):
    """Turns bytes into an object."""

    def deserialize(self, topic: str, headers: Sequence[Header], data: bytes) -> Any: ...


class StringSerializer:
    """``str`` to bytes and back, UTF-8 unless told otherwise."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding

    def serialize(self, topic: str, headers: Sequence[Header] | None, data: str | None) -> bytes | None:
        return None if data is None else data.encode(self.encoding)

    def deserialize(self, topic: str, headers: Sequence[Header], data: bytes) -> str:
        return data.decode(self.encoding)


class JsonSerializer:
    """Anything JSON to bytes and back, by orjson (datetimes, UUIDs and dataclasses included)."""

    def serialize(self, topic: str, headers: Sequence[Header] | None, data: Any) -> bytes | None:
        import orjson

        return None if data is None else orjson.dumps(data)

    def deserialize(self, topic: str, headers: Sequence[Header], data: bytes) -> Any:
        import orjson

        return orjson.loads(data)


def encoder(given: Any, name: str) -> Encode | None:
    """Return what to call for a serializer as the application gave it; None for None.

    Raises:
        ConfigurationError: it is neither a callable nor has a method ``serialize``.
    """
    function = _function(given, name, "serialize")
    if function is None:
        return None

    def encode(topic: str, headers: Sequence[Header] | None, data: Any) -> bytes | None:
        if data is None:
            return None
        try:
            result = function(topic, headers, data)
        except Exception as error:  # the application's code: whatever it raises is its serializer's failure
            raise SerializationError(f"{name} failed for topic {topic!r}: {_one_line(error)}", data) from error
        if result is None or type(result) is bytes:
            return result
        if isinstance(result, (bytes, bytearray, memoryview)):
            return bytes(result)
        raise SerializationError(f"{name} for topic {topic!r} returned {type(result).__name__}, not bytes", data)

    return encode


def decoder(given: Any, name: str) -> Decode | None:
    """Return what to call for a deserializer as the application gave it; None for None.

    Raises:
        ConfigurationError: it is neither a callable nor has a method ``deserialize``.
    """
    return _function(given, name, "deserialize")


def _function(given: Any, name: str, method: str) -> Callable[[str, Any, Any], Any] | None:
    if given is None:
        return None
    bound = getattr(given, method, None)
    if callable(bound) and not isinstance(given, type):
        return bound  # type: ignore[no-any-return]
    if not callable(given) or (isinstance(given, type) and hasattr(given, method)):
        raise ConfigurationError(
            f"{name}: expected a callable or an object with .{method}(topic, headers, data), got {given!r}"
        )
    return lambda _topic, _headers, data: given(data)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
