"""The commands of ``callboard log``. Dump and verify only read: they may be used while the brokers run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from . import human
from .commands import Command
from .exits import CommandFailed
from .options import json_option
from .output import print_json, print_table, say

if TYPE_CHECKING:
    from ..storage.batch import BatchHeader
    from ..storage.inspection import LogReport
    from ..storage.verification import Damage

FAILED_ADVICE = (
    "where a sync failed, see that disk and file system are sound, then remove the file `failed`"
    " (docs/operations.md, Several disks)"
)
REMOVED_LOG = "removed while it was looked at; was its topic deleted?"
REMOVED_SEGMENT = "removed while the log was read, by retention, compaction or the deletion of its topic; left out"
LOCK_LEVELS = 3  # a log lies in a broker's directory, that in a data directory

directory_argument = click.argument(
    "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=str)
)


@click.command(cls=Command, short_help="Show every batch, or every record.")
@directory_argument
@click.option("--records", "with_records", is_flag=True, help="Show each record with its key and value.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def dump(directory: str, with_records: bool, as_json: bool) -> None:
    """Show what stands in the logs below DIR, in order, checked; damage is shown where it is.

    DIR is a data directory, a broker's directory, or one log's. Ends with 1 when something is damaged.
    """
    from ..errors import CorruptRecordError
    from ..storage.files import OsFiles
    from ..storage.inspection import LogView

    damaged = 0
    files = OsFiles()
    for log in _logs(directory):
        try:
            view = LogView(files, log)
        except FileNotFoundError:
            say(f"{log}: {REMOVED_LOG}")
            continue
        last: Damage | None = None
        for found in view.walk(lambda path: say(f"{path}: {REMOVED_SEGMENT}")):
            last = found[1] if len(found) == 2 else None
            if len(found) == 2:
                damaged += 1
                _line({"log": log, **_damage(found[1])}, f"{log}: DAMAGED {found[1]}", as_json)
                continue
            base, header, position = found
            row = _batch(header, position)
            _line({"log": log, "segment": base, **row}, f"{log}: " + _words(row), as_json)
            if with_records:
                try:
                    records = _records(view.path(base), header, position)
                except (FileNotFoundError, CorruptRecordError):  # it was checked a moment ago: the file is another one
                    say(f"{view.path(base)}: {REMOVED_SEGMENT}")
                    continue
                for record in records:
                    _line({"log": log, **record}, "  " + _words(record), as_json)
        damaged -= view.is_torn(last)
    if damaged:
        raise CommandFailed(f"{human.count(damaged, 'damaged place')}; `callboard log verify` tells more")


@click.command(cls=Command, short_help="Read everything and check it; tell what is damaged.")
@directory_argument
@json_option
def verify(directory: str, as_json: bool) -> None:
    """Read every byte of the logs below DIR and check it; tell segment, position and offsets of what is damaged.

    DIR is a data directory, a broker's directory, or one log's. Nothing is changed. A torn tail, as a crash leaves
    it, is no damage: the broker cuts it when it opens the log. Ends with 1 when something is damaged.
    """
    reports = _reports(directory)
    if as_json:
        print_json([_report(report) for report in reports])
    else:
        _print_reports(reports)
    unsound = [report for report in reports if not report.is_sound]
    if unsound:
        places = sum(len(report.damages) for report in unsound)
        failed = sum(report.is_failed for report in unsound)
        said = [human.count(places, "damaged place")] if places else []
        said += ["a repair that was interrupted"] if any(report.is_unfinished for report in unsound) else []
        advice = ["`callboard log repair DIR` says what can be done"] if said else []
        if failed:
            said.append(f"{human.count(failed, 'log')} where a sync failed")
            advice.append(FAILED_ADVICE)
        raise CommandFailed("; ".join([" and ".join(said), *advice]))


@click.command(cls=Command, short_help="Say, or with --yes do, what makes a damaged log usable again.")
@directory_argument
@click.option("--skip", is_flag=True, help="Take only the damaged bytes out: the log gets a gap in its offsets.")
@click.option("--yes", is_flag=True, help="Do it. Without this, only say what would be done.")
@json_option
def repair(directory: str, skip: bool, yes: bool, as_json: bool) -> None:
    """Make the damaged logs below DIR usable again; without --yes, only say what that would cost.

    By default a log is cut at its first damage. With --skip the damaged bytes go and the rest is kept, with a gap in
    the offsets that consumers step over, and that no follower copies across. Either way the files as they were are kept
    in the log's directory. Where another replica has the records, fetching them from there is better: remove the log's
    directory instead.

    Refused while a cluster uses the directory.
    """
    from ..storage.files import OsFiles
    from ..storage.inspection import repair as repair_log

    files = OsFiles()
    with _locked(directory):
        reports = _reports(directory)
        damaged = [report for report in reports if report.damages or report.is_unfinished]
        done: list[dict[str, Any]] = []
        for report in damaged:
            lost = report.would_lose(skip=skip)
            plan: dict[str, Any] = {"log": report.directory, "lost": lost, "is_done": False}
            if yes:
                result = repair_log(files, report.directory, _aside_name(report.directory), skip=skip)
                plan |= {"lost": result.lost, "is_done": True, "aside": result.aside}
            done.append(plan)
            if not as_json:
                _say_repair(plan, report)
    if as_json:
        print_json(done)
    elif not damaged:
        is_failed = any(report.is_failed for report in reports)
        say(f"nothing is damaged; {FAILED_ADVICE}" if is_failed else "nothing is damaged")
    elif not yes:
        say("nothing was changed; --yes does it" + ("" if skip else ", --skip loses less"))


# -- what is said ----------------------------------------------------------------------------------


def _say_repair(plan: dict[str, Any], report: LogReport) -> None:
    lost = ", ".join(f"{begin} to {end - 1}" for begin, end in plan["lost"])
    if plan["is_done"]:
        said = f"offsets {lost} are gone" if lost else "no offset is gone"
        click.echo(f"{plan['log']}: {said}; the files as they were: {plan['aside']}")
    elif not lost and report.is_unfinished:
        click.echo(f"{plan['log']}: a repair was interrupted; what is lost is not known before it is done")
    else:
        click.echo(f"{plan['log']}: " + (f"offsets {lost} would be lost" if lost else "nothing would be lost"))


def _print_reports(reports: list[LogReport]) -> None:
    print_table(
        ("log", "start", "end", "segments", "batches", "records", "size", "state"),
        [
            (
                os.path.basename(report.directory),
                report.log_start_offset,
                report.log_end_offset,
                report.segments,
                report.batches,
                report.records,
                human.size(report.size_bytes),
                _state(report),
            )
            for report in reports
        ],
        right=("start", "end", "segments", "batches", "records", "size"),
    )
    for report in reports:
        for damage in report.damages:
            click.echo(f"DAMAGED {damage}")
        for damage in report.torn:
            click.echo(f"torn tail {damage.path} at {damage.position}: cut when the broker opens the log")
        for begin, end in report.gaps:
            click.echo(f"gap {report.directory}: offsets {begin} to {end - 1} were given up by a repair")


def _state(report: LogReport) -> str:
    if report.is_unfinished:
        return "repair interrupted"
    if report.damages:
        return "damaged"
    if report.is_failed:
        return "failed"
    return "torn tail" if report.torn else "sound"


def _report(report: LogReport) -> dict[str, Any]:
    return {
        "log": report.directory,
        "state": _state(report),
        "log_start_offset": report.log_start_offset,
        "recovery_offset": report.recovery_offset,
        "log_end_offset": report.log_end_offset,
        "segments": report.segments,
        "batches": report.batches,
        "records": report.records,
        "size_bytes": report.size_bytes,
        "has_checkpoint": report.has_checkpoint,
        "is_failed": report.is_failed,
        "is_unfinished": report.is_unfinished,
        "damages": [_damage(damage) for damage in report.damages],
        "torn": [_damage(damage) for damage in report.torn],
        "gaps": report.gaps,
    }


def _damage(damage: Damage) -> dict[str, Any]:
    return {
        "path": damage.path,
        "position": damage.position,
        "end_position": damage.end_position,
        "offset": damage.offset,
        "next_offset": damage.next_offset,
        "problem": damage.problem,
    }


def _batch(header: BatchHeader, position: int) -> dict[str, Any]:
    return {
        "base_offset": header.base_offset,
        "last_offset": header.last_offset,
        "position": position,
        "bytes": header.length,
        "leader_epoch": header.leader_epoch,
        "compression": header.compression,
        "max_timestamp_ms": header.max_timestamp,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
    }


def _records(path: str, header: BatchHeader, position: int) -> list[dict[str, Any]]:
    from ..storage.batch import decode_batch

    with open(path, "rb") as file:
        file.seek(position)
        batch = decode_batch(file.read(header.length))
    return [
        {"offset": offset, "timestamp_ms": timestamp, "key": _text(key), "value": _text(value)}
        for offset, timestamp, key, value in zip(batch.offsets, batch.timestamps, batch.keys, batch.values, strict=True)
    ]


def _text(data: bytes | None) -> str | None:
    return None if data is None else bytes(data).decode("utf-8", "backslashreplace")


def _words(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value!r}" if isinstance(value, str) else f"{name}={value}" for name, value in row.items())


def _line(row: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        import orjson

        text = orjson.dumps(row).decode()
    click.echo(text)


# -- directories -----------------------------------------------------------------------------------


def _logs(directory: str) -> list[str]:
    from ..storage.files import OsFiles
    from ..storage.inspection import find_logs

    logs = find_logs(OsFiles(), os.path.abspath(directory))
    if not logs:
        raise CommandFailed(f"{directory}: there is no log in it, nor in the two levels below it")
    return logs


def _reports(directory: str) -> list[LogReport]:
    from ..storage.files import OsFiles
    from ..storage.inspection import report_of

    files, reports = OsFiles(), []
    for log in _logs(directory):
        try:
            reports.append(report_of(files, log))
        except FileNotFoundError:
            if files.exists(log):
                raise CommandFailed(f"{log}: its segments are removed faster than they are read; try again") from None
            say(f"{log}: {REMOVED_LOG}")
    return reports


def _aside_name(log: str) -> str:
    number = 1
    while os.path.lexists(f"{log}/before-repair-{number}"):
        number += 1
    return f"before-repair-{number}"


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold every lock that a cluster would hold: of the directory itself, and of those that it lies in."""
    from ..storage.files import AlreadyLocked, OsFiles

    with ExitStack() as held:
        place = os.path.abspath(directory)
        for _ in range(LOCK_LEVELS):
            if os.path.isfile(f"{place}/lock"):
                try:
                    held.callback(OsFiles().lock(f"{place}/lock", str(os.getpid())).release)
                except AlreadyLocked as error:
                    raise CommandFailed(
                        f"{place} is in use by the cluster of process {error.holder or '?'}: stop it first"
                    ) from None
            place = os.path.dirname(place)
        yield
