"""A layer's files in one: their content, one after another, and where each begins.

A layer that goes into an archive next needs no tree of its own: its manifest says
all about its entries but the content of files.  Making and removing one file in
place of thousands is what a file system does best, and it needs no privileges.

``content`` has the files' content as the layer's archive has it, holes as holes,
and what was replaced later still.  ``index`` has, for each file with content and
each further name of it, ``<offset> <path>`` and a NUL.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import LayerError
from .place import ROOT, Attributes, Lost
from .tar import Member

CONTENT = "content"
INDEX = "index"

_BUFFER = 1024 * 1024
_NAME_BYTES = 255
_TARGET_BYTES = 4095


class Pack:
    """Makes a pack in ``directory``; close it.

    Keeps to `duccmake.layer.place.Place`, and nothing is ever lost.  Raises `OSError`,
    with ``ENAMETOOLONG`` for what no Linux file system takes as a name or a target.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = (directory / CONTENT).open("xb", buffering=_BUFFER)
        self._end = 0
        self._start = 0
        self._places: dict[int, tuple[int, bytes]] = {}
        self._offsets: dict[int, dict[bytes, int]] = {ROOT: {}}

    def close(self) -> None:
        """Close what is open; `finish` it before."""
        self._file.close()

    def finish(self) -> None:
        """Write out all content, and the index."""
        self._file.flush()
        with (self._directory / INDEX).open("wb", buffering=_BUFFER) as index:
            for number, offsets in self._offsets.items():
                base = self._path(number)
                for name, offset in offsets.items():
                    index.write(b"%d %b%b\0" % (offset, base, name))

    def _path(self, number: int) -> bytes:
        names = []
        while number != ROOT:
            number, name = self._places[number]
            names.append(name + b"/")
        return b"".join(reversed(names))

    # --- duccmake.layer.place.Place -------------------------------------------

    def settle(self, directory: int) -> None:
        """Nothing ever waits."""

    def losses(self) -> dict[str, int]:
        """Nothing is ever lost."""
        return {}

    def make_directory(self, parent: int, name: bytes, number: int) -> None:
        """Know a directory."""
        _check_name(name)
        self._places[number] = (parent, name)
        self._offsets[number] = {}

    def remove_directory(self, number: int) -> None:
        """Forget a directory."""
        del self._places[number], self._offsets[number]

    def finish_directory(
        self, number: int, attributes: Attributes, whiteouts: tuple[bytes, ...], *, opaque: bool
    ) -> Lost:
        """The manifest has it all."""
        return ()

    def make_file(
        self, parent: int, name: bytes, member: Member, content: bytes | memoryview
    ) -> None:
        """Add a file's content."""
        _check_name(name)
        self._offsets[parent][name] = self._end
        self._file.write(content)
        self._end += len(content)

    def open_file(self, parent: int, name: bytes, member: Member) -> None:
        """Begin the content of a file."""
        _check_name(name)
        self._offsets[parent][name] = self._start = self._end

    def write(self, content: memoryview) -> None:
        """Append to the open file."""
        self._file.write(content)
        self._end += len(content)

    def seek(self, offset: int) -> None:
        """Leave a hole in the open file."""
        self._end = self._file.seek(self._start + offset)

    def close_file(self, member: Member) -> Lost:
        """Give the open file its size, where it ends in a hole."""
        if member.extents is not None:
            self._end = self._file.truncate(self._start + member.size)
            self._file.seek(self._end)
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
        offset = self._offsets[source_parent].get(source_name)
        if offset is not None:
            self._offsets[parent][name] = offset

    def link_or_copy(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> int | None:
        """There is room for any number of names."""
        self.make_hard_link(source_parent, source_name, parent, name)
        return None

    def remove_name(self, parent: int, name: bytes) -> None:
        """Forget a name that is no directory."""
        self._offsets[parent].pop(name, None)


def _check_name(name: bytes) -> None:
    if len(name) > _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)


class Packed:
    """Reads the pack in ``directory``; close it.

    Raises `OSError`, and `LayerError` where the pack has not what the layer's
    manifest says.
    """

    def __init__(self, directory: Path) -> None:
        self._offsets: dict[bytes, int] = {}
        for item in (directory / INDEX).read_bytes().split(b"\0"):
            offset, _, path = item.partition(b" ")
            if path:
                self._offsets[path] = int(offset)
        self._fd = os.open(directory / CONTENT, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def close(self) -> None:
        """Close what is open."""
        os.close(self._fd)

    def pieces(self, path: bytes, size: int, piece: int = _BUFFER) -> Iterator[bytes]:
        """The content of a file of ``size`` bytes, in pieces."""
        at = self._offsets.get(path)
        if at is None:
            raise self._damaged(path)
        end = at + size
        while at < end:
            content = os.pread(self._fd, min(end - at, piece), at)
            if not content:
                raise self._damaged(path)
            yield content
            at += len(content)

    @staticmethod
    def _damaged(path: bytes) -> LayerError:
        return LayerError(
            f"the staged layer has not all of {path!r}, as its manifest says",
            hint="remove the staged layer and run again",
        )
