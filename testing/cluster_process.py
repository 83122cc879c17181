"""The program under a test's cluster: ``callboard up`` that ends, and tidies up, when the test's process ends.

    python -m callboard.testing.cluster_process DIRECTORY remove|keep [options of callboard up]

Its stdin is a pipe whose other end only the test's process holds. The end of that process, by whatever means, is the
end of the pipe: then the cluster is stopped, by force if need be, and a temporary directory is removed.

What takes the time of a start are imports: here, and once more in the forkserver that all processes of the cluster come
from. So here the forkserver is not another program but a fork of this one, made when everything is imported and before
there is any thread. Where that cannot be, multiprocessing starts its own, as it does for `callboard up`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
import time
from multiprocessing import forkserver
from typing import Any

PATIENCE_S = 5.0  # between the signals of an end by force
SOCKET_PATH_MAX = 100  # characters; a unix socket's has 103 on some systems


def main(arguments: list[str]) -> int:
    """Run the cluster; return its exit status."""
    directory, is_temporary = arguments[0], arguments[1] == "remove"
    signal.signal(signal.SIGTERM, _end)  # until the host has its own
    tidier = _Tidier(directory if is_temporary else "")
    try:
        from ..cli.main import main as callboard

        _fork_forkserver(directory)
        threading.Thread(target=tidier.watch, name="test-watch", daemon=True).start()
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
        os.kill(os.getpid(), signal.SIGKILL)  # its children end with it

    def tidy(self) -> None:
        """Remove the directory if the test's process cannot do it any more."""
        if self._is_alone and self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _fork_forkserver(directory: str) -> None:
    """Make a fork of this process multiprocessing's forkserver, which has imported everything already."""
    address = os.path.join(directory, "forkserver.sock")
    server: Any = getattr(forkserver, "_forkserver", None)
    if len(address) > SOCKET_PATH_MAX or sys.version_info >= (3, 14) or not hasattr(server, "_forkserver_alive_fd"):
        return  # 3.14 has an authentication of its own between the two
    from ..actors import entry, host, tree  # noqa: F401 - so that neither this process nor its forks import them later

    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)  # of a cluster that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        alive_r, alive_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(alive_w)
            _be_forkserver(listener.fileno(), alive_r)
        os.close(alive_r)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_w, pid


def _be_forkserver(listener: int, alive: int) -> None:
    """Serve until nobody needs it; does not return: there must not be two of us."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)  # as preload does: signals to the group are for the host
        forkserver.main(listener, alive, [])
    finally:
        os._exit(0)


def _end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
