"""Content that need not be compressed: a repository has its objects in a storage at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from ..cvmfs.codec import Bytes, decompressed
from ..cvmfs.known import KnownContent
from ..cvmfs.names import Kind, object_name, storage_path
from ..cvmfs.objects import Objects
from ..errors import RepositoryError
from ..fs.closing import Closing

_PIECE = 1024 * 1024

Taken = tuple[int, int, Kind, bytes]
"""Offset and size of what was taken, the kind of its object, and the hash."""


@dataclass(frozen=True, slots=True)
class Known:
    """The file of an index (`duccmake.cvmfs.known`), and the directory of a storage."""

    index: Path
    storage: Path


class KnownObjects(Closing):
    """Takes objects out of a repository's storage, by what the index says; to be closed."""

    def __init__(self, known: Known) -> None:
        self._storage = known.storage
        self._index = KnownContent(known.index)

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()

    def take(self, sha256: str, content: Bytes, objects: Objects) -> tuple[list[Taken], bool]:
        """Add the objects of content to ``objects``; those that were, and whether that is all.

        Each is read, and has to be what its name says and to have its part of the content.
        """
        taken: list[Taken] = []
        try:
            with memoryview(content) as view:
                found = self._compared(self._index.objects(sha256), view)
            for each in found:
                _, _, kind, digest = each
                objects.take(object_name(digest, kind), self._path(digest, kind))
                taken.append(each)
        except (OSError, RepositoryError, _Other):
            # Garbage collection was there, or somebody else, or it never was true.
            return taken, False
        return taken, bool(taken)

    def _compared(self, hashes: Sequence[bytes], content: memoryview) -> list[Taken]:
        kind = Kind.CHUNK if len(hashes) > 1 else Kind.FILE
        found, at = [], 0
        for digest in hashes:
            size = _compared(self._path(digest, kind), digest, content, at)
            found.append((at, size, kind, digest))
            at += size
        if at != len(content):
            raise _Other
        return found

    def _path(self, digest: bytes, kind: Kind) -> str:
        return f"{self._storage}/{storage_path(object_name(digest, kind))}"


class _Other(Exception):
    """An object that has something else in it."""


def _compared(file: str, digest: bytes, content: memoryview, begin: int) -> int:
    """How many bytes an object has of content, from ``begin`` on; `_Other` where not so."""
    hashed = sha1(usedforsecurity=False)
    at = begin
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for piece in decompressed(_stored(descriptor, hashed.update)):
            # Views would be compared byte by byte.
            if bytes(content[at : at + len(piece)]) != piece:
                raise _Other
            at += len(piece)
    finally:
        os.close(descriptor)
    if at == begin or hashed.digest() != digest:
        raise _Other
    return at - begin


def _stored(descriptor: int, seen: Callable[[bytes], object]) -> Iterator[bytes]:
    while piece := os.read(descriptor, _PIECE):
        seen(piece)
        yield piece
