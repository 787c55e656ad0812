"""System calls that Python does not offer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)

_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the file system cannot (renameat2(2))."""
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def sync_filesystem(path: Path) -> None:
    """Have everything written to the file system of ``path`` reach the disk (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def clone(source: int, target: int) -> None:
    """Have ``target`` share the data of ``source`` (ioctl_ficlone(2)); `OSError` if it cannot."""
    fcntl.ioctl(target, _FICLONE, source)


def die_with_parent(parent: int) -> None:
    """Have this process be killed when its parent, which is ``parent``, ends (PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before that
        os.kill(os.getpid(), signal.SIGKILL)
