"""What this program calls itself when it says hello."""

from __future__ import annotations

import platform
from importlib import metadata


def _version() -> str:
    try:
        return metadata.version("callboard")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


SOFTWARE = f"callboard/{_version()} python/{platform.python_version()}"
