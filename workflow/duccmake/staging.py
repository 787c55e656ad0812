"""A private directory that a layer is unpacked into, entry by entry.

All names are resolved in memory, against what was made here, and every system
call works on one name in a directory descriptor that was opened without
following links.  So nothing outside is touched, whatever a layer says and
whatever another process does meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass, field

from . import mtree
from .errors import LayerError, LimitExceeded, UnsafeLayer
from .limits import UnpackLimits

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 64
_RESOLVED_PATHS = 8192
_SYMLINK_HOPS = 40
_WHITEOUT = stat.S_IFCHR
"""What overlayfs takes for a whiteout: a character device 0:0 (kernel, overlayfs.rst)."""

_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_CANNOT = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Metadata of an entry; times in nanoseconds since the epoch."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


IMPLIED = Attributes(0o755)
"""What a directory gets that the layer needs and does not mention."""


@dataclass(slots=True, eq=False)
class Inode:
    """What several names may share: a file with hard links, or a symlink (``target``).

    ``rest`` is its manifest line behind the path; ``first`` its first path in the
    manifest, once that is known.
    """

    rest: bytes
    target: bytes | None = None
    first: bytes = b""


@dataclass(frozen=True, slots=True)
class LowerLink:
    """A hard link to a path that this layer does not have."""

    target: bytes
    rest: bytes


@dataclass(slots=True, eq=False)
class Directory:
    """A directory and what this layer has in it."""

    name: bytes
    parent: Directory | None
    depth: int = 0
    entries: dict[bytes, Node] = field(default_factory=dict)
    whiteouts: set[bytes] | None = None
    attributes: Attributes = IMPLIED
    implied: bool = True
    opaque: bool = False
    fd: int = -1


Node = Directory | Inode | LowerLink | bytes
"""Bytes are the line of an entry with one name: a file, a device, a FIFO."""


class Staging:
    """The tree being made below ``root_fd`` (which stays the caller's to close)."""

    def __init__(self, root_fd: int, limits: UnpackLimits) -> None:
        self.root = Directory(b".", None, fd=root_fd)
        self.lost: dict[str, int] = {}
        self._limits = limits
        self._owner = (os.geteuid(), os.getegid())
        self._privileged = self._owner[0] == 0
        self._open: OrderedDict[Directory, None] = OrderedDict()
        self._resolved: dict[bytes, Directory] = {}
        self._implied = 0

    # --- names ----------------------------------------------------------

    def directory(self, path: bytes) -> Directory:
        """The directory at ``path``, through this layer's symlinks, inside the root.

        What is missing is made, as implied directories.
        """
        found = self._resolved.get(path)
        if found is None:
            found = self._walk(path, make=True)
            assert found is not None
            if len(self._resolved) >= _RESOLVED_PATHS:
                self._resolved.clear()
            self._resolved[path] = found
        return found

    def find(self, path: bytes) -> tuple[Directory, bytes] | None:
        """Where ``path`` is in this layer (parents resolved, itself not), or None."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._walk(parent_path, make=False)
        if parent is None or name not in parent.entries:
            return None
        return parent, name

    def _walk(self, path: bytes, *, make: bool) -> Directory | None:
        here = self.root
        pending = path.split(b"/")[::-1]
        hops = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.parent or self.root
                continue
            node = here.entries.get(name)
            if isinstance(node, Directory):
                here = node
            elif node is None:
                if not make:
                    return None
                here = self._make_implied(here, name)
            elif isinstance(node, Inode) and node.target is not None:
                hops += 1
                if hops > _SYMLINK_HOPS:
                    raise UnsafeLayer(f"{path!r} leads through more than {hops - 1} symlinks")
                if node.target.startswith(b"/"):
                    here = self.root
                pending += node.target.split(b"/")[::-1]
            elif not make:
                return None
            else:
                raise UnsafeLayer(f"{path!r} leads through {name!r}, which is no directory")
        return here

    def _make_implied(self, parent: Directory, name: bytes) -> Directory:
        self._implied += 1
        if self._limits.entries and self._implied > self._limits.entries:
            raise LimitExceeded(
                f"the layer needs more than {self._limits.entries} directories",
                mend="raise limits.entries if the image is honest",
            )
        return self.make_directory(parent, name)

    # --- making entries -------------------------------------------------

    def make_directory(
        self, parent: Directory, name: bytes, attributes: Attributes | None = None
    ) -> Directory:
        """Make a directory, or give an existing one its attributes (None: it is implied)."""
        directory = parent.entries.get(name)
        if not isinstance(directory, Directory):
            if directory is not None:
                self.remove(parent, name)
            depth = parent.depth + 1
            if self._limits.path_depth and depth > self._limits.path_depth:
                raise LimitExceeded(
                    f"a path has more than {self._limits.path_depth} components",
                    mend="raise limits.path_depth if the image is honest",
                )
            directory = Directory(name, parent, depth)
            os.mkdir(name, 0o700, dir_fd=self.fd(parent))
            parent.entries[name] = directory
        if attributes is not None:
            directory.attributes = attributes
            directory.implied = False
        return directory

    def create_file(self, parent: Directory, name: bytes, mode: int) -> int:
        """A descriptor of a new, empty file; give it to `finish_file` when it is written."""
        if name in parent.entries:
            self.remove(parent, name)
        return os.open(name, _CREATE, mode & 0o777, dir_fd=self.fd(parent))

    def finish_file(self, fd: int, attributes: Attributes) -> bool:
        """Set the attributes of an open file; whether all xattrs could be kept."""
        uid, gid, mode = attributes.uid, attributes.gid, attributes.mode
        chown = self._privileged and (uid, gid) != self._owner
        if chown:
            os.fchown(fd, uid, gid)
        if chown or mode & 0o7000:
            # After the owner: changing that clears setuid and setgid.
            os.fchmod(fd, mode)
        kept = not attributes.xattrs or self._set_xattrs(fd, attributes.xattrs)
        os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))
        return kept

    def make_symlink(
        self, parent: Directory, name: bytes, target: bytes, attributes: Attributes
    ) -> bool:
        """Make a symlink; whether all xattrs could be kept."""
        if name in parent.entries:
            self.remove(parent, name)
        if not target:
            raise UnsafeLayer(f"the symlink {name!r} has an empty target")
        os.symlink(target, name, dir_fd=self.fd(parent))
        return self._finish_name(parent, name, attributes)

    def make_node(
        self, parent: Directory, name: bytes, kind: bytes, device: tuple[int, int], at: Attributes
    ) -> bool | None:
        """Make a device or a FIFO, never opened; None where the system does not let us."""
        if name in parent.entries:
            self.remove(parent, name)
        file_type = {mtree.CHAR: stat.S_IFCHR, mtree.BLOCK: stat.S_IFBLK}.get(kind, stat.S_IFIFO)
        number = os.makedev(*device) if kind != mtree.FIFO else 0
        try:
            os.mknod(name, at.mode | file_type, number, dir_fd=self.fd(parent))
        except OSError as error:
            if error.errno in _CANNOT:
                self.count_loss("devices")
                return None
            raise
        return self._finish_name(parent, name, at)

    def make_hard_link(
        self, source: tuple[Directory, bytes], parent: Directory, name: bytes
    ) -> None:
        """Give what ``source`` names a second name."""
        source_parent, source_name = source
        node = source_parent.entries[source_name]
        if isinstance(node, Directory):
            raise UnsafeLayer(f"{name!r} is a hard link to the directory {source_name!r}")
        if name in parent.entries:
            if parent.entries[name] is node:
                return
            self.remove(parent, name)
        if isinstance(node, bytes):
            node = source_parent.entries[source_name] = Inode(node)
        if not isinstance(node, LowerLink) and b"lost:device" not in _rest(node):
            os.link(
                source_name,
                name,
                src_dir_fd=self.fd(source_parent),
                dst_dir_fd=self.fd(parent),
                follow_symlinks=False,
            )
        parent.entries[name] = node

    def remove(self, parent: Directory, name: bytes) -> None:
        """Take an entry of this layer away again, with all below it."""
        node = parent.entries.pop(name)
        self._resolved.clear()
        if isinstance(node, Directory):
            for child in list(node.entries):
                self.remove(node, child)
            self._forget(node)
            os.rmdir(name, dir_fd=self.fd(parent))
        elif not isinstance(node, LowerLink) and b"lost:device" not in _rest(node):
            os.unlink(name, dir_fd=self.fd(parent))

    # --- the end --------------------------------------------------------

    def finish(self) -> None:
        """Make the whiteouts and set the directories' attributes, children first."""
        stack = [(self.root, False)]
        while stack:
            directory, seen = stack.pop()
            if not seen:
                stack.append((directory, True))
                stack += [
                    (node, False)
                    for node in directory.entries.values()
                    if isinstance(node, Directory)
                ]
                continue
            self._finish_directory(directory)

    def close(self) -> None:
        """Close every descriptor but the root's."""
        for directory in list(self._open):
            self._forget(directory)

    def _finish_directory(self, directory: Directory) -> None:
        fd = self.fd(directory)
        for name in directory.whiteouts or ():
            node = directory.entries.get(name)
            if node is None:
                if not self._make_whiteout(fd, name):
                    self.count_loss("whiteouts")
            elif isinstance(node, Directory):
                # Removed and made again: nothing of the lower one may show through.
                node.opaque = True
                self._mark_opaque(self.fd(node))
        attributes = directory.attributes
        mode = attributes.mode if self._privileged else attributes.mode | stat.S_IRWXU
        if self._privileged and (attributes.uid, attributes.gid) != self._owner:
            os.fchown(fd, attributes.uid, attributes.gid)
        os.fchmod(fd, mode)
        if attributes.xattrs:
            self._set_xattrs(fd, attributes.xattrs)
        if directory.opaque:
            self._mark_opaque(fd)
        os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))
        self._forget(directory)

    def _make_whiteout(self, fd: int, name: bytes) -> bool:
        try:
            os.mknod(name, _WHITEOUT, 0, dir_fd=fd)
        except OSError as error:
            if error.errno in _CANNOT:
                return False
            raise
        return True

    def _mark_opaque(self, fd: int) -> None:
        if not self._set_xattrs(fd, ((b"trusted.overlay.opaque", b"y"),), ours=True):
            self.count_loss("opaque")

    # --- below ----------------------------------------------------------

    def fd(self, directory: Directory) -> int:
        """A descriptor of ``directory``, opened from its parent's; good until the next call."""
        if directory.fd >= 0:
            if directory.parent is not None:
                self._open.move_to_end(directory)
            return directory.fd
        assert directory.parent is not None
        directory.fd = os.open(directory.name, _OPEN_DIR, dir_fd=self.fd(directory.parent))
        self._open[directory] = None
        if len(self._open) > _OPEN_DIRECTORIES:
            self._forget(next(iter(self._open)))
        return directory.fd

    def _forget(self, directory: Directory) -> None:
        if self._open.pop(directory, directory) is None:
            os.close(directory.fd)
            directory.fd = -1

    def _finish_name(self, parent: Directory, name: bytes, attributes: Attributes) -> bool:
        fd = self.fd(parent)
        if self._privileged and (attributes.uid, attributes.gid) != self._owner:
            os.chown(name, attributes.uid, attributes.gid, dir_fd=fd, follow_symlinks=False)
        kept = not attributes.xattrs or self._set_xattrs(
            b"/proc/self/fd/%d/%b" % (fd, name), attributes.xattrs
        )
        times = (attributes.mtime_ns, attributes.mtime_ns)
        os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)
        return kept

    def _set_xattrs(
        self,
        where: int | bytes,
        xattrs: tuple[tuple[bytes, bytes], ...],
        *,
        ours: bool = False,
    ) -> bool:
        kept = True
        for name, value in xattrs:
            # A layer's own overlay.* attributes would act in the overlay that is made of it.
            if not ours and name.startswith(_OVERLAY_XATTRS):
                kept = False
                continue
            try:
                if isinstance(where, int):
                    os.setxattr(where, name, value)
                else:
                    os.setxattr(where, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (*_CANNOT, errno.E2BIG, errno.ERANGE):
                    raise
                kept = False
        if not kept and not ours:
            self.count_loss("xattrs")
        return kept

    def count_loss(self, kind: str) -> None:
        """Note that this file system could not keep something."""
        self.lost[kind] = self.lost.get(kind, 0) + 1


def _rest(node: Inode | bytes) -> bytes:
    return node if isinstance(node, bytes) else node.rest


def describe(error: OSError) -> LayerError:
    """An operating system's refusal, as what it means for the layer."""
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeLayer(f"a name is longer than the file system allows: {error.filename!r}")
    return LayerError(f"{error.strerror}: {error.filename!r}")
