"""The file that keeps the state of a repository's images: SQLite, with one writer.

It is history and never truth: what cannot be read is put aside and begun anew.  The run's
main process alone writes it, in one short transaction, and no job waits for it.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import DuccmakeError
from .model import Day, Failure, LayerSizes, Life, Move, State

logger = logging.getLogger(__name__)

FILE = "images.sqlite"
"""The file's name in the directory that a repository has for what is its own."""

VERSION = 1
"""SQLite's ``user_version`` of the tables below."""

KEPT_DAYS = 400
KEPT_WAITS = 1000

_GONE_SECONDS = 90 * 86400.0
"""So long what is not wished for is remembered."""

_WAIT_SECONDS = 10.0
"""So long another run's transaction is waited for."""

_TABLES = """
CREATE TABLE images (
    title TEXT PRIMARY KEY, first_seen REAL NOT NULL, path TEXT NOT NULL, source TEXT NOT NULL,
    published TEXT NOT NULL, published_at REAL, revision INTEGER, files INTEGER,
    losses TEXT NOT NULL, layers TEXT NOT NULL, config TEXT NOT NULL,
    changes TEXT NOT NULL, gone REAL
);
CREATE TABLE moves (
    title TEXT NOT NULL, place INTEGER NOT NULL, digest TEXT NOT NULL, seen REAL NOT NULL,
    PRIMARY KEY (title, place)
) WITHOUT ROWID;
CREATE TABLE failures (
    title TEXT NOT NULL, place INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    reason TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, count INTEGER NOT NULL,
    next REAL, ended REAL, PRIMARY KEY (title, place)
) WITHOUT ROWID;
CREATE TABLE layers (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, compressed INTEGER, unpacked INTEGER
);
CREATE TABLE days (
    day TEXT PRIMARY KEY, converted INTEGER NOT NULL, failed INTEGER NOT NULL,
    removed INTEGER NOT NULL, images INTEGER NOT NULL, compressed INTEGER NOT NULL
);
CREATE TABLE counts (what TEXT PRIMARY KEY, number REAL NOT NULL);
CREATE TABLE waits (number INTEGER PRIMARY KEY, seconds REAL NOT NULL);
"""

_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
    | {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_AUTH}
)
"""Errors that say nothing of the file's content (the primary codes of SQLite)."""


class UnreadableState(DuccmakeError):
    """The file cannot be used; ``is_damaged`` if that is because of what is in it."""

    def __init__(self, path: Path, found: str, *, is_damaged: bool) -> None:
        super().__init__(f"what is kept of its images cannot be used: {path}: {found}")
        self.is_damaged = is_damaged


def load(directory: Path | None) -> State:
    """What is kept in a repository's own directory; writes nothing.

    Empty where nothing is.  Raises `UnreadableState`.
    """
    path = directory and directory / FILE
    if path is None or not path.exists():
        return State()
    with _told(path), closing(_connect(path, "ro")) as connection:
        return _read(connection)


@contextmanager
def changing(directory: Path) -> Iterator[State]:
    """Change what is kept: what the block leaves in the state is written when it ends well.

    Nobody else changes it meanwhile.  A file that is damaged, or of a later version, is put
    aside.  Raises `UnreadableState` before or after the block.
    """
    path = directory / FILE
    try:
        connection, state = _open(path)
    except UnreadableState as error:
        if not error.is_damaged:
            raise
        aside = path.with_name(f"{FILE}.unreadable")
        path.replace(aside)
        path.with_name(f"{FILE}-journal").unlink(missing_ok=True)
        logger.warning("%s; it is begun anew, and the old one is %s now", error, aside)
        connection, state = _open(path)
    before = State(
        dict(state.lives),
        dict(state.layers),
        dict(state.days),
        list(state.waits),
        dict(state.counts),
    )
    with closing(connection):
        yield state
        with _told(path):
            _write(connection, state, before)
            connection.execute("COMMIT")


def _open(path: Path) -> tuple[sqlite3.Connection, State]:
    """Begin a transaction that writes; what is there now."""
    with _told(path):
        connection = _connect(path, "rwc")
        try:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            return connection, _read(connection)
        except BaseException:
            connection.close()
            raise


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", _WAIT_SECONDS, uri=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise what goes wrong with the file as `UnreadableState`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        passing = code & 0xFF in _PASSING
        raise UnreadableState(path, str(error), is_damaged=not passing) from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UnreadableState(path, f"damaged: {error}", is_damaged=True) from error


# --- rows ---------------------------------------------------------------


