"""Flattening: the layers' manifests, lowest first, become the image's manifest.

A pure function over text (image-spec, layer.md, "Applying Changesets"): no
content is read or copied, each entry names the layer that provides it.  Paths
stay as the manifests encode them and lines are not taken apart, which is what
keeps an image with hundreds of thousands of entries within seconds.

Besides the flat tree comes what an overlay of the layers, as they are unpacked, does
not show as the image has it: a layer is unpacked without knowing those below it, so
hard links to lower layers, attributes of directories that it does not mention, what an
opaque directory hides, and where a symlink in its way leads are only known here.  All
of this is another thing in another chain, so it is noted and goes into no layer.
`chain_changes` gives what such a layer changes in this one chain.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..errors import LayerError
from ..oci.manifest import ImageConfig
from ..oci.reference import Digest
from ..tree import mtree
from ..tree.mtree import (
    IMPLIED_DIR,
    LINE,
    LOST,
    NO_LAYER,
    TAGS,
    TYPE_DIR,
    WHITEOUT,
    WHITEOUT_TAG,
    decode,
    encode,
    has_tag,
    tagged,
    with_origin,
)
from .disk import is_safe_time
from .singularity import Generated, generated

_HOPS = 40

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


@dataclass(frozen=True, slots=True)
class LayerTree:
    """A layer and the text of its ``tree.mtree``."""

    digest: Digest
    manifest: bytes


@dataclass(slots=True, eq=False)
class _Shared:
    """An entry that has, or may have, several names; ``first`` is its first in the output."""

    rest: bytes
    layer: int
    source: bytes
    first: bytes = b""


@dataclass(slots=True, eq=False)
class _Dir:
    """A directory: its line, who provides that, what is in it."""

    rest: bytes
    layer: int
    children: dict[bytes, _Node] = field(default_factory=dict)


_Plain = tuple[bytes, int, bytes]
"""The line of an entry behind its path, the providing layer, its path there if another."""

_Node = _Dir | _Shared | _Plain


@dataclass(slots=True, eq=False)
class _Link:
    """A hard link to what its layer has not under the name ``target``.

    ``old`` is what lower layers have there.  ``children`` is the directory that the link
    is in, once that is known.
    """

    target: bytes
    old: _Node | None
    name: bytes
    children: dict[bytes, _Node] = field(default_factory=dict)


_Place = tuple[int, bytes]
"""A directory's children, by their identity, and a name."""


@dataclass(frozen=True, slots=True)
class FlatTree:
    """The result: the root of the tree, and for each layer what an overlay does not show as it is.

    ``notes`` are lines by path: what is flagged ``lost:``, and whiteouts that spell out
    what opaque directories hide, for readers that do not see these marked.
    """

    layers: tuple[Digest, ...]
    root: _Dir
    notes: tuple[dict[bytes, bytes], ...]
    generated: dict[bytes, bytes]

    def lines(self) -> Iterator[bytes]:
        """The image's manifest, parents first, without comments."""
        for shared in _shared_below(self.root):
            shared.first = b""
        stack: list[tuple[bytes, _Dir]] = [(b".", self.root)]
        while stack:
            path, directory = stack.pop()
            yield _output(path, directory.rest, directory.layer, b"")
            below: list[tuple[bytes, _Dir]] = []
            prefix = path + b"/"
            children = directory.children
            for name in sorted(children):
                node = children[name]
                if isinstance(node, tuple):
                    yield _output(prefix + name, *node)
                elif isinstance(node, _Dir):
                    below.append((prefix + name, node))
                else:
                    yield _output_shared(prefix + name, node)
            stack += reversed(below)

    def write(self, destination: Path) -> int:
        """Write ``tree.mtree``, ``generated/`` and ``layers/``; return the entries' number."""
        (destination / "layers").mkdir(parents=True)
        count = 0
        with (destination / "tree.mtree").open("wb", buffering=1024 * 1024) as out:
            out.write(mtree.FORMAT)
            out.writelines(
                b"# layer %d %b\n" % (n, str(d).encode()) for n, d in enumerate(self.layers)
            )
            for line in self.lines():
                out.write(line)
                count += 1
        for path, content in self.generated.items():
            file = destination / "generated" / Path(decode(path).decode())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for number, notes in enumerate(self.notes):
            if not notes:
                continue
            with (destination / "layers" / f"{number}.mtree").open("wb") as out:
                out.write(mtree.FORMAT)
                out.writelines(LINE % (path, notes[path]) for path in sorted(notes))
        return count


