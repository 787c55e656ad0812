"""A tree in a file system, as it is compared with its manifest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from ..fs.closing import Closing
from . import mtree
from .attributes import read_xattrs
from .directories import Directories, split
from .verify import Found

KINDS = {
    stat.S_IFDIR: mtree.DIR,
    stat.S_IFREG: mtree.FILE,
    stat.S_IFLNK: mtree.LINK,
    stat.S_IFCHR: mtree.CHAR,
    stat.S_IFBLK: mtree.BLOCK,
    stat.S_IFIFO: mtree.FIFO,
    stat.S_IFSOCK: mtree.SOCKET,
}
"""What manifests call an entry, by the type in its mode."""


class FileTree(Closing):
    """The tree below the directory ``root``; keeps to `duccmake.tree.verify.Tree`.

    ``directories`` are those that several trees open together: they are let go of as well.
    """

    def __init__(self, root: bytes, directories: Directories | None = None) -> None:
        self._root = root
        self._directories = directories or Directories()

    def found(self, path: bytes) -> Found:
        """What is at a path."""
        directory, name = self._place(path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return Found(
            KINDS[stat.S_IFMT(found.st_mode)],
            stat.S_IMODE(found.st_mode),
            (found.st_uid, found.st_gid),
            found.st_mtime_ns,
            found.st_size,
            (os.major(found.st_rdev), os.minor(found.st_rdev)),
            (found.st_dev, found.st_ino),
            (found.st_dev, found.st_ino, found.st_ctime_ns),
        )

    def target(self, path: bytes) -> bytes:
        """Where a symlink leads."""
        directory, name = self._place(path)
        return os.readlink(name, dir_fd=directory)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The extended attributes of what is at a path."""
        directory, name = self._place(path)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            return read_xattrs(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def sha256(self, path: bytes) -> str:
        """The sha256 of a file's content, in hex."""
        directory, name = self._place(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    def entries(self, path: bytes) -> dict[bytes, bool]:
        """What is in a directory, by name, and of each whether it is one."""
        with os.scandir(self._directories.get(self._root, path)) as entries:
            return {os.fsencode(e.name): e.is_dir(follow_symlinks=False) for e in entries}

    def missing(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Nothing: a file system has what is in its files."""
        return iter(())

    def close(self) -> None:
        """Let go of its directories."""
        self._directories.close()

    def _place(self, path: bytes) -> tuple[int, bytes]:
        parent, name = split(path)
        return self._directories.get(self._root, parent), name
