"""Catalogs that are made anew, row by row."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

from . import catalog
from .catalog import COLUMNS, MARKER, Counters, Nested
from .names import path_key
from .rows import COUNTERS, FILE, Content, Row

_BATCH = 10_000
_REGULAR, _SYMLINK, _FILE_SIZE = map(COUNTERS.index, ("regular", "symlink", "file_size"))


class CatalogWriter:
    """A catalog in memory; it counts what is put into it.

    ``path`` is where it begins, ``columns`` the order of its columns (`catalog.create`).
    """

    def __init__(self, path: bytes, columns: Sequence[str] = COLUMNS) -> None:
        self.path = path
        self._db = catalog.create(columns)
        self._db.execute("BEGIN")
        self._own = [0] * len(COUNTERS)
        self._subtree = [0] * len(COUNTERS)
        self._rows: list[tuple[object, ...]] = []
        self._chunks: list[tuple[object, ...]] = []
        self._links: list[tuple[int, int, int]] = []
        self._nested: list[tuple[bytes, Nested]] = []
        self._groups = 0

    @property
    def counters(self) -> tuple[Counters, Counters]:
        """What it counts of itself, and of all below it."""
        return tuple(self._own), tuple(self._subtree)

    def add(self, row: Row, content: Content | None = None) -> None:
        """Add an entry; ``content`` is that of a file."""
        chunks = content.chunks if content else ()
        self._chunks += [(*row.key, chunk.offset, chunk.size, chunk.hash) for chunk in chunks]
        for number, value in enumerate(row.counted(len(chunks))):
            self._own[number] += value
        self._append(row)

    def add_file(self, values: tuple[object, ...], size: int) -> None:
        """Add a regular file of one object; ``values`` are a `Row`'s. For many that is faster."""
        self._own[_REGULAR] += 1
        self._own[_FILE_SIZE] += size
        self._append(values)

    def add_symlink(self, values: tuple[object, ...]) -> None:
        """The same for a symlink."""
        self._own[_SYMLINK] += 1
        self._append(values)

    def hang(self, path: bytes, written: Nested, counters: tuple[Counters, Counters]) -> None:
        """Have another catalog in this one, with its counters."""
        self._nested.append((path, written))
        for values in counters:
            for number, value in enumerate(values):
                self._subtree[number] += value

    def join(self, keys: Sequence[tuple[int, int]]) -> None:
        """Make entries of one directory, which are there, the names of one inode."""
        self._groups += 1
        self._links += [(self._groups << 32 | len(keys), *key) for key in keys]

    def content(self, properties: Mapping[str, str]) -> bytes:
        """The bytes of the whole catalog; nothing can be added any more."""
        self._flush()
        catalog.complete(self._db, *self.counters, self._nested, properties)
        if self.path:
            catalog.set_property(self._db, "root_prefix", self.path)
        self._db.execute("COMMIT")
        content = self._db.serialize()
        self.close()
        return content

    def close(self) -> None:
        """Let go of the memory."""
        self._db.close()

    def _append(self, values: tuple[object, ...]) -> None:
        self._rows.append(values)
        if len(self._rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._db.executemany(catalog.INSERT, self._rows)
        self._db.executemany(catalog.INSERT_CHUNK, self._chunks)
        self._db.executemany(
            "UPDATE catalog SET hardlinks=? WHERE md5path_1=? AND md5path_2=?", self._links
        )
        self._rows.clear()
        self._chunks.clear()
        self._links.clear()


def marker(directory: bytes, empty: bytes, mtime: int, mtimens: int | None) -> Row:
    """The row of the marker in a directory in which a catalog begins; ``empty`` is its object."""
    return Row(
        *path_key(directory + b"/" + MARKER),
        *path_key(directory),
        hardlinks=1,
        hash=empty,
        size=0,
        mode=stat.S_IFREG | 0o644,
        mtime=mtime,
        mtimens=mtimens,
        flags=FILE,
        name=MARKER,
        symlink=b"",
        uid=0,
        gid=0,
        xattr=None,
    )
