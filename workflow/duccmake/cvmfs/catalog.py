"""Catalogs: SQLite files that say what is in the directories of a part of a repository.

A catalog begins in a directory, whose row it has as well, and ends where others, nested
ones, begin.  Schema 2.5; revision 7 is written, older revisions are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from ..errors import RepositoryError
from ..fs.closing import Closing
from .names import path_key
from .rows import CHUNKED, COMPRESSION_BITS, COUNTERS, EXTERNAL, HASH_BITS, Chunk, Content, Row

SCHEMA = "2.5"
SCHEMA_REVISION = 7

MARKER = b".cvmfscatalog"
"""The file that is in each directory in which a catalog begins."""

COLUMNS = Row._fields
"""The columns of table ``catalog`` in the order of catalogs that are made anew.

Where an older catalog was upgraded, ``mtimens`` stands last.
"""

Counters = tuple[int, ...]
"""Values of the `COUNTERS`, in their order."""

_TYPES = {"hash": "BLOB", "name": "TEXT", "symlink": "TEXT", "xattr": "BLOB"}
_KEY = "md5path_1=? AND md5path_2=?"
_PAGE_BYTES = 1024
_INDEX = "CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)"

_TABLES = """
CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER,
 hash BLOB, CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size),
 FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog(md5path_1, md5path_2));
CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER,
 CONSTRAINT pk_nested_catalogs PRIMARY KEY (path));
CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER,
 CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path));
