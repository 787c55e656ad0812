"""Opening a transaction at a moment at which nobody else opens one.

``cvmfs_server`` looks whether a transaction is open, and sets the flag for its own a moment
later.  Two that look at the same time both go on, and each takes the mounts from under the
other, which then waits for ever.  Commands that are shell scripts take their time from their
beginning to that moment, more than opening a transaction takes: who waits until none of them
has begun sets the flag before the next one looks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SLOW = frozenset(
    {
        *("catalog-chown", "checkout", "eliminate-bulk-hashes", "eliminate-hardlinks", "gc"),
        *("migrate", "mount", "rollback", "tag", "update-repoinfo"),
    }
)
"""The commands that look and set the flag, or mount, in a shell; the others do so at once."""


def begun(name: str) -> str:
    """The command of somebody's that may be about to open a transaction; empty without one."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if command := _slow_command(list(map(os.fsdecode, words)), name):
                    return command
    return ""


def _slow_command(words: Sequence[str], name: str) -> str:
    server = (at for at, word in enumerate(words[:3]) if word.rpartition("/")[2] == "cvmfs_server")
    program = next(server, None)
    if program is None:
        return ""
    command, *arguments = words[program + 1 :] or [""]
    is_for_all = command in ("gc", "mount") and "-a" in arguments
    return command if command in _SLOW and (name in arguments or is_for_all) else ""
