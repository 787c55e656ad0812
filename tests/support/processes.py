"""Which processes are at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def at_work_in(directory: Path) -> Iterator[psutil.Process]:
    """Processes whose working directory is ``directory`` or lies below it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            place = Path(process.cwd())
            if process.status() != psutil.STATUS_ZOMBIE and place.is_relative_to(directory):
                yield process


def who_works_in(directory: Path) -> list[str]:
    """The command lines of these processes."""
    found = []
    for process in at_work_in(directory):
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found
