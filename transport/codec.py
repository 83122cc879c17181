"""Headers to messages and back; what cannot be decoded is refused with its reason and its place.

A header is the JSON of one tagged struct. The decoders are made once, one for each union: a decoder checks
types while it parses (0.3 µs), so nothing behind it needs to check again. The slow path below runs only for
what a decoder has refused, and finds out what to tell the sender.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from ..errors import ErrorCode
from . import messages
from .messages import API_VERSION, API_VERSION_MIN, AnyReply, Message, Reply, Request

HEADER_BYTES_MAX = 16 << 20  # of a request's header: a million topics' names, and far above any real one
DETAIL_CHARS_MAX = 300  # of somebody else's words in our answer

_encode = msgspec.json.Encoder().encode


class HeaderRefused(Exception):
    """A header that is not a message of the union. ``id`` is the request's, when it could be found (else 0)."""

    def __init__(self, code: ErrorCode, detail: str, request_id: int = 0, *, is_message: bool = True) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.is_message = is_message  # False: not even JSON with a type, an id and a version


class _Envelope(msgspec.Struct, frozen=True):
    """What can be read of any message, from whatever version."""

    t: str = ""
    id: int = 0
    v: int = 0


_envelopes = msgspec.json.Decoder(_Envelope)


@cache
def decoder_for(union: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a union of messages; made once, when it is first needed: that takes milliseconds."""
    return msgspec.json.Decoder(union)


REPLIES = decoder_for(AnyReply)


def encode(message: Message) -> bytes:
    """Return the header of a message: JSON, defaults left out."""
    return _encode(message)


def decode_request(decoder: msgspec.json.Decoder[Any], header: bytes) -> Request:
    """Return the request in ``header``.

    Raises:
        HeaderRefused: UNSUPPORTED_VERSION, or INVALID_REQUEST with the path of what is wrong.
    """
    if len(header) > HEADER_BYTES_MAX:
        raise HeaderRefused(ErrorCode.INVALID_REQUEST, f"a header of {len(header):,} bytes", is_message=False)
    try:
        request: Request = decoder.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _refused(header, error) from None
    if not API_VERSION_MIN <= request.v <= API_VERSION and type(request) is not messages.Hello:
        raise _version_refused(request.v, request.id)
    return request


def request_id(header: bytes) -> int:
    """Return the id in a header that is not otherwise looked at; 0 when there is none."""
    if len(header) > HEADER_BYTES_MAX:
        return 0
    try:
        return _envelopes.decode(header).id
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return 0


def decode_reply(header: bytes) -> Reply:
    """Return the reply in ``header``.

    Raises:
        HeaderRefused: it is none.
    """
    try:
        reply: Reply = REPLIES.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _refused(header, error) from None
    return reply


def _refused(header: bytes, error: Exception) -> HeaderRefused:
    """Say what is wrong. A message of another version may well look wrong: so the version is judged first."""
    try:
        envelope = _envelopes.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return HeaderRefused(ErrorCode.INVALID_REQUEST, f"not a message: {_words(error)}", is_message=False)
    if envelope.v and not API_VERSION_MIN <= envelope.v <= API_VERSION:
        return _version_refused(envelope.v, envelope.id)
    what = f"message {envelope.t!r}" if envelope.t else 'a message without a type ("t")'
    return HeaderRefused(ErrorCode.INVALID_REQUEST, _clip(f"{what}: {_words(error)}"), envelope.id)


def _version_refused(version: int, request_id: int) -> HeaderRefused:
    spoken = f"{API_VERSION_MIN}" if API_VERSION_MIN == API_VERSION else f"{API_VERSION_MIN} to {API_VERSION}"
    return HeaderRefused(
        ErrorCode.UNSUPPORTED_VERSION, f"API version {version} is not spoken here, only {spoken}", request_id
    )


def _words(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else _clip(str(error))


def _clip(text: str) -> str:
    return text if len(text) <= DETAIL_CHARS_MAX else text[: DETAIL_CHARS_MAX - 1] + "…"
