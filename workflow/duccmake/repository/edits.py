"""What a transaction writes besides layers and flat trees, as a value for each backend.

Metadata, DUCC's files, public links, the podman store and removals are small and
many: they are computed as `Edits` from what the repository shows (its `Layout`),
so that a backend only has to know how to put a file, a symlink or a directory, and
how to remove a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from .json_files import content


@dataclass(frozen=True, slots=True)
class File:
    """A file, mode 0644, written as a whole."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symlink; ``target`` is its text."""

    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory, mode 0755, that is there also when nothing is in it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory with what a manifest lists, made of files of published layers.

    ``listing`` is the manifest's text, whose entries name the layer that provides them
    (`duccmake.tree.mtree`); ``layers`` are their trees, lowest first.  It is published under
    the path ``manifest``, after all else of the tree.
    """

    listing: bytes
    layers: tuple[Path, ...]
    manifest: Path


Put = File | Symlink | Directory | Tree


@dataclass(slots=True)
class Edits:
    """Paths to put, in the order in which they become visible, and paths to remove after that.

    All paths lie below ``root``, the repository as it is read; parents are made
    where they are missing.  A path is either put or removed; one that is put
    twice has the last content and the last place in the order.  ``catalogs`` are
    directories in which a CernVM-FS catalog begins; other backends pass them over.
    ``times`` are those (in nanoseconds) that directories keep though something in them goes.
    """

    root: Path
    puts: dict[Path, Put] = field(default_factory=dict)
    removals: dict[Path, None] = field(default_factory=dict)
    catalogs: dict[Path, None] = field(default_factory=dict)
    times: dict[Path, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.puts or self.removals or self.catalogs)

    def file(self, path: Path, content: bytes) -> None:
        """Write a file, unless it is there with this content."""
        if content != self.content(path):
            self._put(path, File(content))

    def symlink(self, path: Path, target: str) -> None:
        """Make a symlink, or point it elsewhere, unless it is there as it shall be."""
        have = self.puts.get(path)
        if have is None and not self._is_removed(path) and _link_text(path) == target:
            return
        self._put(path, Symlink(target))

    def directory(self, path: Path) -> None:
        """Make a directory, unless it is there."""
        if self._is_removed(path) or not path.is_dir():
            self._put(path, Directory())

    def tree(self, path: Path, tree: Tree) -> None:
        """Make a directory anew, with all that is in it."""
        self._put(path, tree)

    def catalog(self, path: Path) -> None:
        """Begin a CernVM-FS catalog in a directory."""
        self.catalogs[path] = None

    def remove(self, path: Path) -> None:
        """Remove a file, a symlink or a directory with all that is in it, if it is there."""
        self.puts.pop(path, None)
        if os.path.lexists(path):
            self.removals[self._below_root(path)] = None

    def strip(self, path: Path) -> None:
        """Remove what is in a tree that stays as it is otherwise."""
        if os.path.lexists(path):
            self.times[path.parent] = path.parent.stat().st_mtime_ns
            self.remove(path)

    def content(self, path: Path) -> bytes:
        """A file as it is after what was edited so far; empty where there is none."""
        have = self.puts.get(path)
        if have is not None:
            return have.content if isinstance(have, File) else b""
        if self._is_removed(path):
            return b""
        return content(path)

    def is_link(self, path: Path) -> bool:
        """Whether a symlink is there after what was edited so far."""
        have = self.puts.get(path)
        if have is not None:
            return isinstance(have, Symlink)
        return not self._is_removed(path) and path.is_symlink()

    def _is_removed(self, path: Path) -> bool:
        return path in self.removals or not self.removals.keys().isdisjoint(path.parents)

    def _put(self, path: Path, put: Put) -> None:
        # Of a directory that is removed all goes but what is put below it: removals come last.
        for parent in reversed(path.parents):
            if parent in self.removals:
                del self.removals[parent]
                if parent.is_dir() and not parent.is_symlink():
                    self.removals |= dict.fromkeys(sorted(parent.iterdir()))
        self.removals.pop(path, None)
        self.puts.pop(path, None)
        self.puts[self._below_root(path)] = put

    def _below_root(self, path: Path) -> Path:
        path.relative_to(self.root)  # ValueError where it is not
        return path


def _link_text(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
