"""Requests about several groups: split by coordinator, gathered into one reply. Pure.

The router asks each coordinator of this broker for its part. One that does not answer (it is loading, or not here) does
not keep the others' groups back: the groups that are its are answered with that error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ...errors import ErrorCode
from ...transport import group_messages as said
from ...transport import messages as m

R = TypeVar("R", bound=m.Part)


class Gathering:
    """Answers that are still missing, by partition of ``__consumer_offsets``."""

    def __init__(self, parts: Mapping[int, m.Request]) -> None:
        self.parts = parts  # what to ask whom
        self._missing = set(parts)

    @property
    def is_complete(self) -> bool:
        return not self._missing

    def on_reply(self, partition: int, reply: m.Reply) -> None:
        if partition in self._missing:
            self._missing.discard(partition)
            self._take(partition, reply)

    def _take(self, partition: int, reply: m.Reply) -> None:
        raise NotImplementedError

    def reply(self) -> m.Reply:
        raise NotImplementedError


class ListGathering(Gathering):
    """The groups of all coordinators here, by name."""

    def __init__(self, request: said.ListGroupsRequest, partitions: Sequence[int]) -> None:
        super().__init__(dict.fromkeys(partitions, request))
        self._groups: list[said.GroupListing] = []
        self._told: list[int] = []
        self._loading: list[int] = []

    def _take(self, partition: int, reply: m.Reply) -> None:
        """One that has not told does not count as one without groups, whatever its reason: perhaps it has moved."""
        if isinstance(reply, said.ListGroupsReply) and not reply.error:
            self._groups += reply.groups
            self._told.append(partition)
        else:
            self._loading.append(partition)

    def reply(self) -> m.Reply:
        groups = sorted(self._groups, key=lambda group: group.group_id)
        return said.ListGroupsReply(groups=groups, loading=sorted(self._loading), told=sorted(self._told))


class NamedGathering(Gathering, Generic[R]):
    """One result for each group that was named, in the request's order."""

    def __init__(
        self,
        request: said.DescribeGroupsRequest | said.DeleteGroupsRequest,
        partition_of: Callable[[str], int],
        results_of: Callable[[m.Reply], list[R] | None],
        refused: Callable[[str, int, str], R],
        make_reply: Callable[[list[R]], m.Reply],
    ) -> None:
        self._names = request.group_ids
        self._places: dict[int, list[int]] = {}
        for place, name in enumerate(self._names):
            self._places.setdefault(partition_of(name), []).append(place)
        parts: dict[int, m.Request] = {
            partition: msgspec.structs.replace(request, group_ids=[self._names[place] for place in places])
            for partition, places in self._places.items()
        }
        super().__init__(parts)
        self._results: list[Any] = [None] * len(self._names)
        self._results_of = results_of
        self._refused = refused
        self._make_reply = make_reply

    def _take(self, partition: int, reply: m.Reply) -> None:
        places = self._places[partition]
        results = self._results_of(reply)
        if results is None or len(results) != len(places):
            error = reply.error or ErrorCode.INTERNAL
            results = [self._refused(self._names[place], error, reply.detail) for place in places]
        for place, result in zip(places, results, strict=True):
            self._results[place] = result

    def reply(self) -> m.Reply:
        return self._make_reply(self._results)


def describing(request: said.DescribeGroupsRequest, partition_of: Callable[[str], int]) -> Gathering:
    return NamedGathering(
        request,
        partition_of,
        lambda reply: reply.groups if isinstance(reply, said.DescribeGroupsReply) and not reply.error else None,
        lambda name, error, detail: said.GroupDescription(group_id=name, error=error, detail=detail),
        lambda groups: said.DescribeGroupsReply(groups=groups),
    )


def deleting(request: said.DeleteGroupsRequest, partition_of: Callable[[str], int]) -> Gathering:
    return NamedGathering(
        request,
        partition_of,
        lambda reply: reply.results if isinstance(reply, said.AlterGroupReply) and not reply.error else None,
        lambda name, error, detail: said.AlterGroupResult(name=name, error=error, detail=detail),
        lambda results: said.AlterGroupReply(results=results),
    )
