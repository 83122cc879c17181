"""Where tests of the log have it: on the simulated disk, or on the operating system's files."""

from __future__ import annotations

import pytest

from callboard.config import TopicConfig
from callboard.storage.files import Files, OsFiles
from callboard.storage.log import Log
from callboard.testing.disk import SimDisk
from callboard.testing.logs import SMALL, open_log


class Place:
    def __init__(self, files: Files, directory: str) -> None:
        self.files = files
        self.directory = directory
        self.opened: list[Log] = []

    def open(self, config: TopicConfig = SMALL, **options) -> Log:
        self.opened.append(open_log(self.files, config, directory=self.directory, **options))
        return self.opened[-1]

    def names(self) -> list[str]:
        return self.files.list_dir(self.directory)


@pytest.fixture(params=["simulated", "os"])
def place(request, tmp_path):
    place = Place(OsFiles(), f"{tmp_path}/log") if request.param == "os" else Place(SimDisk(), "/data/log")
    yield place
    for log in place.opened:
        log.close(0, clean=False)


@pytest.fixture
def disk():
    return SimDisk()
