"""What catalogs cannot keep of an entry, and what is noted as lost.

Extended attributes have at most 255 bytes.  Names of one inode stay one within a
directory, where the repository has hard links at all.  Clients put variables of their
environment into symlinks.  Some names are CernVM-FS' own: entries with these are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from ..tree import mtree
from ..tree.attributes import OVERLAY_XATTRS
from ..tree.mtree import LOST, Entry
from .catalog import MARKER
from .rows import pack_xattrs

NANOSECONDS = 1_000_000_000

OPAQUE = tuple(
    (name, b"y")
    for name in (
        b"trusted.overlay.opaque",
        b"user.fuseoverlayfs.opaque",
        b"user.overlay.opaque",
    )
)
"""What marks a directory that hides those below, for the kernel, fuse-overlayfs and podman."""

_OWN_NAMES = frozenset({MARKER, b".cvmfsbundles"})
_DOLLAR = mtree.encode(b"$(")
_VARIABLE = re.compile(rb"\$\(.*\)", re.DOTALL)
_MOST_SECONDS = 2**63 - 1


def plain(line: bytes) -> re.Match[bytes] | None:
    """The parts of a line that is kept as it is; None where it wants a closer look."""
    match = mtree.PLAIN.match(line)
    if match is None or b".cvmfs" in line or _DOLLAR in line or len(match["seconds"]) > 18:
        return None
    return match


def keeps_name(path: bytes) -> bool:
    """Whether what an image has at a path can be published under it."""
    return b".cvmfs" not in path or _OWN_NAMES.isdisjoint(path.split(b"/"))


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a repository keeps: times in nanoseconds, hard links, extended attributes, sockets."""

    nanoseconds: bool = False
    hard_links: bool = False
    xattrs: bool = True
    sockets: bool = True

    @classmethod
    def ingested(cls, nanoseconds: bool = False) -> Keeping:
        """What ``cvmfs_server ingest`` keeps of an archive."""
        return cls(nanoseconds, hard_links=False, xattrs=False, sockets=False)

    def relabelled(self, entry: Entry) -> Entry:
        """The entry with what catalogs lose of it, and nothing else, noted as lost."""
        flags = {flag for flag in entry.flags if not flag.startswith(LOST)}
        flags |= {LOST + what for what in self._losses(entry)}
        return entry if flags == entry.flags else replace(entry, flags=frozenset(flags))

    def relabelled_line(self, line: bytes) -> bytes:
        """The same for a line."""
        return line if plain(line) else self.relabelled(Entry.parse(line)).line()

    def time(self, entry: Entry) -> tuple[int, int | None]:
        """An entry's time as rows have it, in seconds and nanoseconds."""
        seconds, rest = divmod(entry.mtime_ns, NANOSECONDS)
        if abs(seconds) > _MOST_SECONDS:
            return (_MOST_SECONDS if seconds > 0 else -_MOST_SECONDS), self.no_nanoseconds
        return seconds, rest if self.nanoseconds else None

    @property
    def no_nanoseconds(self) -> int | None:
        """What rows have for a time of whole seconds."""
        return 0 if self.nanoseconds else None

    def packed_xattrs(self, entry: Entry) -> tuple[bytes | None, int]:
        """An entry's extended attributes as rows have them, and how many are lost.

        An image's own never act in an overlay; opaque directories are marked for that.
        """
        opaque: Collection[tuple[bytes, bytes]] = OPAQUE if b"opaque" in entry.flags else ()
        if not entry.xattrs:
            return pack_xattrs(opaque)
        own = [(name, value) for name, value in entry.xattrs if not name.startswith(OVERLAY_XATTRS)]
        if not self.xattrs:
            return pack_xattrs(opaque)[0], len(own)
        return pack_xattrs((*opaque, *own))

    def _losses(self, entry: Entry) -> set[bytes]:
        lost = set()
        if not keeps_name(entry.path):
            lost.add(b"names")
        if self.packed_xattrs(entry)[1]:
            lost.add(b"xattrs")
        if entry.hardlink and b"lower" not in entry.flags and not self._links(entry):
            lost.add(b"hardlinks")
        if b"whiteout" not in entry.flags and self._time_kept(entry) != entry.mtime_ns:
            lost.add(b"mtimes")
        if entry.kind == mtree.SOCKET and not self.sockets:
            lost.add(b"devices")
        if entry.kind == mtree.LINK and _VARIABLE.search(entry.target):
            lost.add(b"targets")
        return lost

    def _links(self, entry: Entry) -> bool:
        return self.hard_links and _directory(entry.path) == _directory(entry.hardlink)

    def _time_kept(self, entry: Entry) -> int:
        seconds, rest = self.time(entry)
        return seconds * NANOSECONDS + (rest or 0)


def _directory(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
