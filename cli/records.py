"""How ``consume`` prints a record: a template, JSON, or the bare value. Pure: a record in, bytes out.

A template is text with these marks; a line feed follows each record:

    %t topic     %p partition   %o offset   %e leader epoch
    %k key       %v value       %h headers, as name=value,…
    %T timestamp, ms since 1970             %% a percent sign
    \\n \\t \\\\    line feed, tab, backslash

Keys and values are bytes and are written as they are: nothing is lost on the way to a file. A null key or
value is written as nothing; where the difference matters use JSON, which says ``null``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from ..model import ConsumerRecord

RawRecord = ConsumerRecord[bytes | None, bytes | None]
Formatter = Callable[[RawRecord], bytes]

MARKS: dict[str, Callable[[RawRecord], bytes]] = {
    "t": lambda record: record.topic.encode(),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "e": lambda record: b"%d" % record.leader_epoch,
    "k": lambda record: record.key or b"",
    "v": lambda record: record.value or b"",
    "h": lambda record: b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers),
    "T": lambda record: b"%d" % record.timestamp,
    "%": lambda _record: b"%",
}
ESCAPES = {"n": b"\n", "t": b"\t", "\\": b"\\"}


def formatter(template: str) -> Formatter:
    """Return the function that writes a record as ``template`` says: ``"value"``, ``"json"`` or text with marks.

    Raises:
        ValueError: the template ends in the middle of a mark, or has a mark that does not exist.
    """
    if template == "value":
        return lambda record: (record.value or b"") + b"\n"
    if template == "json":
        return _as_json
    parts = _parse(template)
    return lambda record: b"".join(part if isinstance(part, bytes) else part(record) for part in parts) + b"\n"


def _parse(template: str) -> list[bytes | Callable[[RawRecord], bytes]]:
    parts: list[bytes | Callable[[RawRecord], bytes]] = []
    characters = iter(template)
    for character in characters:
        if character not in "%\\":
            parts.append(character.encode())
            continue
        following = next(characters, "")
        valid: dict[str, Any] = MARKS if character == "%" else ESCAPES
        if following not in valid:
            known = " ".join(character + mark for mark in valid)
            raise ValueError(f"the format has {character + following!r}; there are: {known}")
        parts.append(valid[following])
    return parts


def _as_json(record: RawRecord) -> bytes:
    import orjson

    return orjson.dumps(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "leader_epoch": record.leader_epoch,
            "timestamp": record.timestamp,
            **_text_or_base64("key", record.key),
            **_text_or_base64("value", record.value),
            "headers": [{"name": name, **_text_or_base64("value", value)} for name, value in record.headers],
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _text_or_base64(name: str, data: bytes | None) -> dict[str, str | None]:
    """Return ``{name: text}``, or ``{name_base64: …}`` when the bytes are not UTF-8: JSON has no bytes."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}
