"""Files that are in the repository already under another path, with all that is said of them.

An image that is built anew mostly has what it had: under another digest, since one
file in a layer changed, the others come again.  CernVM-FS would compress and hash
each of them to find that it has it.  A link to the published file says so at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...oci.reference import Digest
from ...tree import mtree
from .. import adoption
from ..model import StagedImage
from ..view import View
from .chunked_files import is_in_chunks
from .fidelity import plain

_LOOK_FROM = 64 * 1024
"""What is stored in chunks cannot be linked to: files of so many bytes are asked first."""

_MOST = 200_000
"""Files that are known at most: some 60 MB."""

_WORTH_KEEPING = 4096
"""Bytes from which on a file of the archive itself is known: smaller ones cost little."""


class KnownFiles:
    """Paths of files by what a manifest says of them behind the path.

    ``root`` is where the repository is read.  ``used`` counts what was found, and
    ``used_published`` how much of that was published before.
    """

    def __init__(self, root: Path) -> None:
        self.used = 0
        self.used_published = 0
        self._root = os.fsencode(root)
        self._paths: dict[bytes, bytes] = {}
        self._written: set[bytes] = set()

    def add_published(self, base: bytes, lines: Iterable[bytes]) -> None:
        """Know the files of a layer that is published below ``base``, of these lines."""
        for line in lines:
            match = plain(line)
            if len(self._paths) >= _MOST:
                return
            if match is not None and b" sha256=" in line and match["size"] != b"0":
                path = b"%b/%b" % (base, mtree.decode(match["path"]))
                self._paths.setdefault(_facts(line), path)

    def find(self, line: bytes, size: int) -> bytes:
        """The path of a file that is the same as the one of a plain line; empty if unknown."""
        facts = _facts(line)
        path = self._paths.get(facts, b"")
        if path and path not in self._written:
            if size >= _LOOK_FROM and is_in_chunks(b"%b/%b" % (self._root, path)):
                del self._paths[facts]
                return b""
            self.used_published += 1
        self.used += bool(path)
        return path

    def add_written(self, line: bytes, path: bytes, size: int) -> None:
        """Know a file of a plain line that is in the archive now."""
        if size >= _WORTH_KEEPING and b" sha256=" in line and len(self._paths) < _MOST:
            self._paths[_facts(line)] = path
            self._written.add(path)


def layers_before(view: View, image: StagedImage) -> list[Digest]:
    """Layers that the image does not have, but the one that its name leads to has.

    A new name's are those of the tag of its repository that was published last.
    """
    known = adoption.manifest(view, image.name)
    if known is None and (sibling := _last_sibling(view, image.name)):
        known = adoption.manifest(view, sibling)
    layers = known[1] if known is not None else ()
    return [digest for digest in dict.fromkeys(layers) if digest not in image.layers]


def _last_sibling(view: View, name: str) -> str:
    """The other tag of an image's repository that was published last; empty if none was."""
    base, slash, own = name.rpartition("/")
    stem = own.partition(":")[0] + ":"
    last, when = "", 0
    for found in view.entries(view.layout.metadata / base):
        if found.startswith(stem):
            with suppress(OSError):
                # Its directory's time is that of its first publication.
                at = view.mtime_ns(view.layout.manifest(f"{base}{slash}{found}"))
                if at > when:
                    last, when = found, at
    return f"{base}{slash}{last}" if last else ""


def _facts(line: bytes) -> bytes:
    """A short stand-in for all that the line says behind the path."""
    return hashlib.blake2b(line.partition(b" ")[2], digest_size=16).digest()
