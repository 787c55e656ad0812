"""Where the objects of a repository are stored: a protocol, and what kinds have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from ...errors import RepositoryError
from ..names import HASH_BYTES, hash_of, storage_path

PUBLISHED = ".cvmfspublished"
"""The file that says what the newest revision is."""

WHITELIST = ".cvmfswhitelist"
"""The file that says until when which certificate may sign."""


REFERENCES = ".cvmfsreflog"
"""The file that says which revisions there are, for garbage collection; a database (SQLite)."""


STATUS = ".cvmfs_status.json"
"""The file that says when the repository was checked and its garbage collected."""


Mark = Mapping[str, int]
"""When each part of a storage was changed last (ns), by what the names of its objects begin with.

What is not in it may have been changed at that very moment."""

NEVER: Mark = {}
"""Nothing is known of any part."""


class NotThere(RepositoryError):
    """The storage has no such object."""


class DamagedObject(RepositoryError):
    """The storage has something else under an object's name."""


class Storage(Protocol):
    """Where the objects of a repository are, by their names.

    Raises `RepositoryError` where the storage cannot be read or written, and
    `duccmake.errors.NoSpace` where it is full.
    """

    def get(self, name: str) -> bytes:
        """An object as it is stored, its hash checked; `NotThere`."""
        ...

    def has(self, names: Collection[str]) -> set[str]:
        """Those of the objects that are there, whole as far as their sizes tell."""
        ...

    def lacking(self, sizes: Mapping[str, int]) -> set[str]:
        """Those of some objects that are to be stored: not there, or not in the size said."""
        ...

    def lost(self, sizes: Mapping[str, int], since: Mark) -> set[str]:
        """Those of the objects, all of which were there after ``since``, that are not any more.

        Only what may be gone is looked for.
        """
        ...

    def mark(self) -> Mark:
        """This moment, for `lost`; `NEVER` where nothing tells but asking for each object."""
        ...

    def put_all(self, directory: Path, names: Iterable[str]) -> None:
        """Store objects that are staged in a directory; they last after `sync`.

        What is there in another size, which a crash has left, is replaced.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object; nothing is fine as well."""
        ...

    def clear(self) -> None:
        """Remove what was left half stored by who was killed; nobody may store anything then."""
        ...

    def sync(self) -> None:
        """Return once all that was stored would outlast a loss of power."""
        ...

    def sync_object(self, name: str) -> None:
        """The same for one object, which another program has stored."""
        ...

    def file(self, name: str) -> bytes:
        """One of the files that are no objects, such as `PUBLISHED`; `NotThere`."""
        ...


def damaged(storage: Storage, names: Iterable[str]) -> set[str]:
    """Those of the objects that are there, and are not what their names say: all are read."""
    found = set()
    for name in names:
        try:
            storage.get(name)
        except NotThere:
            pass
        except DamagedObject:
            found.add(name)
    return found


def checked(name: str, stored: bytes) -> bytes:
    """An object that was read; `RepositoryError` where it is not what its name says."""
    if hash_of(stored).hex() != name[: 2 * HASH_BYTES]:
        raise DamagedObject(
            f"the object {storage_path(name)} is damaged: its content has another hash",
            hint="have the storage checked: cvmfs_server check -i",
        )
    return stored