def flatten_image(
    layers: Sequence[LayerTree],
    config: ImageConfig,
    destination: Path,
    *,
    name: str,
    mount_points: Sequence[str],
    fix_permissions: bool = False,
) -> int:
    """Flatten an image into ``destination/image``, which appears whole or not at all.

    Returns the number of entries.  What is generated bears the image's time of
    creation, so that one image always gives the same tree.  With ``fix_permissions``
    everybody may read and run it, and what was widened for that is flagged.
    """
    extra = generated(config, name=name, mount_points=mount_points)
    tree = flatten(layers, extra, mtime_ns=_created_ns(config))
    if fix_permissions:
        _widen(tree.root)
    partial = destination / "image.partial"
    shutil.rmtree(partial, ignore_errors=True)
    count = tree.write(partial)
    partial.rename(destination / "image")
    return count


def _created_ns(config: ImageConfig) -> int:
    """When the image was made; 0 for what is no time, such as the year 1 that Go writes then,
    and for what not every file system keeps.
    """
    try:
        moment = datetime.fromisoformat(config.created)
    except ValueError:
        return 0
    mtime_ns = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * 1_000_000_000
    return mtime_ns if mtime_ns > 0 and is_safe_time(mtime_ns) else 0


def flatten(
    layers: Sequence[LayerTree], extra: Iterable[Generated] = (), *, mtime_ns: int = 0
) -> FlatTree:
    """Merge layers, lowest first, and add what is generated (stamped with ``mtime_ns``).

    Raises `LayerError` where a layer's hard link names what no lower layer has,
    or its path leads through more symlinks than a system follows.
    """
    root = _Dir(IMPLIED_DIR, 0)
    notes = []
    for number, layer in enumerate(layers):
        merge = _Merge(root, number)
        try:
            merge.apply(layer.manifest.splitlines())
        except LayerError as error:
            raise error.within(step=f"flattening layer {layer.digest}") from None
        notes.append(merge.notes)
    contents = _add_generated(root, extra, mtime_ns)
    return FlatTree(tuple(layer.digest for layer in layers), root, tuple(notes), contents)


def noted_layers(layers: Sequence[LayerTree]) -> set[int]:
    """The numbers of the layers that an overlay does not show as they are in this chain."""
    return {number for number, notes in enumerate(flatten(layers).notes) if notes}


def chain_changes(layers: Sequence[LayerTree], numbers: Collection[int]) -> dict[int, bytes]:
    """What the layers of these ``numbers`` change in this chain.

    Each is a manifest of what the layer puts and removes (whiteouts), in the places
    where that is, with the directories on the way, and as in an image's manifest the
    layer that provides each entry.  Trees of these in the place of the layers make an
    overlay that is the image.  Raises `LayerError` as `flatten` does.
    """
    root = _Dir(IMPLIED_DIR, 0)
    found = {}
    for number, layer in enumerate(layers[: max(numbers, default=-1) + 1]):
        before = _copy(root) if number in numbers else None
        _Merge(root, number).apply(layer.manifest.splitlines())
        if before is not None:
            found[number] = mtree.FORMAT + b"".join(_changes(before, root))
    return found


