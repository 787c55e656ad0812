"""A tree of a revision, as it is compared with its manifest: nothing is mounted."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ...cvmfs.objects import names_of
from ...cvmfs.revision import Revision
from ...cvmfs.rows import Content, Row, unpack_xattrs
from ...errors import RepositoryError
from ...tree.file_tree import KINDS
from ...tree.verify import Found


class RevisionTree:
    """The tree at ``base``, absolute in the repository; keeps to `duccmake.tree.verify.Tree`."""

    def __init__(self, revision: Revision, base: bytes) -> None:
        self._revision = revision
        self._base = base

    def found(self, path: bytes) -> Found:
        """What is at a path."""
        at, row = self._row(path)
        device = (os.major(row.size), os.minor(row.size)) if _is_device(row) else (0, 0)
        group = row.hardlinks >> 32 if row.is_file else 0
        return Found(
            KINDS[stat.S_IFMT(row.mode)],
            stat.S_IMODE(row.mode),
            (row.uid, row.gid),
            row.mtime * 1_000_000_000 + (row.mtimens or 0),
            row.size,
            device,
            (row.parent, group) if group else at,
            self._content(at, row) if row.is_file else None,
        )

    def target(self, path: bytes) -> bytes:
        """Where a symlink leads."""
        return self._row(path)[1].symlink

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The extended attributes of what is at a path."""
        try:
            return dict(unpack_xattrs(self._row(path)[1].xattr))
        except ValueError as error:
            raise OSError(errno.EIO, str(error)) from None

    def sha256(self, path: bytes) -> str:
        """The sha256 of a file's content, in hex."""
        digest = hashlib.sha256()
        with _as_os_errors():
            for piece in self._revision.content_pieces(self._content(*self._row(path))):
                digest.update(piece)
        return digest.hexdigest()

    def entries(self, path: bytes) -> dict[bytes, bool]:
        """What is in a directory, by name, and of each whether it is one."""
        with _as_os_errors():
            rows = self._revision.entries(self._at(path))
        return {row.name: row.is_directory for row in rows}

    def missing(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Those of the files of which the storage does not have all objects."""
        names = {path: set(names_of(self._content(*self._row(path)))) for path in paths}
        wanted = set().union(*names.values())
        gone = wanted - self._revision.storage.has(wanted)
        return (path for path, of_file in names.items() if of_file & gone)

    def _content(self, at: bytes, row: Row) -> Content:
        return self._revision.catalog(at.rpartition(b"/")[0]).content(row)

    def _row(self, path: bytes) -> tuple[bytes, Row]:
        at = self._at(path)
        with _as_os_errors():
            row = self._revision.row(at)
        if row is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return at, row

    def _at(self, path: bytes) -> bytes:
        return self._base if path == b"." else b"%b/%b" % (self._base, path)


def _is_device(row: Row) -> bool:
    return stat.S_ISCHR(row.mode) or stat.S_ISBLK(row.mode)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """What is damaged in the storage is as unreadable as in a file system."""
    try:
        yield
    except RepositoryError as error:
        raise OSError(errno.EIO, error.found) from error
