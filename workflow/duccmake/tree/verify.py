"""Compare a tree with its manifest, entry by entry."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from . import mtree
from .attributes import OVERLAY_XATTRS, read_xattrs
from .directories import Directories, split
from .mtree import LOST, Entry, encode

_KINDS = {
    stat.S_IFDIR: mtree.DIR,
    stat.S_IFREG: mtree.FILE,
    stat.S_IFLNK: mtree.LINK,
    stat.S_IFCHR: mtree.CHAR,
    stat.S_IFBLK: mtree.BLOCK,
    stat.S_IFIFO: mtree.FIFO,
    stat.S_IFSOCK: mtree.SOCKET,
}

Digests = dict[tuple[int, int, int], str]
"""sha256 by device, inode and change time: trees share files, each is read once."""


def differences(
    tree: Path,
    manifest: Path,
    digests: Digests,
    *,
    unprivileged: bool = False,
    ignored: Collection[bytes] = (),
    xattrs: bool = True,
) -> Iterator[str]:
    """One line for each difference between ``tree`` and ``manifest``.

    What the manifest says was lost is not compared.  ``unprivileged``: the tree
    was made without root, so owners are its maker's and directories have ``u+rwx``.
    Entries that bear a name of ``ignored`` may be there without the manifest's word.
    Without ``xattrs`` extended attributes are not compared.
    """
    with Directories() as directories:
        comparison = _Comparison(os.fsencode(tree), directories, digests, unprivileged, xattrs)
        for entry in mtree.read(manifest):
            for difference in comparison.compare(entry):
                yield f"{_show(entry.path)}: {difference}"
        for path in comparison.unknown(ignored):
            yield f"{_show(path)}: is not in the manifest"


class _Comparison:
    def __init__(
        self,
        tree: bytes,
        directories: Directories,
        digests: Digests,
        unprivileged: bool,
        xattrs: bool,
    ) -> None:
        self._tree = tree
        self._directories = directories
        self._digests = digests
        self._unprivileged = unprivileged
        self._compares_xattrs = xattrs and not unprivileged
        self._known: set[bytes] = set()

    def compare(self, entry: Entry) -> Iterator[str]:
        self._known.add(entry.path)
        lost = {flag[len(LOST) :] for flag in entry.flags if flag.startswith(LOST)}
        try:
            directory, name = self._place(entry.path)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            # A hard link to a lower layer is there once a chain has put its file there.
            if not lost and (b"lower" not in entry.flags or entry.sha256):
                yield f"cannot be read: {error.strerror}"
            return
        kind = _KINDS[stat.S_IFMT(found.st_mode)]
        if kind != entry.kind:
            yield f"is a {kind.decode()}, the manifest has a {entry.kind.decode()}"
            return
        if entry.kind in (mtree.CHAR, mtree.BLOCK):
            device = (os.major(found.st_rdev), os.minor(found.st_rdev))
            if device != entry.device:
                yield f"is the device {device}, the manifest has {entry.device}"
        if b"whiteout" not in entry.flags:
            yield from self._attributes(entry, found, lost)
            yield from self._content(entry, found, lost)
            yield from self._xattrs(entry, lost)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        parent, name = split(path)
        return self._directories.get(self._tree, parent), name

    def _attributes(self, entry: Entry, found: os.stat_result, lost: set[bytes]) -> Iterator[str]:
        mode, wanted = stat.S_IMODE(found.st_mode), entry.mode
        if self._unprivileged and entry.kind == mtree.DIR:
            wanted |= stat.S_IRWXU
        if mode != wanted and entry.kind != mtree.LINK and b"modes" not in lost:
            yield f"has the mode {mode:04o}, the manifest {wanted:04o}"
        owner = (found.st_uid, found.st_gid)
        if owner != (entry.uid, entry.gid) and b"owners" not in lost and not self._unprivileged:
            yield f"belongs to {owner}, in the manifest to {(entry.uid, entry.gid)}"
        if found.st_mtime_ns != entry.mtime_ns and b"mtimes" not in lost:
            yield f"has the time {found.st_mtime_ns} ns, the manifest {entry.mtime_ns} ns"

    def _content(self, entry: Entry, found: os.stat_result, lost: set[bytes]) -> Iterator[str]:
        directory, name = self._place(entry.path)
        if entry.kind == mtree.LINK:
            target = os.readlink(name, dir_fd=directory)
            if target != entry.target:
                yield f"leads to {_show(target)}, in the manifest to {_show(entry.target)}"
        elif entry.kind == mtree.FILE and b"lower" not in entry.flags:
            if found.st_size != entry.size:
                yield f"has {found.st_size} bytes, the manifest {entry.size}"
            elif entry.sha256:
                digest = self._digest(directory, name, found)
                if digest != entry.sha256:
                    yield f"has the sha256 {digest}, the manifest {entry.sha256}"
        if entry.hardlink and b"lower" not in entry.flags and b"hardlinks" not in lost:
            first_directory, first = self._place(entry.hardlink)
            try:
                inode = os.stat(first, dir_fd=first_directory, follow_symlinks=False).st_ino
            except OSError:
                inode = 0
            if inode != found.st_ino:
                yield f"is another file than {_show(entry.hardlink)}"

    def _digest(self, directory: int, name: bytes, found: os.stat_result) -> str:
        key = (found.st_dev, found.st_ino, found.st_ctime_ns)
        if key not in self._digests:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as content:
                self._digests[key] = hashlib.file_digest(content, "sha256").hexdigest()
        return self._digests[key]

    def _xattrs(self, entry: Entry, lost: set[bytes]) -> Iterator[str]:
        if not self._compares_xattrs or b"xattrs" in lost:
            return
        directory, name = self._place(entry.path)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            found = _acting(read_xattrs(f"/proc/self/fd/{descriptor}"))
        finally:
            os.close(descriptor)
        wanted = _acting(dict(entry.xattrs))
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                yield f"has the attribute {_show(key)} as {found.get(key)!r}, " + (
                    f"the manifest as {wanted.get(key)!r}"
                )

    def unknown(self, ignored: Collection[bytes]) -> Iterator[bytes]:
        """Paths that the tree has and the manifest does not; not what is below them."""
        pending = [b"."]
        while pending:
            path = pending.pop()
            with os.scandir(self._directories.get(self._tree, path)) as entries:
                found = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
            for name, is_directory in sorted(found):
                below = name if path == b"." else b"%b/%b" % (path, name)
                if below not in self._known:
                    if name not in ignored:
                        yield below
                elif is_directory:
                    pending.append(below)


def _acting(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Without overlayfs' own, and without what security modules put on every file."""
    return {
        name: value
        for name, value in xattrs.items()
        if not name.startswith(OVERLAY_XATTRS) and name != b"security.selinux"
    }


def _show(path: bytes) -> str:
    return encode(path).decode()