def _read(connection: sqlite3.Connection) -> State:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise ValueError(f"it is of version {version}, which a later duccmake wrote")
    if version == 0:
        return State()
    moves = _by_title(connection, "SELECT * FROM moves ORDER BY title, place")
    failures = _by_title(connection, "SELECT * FROM failures ORDER BY title, place")
    numbered = dict(connection.execute("SELECT number, digest FROM layers"))
    state = State()
    for row in connection.execute("SELECT * FROM images"):
        title, first_seen, path, source, published, at, revision, files, losses, *rest = row
        layers, config, changes, gone = rest
        state.lives[title] = Life(
            title,
            float(first_seen),
            path,
            dict(json.loads(source)),
            published,
            at,
            revision,
            files,
            dict(json.loads(losses)),
            tuple(numbered[number] for number in json.loads(layers)),
            config,
            dict(json.loads(changes)),
            gone,
            tuple(Move(*one) for one in moves.get(title, ())),
            tuple(Failure(*one) for one in failures.get(title, ())),
        )
    for digest, compressed, unpacked in connection.execute(
        "SELECT digest, compressed, unpacked FROM layers"
    ):
        state.layers[digest] = LayerSizes(compressed, unpacked)
    for row in connection.execute("SELECT * FROM days ORDER BY day"):
        state.days[row[0]] = Day(*row)
    state.counts = dict(connection.execute("SELECT * FROM counts"))
    state.waits = [
        row[0] for row in connection.execute("SELECT seconds FROM waits ORDER BY number")
    ]
    return state


def _by_title(connection: sqlite3.Connection, query: str) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for title, _, *members in connection.execute(query):
        found.setdefault(title, []).append(tuple(members))
    return found


def _write(connection: sqlite3.Connection, state: State, before: State) -> None:
    """Write what has changed."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    _forget(state)
    connection.executemany(
        "INSERT OR REPLACE INTO layers (number, digest, compressed, unpacked) VALUES"
        " ((SELECT number FROM layers WHERE digest = ?1), ?1, ?2, ?3)",
        [
            (digest, sizes.compressed, sizes.unpacked)
            for digest, sizes in state.layers.items()
            if before.layers.get(digest) != sizes
        ],
    )
    lost = [(digest,) for digest in before.layers if digest not in state.layers]
    connection.executemany("DELETE FROM layers WHERE digest = ?", lost)
    _write_lives(connection, state, before)
    connection.executemany(
        "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?, ?, ?)",
        [astuple(day) for name, day in state.days.items() if before.days.get(name) != day],
    )
    past = [(name,) for name in before.days if name not in state.days]
    connection.executemany("DELETE FROM days WHERE day = ?", past)
    connection.executemany(
        "INSERT OR REPLACE INTO counts VALUES (?, ?)",
        [item for item in state.counts.items() if before.counts.get(item[0]) != item[1]],
    )
    if state.waits != before.waits:
        connection.execute("DELETE FROM waits")
        connection.executemany("INSERT INTO waits VALUES (?, ?)", enumerate(state.waits))


def _write_lives(connection: sqlite3.Connection, state: State, before: State) -> None:
    numbers = dict(connection.execute("SELECT digest, number FROM layers"))
    changed = [life for title, life in state.lives.items() if before.lives.get(title) is not life]
    stale = [(life.title,) for life in changed]
    stale += [(title,) for title in before.lives if title not in state.lives]
    for table in ("images", "moves", "failures"):
        connection.executemany(f"DELETE FROM {table} WHERE title = ?", stale)
    connection.executemany(
        "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                life.title,
                life.first_seen,
                life.path,
                json.dumps(dict(life.source)),
                life.published,
                life.published_at,
                life.revision,
                life.files,
                json.dumps(dict(life.losses)),
                json.dumps([numbers[digest] for digest in life.layers]),
                life.config,
                json.dumps(dict(life.changes)),
                life.gone,
            )
            for life in changed
        ],
    )
    connection.executemany(
        "INSERT INTO moves VALUES (?, ?, ?, ?)",
        [
            (life.title, place, move.digest, move.seen)
            for life in changed
            for place, move in enumerate(life.moves)
        ],
    )
    connection.executemany(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (life.title, place, *astuple(failure))
            for life in changed
            for place, failure in enumerate(life.failures)
        ],
    )


def _forget(state: State) -> None:
    """Let go what is too old, and layers that no image has."""
    long_ago = time.time() - _GONE_SECONDS
    for title in [
        life.title for life in state.lives.values() if (life.gone or long_ago) < long_ago
    ]:
        del state.lives[title]
    used = {digest for life in state.lives.values() for digest in life.layers}
    state.layers = {digest: state.layers.get(digest, LayerSizes()) for digest in used}
    for name in sorted(state.days)[:-KEPT_DAYS]:
        del state.days[name]
    del state.waits[:-KEPT_WAITS]
