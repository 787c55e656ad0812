"""What holds of every example: it ends, and takes no more memory than it may."""

from __future__ import annotations

import faulthandler
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounds import EXAMPLES, MEMORY


@pytest.fixture(autouse=True, scope="module")
def no_hang() -> Iterator[None]:
    """A hang ends the run and says where it was."""
    faulthandler.dump_traceback_later(EXAMPLES * 0.5 + 240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """What takes more is a `MemoryError`, which no boundary may raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
