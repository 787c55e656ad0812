"""A layer's files as the objects that a CernVM-FS repository is to store of them.

The layer's manifest says all about its entries but where their content is: that is
kept in memory until the layer's catalogs are written.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Set
from typing import BinaryIO

from ..cvmfs.names import HASH_BYTES, Kind, object_name
from ..cvmfs.objects import CHUNK, CHUNK_ABOVE, names_of
from ..cvmfs.rows import Chunk, Content
from .compressors import NO_FILE, Compressors
from .place import PIECE, ROOT, Attributes, Lost
from .tar import Member

_NAME_BYTES = 255
_TARGET_BYTES = 4095
_ZEROS = bytes(1024 * 1024)


class ObjectPlace:
    """Has ``compressors`` make objects; what becomes of them is known after `finish`.

    Keeps to `duccmake.layer.place.Place`, and nothing is ever lost.  Raises `OSError`,
    with ``ENAMETOOLONG`` for what no Linux file system takes as a name or a target.
    """

    def __init__(self, compressors: Compressors) -> None:
        self._compressors = compressors
        self._places: dict[int, tuple[int, bytes]] = {}
        self._files: dict[int, dict[bytes, int]] = {ROOT: {}}
        self._sizes = array("q")
        self._hashes = bytearray()
        self._chunks: dict[int, tuple[Chunk, ...]] = {}
        self._directories: dict[bytes, dict[bytes, int]] = {}
        self._unused: set[str] = set()
        # Of the open file, the last: what was written, and the object under way.
        self._at = self._start = self._end = 0
        self._spool: BinaryIO | None = None

    def finish(self) -> None:
        """Wait for all objects; nothing can be ordered any more."""
        self._directories = {self._path(number): files for number, files in self._files.items()}
        self._hashes = bytearray(HASH_BYTES * len(self._sizes))
        chunks: dict[int, list[Chunk]] = {}
        for file, offset, size, kind, digest in self._compressors.made():
            self._unused.add(object_name(digest, Kind(kind)))
            if file == NO_FILE:
                continue
            if kind == Kind.CHUNK:
                chunks.setdefault(file, []).append(Chunk(offset, size, digest))
            else:
                self._hashes[HASH_BYTES * file : HASH_BYTES * (file + 1)] = digest
        for file, found in chunks.items():
            self._chunks[file] = tuple(sorted(found, key=lambda chunk: chunk.offset))

    def content(self, layer: int | None, path: bytes) -> Content:
        """What the file at a path of the layer's manifest has in it.

        Keeps to `duccmake.cvmfs.trees.Contents`: there is no other layer.
        """
        parent, _, name = path.rpartition(b"/")
        file = self._directories[parent][name]
        size = self._sizes[file]
        if chunks := self._chunks.get(file):
            content = Content(None, size, chunks)
        else:
            content = Content(
                bytes(self._hashes[HASH_BYTES * file : HASH_BYTES * (file + 1)]), size
            )
        self._unused.difference_update(names_of(content))
        return content

    @property
    def unused(self) -> Set[str]:
        """The names of objects whose content nobody has asked for.

        They are of files that the layer itself has replaced, or that are not published.
        """
        return self._unused

    @property
    def _last(self) -> int:
        return len(self._sizes) - 1

    def _path(self, number: int) -> bytes:
        names = []
        while number != ROOT:
            number, name = self._places[number]
            names.append(name)
        return b"/".join(reversed(names))

    def _new_file(self, parent: int, name: bytes, size: int) -> int:
        _check_name(name)
        file = self._files[parent][name] = len(self._sizes)
        self._sizes.append(size)
        return file

    def _begin_object(self) -> None:
        size = self._sizes[-1]
        self._start = self._at
        self._end = min(self._at + CHUNK, size) if size > CHUNK_ABOVE else size
        self._compressors.begin(self._end - self._start)

    def _end_chunk(self) -> None:
        self._compressors.end(self._last, self._start, Kind.CHUNK)

    # --- duccmake.layer.place.Place -------------------------------------------

    def settle(self, directory: int) -> None:
        """Nothing ever waits for anything else."""

    def losses(self) -> dict[str, int]:
        """Nothing is ever lost."""
        return {}

    def make_directory(self, parent: int, name: bytes, number: int) -> None:
        """Know a directory."""
        _check_name(name)
        self._places[number] = (parent, name)
        self._files[number] = {}

    def remove_directory(self, number: int) -> None:
        """Forget a directory."""
        del self._places[number], self._files[number]

    def finish_directory(
        self, number: int, attributes: Attributes, whiteouts: tuple[bytes, ...], *, opaque: bool
    ) -> Lost:
        """The manifest has it all."""
        return ()

    def make_file(
        self, parent: int, name: bytes, member: Member, content: bytes | memoryview, sha256: str
    ) -> None:
        """Have an object made of a file's content."""
        self._compressors.whole(self._new_file(parent, name, len(content)), content, sha256)

    def open_file(self, parent: int, name: bytes, member: Member) -> None:
        """Begin the content of a file."""
        self._new_file(parent, name, member.size)
        self._at = 0
        # Of large content the digest is wanted before anything is made of it.
        if member.size > CHUNK_ABOVE:
            self._spool = self._compressors.spool(member.size)
        if self._spool is None:
            self._begin_object()

    def write(self, content: memoryview) -> None:
        """Append to the open file."""
        assert self._at + len(content) <= self._sizes[-1], "more than the archive says"
        if self._spool is not None:
            self._at += self._spool.write(content)
            return
        while content:
            part = content[: self._end - self._at]
            self._compressors.add(part)
            self._at += len(part)
            content = content[len(part) :]
            if self._at == self._end and self._sizes[-1] > CHUNK_ABOVE:
                self._end_chunk()
                self._begin_object()

    def seek(self, offset: int) -> None:
        """Fill a hole in the open file."""
        while self._at < offset:
            self.write(memoryview(_ZEROS)[: offset - self._at])

    def close_file(self, member: Member, sha256: str) -> Lost:
        """Fill the open file up, where it ends in a hole."""
        self.seek(member.size)
        if self._spool is not None:
            self._close_spooled(self._spool, sha256)
        elif member.size <= CHUNK_ABOVE:
            self._compressors.end(self._last, 0, Kind.FILE, sha256)
        return ()

    def _close_spooled(self, spool: BinaryIO, sha256: str) -> None:
        self._spool = None
        with spool:
            spool.flush()
            if self._compressors.take(self._last, sha256):
                return
            self._at = 0
            self._begin_object()
            spool.seek(0)
            while piece := spool.read(PIECE):
                self.write(memoryview(piece))

    def make_symlink(self, parent: int, name: bytes, member: Member) -> Lost:
        """The manifest has it."""
        _check_name(name)
        if len(member.target) > _TARGET_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), member.target)
        return ()

    def make_node(self, parent: int, name: bytes, member: Member) -> Lost | None:
        """The manifest has it."""
        _check_name(name)
        return ()

    def make_hard_link(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> None:
        """Note another name of what may be a file."""
        _check_name(name)
        file = self._files[source_parent].get(source_name)
        if file is not None:
            self._files[parent][name] = file

    def link_or_copy(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> int | None:
        """There is room for any number of names."""
        self.make_hard_link(source_parent, source_name, parent, name)
        return None

    def remove_name(self, parent: int, name: bytes) -> None:
        """Forget a name that is no directory."""
        self._files[parent].pop(name, None)


def _check_name(name: bytes) -> None:
    if len(name) > _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