class _Merge:
    """Lays one layer over the tree below it."""

    def __init__(self, root: _Dir, number: int) -> None:
        self.notes: dict[bytes, bytes] = {}
        self._root = root
        self._number = number
        # Where this layer's directories are in the tree: elsewhere where a lower layer
        # has a symlink in the way.  None: not there, or below something that is no directory.
        self._places: dict[bytes, _Dir | None] = {b".": root}
        self._links: dict[bytes, _Link] = {}
        self._moved: set[bytes] = set()
        self._unsure: list[bytes] = []
        self._hidden: dict[bytes, _Dir] = {}
        self._in_the_way: list[tuple[bytes, dict[bytes, _Node], bytes]] = []

    def apply(self, lines: Sequence[bytes]) -> None:
        """Apply all lines of the layer's manifest, in its order (parents first)."""
        number = self._number
        self._find_links(lines)
        last_parent = b""
        children: dict[bytes, _Node] = {}
        moved = False
        for line in lines:
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
        self._make_links()
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
            if node is not None and not isinstance(node, _Dir):
                rest, layer, source = (
                    node if isinstance(node, tuple) else (node.rest, node.layer, node.source)
                )
                self.notes[path] = with_origin(tagged(rest, _COVERED), layer, source)

    # --- directories ----------------------------------------------------

    def _directory(self, path: bytes, rest: bytes) -> None:
        rest, flags = mtree.take_tags(rest, _OWN_FLAGS)
        if path == b".":
            place: _Dir | None = self._root
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

    def _explicit(self, parent: _Dir, name: bytes, rest: bytes) -> _Dir:
        node = parent.children.get(name)
        if not isinstance(node, _Dir):
            node = parent.children[name] = _Dir(rest, self._number)
        return node

    def _note_implied(self, path: bytes, place: _Dir | None, rest: bytes) -> None:
        """Note a directory that is not in the image what the layer, or any, has it for.

        Earlier versions gave a published layer's directories the attributes of the
        image that was first.
        """
        if rest != IMPLIED_DIR or (place is not None and place.rest != IMPLIED_DIR):
            self.notes[path] = tagged(IMPLIED_DIR if place is None else place.rest, _IMPLICIT)
        elif place is None:
            self._unsure.append(path)

    def _note_in_the_way(self, path: bytes, parent: _Dir, name: bytes) -> None:
        node = parent.children.get(name)
        if node is not None and not isinstance(node, _Dir):
            self._in_the_way.append((path, parent.children, name))

    def _implied(self, path: bytes, parent: _Dir | None, name: bytes) -> _Dir | None:
        """A directory that the layer needs: the lower one, or where a lower symlink leads."""
        if parent is None:
            return None
        node = parent.children.get(name)
        if isinstance(node, _Dir):
            return node
        found = None
        if node is not None and _target(node) is not None:
            found = self._walk(path.split(b"/")[1:], make=False)
        if found is None:
            # Made once something is in it: whiteouts alone make no directory.
            return None
        self._moved.add(path)
        return found[0]

    def _make_way(self, path: bytes) -> _Dir:
        """Put directories where there is none or a file, now that something is below it."""
        place = self._places[path]
        if place is None:
            parent_path, _, name = path.rpartition(b"/")
            children = self._make_way(parent_path).children
            node = children.get(name)
            if isinstance(node, _Dir):
                place = node
            elif node is not None and _target(node) is not None:
                place = self._make_target(path)
                if place is not None:
                    self._moved.add(path)
            if place is None:
                # In the place of a file, or of a symlink that leads to one, which stays.
                self._refuse_own(node, name)
                place = children[name] = _Dir(IMPLIED_DIR, self._number)
            if parent_path in self._moved:
                self._moved.add(path)
            self._places[path] = place
        return place

    def _refuse_own(self, node: _Node | None, name: bytes) -> None:
        if node is not None and _provider(node) == self._number:
            raise LayerError(
                f"{decode(name)!r} is a file and a directory in one layer, by way of a symlink",
                hint="the image is broken: ask its author to build it again",
            )

    def _make_target(self, path: bytes) -> _Dir | None:
        """Make the directories that a symlink leads to; None where a file is in the way."""
        found = self._walk(path.split(b"/")[1:], make=True)
        return found[0] if found else None

    def _walk(self, parts: list[bytes], *, make: bool) -> tuple[_Dir, bytes] | None:
        """Follow (encoded) components from the root, through symlinks, never above the root.

        Returns the directory and where in the tree it is; None where a file is in the way
        or, without ``make``, there is nothing.
        """
        trail = [self._root]
        names = [b"."]
        pending = parts[::-1]
        made: list[tuple[dict[bytes, _Node], bytes]] = []
        hops = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                    names.pop()
                continue
            node = trail[-1].children.get(name)
            if isinstance(node, _Dir):
                trail.append(node)
                names.append(name)
                continue
            target = None if node is None else _target(node)
            if target is not None:
                hops += 1
                if hops > _HOPS:
                    raise LayerError(
                        f"{b'/'.join(parts)!r} leads through more than {_HOPS} symlinks"
                    )
                if target.startswith(b"/"):
                    del trail[1:], names[1:]
                pending += [encode(part) for part in target.split(b"/")][::-1]
            elif make and node is None:
                made.append((trail[-1].children, name))
                trail.append(_Dir(IMPLIED_DIR, self._number))
                made[-1][0][name] = trail[-1]
                names.append(name)
            else:
                if make:
                    self._refuse_own(node, name)
                for children, name in made:
                    children.pop(name, None)
                return None
        return trail[-1], b"/".join(names)

    def _hide_all(self, path: bytes, place: _Dir) -> None:
        """An opaque directory: nothing of lower layers stays, its own layer's does."""
        for name, node in list(place.children.items()):
            if _provider(node) != self._number:
                del place.children[name]
                self._hide(b"%b/%b" % (path, name), node, moved=path in self._moved)

    def _hide(self, path: bytes, node: _Node, *, moved: bool) -> None:
        """Note what an opaque directory hides."""
        self.notes[path] = tagged(WHITEOUT, _UNHIDDEN) if moved else WHITEOUT
        if isinstance(node, _Dir) and not moved:
            self._hidden[path] = node

    def _hide_again(self, path: bytes) -> None:
        """Where the layer has a directory in the place of one that is hidden: what that had."""
        hidden = self._hidden.pop(path, None)
        if hidden is not None:
            del self.notes[path]
            for name, node in hidden.children.items():
                self._hide(b"%b/%b" % (path, name), node, moved=False)

    # --- other entries --------------------------------------------------

    def _tagged_entry(
        self, path: bytes, rest: bytes, children: dict[bytes, _Node], name: bytes
    ) -> None:
        if WHITEOUT_TAG in rest:
            node = children.get(name)
            # Through a symlinked directory, this layer's own entry may be there already.
            if node is not None and _provider(node) != self._number:
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
        children[name] = self._share(place.children, head_name, first)

    def _share(self, children: dict[bytes, _Node], name: bytes, path: bytes) -> _Shared:
        node = children[name]
        if isinstance(node, _Dir):
            raise LayerError(f"{decode(path)!r} is a directory, to which no hard link can lead")
        if isinstance(node, tuple):
            rest, layer, source = node
            node = children[name] = _Shared(rest, layer, source or path)
        return node

    # --- hard links to what the layer has not under that name ------------

    def _find_links(self, lines: Sequence[bytes]) -> None:
        """Look up what lower layers have where links lead, before anything changes."""
        for line in lines:
            if b"lower" not in line or not has_tag(line, b"lower"):
                continue
            path, _, rest = line.partition(b" ")
            target = mtree.first_name(rest)
            assert target is not None
            found = self._lookup(target)
            old = None
            if found is not None and isinstance(old := found[0].get(found[1]), tuple):
                old = self._share(*found)
            self._links[path] = _Link(target, old, path.rpartition(b"/")[2])

    def _make_links(self) -> None:
        """Make the links, now that all else of the layer is in the tree.

        Where one leads through a lower layer's symlink, that may be to what this layer has
        behind it, which may be a link itself.
        """
        made: dict[_Place, _Node] = {}
        waiting = {(id(link.children), link.name): link for link in self._links.values()}
        for path, first in self._links.items():
            chain: dict[_Place, _Link] = {}
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
            if node is None or isinstance(node, _Dir):
                raise self._dangling(path, first.target, node)
            for place, link in chain.items():
                made[place] = link.children[link.name] = node
            self.notes[path] = tagged(node[0] if isinstance(node, tuple) else node.rest, _UNLINKED)

    def _lookup(self, target: bytes) -> tuple[dict[bytes, _Node], bytes, bytes] | None:
        """Where an (encoded) path leads: the directory's children, the name, the real path."""
        *parents, name = target.split(b"/")
        found = self._walk(parents, make=False)
        return None if found is None else (found[0].children, name, b"%b/%b" % (found[1], name))

    def _own(self, found: tuple[dict[bytes, _Node], bytes, bytes] | None) -> _Node | None:
        """What this layer has in a place, if it is no directory."""
        node = None if found is None else found[0].get(found[1])
        if found is None or node is None or _provider(node) != self._number:
            return None
        return None if isinstance(node, _Dir) else self._share(*found)

    @staticmethod
    def _dangling(path: bytes, target: bytes, node: _Node | None) -> LayerError:
        if node is not None:
            what = "a directory, to which no hard link can lead"
        else:
            what = "neither in its layer nor in one below"
        return LayerError(
            f"{decode(path)!r} is a hard link to {decode(target)!r}, which is {what}",
            hint="the image is broken: ask its author to build it again",
        )


