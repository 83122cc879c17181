"""The program under a test's cluster: ``callboard up`` that ends, and tidies up, when the test's process ends.

    python -m callboard.testing.cluster_process DIRECTORY remove|keep [options of callboard up]

Its stdin is a pipe whose other end only the test's process holds. The end of that process, by whatever means, is the
end of the pipe: then the cluster is stopped, by force if need be, and a temporary directory is removed.

What takes the time of a start are imports, here and in the forkserver that all processes of the cluster come from.
So that is begun first of all, on the other core.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing import forkserver, process

PATIENCE_S = 5.0  # between the signals of an end by force
SOCKET_PATH_MAX = 70  # of a directory for multiprocessing's socket: a unix socket's whole path has about 100


def main(arguments: list[str]) -> int:
    """Run the cluster; return its exit status."""
    directory, is_temporary = arguments[0], arguments[1] == "remove"
    signal.signal(signal.SIGTERM, _end)  # until the host has its own
    tidier = _Tidier(directory if is_temporary else "")
    threading.Thread(target=tidier.watch, name="test-watch", daemon=True).start()
    try:
        _start_forkserver(directory)
        from ..cli.main import main as callboard

        return callboard(["up", *arguments[2:]])
    finally:
        tidier.tidy()


class _Tidier:
    """Ends this process when nobody holds the other end of its stdin, and removes the directory then."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._is_alone = False

    def watch(self) -> None:
        """In a thread of its own. Three signals are what `callboard up` takes for an end by force."""
        while os.read(0, 4_096):
            pass  # nobody says anything; but whoever does is still there
        self._is_alone = True
        for pause_s in (PATIENCE_S, 0.1, PATIENCE_S):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(pause_s)
        self.tidy()
        os.killpg(0, signal.SIGKILL) if os.getpgid(0) == os.getpid() else os.kill(os.getpid(), signal.SIGKILL)

    def tidy(self) -> None:
        """Remove the directory if the test's process cannot do it any more."""
        if self._is_alone and self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _start_forkserver(directory: str) -> None:
    """Begin what the launcher would begin later: the server's imports run beside ours."""
    sockets = os.path.join(directory, "mp")
    if len(sockets) > SOCKET_PATH_MAX:
        return
    os.makedirs(sockets, mode=0o700, exist_ok=True)
    process.current_process()._config["tempdir"] = sockets  # type: ignore[attr-defined]  # as the launcher does it
    forkserver.set_forkserver_preload(["callboard.actors.preload"])
    forkserver.ensure_running()


def _end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
