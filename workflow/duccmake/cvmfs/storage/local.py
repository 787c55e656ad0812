"""A storage in a directory: ``CVMFS_UPSTREAM_STORAGE=local,TMP,DIR``."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import NoSpace, RepositoryError
from ...fs.syscalls import sync_filesystem
from ...tree.content import NO_LINK
from ..names import storage_path
from . import NEVER, Mark, NotThere, checked

_NEW = "duccmake-"

_TICK = 0.02
"""Longer than a tick of the kernel's clock, in seconds."""

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
            return {name for name in names if self._size(name)}

    def lacking(self, sizes: Mapping[str, int]) -> set[str]:
        """Those that are not there in the size that is said of them."""
        return self.lost(sizes, NEVER)

    def lost(self, sizes: Mapping[str, int], since: Mark) -> set[str]:
        """Those that are not there any more; directories tell where nothing was changed."""
        with self._described("looked for objects in"):
            same = {part for part, ns in since.items() if self._changed(part) == ns}
            return {
                name
                for name, size in sizes.items()
                if name[:2] not in same and self._size(name) != size
            }

    def mark(self) -> Mark:
        """This moment: when each of the directories was changed last."""
        begin = time.time_ns()
        # The kernel's clock ticks: what is changed within the same tick cannot be told apart.
        time.sleep(_TICK)
        with self._described("looked for objects in"):
            changed = {f"{number:02x}": self._changed(f"{number:02x}") for number in range(256)}
        return {part: ns for part, ns in changed.items() if ns < begin}

    def put_all(self, directory: Path, names: Iterable[str]) -> None:
        """Store objects that are staged in a directory as more links, or copies."""
        with self._described("stored an object in"):
            like = self._directory.stat()
            for name in names:
                self._put(f"{directory}/{name}", name, like)

    def delete(self, name: str) -> None:
        """Delete an object; nothing is fine as well."""
        with self._described("deleted an object of"), suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def clear(self) -> None:
        """Remove what was left half stored by who was killed; nobody may store anything then."""
        with self._described("removed what was half stored in"):
            for left in self._temporary.glob(f"{_NEW}*"):
                left.unlink(missing_ok=True)

    def sync(self) -> None:
        """Return once all that was stored would outlast a loss of power."""
        with self._described("synchronised"):
            sync_filesystem(self._directory)

    def sync_object(self, name: str) -> None:
        """Return once one object, and its name, would outlast a loss of power."""
        path = self._path(name)
        with self._described("synchronised"):
            for each in (path, os.path.dirname(path)):
                descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def file(self, name: str) -> bytes:
        """One of the files that are no objects; `NotThere`."""
        return self._read(name)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{storage_path(name)}"

    def _read(self, path: str) -> bytes:
        with self._described("read"):
            try:
                return (self._directory / path).read_bytes()
            except FileNotFoundError:
                raise NotThere(
                    f"{self._directory / path} is not there",
                    hint="have the storage checked: cvmfs_server check -i",
                ) from None

    def _put(self, file: str, name: str, like: os.stat_result) -> None:
        """Give a staged object, which is whole, its name in the storage as well."""
        _give(file, like, 0o644)
        target = self._path(name)
        try:
            os.link(file, target)
            return
        except FileExistsError:
            # One of another size is what a crash, or a full disk, has left of it.
            if os.stat(target).st_size == os.stat(file).st_size:
                return
        except FileNotFoundError:
            parent = os.path.dirname(target)
            os.mkdir(parent)
            _give(parent, like, 0o755)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        self._copy(file, target, like)

    def _copy(self, file: str, target: str, like: os.stat_result) -> None:
        """Have a copy made elsewhere, and give it its name last."""
        new = f"{self._temporary}/{_NEW}{os.getpid()}-{next(self._numbers)}"
        try:
            shutil.copyfile(file, new)
            _give(new, like, 0o644)
            os.replace(new, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(new)
            raise

    def _size(self, name: str) -> int:
        try:
            return os.stat(self._path(name)).st_size
        except FileNotFoundError:
            return 0

    def _changed(self, part: str) -> int:
        try:
            return os.stat(f"{self._directory}/data/{part}").st_mtime_ns
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


def _give(made: str, like: os.stat_result, mode: int) -> None:
    """Have what was made belong to whom the storage belongs to, and readable for all."""
    found = os.stat(made)
    if stat.S_IMODE(found.st_mode) != mode:
        os.chmod(made, mode)
    if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (like.st_uid, like.st_gid):
        os.chown(made, like.st_uid, like.st_gid)
