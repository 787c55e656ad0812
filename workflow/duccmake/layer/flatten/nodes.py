"""The tree that layers are merged into: nodes in memory, and the lines that they come to.

Names and paths stay as manifests encode them.  A node has the rest of its line as its
layer has it, the number of that layer, and its path there where that may be another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import LayerError
from ...tree import mtree
from ...tree.mtree import IMPLIED_DIR, LINE, decode, encode, tagged, with_origin

_HOPS = 40


@dataclass(slots=True, eq=False)
class Shared:
    """An entry that has, or may have, several names."""

    rest: bytes
    layer: int
    source: bytes


@dataclass(slots=True, eq=False)
class Dir:
    """A directory: its line, who provides that, what is in it."""

    rest: bytes
    layer: int
    children: dict[bytes, Node] = field(default_factory=dict)


Plain = tuple[bytes, int, bytes]
"""The rest of an entry's line, the providing layer, its path there if another."""

Node = Dir | Shared | Plain

Children = dict[bytes, Node]
"""What is in a directory, by name."""


def root_directory() -> Dir:
    """A tree with nothing in it."""
    return Dir(IMPLIED_DIR, 0)


def provider(node: Node) -> int:
    """The layer that a node is of."""
    return node[1] if isinstance(node, tuple) else node.layer


def parts(node: Shared | Plain) -> Plain:
    """The rest, the layer and the source of a node, with however many names."""
    return node if isinstance(node, tuple) else (node.rest, node.layer, node.source)


def share(children: Children, name: bytes, path: bytes) -> Shared:
    """Let an entry have more names; ``path`` is where its layer has it.  Raises `LayerError`."""
    node = children[name]
    if isinstance(node, Dir):
        raise LayerError(f"{decode(path)!r} is a directory, to which no hard link can lead")
    if isinstance(node, tuple):
        rest, layer, source = node
        node = children[name] = Shared(rest, layer, source or path)
    return node


def copy(root: Dir) -> Dir:
    """The tree as it is now, with directories of its own."""
    copied = Dir(root.rest, root.layer, dict(root.children))
    stack = [copied]
    while stack:
        children = stack.pop().children
        for name, node in list(children.items()):
            if isinstance(node, Dir):
                below = children[name] = Dir(node.rest, node.layer, dict(node.children))
                stack.append(below)
    return copied


# --- ways through the tree ----------------------------------------------


def symlink_target(node: Node | None) -> bytes | None:
    """Where a symlink points, decoded; None for anything else."""
    if node is None or isinstance(node, Dir):
        return None
    return mtree.symlink_target(parts(node)[0])


def walk(root: Dir, names: list[bytes], made_by: int | None = None) -> tuple[Dir, bytes] | None:
    """Follow names from the root, through symlinks, never above the root.

    Returns the directory and where in the tree it is.  What is missing becomes directories
    of the layer ``made_by``, if that is given.  None where a file is in the way, or
    something is missing.  Raises `LayerError` where there are too many symlinks, or the file
    in the way is of that layer itself.
    """
    trail, path = [root], [b"."]
    pending = names[::-1]
    made: list[tuple[Children, bytes]] = []
    hops = 0
    while pending:
        name = pending.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(trail) > 1:
                trail.pop()
                path.pop()
            continue
        children = trail[-1].children
        node = children.get(name)
        if (target := symlink_target(node)) is not None:
            hops += 1
            if hops > _HOPS:
                raise LayerError(f"{b'/'.join(names)!r} leads through more than {_HOPS} symlinks")
            if target.startswith(b"/"):
                del trail[1:], path[1:]
            pending += [encode(part) for part in target.split(b"/")][::-1]
            continue
        if made_by is not None and node is None:
            node = children[name] = Dir(IMPLIED_DIR, made_by)
            made.append((children, name))
        if not isinstance(node, Dir):
            refuse_own(node, name, made_by)
            for children, name in made:
                children.pop(name, None)
            return None
        trail.append(node)
        path.append(name)
    return trail[-1], b"/".join(path)


def refuse_own(node: Node | None, name: bytes, layer: int | None) -> None:
    """`LayerError` where what shall give way to a directory is of the same layer."""
    if node is not None and provider(node) == layer:
        raise LayerError(
            f"{decode(name)!r} is a file and a directory in one layer, by way of a symlink",
            hint="the image is broken: ask its author to build it again",
        )


# --- lines --------------------------------------------------------------

Firsts = dict[Shared, bytes]
"""The first path, of those that were written, of what has several."""


def lines(root: Dir) -> Iterator[bytes]:
    """The lines of the whole tree, parents first, and directories after what is beside them."""
    firsts: Firsts = {}
    stack: list[tuple[bytes, Dir]] = [(b".", root)]
    while stack:
        path, directory = stack.pop()
        yield line(path, directory, firsts)
        below: list[tuple[bytes, Dir]] = []
        prefix = path + b"/"
        children = directory.children
        for name in sorted(children):
            node = children[name]
            if isinstance(node, Dir):
                below.append((prefix + name, node))
            else:
                yield line(prefix + name, node, firsts)
        stack += reversed(below)


def line(path: bytes, node: Node, firsts: Firsts) -> bytes:
    """The line of one node; what has several names is a hard link after the first."""
    if isinstance(node, tuple):
        rest, layer, source = node
        return LINE % (path, with_origin(rest, layer, b"" if source == path else source))
    if isinstance(node, Dir):
        return LINE % (path, with_origin(node.rest, node.layer))
    first = firsts.setdefault(node, path)
    rest = node.rest if first == path else tagged(node.rest, b"link:" + first[2:])
    return line(path, (rest, node.layer, node.source), firsts)
