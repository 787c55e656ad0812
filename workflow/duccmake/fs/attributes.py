"""Which attributes of a file are kept for sure, so that nobody has to look whether they were."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_SAFE_NS = 2**31 * 1_000_000_000

_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID = 0, 1, 3, 4
_OWNERSHIP = sum(1 << number for number in (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID))


def may_give_away() -> bool:
    """Whether this process may make files of any owner, and go on with them (capabilities(7)).

    That is root's, unless it was taken from it, and a service's to which systemd gave it.
    """
    try:
        status = Path("/proc/thread-self/status").read_text()
    except OSError:
        return os.geteuid() == 0
    effective = int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16)
    return effective & _OWNERSHIP == _OWNERSHIP


def is_safe_time(mtime_ns: int) -> bool:
    """Whether any file system keeps this time; beyond 32 bits they differ, and clamp silently."""
    return -_SAFE_NS <= mtime_ns < _SAFE_NS


def is_safe_owner(uid: int, gid: int) -> bool:
    """Whether this process may give an entry that owner, or never tries to.

    Root of a user namespace has only the numbers that are mapped into it
    (user_namespaces(7)): a rootless container mostly lacks those above 65535.
    """
    users, groups = _owners()
    return users is None or (
        any(uid in numbers for numbers in users) and any(gid in numbers for numbers in groups)
    )


@functools.cache
def _owners() -> tuple[tuple[range, ...] | None, tuple[range, ...]]:
    """The users and groups that this namespace has; None where that needs no look."""
    try:
        users, groups = (_mapped(f"/proc/self/{kind}_map") for kind in ("uid", "gid"))
    except (OSError, ValueError):
        return None, ()
    everybody = (range(0xFFFFFFFF),)
    is_any = not may_give_away() or (users, groups) == (everybody,) * 2
    return (None, ()) if is_any else (users, groups)


def _mapped(path: str) -> tuple[range, ...]:
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return tuple(range(int(first), int(first) + int(count)) for first, _, count in lines)
