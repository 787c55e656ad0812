"""A storage in a directory: ``CVMFS_UPSTREAM_STORAGE=local,TMP,DIR``."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...errors import NoSpace, RepositoryError
from ...fs.syscalls import sync_filesystem
from ...tree.content import NO_LINK
from ..names import storage_path
from . import NotThere, checked

_NEW = "duccmake-"

_NO_LINK = NO_LINK | {errno.EACCES}
"""Somebody else's file may not be linked where fs.protected_hardlinks is on."""


class LocalStorage:
    """The storage in ``directory``; ``temporary`` is on the same file system.

    What is stored belongs to whom the directory belongs to, where we may give it away.
    """

    def __init__(self, directory: Path, temporary: Path) -> None:
        self._directory = directory
        self._temporary = temporary
        self._numbers = itertools.count()

    @classmethod
    def parse(cls, upstream: str) -> LocalStorage:
        """The storage that a repository's ``CVMFS_UPSTREAM_STORAGE`` names."""
        kind, _, rest = upstream.partition(",")
        temporary, _, directory = rest.partition(",")
        if kind != "local" or not temporary or not directory:
            raise RepositoryError(
                f"CVMFS_UPSTREAM_STORAGE is {upstream!r}, not local,TMP,DIR",
                hint="see the repository's server.conf",
            )
        return cls(Path(directory), Path(temporary))

    def get(self, name: str) -> bytes:
        """An object as it is stored, its hash checked; `NotThere`."""
        return checked(name, self._read(storage_path(name)))

    def has(self, names: Collection[str]) -> set[str]:
        """Those of the objects that are there, and not empty."""
        with self._described("looked for objects in"):
            return {name for name in names if self._size(self._path(name))}

    def put(self, name: str, file: Path) -> None:
        """Store a staged object as one more link, or a copy; it lasts after `sync`."""

        def link(new: Path) -> None:
            try:
                new.hardlink_to(file)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                shutil.copyfile(file, new)

        with self._described("stored an object in"):
            size = file.stat().st_size
        self._store(name, size, link)

    def put_all(self, files: Mapping[str, Path]) -> None:
        """Store staged objects by their names, one after the other."""
        for name, file in files.items():
            self.put(name, file)

    def put_bytes(self, name: str, stored: bytes) -> None:
        """Store an object as it is, unless it is there; it lasts after `sync`."""

        def write(new: Path) -> None:
            with new.open("xb") as out:
                out.write(stored)

        self._store(name, len(stored), write)

    def delete(self, name: str) -> None:
        """Delete an object; nothing is fine as well."""
        with self._described("deleted an object of"):
            self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what was left half stored by who was killed; nobody may store anything then."""
        with self._described("removed what was half stored in"):
            for left in self._temporary.glob(f"{_NEW}*"):
                left.unlink(missing_ok=True)

    def sync(self) -> None:
        """Return once all that was stored would outlast a loss of power."""
        with self._described("synchronised"):
            sync_filesystem(self._directory)

    def file(self, name: str) -> bytes:
        """One of the files that are no objects; `NotThere`."""
        return self._read(name)

    def _path(self, name: str) -> Path:
        return self._directory / storage_path(name)

    def _read(self, path: str) -> bytes:
        with self._described("read"):
            try:
                return (self._directory / path).read_bytes()
            except FileNotFoundError:
                raise NotThere(
                    f"{self._directory / path} is not there",
                    hint="have the storage checked: cvmfs_server check -i",
                ) from None

    def _store(self, name: str, size: int, make: Callable[[Path], None]) -> None:
        """Have an object made elsewhere, unless it is there, and give it its name last."""
        target = self._path(name)
        with self._described("stored an object in"):
            # One of another size is what a crash, or a full disk, has left of it.
            if self._size(target) == size:
                return
            new = self._temporary / f"{_NEW}{os.getpid()}-{next(self._numbers)}"
            new.unlink(missing_ok=True)
            try:
                make(new)
                _give(new, self._directory)
                try:
                    new.replace(target)
                except FileNotFoundError:
                    target.parent.mkdir()
                    _give(target.parent, self._directory, 0o755)
                    new.replace(target)
            finally:
                # A rename between two names of one file leaves both.
                new.unlink(missing_ok=True)

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def _described(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"no space left in the repository's storage {self._directory}",
                    hint="make room there and run again",
                ) from error
            raise RepositoryError(
                f"while duccmake {doing} {self._directory}: {error.strerror}: {error.filename!r}",
                hint="run duccmake as the repository's owner",
            ) from error


def _give(made: Path, like: Path, mode: int = 0o644) -> None:
    """Have what was made belong to whom another file belongs to, and readable for all."""
    made.chmod(mode)
    owner = like.stat()
    if os.geteuid() == 0:
        os.chown(made, owner.st_uid, owner.st_gid)
