"""Objects that were stored for a revision that was never signed, as somebody was killed before.

No garbage collection of CernVM-FS finds them, which goes by the root catalogs that it knows.
So they are noted before they are stored, and no longer once a revision that has them is
signed.  What is left is freed here: what no catalog has of any revision that is still there,
for somebody else may have published the same content since.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path

from ...cvmfs.catalog import CatalogFile
from ...cvmfs.codec import decompress
from ...cvmfs.manifest import Manifest
from ...cvmfs.names import HASH_BYTES, Kind
from ...cvmfs.storage import PUBLISHED, REFERENCES, NotThere, Storage
from ...errors import RepositoryError
from ...fs.files import write_atomically
from .transaction import Transactions

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{40}[A-Z]?")
_DIGITS = 2 * HASH_BYTES
_CATALOG = 0  # the type of a root catalog among the references


class Unsigned:
    """The names of such objects, in a file of the directory ``state``; only under its lock."""

    def __init__(self, state: Path) -> None:
        self._file = state / "unsigned-objects"

    def names(self) -> set[str]:
        """All that were noted."""
        try:
            text = self._file.read_text(errors="replace")
        except FileNotFoundError:
            return set()
        # A crash may have left a part of the last line, which is no name of an object.
        return set(filter(_NAME.fullmatch, text.splitlines()))

    def note(self, names: Collection[str]) -> None:
        """Note objects that are going to be stored; that lasts when this returns."""
        if not names:
            return
        descriptor = os.open(
            self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            # A line of its own, whatever a crash has left before.
            rest = memoryview(b"".join(b"\n%b" % name.encode() for name in sorted(names)) + b"\n")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def forget(self, names: Collection[str]) -> None:
        """Forget objects that a signed revision has, or that are gone."""
        noted = self.names()
        left = noted.difference(names)
        if not left:
            self._file.unlink(missing_ok=True)
        elif left != noted:
            write_atomically(self._file, "".join(f"{name}\n" for name in sorted(left)).encode())

    def free(self, storage: Storage, transactions: Transactions) -> None:
        """Delete those that no revision has, while nobody else publishes.

        `RepositoryError` where not all revisions can be read; nothing is deleted then.
        """
        names = self.names()
        if not names:
            return
        needed = _Needed(storage, names)
        needed.look()  # takes its time, and what was seen is passed over the next time

        def work() -> None:
            needed.look()
            left = sorted(name for name in names if name[:_DIGITS] in needed.unseen)
            for name in left:
                storage.delete(name)
            self.forget(names)
            log.info("freed %d objects of revisions that were never published", len(left))

        transactions.alone(work, collecting=True)


class _Needed:
    """Which of some objects no revision has, whatever kind they are of there: ``unseen``."""

    def __init__(self, storage: Storage, names: Iterable[str]) -> None:
        self.unseen = {name[:_DIGITS] for name in names}
        self._storage = storage
        self._known: set[str] = set()

    def look(self) -> None:
        """Look into all catalogs that were not seen yet."""
        roots, others = _references(self._storage)
        manifest = Manifest.parse(self._storage.file(PUBLISHED))
        self.unseen -= roots | others | {value for _, value in manifest.fields}
        # What a tag or the manifest names is there; of what is only noted, some may be gone.
        must = {manifest.root.hex()} | _tagged(self._storage, manifest)
        waiting = [(root, root in must) for root in roots | must]
        while waiting:
            name, needed = waiting.pop()
            if name in self._known:
                continue
            try:
                stored = self._storage.get(name + Kind.CATALOG)
            except NotThere as error:
                if not needed:
                    continue
                raise RepositoryError(
                    f"nothing is freed, as a catalog is missing: {error.found}", hint=error.hint
                ) from None
            self._known.add(name)
            with CatalogFile.read(decompress(stored), f"the catalog {name}") as catalog:
                self._see(catalog)
                waiting += [(nested.hash, needed) for nested in catalog.nested().values()]

    def _see(self, catalog: CatalogFile) -> None:
        self.unseen -= {nested.hash[:_DIGITS] for nested in catalog.nested().values()}
        for table in ("catalog", "chunks"):
            found = catalog.db.execute(f"SELECT hash FROM {table} WHERE hash IS NOT NULL")
            self.unseen.difference_update(digest.hex() for (digest,) in found)


def _references(storage: Storage) -> tuple[set[str], set[str]]:
    """The root catalogs that garbage collection knows, and whatever else it knows."""
    try:
        content = storage.file(REFERENCES)
    except NotThere as error:
        raise RepositoryError(
            f"nothing is freed, as nothing tells which revisions there are: {error.found}",
            hint="cvmfs_server gc makes it anew",
        ) from None
    roots: set[str] = set()
    others: set[str] = set()
    for digest, kind in _query(content, "SELECT hash, type FROM refs"):
        (roots if kind == _CATALOG else others).add(str(digest)[:_DIGITS])
    return roots, others


def _tagged(storage: Storage, manifest: Manifest) -> set[str]:
    history = manifest.get("H")
    if not history:
        return set()
    content = decompress(storage.get(history + Kind.HISTORY))
    return {str(digest)[:_DIGITS] for (digest,) in _query(content, "SELECT hash FROM tags")}


def _query(content: bytes, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(content)
        return database.execute(query).fetchall()
