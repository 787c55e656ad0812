"""What CernVM-FS keeps of an entry when it is ingested, and what is noted as lost.

Extended attributes and the identity of hard links are dropped; times are whole
seconds unless the repository keeps nanoseconds.  Some names are CernVM-FS' own:
an image's entries with these are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...cvmfs.catalog import MARKER
from ...tree import mtree
from ...tree.attributes import OVERLAY_XATTRS
from ...tree.mtree import LOST, Entry

_BUNDLES = b".cvmfsbundles"
_SECOND = 1_000_000_000


def plain(line: bytes) -> re.Match[bytes] | None:
    """The parts of a line that is kept as it is; None where it wants a closer look."""
    match = mtree.PLAIN.match(line)
    return None if match is None or b".cvmfs" in line else match


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a repository keeps entries; ``nanoseconds`` says whether it has them in times."""

    nanoseconds: bool = False

    def relabelled(self, entry: Entry) -> Entry:
        """The entry with what CernVM-FS loses of it, and nothing else, noted as lost."""
        flags = {flag for flag in entry.flags if not flag.startswith(LOST)}
        flags |= self._losses(entry)
        return entry if flags == entry.flags else replace(entry, flags=frozenset(flags))

    def relabelled_line(self, line: bytes) -> bytes:
        """The same for a line."""
        return line if plain(line) else self.relabelled(Entry.parse(line)).line()

    def _losses(self, entry: Entry) -> set[bytes]:
        lost = set()
        if not keeps_name(entry):
            lost.add(LOST + b"names")
        if any(not name.startswith(OVERLAY_XATTRS) for name, _ in entry.xattrs):
            lost.add(LOST + b"xattrs")
        if entry.hardlink and b"lower" not in entry.flags:
            lost.add(LOST + b"hardlinks")
        if entry.mtime_ns % _SECOND and not self.nanoseconds and b"whiteout" not in entry.flags:
            lost.add(LOST + b"mtimes")
        if entry.kind == mtree.SOCKET:
            lost.add(LOST + b"devices")
        return lost


def keeps_name(entry: Entry) -> bool:
    """Whether the entry can be published under its name."""
    if b".cvmfs" not in entry.path:
        return True
    *parents, name = entry.path.split(b"/")
    if MARKER in parents or name == _BUNDLES or _BUNDLES in parents:
        return False
    return name != MARKER or entry.kind == mtree.FILE