CREATE TABLE statistics (counter TEXT, value INTEGER,
 CONSTRAINT pk_statistics PRIMARY KEY (counter));
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
"""


class UnknownFormat(RepositoryError):
    """A catalog or an object in a form that is not known here: it is left alone."""


class Nested(NamedTuple):
    """A nested catalog as the one above knows it.

    ``hash`` is in hex, as it stands in the object's name; ``size`` in bytes, uncompressed.
    """

    hash: str
    size: int


def _text(column: str) -> str:
    return "CAST(? AS TEXT)" if _TYPES.get(column) == "TEXT" else "?"


# Columns are named, for their order differs.  What is bound as bytes becomes text.
INSERT = f"INSERT INTO catalog ({', '.join(COLUMNS)}) VALUES ({', '.join(map(_text, COLUMNS))})"
INSERT_CHUNK = (
    "INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash) VALUES (?, ?, ?, ?, ?)"
)
INSERT_NESTED = "INSERT INTO nested_catalogs (path, sha1, size) VALUES (CAST(? AS TEXT), ?, ?)"


def create(columns: Iterable[str] = COLUMNS) -> sqlite3.Connection:
    """A catalog without anything in it, in memory; `complete` makes it a whole one.

    ``columns`` is the order of those of table ``catalog``: that of the catalog above, for
    the one is put into the other, column by column, where an operator removes a `MARKER`.
    """
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.text_factory = bytes
    db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    db.execute("PRAGMA journal_mode=OFF")  # an error leaves it unusable, and unused
    _create_table(db, "catalog", columns)
    db.executescript(_TABLES)
    return db


def _create_table(db: sqlite3.Connection, name: str, columns: Iterable[str]) -> None:
    rows = ", ".join(f"{column} {_TYPES.get(column, 'INTEGER')}" for column in columns)
    key = "CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2)"
    db.execute(f"CREATE TABLE {name} ({rows}, {key})")


def rearrange(db: sqlite3.Connection, columns: Sequence[str]) -> None:
    """Have the columns of table ``catalog`` in another order."""
    names = ", ".join(columns)
    _create_table(db, "rearranged", columns)
    db.execute(f"INSERT INTO rearranged ({names}) SELECT {names} FROM catalog")
    db.execute("DROP TABLE catalog")
    db.execute("ALTER TABLE rearranged RENAME TO catalog")
    db.execute(_INDEX)
    db.execute("VACUUM")


def complete(
    db: sqlite3.Connection,
    own: Counters,
    subtree: Counters,
    nested: Iterable[tuple[bytes, Nested]] = (),
    properties: Mapping[str, str] | None = None,
) -> None:
    """Write what a catalog has beside its rows.

    ``own`` and ``subtree`` count it and all below it; ``properties`` are those beside
    the schema's.
    """
    values = [(f"self_{name}", value) for name, value in zip(COUNTERS, own, strict=True)]
    values += [(f"subtree_{name}", value) for name, value in zip(COUNTERS, subtree, strict=True)]
    db.executemany("INSERT INTO statistics (counter, value) VALUES (?, ?)", values)
    schema = {"schema": SCHEMA, "schema_revision": str(SCHEMA_REVISION)}
    db.executemany(
        "INSERT INTO properties (key, value) VALUES (?, ?)",
        [*schema.items(), *(properties or {}).items()],
    )
    db.executemany(INSERT_NESTED, [(path, *of) for path, of in nested])
    db.execute(_INDEX)


def set_property(db: sqlite3.Connection, key: str, value: bytes | str | int) -> None:
    """Set a property, whether it is there or not."""
    db.execute(
        "INSERT OR REPLACE INTO properties (key, value) VALUES (?, CAST(? AS TEXT))", (key, value)
    )


class CatalogFile(Closing):
    """A catalog, for reading; to be closed.

    Raises `UnknownFormat` for another schema, `RepositoryError` for what is no catalog.
    """

    def __init__(self, path: Path) -> None:
        try:
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        except sqlite3.OperationalError as error:
            raise RepositoryError(f"{path} cannot be opened: {error}") from None
        self._of(db, path)

    @classmethod
    def of(cls, db: sqlite3.Connection, what: object = "the catalog") -> Self:
        """One that is open already: ``what`` is its name in errors."""
        self = cls.__new__(cls)
        self._of(db, what)
        return self

    @classmethod
    def read(cls, content: bytes, what: object = "the catalog") -> Self:
        """One from the bytes of its file."""
        if not content:
            raise RepositoryError(f"{what} is empty")
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.deserialize(content)
        return cls.of(db, what)

    def _of(self, db: sqlite3.Connection, what: object) -> None:
        self.db = db
        self.db.text_factory = bytes
        try:
            self.columns = tuple(
                name.decode()
                for (name,) in db.execute("SELECT name FROM pragma_table_info('catalog')")
            )
            self._check_schema()
        except sqlite3.DatabaseError as error:
            db.close()
            raise RepositoryError(f"{what} is no catalog of CernVM-FS: {error}") from None
        except UnknownFormat as error:
            db.close()
            raise UnknownFormat(f"{what}: {error.found}", hint=error.hint) from None
        self._row = f"SELECT {', '.join(map(self._column, COLUMNS))} FROM catalog"

    def _check_schema(self) -> None:
        properties = self.properties()
        schema, revision = properties.get("schema"), properties.get("schema_revision", "0")
        known = schema == SCHEMA and revision.isdigit() and int(revision) <= SCHEMA_REVISION
        missing = set(COLUMNS) - {"mtimens", "xattr"} - set(self.columns)
        if not known or missing:
            raise UnknownFormat(
                f"its schema is {schema}, revision {revision}, and {SCHEMA} to "
                f"{SCHEMA_REVISION} is known",
                hint="this version of duccmake is too old, or the repository is, for this",
            )

    def _column(self, name: str) -> str:
        return name if name in self.columns else f"NULL AS {name}"

    @property
    def root_prefix(self) -> bytes:
        """The path in which it begins; empty for the repository's own root."""
        found = self.db.execute("SELECT value FROM properties WHERE key='root_prefix'").fetchone()
        return found[0] if found else b""

    def row(self, path: bytes) -> Row | None:
        """What it has at a path, absolute in the repository."""
        found = self.db.execute(f"{self._row} WHERE {_KEY}", path_key(path)).fetchone()
        return found and Row._make(found)

    def entries(self, directory: bytes) -> list[Row]:
        """What it has in a directory, by name."""
        return sorted(self.in_directory(path_key(directory)), key=lambda row: row.name)

    def in_directory(self, key: tuple[int, int]) -> list[Row]:
        """What it has in the directory of that `Row.key`."""
        found = self.db.execute(f"{self._row} WHERE parent_1=? AND parent_2=?", key)
        return list(map(Row._make, found))

    def rows(self) -> Iterator[Row]:
        """All that it has, in no order that counts."""
        return map(Row._make, self.db.execute(self._row))

    def nested(self) -> dict[bytes, Nested]:
        """The nested catalogs that hang in it, by path."""
        found = self.db.execute("SELECT path, sha1, size FROM nested_catalogs")
        return {path: Nested(digest.decode(), size) for path, digest, size in found}

    def nested_at(self, path: bytes) -> Nested | None:
        """The nested catalog that begins at a path."""
        found = self.db.execute(
            "SELECT sha1, size FROM nested_catalogs WHERE path=CAST(? AS TEXT)", (path,)
        ).fetchone()
        return found and Nested(found[0].decode(), found[1])

    def properties(self) -> dict[str, str]:
        """Its properties, whatever they are."""
        found = self.db.execute("SELECT CAST(key AS TEXT), CAST(value AS TEXT) FROM properties")
        return {key.decode(): value.decode("utf-8", "replace") for key, value in found}

    def counters(self) -> tuple[Counters, Counters]:
        """What it counts of itself and of all below it; 0 where an old one has no counter."""
        found = dict(self.db.execute("SELECT counter, value FROM statistics"))
        own, subtree = (
            tuple(found.get(f"{whose}_{name}".encode(), 0) for name in COUNTERS)
            for whose in ("self", "subtree")
        )
        return own, subtree

    def chunks(self, key: tuple[int, int]) -> tuple[Chunk, ...]:
        """The chunks of the file of that `Row.key`, from its begin on."""
        found = self.db.execute(
            f"SELECT offset, size, hash FROM chunks WHERE {_KEY} ORDER BY offset",
            key,
        )
        return tuple(Chunk(*chunk) for chunk in found)

    def content(self, row: Row) -> Content:
        """What the content of a file is."""
        chunks = self.chunks(row.key) if row.flags & CHUNKED else ()
        kept = row.flags & (HASH_BITS | COMPRESSION_BITS | EXTERNAL)
        return Content(None if chunks else row.hash, row.size, chunks, kept)

    def contents(self) -> dict[tuple[int, int], Content]:
        """What the content of each file is, by `Row.key`: for many that is faster."""
        chunks: dict[tuple[int, int], list[Chunk]] = {}
        for first, second, *chunk in self.db.execute(
            "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY offset"
        ):
            chunks.setdefault((first, second), []).append(Chunk(*chunk))
        kept = HASH_BITS | COMPRESSION_BITS | EXTERNAL
        found = {}
        for first, second, digest, size, flags in self.db.execute(
            "SELECT md5path_1, md5path_2, hash, size, flags FROM catalog"
            " WHERE flags & 29 = 4"  # a regular file: FILE, not DIRECTORY, LINK or SPECIAL
        ):
            pieces = tuple(chunks.get((first, second), ()))
            found[first, second] = Content(digest, size, pieces, flags & kept)
        return found

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()
