"""What a case is, and words for the tree that it must become."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from duccmake.demo.images import MTIME
from support.images import Layer, LayerBuilder
from support.trees import Node

MTIME_NS = MTIME * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """A stack of layers, lowest first, and its tree.

    ``differs`` says of an oracle (``umoci``, ``extracted``, ``podman``, ``overlay``
    for the kernel's overlayfs over the published layers, ``store`` for that over
    podman's store) why it shows another tree; tests hold it to that.
    """

    name: str
    layers: tuple[Layer, ...]
    tree: dict[bytes, Node]
    differs: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def case(
    name: str, *layers: LayerBuilder | Layer, tree: dict[str | bytes, Node], **differs: str
) -> Case:
    """Make a case; without a root in ``tree`` it is a directory that no layer mentions."""
    nodes = {
        path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape"): node
        for path, node in tree.items()
    }
    nodes.setdefault(b".", implied())
    return Case(
        name,
        tuple(each.layer() if isinstance(each, LayerBuilder) else each for each in layers),
        nodes,
        differs,
    )


def directory(mode: int = 0o755, **more: Any) -> Node:
    return replace(Node("dir", mode, 0, 0, MTIME_NS), **more)


def implied() -> Node:
    """A directory that no layer mentions."""
    return directory(mtime_ns=0)


def file(content: bytes | str = b"", mode: int = 0o644, **more: Any) -> Node:
    data = content.encode() if isinstance(content, str) else content
    sha256 = hashlib.sha256(data).hexdigest()
    return replace(Node("file", mode, 0, 0, MTIME_NS, size=len(data), sha256=sha256), **more)


def link(target: bytes | str, **more: Any) -> Node:
    raw = target.encode() if isinstance(target, str) else target
    return replace(Node("link", 0o777, 0, 0, MTIME_NS, target=raw), **more)


def fifo(mode: int = 0o644, **more: Any) -> Node:
    return replace(Node("fifo", mode, 0, 0, MTIME_NS), **more)


def char(major: int, minor: int, mode: int = 0o644, **more: Any) -> Node:
    return replace(Node("char", mode, 0, 0, MTIME_NS, device=(major, minor)), **more)


def block(major: int, minor: int, mode: int = 0o644, **more: Any) -> Node:
    return replace(char(major, minor, mode, **more), kind="block")


def linked(tree: dict[str, Node], *names: str) -> dict[str, Node]:
    """The tree with ``names`` as one file's names."""
    group = tuple(sorted(name.encode() for name in names))
    return {p: replace(n, group=group) if p in names else n for p, n in tree.items()}
