"""What a router and a coordinator, and a coordinator and who hosts it, say to each other. Plain frozen values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from ...transport.shapes import Reply
from .events import Caller, GroupRequest, TopicPicture


class GroupTicket(NamedTuple):
    """Whom to answer: the request that this door of the broker gave this number."""

    door: str
    number: int


class Ask(msgspec.Struct, frozen=True, gc=False):
    """To a coordinator: one request. ``caller.ticket`` is a ``GroupTicket``."""

    request: GroupRequest
    caller: Caller


class GroupAnswers(msgspec.Struct, frozen=True, gc=False):
    """To a door: all that one turn of a coordinator had to say, by the numbers of the requests."""

    answers: list[tuple[int, Reply]]


class CoordinatorGone(msgspec.Struct, frozen=True, gc=False):
    """To the doors: the coordinator of this partition has ended; it answers nothing that it was asked."""

    partition: int


class CoordinatorBegan(msgspec.Struct, frozen=True, gc=False):
    """To ``groups``: a coordinator (again) has an actor, and knows no topics yet."""

    ref: Any


class TopicsTold(msgspec.Struct, frozen=True):
    """To a coordinator: all topics there are, and the ids of those that were deleted lately."""

    topics: Mapping[str, TopicPicture]
    deleted: Collection[str]
    version: int = 0  # of the picture that they are of
