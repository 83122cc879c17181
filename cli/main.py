"""The command ``callboard``: the list of commands, and what happens when one fails.

Rules: ``--help`` imports nothing but click; every error is one line on stderr that says what to do, and a
documented exit status; nobody ever sees a traceback without ``--debug``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from . import human
from .commands import Entry, LazyGroup
from .connect import Clients
from .exits import MEANINGS, CommandFailed, ExitStatus, one_line, status_for

PROGRAM = "callboard"
COMPLETION_VARIABLE = "_CALLBOARD_COMPLETE"

COMMANDS = {
    "up": Entry("up", "up", "Run a cluster in the foreground."),
    "topics": Entry("topics", "topics", "Create, list, describe, alter, delete topics."),
    "produce": Entry("produce", "produce", "Send the lines of stdin to a topic."),
    "consume": Entry("consume", "consume", "Print the records of a topic."),
    "groups": Entry("groups", "groups", "Look after consumer groups: members, lag, offsets."),
    "cluster": Entry("cluster", "cluster", "Describe brokers and processes."),
    "elect": Entry("elect", "elect", "Have leaders elected: preferred ones, or unclean."),
    "tree": Entry("tree", "tree", "Show the supervision tree: every actor of the cluster."),
    "kill": Entry("tree", "kill", "Fail an actor or a process on purpose; watch it come back."),
    "pause": Entry("experiments", "pause", "Stop a process or an actor for a while."),
    "hang": Entry("experiments", "hang", "Have an event loop stand still for a while."),
    "slow": Entry("experiments", "slow", "Slow down an actor, or each of a process."),
    "cut": Entry("experiments", "cut", "Cut the link between two processes for a while."),
    "delay": Entry("experiments", "delay", "Delay what travels between two processes."),
    "heal": Entry("experiments", "heal", "End experiments before their time."),
    "events": Entry("events", "events", "Show what happened: failures, elections, experiments."),
    "bench": Entry("bench", "bench", "Measure failovers on a cluster of its own."),
    "log": Entry("log", "log", "Dump, verify or repair logs on disk, without a broker."),
}

cli = LazyGroup(
    name=PROGRAM,
    entries=COMMANDS,
    help="Callboard: a Kafka-like commit log whose every part is an actor.",
    epilog="Exit status: "
    + ", ".join(f"{status.value} {word}" for status, (word, _) in MEANINGS.items())
    + "; docs/errors.md explains each.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(context: click.Context, _option: click.Parameter, is_set: bool) -> None:
    if is_set and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"{PROGRAM} {version('callboard')}")
        context.exit()


cli.params.append(
    click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
    )
)


def main(arguments: Sequence[str] | None = None, *, clients: Clients | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: without the program's name; ``None``: those of the process.
        clients: how producers, consumers and admin clients are made; tests give fakes.
    """
    if COMPLETION_VARIABLE in os.environ:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETION_VARIABLE, os.environ[COMPLETION_VARIABLE])
    context: click.Context | None = None
    open_missing_streams()
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with cli.make_context(PROGRAM, given, obj=clients or Clients()) as context:
            status = cli.invoke(context)
            sys.stdout.flush()
            return int(status or ExitStatus.OK)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _complain(_usage(error), ExitStatus.USAGE)
    except click.ClickException as error:
        return _complain(error.format_message(), ExitStatus.FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", ExitStatus.INTERRUPTED)
    except BrokenPipeError:
        _leave_stdout_alone()
        return ExitStatus.OK
    except Exception as error:  # noqa: BLE001 — the last place before the user: whatever it is becomes one line
        if context is not None and context.meta.get("callboard.debug"):
            import traceback

            traceback.print_exception(error)
        return _complain(one_line(error), status_for(error))


def open_missing_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr (``>&-``) the null device for it.

    Python has ``None`` there, which no code expects; and the first socket would get the number 0, 1 or 2.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - lives as long as the process


def _complain(message: str, status: ExitStatus) -> int:
    click.echo(f"{PROGRAM}: {human.visible(' '.join(message.split()))}", err=True)
    return status


def _usage(error: click.UsageError) -> str:
    where = error.ctx.command_path if error.ctx is not None else PROGRAM
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (see `{where} --help`)"


def _leave_stdout_alone() -> None:
    """Point stdout at nothing: its reader has gone, and the interpreter would complain when it flushes at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # stdout is not a file here (a test's capture): nothing will complain


__all__ = ["CommandFailed", "cli", "main"]