def _provider(node: _Node) -> int:
    return node[1] if isinstance(node, tuple) else node.layer


def _target(node: _Node) -> bytes | None:
    """Where a symlink points, decoded; None for anything else."""
    if isinstance(node, _Dir):
        return None
    return mtree.symlink_target(node[0] if isinstance(node, tuple) else node.rest)


def _output(path: bytes, rest: bytes, layer: int, source: bytes) -> bytes:
    source = b"" if source == path else source
    return LINE % (path, with_origin(rest, layer, source))


def _output_shared(path: bytes, node: _Shared) -> bytes:
    rest = node.rest
    if node.first:
        rest = tagged(rest, b"link:" + node.first[2:])
    else:
        node.first = path
    return _output(path, rest, node.layer, node.source)


def _shared_below(root: _Dir) -> Iterator[_Shared]:
    stack = [root]
    while stack:
        for node in stack.pop().children.values():
            if isinstance(node, _Dir):
                stack.append(node)
            elif isinstance(node, _Shared):
                yield node


# --- what a layer changes in its chain ----------------------------------


def _copy(root: _Dir) -> _Dir:
    copied = _Dir(root.rest, root.layer, dict(root.children))
    stack = [copied]
    while stack:
        children = stack.pop().children
        for name, node in list(children.items()):
            if isinstance(node, _Dir):
                below = children[name] = _Dir(node.rest, node.layer, dict(node.children))
                stack.append(below)
    return copied


