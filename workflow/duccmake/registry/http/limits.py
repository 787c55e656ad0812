"""Limits on what a host is asked for, within one process and over all that share a directory.

Downloads are processes of their own, and an operator's limit is meant for all of
them together.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ...fs.locks import acquire, open_file

logger = logging.getLogger(__name__)

_LONGEST_BOOKING_SECONDS = 3600.0
"""What is booked beyond this was booked by a clock that has been set back since."""

_LOOK_SECONDS = 0.1


class Pace:
    """At most so many units a second, with a burst of one second's worth.

    With a ``file``, all processes that name the same one share the pace.
    """

    def __init__(self, per_second: float, file: Path | None = None) -> None:
        self._per_second = per_second
        self._file = file
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, units: float) -> float:
        """Book ``units``; returns the seconds to wait before using them."""
        if not self._per_second:
            return 0.0
        with self._lock:
            if self._file:
                with _locked(self._file) as file:
                    self._free_at = _number(file.read())
                    wait = self._book(units, time.time())
                    file.seek(0)
                    file.truncate()
                    file.write(repr(self._free_at).encode())
                    return wait
            return self._book(units, time.monotonic())

    def _book(self, units: float, now: float) -> float:
        if not self._free_at <= now + _LONGEST_BOOKING_SECONDS:  # nor is this true of nan
            self._free_at = 0.0
        start = max(self._free_at, now - 1.0)
        self._free_at = start + units / self._per_second
        return max(0.0, self._free_at - now)


class Connections:
    """At most ``limit`` connections to a host at a time.

    With a ``directory``, all processes that name the same one share the limit: a
    connection is a lock on a file there, which a process that dies gives back.
    """

    def __init__(self, limit: int, directory: Path | None = None) -> None:
        self._limit = max(1, limit)
        self._directory = directory
        self._semaphore = threading.BoundedSemaphore(self._limit)

    def acquire(self) -> Callable[[], None]:
        """Wait for a connection; returns what gives it back, to be called once."""
        self._semaphore.acquire()
        if self._directory is None:
            return self._semaphore.release
        try:
            slot = self._slot(self._directory)
        except BaseException:
            self._semaphore.release()
            raise

        def release() -> None:
            os.close(slot)
            self._semaphore.release()

        return release

    def _slot(self, directory: Path) -> int:
        """The descriptor of a locked file; closing it unlocks."""
        directory.mkdir(parents=True, exist_ok=True)
        told = False
        while True:
            for number in range(self._limit):
                descriptor = open_file(directory / f"connection-{number}")
                if acquire(descriptor, wait=False):
                    return descriptor
                os.close(descriptor)
            if not told:
                logger.info("waiting for one of %d connections to %s", self._limit, directory.name)
                told = True
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(open_file(path), "r+b", buffering=0) as file:
        acquire(file.fileno())
        yield file


def _number(content: bytes) -> float:
    try:
        return float(content)
    except ValueError:
        return 0.0
