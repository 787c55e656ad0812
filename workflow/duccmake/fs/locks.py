"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RepositoryLocked

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2

_unfinished = 0
_has_written = False


def acquire(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file (flock(2)) until it is closed; whether that was possible.

    Raises `OSError` where the file system has no locks.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_file(path: Path, mode: int = 0o666) -> int:
    """Open a file to be locked, which is made where it is not there.

    To read and to write: NFS has the one for shared locks and the other for the rest.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file that is there for nothing else, as long as it takes to get it."""
    descriptor = open_file(path, 0o644)
    try:
        acquire(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, seconds: float, *, writes: bool = True) -> Iterator[None]:
    """Hold the lock on the file ``path``, which names its holder.

    Waits for up to ``seconds``, then raises `RepositoryLocked`.  Who does not write at once
    says when by `finishing` and `note_written`.
    """
    descriptor = open_file(path, 0o600)
    try:
        _acquire(descriptor, path, seconds)
        if writes:
            note_written()
        yield
    finally:
        os.close(descriptor)


@contextmanager
def finishing() -> Iterator[None]:
    """Do what is to be finished before this process may end by a signal."""
    global _unfinished
    _unfinished += 1
    try:
        yield
    finally:
        _unfinished -= 1


def note_written() -> None:
    """Have this process note what it has written before it may end by a signal: for good."""
    global _has_written
    _has_written = True


def must_finish() -> bool:
    """Whether this process has begun what is to be finished, or has something to note."""
    return _has_written or _unfinished > 0


def is_held(path: Path) -> bool:
    """Whether some process holds the lock; it is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not acquire(descriptor, shared=True, wait=False)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    told = False
    while not acquire(descriptor, wait=False):
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
    os.pwrite(descriptor, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    pid, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return f"process {pid} on {host}" if pid else "another process"
