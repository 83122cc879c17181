"""Whether the machine has booted since a broker's last life: what was not synced may then be gone.

A note beside the broker's logs names the boot of the machine that the broker lived in. A life that finds another boot
in it says so in its session (``is_after_reboot``), and the controller takes its replicas with ``flush=os`` for unsure.

1. The note is renewed only after ``SETTLED_MS`` of a life. A life that ends before, perhaps before the controller has
   looked at all, leaves it as it was: the next one says the same again. Too often does no harm.
2. No note: the directory is new, nothing can be missing. It is written at once.
3. A system that does not tell its boots: whatever was not synced may be gone, each time.
"""

from __future__ import annotations

import logging

from .context import Context
from .log import event

logger = logging.getLogger(__name__)

SETTLED_MS = 30_000


class BootNote:
    """The note of one broker. One for the life of the process: what it said once, it goes on saying."""

    def __init__(self, context: Context, path: str) -> None:
        """``path``: of the note; its directory is there."""
        self._context, self._path = context, path
        self._is_after_reboot: bool | None = None  # not looked at yet

    def is_after_reboot(self) -> bool:
        """Say whether the machine has booted since the broker's last life. Reads one small file, once."""
        if self._is_after_reboot is None:
            self._is_after_reboot = self._look()
        return self._is_after_reboot

    def _look(self) -> bool:
        context = self._context
        if not context.boot:
            return True
        if not context.files.exists(self._path):
            self._keep()
            return False
        noted = context.files.read_bytes(self._path).decode("ascii", "replace")
        if noted == context.boot:
            return False
        event(logger, "machine.rebooted", name=context.name, boot=context.boot, was=noted[:80])
        context.loop.call_later(SETTLED_MS / 1000, self._keep)
        return True

    def _keep(self) -> None:
        files, path, note = self._context.files, self._path, self._context.boot.encode("ascii")
        self._context.pool.submit(lambda: files.write_atomic(path, note), self._on_kept)

    def _on_kept(self, _: object, error: BaseException | None) -> None:
        if error is not None:  # the next life will say once more that the machine has booted
            event(logger, "boot.not_noted", logging.WARNING, path=self._path, error=error)
