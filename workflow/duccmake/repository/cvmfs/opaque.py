"""Opaque directories of a layer, spelled out: ingesting drops the attributes that mark them.

A whiteout in such a directory says of a name what the mark says of all: nothing of lower
layers is there.  It is the one thing that a layer here has beyond its blob.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ...layer.catalogs import StagedCatalogs
from ...oci.reference import Digest
from ...tree import mtree
from ...tree.mtree import Entry, decode_path, encode_path
from .. import overlay_losses
from ..commit import Commit
from ..model import StagedImage, StagedLayer


class Spelled:
    """A layer with the ``lines`` of its manifest, and ``added``: its further whiteouts, by path.

    ``new``: the layer is not published yet.
    """

    def __init__(self, lines: Iterable[bytes], *, new: bool) -> None:
        # Most lines stay as they are and are never taken apart.
        self._lines: dict[bytes, bytes] = {}
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


class SpelledForm:
    """Layers whose opaque directories are spelled out; keeps to `LayerForm`.

    ``spelled`` are those of which an opaque directory hides something in an image.
    """

    def __init__(self) -> None:
        self.spelled: dict[Digest, Spelled] = {}

    def is_staged(self, layer: StagedLayer) -> bool:
        """Whether a layer is staged with its catalogs."""
        return StagedCatalogs.is_in(layer.path)

    def hide(self, commit: Commit, image: StagedImage, notes: overlay_losses.Notes) -> Counter[str]:
        """Add to layers what their opaque directories hide in the image; nothing is lost."""
        for number, paths in hidden(notes):
            digest = image.layers[number]
            if digest not in self.spelled:
                new = digest in commit.whole.layers
                self.spelled[digest] = Spelled(commit.lines(digest), new=new)
            self.spelled[digest].hide(paths)
        return Counter()

    def lines(self, commit: Commit, digest: Digest) -> Iterator[bytes]:
        """The manifest of a layer as it is published, parents first."""
        if digest in self.spelled:
            yield from self.spelled[digest].lines()
        else:
            yield from commit.lines(digest)


def hidden(notes: overlay_losses.Notes) -> Iterator[tuple[int, list[bytes]]]:
    """What opaque directories hide, by the layer's number."""
    for number, entries in notes.items():
        if paths := overlay_losses.hidden(entries):
            yield number, paths


def _order(item: tuple[bytes, bytes]) -> list[tuple[bool, bytes]]:
    """A directory, what is in it, then its directories: so a link group's first path stays so."""
    path, line = item
    if path == b".":
        return []
    *parents, name = decode_path(path).split(b"/")
    return [(True, parent) for parent in parents] + [(b" type=dir " in line, name)]
