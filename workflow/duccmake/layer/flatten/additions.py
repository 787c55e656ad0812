"""What no layer has: the entries that duccmake adds to a flat tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ...tree import mtree
from ...tree.mtree import NO_LAYER, encode
from ..singularity import Generated
from .nodes import Dir, Node


def add_generated(root: Dir, extra: Iterable[Generated], mtime_ns: int) -> dict[bytes, bytes]:
    """Add entries without touching what the image ships or going through a link of its own.

    Returns the content of the files, by path.
    """
    contents: dict[bytes, bytes] = {}
    for item in extra:
        *parents, name = [encode(part) for part in item.path.split(b"/")]
        place: Node | None = root
        for parent in parents:
            place = place.children.get(parent) if isinstance(place, Dir) else None
        if not isinstance(place, Dir):
            continue
        there = place.children.get(name)
        if there is not None and (
            not item.overwrite or (isinstance(there, Dir) and item.kind == mtree.DIR)
        ):
            continue
        if item.kind == mtree.DIR:
            place.children[name] = Dir(_rest(item, mtime_ns), NO_LAYER)
            continue
        place.children[name] = (_rest(item, mtime_ns), NO_LAYER, b"")
        if item.kind == mtree.FILE:
            contents[b"/".join([*parents, name])] = item.content
    return contents


def _rest(item: Generated, mtime_ns: int) -> bytes:
    sha256 = hashlib.sha256(item.content).hexdigest() if item.kind == mtree.FILE else ""
    return mtree.Entry(
        path=item.path,
        kind=item.kind,
        mode=item.mode,
        mtime_ns=mtime_ns,
        size=len(item.content),
        sha256=sha256,
        target=item.target,
    ).rest()
