"""Rows of catalogs: the entries of a tree as CernVM-FS has them.

The format is that of CernVM-FS' ``catalog_sql``, schema 2.5, revision 7.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

DIRECTORY = 1
MOUNTPOINT = 2
"""A directory whose entries are in a nested catalog."""

FILE = 4
LINK = 8
"""A symlink, together with `FILE`."""

SPECIAL = 16
"""A device, FIFO or socket, together with `FILE`."""

ROOT = 32
"""The directory in which a nested catalog begins, as that catalog has it."""

CHUNKED = 64
EXTERNAL = 128
"""Content that is stored elsewhere: its hash names no object of the repository's."""

HASH_BITS = 0b111 << 8
"""How an object is hashed; 0 is SHA-1 (for files without content of their own as well)."""

COMPRESSION_BITS = 0b111 << 11
"""How an object is compressed; 0 is zlib."""

DIRECTORY_SIZE = 4096
"""What catalogs say is the size of each directory."""

COUNTERS = (
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
)
"""What a catalog counts, of itself (``self_``) and of all catalogs below it (``subtree_``)."""

XATTR_BYTES = 255
"""Names and values of extended attributes have no more bytes than that, and so many there are."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file's content; ``offset`` and ``size`` in bytes, uncompressed."""

    offset: int
    size: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What a file's content is: one object, or ``chunks`` from 0 on without gaps.

    ``size`` is in bytes, uncompressed; ``flags`` are `HASH_BITS` and `COMPRESSION_BITS`
    (and `EXTERNAL`).
    """

    hash: bytes | None
    size: int
    chunks: tuple[Chunk, ...] = ()
    flags: int = 0


class Row(NamedTuple):
    """An entry of a directory as table ``catalog`` has it, its fields by the table's columns.

    ``md5path`` and ``parent`` are the `names.path_key` of the path and of the directory
    (0, 0 for that of the repository's root).  ``hardlinks`` is the number of names, for
    files that have several with their group in the upper 32 bits; for directories 2 and
    one for each directory in it.  ``hash`` is None where there is no single object,
    ``size`` the device's number for devices, ``mtimens`` None where none is kept.
    """

    md5path_1: int
    md5path_2: int
    parent_1: int
    parent_2: int
    hardlinks: int
    hash: bytes | None
    size: int
    mode: int
    mtime: int
    mtimens: int | None
    flags: int
    name: bytes
    symlink: bytes
    uid: int
    gid: int
    xattr: bytes | None

    @property
    def key(self) -> tuple[int, int]:
        """The `names.path_key` of the entry's path."""
        return self.md5path_1, self.md5path_2

    @property
    def parent(self) -> tuple[int, int]:
        """The `names.path_key` of the directory that it is in."""
        return self.parent_1, self.parent_2

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, the beginnings of catalogs included."""
        return bool(self.flags & DIRECTORY)

    @property
    def is_link(self) -> bool:
        """Whether it is a symlink."""
        return bool(self.flags & LINK)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.flags & (DIRECTORY | FILE | LINK | SPECIAL) == FILE

    def counted(self, chunks: int = 0) -> tuple[int, ...]:
        """What the entry adds to the `COUNTERS` of its catalog; ``chunks`` is their number."""
        file = self.is_file
        size = self.size if file else 0
        chunked = bool(file and self.flags & CHUNKED)
        external = bool(file and self.flags & EXTERNAL)
        return (
            int(file),
            int(self.is_link),
            int(bool(self.flags & SPECIAL)),
            int(self.is_directory),
            int(bool(self.flags & MOUNTPOINT)),
            int(chunked),
            chunks,
            size,
            size if chunked else 0,
            int(self.xattr is not None),
            int(external),
            size if external else 0,
        )


TYPES = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: FILE | LINK}
"""The flags of an entry by the type in its mode; those of all other types are special."""


def type_flags(mode: int) -> int:
    """The flags that say of what type an entry is, from its mode."""
    return TYPES.get(stat.S_IFMT(mode), FILE | SPECIAL)


def pack_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, int]:
    """Extended attributes as catalogs have them, and how many cannot be kept."""
    given = sorted(xattrs)
    kept = [
        (name, value)
        for name, value in given
        if 0 < len(name) <= XATTR_BYTES and len(value) <= XATTR_BYTES and b"\0" not in name
    ][:XATTR_BYTES]
    lost = len(given) - len(kept)
    if not kept:
        return None, lost
    packed = b"".join(bytes((len(name), len(value))) + name + value for name, value in kept)
    return bytes((1, len(kept))) + packed, lost


def unpack_xattrs(packed: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """The inverse of `pack_xattrs`; `ValueError` for what is no version 1 of the format."""
    if packed is None:
        return ()
    if len(packed) < 2 or packed[0] != 1:
        raise ValueError("extended attributes in a format that is not known")
    found, at = [], 2
    for _ in range(packed[1]):
        if at + 2 > len(packed):
            raise ValueError("extended attributes that are cut off")
        name_end = at + 2 + packed[at]
        end = name_end + packed[at + 1]
        if end > len(packed):
            raise ValueError("extended attributes that are cut off")
        found.append((packed[at + 2 : name_end], packed[name_end:end]))
        at = end
    if at != len(packed):
        raise ValueError("extended attributes with something behind them")
    return tuple(found)
