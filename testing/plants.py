"""Bugs that others have had, planted into the rules while a test looks whether the simulation finds them.

A plant replaces one function or method of a rule by one that has the bug, for the time of a ``with`` block. Nothing of
it is in the code that ships for use. Numbers are those of the catalogue of known bugs of replicated logs.

    with planted("B14"):
        outcome = run_seed(3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from msgspec.structs import replace as with_fields

from ..actors.groups.events import Reply
from ..actors.groups.loading import Loading
from ..actors.groups.members import Refused
from ..actors.groups.offsets import Committer
from ..actors.partition.events import Truncate
from ..actors.partition.follower import AFTER_THAT
from ..model import Offset
from ..storage.epochs import UNKNOWN_END, EpochEnd
from .profiles import PROFILES, Profile
from .simulation import Outcome, run_seed

Replace = Callable[[Any], Any]  # the function as it is -> the function with the bug


@dataclass(frozen=True)
class Plant:
    """One bug. ``places``: what is replaced, as ``module:Class.method`` below ``callboard``, and by what."""

    name: str
    what: str
    places: tuple[tuple[str, Replace], ...]
    profile: str | Profile = "deaths"
    seeds_max: int = 40  # the simulation must have found it by then
    finds: frozenset[str] = frozenset()  # laws and anomalies, one of which must be it


PLANTS: dict[str, Plant] = {}


def plant(name: str, what: str, *places: tuple[str, Replace], **fields: Any) -> None:
    """Enter a plant in the table."""
    PLANTS[name] = Plant(name, what, places, **fields)


@contextmanager
def planted(name: str) -> Iterator[Plant]:
    """Have a bug, within the block.

    Raises:
        AttributeError: what it replaces is not there (any more): the plant must follow the rules.
    """
    one = PLANTS[name]
    undo: list[tuple[Any, str, Any]] = []
    try:
        for place, replace in one.places:
            owner, attribute = _resolve(place)
            original = owner.__dict__[attribute]
            undo.append((owner, attribute, original))
            setattr(owner, attribute, _rewrapped(original, replace))
        yield one
    finally:
        for owner, attribute, original in reversed(undo):
            setattr(owner, attribute, original)


def hunt(name: str) -> Outcome | None:
    """Return the first run that finds a planted bug; None: none of its seeds does."""
    with planted(name) as one:
        for seed in range(one.seeds_max):
            outcome = run_seed(seed, one.profile)
            names = {failure.name for failure in outcome.failures}
            if names & one.finds:
                return outcome
    return None


def _rewrapped(original: Any, replace: Replace) -> Any:
    """Replace a function, a static or class method, or a property by one of the same kind."""
    if isinstance(original, staticmethod | classmethod):
        return type(original)(replace(original.__func__))
    if isinstance(original, property):
        return property(replace(original.fget))
    return replace(original)


def _resolve(place: str) -> tuple[Any, str]:
    module_name, _, path = place.partition(":")
    owner: Any = import_module(f"..{module_name}", __package__)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    if attribute not in owner.__dict__:
        raise AttributeError(f"{place} is not there")
    return owner, attribute


# -- the bugs ----------------------------------------------------------------------------------------


def _cuts_to_the_high_watermark(begin: Any) -> Any:
    def begin_by_cutting(self: Any, log_start_offset: int, log_end_offset: int) -> Any:
        if self.high_watermark < log_end_offset:
            return [Truncate(Offset(max(self.high_watermark, log_start_offset))), AFTER_THAT]
        return begin(self, log_start_offset, log_end_offset)

    return begin_by_cutting


def _finds_no_divergence(_: Any) -> Any:
    return lambda *_: None


def _shrinks_by_itself(propose: Any) -> Any:
    def shrink(self: Any, *args: Any) -> Any:
        proposal = propose(self, *args)
        if proposal is not None and len(proposal.isr) < len(self.isr):
            self.isr = frozenset(member.broker_id for member in proposal.isr)
        return proposal

    return shrink


def _needs_nobody_in_sync(init: Any) -> Any:
    def with_a_minimum_of_one(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{**kwargs, "min_insync_replicas": 1})

    return with_a_minimum_of_one


def _ignores_the_minimum(on_isr: Any) -> Any:
    return lambda self, isr, partition_epoch, _, now_ms: on_isr(self, isr, partition_epoch, 1, now_ms)


def _forgets_what_it_proposed(_: Any) -> Any:
    return lambda self: self.isr


def _forgets_producers(init: Any) -> Any:
    def begin_without_producers(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.producers.clear()

    return begin_without_producers


def _answers_about_one_epoch(_: Any) -> Any:
    def end_of(self: Any, epoch: int, log_end_offset: int) -> Any:
        """KIP-101: where the first epoch above the asked one begins, whether that one is known here or not."""
        if epoch < 0 or epoch > self.latest:
            return UNKNOWN_END
        later = [start for known, start in self.entries if known > epoch]
        return EpochEnd(epoch, later[0] if later else log_end_offset)

    return end_of


def _counts_before_it_looks(on_fetch: Any) -> Any:
    def count(self: Any, fetch: Any, now_ms: int) -> Any:
        follower = self.insync.followers.get(fetch.replica_id)
        effects = []
        if follower is not None:
            end = self._appended_offset
            held = min(fetch.fetch_offset, end), min(fetch.durable_offset, end)
            self.insync.on_position(follower, fetch.replica_incarnation, *held, end, now_ms, fetch.log_start_offset)
            effects = self._after_followers(now_ms)
        return effects + on_fetch(self, fetch, now_ms)

    return count


def _compares_no_life(problem_with_set: Any) -> Any:
    def problem(image: Any, entry: Any, partition: Any) -> Any:
        isr = [with_fields(one, incarnation=image.incarnation_of(one.broker_id)) for one in entry.isr]
        return problem_with_set(image, with_fields(entry, isr=isr), partition)

    return problem


def _compares_no_controller_epoch(compare: Any) -> Any:
    return lambda self, transaction: compare(self, replace(transaction, controller_epoch=None))


def _trusts_any_session(_: Any) -> Any:
    return lambda self: self._image.sessions.get(self._broker_address)


def _commits_what_it_returns(read: Any) -> Any:
    def read_first(self: Any, look: Any, timeout_ms: float) -> Any:
        found = read(self, look, timeout_ms)
        if found and self._application is not None and self._application.should_commit():
            self._commit_automatically(self._application)
        return found

    return read_first


def _knows_no_fence(committer: Any) -> Any:
    def anybody(self: Any, request: Any, group: Any, now_ms: int) -> Any:
        found = committer(self, request, group, now_ms)
        return Committer() if isinstance(found, Refused) and group is not None else found

    return anybody


def _keeps_the_oldest(_: Any) -> Any:
    def kept_of(self: Any, batch: Any) -> Any:
        oldest = self.__dict__.setdefault("_oldest", {})
        keys = zip(batch.keys, batch.offsets, strict=True)
        kept = [place for place, (key, offset) in enumerate(keys) if oldest.setdefault(key, offset) == offset]
        return None if len(kept) == batch.count else kept

    return kept_of


def _serves_without_reading(_: Any) -> Any:
    def on_marker(self: Any, reply: Any) -> None:
        self._serve(Loading(reply.base_offset, reply.base_offset))

    return on_marker


def _answers_before_it_survives(_: Any) -> Any:
    return lambda _self, ticket, reply, *_: [Reply(ticket, reply)]


def _repeats_one_of_three(read: Any) -> Any:
    def read_and_repeat(self: Any, look: Any, timeout_ms: float) -> Any:
        found = read(self, look, timeout_ms)
        polls = self.__dict__["_polls"] = self.__dict__.get("_polls", 0) + bool(found)
        return found if not found or polls % 3 else {key: records[:1] + records for key, records in found.items()}

    return read_and_repeat


def _proves_nothing_to_readers(_: Any) -> Any:
    return lambda self: (self.written, [])


def _believes_in_itself(look_at_proof: Any) -> Any:
    def look(self: Any, now_ms: int) -> None:
        look_at_proof(self, now_ms)
        self._groups.must_prove = False

    return look


def _gives_no_grace(of: Any) -> Any:
    return lambda cls, member_id, value, now_ms, _=0: of(cls, member_id, value, now_ms)


def _forgets_a_partition_once(send: Any) -> Any:
    """With its member's eighth heartbeat the fetch layer forgets one that is owned, and nobody notices."""

    def send_and_forget(self: Any, effect: Any) -> None:
        if effect.number == 8 and self.member.owned:
            self._fetcher.states.pop(min(self.member.owned), None)
        send(self, effect)

    return send_and_forget


