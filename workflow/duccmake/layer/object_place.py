"""A layer's files as the objects that a CernVM-FS repository is to store of them.

The layer's manifest says all about its entries but where their content is: that is
kept in memory until the layer's catalogs are written.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Set

from ..cvmfs.names import HASH_BYTES, Kind, object_name
from ..cvmfs.objects import CHUNK, CHUNK_ABOVE, names_of
from ..cvmfs.rows import Chunk, Content
from .compressors import Compressors
from .place import ROOT, Attributes, Lost
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

    def finish(self) -> None:
        """Wait for all objects; nothing can be ordered any more."""
        self._directories = {self._path(number): files for number, files in self._files.items()}
        self._hashes = bytearray(HASH_BYTES * len(self._sizes))
        chunks: dict[int, list[Chunk]] = {}
        for file, offset, size, kind, digest in self._compressors.made():
            self._unused.add(object_name(digest, Kind(kind)))
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

    def _end_object(self) -> None:
        kind = Kind.CHUNK if self._sizes[-1] > CHUNK_ABOVE else Kind.FILE
        self._compressors.end(len(self._sizes) - 1, self._start, kind)

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
        self, parent: int, name: bytes, member: Member, content: bytes | memoryview
    ) -> None:
        """Have an object made of a file's content."""
        self._compressors.whole(self._new_file(parent, name, len(content)), content)

    def open_file(self, parent: int, name: bytes, member: Member) -> None:
        """Begin the content of a file."""
        self._new_file(parent, name, member.size)
        self._at = 0
        self._begin_object()

    def write(self, content: memoryview) -> None:
        """Append to the open file."""
        assert self._at + len(content) <= self._sizes[-1], "more than the archive says"
        while content:
            part = content[: self._end - self._at]
            self._compressors.add(part)
            self._at += len(part)
            content = content[len(part) :]
            if self._at == self._end:
                self._end_object()
                self._begin_object()

    def seek(self, offset: int) -> None:
        """Fill a hole in the open file."""
        while self._at < offset:
            self.write(memoryview(_ZEROS)[: offset - self._at])

    def close_file(self, member: Member) -> Lost:
        """Fill the open file up, where it ends in a hole."""
        self.seek(member.size)
        if not member.size:
            self._end_object()
        return ()

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
