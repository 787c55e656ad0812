"""Changes to one revision of a repository, which make the catalogs of the next."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..errors import RepositoryError
from .catalog import MARKER, CatalogFile, Nested
from .edited import ZEROS, Edited, added, taken
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
from .trees import marker

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
        self._revision = revision
        self._objects = objects
        content = revision.catalog_content(revision.root.hex())
        self._root = Edited.open(b"", content, None, revision.root.hex(), "the root catalog")
        self._open = {b"": self._root}
        self._now = self._time(now)

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return any(edited.changed for edited in self._open.values())

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
        above = self._catalog(_parent(path))
        if above.file.nested_at(path) is not None or not path:
            return
        row = _there(self._row(path))
        made = self._open[path] = Edited.create(path, above)
        nested = above.nested_below(path)
        made.take([below.key for below in above.below(row.key)], above)
        for below in nested:
            self._move_nested(below, above, made)
        above.update(row.key, {"flags": row.flags | MOUNTPOINT})
        made.insert(row._replace(flags=row.flags | ROOT))
        # The marker's name may be there already, without its effect.
        made.delete([path_key(path + b"/" + MARKER)])
        made.insert(marker(path, self._objects.put(b""), self._now, None))
        above.hang(path, Nested("", 0))

    def graft(self, at: bytes, tree: Nested) -> None:
        """Hang a whole tree, by its uppermost catalog, in the place of whatever is at a path.

        Its catalogs are staged in the changes' objects, or stored in the repository.
        """
        self.make_directory(_parent(at))
        above = self._catalog(_parent(at))
        what = f"the catalog {tree.hash}"
        with CatalogFile.read(self._content(tree.hash, tree.size), what) as top:
            row = top.row(at)
            if top.root_prefix != at or row is None or not row.flags & ROOT:
                raise RepositoryError(
                    f"{what} is not that of {_show(at)}",
                    hint="remove what is staged and run again",
                )
            if top.columns != above.file.columns:
                raise _other_columns(at)
            counters = added(*top.counters())
        self._put(at, row._replace(flags=row.flags & ~ROOT | MOUNTPOINT))
        above = self._catalog(_parent(at))
        above.hang(at, tree)
        above.more = added(above.more, counters)

    # --- what is changed and removed -----------------------------------------

    def remove(self, path: bytes) -> None:
        """Remove whatever is at a path, and all that is in it; nothing is fine as well."""
        row = self._row(path)
        if row is None:
            return
        if not path:
            raise ValueError("the root of a repository cannot be removed")
        at = self._catalog(_parent(path))
        if row.is_directory:
            for nested in at.nested_below(path):
                self._drop_nested(nested, at)
            if not row.flags & MOUNTPOINT:
                at.delete([below.key for below in at.below(row.key)])
        at.delete([row.key])
        if row.hardlinks >> 32 and not row.is_directory:
            at.leave_group(row)
        self._entries_changed(_parent(path), -1 if row.is_directory else 0)

    def set_xattrs(self, path: bytes, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
        """Give what is at a path these extended attributes and no others.

        `FileNotFoundError` where nothing is, `ValueError` where they cannot be kept.
        """
        packed, lost = pack_xattrs(xattrs)
        if lost:
            raise ValueError("extended attributes have at most 255 bytes each")
        self._change(path, lambda row: {"xattr": packed})

    def touch(self, path: bytes) -> None:
        """Have what is at a path changed now; `FileNotFoundError` where nothing is."""
        self._change(path, lambda row: {"mtime": self._now, "mtimens": None})

    def set_time(self, path: bytes, mtime: int) -> None:
        """Set when what is at a path was changed, in seconds since the epoch, and no later one.

        `FileNotFoundError` where nothing is.
        """
        self._change(path, lambda row: {"mtime": mtime, "mtimens": None})

    # --- the end ---------------------------------------------------------------

    def finish(self) -> Root:
        """Write all catalogs that have changed; nothing can be changed any more."""
        for edited in list(self._open.values()):
            while edited.changed and edited.above is not None:
                edited = edited.above
                edited.changed = True
        self._root.changed = True
        written = []
        ttl = int(self._root.file.properties().get("TTL", _DEFAULT_TTL))
        revision = 0
        for path in sorted(self._open, key=lambda path: -path.count(b"/")):
            edited = self._open[path]
            if not edited.changed:
                edited.file.close()
                continue
            revision = self._revision_of(edited)
            made = self._write(edited, revision)
            written.append(made)
        self._open.clear()
        root = written[-1]
        return Root(root.hash, root.size, revision, ttl, tuple(written))

    def _write(self, edited: Edited, revision: int) -> Written:
        own, subtree = edited.counted()
        if min(*own, *subtree) < 0:
            subtree = self._counted_anew(edited)
        properties = {"revision": str(revision), "last_modified": str(self._now)}
        if edited.old is not None:
            properties["previous_revision"] = edited.old
        content = edited.content(own, subtree, properties)
        digest = self._objects.put(content, Kind.CATALOG)
        if edited.above is not None:
            edited.above.hang(edited.path, Nested(digest.hex(), len(content)))
            more = taken(added(own, subtree), edited.was)
            edited.above.more = added(edited.above.more, more)
        return Written(edited.path, digest, len(content))

    def _counted_anew(self, edited: Edited) -> tuple[int, ...]:
        """What the catalogs below one count, where what it said of them was wrong."""
        counters = [ZEROS]
        for nested in edited.file.nested().values():
            content = self._content(nested.hash, nested.size)
            with CatalogFile.read(content, f"the catalog {nested.hash}") as below:
                counters.append(added(*below.counters()))
        return added(*counters)

    @staticmethod
    def _revision_of(edited: Edited) -> int:
        return int(edited.file.properties().get("revision", "0")) + 1

    def _time(self, now: int) -> int:
        before = int(self._root.file.properties().get("last_modified", "0"))
        if before > now + _SKEW_SECONDS:
            raise RepositoryError(
                f"the repository was changed {before - now} seconds in the future of this "
                "machine's clock",
                hint="set the clock: clients do not go back in time",
            )
        return max(before, now)

    # --- rows ------------------------------------------------------------------

    def _row(self, path: bytes) -> Row | None:
        return self._catalog(_parent(path)).file.row(path)

    def _new(
        self, path: bytes, mode: int, flags: int, *, uid: int, gid: int, mtime: int | None
    ) -> Row:
        parent, _, name = path.rpartition(b"/")
        if not path.startswith(b"/") or b"\0" in path or not _NO_NAMES.isdisjoint(_names(path)):
            raise ValueError(f"{path!r} is no absolute path")
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
        self._catalog(_parent(path)).insert(row, content)
        self._entries_changed(_parent(path), 1 if row.is_directory else 0)

    def _entries_changed(self, directory: bytes, directories: int) -> None:
        """Something came into a directory or left it, or so many directories did."""
        self._change(
            directory,
            lambda row: {
                "hardlinks": row.hardlinks + directories,
                "mtime": self._now,
                "mtimens": None,
            },
        )

    def _change(self, path: bytes, values: Callable[[Row], dict[str, object]]) -> None:
        """Change the row of a path, or both where a catalog begins there."""
        catalogs = {self._catalog(_parent(path)), self._catalog(path)}
        found = False
        for edited in catalogs:
            row = edited.file.row(path)
            if row is not None:
                edited.update(row.key, values(row))
                found = True
        if not found:
            raise FileNotFoundError(f"{path!r} is not in the repository")

    # --- catalogs -----------------------------------------------------------------

    def _catalog(self, directory: bytes) -> Edited:
        """The catalog that has what is in a directory; it is opened."""
        found = self._root
        for path in _upwards(directory):
            opened = self._open.get(path)
            if opened is None:
                nested = found.file.nested_at(path)
                if nested is None:
                    continue
                opened = self._opened(path, nested, found)
            found = opened
        return found

    def _opened(self, path: bytes, nested: Nested, above: Edited) -> Edited:
        staged = self._name(nested.hash) in self._objects.names
        content = self._content(nested.hash, nested.size)
        what = f"the catalog of {_show(path)}"
        opened = Edited.open(path, content, above, None if staged else nested.hash, what)
        opened.changed = False
        self._open[path] = opened
        return opened

    def _content(self, digest: str, size: int) -> bytes:
        """The bytes of a catalog that is staged or stored."""
        name = self._name(digest)
        if name not in self._objects.names:
            return self._revision.catalog_content(digest, size)
        content = self._objects.get(name)
        if len(content) != size:
            raise RepositoryError(
                f"the staged catalog {name} has {len(content)} bytes, not {size}",
                hint="remove what is staged and run again",
            )
        return content

    @staticmethod
    def _name(digest: str) -> str:
        return digest + Kind.CATALOG

    def _drop_nested(self, path: bytes, above: Edited) -> None:
        """Forget a nested catalog, and all below it."""
        counted = self._was(path, above)
        for opened in [each for each in self._open if _is_below(each, path)]:
            self._open.pop(opened).file.close()
        above.cut(path)
        above.more = taken(above.more, counted)

    def _move_nested(self, path: bytes, above: Edited, into: Edited) -> None:
        """Have a nested catalog in another one than before."""
        counted = self._was(path, above)
        nested = above.file.nested_at(path)
        assert nested is not None
        above.cut(path)
        above.more = taken(above.more, counted)
        into.hang(path, nested)
        into.more = added(into.more, counted)
        if path in self._open:
            self._open[path].above = into

    def _was(self, path: bytes, above: Edited) -> tuple[int, ...]:
        """What a nested catalog counts as the one above it knows it."""
        if path in self._open:
            return self._open[path].was
        nested = above.file.nested_at(path)
        assert nested is not None
        content = self._content(nested.hash, nested.size)
        with CatalogFile.read(content, f"the catalog {nested.hash}") as below:
            return added(*below.counters())


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _names(path: bytes) -> list[bytes]:
    return path.split(b"/")[1:]


def _upwards(path: bytes) -> Iterator[bytes]:
    """A path's parents and itself, from the first below the root on."""
    at = 0
    while (at := path.find(b"/", at + 1)) != -1:
        yield path[:at]
    if path:
        yield path


def _is_below(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")


def _there(row: Row | None) -> Row:
    assert row is not None
    return row


def _other_columns(path: bytes) -> RepositoryError:
    return RepositoryError(
        f"the catalog above {_show(path)} was made by an old version of CernVM-FS",
        hint="",
    )


def _show(path: bytes) -> str:
    return repr(path.decode(errors="backslashreplace"))
