"""One layer laid over the tree of those below it (image-spec, layer.md, "Applying Changesets")."""

from __future__ import annotations

from collections.abc import Sequence

from ...tree import mtree
from ...tree.mtree import (
    IMPLIED_DIR,
    LOST,
    TAGS,
    TYPE_DIR,
    WHITEOUT,
    WHITEOUT_TAG,
    tagged,
    with_origin,
)
from .links import LowerLinks
from .nodes import Children, Dir, Node, parts, provider, refuse_own, share, symlink_target, walk

_COVERED = LOST + b"covered"
"""On what an overlay does not show, since the layer has a directory of its own there."""

_UNHIDDEN = LOST + b"whiteouts"
"""On what an overlay shows though the layer removes it, through a symlink."""

_UNLINKED = LOST + b"links"
"""On a hard link to a lower layer, which the layer has not."""

_IMPLICIT = LOST + b"directories"
"""On a directory that the layer only implies, and that is another one in the image, or none."""

_OWN_FLAGS = (b"implied", b"opaque")
"""What is a layer's alone, and not said of a directory of an image."""


class Merge:
    """Lays a layer, by its number and the lines of its manifest, over the tree below it.

    ``notes`` are then the lines, by path, of what an overlay does not show as it is.
    """

    def __init__(self, root: Dir, number: int, lines: Sequence[bytes]) -> None:
        self.notes: dict[bytes, bytes] = {}
        self._root = root
        self._number = number
        self._lines = lines
        self._links = LowerLinks(root, number, lines)
        # Where this layer's directories are in the tree: elsewhere where a lower layer
        # has a symlink in the way.  None: not there, or below something that is no directory.
        self._places: dict[bytes, Dir | None] = {b".": root}
        self._moved: set[bytes] = set()
        self._unsure: list[bytes] = []
        self._hidden: dict[bytes, Dir] = {}
        self._in_the_way: list[tuple[bytes, Children, bytes]] = []

    def apply(self) -> None:
        """Apply all lines, in their order (parents first); raises `LayerError`."""
        number = self._number
        last_parent = b""
        children: Children = {}
        moved = False
        for line in self._lines:
            path, _, rest = line.partition(b" ")
            if path.startswith(b"#"):
                continue
            if rest.startswith(TYPE_DIR):
                self._directory(path, rest)
                last_parent = b""
                continue
            parent_path, _, name = path.rpartition(b"/")
            if parent_path != last_parent:
                place = self._places[parent_path]
                if place is None:
                    if WHITEOUT_TAG in rest:
                        continue
                    place = self._make_way(parent_path)
                children = place.children
                last_parent = parent_path
                moved = parent_path in self._moved
            if TAGS in rest:
                self._tagged_entry(path, rest, children, name)
            else:
                children[name] = (rest, number, path if moved else b"")
        for path, node in self._links.make():
            self.notes[path] = tagged(parts(node)[0], _UNLINKED)
        self._complete_notes()

    def _complete_notes(self) -> None:
        """Note what is only known now that all of the layer is in the tree."""
        for path in self._unsure:
            if self._places[path] is None:
                self.notes[path] = tagged(IMPLIED_DIR, _IMPLICIT)
        for path in [path for path, rest in self.notes.items() if rest == WHITEOUT]:
            parent, _, name = path.rpartition(b"/")
            place = self._places[parent]
            if place is not None and name in place.children:
                # The layer's own entry hides what was there as well.
                del self.notes[path]
        # What stays in the tree and is covered by this layer's implied directories.
        for path, children, name in self._in_the_way:
            node = children.get(name)
            if node is not None and not isinstance(node, Dir):
                rest, layer, source = parts(node)
                self.notes[path] = with_origin(tagged(rest, _COVERED), layer, source)

    # --- directories ----------------------------------------------------

    def _directory(self, path: bytes, rest: bytes) -> None:
        rest, flags = mtree.take_tags(rest, _OWN_FLAGS)
        if path == b".":
            place: Dir | None = self._root
        else:
            parent_path, _, name = path.rpartition(b"/")
            parent = self._places[parent_path]
            if b"implied" in flags:
                place = self._implied(path, parent, name)
                if parent is not None and parent_path not in self._moved:
                    self._note_in_the_way(path, parent, name)
            else:
                place = self._explicit(parent or self._make_way(parent_path), name, rest)
            if parent_path in self._moved:
                self._moved.add(path)
            self._hide_again(path)
        self._places[path] = place
        if b"implied" in flags and path not in self._moved:
            self._note_implied(path, place, rest)
        if place is None:
            return
        if b"opaque" in flags:
            self._hide_all(path, place)
        if b"implied" not in flags:
            place.rest, place.layer = rest, self._number

    def _explicit(self, parent: Dir, name: bytes, rest: bytes) -> Dir:
        node = parent.children.get(name)
        if not isinstance(node, Dir):
            node = parent.children[name] = Dir(rest, self._number)
        return node

    def _note_implied(self, path: bytes, place: Dir | None, rest: bytes) -> None:
        """Note a directory that is not in the image what the layer, or any, has it for.

        Earlier versions gave a published layer's directories the attributes of the
        image that was first.
        """
        if rest != IMPLIED_DIR or (place is not None and place.rest != IMPLIED_DIR):
            self.notes[path] = tagged(IMPLIED_DIR if place is None else place.rest, _IMPLICIT)
        elif place is None:
            self._unsure.append(path)

    def _note_in_the_way(self, path: bytes, parent: Dir, name: bytes) -> None:
        node = parent.children.get(name)
        if node is not None and not isinstance(node, Dir):
            self._in_the_way.append((path, parent.children, name))

    def _implied(self, path: bytes, parent: Dir | None, name: bytes) -> Dir | None:
        """A directory that the layer needs: the lower one, or where a lower symlink leads."""
        if parent is None:
            return None
        node = parent.children.get(name)
        if isinstance(node, Dir):
            return node
        found = None
        if symlink_target(node) is not None:
            found = walk(self._root, path.split(b"/")[1:])
        if found is None:
            # Made once something is in it: whiteouts alone make no directory.
            return None
        self._moved.add(path)
        return found[0]

    def _make_way(self, path: bytes) -> Dir:
        """Put directories where there is none or a file, now that something is below it."""
        place = self._places[path]
        if place is None:
            parent_path, _, name = path.rpartition(b"/")
            children = self._make_way(parent_path).children
            node = children.get(name)
            if isinstance(node, Dir):
                place = node
            elif symlink_target(node) is not None:
                # The directories that it leads to, if no file is in the way.
                found = walk(self._root, path.split(b"/")[1:], self._number)
                if found is not None:
                    place = found[0]
                    self._moved.add(path)
            if place is None:
                # In the place of a file, or of a symlink that leads to one, which stays.
                refuse_own(node, name, self._number)
                place = children[name] = Dir(IMPLIED_DIR, self._number)
            if parent_path in self._moved:
                self._moved.add(path)
            self._places[path] = place
        return place

    def _hide_all(self, path: bytes, place: Dir) -> None:
        """An opaque directory: nothing of lower layers stays, its own layer's does."""
        for name, node in list(place.children.items()):
            if provider(node) != self._number:
                del place.children[name]
                self._hide(b"%b/%b" % (path, name), node, moved=path in self._moved)

    def _hide(self, path: bytes, node: Node, *, moved: bool) -> None:
        """Note what an opaque directory hides."""
        self.notes[path] = tagged(WHITEOUT, _UNHIDDEN) if moved else WHITEOUT
        if isinstance(node, Dir) and not moved:
            self._hidden[path] = node

    def _hide_again(self, path: bytes) -> None:
        """Where the layer has a directory in the place of one that is hidden: what that had."""
        hidden = self._hidden.pop(path, None)
        if hidden is not None:
            del self.notes[path]
            for name, node in hidden.children.items():
                self._hide(b"%b/%b" % (path, name), node, moved=False)

    # --- other entries --------------------------------------------------

    def _tagged_entry(self, path: bytes, rest: bytes, children: Children, name: bytes) -> None:
        if WHITEOUT_TAG in rest:
            node = children.get(name)
            # Through a symlinked directory, this layer's own entry may be there already.
            if node is not None and provider(node) != self._number:
                del children[name]
                if path.rpartition(b"/")[0] in self._moved:
                    self.notes[path] = tagged(WHITEOUT, _UNHIDDEN)
            return
        link = self._links.get(path)
        if link is not None:
            link.children = children
            return
        linked = mtree.first_name(rest)
        if linked is None:
            children[name] = (rest, self._number, path)
            return
        first = b"./" + linked
        head_parent, _, head_name = first.rpartition(b"/")
        place = self._places[head_parent]
        assert place is not None
        children[name] = share(place.children, head_name, first)