def _changes(before: _Dir, after: _Dir) -> Iterator[bytes]:
    """The lines of what is another afterwards, or new, or gone, parents first."""
    changed: dict[bytes, _Node | None] = {}
    directories: dict[bytes, _Dir] = {}
    stack: list[tuple[bytes, _Node | None, _Dir]] = [(b".", before, after)]
    while stack:
        path, old, new = stack.pop()
        directories[path] = new
        there = old.children if isinstance(old, _Dir) else {}
        if not isinstance(old, _Dir) or old.rest != new.rest:
            changed[path] = new
        for name in there.keys() - new.children.keys():
            changed[b"%b/%b" % (path, name)] = None
        for name, node in new.children.items():
            at, known = b"%b/%b" % (path, name), there.get(name)
            if isinstance(node, _Dir):
                stack.append((at, known, node))
            elif known is None or isinstance(known, _Dir) or _at(node, at) != _at(known, at):
                changed[at] = node
    on_the_way = {b"."}
    for path in changed:
        while (path := path.rpartition(b"/")[0]) and path not in on_the_way:
            on_the_way.add(path)
    changed |= {path: directories[path] for path in on_the_way}
    firsts: dict[_Shared, bytes] = {}
    for path in sorted(changed):
        yield _changed_line(path, changed[path], firsts)


