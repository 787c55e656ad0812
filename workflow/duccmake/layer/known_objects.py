"""Content that need not be compressed: a repository has its objects in a storage at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    def take(self, sha256: str, content: Bytes, objects: Objects) -> list[Taken]:
        """Add the objects of content to ``objects``; empty where these are not all there.

        Each is read, and has to be what its name says and to have its part of the content.
        """
        taken: list[Taken] = []
        try:
            with memoryview(content) as view:
                taken = self._compared(self._index.objects(sha256), view)
            for _, _, kind, digest in taken:
                name = object_name(digest, kind)
                objects.take(name, self._storage / storage_path(name))
        except (OSError, RepositoryError, _Other):
            # Garbage collection was there, or somebody else, or it never was true.
            return []
        return taken

    def _compared(self, hashes: Sequence[bytes], content: memoryview) -> list[Taken]:
        kind = Kind.CHUNK if len(hashes) > 1 else Kind.FILE
        found, at = [], 0
        for digest in hashes:
            file = self._storage / storage_path(object_name(digest, kind))
            with content[at:] as rest:
                size = _compared(file, digest, rest)
            found.append((at, size, kind, digest))
            at += size
        if at != len(content):
            raise _Other
        return found


class _Other(Exception):
    """An object that has something else in it."""


def _compared(file: Path, digest: bytes, content: memoryview) -> int:
    """How many bytes an object has of what content begins with; `_Other` where not so."""
    hashed = sha1(usedforsecurity=False)

    def stored() -> Iterator[bytes]:
        with file.open("rb", buffering=0) as source:
            while piece := source.read(_PIECE):
                hashed.update(piece)
                yield piece

    at = 0
    for piece in decompressed(stored()):
        if content[at : at + len(piece)] != piece:
            raise _Other
        at += len(piece)
    if not at or hashed.digest() != digest:
        raise _Other
    return at
