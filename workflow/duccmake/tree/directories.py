"""Directories by descriptor: a tree is walked without ever following a symlink."""

from __future__ import annotations

import os

from ..fs.beneath import open_directory
from ..fs.closing import Closing

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = b"."


class Directories(Closing):
    """Open directories of several trees; the ``keep`` used last stay open.

    A tree is named by the path of its root, a directory in it by its path from
    there as manifests have it (``.`` is the root).  ``keep`` is at least 2: a
    link needs two of them at a time.
    """

    def __init__(self, keep: int = 256) -> None:
        self._keep = keep
        self._open: dict[tuple[bytes, bytes], int] = {}

    def get(self, tree: bytes, path: bytes) -> int:
        """The descriptor of a directory; do not close it, use it at once.

        `NotADirectoryError` or `OSError` (ELOOP) where a component is no directory.
        """
        key = (tree, path)
        descriptor = self._open.pop(key, None)
        if descriptor is None:
            descriptor = self._walk(tree, path)
        self._open[key] = descriptor
        while len(self._open) > self._keep:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        return descriptor

    def _walk(self, tree: bytes, path: bytes) -> int:
        missing = []
        while path != _ROOT and (tree, path) not in self._open:
            path, _, name = path.rpartition(b"/")
            path = path or _ROOT
            missing.append(name)
        if not missing:
            return os.open(tree, _FLAGS)
        for name in missing:
            if name in (b"", b".", b".."):
                raise ValueError(f"{name!r} is no name in a tree")
        known = self._open.get((tree, path))
        above = os.open(tree, _FLAGS) if known is None else known
        try:
            return open_directory(above, missing[::-1])
        finally:
            if known is None:
                os.close(above)

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            os.close(self._open.popitem()[1])


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path's parent directory (``.`` for the root) and its name there."""
    parent, _, name = path.rpartition(b"/")
    return parent or _ROOT, name
