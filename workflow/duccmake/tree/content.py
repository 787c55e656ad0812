"""Put a file of one tree into another: as one more link, as a clone or as a copy."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import RepositoryError
from ..fs import syscalls
from ..fs.duplicate import copy_content, open_to_read
from .attributes import UNSUPPORTED, AttributeSetter
from .directories import Directories, split
from .mtree import Entry

NO_LINK = frozenset({errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP})
"""The inode is full, elsewhere, not ours to link, or the file system has no hard links."""

_NO_CLONE = UNSUPPORTED | {errno.EXDEV, errno.ENOTTY, errno.ENOSYS}

Location = tuple[bytes, bytes]
"""A tree's root and a path in the tree."""


def link(directories: Directories, source: Location, target: Location) -> None:
    """Make ``target`` one more name of ``source``, which is not followed if a symlink."""
    parent, old = split(source[1])
    directory, new = split(target[1])
    os.link(
        old,
        new,
        src_dir_fd=directories.get(source[0], parent),
        dst_dir_fd=directories.get(target[0], directory),
        follow_symlinks=False,
    )


def copy(
    directories: Directories,
    source: Location,
    target: Location,
    entry: Entry,
    attributes: AttributeSetter,
    *,
    clone: bool = False,
) -> tuple[set[bytes], str]:
    """Make ``target`` a file with the content of ``source`` and the attributes of ``entry``.

    Returns the losses and, where a ``clone`` was wished and could not be had, why.
    """
    opened = _open_regular(directories, source)
    try:
        parent, name = split(target[1])
        made = os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
            dir_fd=directories.get(target[0], parent),
        )
        try:
            refused = _clone(opened, made) if clone else ""
            if refused or not clone:
                copy_content(opened, made)
            return attributes.on_descriptor(made, entry), refused
        finally:
            os.close(made)
    finally:
        os.close(opened)


def _open_regular(directories: Directories, source: Location) -> int:
    parent, name = split(source[1])
    directory = directories.get(source[0], parent)
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise RepositoryError(
            f"{source[1]!r} below {os.fsdecode(source[0])} is no regular file",
            hint="verify the repository: a published layer was changed",
        )
    return open_to_read(directory, name)


def _clone(source: int, target: int) -> str:
    try:
        syscalls.clone(source, target)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
        return os.strerror(error.errno)
    return ""
