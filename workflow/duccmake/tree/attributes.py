"""Owner, mode, extended attributes and time of what is put into a tree.

What cannot be set is returned as a set of losses (``owners``, ``modes``,
``xattrs``, ``mtimes``), never passed over in silence.
"""

from __future__ import annotations

import errno
import os
import stat

from ..fs.attributes import is_safe_time, may_give_away
from . import mtree
from .mtree import Entry

UNSUPPORTED = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP})
_NO_XATTR = UNSUPPORTED | {errno.ENOSPC, errno.E2BIG, errno.ERANGE}

OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.")
"""Overlayfs, or fuse-overlayfs, acts on these: an image's own are put where neither reads them."""

OPAQUE_XATTRS = frozenset(name + b"opaque" for name in OVERLAY_XATTRS)
"""Any of them marks a directory that hides what lower layers have in it."""


class AttributeSetter:
    """Sets attributes with the rights of this process."""

    def __init__(self) -> None:
        self._privileged = may_give_away()
        self._owner = (os.geteuid(), os.getegid())

    @property
    def keeps_all_owners(self) -> bool:
        """Whether a file made by this process can have any owner."""
        return self._privileged

    def keeps_owner(self, entry: Entry) -> bool:
        """Whether a file made by this process can have the entry's owner."""
        return self._privileged or (entry.uid, entry.gid) == self._owner

    def on_descriptor(self, descriptor: int, entry: Entry) -> set[bytes]:
        """Set all attributes of an open file or directory."""
        lost = set()
        if not self._chown(descriptor, entry):
            lost.add(b"owners")
        lost |= _set_xattrs(descriptor, entry)
        mode = entry.mode
        if entry.kind == mtree.DIR and not self._privileged:
            mode |= stat.S_IRWXU
        os.chmod(descriptor, mode)
        if mode != entry.mode or self._lost_setgid(descriptor, mode):
            lost.add(b"modes")
        if not set_mtime(descriptor, entry.mtime_ns):
            lost.add(b"mtimes")
        return lost

    def on_name(self, directory: int, name: bytes, entry: Entry) -> set[bytes]:
        """Set all attributes of a symlink, device or FIFO that was just made."""
        lost = set()
        try:
            if self._privileged:
                os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
            elif not self.keeps_owner(entry):
                lost.add(b"owners")
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            lost.add(b"owners")
        if entry.kind != mtree.LINK:
            os.chmod(name, entry.mode, dir_fd=directory)
        if entry.xattrs:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
            try:
                lost |= _set_xattrs(f"/proc/self/fd/{descriptor}", entry)
            finally:
                os.close(descriptor)
        if not _set_mtime_by_name(directory, name, entry.mtime_ns):
            lost.add(b"mtimes")
        return lost

    def _chown(self, descriptor: int, entry: Entry) -> bool:
        if not self._privileged:
            return self.keeps_owner(entry)
        try:
            os.chown(descriptor, entry.uid, entry.gid)
        except OSError as error:
            # An owner that this user namespace does not map.
            if error.errno not in UNSUPPORTED:
                raise
            return False
        return True

    def _lost_setgid(self, descriptor: int, mode: int) -> bool:
        # chmod(2) drops it without a word where the group is not the caller's.
        if self._privileged or not mode & stat.S_ISGID:
            return False
        return not os.fstat(descriptor).st_mode & stat.S_ISGID


def set_mtime(descriptor: int, mtime_ns: int) -> bool:
    """Set an open file's time; whether the file system keeps it."""
    try:
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    except OverflowError:
        return False
    return is_safe_time(mtime_ns) or os.fstat(descriptor).st_mtime_ns == mtime_ns


def has_xattrs(directory: int, name: bytes, entry: Entry) -> bool:
    """Whether a file has the entry's extended attributes; it is not opened."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        found = read_xattrs(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return all(found.get(key) == value for key, value in entry.xattrs)


def read_xattrs(path: str | int) -> dict[bytes, bytes]:
    """The extended attributes that this process can see; none where there are none."""
    try:
        return {os.fsencode(key): os.getxattr(path, key) for key in os.listxattr(path)}
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.ENODATA}:
            raise
        return {}


def _set_xattrs(path: str | int, entry: Entry) -> set[bytes]:
    lost: set[bytes] = set()
    for name, value in entry.xattrs:
        if name.startswith(OVERLAY_XATTRS):
            lost.add(b"xattrs")
            continue
        try:
            os.setxattr(path, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise
            lost.add(b"xattrs")
    return lost


def _set_mtime_by_name(directory: int, name: bytes, mtime_ns: int) -> bool:
    try:
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)
    except OverflowError:
        return False
    if is_safe_time(mtime_ns):
        return True
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return found.st_mtime_ns == mtime_ns
