"""Opening directories below another one, through no link and never outside of it."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437  # asm-generic/unistd.h; new calls have one number on all architectures
_RESOLVE_NO_SYMLINKS = 0x04  # linux/openat2.h
_RESOLVE_BENEATH = 0x08
_PATH_MAX = 4096  # linux/limits.h

_WALK_INSTEAD = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.EAGAIN)
"""An older kernel, a filter of system calls that knows it not, or a rename meanwhile."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_HOW = _How(_FLAGS, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def open_directory(directory: int, names: Sequence[bytes]) -> int:
    """A descriptor of the directory that ``names``, one below the other, lead to.

    They are names: not empty, not ``..``, without slashes.  Raises `OSError` where one
    of them is a link (``ELOOP`` or ``ENOTDIR``), whatever it leads to.  openat2(2) does
    it in one call; where that is not to be had, each name is opened in turn.
    """
    if len(names) > 1 and (descriptor := _open_at_once(directory, b"/".join(names))) is not None:
        return descriptor
    return _walk(directory, names)


def _open_at_once(directory: int, path: bytes) -> int | None:
    if len(path) >= _PATH_MAX:
        return None
    how, size = ctypes.byref(_HOW), ctypes.c_size_t(ctypes.sizeof(_HOW))
    opened: int = _libc.syscall(ctypes.c_long(_OPENAT2), directory, path, how, size)
    if opened >= 0:
        return opened
    code = ctypes.get_errno()
    if code in _WALK_INSTEAD:
        return None
    raise OSError(code, os.strerror(code), path)


def _walk(directory: int, names: Sequence[bytes]) -> int:
    here = directory
    for name in names:
        try:
            below = os.open(name, _FLAGS, dir_fd=here)
        finally:
            if here != directory:
                os.close(here)
        here = below
    return here
