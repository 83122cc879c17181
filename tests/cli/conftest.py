"""Commands run in this process, with fakes behind them; what they printed and how they ended is returned."""

from __future__ import annotations

import io
import sys
from typing import Any, NamedTuple

import pytest

from callboard.cli.main import main


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Stdin(io.StringIO):
    """Text as a program sees it on stdin: with ``.buffer``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.buffer = io.BytesIO(text.encode())


@pytest.fixture
def callboard(capsys, monkeypatch):
    """Run ``callboard …`` with the clients given; return status, stdout and stderr."""

    def run(*arguments: str, clients: Any = None, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin))
        status = main(arguments, clients=clients)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run
