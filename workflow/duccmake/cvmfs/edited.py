"""A catalog of a revision that is edited, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from . import catalog
from .catalog import SCHEMA_REVISION, CatalogFile, Counters, Nested, UnknownFormat
from .rows import COUNTERS, DIRECTORY, MOUNTPOINT, Content, Row

_LEAST_REVISION = 6
"""Older ones lack more than a column; cvmfs_server brings them up to date when it edits them."""

_COUNTED = """
SELECT count(*) FILTER (WHERE kind = 4), count(*) FILTER (WHERE kind & 8),
 count(*) FILTER (WHERE kind & 16), count(*) FILTER (WHERE kind & 1),
 count(*) FILTER (WHERE flags & 2),
 count(*) FILTER (WHERE kind = 4 AND flags & 64), (SELECT count(*) FROM chunks),
 sum(size) FILTER (WHERE kind = 4), sum(size) FILTER (WHERE kind = 4 AND flags & 64),
 count(xattr),
 count(*) FILTER (WHERE kind = 4 AND flags & 128),
 sum(size) FILTER (WHERE kind = 4 AND flags & 128)
FROM (SELECT flags, size, xattr, flags & 29 AS kind FROM catalog)
"""
"""The `COUNTERS` of what is in a catalog; the numbers are the flags of `rows`."""

_CHUNK_COLUMNS = ("md5path_1", "md5path_2", "offset", "size", "hash")
_TEXTS = frozenset({"name", "symlink"})
_KEY = "md5path_1=? AND md5path_2=?"
_VACUUM_ABOVE = 0.2
ZEROS: Counters = (0,) * len(COUNTERS)


def added(*counters: Counters) -> Counters:
    """The sums of counters."""
    return tuple(map(sum, zip(*counters, strict=True)))


def taken(one: Counters, other: Counters) -> Counters:
    """What is left of counters without others."""
    return tuple(first - second for first, second in zip(one, other, strict=True))


class Edited:
    """The catalog that begins at ``path``; ``above`` is that in which it hangs.

    ``old`` is the hash under which it is published already, None for a new one.
    ``was`` is what it has counted, itself and below, as the one above knows it.
    """

    def __init__(
        self, path: bytes, file: CatalogFile, above: Edited | None, old: str | None, was: Counters
    ) -> None:
        self.path = path
        self.file = file
        self.above = above
        self.old = old
        self.was = was
        self.changed = old is None
        self.more: Counters = ZEROS
        """What the catalogs below count more than when this one was opened."""
        self.lost = False
        """Whether something is cut off of which nobody can read what it has counted."""

    @classmethod
    def open(
        cls, path: bytes, content: bytes, above: Edited | None, old: str | None, what: str
    ) -> Edited:
        """Take the bytes of a catalog that is there; `UnknownFormat` where it is too old."""
        file = CatalogFile.read(content, what)
        try:
            check_revision(file, what, path)
        except UnknownFormat:
            file.close()
            raise
        file.db.execute("PRAGMA journal_mode=OFF")
        if "mtimens" not in file.columns:
            file.db.execute("ALTER TABLE catalog ADD mtimens INTEGER")
            catalog.set_property(file.db, "schema_revision", str(SCHEMA_REVISION))
            file = CatalogFile.of(file.db, what)
        return cls(path, file, above, old, added(*file.counters()))

    @classmethod
    def create(cls, path: bytes, above: Edited) -> Edited:
        """One with nothing in it, with the columns of that above it."""
        db = catalog.create(above.file.columns)
        catalog.complete(db, ZEROS, ZEROS, (), {"revision": "0", "last_modified": "0"})
        catalog.set_property(db, "root_prefix", path)
        return cls(path, CatalogFile.of(db), above, None, ZEROS)

    def insert(self, row: Row, content: Content | None = None) -> None:
        """Add an entry."""
        self.file.db.execute(catalog.INSERT, row)
        chunks = content.chunks if content else ()
        self.file.db.executemany(
            catalog.INSERT_CHUNK,
            [(*row.key, chunk.offset, chunk.size, chunk.hash) for chunk in chunks],
        )
        self.changed = True

    def update(self, key: tuple[int, int], values: Mapping[str, object]) -> None:
        """Change fields of a `Row`; none of them is a name or a path."""
        fields = ", ".join(f"{name}=?" for name in values)
        self.file.db.execute(f"UPDATE catalog SET {fields} WHERE {_KEY}", (*values.values(), *key))
        self.changed = True

    def delete(self, keys: Iterable[tuple[int, int]]) -> None:
        """Remove entries, and the chunks of files."""
        keys = list(keys)
        self.file.db.executemany(f"DELETE FROM catalog WHERE {_KEY}", keys)
        self.file.db.executemany(f"DELETE FROM chunks WHERE {_KEY}", keys)
        self.changed = True

    def hang(self, path: bytes, nested: Nested) -> None:
        """Have a nested catalog at a path, or another than before."""
        self.cut(path)
        self.file.db.execute(catalog.INSERT_NESTED, (path, *nested))

    def cut(self, path: bytes) -> None:
        """Have no nested catalog at a path."""
        self.file.db.execute("DELETE FROM nested_catalogs WHERE path=CAST(? AS TEXT)", (path,))
        self.changed = True

    def nested_below(self, path: bytes) -> list[bytes]:
        """Where nested catalogs begin that hang in this one, at a path and below it."""
        found = self.file.db.execute(
            "SELECT path FROM nested_catalogs WHERE path=CAST(?1 AS TEXT)"
            " OR (path > CAST(?1 || '/' AS TEXT) AND path < CAST(?1 || '0' AS TEXT))",
            (path,),
        )
        return [below for (below,) in found]

    def directories_in(self, key: tuple[int, int]) -> int:
        """How many directories are in one."""
        select = "SELECT count(*) FROM catalog WHERE parent_1=? AND parent_2=? AND flags & 1"
        (found,) = self.file.db.execute(select, key).fetchone()
        return int(found)

    def below(self, key: tuple[int, int]) -> Iterator[Row]:
        """All that this catalog has below a directory, which is not among it."""
        waiting = [key]
        while waiting:
            for row in self.file.in_directory(waiting.pop()):
                yield row
                if row.flags & DIRECTORY and not row.flags & MOUNTPOINT:
                    waiting.append(row.key)

    def take(self, keys: list[tuple[int, int]], source: Edited) -> None:
        """Move entries here from another catalog with the same columns."""
        for table, names in (("catalog", self.file.columns), ("chunks", None)):
            self._copy(table, names or _CHUNK_COLUMNS, keys, source)
        source.delete(keys)
        self.changed = True

    def _copy(
        self, table: str, names: Iterable[str], keys: list[tuple[int, int]], source: Edited
    ) -> None:
        names = list(names)
        values = ", ".join("CAST(? AS TEXT)" if name in _TEXTS else "?" for name in names)
        select = f"SELECT {', '.join(names)} FROM {table} WHERE {_KEY}"
        rows = [row for key in keys for row in source.file.db.execute(select, key)]
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"
        self.file.db.executemany(insert, rows)

    def leave_group(self, row: Row) -> None:
        """One name less of an inode with several, after the name's row is gone."""
        db, group = self.file.db, row.hardlinks >> 32
        (left,) = db.execute(
            "SELECT count(*) FROM catalog WHERE hardlinks >> 32 = ?", (group,)
        ).fetchone()
        db.execute(
            "UPDATE catalog SET hardlinks=? WHERE hardlinks >> 32 = ?",
            (group << 32 | left if left > 1 else 1, group),
        )

    def counted(self) -> tuple[Counters, Counters]:
        """What it is to count now: what is in it, and what was below it and has changed since."""
        own = self.file.db.execute(_COUNTED).fetchone()
        return tuple(value or 0 for value in own), added(self.file.counters()[1], self.more)

    def content(self, own: Counters, subtree: Counters, properties: Mapping[str, str]) -> bytes:
        """The bytes of the whole catalog with those counters and properties; it is closed."""
        db = self.file.db
        values = [
            *((f"self_{name}", value) for name, value in zip(COUNTERS, own, strict=True)),
            *((f"subtree_{name}", value) for name, value in zip(COUNTERS, subtree, strict=True)),
        ]
        db.executemany("INSERT OR REPLACE INTO statistics (counter, value) VALUES (?, ?)", values)
        for name, value in properties.items():
            catalog.set_property(db, name, value)
        (free,), (pages,) = (
            db.execute(f"PRAGMA {what}").fetchone() for what in ("freelist_count", "page_count")
        )
        if free > _VACUUM_ABOVE * pages:
            db.execute("VACUUM")
        content = db.serialize()
        db.close()
        return content


def check_revision(file: CatalogFile, what: str, path: bytes) -> None:
    """Raise `UnknownFormat` where a catalog that begins at ``path`` is too old to be changed."""
    revision = int(file.properties().get("schema_revision", "0"))
    if revision < _LEAST_REVISION:
        raise UnknownFormat(
            f"{what} has schema revision {revision}, too old to be changed here",
            hint=f"change something in {path.decode(errors='replace') or '/'} with "
            "cvmfs_server transaction and publish, which brings it up to date",
        )