UNWATCHED = replace(
    PROFILES["groups"],
    name="unwatched",
    kinds={},  # nothing else need go wrong
    members=2,
    members_beside=0,
    safety_ms=1_500.0,
    settings={**PROFILES["groups"].settings, "group_fetch_stall_ms": 0},
)
FENCED = replace(PROFILES["groups"], name="fenced", kinds={"chase-member": 1.0}, members=3, members_beside=0)
WORST_OF_TIMES = replace(PROFILES["chases"], name="worst", kinds={"lag": 2.0, "chase-leader": 3.0})
DEPOSED = replace(
    PROFILES["groups"],
    name="deposed",
    kinds={"chase-coordinator": 1.0},
    members=2,  # one more would ask the old coordinator for something that it cannot write: then it is silent
    members_beside=0,
    safety_ms=6_000.0,
    settings={**PROFILES["groups"].settings, "group_fetch_stall_ms": 0},  # it would end what shall be seen
)
JOINERS = replace(
    PROFILES["chases"], name="joiners", kinds={"kill": 2.0, "lag": 1.0, "chase-joiner": 2.0}, safety_ms=3_000.0
)
REBORN = replace(
    PROFILES["reboots"],
    name="reborn",
    kinds={"kill": 2.0, "power": 1.0, "chase-joiner": 3.0},
    safety_ms=3_000.0,
)
ALONE = Profile(
    "alone", kinds={"estrange": 1.0}, min_insync_replicas=1, safety_ms=4_000.0, settings={"replica_lag_ms": 2_000}
)
ZOMBIES = replace(
    PROFILES["chases"],
    name="zombies",
    brokers=5,
    partitions=4,
    kinds={"lag": 2.0, "kill": 1.0, "chase-controller": 2.0},
    safety_ms=4_000.0,
)

