"""What the forkserver imports, and only it: everything that each process would import again.

It leaves the process group of the terminal: Ctrl-C, and signals to the group, are for the host, which stops its
processes in order.
"""

from __future__ import annotations

import contextlib
import os

with contextlib.suppress(OSError):
    os.setpgid(0, 0)

from . import entry, tree  # noqa: F401 - for their imports
