"""Layers, flat trees and edits as members of the one archive that is ingested.

A layer's files carry their content; a flat tree's are hard links to the layers'
files, which CernVM-FS turns into clones of catalog entries.  All metadata come
from the manifests, so what staged the layers need not have been root.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from ...cvmfs.catalog import MARKER
from ...cvmfs.keeping import Keeping, keeps_name, plain
from ...cvmfs.split import nested
from ...errors import RepositoryError
from ...tree import mtree
from ...tree.directories import split
from ...tree.mtree import LOST, Entry
from ..edits import Directory, Edits, File, Symlink, Tree
from . import tar_writer
from .contents import Contents, entry_header
from .tar_writer import TarStream, header

_KINDS = {
    mtree.CHAR: tar_writer.CHAR,
    mtree.BLOCK: tar_writer.BLOCK_DEVICE,
    mtree.FIFO: tar_writer.FIFO,
}

# What lstat(2) takes, with CernVM-FS' own mount point before it and some room.
_PATH_BYTES = 3900


class Members:
    """Adds members to ``stream``; paths are relative to ``root``, where the repository is read."""

    def __init__(self, stream: TarStream, keeping: Keeping, root: Path) -> None:
        self._stream = stream
        self._keeping = keeping
        self._root = os.fsencode(root)
        self._now_ns = int(time.time()) * 1_000_000_000
        self._made: set[bytes] = set()

    # --- what is ours ---------------------------------------------------

    def parents(self, path: bytes) -> None:
        """The directories above ``path``, where they are not there yet: mode 0755, root's."""
        parent = path.rpartition(b"/")[0]
        if not parent or parent in self._made:
            return
        self.parents(parent)
        self.directory(parent)

    def directory(self, path: bytes) -> None:
        """A directory of the repository's own."""
        if path not in self._made:
            self._made.add(path)
            self._stream.add(header(path, tar_writer.DIRECTORY, mode=0o755, mtime_ns=self._now_ns))

    def catalog(self, path: bytes) -> None:
        """Have a catalog begin in a directory, unless one does."""
        marker = b"%b/%b" % (path, MARKER)
        if marker not in self._made and not self._is_published(marker):
            self._made.add(marker)
            self.parents(marker)
            self._stream.add(self._file_header(marker, 0))

    def _is_published(self, path: bytes) -> bool:
        return os.path.lexists(b"%b/%b" % (self._root, path))

    def file(self, path: bytes, content: bytes) -> None:
        """A small file of the repository's own: mode 0644, root's."""
        self.parents(path)
        self._stream.add_file(self._file_header(path, len(content)), content)

    def large_file(self, path: bytes, source: int, size: int) -> None:
        """A file of the repository's own with the content of a descriptor."""
        self.parents(path)
        self._stream.add_open(self._file_header(path, size), source, size)

    def symlink(self, path: bytes, target: bytes) -> None:
        """A symlink of the repository's own."""
        self.parents(path)
        self._stream.add(
            header(path, tar_writer.SYMLINK, mode=0o777, mtime_ns=self._now_ns, link=target)
        )

    def _file_header(self, path: bytes, size: int) -> bytes:
        return header(path, tar_writer.FILE, mode=0o644, size=size, mtime_ns=self._now_ns)

    def edits(self, edits: Edits, clones: Callable[[Tree], Contents]) -> None:
        """What edits put, in their order; catalogs first.  ``clones`` are the files of trees."""
        for directory in edits.catalogs:
            self.catalog(os.fsencode(directory))
        for path, put in edits.puts.items():
            name = os.fsencode(path)
            if isinstance(put, File):
                self.file(name, put.content)
            elif isinstance(put, Symlink):
                self.symlink(name, os.fsencode(put.target))
            elif isinstance(put, Directory):
                self.parents(name)
                self.directory(name)
            elif isinstance(put, Tree):
                lines = put.listing.splitlines(keepends=True)
                self.tree(name, lines, clones(put), os.fsencode(put.manifest))

    # --- trees ----------------------------------------------------------

    def tree(
        self,
        base: bytes,
        lines: Iterable[bytes],
        contents: Contents,
        manifest: bytes,
    ) -> Counter[str]:
        """A whole tree below ``base``, and then its manifest under the path ``manifest``.

        ``lines`` are the manifest's, parents first; ``contents`` says where files
        are.  Returns what is lost, by kind.
        """
        self.parents(base)
        lost: Counter[str] = Counter()
        sizes: dict[bytes, int] = {}
        with tempfile.TemporaryFile(buffering=1024 * 1024) as published:
            published.write(mtree.FORMAT)
            for line in lines:
                if line.startswith(b"#"):
                    if line != mtree.FORMAT:
                        published.write(line)
                    continue
                match = plain(line)
                if match is not None:
                    path = mtree.decode(match["path"])
                    parent = path.rpartition(b"/")[0] or b"."
                    sizes[parent] += 1
                    name = self._name(base, path)
                    kind = match["kind"]
                    if kind == b"dir":
                        sizes[path] = 1
                        self._made.add(name)
                    if kind != b"file":
                        self._stream.add(_plain_header(name, match))
                    else:
                        contents.add_plain(self._stream, name, path, match)
                    published.write(line)
                    continue
                entry = self._keeping.relabelled(Entry.parse(line))
                published.write(entry.line())
                lost.update(
                    flag[len(LOST) :].decode() for flag in entry.flags if flag.startswith(LOST)
                )
                if mtree.WIDENED in entry.flags:
                    lost[mtree.WIDENED.decode()] += 1
                if entry.kind == mtree.DIR:
                    sizes[entry.path] = 1
                elif entry.path != b".":
                    sizes[split(entry.path)[0]] += 1
                if keeps_name(entry.path):
                    self._entry(base, entry, contents)
            for directory in [b".", *nested(sizes.items())]:
                self._tree_catalog(base, directory)
            published.flush()
            size = published.tell()
            published.seek(0)
            self.large_file(manifest, published.fileno(), size)
        return lost

    def whiteouts(self, base: bytes, entries: Iterable[Entry]) -> None:
        """Whiteouts for a tree that is published."""
        for entry in entries:
            if keeps_name(entry.path):
                self._stream.add(entry_header(self._name(base, entry.path), tar_writer.CHAR, entry))

    def _tree_catalog(self, base: bytes, directory: bytes) -> None:
        path = base if directory == b"." else b"%b/%b" % (base, directory)
        if MARKER not in path:
            self.catalog(path)

    def _entry(self, base: bytes, entry: Entry, contents: Contents) -> None:
        name = self._name(base, entry.path)
        if entry.path.endswith(MARKER):
            # An image's own file serves as the marker.
            self._made.add(name)
        if entry.kind == mtree.FILE:
            contents.add(self._stream, name, entry)
            return
        if entry.kind == mtree.DIR:
            self._made.add(name)
            self._stream.add(entry_header(name, tar_writer.DIRECTORY, entry))
        elif entry.kind == mtree.LINK:
            self._stream.add(entry_header(name, tar_writer.SYMLINK, entry, link=entry.target))
        elif entry.kind in _KINDS:
            self._stream.add(entry_header(name, _KINDS[entry.kind], entry))

    def _name(self, base: bytes, path: bytes) -> bytes:
        name = base if path == b"." else b"%b/%b" % (base, path)
        if len(name) > _PATH_BYTES:
            raise RepositoryError(
                f"{path[:80]!r}... is a path of {len(path)} bytes, too long for CernVM-FS",
                hint="the image cannot be published with it",
            )
        return name


def _plain_header(name: bytes, match: re.Match[bytes]) -> bytes:
    """The header of a plain directory or symlink."""
    return header(
        name,
        tar_writer.SYMLINK if match["target"] is not None else tar_writer.DIRECTORY,
        mode=int(match["mode"], 8),
        uid=int(match["uid"]),
        gid=int(match["gid"]),
        mtime_ns=int(match["seconds"]) * 1_000_000_000,
        link=mtree.decode(match["target"] or b""),
    )
