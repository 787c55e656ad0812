"""Opening a transaction at a moment at which nobody else opens one.

``cvmfs_server`` looks whether a transaction is open, and sets the flag for its own a moment
later.  Two that look at the same time both go on, and each takes the mounts from under the
other, which then waits for ever.  Commands that are shell scripts take their time from their
beginning to that moment, more than opening a transaction takes: who waits until none of them
has begun sets the flag before the next one looks.

``check`` first looks whether the mounts show what is newest, and mounts them anew a moment later
if they did not: with who mounts at the same time, one waits for the other for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_SLOW = frozenset(
    {
        *("catalog-chown", "check", "checkout", "eliminate-bulk-hashes", "eliminate-hardlinks"),
        *("gc", "migrate", "mount", "resign", "rollback", "tag", "update-repoinfo"),
    }
)
"""The commands that look and set the flag, or mount, in a shell; the others do so at once.

``resign`` signs what was newest as it began, whoever has published since.
"""

_CHECKING = frozenset({"check", "scrub"})
"""What ``check`` has ``cvmfs_swissknife`` do, which may take hours, and mounts nothing more."""


class _Process(NamedTuple):
    parent: int
    words: Sequence[str]


def begun(name: str) -> str:
    """The command of somebody's that may be about to open a transaction; empty without one."""
    processes = dict(_processes())
    checking = _checking(processes)
    for number, process in processes.items():
        command = _slow_command(process.words, name)
        if command and number not in checking:
            return command
    return ""


def _processes() -> Iterator[tuple[int, _Process]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                # The name of the program, in brackets, may be anything.
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                yield int(entry.name), _Process(int(parent), list(map(os.fsdecode, words)))


def _checking(processes: Mapping[int, _Process]) -> set[int]:
    """Those that are past their beginning, as they wait for what checks."""
    found = set()
    for process in processes.values():
        if next(iter(_arguments("cvmfs_swissknife", process.words)), "") in _CHECKING:
            parent = process.parent
            while parent in processes:
                found.add(parent)
                parent = processes[parent].parent
    return found


def _slow_command(words: Sequence[str], name: str) -> str:
    command, *arguments = _arguments("cvmfs_server", words) or [""]
    is_for_all = command in ("check", "gc", "mount") and any(
        word.startswith("-") and "a" in word for word in arguments
    )
    return command if command in _SLOW and (name in arguments or is_for_all) else ""


def _arguments(program: str, words: Sequence[str]) -> Sequence[str]:
    """What a program is called with, be it by an interpreter; nothing if it is another."""
    found = (at for at, word in enumerate(words[:3]) if word.rpartition("/")[2] == program)
    at = next(found, None)
    return [] if at is None else words[at + 1 :]
