"""Which broker ids belong to which host: the rules of joining a cluster. Pure.

A host claims its ids before it starts a broker, and keeps them for ever: a broker's id names what its data directory
holds, so an id that came to another directory would make an empty log a member of in-sync sets. Rules:

1. A claim is of one *home*, one data directory, known by an id of its own. A host's name is another word for it:
   a name that another home has is refused, and so is a second name for one home.
2. Ids that are not named are the next ones that nobody has ever had. Ids that are named must be free, or ours.
3. A claim only grows: fewer brokers than before use the first ones, the others stay reserved.
4. The first host, where the metadata process lives, claims 1 to N by the same rules when that begins to serve.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ErrorCode
from ...transport.addresses import is_host_name
from ...transport.messages import JoinRequest
from .documents import HostDocument

BROKERS_MAX = 64  # of one host, as ``ClusterConfig.brokers`` has it
BROKER_ID_MAX = (1 << 31) - 1
HOSTS_MAX = 1_000  # that were ever here
HOME_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class JoinRefused:
    error: ErrorCode
    detail: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a host asks for. ``first_broker_id`` 0: any ids."""

    host_name: str
    home: str
    brokers: int
    first_broker_id: int = 0
    cluster_id: str = ""  # that its data directory is of; "": of none yet


def wish_of(request: JoinRequest) -> Wish:
    return Wish(request.host_name, request.home, request.brokers, request.first_broker_id, request.cluster_id)


def claim(
    wish: Wish, cluster_id: str, claims: Mapping[str, HostDocument], registered: Collection[int]
) -> HostDocument | JoinRefused:
    """Return what the host has after this, its ids in order; the first ``wish.brokers`` of them are to be used.

    Args:
        claims: by host name.
        registered: every broker id that was ever here.
    """
    if wish.cluster_id and wish.cluster_id != cluster_id:
        detail = f"this is cluster {cluster_id}, the data directory is of cluster {wish.cluster_id}"
        return JoinRefused(ErrorCode.INCONSISTENT_CLUSTER_ID, detail)
    if problem := _problem_with(wish):
        return JoinRefused(ErrorCode.INVALID_REQUEST, problem)
    for name, document in claims.items():
        if document.home == wish.home and name != wish.host_name:
            return JoinRefused(
                ErrorCode.DUPLICATE_BROKER_REGISTRATION, f"this data directory is of host {name!r}: keep that name"
            )
    ours = claims.get(wish.host_name)
    if ours is not None and ours.home != wish.home:
        detail = f"host {wish.host_name!r} is another data directory: choose another name with --host-name"
        return JoinRefused(ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail)
    if ours is None and len(claims) >= HOSTS_MAX:
        return JoinRefused(ErrorCode.LIMIT_EXCEEDED, f"{len(claims):,} hosts have joined already")
    held = ours.broker_ids if ours is not None else ()
    owner_of = {number: "" for number in registered if number not in held}
    for name, document in claims.items():
        if document is not ours:
            owner_of.update(dict.fromkeys(document.broker_ids, name))
    if wish.first_broker_id:
        return _claim_named(wish, held, owner_of)
    broker_ids = _extended(held, wish.brokers, owner_of)
    if broker_ids[-1] > BROKER_ID_MAX:
        return JoinRefused(
            ErrorCode.LIMIT_EXCEEDED, "no broker ids are left above the highest one: name some that are free"
        )
    return HostDocument(home=wish.home, broker_ids=broker_ids)


def _claim_named(wish: Wish, held: Sequence[int], owner_of: Mapping[int, str]) -> HostDocument | JoinRefused:
    wanted = tuple(range(wish.first_broker_id, wish.first_broker_id + wish.brokers))
    if held and wanted != tuple(held[: wish.brokers]) and tuple(held) != wanted[: len(held)]:
        ids = ", ".join(map(str, held))
        detail = f"the brokers of host {wish.host_name!r} are {ids}: leave --first-broker-id out"
        return JoinRefused(ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail)
    for number in wanted:
        if number in owner_of:
            whose = f"of host {owner_of[number]!r}" if owner_of[number] else "taken"
            detail = f"broker {number} is {whose}: choose other ids with --first-broker-id, or leave it out"
            return JoinRefused(ErrorCode.DUPLICATE_BROKER_REGISTRATION, detail)
    return HostDocument(home=wish.home, broker_ids=max(wanted, tuple(held), key=len))


def _extended(held: Sequence[int], count: int, taken: Collection[int]) -> tuple[int, ...]:
    following = max((0, *held, *taken)) + 1
    return (*held, *range(following, following + max(0, count - len(held))))


def _problem_with(wish: Wish) -> str:
    if not is_host_name(wish.host_name):
        return f"{wish.host_name!r} is no name for a host: 1 to 100 letters, digits, '.', '_' or '-', unlike a broker's"
    if not 1 <= len(wish.home) <= HOME_CHARS_MAX:
        return f"a home of {len(wish.home)} characters; 1 to {HOME_CHARS_MAX}"
    if not 1 <= wish.brokers <= BROKERS_MAX:
        return f"{wish.brokers} brokers; 1 to {BROKERS_MAX}"
    if not 0 <= wish.first_broker_id <= BROKER_ID_MAX - BROKERS_MAX:
        return f"first broker id {wish.first_broker_id}; 1 to {BROKER_ID_MAX - BROKERS_MAX}"
    return ""
