"""How objects are compressed: as zlib has it (RFC 1950), which all of CernVM-FS reads.

An object is named by its compressed bytes, so the same content must become the same
bytes in every process, and on every machine with the same version of the library.
libdeflate does that; ISA-L at its fast levels does not.  A new version may compress
otherwise: never compress again to find out what something is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from isal import isal_zlib

from ..errors import RepositoryError

Bytes = bytes | bytearray | memoryview

_PIECE = 1024 * 1024


class Level(StrEnum):
    """What compressing is to save: time, or room in the storage."""

    FAST = "fast"
    """About 6 % larger than what CernVM-FS itself stores, in a sixth of the time."""

    BALANCED = "balanced"
    """As large as what CernVM-FS itself stores, in a third of the time."""

    SMALL = "small"
    """About 1 % smaller, in the same time."""


_LIBDEFLATE = {Level.FAST: 1, Level.BALANCED: 5, Level.SMALL: 9}


@dataclass(frozen=True, slots=True)
class Codec:
    """Compresses as one level has it."""

    level: Level = Level.BALANCED

    def compress(self, content: Bytes) -> bytearray:
        """The content compressed; other threads can run meanwhile."""
        from deflate import zlib_compress  # not every job needs it

        return zlib_compress(content, _LIBDEFLATE[self.level])


def decompress(stored: Bytes) -> bytes:
    """The content of an object; `RepositoryError` where it is damaged."""
    return b"".join(decompressed([stored]))


def decompressed(stored: Iterable[Bytes], piece: int = _PIECE) -> Iterator[bytes]:
    """The content of an object that comes in pieces, in pieces of at most ``piece`` bytes.

    `RepositoryError` where it is damaged, cut short, or has something behind its end.
    """
    stream = isal_zlib.decompressobj()
    for part in stored:
        waiting: Bytes = part
        while waiting and not stream.eof:
            try:
                content = stream.decompress(waiting, piece)
            except Exception as error:  # isal's own type is right below it
                raise _damaged(str(error)) from None
            waiting = stream.unconsumed_tail
            if content:
                yield content
        if waiting or stream.unused_data:
            raise _damaged("something follows its end")
    # What is left in the window, where the last piece came out full.
    while not stream.eof:
        content = stream.decompress(b"", piece)
        if not content:
            raise _damaged("it is cut short")
        yield content


def _damaged(found: str) -> RepositoryError:
    return RepositoryError(
        f"an object cannot be decompressed: {found}",
        hint="have the storage checked: cvmfs_server check -i",
    )
