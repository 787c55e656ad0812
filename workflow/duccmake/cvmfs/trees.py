"""Whole trees as catalogs: a manifest's entries become rows, directory by directory."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import RepositoryError
from ..tree import mtree
from ..tree.mtree import LOST, Entry, decode
from . import split
from .catalog import Nested
from .catalog_writer import CatalogWriter, marker
from .keeping import Keeping, keeps_name, plain
from .names import Kind, path_key
from .objects import Objects
from .rows import (
    CHUNKED,
    DIRECTORY,
    DIRECTORY_SIZE,
    FILE,
    LINK,
    MOUNTPOINT,
    ROOT,
    Content,
    Row,
    type_flags,
)

Contents = Callable[[int | None, bytes], Content]
"""What the content of a file is, by the number of the layer that has it and its path there.

Without a number the file is the tree's own, by its first path where it has several.
"""

SALT = "duccmake_salt"
"""The property that makes a catalog other bytes than one of the same tree."""

_TYPES = {
    mtree.DIR: stat.S_IFDIR,
    mtree.FILE: stat.S_IFREG,
    mtree.LINK: stat.S_IFLNK,
    mtree.CHAR: stat.S_IFCHR,
    mtree.BLOCK: stat.S_IFBLK,
    mtree.FIFO: stat.S_IFIFO,
    mtree.SOCKET: stat.S_IFSOCK,
}
_NO_NAMES = frozenset({b"", b".", b".."})


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree whose catalogs are written: what hangs it into a repository.

    ``at`` is its absolute path there, ``hash`` and ``size`` (uncompressed) are those of
    the catalog in which it begins.  ``losses`` says how often what was lost,
    ``entries`` counts those of the tree that are in the ``catalogs``.
    """

    at: bytes
    hash: bytes
    size: int
    losses: Counter[str]
    catalogs: int
    entries: int


def write_tree(
    lines: Iterable[bytes],
    at: bytes,
    content: Contents,
    objects: Objects,
    keeping: Keeping,
    salt: str = "",
) -> Tree:
    """Write the catalogs of a tree that will be at ``at``, from the lines of its manifest.

    They come depth first, a directory before what is in it, and are gone through twice:
    no iterator.  Raises `RepositoryError` where they are no tree, or where a file is not
    as large as its line says.
    """
    if iter(lines) is lines:
        raise TypeError("lines can be gone through only once")
    if not at.startswith(b"/") or not _NO_NAMES.isdisjoint(at.split(b"/")[1:]):
        raise ValueError(f"{at!r} is no absolute path of a directory")
    writer = _Writer(at, content, objects, keeping, salt, _beginnings(lines))
    try:
        return writer.write(lines)
    except (sqlite3.IntegrityError, OverflowError) as error:
        # A path twice, or a number that no row can have.
        raise RepositoryError(f"{_show(at)} cannot be written as a catalog: {error}") from None
    finally:
        writer.close()


def _beginnings(lines: Iterable[bytes]) -> frozenset[bytes]:
    """The directories in which nested catalogs begin, as their lines have them."""
    if sum(1 for _ in lines) <= split.MOST_ENTRIES:
        return frozenset()
    counts = {b".": 1}
    for line in lines:
        path, _, rest = line.partition(b" ")
        if path == b"." or path.startswith(b"#"):
            continue
        parent = path.rpartition(b"/")[0]
        counts[parent] = counts.get(parent, 1) + 1
        if rest.startswith(mtree.TYPE_DIR):
            counts.setdefault(path, 1)
    found = split.nested((path[2:] or b".", count) for path, count in counts.items())
    return frozenset(b"./" + path for path in found)


class _Directory:
    """A directory with more entries to come; ``word`` is its path as lines have it."""

    __slots__ = ("groups", "into", "key", "path", "prefix", "row", "subdirectories", "word")

    def __init__(self, word: bytes, path: bytes, row: Row, into: CatalogWriter) -> None:
        self.word = word
        self.path = path
        self.prefix = path + b"/"
        self.row = row
        self.key = row.key
        self.into = into
        self.subdirectories = 0
        self.groups: dict[bytes, list[tuple[int, int]]] = {}

    def finished(self) -> Row:
        """Its row, once all that is in it is known; names of one inode become that."""
        for keys in self.groups.values():
            if len(keys) > 1:
                self.into.join(keys)
        return self.row._replace(hardlinks=2 + self.subdirectories)


