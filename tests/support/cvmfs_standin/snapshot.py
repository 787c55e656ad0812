"""The catalogs of what a directory shows, as ``publish`` and ``ingest`` write them.

What is as it was before keeps its row: a directory does not show all that catalogs have.
"""

import filecmp
import os
import stat
from pathlib import Path

from chunks import chunks_of, is_chunked

from duccmake.cvmfs.catalog import MARKER, CatalogFile, Nested
from duccmake.cvmfs.catalog_writer import CatalogWriter
from duccmake.cvmfs.names import Kind, path_key
from duccmake.cvmfs.rows import (
    CHUNKED,
    DIRECTORY_SIZE,
    MOUNTPOINT,
    ROOT,
    Chunk,
    Content,
    Row,
    pack_xattrs,
    type_flags,
)

_NANOSECONDS = 1_000_000_000


class Snapshot:
    """Writes the revision after ``old`` (None: the first), which ``before`` shows, of ``tree``."""

    def __init__(self, old, before: Path | None, tree: Path, objects, settings, now: int):
        self._old = old
        self._before = before and os.fsencode(before)
        self._tree = os.fsencode(tree)
        self._objects = objects
        self._nanoseconds = settings.get("CVMFS_ENABLE_MTIME_NS") == "true"
        self._xattrs = settings.get("CVMFS_INCLUDE_XATTRS") == "true"
        self._properties = {"revision": "1", "last_modified": str(now)}
        self._root = {}
        if old is not None:
            known = old.catalog(b"").properties()
            self._properties["revision"] = str(int(known["revision"]) + 1)
            self._root = {name: known[name] for name in ("TTL",) if name in known}
        self._groups = {}

    def write(self) -> Nested:
        """Put all that is new into the objects; the root catalog."""
        writer = CatalogWriter(b"")
        row = self._fill(b"", writer)
        writer.add(row._replace(parent_1=0, parent_2=0))
        old = self._old and self._old.root.hex()
        return self._finish(writer, old, self._root)

    def _finish(self, writer, old, more=()):
        properties = {**self._properties, **dict(more)}
        if old:
            properties["previous_revision"] = old
        content = writer.content(properties)
        return Nested(self._objects.put(content, Kind.CATALOG).hex(), len(content))

    # --- directories ----------------------------------------------------

    def _fill(self, path, writer):
        """Add all that is in a directory; the directory's row."""
        kept, subdirectories = [], 0
        for name in sorted(self._names(path)):
            below = path + b"/" + name
            if not self._is_shown(below):
                row = self._old.row(below)
                kept.append((row, self._old.catalog(path).content(row)))
            elif stat.S_ISDIR(os.lstat(self._tree + below).st_mode):
                subdirectories += 1
                self._directory(below, writer)
            else:
                kept.append(self._other(below))
        self._add(kept, writer)
        return self._row(path)[0]._replace(hardlinks=2 + subdirectories, size=DIRECTORY_SIZE)

    def _names(self, path):
        """What is in a directory: what it shows, and what no directory could show."""
        names = set(os.listdir(self._tree + path))
        was = self._old and self._old.row(path)
        if was is not None and was.is_directory and self._before is not None:
            for row in self._old.catalog(path).entries(path):
                if not os.path.lexists(self._before + path + b"/" + row.name):
                    names.add(row.name)
        return names

    def _is_shown(self, path):
        return os.path.lexists(self._tree + path)

    def _directory(self, path, writer):
        begins = os.path.isfile(self._tree + path + b"/" + MARKER)
        was = self._old and self._old.row(path)
        nested = None
        if begins and was is not None and was.flags & MOUNTPOINT:
            nested = self._old.catalog(path.rpartition(b"/")[0]).nested_at(path)
            if self._is_same(path):
                writer.add(was)
                with self._opened(nested) as catalog:
                    writer.hang(path, nested, catalog.counters())
                return
        if not begins:
            writer.add(self._fill(path, writer))
            return
        below = CatalogWriter(path)
        row = self._fill(path, below)
        below.add(row._replace(flags=row.flags | ROOT))
        counters = below.counters
        made = self._finish(below, nested and nested.hash)
        writer.add(row._replace(flags=row.flags | MOUNTPOINT))
        writer.hang(path, made, counters)

    def _opened(self, nested):
        return CatalogFile.read(self._old.catalog_content(nested.hash, nested.size))

    # --- entries --------------------------------------------------------

    def _add(self, kept, writer):
        """Add entries; names of one inode are as many as are left of them in the directory."""
        inodes = {}
        for row, _ in kept:
            if row.hardlinks >> 32:
                inodes[row.hardlinks >> 32] = inodes.get(row.hardlinks >> 32, 0) + 1
        groups = {}
        for row, content in kept:
            group = row.hardlinks >> 32
            if group and inodes[group] == 1:
                row = row._replace(hardlinks=1)
            elif group:
                if group not in groups:
                    self._groups[id(writer)] = self._groups.get(id(writer), 0) + 1
                    groups[group] = self._groups[id(writer)]
                row = row._replace(hardlinks=groups[group] << 32 | inodes[group])
            writer.add(row, content)

    def _other(self, path):
        row, kept = self._row(path)
        if not row.is_file:
            return row, None
        if kept:
            return row, self._old.catalog(path.rpartition(b"/")[0]).content(row)
        content = self._content(self._tree + path)
        row = row._replace(
            hash=content.hash,
            size=content.size,
            flags=row.flags | (CHUNKED if content.chunks else 0),
        )
        return row, content

    def _content(self, path):
        if is_chunked(path):
            chunks = tuple(
                Chunk(at, size, bytes.fromhex(name)) for name, at, size in chunks_of(path)
            )
            return Content(None, os.lstat(path).st_size, chunks)
        with open(path, "rb") as file:
            content = file.read()
        return Content(self._objects.put(content), len(content))

    def _row(self, path):
        """The row of a path, and whether it is the one from before."""
        was = self._old and self._old.row(path)
        if was is not None and self._looks_same(path):
            return was._replace(flags=was.flags & ~(ROOT | MOUNTPOINT)), True
        found = os.lstat(self._tree + path)
        uid, gid = self._owner(path, was, found)
        seconds, rest = divmod(found.st_mtime_ns, _NANOSECONDS)
        parent, _, name = path.rpartition(b"/")
        target = os.readlink(self._tree + path) if stat.S_ISLNK(found.st_mode) else b""
        device = stat.S_IFMT(found.st_mode) in (stat.S_IFCHR, stat.S_IFBLK)
        return Row(
            *path_key(path),
            *path_key(parent),
            hardlinks=1,
            hash=None,
            size=found.st_rdev if device else len(target),
            mode=found.st_mode,
            mtime=seconds,
            mtimens=rest if self._nanoseconds else None,
            flags=type_flags(found.st_mode),
            name=name,
            symlink=target,
            uid=uid,
            gid=gid,
            xattr=pack_xattrs(_xattrs(self._tree + path))[0] if self._xattrs else None,
        ), False

    def _owner(self, path, was, found):
        """Who owns what is at a path: an ordinary user's directory does not show it."""
        if was is not None and os.path.lexists(self._before + path):
            before = os.lstat(self._before + path)
            if (before.st_uid, before.st_gid) == (found.st_uid, found.st_gid):
                return was.uid, was.gid
        return found.st_uid, found.st_gid

    # --- what has changed -----------------------------------------------

    def _looks_same(self, path):
        """Whether a path shows the same as before, but for what is in a directory."""
        try:
            one, other = os.lstat(self._before + path), os.lstat(self._tree + path)
        except FileNotFoundError:
            return False
        if os.path.samestat(one, other):
            return True
        fields = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev")
        if any(getattr(one, name) != getattr(other, name) for name in fields):
            return False
        if stat.S_ISLNK(one.st_mode):
            return os.readlink(self._before + path) == os.readlink(self._tree + path)
        if _xattrs(self._before + path) != _xattrs(self._tree + path):
            return False
        if stat.S_ISREG(one.st_mode):
            return filecmp.cmp(self._before + path, self._tree + path, shallow=False)
        return True

    def _is_same(self, path):
        """Whether a directory and all that is in it shows the same as before."""
        if not self._looks_same(path):
            return False
        names = os.listdir(self._tree + path)
        if set(names) != set(os.listdir(self._before + path)):
            return False
        for name in names:
            below = path + b"/" + name
            is_directory = stat.S_ISDIR(os.lstat(self._tree + below).st_mode)
            if not (self._is_same(below) if is_directory else self._looks_same(below)):
                return False
        return True


def _xattrs(path):
    return sorted(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
        for name in os.listxattr(path, follow_symlinks=False)
    )
