"""What every message is: an id, a version, a deadline; in a reply an error. The rules stand in ``messages``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

API_VERSION = 1
API_VERSION_MIN = 1

Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # JSON knows no bound; logs, headers and SQLite do


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True, omit_defaults=True):
    """Anything that travels. ``id`` ties a reply to its request."""

    id: Int64 = 0


class Request(Message, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    v: Int64 = API_VERSION
    deadline_ms: Int64 = 0


class Reply(Message, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    error: Int64 = 0
    detail: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something inside a message."""
