"""What a layer changes in the chain of layers that it is in, where an overlay needs to be told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ...tree import mtree
from .image import LayerTree, flatten
from .merge import Merge
from .nodes import Dir, Firsts, Node, Plain, Shared, copy, line, parts, root_directory


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
    root = root_directory()
    found = {}
    for number, layer in enumerate(layers[: max(numbers, default=-1) + 1]):
        before = copy(root) if number in numbers else None
        Merge(root, number, layer.manifest.splitlines()).apply()
        if before is not None:
            found[number] = mtree.FORMAT + b"".join(_changes(before, root))
    return found


def _changes(before: Dir, after: Dir) -> Iterator[bytes]:
    """The lines of what is another afterwards, or new, or gone, parents first."""
    changed: dict[bytes, Node | None] = {}
    directories: dict[bytes, Dir] = {}
    stack: list[tuple[bytes, Node | None, Dir]] = [(b".", before, after)]
    while stack:
        path, old, new = stack.pop()
        directories[path] = new
        there = old.children if isinstance(old, Dir) else {}
        if not isinstance(old, Dir) or old.rest != new.rest:
            changed[path] = new
        for name in there.keys() - new.children.keys():
            changed[b"%b/%b" % (path, name)] = None
        for name, node in new.children.items():
            at, known = b"%b/%b" % (path, name), there.get(name)
            if isinstance(node, Dir):
                stack.append((at, known, node))
            elif known is None or isinstance(known, Dir) or _at(node, at) != _at(known, at):
                changed[at] = node
    on_the_way = {b"."}
    for path in changed:
        while (path := path.rpartition(b"/")[0]) and path not in on_the_way:
            on_the_way.add(path)
    changed |= {path: directories[path] for path in on_the_way}
    firsts: Firsts = {}
    for path in sorted(changed):
        there_now = changed[path]
        if there_now is None:
            yield mtree.LINE % (path, mtree.WHITEOUT)
        else:
            yield line(path, there_now, firsts)


def _at(node: Shared | Plain, path: bytes) -> Plain:
    """What a node at ``path`` is, whether or not it is known to have other names."""
    rest, layer, source = parts(node)
    return rest, layer, source or path