BEGIN = ("actors.partition.follower:Follower.begin", _cuts_to_the_high_watermark)
OTHERS = frozenset({"one-lineage", "log-matching", "candidate-agreement"})  # one offset, two values
LOST = frozenset(
    {"candidate-completeness", "leader-completeness", "log-matching", "commit-agreement", "committed-is-held"}
)

plant("B1", "a follower cuts its log to the high watermark that it has heard of", BEGIN, finds=LOST)
plant(
    "B2",
    "nobody compares the lineages of two logs: what a high watermark does not show stays, one offset, two values",
    ("storage.epochs:EpochHistory.divergence", _finds_no_divergence),
    profile=WORST_OF_TIMES,
    finds=OTHERS,
)
plant(
    "B3",
    "a leader says where an epoch ends that it does not know, and nobody asks again",
    ("storage.epochs:EpochHistory.end_offset_for", _answers_about_one_epoch),
    profile=WORST_OF_TIMES,
    finds=OTHERS,
)
plant(
    "B4",
    "a leader counts what a follower says before it looks at its epoch and its lineage",
    ("actors.partition.leader:Leader._on_follower_fetch", _counts_before_it_looks),
    profile=WORST_OF_TIMES,
    finds=OTHERS,
)
plant(
    "B6",
    "a leader takes laggards out of its in-sync set by itself, and so acknowledges alone when it was deposed",
    ("actors.partition.insync:InSync.propose", _shrinks_by_itself),
    profile=ALONE,
    finds=frozenset({"no-deposed-commit", "no-deposed-ack"}),
)
plant(
    "B7",
    "acks=all is one copy when the in-sync set has shrunk to one",
    ("actors.partition.leader:Leader.__init__", _needs_nobody_in_sync),
    ("actors.partition.leader:Leader.on_isr", _ignores_the_minimum),
    finds=frozenset({"enough-in-sync"}),
)
plant(
    "B9",
    "a member whose addition is proposed is not counted before it is known to be committed",
    ("actors.partition.insync:InSync.maximal", _forgets_what_it_proposed),
    profile=JOINERS,
    finds=frozenset({"isr-is-stored"}),
)
plant(
    "B26",
    "the store takes the word of a controller that was deposed while it was paused",
    ("storage.metadata_store:DocumentStore._compare", _compares_no_controller_epoch),
    profile=ZOMBIES,
    finds=frozenset({"one-controller"}),
)
plant(
    "B10",
    "a follower joins the in-sync set by what it held in its life before, of which a reboot took a part",
    ("actors.controller.isr:_problem_with_set", _compares_no_life),
    profile=REBORN,
    finds=frozenset({"candidate-completeness"}),
)
plant(
    "B14",
    "a new leader does not know the sequences of the producers",
    ("actors.partition.leader:Leader.__init__", _forgets_producers),
    finds=frozenset({"duplicate", "aborted-read"}),
)
plant(
    "own-session",
    "a broker takes the session of its earlier life, which still stands, for its own, and leads on in the old epoch",
    ("actors.broker:Broker._session", _trusts_any_session),
    finds=frozenset({"single-leader"}),
)
plant(
    "B25",
    "a poll commits automatically what it is just about to return",
    ("client.consumer:Consumer._read", _commits_what_it_returns),
    profile="groups",
    finds=frozenset({"unprocessed-commit", "unprocessed"}),
)
plant(
    "B19",
    "a coordinator takes the commit of a member that is out, or was",
    ("actors.groups.commits:Commits._committer", _knows_no_fence),
    profile=FENCED,
    finds=frozenset({"fenced-commit", "offset-regression", "unprocessed"}),
)
plant(
    "B22",
    "a coordinator serves before it has read all that it must know",
    ("actors.groups.coordinator:Coordinator._on_marker", _serves_without_reading),
    profile="groups",
    finds=frozenset({"offset-regression"}),
)
plant(
    "B22-early",
    "a coordinator answers before what it says survives",
    ("actors.groups.surviving:Surviving.reply", _answers_before_it_survives),
    profile="groups",
    finds=frozenset({"offset-regression", "offset-phantom", "two-owners"}),
)
plant(
    "B24",
    "compaction keeps of each key the oldest record instead of the newest",
    ("storage.compaction:Compaction._kept_of", _keeps_the_oldest),
    profile="compaction",
    finds=frozenset({"offset-regression", "latest-of-key", "two-owners"}),
)
plant(
    "B22-deposed",
    "a coordinator that was deposed and has not heard of it tells what was committed when it was one",
    ("actors.groups.surviving:Surviving.prove", _proves_nothing_to_readers),
    profile=DEPOSED,
    finds=frozenset({"offset-regression"}),
)
plant(
    "deposed-heartbeats",
    "a coordinator that was deposed and has not heard of it keeps its members alive, whose partitions go to others",
    ("actors.groups.coordinating:Coordinating._look_at_proof", _believes_in_itself),
    ("actors.groups.members:Member.of", _gives_no_grace),
    profile=DEPOSED,
    finds=frozenset({"two-owners", "fenced-commit"}),
)
plant(
    "handed-twice",
    "one poll of three hands out its first record twice",
    ("client.consumer:Consumer._read", _repeats_one_of_three),
    profile="groups",
    finds=frozenset({"int-nonmonotonic-poll"}),
)
plant(
    "forgets-a-partition",
    "a member owns a partition, lives, and fetches it no more; without the watchdog that would be for ever",
    ("client.group:GroupSide._send_heartbeat", _forgets_a_partition_once),
    profile=UNWATCHED,
    finds=frozenset({"stuck"}),
)
