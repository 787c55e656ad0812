"""What a repository shows: all that is read of one is read through its `View`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..fs.beneath import open_beneath, open_straight
from .layout import Layout

_PIECE = 256 * 1024
_FILE = os.O_RDONLY | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Nothing is there, or something on the way there is no directory."""


class Kind(Enum):
    """What is at a path; devices and the like are ``OTHER``."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "symlink"
    OTHER = "other"


class View(Protocol):
    """What a repository shows, and by its ``layout`` where things lie in it.

    Paths are relative to the repository's root, without ``..``.  No symlink is followed,
    neither at the end of a path nor on the way: where one is on the way, nothing is there.
    What cannot be read raises `OSError`: it is never taken for nothing.
    """

    layout: Layout

    def kind(self, path: PurePosixPath) -> Kind | None:
        """What is at ``path``; None where there is nothing."""
        ...

    def target(self, path: PurePosixPath) -> str:
        """The text of a symlink; empty where there is none."""
        ...

    def read(self, path: PurePosixPath) -> bytes:
        """A file's content; `FileNotFoundError` where there is nothing."""
        ...

    def pieces(self, path: PurePosixPath) -> Iterator[bytes]:
        """A file's content, a piece at a time; raises as `read`."""
        ...

    def entries(self, path: PurePosixPath) -> dict[str, Kind]:
        """What is in a directory, by name; empty where there is none."""
        ...

    def mtime_ns(self, path: PurePosixPath) -> int:
        """The time of what is at ``path``, in nanoseconds; `FileNotFoundError` for nothing."""
        ...

    def freed(self, paths: Iterable[PurePosixPath]) -> int:
        """How many bytes of files go with what is at these paths, without what others share.

        Bytes are those that readers see.
        """
        ...

    def is_dir(self, path: PurePosixPath) -> bool:
        """Whether a directory is there."""
        return self.kind(path) is Kind.DIRECTORY

    def is_file(self, path: PurePosixPath) -> bool:
        """Whether a regular file is there."""
        return self.kind(path) is Kind.FILE

    def is_link(self, path: PurePosixPath) -> bool:
        """Whether a symlink is there."""
        return self.kind(path) is Kind.LINK

    def exists(self, path: PurePosixPath) -> bool:
        """Whether anything is there, be it a symlink that leads nowhere."""
        return self.kind(path) is not None

    def content(self, path: PurePosixPath) -> bytes:
        """What is in a file; empty where there is none."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return b""

    def lines(self, path: PurePosixPath) -> Iterator[bytes]:
        """A file's lines with their ends; raises as `read`."""
        rest = b""
        for piece in self.pieces(path):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest

    def walk(
        self, path: PurePosixPath, into: Callable[[PurePosixPath], bool] = lambda path: True
    ) -> Iterator[tuple[PurePosixPath, dict[str, Kind]]]:
        """The directories from ``path`` down, parents first, each with what is in it.

        What is in those that ``into`` says no of is passed over.
        """
        pending = [path]
        while pending:
            directory = pending.pop()
            found = self.entries(directory)
            yield directory, found
            below = (directory / name for name, kind in found.items() if kind is Kind.DIRECTORY)
            pending += filter(into, below)


class DirectoryView(View):
    """The repository in the directory ``root``, which may itself be reached by symlinks.

    Nothing stays open that is not being read, so that what is mounted on ``root`` can be
    mounted anew.
    ``layout`` has it that clients see it there too, unless another is given.
    """

    def __init__(self, root: Path, layout: Layout | None = None) -> None:
        self._root = root
        self._name = os.fsencode(root)
        self.layout = layout or Layout(root)

    def kind(self, path: PurePosixPath) -> Kind | None:
        """What is at ``path``; None where there is nothing."""
        try:
            return _kind(self._status(path).st_mode)
        except FileNotFoundError:
            return None

    def mtime_ns(self, path: PurePosixPath) -> int:
        """The time of what is at ``path``, in nanoseconds; `FileNotFoundError` for nothing."""
        return self._status(path).st_mtime_ns

    def target(self, path: PurePosixPath) -> str:
        """The text of a symlink; empty where there is none."""
        try:
            descriptor = self._open(path, os.O_PATH)
            try:
                return os.readlink("", dir_fd=descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:  # said of what is no symlink, too
            return ""

    def read(self, path: PurePosixPath) -> bytes:
        """A file's content; `FileNotFoundError` where there is nothing."""
        return b"".join(self.pieces(path))

    def pieces(self, path: PurePosixPath) -> Iterator[bytes]:
        """A file's content, a piece at a time; raises as `read`."""
        descriptor = self._open(path, _FILE)
        try:
            while piece := os.read(descriptor, _PIECE):
                yield piece
        finally:
            os.close(descriptor)

    def entries(self, path: PurePosixPath) -> dict[str, Kind]:
        """What is in a directory, by name; empty where there is none."""
        try:
            descriptor = self._open(path, _DIRECTORY)
        except OSError as error:
            if error.errno in _ABSENT:
                return {}
            raise
        try:
            with os.scandir(descriptor) as entries:
                return {entry.name: _kind_of(entry) for entry in entries}
        finally:
            os.close(descriptor)

    def freed(self, paths: Iterable[PurePosixPath]) -> int:
        """How many bytes go; files with a name elsewhere, as in a layer, do not count."""
        sizes: dict[tuple[int, int], int] = {}
        unseen: dict[tuple[int, int], int] = {}
        for path in paths:
            for directory, _, files in os.walk(self._root / path):
                for name in files:
                    status = os.lstat(f"{directory}/{name}")
                    key = (status.st_dev, status.st_ino)
                    sizes[key] = status.st_size
                    unseen[key] = unseen.get(key, status.st_nlink) - 1
        return sum(size for key, size in sizes.items() if unseen[key] <= 0)

    def path(self, path: PurePosixPath) -> Path:
        """Where the file system has it."""
        return self._root / path

    def _status(self, path: PurePosixPath) -> os.stat_result:
        descriptor = self._open(path, os.O_PATH)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, path: PurePosixPath, flags: int) -> int:
        below = os.fsencode(path)
        names = below.split(b"/")
        if not names[0] or b".." in names:
            raise ValueError(f"{path} is no path of a repository")
        try:
            descriptor = open_straight(b"%b/%b" % (self._name, below), flags)
            return descriptor if descriptor is not None else self._open_beneath(names, flags)
        except OSError as error:
            code, where = error.errno or errno.EIO, str(self._root / path)
        if code in _ABSENT and (flags == os.O_PATH or not self.exists(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
        raise OSError(code, os.strerror(code), where)

    def _open_beneath(self, names: list[bytes], flags: int) -> int:
        # The links may be those that lead to the root.
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return open_beneath(root, names, flags)
        finally:
            os.close(root)


def _kind(mode: int) -> Kind:
    return _KINDS.get(stat.S_IFMT(mode), Kind.OTHER)


_KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK}


def _kind_of(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return Kind.LINK
    if entry.is_dir(follow_symlinks=False):
        return Kind.DIRECTORY
    return Kind.FILE if entry.is_file(follow_symlinks=False) else Kind.OTHER
