"""Content that a repository has already: an index from content to the objects that have it.

What it says is a hint.  Whoever goes by it reads the objects and compares them with the
content at hand: so nothing that is outdated, damaged or a lie becomes what an image has.
Without the index everything goes on, and takes longer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..errors import RepositoryError
from ..fs.closing import Closing
from .names import HASH_BYTES
from .objects import CHUNK_ABOVE
from .rows import Content

_SCHEMA = """
CREATE TABLE known (content INTEGER PRIMARY KEY, objects BLOB NOT NULL);
CREATE TABLE large (size INTEGER PRIMARY KEY);
CREATE TABLE entered (place BLOB PRIMARY KEY, catalog TEXT NOT NULL) WITHOUT ROWID;
"""

_SECONDS = 10.0
"""So long somebody else who enters something is waited for."""

_ROWS = 10_000
"""So many are entered at once."""

_DAMAGED = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
)


class KnownContent(Closing):
    """The index in a file, for looking something up; to be closed.

    A file that is not there, or damaged, knows nothing.  Nor does it wait for who enters
    something meanwhile: what it finds then may be wrong, as all may be.
    """

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection | None = None
        with suppress(sqlite3.Error):
            uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None)

    def objects(self, sha256: str) -> tuple[bytes, ...]:
        """The hashes of the objects that may be content of that digest, in hex, in order."""
        found = self._one("SELECT objects FROM known WHERE content=?", _key(sha256))
        if not isinstance(found, bytes):
            return ()
        whole = len(found) - len(found) % HASH_BYTES
        return tuple(found[at : at + HASH_BYTES] for at in range(0, whole, HASH_BYTES))

    def has_large(self, size: int) -> bool:
        """Whether content of more than `CHUNK_ABOVE` bytes is known that has so many."""
        return self._one("SELECT 1 FROM large WHERE size=?", size) is not None

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _one(self, query: str, value: int) -> object:
        if self._db is None:
            return None
        try:
            found = self._db.execute(query, (value,)).fetchone()
        except sqlite3.Error:
            self.close()
            return None
        return found and found[0]


class KnownContentWriter(Closing):
    """The same for entering what is known; one that is damaged is begun anew.

    Raises `RepositoryError` where that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._opened()
        except sqlite3.Error as error:
            if not _is_damaged(error):
                raise self._failed(error) from error
            self._discard()
            self._db = self._opened()

    def is_entered(self, place: bytes, catalog: str) -> bool:
        """Whether all below a directory was entered that the catalog of that name has."""
        query = "SELECT 1 FROM entered WHERE place=? AND catalog=?"
        return self._db.execute(query, (place, catalog)).fetchone() is not None

    def enter(self, place: bytes, catalog: str, contents: Iterable[tuple[str, Content]]) -> None:
        """Enter content by its digest, and then that all below a directory is entered.

        Half of it, where it is interrupted, does no harm.
        """
        try:
            waiting = iter(contents)
            while some := list(islice(waiting, _ROWS)):
                self._enter(some)
            self._db.execute(
                "REPLACE INTO entered (place, catalog) VALUES (?, ?)", (place, catalog)
            )
        except sqlite3.Error as error:
            if _is_damaged(error):
                self._discard()
            raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=_SECONDS)
        try:
            # A loss of power may damage it, and then it is begun anew.
            db.execute("PRAGMA synchronous=OFF")
            if not db.execute("SELECT 1 FROM sqlite_schema").fetchone():
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            for table in ("known", "large", "entered"):
                db.execute(f"SELECT * FROM {table} LIMIT 1")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _enter(self, contents: Iterable[tuple[str, Content]]) -> None:
        rows, sizes = [], set()
        for sha256, content in contents:
            if objects := _objects(content):
                rows.append((_key(sha256), objects))
                if content.size > CHUNK_ABOVE:
                    sizes.add((content.size,))
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.executemany(
                "REPLACE INTO known (content, objects) VALUES (?, ?)", sorted(rows)
            )
            self._db.executemany("INSERT OR IGNORE INTO large (size) VALUES (?)", sizes)

    def _discard(self) -> None:
        for suffix in ("", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _failed(self, error: sqlite3.Error) -> RepositoryError:
        return RepositoryError(
            f"{self._path}, the index of known content, cannot be written: {error}",
            hint="remove it: it is made anew, little by little",
        )


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether it is no such index, or not one any more; the last byte says what is wrong."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def _key(sha256: str) -> int:
    """A part of the digest: what differs in the rest is found out when it is compared."""
    return int(sha256[:16], 16) - 2**63


def _objects(content: Content) -> bytes:
    """The hashes of the objects; empty where others have made these, or none are needed."""
    if content.flags or not content.size:
        return b""
    if not content.chunks:
        return content.hash if content.hash and len(content.hash) == HASH_BYTES else b""
    at = 0
    for chunk in content.chunks:
        if chunk.offset != at or not chunk.size or len(chunk.hash) != HASH_BYTES:
            return b""
        at += chunk.size
    # One hash alone stands for an object that is no chunk.
    whole = at == content.size and len(content.chunks) > 1
    return b"".join(chunk.hash for chunk in content.chunks) if whole else b""