class _Writer:
    def __init__(
        self,
        at: bytes,
        content: Contents,
        objects: Objects,
        keeping: Keeping,
        salt: str,
        beginnings: frozenset[bytes],
    ) -> None:
        self._at = at
        self._content = content
        self._objects = objects
        self._keeping = keeping
        self._properties = {"revision": "1", "last_modified": "0"} | ({SALT: salt} if salt else {})
        self._beginnings = beginnings
        self._no_nanoseconds = keeping.no_nanoseconds
        self._empty = objects.put(b"")
        self._stack: list[_Directory] = []
        self._losses: Counter[str] = Counter()
        self._catalogs = 0
        self._entries = 0
        self._root: Nested | None = None

    def write(self, lines: Iterable[bytes]) -> Tree:
        for line in lines:
            if line.startswith(b"#"):
                continue
            match = plain(line)
            if match is None or not self._plain(match):
                self._entry(Entry.parse(line))
        while self._stack:
            self._leave()
        if self._root is None:
            raise RepositoryError("a tree manifest has no line for the tree's root")
        root, losses = self._root, self._losses
        return Tree(
            self._at, bytes.fromhex(root.hash), root.size, losses, self._catalogs, self._entries
        )

    def close(self) -> None:
        """Let go of what an error has left open."""
        for directory in self._stack:
            directory.into.close()

    # --- entries ------------------------------------------------------------

    def _plain(self, match: re.Match[bytes]) -> bool:
        """Write an entry as nearly all are, by the shortest way; False for others."""
        path, kind, uid, gid, mode, size, seconds, target, layer, source = match.groups()
        word = b"./" + path
        directory, name, full = self._enter(word)
        digest, link = None, b""
        if kind == b"file":
            found = self._content(None if layer is None else int(layer), decode(source or path))
            if found.chunks or found.flags:
                return False
            length, digest, flags, type_of_mode = found.size, found.hash, FILE, stat.S_IFREG
            if size is None or length != int(size):
                raise _wrong_size(full, found)
        elif kind == b"link":
            link = decode(target)
            length, flags, type_of_mode = len(link), FILE | LINK, stat.S_IFLNK
        else:
            length, flags, type_of_mode = DIRECTORY_SIZE, DIRECTORY, stat.S_IFDIR
        values = (
            *path_key(full),
            *directory.key,
            1,
            digest,
            length,
            type_of_mode | int(mode, 8),
            int(seconds),
            self._no_nanoseconds,
            flags,
            name,
            link,
            int(uid),
            int(gid),
            None,
        )
        if kind == b"dir":
            self._open(word, full, Row(*values))
            return True
        self._entries += 1
        if kind == b"file":
            directory.into.add_file(values, length)
        else:
            directory.into.add_symlink(values)
        return True

    def _entry(self, entry: Entry) -> None:
        """Write any entry."""
        entry = self._keeping.relabelled(entry)
        self._count_losses(entry)
        if b"lower" in entry.flags or not keeps_name(entry.path):
            return
        word = mtree.encode_path(entry.path)
        if entry.path == b".":
            self._open(word, self._at, self._row(entry, self._at, None))
            return
        directory, _, full = self._enter(word)
        if entry.kind == mtree.DIR:
            self._open(word, full, self._row(entry, full, None))
            return
        found = self._content_of(entry, full) if entry.kind == mtree.FILE else None
        row = self._row(entry, full, found)
        directory.into.add(row, found)
        self._entries += 1
        if entry.hardlink and self._keeping.hard_links:
            self._join(directory, entry, row.key)

    def _count_losses(self, entry: Entry) -> None:
        self._losses.update(
            flag[len(LOST) :].decode() for flag in entry.flags if flag.startswith(LOST)
        )
        if mtree.WIDENED in entry.flags:
            self._losses[mtree.WIDENED.decode()] += 1

    def _content_of(self, entry: Entry, full: bytes) -> Content:
        own = entry.hardlink or entry.path
        found = self._content(entry.layer, own if entry.layer is None else entry.content_path)
        if found.size != entry.size:
            raise _wrong_size(full, found)
        return found

    def _row(self, entry: Entry, full: bytes, content: Content | None) -> Row:
        mode = _TYPES[entry.kind] | entry.mode
        flags, size = type_flags(mode), 0
        if entry.kind == mtree.DIR:
            size = DIRECTORY_SIZE
        elif entry.kind == mtree.LINK:
            size = len(entry.target)
        elif entry.kind in (mtree.CHAR, mtree.BLOCK):
            size = os.makedev(*entry.device)
        elif content is not None:
            size = content.size
            flags |= content.flags | (CHUNKED if content.chunks else 0)
        mtime, mtimens = self._keeping.time(entry)
        parent, _, name = full.rpartition(b"/")
        return Row(
            *path_key(full),
            *path_key(parent),
            hardlinks=1,
            hash=content.hash if content and not content.chunks else None,
            size=size,
            mode=mode,
            mtime=mtime,
            mtimens=mtimens,
            flags=flags,
            name=name,
            symlink=entry.target,
            uid=entry.uid,
            gid=entry.gid,
            xattr=self._keeping.packed_xattrs(entry)[0],
        )

    def _join(self, directory: _Directory, entry: Entry, key: tuple[int, int]) -> None:
        """Note one more name of an inode; those in one directory become one at its end."""
        keys = directory.groups.setdefault(entry.hardlink, [])
        first = self._at + b"/" + entry.hardlink
        if not keys and first.rpartition(b"/")[0] == directory.path and keeps_name(entry.hardlink):
            keys.append(path_key(first))
        keys.append(key)

    # --- directories --------------------------------------------------------

    def _enter(self, word: bytes) -> tuple[_Directory, bytes, bytes]:
        """The directory of a line's path, the name there, and the whole path."""
        parent, _, name = word.rpartition(b"/")
        stack = self._stack
        directory = stack[-1] if stack and stack[-1].word == parent else self._left(parent, word)
        if b"\\" in name:
            name = decode(name)
            if b"/" in name or b"\0" in name:
                name = b""
        if name in _NO_NAMES:
            raise RepositoryError(f"{_show(word)} has no name that a file can have")
        return directory, name, directory.prefix + name

    def _left(self, parent: bytes, word: bytes) -> _Directory:
        """Leave directories until ``parent``, in which ``word`` is, is the last."""
        while self._stack:
            if self._stack[-1].word == parent:
                return self._stack[-1]
            if len(self._stack) == 1:
                break
            self._leave()
        raise RepositoryError(
            f"{_show(word)} does not come after its directory in a tree manifest",
            hint="the manifest is damaged: remove it and run again",
        )

    def _open(self, word: bytes, path: bytes, row: Row) -> None:
        self._entries += 1
        if not self._stack:
            if self._root is not None or word != b".":
                raise RepositoryError("a tree manifest does not begin with the tree's root")
            into = CatalogWriter(path)
        elif word == b".":
            raise RepositoryError("a tree manifest has the tree's root twice")
        else:
            self._stack[-1].subdirectories += 1
            into = CatalogWriter(path) if word in self._beginnings else self._stack[-1].into
        self._stack.append(_Directory(word, path, row, into))

    def _leave(self) -> None:
        """All that is in the last directory is written."""
        directory = self._stack[-1]
        row = directory.finished()
        above = self._stack[-2].into if len(self._stack) > 1 else None
        if above is directory.into:
            above.add(row)
            self._stack.pop()
            return
        written = self._finish(directory, row)
        self._stack.pop()
        if above is None:
            self._root = written
            return
        above.add(row._replace(flags=row.flags | MOUNTPOINT))
        above.hang(directory.path, written, directory.into.counters)

    def _finish(self, directory: _Directory, row: Row) -> Nested:
        """Write the catalog that begins in a directory."""
        into = directory.into
        into.add(row._replace(flags=row.flags | ROOT))
        into.add(marker(directory.path, self._empty, row.mtime, self._no_nanoseconds))
        content = into.content(self._properties)
        self._catalogs += 1
        return Nested(self._objects.put(content, Kind.CATALOG).hex(), len(content))


def _wrong_size(path: bytes, found: Content) -> RepositoryError:
    return RepositoryError(
        f"the content of {_show(path)} has {found.size} bytes, and its manifest says another size",
        hint="what was staged is damaged: remove it and run again",
    )


def _show(path: bytes) -> str:
    return repr(path.decode(errors="backslashreplace"))
