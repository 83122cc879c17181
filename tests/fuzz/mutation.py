"""Bytes that almost mean something: sound inputs, damaged in the ways that inputs get damaged."""

from __future__ import annotations

import random
import struct

TELLING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63]
JSON_TELLING = [
    b"-1", b"0", b"9223372036854775808", b"-9223372036854775809", b"1e400", b"null", b"true", b'""', b"[]", b"{}",
    b'"\\ud800"', b"[" * 600, b'{"a":' * 600, b"1" * 5_000, b'"' + b"x" * 2_000 + b'"', b"\xff", b"\x00",
]  # fmt: skip


def mutated(chance: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Return ``data`` with one to four kinds of damage; ``other`` is another input to splice in."""
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        _DAMAGES[chance.randrange(len(_DAMAGES))](chance, raw, other)
    return bytes(raw)


def _flip_bit(chance: random.Random, raw: bytearray, _: bytes) -> None:
    if raw:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _set_byte(chance: random.Random, raw: bytearray, _: bytes) -> None:
    if raw:
        raw[chance.randrange(len(raw))] = chance.randrange(256)


def _set_number(chance: random.Random, raw: bytearray, _: bytes) -> None:
    """Overwrite 2, 4 or 8 bytes by a number at which programs go wrong."""
    width, code = chance.choice(((2, "H"), (4, "I"), (8, "Q")))
    if len(raw) < width:
        return
    at = chance.randrange(len(raw) - width + 1)
    value = chance.choice(TELLING) & ((1 << 8 * width) - 1)
    raw[at : at + width] = struct.pack(chance.choice("<>") + code, value)


def _cut_end(chance: random.Random, raw: bytearray, _: bytes) -> None:
    del raw[chance.randrange(len(raw) + 1) :]


def _cut_out(chance: random.Random, raw: bytearray, _: bytes) -> None:
    at = chance.randrange(len(raw) + 1)
    del raw[at : at + chance.randrange(1, 40)]


def _repeat(chance: random.Random, raw: bytearray, _: bytes) -> None:
    at = chance.randrange(len(raw) + 1)
    raw[at:at] = raw[at : at + chance.randrange(1, 40)] * chance.randrange(1, 8)


def _insert_random(chance: random.Random, raw: bytearray, _: bytes) -> None:
    at = chance.randrange(len(raw) + 1)
    raw[at:at] = chance.randbytes(chance.randrange(1, 20))


def _splice(chance: random.Random, raw: bytearray, other: bytes) -> None:
    at, begin = chance.randrange(len(raw) + 1), chance.randrange(len(other) + 1)
    raw[at:] = other[begin:]


def _zero(chance: random.Random, raw: bytearray, _: bytes) -> None:
    if raw:
        at = chance.randrange(len(raw))
        count = min(len(raw) - at, chance.randrange(1, 64))
        raw[at : at + count] = bytes(count)


def _swap_token(chance: random.Random, raw: bytearray, _: bytes) -> None:
    """Replace what stands between two marks of JSON by something that is JSON and wrong, or not even that."""
    marks = [at for at, byte in enumerate(raw[:4_096]) if byte in b":,[{"]
    if marks:
        at = chance.choice(marks) + 1
        end = at
        while end < len(raw) and raw[end] not in b",]}":
            end += 1
        raw[at:end] = chance.choice(JSON_TELLING)


_DAMAGES = [_flip_bit, _set_byte, _set_number, _cut_end, _cut_out, _repeat, _insert_random, _splice, _zero, _swap_token]
