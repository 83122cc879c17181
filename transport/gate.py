"""What a server lets in: pure rules, no socket. Whatever passes here is sound (``seam``, promise 3).

The rules, in order, for one multipart message of a peer:

1. A peer does not choose its routing id: libzmq's own begin with a zero byte. (With an id of one's choice one
   could wait for another's place.)
2. No more frames and bytes than the limits say.
3. The header is a message of the server's union, in a version that is spoken here.
4. The first request of a connection is ``Hello``; the table of peers is the table of those who said it.
5. A deadline that has passed is answered, not served: after a pause a process finds old requests in its queue.
6. A request names no more things than the limits say: each costs a turn of the loop, however short its name.
7. The payload frames are as many as the header says.

What is refused is answered where an answer can be understood, counted, and never reaches a handler.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from ..config import Limits
from ..errors import ErrorCode
from . import codec
from .messages import (
    API_VERSION,
    API_VERSION_MIN,
    ErrorReply,
    Hello,
    HelloReply,
    ProduceRequest,
    Reply,
    Request,
)
from .seam import Inbound, PeerInfo, ServerIdentity

logger = logging.getLogger(__name__)

PRODUCE_FRAMES_MIN = 2  # the prefix outside the checksum, and the rest of the batch
NAME_CHARS_MAX = 255  # of what a client says of itself
LISTS = ("entries", "forgotten", "names", "progress", "topic_ids", "topics")  # fields that name things

COUNTERS = (
    "requests",
    "bytes_in",
    "bytes_out",
    "replies",
    "garbage",  # not a message at all
    "invalid",  # a message, but a wrong one
    "unsupported_version",
    "ungreeted",  # before its hello
    "chosen_identity",
    "too_large",
    "expired",  # deadline passed before it was read
    "refused_connections",
    "shown_out",  # connections that were ended so that others could be
    "doors_shut",  # times that newcomers were kept waiting, because too many connections came to nothing
    "dropped_replies",  # of peers that do not read
    "lost_replies",  # of peers that are gone
    "peers_seen",
)


class Gate:
    """The peers of one server and the judgement on what they send."""

    def __init__(self, union: Any, identity: ServerIdentity, limits: Limits, software: str) -> None:
        self._decoder = codec.decoder_for(union)
        self._identity = identity
        self._limits = limits
        self._software = software
        self.peers: dict[bytes, PeerInfo] = {}
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    def admit(
        self, peer: bytes, header: bytes, payload: list[bytes], size: int, now_ms: int, address: str = ""
    ) -> Inbound | Reply | None:
        """Judge one message: return it for the handler, or what to answer instead, or None (drop it)."""
        counters = self.counters
        counters["requests"] += 1
        counters["bytes_in"] += size
        info = self.peers.get(peer)
        if info is None and peer[:1] != b"\0":
            return self._refuse("chosen_identity", ErrorCode.INVALID_REQUEST, "do not set a routing id")
        if size > self._limits.request_bytes:
            return self.too_large(f"the request has {size:,} bytes, more than {self._limits.request_bytes:,}", header)
        try:
            request = codec.decode_request(self._decoder, header)
        except codec.HeaderRefused as refused:
            return self._malformed(refused)
        if type(request) is Hello:
            return self._greet(peer, request, size, now_ms, address)
        if info is None:
            return self._refuse("ungreeted", ErrorCode.INVALID_REQUEST, "say hello first", request.id)
        info.requests += 1
        info.bytes_in += size
        if 0 < request.deadline_ms < now_ms:
            return self._expired(request, now_ms)
        if wrong := _too_many(request, self._limits.request_entries) or _wrong_payload(request, len(payload)):
            return self._refuse("invalid", ErrorCode.INVALID_REQUEST, wrong, request.id)
        return Inbound(peer, request, payload, now_ms, size)

    def too_large(self, detail: str, header: bytes) -> Reply | None:
        """Refuse a message that was not even kept."""
        return self._refuse("too_large", ErrorCode.MESSAGE_SIZE_TOO_LARGE, detail, codec.request_id(header))

    def too_many_frames(self, count: int, header: bytes) -> Reply | None:
        detail = f"the request has {count:,} frames, more than {self._limits.request_frames:,}"
        return self._refuse("too_large", ErrorCode.INVALID_REQUEST, detail, codec.request_id(header))

    def sent(self, peer: bytes, size: int) -> None:
        """Count a reply that the socket took."""
        self.counters["replies"] += 1
        self.counters["bytes_out"] += size
        if info := self.peers.get(peer):
            info.replies += 1
            info.bytes_out += size

    def dropped(self, peer: bytes) -> None:
        """Count a reply that was thrown away because the peer does not read."""
        self.counters["dropped_replies"] += 1
        if info := self.peers.get(peer):
            info.dropped += 1

    def gone(self, peer: bytes) -> None:
        """Forget a peer. Harmless when repeated."""
        self.peers.pop(peer, None)

    def _greet(self, peer: bytes, hello: Hello, size: int, now_ms: int, address: str) -> Reply:
        reply = HelloReply(
            id=hello.id,
            role=self._identity.role,
            name=self._identity.name,
            cluster_id=self._identity.cluster_id,
            broker_id=self._identity.broker_id,
            incarnation=self._identity.incarnation,
            software=self._software,
            version_min=API_VERSION_MIN,
            version_max=API_VERSION,
            clock_ms=now_ms,
            request_bytes_max=self._limits.request_bytes,
        )
        if hello.version_min > API_VERSION or hello.version_max < API_VERSION_MIN:
            self.counters["unsupported_version"] += 1
            return _with_error(
                reply,
                ErrorCode.UNSUPPORTED_VERSION,
                f"versions {hello.version_min} to {hello.version_max} are asked for, "
                f"{API_VERSION_MIN} to {API_VERSION} are spoken here",
            )
        if peer not in self.peers and len(self.peers) >= self._limits.connections:
            self.counters["refused_connections"] += 1
            return _with_error(reply, ErrorCode.OVERLOADED, f"{len(self.peers):,} connections are the limit")
        if peer not in self.peers:
            self.counters["peers_seen"] += 1
            named = hello.client_id[:NAME_CHARS_MAX], hello.software[:NAME_CHARS_MAX]
            logger.info("client.connected client_id=%r software=%r address=%s", *named, address)
        self.peers[peer] = PeerInfo(
            peer=peer,
            client_id=hello.client_id[:NAME_CHARS_MAX],
            software=hello.software[:NAME_CHARS_MAX],
            address=address,
            connected_ms=now_ms,
            requests=1,
            bytes_in=size,
        )
        return reply

    def _malformed(self, refused: codec.HeaderRefused) -> Reply | None:
        if refused.code is ErrorCode.UNSUPPORTED_VERSION:
            name = "unsupported_version"
        else:
            name = "invalid" if refused.is_message else "garbage"
        return self._refuse(name, refused.code, refused.detail, refused.request_id)

    def _expired(self, request: Request, now_ms: int) -> Reply | None:
        self.counters["expired"] += 1
        if not request.id:
            return None
        late = f"read {now_ms - request.deadline_ms:,} ms after its deadline; nothing was done"
        return ErrorReply(id=request.id, error=ErrorCode.REQUEST_TIMED_OUT, detail=late)

    def _refuse(self, counter: str, code: ErrorCode, detail: str, request_id: int = 0) -> Reply:
        """An answer with id 0 is about a message whose id could not be read; it helps whoever writes a client."""
        self.counters[counter] += 1
        return ErrorReply(id=request_id, error=code, detail=detail)


def _too_many(request: Request, entries_max: int) -> str:
    """Say that a request names too much; "" when it does not."""
    for name in _lists_of(type(request)):
        named = getattr(request, name)
        if named is not None and len(named) > entries_max:
            return f"{len(named):,} {name} in one request; limits.request_entries is {entries_max:,}"
    return ""


@cache
def _lists_of(kind: type[Request]) -> tuple[str, ...]:
    return tuple(name for name in LISTS if name in kind.__struct_fields__)


def _wrong_payload(request: Request, frames: int) -> str:
    """Say what is wrong with the number of payload frames; "" when nothing is."""
    if type(request) is not ProduceRequest:
        return f"a {request.__struct_config__.tag} request has no payload, here are {frames} frames" if frames else ""
    promised = 0
    for entry in request.entries:
        if entry.frames < PRODUCE_FRAMES_MIN:
            return f"a batch has at least {PRODUCE_FRAMES_MIN} payload frames, not {entry.frames}"
        promised += entry.frames
    return "" if promised == frames else f"the entries speak of {promised} payload frames, here are {frames}"


def _with_error(reply: HelloReply, code: ErrorCode, detail: str) -> HelloReply:
    from msgspec.structs import replace

    return replace(reply, error=int(code), detail=detail)
