"""Where a tree's files have their content from: a staged layer, or other published files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ...errors import RepositoryError
from ...layer.pack import Packed
from ...tree import mtree
from ...tree.directories import Directories, split
from ...tree.mtree import Entry
from . import tar_writer
from .known_files import KnownFiles
from .tar_writer import TarStream, header

_PIECE = 1024 * 1024
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Contents(Protocol):
    """Adds a tree's files as members, with their content or as links to others."""

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add the file of a plain line (`fidelity.plain`) as the member ``name``."""
        ...

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add the file of any other entry."""
        ...


class LayerFiles:
    """The files of a layer that is published below ``base``, their content in ``packed``.

    Files that are ``known`` under another path become links; hard links to lower
    layers are left out.
    """

    def __init__(self, packed: Packed, base: bytes, known: KnownFiles | None = None) -> None:
        self._packed = packed
        self._base = base
        self._known = known

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add a file with its content, or as a link to one that is the same."""
        size = int(match["size"])
        if self._known is not None and size:
            if same := self._known.find(match.string, size):
                stream.add_same(name, same)
                return
            self._known.add_written(match.string, name, size)
        head = header(
            name,
            tar_writer.FILE,
            mode=int(match["mode"], 8),
            uid=int(match["uid"]),
            gid=int(match["gid"]),
            size=size,
            mtime_ns=int(match["seconds"]) * 1_000_000_000,
        )
        self._add_content(stream, head, path, size)

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add a file with its content, or as a link where it is one."""
        if b"lower" in entry.flags:
            return
        if entry.hardlink:
            stream.add_link(name, b"%b/%b" % (self._base, entry.hardlink))
        else:
            head = entry_header(name, tar_writer.FILE, entry, size=entry.size)
            self._add_content(stream, head, entry.path, entry.size)

    def _add_content(self, stream: TarStream, head: bytes, path: bytes, size: int) -> None:
        stream.add_pieces(head, self._packed.pieces(path, size), size)


Read = Callable[[int, bytes, int], Iterator[bytes]]
"""The content of a file of a layer: by the layer's number, its path there and its size."""


class Clones:
    """The files of a flat tree: those of its ``layers`` (their bases, lowest first).

    ``generated`` is the directory with the content of what no layer has; ``read`` reads
    what cannot be a clone, since it has another mode than the layer's file.
    """

    def __init__(
        self,
        directories: Directories,
        layers: Sequence[bytes],
        generated: Path,
        read: Read | None = None,
    ) -> None:
        self._directories = directories
        self._layers = layers
        self._generated = os.fsencode(generated)
        self._read = read

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add a link to a layer's file."""
        source = mtree.decode(match["source"]) if match["source"] else path
        stream.add_link(name, self._target(path, match["layer"], source))

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add a link to a layer's file, or a file of the tree's own."""
        if b"generated" not in entry.flags:
            target = self._target(entry.path, entry.layer, entry.content_path)
            if self._read is None or entry.layer is None or mtree.WIDENED not in entry.flags:
                stream.add_link(name, target)
                return
            head = entry_header(name, tar_writer.FILE, entry, size=entry.size)
            pieces = self._read(entry.layer, entry.content_path, entry.size)
            stream.add_pieces(head, pieces, entry.size)
            return
        parent, last = split(entry.path)
        directory = self._directories.get(self._generated, parent)
        descriptor = os.open(last, _FLAGS, dir_fd=directory)
        try:
            head = entry_header(name, tar_writer.FILE, entry, size=entry.size)
            stream.add_open(head, descriptor, entry.size)
        finally:
            os.close(descriptor)

    def _target(self, path: bytes, layer: int | bytes | None, source: bytes) -> bytes:
        if layer is None or int(layer) >= len(self._layers):
            raise RepositoryError(
                f"{path!r} of the image's manifest names no layer of the image",
                hint="remove the staged image and run again",
            )
        return b"%b/%b" % (self._layers[int(layer)], source)


def read_published(directories: Directories, tree: Path, path: bytes, size: int) -> Iterator[bytes]:
    """The content of a file of a published tree, no link followed."""
    parent, name = split(path)
    descriptor = os.open(name, _FLAGS, dir_fd=directories.get(os.fsencode(tree), parent))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            size -= len(piece)
            yield piece


def entry_header(
    name: bytes, kind: bytes, entry: Entry, *, size: int = 0, link: bytes = b""
) -> bytes:
    """The header of a member with an entry's metadata."""
    return header(
        name,
        kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        mtime_ns=entry.mtime_ns,
        link=link,
        device=entry.device,
    )
