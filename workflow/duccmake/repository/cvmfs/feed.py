"""Feeding an archive to ``cvmfs_server ingest`` through a FIFO."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.01
_PIPE_BYTES = 1024 * 1024
_JUNK = b"\xff" * 100
"""Less than a block, and nothing that is read as one."""


class Feed:
    """The writing end of a FIFO that ``process`` is going to read.

    cvmfs_server takes its time to open a transaction.  Up to ``ahead`` bytes are
    kept until it reads; so long the rest need not wait.  ``opened`` is called then.
    `BrokenPipeError` where the process has ended, or reads no more.
    """

    def __init__(
        self,
        fifo: Path,
        process: subprocess.Popen[bytes],
        opened: Callable[[], None],
        *,
        ahead: int = 0,
    ) -> None:
        self._fifo = fifo
        self._process = process
        self._opened = opened
        self._ahead = ahead
        self._kept: list[bytes | memoryview] = []
        self._size = 0
        self._descriptor = -1

    def write(self, content: bytes | memoryview) -> None:
        """Hand content over, or keep it until that is possible."""
        if self._size + len(content) > self._ahead:
            self.connect()
        if self._try_to_connect():
            self._write(content)
        else:
            self._kept.append(content)
            self._size += len(content)

    def connect(self) -> None:
        """Wait until the process reads, and hand over what was kept."""
        while not self._try_to_connect():
            if self._process.poll() is not None:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE), str(self._fifo))
            time.sleep(_POLL_SECONDS)

    def spoil(self) -> None:
        """Leave the archive ending within a header, whatever it ended with: it cannot pass then."""
        self._kept.clear()
        with suppress(OSError):
            self.connect()
            self._write(_JUNK)

    def close(self) -> None:
        """Leave the FIFO; the process sees its end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try_to_connect(self) -> bool:
        if self._descriptor >= 0:
            return True
        try:
            self._descriptor = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        os.set_blocking(self._descriptor, True)
        with suppress(OSError):  # beyond what an unprivileged user may have
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # Who reads the archive has opened its transaction.
        self._opened()
        for content in self._kept:
            self._write(content)
        self._kept.clear()
        return True

    def _write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]


def spoil_archive(fifo: Path) -> bool:
    """Have an ingest fail that waits for the rest of its archive; whether there is one."""
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with suppress(OSError):
        os.write(descriptor, _JUNK)
    os.close(descriptor)
    return True
