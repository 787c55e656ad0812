"""Where a tree's files have their content from: a staged layer, or other published files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...cvmfs.revision import Revision
from ...errors import RepositoryError
from ...layer.catalogs import StagedCatalogs
from ...tree import mtree
from ...tree.mtree import Entry
from . import tar_writer
from .staging import published_contents
from .tar_writer import TarStream, header


class Contents(Protocol):
    """Adds a tree's files as members, with their content or as links to others."""

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add the file of a plain line (`keeping.plain`) as the member ``name``."""
        ...

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add the file of any other entry."""
        ...


class Source(Protocol):
    """Where the content of a tree's files is read from."""

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """The content of the file at a path of the tree."""
        ...


class StagedFiles:
    """The content of a tree's files as it is staged; keeps to `Source`."""

    def __init__(self, directory: Path) -> None:
        self._staged = StagedCatalogs.read(directory)
        self._contents = self._staged.contents()

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """The content of the file at a path of the tree."""
        return self._staged.objects.pieces(self._contents.of(path))


class PublishedFiles:
    """The content of the files of a tree that a revision has; keeps to `Source`."""

    def __init__(self, revision: Revision, at: bytes) -> None:
        self._revision = revision
        self._contents = published_contents(revision, at)

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """The content of the file at a path of the tree."""
        return self._revision.content_pieces(self._contents.of(path))


class LayerFiles:
    """The files of a layer that is published below ``base``; hard links to others are left out."""

    def __init__(self, source: Source, base: bytes) -> None:
        self._source = source
        self._base = base

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add a file with its content."""
        size = int(match["size"])
        head = header(
            name,
            tar_writer.FILE,
            mode=int(match["mode"], 8),
            uid=int(match["uid"]),
            gid=int(match["gid"]),
            size=size,
            mtime_ns=int(match["seconds"]) * 1_000_000_000,
        )
        stream.add_pieces(head, self._source.pieces(path), size)

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add a file with its content, or as a link where it is one."""
        if b"lower" in entry.flags:
            return
        if entry.hardlink:
            stream.add_link(name, b"%b/%b" % (self._base, entry.hardlink))
        else:
            head = entry_header(name, tar_writer.FILE, entry, size=entry.size)
            stream.add_pieces(head, self._source.pieces(entry.path), entry.size)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a flat tree: its path in the repository, and how its files are read.

    ``published``: it is there already, and its large files may be in chunks.
    """

    base: bytes
    published: bool
    source: Callable[[], Source]


class Clones:
    """The files of a flat tree: those of its ``layers``, lowest first.

    They are links, unless they have another mode than the layer's file, or are larger than
    ``limit`` and published: there is no link to a file that is stored in chunks.  ``own``
    has the content of what no layer has.
    """

    def __init__(
        self, layers: Sequence[Layer], limit: int, own: Callable[[], Source] | None = None
    ) -> None:
        self._layers = layers
        self._limit = limit
        self._own = own

    def add_plain(
        self, stream: TarStream, name: bytes, path: bytes, match: re.Match[bytes]
    ) -> None:
        """Add a link to a layer's file."""
        layer = self._layer(path, match["layer"])
        if layer.published and int(match["size"]) > self._limit:
            self.add(stream, name, Entry.parse(match.string))
        else:
            source = mtree.decode(match["source"]) if match["source"] else path
            stream.add_link(name, b"%b/%b" % (layer.base, source))

    def add(self, stream: TarStream, name: bytes, entry: Entry) -> None:
        """Add a link to a layer's file, or a file with content."""
        head = entry_header(name, tar_writer.FILE, entry, size=entry.size)
        if b"generated" in entry.flags:
            if self._own is None:
                raise _no_layer(entry.path)
            stream.add_pieces(head, self._own().pieces(entry.path), entry.size)
            return
        layer = self._layer(entry.path, entry.layer)
        large = layer.published and entry.size > self._limit
        if large or mtree.WIDENED in entry.flags:
            stream.add_pieces(head, layer.source().pieces(entry.content_path), entry.size)
        else:
            stream.add_link(name, b"%b/%b" % (layer.base, entry.content_path))

    def _layer(self, path: bytes, number: int | bytes | None) -> Layer:
        if number is None or int(number) >= len(self._layers):
            raise _no_layer(path)
        return self._layers[int(number)]


def _no_layer(path: bytes) -> RepositoryError:
    return RepositoryError(
        f"{path!r} of the image's manifest names no layer of the image",
        hint="remove the staged image and run again",
    )


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
