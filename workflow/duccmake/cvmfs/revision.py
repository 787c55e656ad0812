"""One revision of a repository, read from its catalogs and objects: nothing is mounted."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import RepositoryError
from ..fs.closing import Closing
from .catalog import CatalogFile, Nested, UnknownFormat
from .codec import decompress, decompressed
from .names import Kind
from .objects import names_of
from .rows import COMPRESSION_BITS, EXTERNAL, HASH_BITS, Content, Row
from .storage import Storage

_UNCOMPRESSED = 1 << 11
_OPEN = 64
"""So many nested catalogs are open at once."""

_CACHED = 1000
"""So many catalogs are kept in the cache."""


class Revision(Closing):
    """The revision whose root catalog has that hash; to be closed.

    Paths are absolute in the repository, ``b"/a/b"``, and ``b""`` is its root.  No
    symlink is followed.  Catalogs are opened as they are needed, and their files are kept
    in the directory ``cache``, for others too.

    Raises `RepositoryError` where the storage cannot be read or is damaged, and
    `UnknownFormat` for what newer versions of CernVM-FS may write.
    """

    def __init__(
        self, storage: Storage, root: bytes, cache: Path | None = None, *, size: int | None = None
    ) -> None:
        self.storage = storage
        self.root = root
        self._cache = cache
        self._root = _Open(self._opened(root.hex(), size), Nested(root.hex(), size or 0))
        self._open: OrderedDict[str, _Open] = OrderedDict()

    # --- entries ------------------------------------------------------------

    def row(self, path: bytes) -> Row | None:
        """What is at a path, as the catalog of its directory has it; None for nothing."""
        return self.catalog(path.rpartition(b"/")[0]).row(path)

    def entries(self, path: bytes) -> list[Row]:
        """What is in a directory, by name.

        Raises `FileNotFoundError` and `NotADirectoryError`.
        """
        self._directory(path)
        return self.catalog(path).entries(path)

    def read(self, path: bytes) -> bytes:
        """The content of a regular file; `FileNotFoundError` where none is."""
        return b"".join(self.pieces(path))

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """The same in pieces."""
        row = self.row(path)
        if row is None or not row.is_file:
            raise FileNotFoundError(f"{path!r} is no file of the revision")
        yield from self.content_pieces(self.catalog(path.rpartition(b"/")[0]).content(row))

    def link(self, path: bytes) -> bytes:
        """Where a symlink leads; `FileNotFoundError` where none is."""
        row = self.row(path)
        if row is None or not row.is_link:
            raise FileNotFoundError(f"{path!r} is no symlink of the revision")
        return row.symlink

    def walk(self, path: bytes) -> Iterator[tuple[bytes, Row]]:
        """All that is below a directory, with its path; a directory before what is in it."""
        stack = [iter(self.entries(path))]
        at = [path]
        while stack:
            row = next(stack[-1], None)
            if row is None:
                stack.pop()
                at.pop()
                continue
            below = at[-1] + b"/" + row.name
            yield below, row
            if row.is_directory:
                stack.append(iter(self.catalog(below).entries(below)))
                at.append(below)

    def content_pieces(self, content: Content) -> Iterator[bytes]:
        """A file's content, from the storage."""
        if content.flags & HASH_BITS or content.flags & EXTERNAL:
            raise UnknownFormat("a file's content is hashed otherwise than by SHA-1, or external")
        compression = content.flags & COMPRESSION_BITS
        if compression not in (0, _UNCOMPRESSED):
            raise UnknownFormat("a file's content is compressed otherwise than by zlib")
        for name in names_of(content):
            stored = self.storage.get(name)
            if compression:
                yield stored
            else:
                yield from decompressed([stored])

    # --- catalogs -----------------------------------------------------------

    def catalog(self, directory: bytes) -> CatalogFile:
        """The catalog that has what is in a directory.

        It is good until others have been opened: keep none.
        """
        return self._having(directory).file

    def name_of_catalog(self, directory: bytes) -> Nested:
        """The name of that catalog, to be read as `catalog_content`."""
        return self._having(directory).name

    def catalog_content(self, name: str, size: int | None = None) -> bytes:
        """The bytes of the catalog that is stored under a name without its suffix."""
        content = decompress(self.storage.get(name + Kind.CATALOG))
        if size and len(content) != size:
            raise RepositoryError(
                f"the catalog {name} has {len(content)} bytes, not {size} as is said above",
                hint="have the repository checked: cvmfs_server check -i",
            )
        return content

    def close(self) -> None:
        """Close all catalogs."""
        for opened in (self._root, *self._open.values()):
            opened.file.close()
        self._open.clear()

    def _directory(self, path: bytes) -> None:
        if path:
            row = self.row(path)
            if row is None:
                raise FileNotFoundError(f"{path!r} is not in the revision")
            if not row.is_directory:
                raise NotADirectoryError(f"{path!r} is no directory of the revision")

    def _having(self, directory: bytes) -> _Open:
        found, at = self._root, 0
        while (at := directory.find(b"/", at + 1)) != -1:
            found = self._below(found, directory[:at])
        return self._below(found, directory)

    def _below(self, above: _Open, path: bytes) -> _Open:
        """The catalog that begins in a directory, or the one that has the directory."""
        nested = above.nested.get(path)
        if nested is None:
            return above
        found = self._open.get(nested.hash)
        if found is None:
            found = _Open(self._opened(nested.hash, nested.size), nested)
            if found.file.root_prefix != path:
                raise RepositoryError(
                    f"the catalog {nested.hash} is not that of {path!r}",
                    hint="have the repository checked: cvmfs_server check -i",
                )
            self._open[nested.hash] = found
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].file.close()
        self._open.move_to_end(nested.hash)
        return found

    def _opened(self, name: str, size: int | None) -> CatalogFile:
        path = self._cache / name if self._cache else None
        if path and (found := _cached(path, size)):
            return found
        content = self.catalog_content(name, size)
        if path:
            with suppress(OSError):  # its disk is full, or read-only: what is read is there
                _keep(path, content)
                return CatalogFile(path)
        return CatalogFile.read(content, f"the catalog {name}")


class _Open:
    """An open catalog, its name, and what hangs in it."""

    __slots__ = ("file", "name", "nested")

    def __init__(self, file: CatalogFile, name: Nested) -> None:
        self.file = file
        self.name = name
        self.nested: dict[bytes, Nested] = file.nested()


def _cached(path: Path, size: int | None) -> CatalogFile | None:
    """A catalog that the cache has, whole."""
    try:
        there = path.stat().st_size
        if size and there != size:
            return None
        with suppress(OSError):  # a disk that is read-only
            os.utime(path)
        return CatalogFile(path)
    except FileNotFoundError:
        return None
    except RepositoryError:  # a crash has left a part of it
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None


def _keep(path: Path, content: bytes) -> None:
    """Write a catalog into the cache, and remove those that were not used for longest."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as new:
        try:
            new.write(content)
            new.close()
            Path(new.name).replace(path)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
    kept = list(path.parent.iterdir())
    if len(kept) > _CACHED:
        for unused in sorted(kept, key=_used)[:-_CACHED]:
            unused.unlink(missing_ok=True)


def _used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # somebody else has removed it
        return 0
