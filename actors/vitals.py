"""What the operating system says of a process: CPU, memory, threads, files, disk."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of one process now. ``cpu_percent``: of one core, since the last time it was measured."""

    cpu_percent: float = 0.0
    memory_bytes: int = 0
    threads: int = 0
    open_files: int = 0


class VitalSigns:
    """Measures processes; remembers each one's CPU time from one measurement to the next."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def of(self, pid: int) -> Vitals:
        """Return the vitals of a process, all zero when it has ended."""
        try:
            process = self._processes.get(pid)
            if process is None or not process.is_running():
                process = self._processes[pid] = psutil.Process(pid)
            with process.oneshot():
                return Vitals(
                    cpu_percent=process.cpu_percent(None),
                    memory_bytes=process.memory_info().rss,
                    threads=process.num_threads(),
                    open_files=process.num_fds(),
                )
        except psutil.Error:
            self._processes.pop(pid, None)
            return Vitals()


def disk_bytes(directory: str) -> int:
    """Return what the files below a directory take on disk; files that go meanwhile count as nothing. Blocks."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
            except FileNotFoundError:
                continue
    return total
