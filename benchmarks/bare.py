"""The machine's own limits: a bare ROUTER loop in a process of its own, with nothing of Callboard but the frames.

    python -m benchmarks.bare DIRECTORY        prints its endpoint, serves until its standard input ends

It does what no broker can do without: receive, compute the checksum, patch the prefix, ``writev``; ``pread`` and
send; or answer at once. No parsing, no rules, no actors, no timers.

    [b"new"]                            truncate the file                      -> [b"ok"]
    [b"write", prefix, rest …]          check, patch, append                   -> [b"ok"]
    [b"read", position, size]           pread                                  -> [b"ok", data]
    [b"ping"]                                                                  -> [b"ok"]
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c
import zmq

from callboard.actors.entry import keep_freed_memory

from .measure import ROOT

LEND_BYTES = 128 << 10  # what is larger is not copied into the socket


def serve(directory: str) -> None:
    keep_freed_memory()  # as a broker does
    path = os.path.join(directory, "bare.log")
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    endpoint = f"ipc://{directory}/bare.sock"
    socket.bind(endpoint)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(endpoint, flush=True)
    offset = 0
    while True:
        peer, kind, *frames = socket.recv_multipart()
        if kind == b"write":
            crc = 0
            for frame in frames[1:]:
                crc = google_crc32c.extend(crc, frame)
            if crc.to_bytes(4, "big") != frames[0][17:21]:
                raise SystemExit("bare: a checksum is wrong")
            frames[0] = struct.pack(">q", offset) + frames[0][8:]
            os.writev(file, frames)
            offset += 1
            socket.send_multipart([peer, b"ok"])
        elif kind == b"read":
            data = os.pread(file, int(frames[1]), int(frames[0]))
            socket.send_multipart([peer, b"ok"], zmq.SNDMORE)
            socket.send(data, 0, len(data) < LEND_BYTES)
        elif kind == b"new":
            os.close(file)
            os.unlink(path)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            socket.send_multipart([peer, b"ok"])
        else:
            socket.send_multipart([peer, b"ok"])


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """Run ``python -m module arguments`` beside the block; yields the first line that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if child.stdin is None or child.stdout is None:
        raise OSError("no pipes")
    try:
        yield child.stdout.readline().strip()
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


if __name__ == "__main__":
    serve(sys.argv[1])
