"""What one revision of a CernVM-FS repository shows, read from its catalogs and objects."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...cvmfs.manifest import Manifest
from ...cvmfs.revision import Revision
from ...cvmfs.rows import COUNTERS, MOUNTPOINT, Row
from ...cvmfs.storage import PUBLISHED, DamagedObject, NotThere, Storage
from ...cvmfs.trust import Trust
from ..layout import Layout
from ..view import Kind, View

_FILE_SIZE = COUNTERS.index("file_size")
_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK}


class RevisionView(View):
    """The newest revision in ``storage``, below the directory ``prefix`` if not the root.

    It is the newest when something is read first: whatever is published meanwhile, it shows
    the same, until it is told to `renew`.  ``cache`` is a directory for catalogs' files.
    ``trust`` has it that nothing is read before the manifest was found to be the repository's.
    """

    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        prefix: str = "",
        cache: Path | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.layout = layout
        self._storage = storage
        self._base = f"/{prefix}" if prefix else ""
        self._cache = cache
        self._trust = trust

    @cached_property
    def manifest(self) -> Manifest:
        """What says which revision is the newest."""
        published = self._storage.file(PUBLISHED)
        if self._trust is not None:
            self._trust.check(self._storage, published)
        return Manifest.parse(published)

    @property
    def number(self) -> int:
        """The number of the revision that is shown."""
        return self.manifest.revision

    @cached_property
    def revision(self) -> Revision:
        """The revision that is shown."""
        manifest = self.manifest
        cache = self._cache if self._cache and os.access(self._cache, os.W_OK) else None
        return Revision(self._storage, manifest.root, cache, size=manifest.root_size)

    def renew(self) -> None:
        """Show what is newest from now on."""
        self.__dict__.pop("manifest", None)
        if (shown := self.__dict__.pop("revision", None)) is not None:
            shown.close()

    def at(self, path: PurePosixPath) -> bytes:
        """A path as catalogs have it: absolute in the repository, its root is empty."""
        name = str(path)
        return os.fsencode(self._base if name == "." else f"{self._base}/{name}")

    def kind(self, path: PurePosixPath) -> Kind | None:
        """What is at ``path``; None where there is nothing."""
        row = self.revision.row(self.at(path))
        return None if row is None else _kind(row)

    def target(self, path: PurePosixPath) -> str:
        """The text of a symlink; empty where there is none."""
        row = self.revision.row(self.at(path))
        return os.fsdecode(row.symlink) if row is not None and row.is_link else ""

    def read(self, path: PurePosixPath) -> bytes:
        """A file's content; `FileNotFoundError` where there is nothing."""
        return b"".join(self.pieces(path))

    def pieces(self, path: PurePosixPath) -> Iterator[bytes]:
        """A file's content, a piece at a time; raises as `read`."""
        try:
            yield from self.revision.pieces(self.at(path))
        except (NotThere, DamagedObject) as error:
            # As a file system says it of what it cannot read.
            raise OSError(errno.EIO, error.found, str(path)) from error

    def entries(self, path: PurePosixPath) -> dict[str, Kind]:
        """What is in a directory, by name; empty where there is none."""
        try:
            rows = self.revision.entries(self.at(path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {os.fsdecode(row.name): _kind(row) for row in rows}

    def mtime_ns(self, path: PurePosixPath) -> int:
        """The time of what is at ``path``, in nanoseconds; `FileNotFoundError` for nothing."""
        row = self.revision.row(self.at(path))
        if row is None:
            raise FileNotFoundError(f"{path} is not in the revision")
        return row.mtime * 1_000_000_000 + (row.mtimens or 0)

    def freed(self, paths: Iterable[PurePosixPath]) -> int:
        """How many bytes the files of layers have; those of all other trees are theirs.

        It is what catalogs count, so that none has to be gone through: a file counts as often
        as layers have it.
        """
        layers = self.layout.layers
        return sum(self._bytes(self.at(path)) for path in paths if layers in path.parents)

    def _bytes(self, path: bytes) -> int:
        row = self.revision.row(path)
        if row is None or not row.is_directory:
            return row.size if row is not None and row.is_file else 0
        if row.flags & MOUNTPOINT:
            return sum(counters[_FILE_SIZE] for counters in self.revision.catalog(path).counters())
        return sum(self._bytes(path + b"/" + below.name) for below in self.revision.entries(path))


def _kind(row: Row) -> Kind:
    return _KINDS.get(stat.S_IFMT(row.mode), Kind.OTHER)
