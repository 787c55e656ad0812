"""Changes to one revision of a repository, which make the catalogs of the next."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import RepositoryError
from .catalog import MARKER, Nested
from .catalog_writer import marker
from .edited import Edited, added, taken
from .edited_catalogs import Catalogs
from .names import Kind, path_key
from .objects import Objects
from .revision import Revision
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
    pack_xattrs,
)
from .trees import Tree

_DEFAULT_TTL = 240
_SKEW_SECONDS = 300
_NO_NAMES = frozenset({b"", b".", b".."})


@dataclass(frozen=True, slots=True)
class Written:
    """A catalog that was written: the directory in which it begins, its hash and its size."""

    path: bytes
    hash: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Root:
    """The root catalog of the new revision, for the manifest.

    ``size`` is in bytes, uncompressed, ``ttl`` in seconds; ``written`` are all catalogs
    that were made, the deepest first and the root last.
    """

    hash: bytes
    size: int
    revision: int
    ttl: int
    written: tuple[Written, ...]


class Changes:
    """Changes to ``revision``; what is new is put into ``objects``.

    Paths are absolute in the repository.  Parents that are not there are made.  Clients
    stay with what they have where time goes back, so ``now`` (seconds since the epoch) is
    not before what the revision says; `RepositoryError` where that is far in the future.
    """

    def __init__(self, revision: Revision, objects: Objects, now: int) -> None:
        self._objects = objects
        self._catalogs = Catalogs(revision, objects)
        self._now = self._time(now)
        self._directories: set[bytes] = set()

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return any(edited.changed for edited in self._catalogs.open.values())

    # --- what is put --------------------------------------------------------

    def put_file(
        self,
        path: bytes,
        content: Content | bytes,
        mode: int = 0o644,
        *,
        uid: int = 0,
        gid: int = 0,
        mtime: int | None = None,
    ) -> None:
        """Put a regular file at a path, in the place of whatever is there."""
        if isinstance(content, bytes):
            content = self._objects.file([content], len(content))
        flags = FILE | content.flags | (CHUNKED if content.chunks else 0)
        digest = None if content.chunks else content.hash
        row = self._new(path, stat.S_IFREG | mode, flags, uid=uid, gid=gid, mtime=mtime)
        self._put(path, row._replace(size=content.size, hash=digest), content)

    def put_link(
        self, path: bytes, target: bytes, *, uid: int = 0, gid: int = 0, mtime: int | None = None
    ) -> None:
        """Put a symlink at a path, in the place of whatever is there."""
        if not target or b"\0" in target:
            raise ValueError(f"{target!r} is nothing that a symlink leads to")
        row = self._new(path, stat.S_IFLNK | 0o777, FILE | LINK, uid=uid, gid=gid, mtime=mtime)
        self._put(path, row._replace(size=len(target), symlink=target))

    def make_directory(
        self,
        path: bytes,
        mode: int = 0o755,
        *,
        uid: int = 0,
        gid: int = 0,
        mtime: int | None = None,
    ) -> None:
        """Make a directory where none is; one that is there stays as it is.

        `RepositoryError` where something else is in the place of it or of a parent.
        """
        row = self._row(path)
        if row is None:
            row = self._new(path, stat.S_IFDIR | mode, DIRECTORY, uid=uid, gid=gid, mtime=mtime)
            self._put(path, row._replace(hardlinks=2, size=DIRECTORY_SIZE))
        elif not row.is_directory:
            raise RepositoryError(
                f"{_show(path)} in the repository is no directory",
                hint="remove what is there, with cvmfs_server transaction and publish",
            )

    def begin_catalog(self, path: bytes) -> None:
        """Have a catalog begin in a directory, which is made where it is not there."""
        self.make_directory(path)
        above = self._catalogs.holding(_parent(path))
        row = above.file.row(path)
        if row is None or not path or row.flags & MOUNTPOINT:
            return
        made, above = self._catalogs.begin(path)
        above.update(row.key, {"flags": row.flags | MOUNTPOINT})
        made.insert(row._replace(flags=row.flags | ROOT))
        # The marker's name may be there already, without its effect.
        made.delete([path_key(path + b"/" + MARKER)])
        made.insert(marker(path, self._objects.put(b""), self._now, None))

    def graft(self, tree: Tree) -> None:
        """Hang a whole tree into the repository, in the place of whatever is there.

        Its catalogs are staged in the changes' objects, or stored in the repository.
        """
        self.make_directory(_parent(tree.at))
        above = self._catalogs.holding(_parent(tree.at))
        nested = Nested(tree.hash.hex(), tree.size)
        # Where an operator removes the marker, the rows are put above column by column.
        nested = self._catalogs.rearranged(nested, above.file.columns)
        with self._catalogs.read(nested) as top:
            row = top.row(tree.at)
            counters = added(*top.counters())
            if top.root_prefix != tree.at or row is None or not row.flags & ROOT:
                raise RepositoryError(
                    f"the catalog {nested.hash} is not that of {_show(tree.at)}",
                    hint="remove what is staged and run again",
                )
        self._put(tree.at, row._replace(flags=row.flags & ~ROOT | MOUNTPOINT))
        above.hang(tree.at, nested)
        self._catalogs.hung.add(nested.hash)
        above.more = added(above.more, counters)

    # --- what is changed and removed -----------------------------------------

    def remove(self, path: bytes) -> None:
        """Remove whatever is at a path, and all that is in it; nothing is fine as well."""
        row = self._row(path)
        if row is None:
            return
        if not path:
            raise ValueError("the root of a repository cannot be removed")
        at = self._catalogs.holding(_parent(path))
        if row.is_directory:
            for nested in at.nested_below(path):
                self._catalogs.drop(nested, at)
            if not row.flags & MOUNTPOINT:
                at.delete([below.key for below in at.below(row.key)])
        at.delete([row.key])
        if row.hardlinks >> 32 and not row.is_directory:
            at.leave_group(row)
        self._entries_changed(_parent(path))

    def set_xattrs(self, path: bytes, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
        """Give what is at a path these extended attributes and no others.

        `FileNotFoundError` where nothing is, `ValueError` where they cannot be kept.
        """
        packed, lost = pack_xattrs(xattrs)
        if lost:
            raise ValueError("extended attributes have at most 255 bytes each")
        self._change(path, {"xattr": packed})

    def touch(self, path: bytes) -> None:
        """Have what is at a path changed now; `FileNotFoundError` where nothing is."""
        self._change(path, {"mtime": self._now, "mtimens": None})

    def set_time(self, path: bytes, mtime: int) -> None:
        """Set when what is at a path was changed, in seconds since the epoch, and no later one.

        `FileNotFoundError` where nothing is.
        """
        self._change(path, {"mtime": mtime, "mtimens": None})

    # --- the end ---------------------------------------------------------------

    def finish(self) -> Root:
        """Write all catalogs that have changed; nothing can be changed any more."""
        self._count_links()
        catalogs = self._catalogs.open
        for edited in list(catalogs.values()):
            while edited.changed and edited.above is not None:
                edited = edited.above
                edited.changed = True
        self._catalogs.root.changed = True
        ttl = int(self._catalogs.root.file.properties().get("TTL", _DEFAULT_TTL))
        written = []
        revision = 0
        for path in sorted(catalogs, key=lambda path: -path.count(b"/")):
            edited = catalogs[path]
            if edited.changed:
                revision = int(edited.file.properties().get("revision", "0")) + 1
                written.append(self._write(edited, revision))
            else:
                edited.file.close()
        root = written[-1]
        return Root(root.hash, root.size, revision, ttl, tuple(written))

    def _count_links(self) -> None:
        """Count the directories where some came or went: what was there may be wrong."""
        for path in self._directories:
            directory = self._row(path)
            if directory is not None and directory.is_directory:
                links = 2 + self._catalogs.holding(path).directories_in(directory.key)
                if links != directory.hardlinks:
                    self._change(path, {"hardlinks": links})

    def _write(self, edited: Edited, revision: int) -> Written:
        own, subtree = edited.counted()
        if min(subtree) < 0 or edited.lost:
            subtree = self._catalogs.counted(edited)  # nobody knows what it counted
        properties = {"revision": str(revision), "last_modified": str(self._now)}
        if edited.old is not None:
            properties["previous_revision"] = edited.old
        content = edited.content(own, subtree, properties)
        written = Written(edited.path, self._objects.put(content, Kind.CATALOG), len(content))
        if edited.above is not None:
            edited.above.hang(edited.path, Nested(written.hash.hex(), written.size))
            more = taken(added(own, subtree), edited.was)
            edited.above.more = added(edited.above.more, more)
        return written

    def _time(self, now: int) -> int:
        before = int(self._catalogs.root.file.properties().get("last_modified", "0"))
        if before > now + _SKEW_SECONDS:
            raise RepositoryError(
                f"the repository was changed {before - now} seconds in the future of this "
                "machine's clock",
                hint="set the clock: clients do not go back in time",
            )
        return max(before, now)

    # --- rows ------------------------------------------------------------------

    def _row(self, path: bytes) -> Row | None:
        return self._catalogs.holding(_parent(path)).file.row(path)

    def _new(
        self, path: bytes, mode: int, flags: int, *, uid: int, gid: int, mtime: int | None
    ) -> Row:
        parent, _, name = path.rpartition(b"/")
        if not path.startswith(b"/") or b"\0" in path or not _NO_NAMES.isdisjoint(_names(path)):
            raise ValueError(f"{path!r} is no absolute path")
        if _names(path)[0] == b".cvmfs":
            raise ValueError(f"{path!r} is in CernVM-FS' own directory")
        return Row(
            *path_key(path),
            *path_key(parent),
            hardlinks=1,
            hash=None,
            size=0,
            mode=mode,
            mtime=self._now if mtime is None else mtime,
            mtimens=None,
            flags=flags,
            name=name,
            symlink=b"",
            uid=uid,
            gid=gid,
            xattr=None,
        )

    def _put(self, path: bytes, row: Row, content: Content | None = None) -> None:
        self.make_directory(_parent(path))
        self.remove(path)
        self._catalogs.holding(_parent(path)).insert(row, content)
        self._entries_changed(_parent(path))

    def _entries_changed(self, directory: bytes) -> None:
        """Something came into a directory or left it."""
        self._directories.add(directory)
        self.touch(directory)

    def _change(self, path: bytes, values: Mapping[str, object]) -> None:
        """Change the row of a path, or both where a catalog begins there."""
        found = False
        for edited in {self._catalogs.holding(_parent(path)), self._catalogs.holding(path)}:
            row = edited.file.row(path)
            if row is not None:
                edited.update(row.key, values)
                found = True
        if not found:
            raise FileNotFoundError(f"{path!r} is not in the repository")


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _names(path: bytes) -> list[bytes]:
    return path.split(b"/")[1:]


def _show(path: bytes) -> str:
    return repr(path.decode(errors="backslashreplace"))
