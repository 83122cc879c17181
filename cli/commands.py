"""What click lacks for us: commands loaded when they are called, the nearest valid name told, ``--debug`` everywhere.

``callboard --help`` must come at once, so a group knows its commands by name and one line of help, and imports the
module of the one that is called. Nothing here imports rich, zmq or the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from ..config import nearest


class Entry(NamedTuple):
    """Where a command is: ``module`` of this package, ``attribute`` in it, and its line in the list of commands."""

    module: str
    attribute: str
    help: str


def _set_debug(context: click.Context, _option: click.Parameter, is_set: bool) -> None:
    if is_set:
        context.find_root().meta["callboard.debug"] = True


def debug_option() -> click.Option:
    """Return a new ``--debug``: it may stand before or after the command's name."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )


@click.pass_context
def _show_help_when_alone(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


class Command(click.Command):
    """A command that takes ``--debug`` and tells the nearest option when one is unknown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_option(error.option_name, self, ctx) from None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    command_class = Command
    entries: Mapping[str, Entry]

    def __init__(self, *, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(invoke_without_command=True, callback=_show_help_when_alone, **kwargs)
        self.entries = entries
        self.params.append(debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(f".{entry.module}", __package__), entry.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.{entry.attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise unknown_option(error.option_name, self, ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries:
            raise click.UsageError(f"there is no command {name!r}{nearest(name, list(self.entries))}", ctx)
        return super().resolve_command(ctx, args)


def unknown_option(name: str, command: click.Command, context: click.Context) -> click.UsageError:
    """Return the error for an option that does not exist, with the nearest one that does."""
    valid = [text for param in command.get_params(context) if isinstance(param, click.Option) for text in param.opts]
    return click.UsageError(f"there is no option {name}{nearest(name, valid)}", context)
