"""What commands print: JSON for programs, tables for people. Rich is imported when a table is drawn.

A table is drawn into a text first and written like any other: so a reader that goes away (``| head``) is one
``BrokenPipeError`` in one place. Into a pipe or a file a table is neither coloured nor cut to a width.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from . import human

PIPE_WIDTH = 1_000  # columns: wide enough that no cell is cut when a program reads


def print_json(value: Any) -> None:
    """Print a value as indented JSON. A struct becomes an object with every field, also those left at their default."""
    import msgspec
    import orjson

    def plain(other: Any) -> Any:
        if isinstance(other, msgspec.Struct):
            return msgspec.structs.asdict(other)
        return list(other) if isinstance(other, tuple | set | frozenset) else str(other)

    click.echo(orjson.dumps(value, plain, orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
    """Print a table; the columns named in ``right`` are aligned to the right. Cells are shown as they are,
    but for what a terminal would obey."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    aligned = set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in aligned else "left", overflow="fold")
    for row in rows:
        # Text, not str: a client's id or an error's text must not be read as rich's markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(human.visible(str(cell))) for cell in row))
    print_rich(table)


def print_rich(renderable: Any) -> None:
    """Print anything that rich can draw."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    drawn = io.StringIO()
    console = Console(
        file=drawn, force_terminal=is_terminal, width=None if is_terminal else PIPE_WIDTH, legacy_windows=False
    )
    console.print(renderable)
    lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
    click.echo("\n".join(lines).strip("\n"))


def say(message: str) -> None:
    """Tell a person something that is not the result: on stderr."""
    click.echo(message, err=True)
