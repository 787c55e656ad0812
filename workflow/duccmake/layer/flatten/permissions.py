"""Flat trees that everybody may read and run (``flat.fix_permissions``)."""

from __future__ import annotations

import stat

from ...tree import mtree
from .nodes import Dir


def widen(root: Dir) -> None:
    """Let everybody do what the owner may, as ``chmod a+rX`` does, but never write; flag it."""
    stack = [root]
    root.rest = _widened(root.rest)
    while stack:
        children = stack.pop().children
        for name, node in children.items():
            if isinstance(node, tuple):
                children[name] = (_widened(node[0]), *node[1:])
                continue
            node.rest = _widened(node.rest)
            if isinstance(node, Dir):
                stack.append(node)


def _widened(rest: bytes) -> bytes:
    wider = mtree.with_more_mode(rest, _granted)
    return rest if wider == rest else mtree.tagged(wider, mtree.WIDENED)


def _granted(kind: bytes, mode: int) -> int:
    """What everybody gets: no program that runs as its owner or group gets more users."""
    if kind == mtree.DIR:
        return 0o555
    if kind != mtree.FILE:
        return 0
    runs = mode & stat.S_IXUSR and not mode & (stat.S_ISUID | stat.S_ISGID)
    return 0o555 if runs else 0o444
