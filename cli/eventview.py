"""How the timeline reads: one line an event. Pure: an event in, a text out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..client.timeline import noticed_by
from . import human

if TYPE_CHECKING:
    from ..client.timeline import Gap
    from ..transport.messages import EventDescription

QUIET = frozenset(  # said by somebody else, better, or every day
    {
        "actor.restarting",
        "host.begins",
        "host.ends",
        "metadata.connected",
        "metadata.serving",
        "process.begins",
        "process.ends",
        "process.stopping",
    }
)
PROCESS_WIDTH = 9


def is_of_interest(happened: EventDescription) -> bool:
    """Say whether a person who looks for failures and elections wants to see it."""
    values = happened.values
    if happened.name == "session.opened":
        return "replaced" in values  # the metadata process's own word; the broker's is the echo
    if happened.name == "actor.failed" and values.get("error", "").startswith("ProcessDied"):
        return False  # process.ended has told it
    return happened.name not in QUIET


def line_of(happened: EventDescription) -> str:
    """Return ``12:00:00.123  broker-1   leader.elected  orders-0: broker 2 …``."""
    text = _said(happened)
    noticed = noticed_by(happened)
    how = f"  [noticed by {noticed}]" if noticed else ""
    return f"{_clock(happened.wall_ms)}  {happened.process:<{PROCESS_WIDTH}}  {happened.name:<18}  {text}{how}".rstrip()


def gap_line(gap: Gap) -> str:
    """Say how long a partition had no leader, and where the time went."""
    if not gap.is_over:
        return f"{_clock(gap.begin_ms)}  {gap.partition} has no leader since: {gap.old_leader} was lost ({gap.cause})"
    parts = ""
    if gap.elected_ms:
        elect_ms, lead_ms = gap.elected_ms - gap.begin_ms, gap.end_ms - gap.elected_ms
        parts = f" (elected after {max(0, elect_ms)} ms, led {max(0, lead_ms)} ms later)"
    return (
        f"{_clock(gap.end_ms)}  {gap.partition} had no leader for {human.duration(gap.ms)}{parts}: "
        f"{gap.old_leader} → {gap.new_leader}"
    )


def as_document(happened: EventDescription) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return {
        "at": _iso(happened.wall_ms),
        "wall_ms": happened.wall_ms,
        "monotonic_ms": happened.monotonic_ms,
        "process": happened.process,
        "event": happened.name,
        "level": happened.level,
        "noticed_by": noticed_by(happened),
        "values": happened.values,
    }


def gap_document(gap: Gap) -> dict[str, Any]:
    return {
        "at": _iso(gap.end_ms),
        "wall_ms": gap.end_ms,
        "event": "partition.had_no_leader",
        "partition": gap.partition,
        "ms": gap.ms,
        "begin_ms": gap.begin_ms,
        "elected_ms": gap.elected_ms,
        "end_ms": gap.end_ms,
        "old_leader": gap.old_leader,
        "new_leader": gap.new_leader,
        "cause": gap.cause,
    }


def _said(happened: EventDescription) -> str:
    """Put what is known into words; what is not known by name is shown as it is."""
    values = happened.values
    match happened.name:
        case "experiment.begun":
            what, rest = values.get("what", ""), dict(values)
            for known in ("what", "address"):
                rest.pop(known, None)
            return f"{what} {values.get('address', '')}{_rest(rest)}"
        case "experiment.ended":
            target = values.get("target", values.get("address", ""))
            return f"{values.get('what', '')} {target}: {values.get('why', '')}"
        case "process.ended":
            why = f": {values['why']}" if values.get("why") else ""
            asked = ", as asked" if values.get("is_asked") == "True" else ""
            ended = _exit(values.get("exitcode", ""))
            return f"{values.get('name', '')} (pid {values.get('pid', '')}) {ended}{asked}{why}"
        case "session.ended":
            return f"{values.get('name', '')}: {values.get('reason', '')}"
        case "leader.elected":
            was = values.get("was", "-1")
            before = f", was {_broker(was)}" if was != "-1" else ""
            return (
                f"{values.get('partition', '')}: {_broker(values.get('leader', ''))} in epoch {values.get('epoch', '')}"
                f"{before}, in sync {values.get('isr', '')}"
            )
        case "partition.leads":
            return (
                f"{values.get('partition', '')} in epoch {values.get('epoch', '')}{_rest(values, 'partition', 'epoch')}"
            )
        case _:
            return _rest(values).strip()


def _rest(values: dict[str, str], *without: str) -> str:
    return "".join(f" {key}={value}" for key, value in values.items() if key not in without)


def _broker(number: str) -> str:
    return "nobody" if number == "-1" else f"broker-{number}"


def _exit(code: str) -> str:
    import signal

    try:
        return f"was ended by {signal.Signals(-int(code)).name}" if int(code) < 0 else f"ended with status {code}"
    except ValueError:
        return f"ended ({code})"


def _clock(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1_000).astimezone().strftime("%H:%M:%S.") + f"{wall_ms % 1_000:03d}"


def _iso(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
