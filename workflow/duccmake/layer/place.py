"""Where a layer's entries are made: a protocol, and what its orders are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..fs.attributes import is_safe_owner, is_safe_time
from .tar import Member

ROOT = 0
"""The number of the root directory."""

Xattrs = tuple[tuple[bytes, bytes], ...]

Lost = tuple[bytes, ...]
"""What a file system could not keep of an entry: ``owners``, ``xattrs``, ``mtimes``."""

PIECE = 256 * 1024
"""The most bytes of a file that are handed over at once."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Metadata of an entry; times in nanoseconds since the epoch."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: Xattrs = ()


def may_lose(entry: Member | Attributes) -> bool:
    """Whether a file system may be unable to keep something that only it can tell of."""
    return (
        bool(entry.xattrs)
        or not is_safe_time(entry.mtime_ns)
        or not is_safe_owner(entry.uid, entry.gid)
    )


class Place(Protocol):
    """Where a layer's entries are made, in directories that are known by number.

    Orders may raise `OSError`, also that of an order before.  What makes an entry
    returns what could not be kept of it; that of plain files never is asked for.
    """

    def settle(self, directory: int) -> None:
        """Wait until all that was ordered in a directory is done."""
        ...

    def make_directory(self, parent: int, name: bytes, number: int) -> None:
        """Make a directory, which is ``number`` from now on."""
        ...

    def remove_directory(self, number: int) -> None:
        """Remove a directory, once everything in it is removed."""
        ...

    def make_file(
        self, parent: int, name: bytes, member: Member, content: bytes | memoryview, sha256: str
    ) -> None:
        """Make a file of at most `PIECE` bytes, without holes and xattrs.

        ``sha256`` is the digest of its content, in hex, here and in `close_file`.
        """
        ...

    def open_file(self, parent: int, name: bytes, member: Member) -> None:
        """Make an empty file for `write` and `seek`, up to `close_file`."""
        ...

    def write(self, content: memoryview) -> None:
        """Append to the open file."""
        ...

    def seek(self, offset: int) -> None:
        """Leave a hole in the open file."""
        ...

    def close_file(self, member: Member, sha256: str) -> Lost:
        """Give the open file its size and attributes."""
        ...

    def make_symlink(self, parent: int, name: bytes, member: Member) -> Lost:
        """Make a symlink."""
        ...

    def make_node(self, parent: int, name: bytes, member: Member) -> Lost | None:
        """Make a device or a FIFO; None where it cannot be made."""
        ...

    def make_hard_link(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> None:
        """Give a name that is no directory a second name."""
        ...

    def link_or_copy(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> int | None:
        """The same at once; where the file takes no more names, a copy, of so many bytes."""
        ...

    def remove_name(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        ...

    def finish_directory(
        self, number: int, attributes: Attributes, whiteouts: tuple[bytes, ...], *, opaque: bool
    ) -> Lost:
        """Make the whiteouts and set the attributes, once nothing else comes below."""
        ...

    def losses(self) -> dict[str, int]:
        """Wait until everything is made; how often something could not be kept."""
        ...
