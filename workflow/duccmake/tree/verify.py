"""Compare a tree with its manifest, entry by entry."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..errors import DuccmakeError
from . import mtree
from .attributes import OPAQUE_XATTRS, OVERLAY_XATTRS
from .mtree import LOST, Entry, encode

Digests = dict[Hashable, str]
"""sha256 by `Found.content`: trees share files, each is read once."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a tree has at a path.

    ``kind`` is as manifests have it, ``inode`` is one for all names of one file, and
    ``content`` for all files of which it is known that they have one content.
    """

    kind: bytes
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    device: tuple[int, int]
    inode: Hashable
    content: Hashable


class Tree(Protocol):
    """A tree that is compared, by paths as manifests have them (``.`` is the root).

    No symlink is followed.  What is not there or cannot be read raises `OSError`.
    """

    def found(self, path: bytes) -> Found:
        """What is at a path."""
        ...

    def target(self, path: bytes) -> bytes:
        """Where a symlink leads."""
        ...

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The extended attributes of what is at a path."""
        ...

    def sha256(self, path: bytes) -> str:
        """The sha256 of a file's content, in hex."""
        ...

    def entries(self, path: bytes) -> dict[bytes, bool]:
        """What is in a directory, by name, and of each whether it is one."""
        ...

    def missing(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Those of the files whose content is gone, as far as that is known without reading."""
        ...


class Difference(NamedTuple):
    """What a tree has at a path, as manifests write it, that its manifest has otherwise."""

    path: str
    words: str


def at_once(size: int) -> None:
    """Nobody waits after having read ``size`` bytes."""


def nowhere(entry: Entry, found: Found) -> bool:
    """Nobody else reads what is found of an entry."""
    return False


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared beside what a tree consists of.

    ``owners``: owners, and that directories have no more than their mode; a tree that was
    made without root has its maker's, and directories ``u+rwx``.
    ``content``: files are read; otherwise it is only seen that their content is there.
    Entries that bear a name of ``ignored`` may be there without the manifest's word.
    ``read`` is told how many bytes of a file were read, and may take its time.  What
    ``is_read_elsewhere`` is not read here.  ``opaque``: directories that hide what lower layers
    have in them are marked so.
    """

    owners: bool = True
    content: bool = True
    ignored: Collection[bytes] = ()
    read: Callable[[int], None] = at_once
    is_read_elsewhere: Callable[[Entry, Found], bool] = nowhere
    opaque: bool = False


def differences(
    tree: Tree, lines: Iterable[bytes], digests: Digests, compared: Compared
) -> Iterator[Difference]:
    """The differences between a tree and the lines of its manifest.

    What the manifest says was lost is not compared.  A line that is none is a difference too.
    """
    comparison = _Comparison(tree, digests, compared)
    for line in lines:
        if not line.startswith(b"#"):
            try:
                entry = Entry.parse(line)
            except DuccmakeError as error:
                yield Difference(".", f"its manifest is damaged: {error.found}")
                continue
            for words in comparison.compare(entry):
                yield Difference(_show(entry.path), words)
    for path in comparison.missing():
        yield Difference(_show(path), "its content is not there")
    yield from comparison.unknown()


_NOT_MADE = frozenset({b"device", b"devices", b"names"})
"""Losses with which an entry is not there at all."""


class _Comparison:
    def __init__(self, tree: Tree, digests: Digests, compared: Compared) -> None:
        self._tree = tree
        self._digests = digests
        self._compared = compared
        self._known: set[bytes] = set()
        self._unread: list[bytes] = []

    def compare(self, entry: Entry) -> Iterator[str]:
        self._known.add(entry.path)
        lost = {flag[len(LOST) :] for flag in entry.flags if flag.startswith(LOST)}
        try:
            found = self._tree.found(entry.path)
        except OSError as error:
            # A hard link to a lower layer is there once a chain has put its file there.
            if lost.isdisjoint(_NOT_MADE) and (b"lower" not in entry.flags or entry.sha256):
                # A file system says more of what is below something that is no directory.
                gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
                why = os.strerror(errno.ENOENT) if gone else error.strerror
                yield f"cannot be read: {why}"
            return
        if found.kind != entry.kind:
            yield f"is a {found.kind.decode()}, the manifest has a {entry.kind.decode()}"
            return
        if entry.kind in (mtree.CHAR, mtree.BLOCK) and found.device != entry.device:
            yield f"is the device {found.device}, the manifest has {entry.device}"
        if b"whiteout" not in entry.flags:
            yield from self._attributes(entry, found, lost)
            yield from self._content(entry, found, lost)
            yield from self._xattrs(entry, lost)

    def _attributes(self, entry: Entry, found: Found, lost: set[bytes]) -> Iterator[str]:
        wanted = entry.mode
        if not self._compared.owners and entry.kind == mtree.DIR:
            wanted |= 0o700
        if found.mode != wanted and entry.kind != mtree.LINK and b"modes" not in lost:
            yield f"has the mode {found.mode:04o}, the manifest {wanted:04o}"
        owner = (entry.uid, entry.gid)
        if found.owner != owner and b"owners" not in lost and self._compared.owners:
            yield f"belongs to {found.owner}, in the manifest to {owner}"
        if found.mtime_ns != entry.mtime_ns and b"mtimes" not in lost:
            yield f"has the time {found.mtime_ns} ns, the manifest {entry.mtime_ns} ns"

    def _content(self, entry: Entry, found: Found, lost: set[bytes]) -> Iterator[str]:
        if entry.kind == mtree.LINK:
            target = self._tree.target(entry.path)
            if target != entry.target:
                yield f"leads to {_show(target)}, in the manifest to {_show(entry.target)}"
        elif entry.kind == mtree.FILE and b"lower" not in entry.flags:
            if found.size != entry.size:
                yield f"has {found.size} bytes, the manifest {entry.size}"
            elif self._compared.content and not self._compared.is_read_elsewhere(entry, found):
                yield from self._read(entry, found)
            else:
                self._unread.append(entry.path)
        if entry.hardlink and b"lower" not in entry.flags and b"hardlinks" not in lost:
            try:
                inode = self._tree.found(entry.hardlink).inode
            except OSError:
                inode = None
            if inode != found.inode:
                yield f"is another file than {_show(entry.hardlink)}"

    def _read(self, entry: Entry, found: Found) -> Iterator[str]:
        digest = self._digests.get(found.content)
        if digest is None:
            try:
                digest = self._digests[found.content] = self._tree.sha256(entry.path)
            except OSError as error:
                yield f"cannot be read: {error.strerror}"
                return
            self._compared.read(found.size)
        if entry.sha256 and digest != entry.sha256:
            yield f"has the sha256 {digest}, the manifest {entry.sha256}"

    def _xattrs(self, entry: Entry, lost: set[bytes]) -> Iterator[str]:
        is_to_hide = self._compared.opaque and b"opaque" in entry.flags
        if is_to_hide and OPAQUE_XATTRS.isdisjoint(self._tree.xattrs(entry.path)):
            yield "lacks the mark of an opaque directory"
        if not self._compared.owners or b"xattrs" in lost:
            return
        found, wanted = _acting(self._tree.xattrs(entry.path)), _acting(dict(entry.xattrs))
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                yield f"has the attribute {_show(key)} as {found.get(key)!r}, " + (
                    f"the manifest as {wanted.get(key)!r}"
                )

    def missing(self) -> Iterator[bytes]:
        """Paths of files whose content was to be there, and is not."""
        return self._tree.missing(self._unread)

    def unknown(self) -> Iterator[Difference]:
        """What the tree has and the manifest does not, without what is below that."""
        pending = [b"."]
        while pending:
            path = pending.pop()
            try:
                entries = self._tree.entries(path)
            except OSError as error:
                yield Difference(_show(path), f"cannot be read: {error.strerror}")
                continue
            for name, is_directory in sorted(entries.items()):
                below = name if path == b"." else b"%b/%b" % (path, name)
                if below in self._known:
                    pending += [below] * is_directory
                elif name not in self._compared.ignored:
                    yield Difference(_show(below), _stranger(name))


def _stranger(name: bytes) -> str:
    """What is said of an entry that the manifest does not have."""
    marker = " (a whiteout's marker, as DUCC leaves them)" if name.startswith(b".wh.") else ""
    return f"is not in the manifest{marker}"


def _acting(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Without overlayfs' own, and without what security modules put on every file."""
    return {
        name: value
        for name, value in xattrs.items()
        if not name.startswith(OVERLAY_XATTRS) and name != b"security.selinux"
    }


def _show(path: bytes) -> str:
    return encode(path).decode()
