"""Hard links of a layer to what it has not under that name, but a lower layer perhaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...errors import LayerError
from ...tree import mtree
from ...tree.mtree import decode
from .nodes import Children, Dir, Node, Plain, Shared, provider, share, walk


@dataclass(slots=True, eq=False)
class PendingLink:
    """A hard link to the path ``target``, which its layer has not under that name.

    ``old`` is what lower layers have there.  ``children`` is the directory that the link
    is in, once that is known.
    """

    target: bytes
    old: Node | None
    name: bytes
    children: Children = field(default_factory=dict)


_Name = tuple[int, bytes]
"""A directory's children, by their identity, and a name."""


class LowerLinks:
    """Those links of a layer: found before anything changes, and made when all else is there."""

    def __init__(self, root: Dir, number: int, lines: Sequence[bytes]) -> None:
        self._root = root
        self._number = number
        self._links: dict[bytes, PendingLink] = {}
        for line in lines:
            if b"lower" in line and mtree.has_tag(line, b"lower"):
                self._find(line)

    def _find(self, line: bytes) -> None:
        path, _, rest = line.partition(b" ")
        target = mtree.first_name(rest)
        assert target is not None
        found = self._lookup(target)
        old = None
        if found is not None and isinstance(old := found[0].get(found[1]), tuple):
            old = share(*found)
        self._links[path] = PendingLink(target, old, path.rpartition(b"/")[2])

    def get(self, path: bytes) -> PendingLink | None:
        """The link at a path."""
        return self._links.get(path)

    def make(self) -> Iterator[tuple[bytes, Shared | Plain]]:
        """Make the links, now that all else of the layer is in the tree: what is where.

        Where one leads through a lower layer's symlink, that may be to what this layer has
        behind it, which may be a link itself.  Raises `LayerError` for one to nothing.
        """
        made: dict[_Name, Shared | Plain] = {}
        waiting = {(id(link.children), link.name): link for link in self._links.values()}
        for path, first in self._links.items():
            chain: dict[_Name, PendingLink] = {}
            place, link, found = (id(first.children), first.name), first, None
            while place not in chain and place not in made:
                chain[place] = link
                found = self._lookup(link.target)
                if found is None:
                    break
                place = (id(found[0]), found[1])
                if place not in waiting:
                    break
                link = waiting[place]
            node = made.get(place) or self._own(found) or link.old
            if node is None or isinstance(node, Dir):
                raise _dangling(path, first.target, node)
            for place, link in chain.items():
                made[place] = link.children[link.name] = node
            yield path, node

    def _lookup(self, target: bytes) -> tuple[Children, bytes, bytes] | None:
        """Where a path leads: the directory's children, the name, the real path."""
        *parents, name = target.split(b"/")
        found = walk(self._root, parents)
        return None if found is None else (found[0].children, name, b"%b/%b" % (found[1], name))

    def _own(self, found: tuple[Children, bytes, bytes] | None) -> Shared | None:
        """What this layer has in a place, if it is no directory."""
        node = None if found is None else found[0].get(found[1])
        if found is None or node is None or provider(node) != self._number:
            return None
        return None if isinstance(node, Dir) else share(*found)


def _dangling(path: bytes, target: bytes, node: Node | None) -> LayerError:
    if node is not None:
        what = "a directory, to which no hard link can lead"
    else:
        what = "neither in its layer nor in one below"
    return LayerError(
        f"{decode(path)!r} is a hard link to {decode(target)!r}, which is {what}",
        hint="the image is broken: ask its author to build it again",
    )
