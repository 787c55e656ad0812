"""A lock between publishers, which ends with the process that holds it."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RepositoryLocked

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock (flock(2)) on the file ``path``, which names its holder.

    Waits for up to ``seconds``, then raises `RepositoryLocked`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, seconds)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock; it is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(descriptor: int, path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    told = False
    while not _try(descriptor):
        if time.monotonic() >= deadline:
            raise RepositoryLocked(
                f"{path} has been held for more than {seconds:g} s by {_holder(descriptor)}",
                hint="wait until it ends; the lock does not outlive it",
            )
        if not told:
            log.info("waiting for %s, which holds %s", _holder(descriptor), path)
            told = True
        time.sleep(_POLL_SECONDS)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    pid, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return f"process {pid} on {host}" if pid else "another process"
