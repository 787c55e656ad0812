"""What a layer has, in memory, while it is unpacked."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from ..tree.mtree import LOST
from .place import Attributes, Lost

NOT_MADE = LOST + b"device"
"""The flag of a device or a FIFO that could not be made."""

IMPLIED = Attributes(0o755)
"""What a directory gets that the layer needs and does not mention."""


@dataclass(slots=True, eq=False)
class Inode:
    """What several names may share: a file with hard links, or a symlink (``target``).

    ``rest`` is its manifest line behind the path; ``first`` its first path in the
    manifest, once that is known.  ``names`` is how many it has got, and ``copy`` the
    last that is a copy, since a file system takes only so many names of one file.
    """

    rest: bytes
    target: bytes | None = None
    first: bytes = b""
    names: int = 1
    copy: tuple[Directory, bytes] | None = None


@dataclass(frozen=True, slots=True)
class LowerLink:
    """A hard link to a path that this layer does not have."""

    target: bytes


@dataclass(slots=True, eq=False)
class Directory:
    """A directory and what this layer has in it.

    ``room`` is how many bytes a name in it may have, for its path not to get too long.
    """

    number: int
    parent: Directory | None
    depth: int = 0
    room: int = sys.maxsize
    entries: dict[bytes, Node] = field(default_factory=dict)
    whiteouts: set[bytes] | None = None
    attributes: Attributes = IMPLIED
    implied: bool = True
    opaque: bool = False
    lost: Lost = ()


Node = Directory | Inode | LowerLink | bytes
"""Bytes are the line of an entry with one name: a file, a device, a FIFO."""
