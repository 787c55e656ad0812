"""The system calls that make a tree below one directory, and nothing outside it.

Every call works on one name in a descriptor that was opened, from the root down,
without following links, so that no layer and no other process can lead one astray.
Directories are known by numbers that the caller gives them; the root is 0.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ..fs.attributes import is_safe_time, may_give_away
from ..fs.beneath import open_directory
from ..fs.duplicate import chmod, duplicate
from ..tree.attributes import OVERLAY_XATTRS
from .place import ROOT, Lost, Xattrs

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 64
_WHITEOUT = stat.S_IFCHR
"""What overlayfs takes for a whiteout: a character device 0:0 (kernel, overlayfs.rst)."""

_CANNOT = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)


class Disk:
    """The tree below ``root_fd``, which stays the caller's to close.

    ``memory`` holds what goes into files; orders name it by start and size in bytes.
    Times are in nanoseconds since the epoch.  All orders raise `OSError`.
    """

    def __init__(self, root_fd: int, memory: memoryview) -> None:
        self._memory = memory
        self._places: dict[int, tuple[int, bytes]] = {}
        self._root_fd = root_fd
        self._fds: dict[int, int] = {}
        self._file = -1
        self._owner = (os.geteuid(), os.getegid())
        self._privileged = may_give_away()
        self._lost: dict[str, int] = {}

    def losses(self) -> dict[str, int]:
        """How often this file system could not keep something, by what it was."""
        return self._lost

    def close(self) -> None:
        """Close every descriptor but the root's."""
        for number in list(self._fds):
            self._forget(number)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # --- directories ----------------------------------------------------

    def make_directory(self, parent: int, name: bytes, number: int) -> None:
        """Make a directory, private until it is finished, and call it ``number``."""
        os.mkdir(name, 0o700, dir_fd=self._fd(parent))
        self._places[number] = (parent, name)

    def know_directory(self, parent: int, name: bytes, number: int) -> None:
        """Call a directory ``number`` that another has made."""
        self._places[number] = (parent, name)

    def remove_directory(self, number: int) -> None:
        """Remove an empty directory."""
        parent, name = self._places[number]
        os.rmdir(name, dir_fd=self._fd(parent))
        self.forget_directory(number)

    def forget_directory(self, number: int) -> None:
        """Know nothing more of a directory that another has removed."""
        del self._places[number]
        self._forget(number)

    def finish_directory(
        self,
        number: int,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        xattrs: Xattrs,
        whiteouts: tuple[bytes, ...],
        opaque: bool,
    ) -> Lost:
        """Make the whiteouts and set the attributes, once nothing else comes below."""
        fd = self._fd(number)
        for name in whiteouts:
            self._make_whiteout(fd, name)
        lost: Lost = ()
        if self._privileged and (uid, gid) != self._owner:
            lost = self._own(lambda: os.fchown(fd, uid, gid))
        os.fchmod(fd, mode if self._privileged else mode | stat.S_IRWXU)
        lost += self._set_xattrs(fd, xattrs)
        if opaque:
            self._mark_opaque(fd)
        if opaque or whiteouts:
            self._mark_whiteouts(fd)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        if not is_safe_time(mtime_ns):
            lost += self._check_time(mtime_ns, os.fstat(fd))
        self._forget(number)
        return lost

    def _make_whiteout(self, fd: int, name: bytes) -> None:
        try:
            os.mknod(name, _WHITEOUT, 0, dir_fd=fd)
            os.utime(name, ns=(0, 0), dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._count_loss("whiteouts")

    def _mark_opaque(self, fd: int) -> None:
        if not _mark(fd, b"overlay.opaque", b"y"):
            self._count_loss("opaque")

    def _mark_whiteouts(self, fd: int) -> None:
        """Have overlayfs leave the whiteouts out of listings, also where it merges nothing here.

        It looks for them only in directories that it merges or that have this mark
        (kernel, fs/overlayfs); an opaque directory is merged with nothing.
        """
        _mark(fd, b"overlay.origin", b"")

    # --- files ----------------------------------------------------------

    def make_file(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        start: int,
        size: int,
    ) -> None:
        """Make a file of one piece of content, without xattrs."""
        # `open_file`, `write` and `close_file` in one: most orders are this one.
        directory = self._fds.get(parent) or self._fd(parent)
        self._file = fd = os.open(name, _CREATE, mode & 0o777, dir_fd=directory)
        if size:
            written = os.write(fd, self._memory[start : start + size])
            if written < size:
                self.write(start + written, size - written)
        if mode & 0o7000 or (uid, gid) != self._owner:
            self.close_file(mode, uid, gid, mtime_ns, ())
            return
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        self._file = -1
        os.close(fd)

    def open_file(self, parent: int, name: bytes, mode: int) -> None:
        """Make an empty file for the orders that follow, up to `close_file`."""
        self._file = os.open(name, _CREATE, mode & 0o777, dir_fd=self._fd(parent))

    def write(self, start: int, size: int) -> None:
        """Append to the open file."""
        fd = self._file
        written = os.write(fd, self._memory[start : start + size])
        while written < size:
            written += os.write(fd, self._memory[start + written : start + size])

    def seek(self, offset: int) -> None:
        """Leave a hole in the open file."""
        os.lseek(self._file, offset, os.SEEK_SET)

    def truncate(self, size: int) -> None:
        """Give the open file its size, where it ends in a hole."""
        os.ftruncate(self._file, size)

    def close_file(self, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: Xattrs) -> Lost:
        """Set the open file's attributes and close it."""
        fd = self._file
        lost: Lost = ()
        chown = self._privileged and (uid, gid) != self._owner
        if chown:
            lost = self._own(lambda: os.fchown(fd, uid, gid))
        if chown or mode & 0o7000:
            # After the owner: changing that clears setuid and setgid.
            os.fchmod(fd, mode)
        if xattrs:
            lost += self._set_xattrs(fd, xattrs)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        if not is_safe_time(mtime_ns):
            lost += self._check_time(mtime_ns, os.fstat(fd))
        self._file = -1
        os.close(fd)
        return lost

    # --- other names ----------------------------------------------------

    def make_symlink(
        self,
        parent: int,
        name: bytes,
        target: bytes,
        uid: int,
        gid: int,
        mtime_ns: int,
        xattrs: Xattrs,
    ) -> Lost:
        """Make a symlink."""
        os.symlink(target, name, dir_fd=self._fd(parent))
        return self._finish_name(parent, name, uid, gid, mtime_ns, xattrs)

    def make_node(
        self,
        parent: int,
        name: bytes,
        mode: int,
        device: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        xattrs: Xattrs,
    ) -> Lost | None:
        """Make a device or a FIFO, never opened; None where the system does not let us."""
        try:
            os.mknod(name, mode, device, dir_fd=self._fd(parent))
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._count_loss("devices")
            return None
        return self._finish_name(parent, name, uid, gid, mtime_ns, xattrs, mode)

    def make_hard_link(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> None:
        """Give a name that is no directory a second name."""
        # A duplicate: opening the other directory may close the first.
        source_fd = os.dup(self._fd(source_parent))
        try:
            os.link(
                source_name,
                name,
                src_dir_fd=source_fd,
                dst_dir_fd=self._fd(parent),
                follow_symlinks=False,
            )
        finally:
            os.close(source_fd)

    def link_or_copy(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> int | None:
        """The same; where the file takes no more names, a copy, of so many bytes."""
        try:
            self.make_hard_link(source_parent, source_name, parent, name)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
        else:
            return None
        self._count_loss("hardlinks")
        source_fd = os.dup(self._fd(source_parent))
        try:
            return duplicate(source_fd, source_name, self._fd(parent), name)
        finally:
            os.close(source_fd)

    def remove_name(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        os.unlink(name, dir_fd=self._fd(parent))

    # --- below ----------------------------------------------------------

    def _fd(self, number: int) -> int:
        """A descriptor of a directory, opened from the nearest above; good until the next call."""
        fds = self._fds
        if number in fds:
            return fds[number]
        wanted, missing = number, []
        while number != ROOT and number not in fds:
            number, name = self._places[number]
            missing.append(name)
        fd = self._root_fd if number == ROOT else fds[number]
        if missing:
            fd = fds[wanted] = open_directory(fd, missing[::-1])
            if len(fds) > _OPEN_DIRECTORIES:
                os.close(fds.pop(next(iter(fds))))
        return fd

    def _forget(self, number: int) -> None:
        fd = self._fds.pop(number, -1)
        if fd >= 0:
            os.close(fd)

    def _finish_name(
        self,
        parent: int,
        name: bytes,
        uid: int,
        gid: int,
        mtime_ns: int,
        xattrs: Xattrs,
        mode: int = 0,
    ) -> Lost:
        fd = self._fd(parent)
        lost: Lost = ()
        if self._privileged and (uid, gid) != self._owner:
            lost = self._own(lambda: os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False))
            if mode & 0o7000:
                # Changing the owner has cleared setuid and setgid.
                chmod(name, stat.S_IMODE(mode), fd)
        if xattrs:
            lost += self._set_xattrs(b"/proc/self/fd/%d/%b" % (fd, name), xattrs)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)
        if not is_safe_time(mtime_ns):
            lost += self._check_time(mtime_ns, os.stat(name, dir_fd=fd, follow_symlinks=False))
        return lost

    def _own(self, chown: Callable[[], None]) -> Lost:
        """Give an entry its owner, which a user namespace may not have a number for."""
        try:
            chown()
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._count_loss("owners")
            return (b"owners",)
        return ()

    def _check_time(self, mtime_ns: int, found: os.stat_result) -> Lost:
        if found.st_mtime_ns == mtime_ns:
            return ()
        self._count_loss("mtimes")
        return (b"mtimes",)

    def _set_xattrs(self, where: int | bytes, xattrs: Xattrs) -> Lost:
        kept = True
        for name, value in xattrs:
            # A layer's own overlay.* attributes would act in the overlay that is made of it.
            if name.startswith(OVERLAY_XATTRS):
                kept = False
                continue
            try:
                if isinstance(where, int):
                    os.setxattr(where, name, value)
                else:
                    os.setxattr(where, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (*_CANNOT, errno.E2BIG, errno.ERANGE, errno.ENOSPC):
                    raise
                kept = False
        if kept:
            return ()
        self._count_loss("xattrs")
        return (b"xattrs",)

    def _count_loss(self, kind: str) -> None:
        self._lost[kind] = self._lost.get(kind, 0) + 1


def _mark(fd: int, name: bytes, value: bytes) -> bool:
    """Set an attribute for overlayfs, or where we may not, for overlays of users like us.

    Those read "user." in place of "trusted." (kernel, overlayfs.rst, "userxattr").
    """
    for namespace in (b"trusted.", b"user."):
        try:
            os.setxattr(fd, namespace + name, value)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            return True
    return False
