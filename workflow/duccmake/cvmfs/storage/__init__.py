"""Where the objects of a repository are stored: a protocol, and what kinds have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


class NotThere(RepositoryError):
    """The storage has no such object."""


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

    def put(self, name: str, file: Path) -> None:
        """Store a staged object, unless it is there; it lasts after `sync`."""
        ...

    def put_all(self, files: Mapping[str, Path]) -> None:
        """The same for several, by their names, and at once where that is faster."""
        ...

    def put_bytes(self, name: str, stored: bytes) -> None:
        """Store an object as it is, unless it is there; it lasts after `sync`."""
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

    def file(self, name: str) -> bytes:
        """One of the files that are no objects, such as `PUBLISHED`; `NotThere`."""
        ...


def checked(name: str, stored: bytes) -> bytes:
    """An object that was read; `RepositoryError` where it is not what its name says."""
    if hash_of(stored).hex() != name[: 2 * HASH_BYTES]:
        raise RepositoryError(
            f"the object {storage_path(name)} is damaged: its content has another hash",
            hint="have the storage checked: cvmfs_server check -i",
        )
    return stored
