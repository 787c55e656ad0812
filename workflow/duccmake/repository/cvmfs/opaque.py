"""Opaque directories of a layer, spelled out: CernVM-FS has no attribute to mark them with.

A whiteout in such a directory says of a name what the mark says of all: nothing of lower
layers is there.  It is the one thing that a layer here has beyond its blob.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...tree import mtree
from ...tree.mtree import Entry, decode_path, encode_path


class Spelled:
    """A layer whose manifest is ``manifest``, and ``added``: its further whiteouts, by path.

    ``new``: the layer is not published yet.
    """

    def __init__(self, manifest: Path, *, new: bool) -> None:
        # Most lines stay as they are and are never taken apart.
        self._lines: dict[bytes, bytes] = {}
        with manifest.open("rb") as lines:
            for line in lines:
                if not line.startswith(b"#"):
                    self._lines[line.partition(b" ")[0]] = line
        self.new = new
        self.added: dict[bytes, Entry] = {}

    def lacks(self, path: bytes) -> bool:
        """Whether the layer has nothing at ``path``, so that something lower shows there."""
        return encode_path(path) not in self._lines

    def hide(self, paths: Iterable[bytes]) -> None:
        """Add whiteouts where nothing is."""
        for path in filter(self.lacks, paths):
            entry = Entry(path, mtree.CHAR, mode=0, flags=frozenset({b"whiteout"}))
            self.added[path] = entry
            self._lines[encode_path(path)] = entry.line()

    def lines(self) -> Iterable[bytes]:
        """The whole manifest, parents first."""
        if self.added:
            return [line for _, line in sorted(self._lines.items(), key=_order)]
        return self._lines.values()


def _order(item: tuple[bytes, bytes]) -> list[tuple[bool, bytes]]:
    """A directory, what is in it, then its directories: so a link group's first path stays so."""
    path, line = item
    if path == b".":
        return []
    *parents, name = decode_path(path).split(b"/")
    return [(True, parent) for parent in parents] + [(b" type=dir " in line, name)]
