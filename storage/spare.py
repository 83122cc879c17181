"""Descriptors for our own files when connections have taken all others.

A log that cannot open its next segment fails, and so would every log of a broker while a flood of connections lasts.
So a process keeps its soft limit of open files below the hard one (``actors/entry.py``): sockets, which other threads
make, live within the soft limit; what the storage opens may go up to the hard one. The soft limit is raised for
that one call only: whoever else wants a descriptor in these microseconds may get it, which is why it is a stock
and not one.
"""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()


def with_spare(make: Callable[[], T]) -> T:
    """Return ``make()``, which opens a file; with a spare descriptor when all others are in use. From any thread.

    Raises:
        OSError: whatever ``make`` raises; EMFILE when none is spare either.
    """
    try:
        return make()
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    with _lock:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        try:
            return make()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
