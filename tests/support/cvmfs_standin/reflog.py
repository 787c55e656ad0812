"""The log of references: which root catalogs, and what else manifests name, there are."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from duccmake.cvmfs.storage import REFERENCES

_CATALOG, _HISTORY = 0, 2
_TYPES = {"C": _CATALOG, "X": 1, "H": _HISTORY, "M": 3}
_TABLE = """CREATE TABLE IF NOT EXISTS refs (hash TEXT, type INTEGER, timestamp INTEGER,
 CONSTRAINT pk_refs PRIMARY KEY (hash))"""


def note(storage_directory, manifest):
    """Note what a manifest names."""
    with closing(_opened(storage_directory)) as database, database:
        for letter, kind in _TYPES.items():
            if manifest.get(letter):
                row = (manifest.get(letter), kind, int(time.time()))
                database.execute("INSERT OR IGNORE INTO refs VALUES (?, ?, ?)", row)


def noted(storage_directory):
    """The root catalogs and the histories that are noted."""
    with closing(_opened(storage_directory)) as database:
        return tuple(
            {name for (name,) in database.execute("SELECT hash FROM refs WHERE type=?", (kind,))}
            for kind in (_CATALOG, _HISTORY)
        )


def keep(storage_directory, roots, histories):
    """Forget all root catalogs and histories but these."""
    found = noted(storage_directory)
    gone = [(name,) for name in (found[0] - roots) | (found[1] - histories)]
    with closing(_opened(storage_directory)) as database, database:
        database.executemany("DELETE FROM refs WHERE hash=?", gone)


def _opened(storage_directory):
    database = sqlite3.connect(Path(storage_directory, REFERENCES), timeout=60)
    database.execute(_TABLE)
    return database
