"""What a transaction writes besides layers and flat trees, as a value for each backend.

Metadata, DUCC's files, public links, the podman store and removals are small and
many: they are computed as `Edits` from what the repository shows (its `View`),
so that a backend only has to know how to put a file, a symlink or a directory, and
how to remove a path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .layout import Layout
from .view import View


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
    layers: tuple[PurePosixPath, ...]
    manifest: PurePosixPath


Put = File | Symlink | Directory | Tree


@dataclass(slots=True)
class Edits:
    """Paths to put, in the order in which they become visible, and paths to remove after that.

    Paths are relative to the repository's root, and ``view`` is what it shows before; parents
    are made where they are missing.  A path is either put or removed; one that is put
    twice has the last content and the last place in the order.  ``catalogs`` are
    directories in which a CernVM-FS catalog begins; other backends pass them over.
    ``times`` are those (in nanoseconds) that directories keep though something in them goes.
    """

    view: View
    puts: dict[PurePosixPath, Put] = field(default_factory=dict)
    removals: dict[PurePosixPath, None] = field(default_factory=dict)
    catalogs: dict[PurePosixPath, None] = field(default_factory=dict)
    times: dict[PurePosixPath, int] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where things lie in the repository."""
        return self.view.layout

    def __bool__(self) -> bool:
        return bool(self.puts or self.removals or self.catalogs)

    def file(self, path: PurePosixPath, content: bytes) -> None:
        """Write a file, unless it is there with this content, and can be read."""
        try:
            is_there = content == self.content(path)
        except OSError:
            is_there = False
        if not is_there:
            self._put(path, File(content))

    def begin_anew(self, path: PurePosixPath) -> None:
        """Take a file that cannot be read for an empty one."""
        try:
            self.content(path)
        except OSError:
            self._put(path, File(b""))

    def symlink(self, path: PurePosixPath, target: str) -> None:
        """Make a symlink, or point it elsewhere, unless it is there as it shall be."""
        have = self.puts.get(path)
        if have is None and not self._is_removed(path) and self.view.target(path) == target:
            return
        self._put(path, Symlink(target))

    def directory(self, path: PurePosixPath) -> None:
        """Make a directory, unless it is there."""
        if self._is_removed(path) or not self.view.is_dir(path):
            self._put(path, Directory())

    def tree(self, path: PurePosixPath, tree: Tree) -> None:
        """Make a directory anew, with all that is in it."""
        self._put(path, tree)

    def catalog(self, path: PurePosixPath) -> None:
        """Begin a CernVM-FS catalog in a directory."""
        self.catalogs[path] = None

    def remove(self, path: PurePosixPath) -> None:
        """Remove a file, a symlink or a directory with all that is in it, if it is there."""
        self.puts.pop(path, None)
        if self.view.exists(path):
            self.removals[path] = None

    def strip(self, path: PurePosixPath) -> None:
        """Remove what is in a tree that stays as it is otherwise."""
        if self.view.exists(path):
            self.times[path.parent] = self.view.mtime_ns(path.parent)
            self.remove(path)

    def content(self, path: PurePosixPath) -> bytes:
        """A file as it is after what was edited so far; empty where there is none."""
        have = self.puts.get(path)
        if have is not None:
            return have.content if isinstance(have, File) else b""
        if self._is_removed(path):
            return b""
        return self.view.content(path)

    def is_link(self, path: PurePosixPath) -> bool:
        """Whether a symlink is there after what was edited so far."""
        have = self.puts.get(path)
        if have is not None:
            return isinstance(have, Symlink)
        return not self._is_removed(path) and self.view.is_link(path)

    def _is_removed(self, path: PurePosixPath) -> bool:
        return path in self.removals or not self.removals.keys().isdisjoint(path.parents)

    def _put(self, path: PurePosixPath, put: Put) -> None:
        # Of a directory that is removed all goes but what is put below it: removals come last.
        for parent in reversed(path.parents):
            if parent in self.removals:
                del self.removals[parent]
                below = sorted(self.view.entries(parent))
                self.removals |= dict.fromkeys(parent / name for name in below)
        self.removals.pop(path, None)
        self.puts.pop(path, None)
        self.puts[path] = put
