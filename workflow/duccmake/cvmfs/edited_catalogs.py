"""The catalogs of a revision that are edited, opened as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import RepositoryError
from . import catalog
from .catalog import CatalogFile, Counters, Nested
from .edited import Edited, added, taken
from .names import Kind
from .objects import Objects
from .revision import Revision
from .storage import DamagedObject, NotThere


class Catalogs:
    """Catalogs of ``revision``, and of what is staged in ``objects``.

    ``open`` has those that were needed by the paths in which they begin, ``hung`` the
    hashes of those that no revision has had.
    """

    def __init__(self, revision: Revision, objects: Objects) -> None:
        self._revision = revision
        self._objects = objects
        name = revision.root.hex()
        content = revision.catalog_content(name)
        self.root = Edited.open(b"", content, None, name, "the root catalog")
        self.open = {b"": self.root}
        self.hung: set[str] = set()

    def holding(self, directory: bytes) -> Edited:
        """The catalog that has what is in a directory."""
        found = self.root
        for path in _downwards(directory):
            opened = self.open.get(path)
            if opened is None:
                nested = found.file.nested_at(path)
                if nested is None:
                    continue
                opened = self._opened(path, nested, found)
            found = opened
        return found

    def begin(self, path: bytes) -> tuple[Edited, Edited]:
        """A new catalog, with what the one above has had below a directory; and that one."""
        above = self.holding(path)
        made = self.open[path] = Edited.create(path, above)
        row = above.file.row(path)
        assert row is not None
        nested = above.nested_below(path)
        made.take([below.key for below in above.below(row.key)], above)
        for below in nested:
            self._move(below, above, made)
        above.hang(path, Nested("", 0))
        return made, above

    def drop(self, path: bytes, above: Edited) -> None:
        """Forget the nested catalog at a path, and all below it, also one that is damaged."""
        try:
            above.more = taken(above.more, self._was(path, above))
        except (NotThere, DamagedObject):
            above.lost = True
        for opened in [each for each in self.open if _is_below(each, path)]:
            self.open.pop(opened).file.close()
        above.cut(path)

    def read(self, nested: Nested) -> CatalogFile:
        """A catalog that is staged or stored, for reading."""
        return CatalogFile.read(self._content(nested), f"the catalog {nested.hash}")

    def rearranged(self, nested: Nested, columns: Sequence[str]) -> Nested:
        """The same catalog, and all below it, with columns in that order."""
        with self.read(nested) as file:
            if file.columns == tuple(columns):
                return nested
            if set(file.columns) != set(columns):
                raise RepositoryError(
                    f"the catalog {nested.hash} has other columns than that above it",
                    hint="remove what is staged and run again",
                )
            for path, below in file.nested().items():
                file.db.execute(
                    "UPDATE nested_catalogs SET sha1=?, size=? WHERE path=CAST(? AS TEXT)",
                    (*self.rearranged(below, columns), path),
                )
            catalog.rearrange(file.db, columns)
            content = file.db.serialize()
        return Nested(self._objects.put(content, Kind.CATALOG).hex(), len(content))

    def counted(self, edited: Edited) -> Counters:
        """What all catalogs that hang in one count."""
        totals = [(0,) * len(edited.was)]
        for nested in edited.file.nested().values():
            with self.read(nested) as below:
                totals.append(added(*below.counters()))
        return added(*totals)

    def _opened(self, path: bytes, nested: Nested, above: Edited) -> Edited:
        what = f"the catalog of {path!r}"
        old = None if nested.hash in self.hung else nested.hash
        opened = Edited.open(path, self._content(nested), above, old, what)
        self.open[path] = opened
        return opened

    def _content(self, nested: Nested) -> bytes:
        name = nested.hash + Kind.CATALOG
        if name not in self._objects.names:
            return self._revision.catalog_content(nested.hash, nested.size)
        content = self._objects.get(name)
        if len(content) != nested.size:
            raise RepositoryError(
                f"the staged catalog {name} has {len(content)} bytes, not {nested.size}",
                hint="remove what is staged and run again",
            )
        return content

    def _move(self, path: bytes, above: Edited, into: Edited) -> None:
        """Have a nested catalog hang in another one than before."""
        counted = self._was(path, above)
        nested = above.file.nested_at(path)
        assert nested is not None
        above.cut(path)
        above.more = taken(above.more, counted)
        into.hang(path, nested)
        into.more = added(into.more, counted)
        if path in self.open:
            self.open[path].above = into

    def _was(self, path: bytes, above: Edited) -> Counters:
        """What a nested catalog counts, as the one above it knows it."""
        if path in self.open:
            return self.open[path].was
        nested = above.file.nested_at(path)
        assert nested is not None
        with self.read(nested) as below:
            return added(*below.counters())


def _downwards(path: bytes) -> Iterator[bytes]:
    """A path's parents and itself, from the first below the root on."""
    at = 0
    while (at := path.find(b"/", at + 1)) != -1:
        yield path[:at]
    if path:
        yield path


def _is_below(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")
