"""Opening what is below a directory, through no link and never outside of it."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Sequence
from typing import Any

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | _SAFE
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | _SAFE  # a mount's server need not list them
_AT_FDCWD = -100  # linux/fcntl.h
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


_SIZE = ctypes.c_size_t(ctypes.sizeof(_How))


@functools.cache
def _how(flags: int, resolve: int) -> Any:
    return ctypes.byref(_How(flags, 0, resolve))


def open_directory(directory: int, names: Sequence[bytes]) -> int:
    """A descriptor of the directory that ``names``, one below the other, lead to.

    See `open_beneath`; what is no directory raises `NotADirectoryError`.
    """
    return open_beneath(directory, names, _FLAGS)


def open_beneath(directory: int, names: Sequence[bytes], flags: int) -> int:
    """A descriptor, with the ``flags`` of open(2), of what ``names``, in turn, lead to.

    They are names: not empty, not ``..``, without slashes.  Raises `OSError` where one
    of them is a link (``ELOOP`` or ``ENOTDIR``), whatever it leads to; with O_PATH the last
    one may be.  openat2(2) does it in one call; where that is not to be had, each name is
    opened in turn.
    """
    flags |= _SAFE
    if len(names) > 1:
        beneath = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS
        descriptor = _open_at_once(directory, b"/".join(names), flags, beneath)
        if descriptor is not None:
            return descriptor
    return _walk(directory, names, flags)


def open_straight(path: bytes, flags: int) -> int | None:
    """As `open_beneath`, of a whole path; None where a link is on it, or nothing tells of one."""
    try:
        return _open_at_once(_AT_FDCWD, path, flags | _SAFE, _RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _open_at_once(directory: int, path: bytes, flags: int, resolve: int) -> int | None:
    if len(path) >= _PATH_MAX:
        return None
    opened: int = _libc.syscall(
        ctypes.c_long(_OPENAT2), directory, path, _how(flags, resolve), _SIZE
    )
    if opened >= 0:
        return opened
    code = ctypes.get_errno()
    if code in _WALK_INSTEAD:
        return None
    raise OSError(code, os.strerror(code), path)


def _walk(directory: int, names: Sequence[bytes], flags: int) -> int:
    here = directory
    for number, name in enumerate(names, start=1):
        try:
            below = os.open(name, flags if number == len(names) else _ON_THE_WAY, dir_fd=here)
        finally:
            if here != directory:
                os.close(here)
        here = below
    return here
