"""The rules that a row of a catalog keeps to, by itself and with those beside it."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .names import HASH_BYTES, path_key
from .rows import (
    CHUNKED,
    DIRECTORY,
    EXTERNAL,
    FILE,
    LINK,
    MOUNTPOINT,
    ROOT,
    SPECIAL,
    Chunk,
    Row,
    type_flags,
    unpack_xattrs,
)

_NAME_BYTES = 255
_TYPE = DIRECTORY | FILE | LINK | SPECIAL
_NO_NAMES = frozenset({b"", b".", b".."})


@dataclass(frozen=True, slots=True)
class Place:
    """A row at its path; ``top`` says that its catalog begins there.

    ``names`` are the rows in its directory that are names of the same inode, its own too,
    if it has several.
    """

    path: bytes
    row: Row
    top: bool
    chunks: Sequence[Chunk]
    names: Sequence[Row]


def row_faults(place: Place, directories: int) -> Iterator[str]:
    """The rules that are broken at a place; ``directories`` are so many in it."""
    yield from _name(place)
    row = place.row
    if row.flags & _TYPE != type_flags(row.mode):
        yield f"its flags {row.flags:#x} and its mode {row.mode:#o} are of different types"
    elif row.is_directory:
        yield from _directory(place, directories)
    elif row.is_link:
        yield from _link(row)
    elif row.flags & SPECIAL:
        yield from _special(row)
    else:
        yield from _file(place)
    if not row.is_directory:
        yield from _hard_links(place)
    if place.chunks and not row.flags & CHUNKED:
        yield "it has chunks, and its flags do not say so"
    if not row.is_link and row.symlink != b"":
        yield "it has a target and is no symlink"
    try:
        unpack_xattrs(row.xattr)
    except ValueError as error:
        yield f"extended attributes: {error}"


def _name(place: Place) -> Iterator[str]:
    row = place.row
    if place.path:
        parent = path_key(place.path.rpartition(b"/")[0])
        if row.name in _NO_NAMES or b"/" in row.name or b"\0" in row.name:
            yield f"its name is {row.name!r}"
        if len(row.name) > _NAME_BYTES:
            yield f"its name has {len(row.name)} bytes"
        if row.name != place.path.rpartition(b"/")[2]:
            yield f"its name is {row.name!r}, not that of its path"
    else:
        parent = (0, 0)
    if row.key != path_key(place.path):
        yield "its key is not that of its path"
    if row.parent != parent:
        yield "its directory's key is not that of its path"


def _directory(place: Place, directories: int) -> Iterator[str]:
    row = place.row
    if row.hash is not None:
        yield "it is a directory and has a hash"
    if row.flags & ROOT and not place.top:
        yield "its flags say that a catalog begins there that is another one"
    # What is in another catalog is compared with that.
    if not row.flags & MOUNTPOINT and row.hardlinks != 2 + directories:
        yield f"it has {row.hardlinks} links, not {2 + directories}"


def _link(row: Row) -> Iterator[str]:
    if row.hash is not None:
        yield "it is a symlink and has a hash"
    if not row.symlink or b"\0" in row.symlink:
        yield f"it leads to {row.symlink!r}"
    if row.size != len(row.symlink):
        yield f"its size is {row.size}, not its target's {len(row.symlink)}"


def _special(row: Row) -> Iterator[str]:
    if row.hash is not None:
        yield "it is a special file and has a hash"
    if row.size and stat.S_IFMT(row.mode) not in (stat.S_IFCHR, stat.S_IFBLK):
        yield "it is no device and has a size"


def _file(place: Place) -> Iterator[str]:
    row = place.row
    if not row.flags & CHUNKED:
        if row.flags & EXTERNAL:
            return
        if row.hash is None or len(row.hash) != HASH_BYTES:
            yield "it is a file and has no hash"
        if row.size < 0:
            yield f"its size is {row.size}"
        return
    if row.hash is not None:
        yield "it is in chunks and has a hash"
    at = 0
    for chunk in place.chunks:
        if chunk.offset != at or chunk.size <= 0:
            yield f"a chunk of {chunk.size} bytes is at {chunk.offset}, behind {at} bytes"
        if not chunk.hash or len(chunk.hash) != HASH_BYTES:
            yield "a chunk has no hash"
        at = chunk.offset + chunk.size
    if at != row.size or not place.chunks:
        yield f"its size is {row.size}, and that of its chunks {at}"


def _hard_links(place: Place) -> Iterator[str]:
    row = place.row
    group, links = row.hardlinks >> 32, row.hardlinks & 0xFFFFFFFF
    if not group:
        if links != 1:
            yield f"it has {links} links and no group"
        return
    if links != len(place.names):
        yield f"it has {links} links, and {len(place.names)} names are in its directory"
    if _inode(row) != _inode(place.names[0]):
        yield "the names of its inode differ in more than the name"


def _inode(row: Row) -> Row:
    return row._replace(md5path_1=0, md5path_2=0, name=b"")
