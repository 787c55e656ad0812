"""A file of its own with all that another has: what takes the place of one hard link too many."""

from __future__ import annotations

import errno
import os
import stat

_CANNOT = (errno.EPERM, errno.EACCES, errno.ENOTSUP)


def duplicate(source_directory: int, source: bytes, directory: int, name: bytes) -> int:
    """Make ``name`` what ``source`` is, which is no directory; returns the bytes of its content.

    Both are names in open directories.  Nothing is followed, and all attributes are the
    same that this process can set.  Raises `OSError`.
    """
    found = os.stat(source, dir_fd=source_directory, follow_symlinks=False)
    size = 0
    if stat.S_ISREG(found.st_mode):
        size = _copy_file(source_directory, source, directory, name)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source, dir_fd=source_directory), name, dir_fd=directory)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=directory)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        chmod(name, stat.S_IMODE(found.st_mode), directory)
    _copy_xattrs(
        b"/proc/self/fd/%d/%b" % (source_directory, source),
        b"/proc/self/fd/%d/%b" % (directory, name),
    )
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    return size


def copy_content(source: int, target: int) -> int:
    """Copy an open file into one that is empty, holes as holes; returns its size in bytes."""
    size = os.fstat(source).st_size
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(target, source, at, end - at)
            if not sent:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            at += sent
    os.ftruncate(target, size)
    return size


def chmod(name: bytes, mode: int, directory: int) -> None:
    """chmod(2) that follows no link, and opens the file for nothing else."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101 (a descriptor)
    finally:
        os.close(fd)


def _copy_file(source_directory: int, source: bytes, directory: int, name: bytes) -> int:
    opened = open_to_read(source_directory, source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            return copy_content(opened, made)
        finally:
            os.close(made)
    finally:
        os.close(opened)


def open_to_read(directory: int, name: bytes) -> int:
    """Open a file of ours, which is not followed if a symlink, whatever its mode is."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:
        # Not even its owner may, which without root is who we are.
        mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
        chmod(name, mode | stat.S_IRUSR, directory)
        try:
            return os.open(name, flags, dir_fd=directory)
        finally:
            chmod(name, mode, directory)


def _copy_xattrs(source: bytes, target: bytes) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return
    for name in names:
        try:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            # What a security module puts on every file.
            if error.errno not in _CANNOT:
                raise
