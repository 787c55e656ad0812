"""Objects that are staged: compressed content in files, named by what is in them.

All are in one directory, without the subdirectories of a repository's storage.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ..errors import RepositoryError
from .codec import Bytes, Codec, decompressed
from .names import Kind, hash_of, object_name
from .rows import Chunk, Content
from .storage import NotThere

CHUNK = 8 * 1024 * 1024
"""The size of the pieces that large files are stored in, but for the last."""

CHUNK_ABOVE = 16 * 1024 * 1024
"""Files that are larger are stored in pieces, as CernVM-FS does it by default."""

_NAME = re.compile(r"[0-9a-f]{40}[A-Z]?")
_NEW = ".new-"
_PIECE = 1024 * 1024


class Objects:
    """The objects in ``directory``, which is there; more than one thread may `put`.

    What has an object's name is that object, whole: it gets the name last.  Raises `OSError`.
    """

    def __init__(self, directory: Path, codec: Codec | None = None) -> None:
        self.directory = directory
        self._codec = codec or Codec()
        self._numbers = itertools.count()

    @cached_property
    def names(self) -> dict[str, int]:
        """How many bytes are stored of each object, by name."""
        with os.scandir(self.directory) as entries:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if _NAME.fullmatch(entry.name)
            }

    def put(self, content: Bytes, kind: Kind = Kind.FILE) -> bytes:
        """Add the object with that content; its hash."""
        stored = self._codec.compress(content)
        digest = hash_of(stored)
        name = object_name(digest, kind)
        if not self.path(name).exists():
            self._write(name, stored)
        self._note(name, len(stored))
        return digest

    def take(self, name: str, file: str) -> None:
        """Add an object that is stored in a file elsewhere: as one more link, or as a copy."""
        target = f"{self.directory}/{name}"
        try:
            os.link(file, target)
        except FileExistsError:  # another process has made it
            pass
        except OSError:  # it is on another file system, or somebody else's
            with (
                open(file, "rb") as source,
                mmap(source.fileno(), 0, access=ACCESS_READ) as stored,
                memoryview(stored) as view,
            ):
                self._write(name, view)
        self._note(name, self.path(name).stat().st_size)

    def file(self, pieces: Iterable[Bytes], size: int) -> Content:
        """Add the objects of a file of ``size`` bytes.

        `RepositoryError` where the pieces are more, or fewer.
        """
        if size <= CHUNK_ABOVE:
            content = bytearray().join(pieces)
            _check_size(len(content), size)
            return Content(self.put(content), size)
        chunks = []
        at = 0
        for chunk in cut(pieces, CHUNK):
            chunks.append(Chunk(at, len(chunk), self.put(chunk, Kind.CHUNK)))
            at += len(chunk)
        _check_size(at, size)
        return Content(None, size, tuple(chunks))

    def path(self, name: str) -> Path:
        """Where the object of that name is."""
        return self.directory / name

    def get(self, name: str) -> bytes:
        """What is in the object of that name, decompressed.

        `NotThere`, and `RepositoryError` where it is damaged.
        """
        return b"".join(self._pieces(name))

    def pieces(self, content: Content) -> Iterator[bytes]:
        """A file's content in pieces, decompressed; raises as `get` does."""
        at = 0
        for name in names_of(content):
            for piece in self._pieces(name):
                at += len(piece)
                yield piece
        _check_size(at, content.size)

    def remove(self, name: str) -> None:
        """Remove an object that nothing needs."""
        self.path(name).unlink()
        if "names" in self.__dict__:
            del self.names[name]

    def _note(self, name: str, size: int) -> None:
        # Who makes hundreds of thousands of objects need not remember them all.
        if "names" in self.__dict__:
            self.names[name] = size

    def _pieces(self, name: str) -> Iterator[bytes]:
        try:
            with self.path(name).open("rb", buffering=0) as file:
                yield from decompressed(iter(lambda: file.read(_PIECE), b""))
        except FileNotFoundError:
            raise NotThere(
                f"the object {name} is not staged",
                hint="remove what is staged and run again",
            ) from None

    def _write(self, name: str, stored: Bytes) -> None:
        new = self.directory / f"{_NEW}{os.getpid()}-{next(self._numbers)}"
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                rest = memoryview(stored)
                while rest:
                    rest = rest[os.write(file, rest) :]
                # Whatever the umask: clients read it through a web server.
                os.fchmod(file, 0o644)
            finally:
                os.close(file)
            new.rename(self.directory / name)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def names_of(content: Content) -> Iterator[str]:
    """The names of the objects that content is in, in order."""
    if content.chunks:
        for chunk in content.chunks:
            yield object_name(chunk.hash, Kind.CHUNK)
    elif content.hash is not None:
        yield object_name(content.hash, Kind.FILE)


def cut(pieces: Iterable[Bytes], size: int) -> Iterator[bytearray]:
    """The same bytes in pieces of ``size`` bytes each, but for the last."""
    waiting = bytearray()
    for piece in pieces:
        rest = memoryview(piece)
        while len(waiting) + len(rest) >= size:
            taken = size - len(waiting)
            waiting += rest[:taken]
            rest = rest[taken:]
            yield waiting
            waiting = bytearray()
        waiting += rest
    if waiting:
        yield waiting


def _check_size(found: int, size: int) -> None:
    if found != size:
        raise RepositoryError(
            f"a file has {found} bytes, not {size} as was said",
            hint="remove what is staged and run again",
        )
