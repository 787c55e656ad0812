"""What no input may do, whoever wrote it: write, start a program, or take long.

``DUCCMAKE_EXAMPLES`` sets how many examples a test has, with a seed of its own each time:
`make fuzz MINUTES=60`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("DUCCMAKE_EXAMPLES", "0"))
MEMORY = 1 << 30
"""So many bytes may the examples of a module take beyond what the tests have."""

SECONDS = 30
"""No example takes so long, even where many tests share a processor."""


def examples(few: int, *, slow: int = 1) -> settings:
    """Few examples that are always the same, or many that never are: of ``slow`` ones, fewer."""
    return settings(
        max_examples=EXAMPLES // slow or few,
        deadline=None,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )


class Outside(AssertionError):
    """Something was done outside."""


_inside: str | None = None
"""Where an example may write; None while there is none."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
    | {"os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree"}
)
_PROGRAMS = frozenset({"subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.system"})


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    written = event in _CHANGES or (event == "open" and arguments[2] & _WRITING)
    if event in _PROGRAMS or (written and not _is_inside(arguments[0])):
        raise Outside(f"{event} {arguments!r:.300}")


def _is_inside(path: Any) -> bool:
    if isinstance(path, int):  # opened before, which was looked at
        return True
    found = os.path.realpath(os.fsdecode(path))
    # A module that is imported late is compiled.
    return f"{found}/".startswith(f"{_inside}/") or "/__pycache__/" in found


sys.addaudithook(_audit)


@contextmanager
def confined(inside: object = "/nowhere") -> Iterator[None]:
    """Within the block nothing is written but below ``inside``, no program starts, and it ends."""
    global _inside

    def late(number: int, frame: object) -> None:
        raise Outside(f"takes longer than {SECONDS} seconds")

    found = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    _inside = os.path.realpath(str(inside))
    try:
        yield
    finally:
        _inside = None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, found)
