"""Who runs: a lock that every run and every job shares, so that others can tell when none does.

Snakemake's own lock outlives a process that was killed, and may be taken away only
when nobody runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from ..fs.locks import acquire, open_file
from .results import RESULTS

RUN_LOCK = RESULTS / "run.lock"

WORK_LOCK = RESULTS / "work.lock"
"""What each job shares whose end may free what is staged: a gate waits while one does."""


def hold(workdir: Path, lock: Path = RUN_LOCK) -> IO[bytes] | nullcontext[None]:
    """Be seen as running until what is returned is left, or goes with this process.

    A file system may not know how; nobody is kept from running by that.
    """
    path = workdir / lock
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(open_file(path), "r+b")
        acquire(file.fileno(), shared=True)
    except OSError:
        return nullcontext()
    return file


def is_alone(held: IO[bytes] | nullcontext[None]) -> bool:
    """Whether nobody runs but who holds this; if so, whoever begins waits for its end.

    For who has nothing to do any more: where it is not alone, it is not seen from here on.
    False as well where the file system has no locks.
    """
    return not isinstance(held, nullcontext) and acquire(held.fileno(), wait=False)


@contextmanager
def nobody_runs(workdir: Path) -> Iterator[bool]:
    """Whether no run and no job is alive; if so, none begins within the block.

    False as well where the file system has no locks, so that nobody can tell.
    """
    path = workdir / RUN_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_file(path)
    try:
        try:
            alone = acquire(descriptor, wait=False)
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def somebody_works(workdir: Path) -> bool:
    """Whether a job is alive that holds `WORK_LOCK`; False where a file system has no locks."""
    descriptor = open_file(workdir / WORK_LOCK)
    try:
        return not acquire(descriptor, wait=False)
    except OSError:
        return False
    finally:
        os.close(descriptor)
