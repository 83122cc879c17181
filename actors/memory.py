"""How much memory this process holds, and what follows when it is too much.

Stable libzmq keeps the frames of a multipart message until the last one has come, where nobody can count them: a
client that never sends the last one makes the process grow without a bound (frames are bounded each, not together). So
the process is watched as a whole, from its loop, a few times a second. Past half of the limit whoever sends such a
message is looked for and shown out (``transport/endless``), where the system tells what a connection has received: on
Linux, by tcp. Past the limit the process ends at once, without the courtesy of a clean end, which would need memory and
time: for the logs that is a kill, which loses nothing, and its supervisor starts it again. (A host, which nobody starts
again, only says so.)
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..transport.loop import Loop

CHECK_MS = 100  # an endless message grows by some 100 MB meanwhile
HURRY_MS = 10  # past half of the limit
_STATM = "/proc/self/statm"


def resident_bytes() -> int:
    """Return the memory that this process has in RAM."""
    try:
        with open(_STATM, "rb") as file:
            return _resident(file.read())
    except FileNotFoundError:  # not Linux
        import psutil

        return int(psutil.Process().memory_info().rss)


def measure_of_this_process() -> Callable[[], int]:
    """Return what ``resident_bytes`` does, able to do it also when no descriptor is left."""
    try:
        file = open(_STATM, "rb", buffering=0)  # noqa: SIM115 - open as long as it is asked
    except FileNotFoundError:
        return resident_bytes
    return lambda: _resident(os.pread(file.fileno(), 256, 0))


def watch_memory(
    loop: Loop,
    limit_bytes: int,
    on_excess: Callable[[int], None],
    measure: Callable[[], int] | None = None,
    on_half: Callable[[], None] = lambda: None,
) -> None:
    """Call ``on_excess(bytes)`` when more than ``limit_bytes`` are held, once until they are fewer; 0: never look.

    ``on_half`` is called at every look while more than half of them are held.
    """
    measure = measure or measure_of_this_process()

    def look(was_excess: bool) -> None:
        held = measure()
        if held > limit_bytes // 2:
            on_half()
        if held > limit_bytes and not was_excess:
            on_excess(held)
        loop.call_later((HURRY_MS if held > limit_bytes // 2 else CHECK_MS) / 1_000, look, held > limit_bytes)

    if limit_bytes:
        look(False)


def _resident(statm: bytes) -> int:
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
