"""What a loop sleeps on: descriptors that may become readable, and a wake-up from another thread.

Two of them: ``EpollDescriptors`` on Linux, without the layers of ``selectors`` (they cost as much as the system call),
and ``SelectorDescriptors`` everywhere else.

A wake-up on Linux is one system call, not two: the eventfd is watched edge-triggered, so each write to it wakes the
sleeper, and nobody need read it empty. (A pipe would be full one day.)
"""

from __future__ import annotations

import os
import select
import selectors
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

EVENTS_MAX = 64  # taken from the system at once; the others stay there for the next time


class Descriptors(Protocol[T]):
    """Watched descriptors, each with a mark that is told when there is something to read."""

    def watch(self, fd: int, mark: T) -> None: ...

    def forget(self, fd: int) -> T | None:
        """Stop watching; return its mark, None when it was not watched."""

    def wait(self, timeout_s: float | None) -> list[T]:
        """Sleep until something is readable, ``wake`` was called, or the time is over (None: never).

        What is readable stays so until it is read: nothing is lost by not looking at a mark that was returned.
        """

    def wake(self) -> None:
        """End the present ``wait``, or the next one if there is none. From any thread."""

    def close(self) -> None: ...


class EpollDescriptors(Generic[T]):
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._marks: dict[int, T] = {}
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._alarm, select.EPOLLIN | select.EPOLLET)

    def watch(self, fd: int, mark: T) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._marks[fd] = mark

    def forget(self, fd: int) -> T | None:
        mark = self._marks.pop(fd, None)
        if mark is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:  # closed by its owner before: then the system has forgotten it
                return mark
        return mark

    def wait(self, timeout_s: float | None) -> list[T]:
        found = self._poll(timeout_s, EVENTS_MAX)  # Python rounds up to epoll's ms: the last one is not spun
        if len(found) == 1:
            mark = self._marks.get(found[0][0])
            return [] if mark is None else [mark]
        marks = self._marks
        return [marks[fd] for fd, _ in found if fd in marks]

    def wake(self) -> None:
        os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._alarm)


class SelectorDescriptors(Generic[T]):
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._selector.register(self._wake_out, selectors.EVENT_READ)

    def watch(self, fd: int, mark: T) -> None:
        self._selector.register(fd, selectors.EVENT_READ, mark)

    def forget(self, fd: int) -> T | None:
        try:
            mark: T = self._selector.unregister(fd).data
        except (KeyError, ValueError):
            return None
        return mark

    def wait(self, timeout_s: float | None) -> list[T]:
        marks = []
        for key, _ in self._selector.select(timeout_s):
            if key.fd == self._wake_out:
                self._read_empty()
            else:
                marks.append(key.data)
        return marks

    def wake(self) -> None:
        try:
            os.write(self._wake_in, b"\0")
        except BlockingIOError:
            return  # the pipe is full of wake-ups

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake_out)
        os.close(self._wake_in)

    def _read_empty(self) -> None:
        try:
            os.read(self._wake_out, 4_096)
        except BlockingIOError:
            return


def descriptors() -> Descriptors[T]:
    """Return the best of this system."""
    return EpollDescriptors() if hasattr(select, "epoll") and hasattr(os, "eventfd") else SelectorDescriptors()