def _at(node: _Shared | _Plain, path: bytes) -> _Plain:
    """What a node at ``path`` is, whether or not it is known to have other names."""
    rest, layer, source = node if isinstance(node, tuple) else (node.rest, node.layer, node.source)
    return rest, layer, source or path


def _changed_line(path: bytes, node: _Node | None, firsts: dict[_Shared, bytes]) -> bytes:
    if node is None:
        return LINE % (path, WHITEOUT)
    if isinstance(node, tuple):
        return _output(path, *node)
    if isinstance(node, _Dir):
        return _output(path, node.rest, node.layer, b"")
    first = firsts.setdefault(node, path)
    rest = node.rest if first == path else tagged(node.rest, b"link:" + first[2:])
    return _output(path, rest, node.layer, node.source)


# --- permissions --------------------------------------------------------


def _widen(root: _Dir) -> None:
    """Let everybody do what the owner may, as ``chmod a+rX`` does, but never write."""
    stack = [root]
    root.rest = _widened(root.rest)
    while stack:
        children = stack.pop().children
        for name, node in children.items():
            if isinstance(node, tuple):
                children[name] = (_widened(node[0]), *node[1:])
                continue
            node.rest = _widened(node.rest)
            if isinstance(node, _Dir):
                stack.append(node)


def _widened(rest: bytes) -> bytes:
    wider = mtree.with_more_mode(rest, _granted)
    return rest if wider == rest else tagged(wider, mtree.WIDENED)


def _granted(kind: bytes, mode: int) -> int:
    """What everybody gets: no program that runs as its owner or group gets more users."""
    if kind == mtree.DIR:
        return 0o555
    if kind != mtree.FILE:
        return 0
    runs = mode & stat.S_IXUSR and not mode & (stat.S_ISUID | stat.S_ISGID)
    return 0o555 if runs else 0o444


# --- what no layer has --------------------------------------------------


def _add_generated(root: _Dir, extra: Iterable[Generated], mtime_ns: int) -> dict[bytes, bytes]:
    """Add entries without touching what the image ships or going through a link of its own."""
    contents: dict[bytes, bytes] = {}
    for item in extra:
        *parents, name = [encode(part) for part in item.path.split(b"/")]
        place: _Node | None = root
        for parent in parents:
            place = place.children.get(parent) if isinstance(place, _Dir) else None
        if not isinstance(place, _Dir):
            continue
        there = place.children.get(name)
        if there is not None and (
            not item.overwrite or (isinstance(there, _Dir) and item.kind == mtree.DIR)
        ):
            continue
        if item.kind == mtree.DIR:
            place.children[name] = _Dir(_generated_line(item, mtime_ns), NO_LAYER)
            continue
        place.children[name] = (_generated_line(item, mtime_ns), NO_LAYER, b"")
        if item.kind == mtree.FILE:
            contents[b"/".join([*parents, name])] = item.content
    return contents


def _generated_line(item: Generated, mtime_ns: int) -> bytes:
    entry = mtree.Entry(
        path=item.path,
        kind=item.kind,
        mode=item.mode,
        mtime_ns=mtime_ns,
        size=len(item.content),
        sha256=hashlib.sha256(item.content).hexdigest() if item.kind == mtree.FILE else "",
        target=item.target,
    )
    return entry.line().partition(b" ")[2].rstrip(b"\n")
