"""Trees as they are staged for a CernVM-FS repository: objects, and the catalogs that name them.

Beside ``objects/`` is ``catalog.json``: where in the repository the tree will be, the
hash and the size of the catalog that begins there, the content of the tree's manifest
as it will be published, and what is lost of the tree.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cvmfs.catalog import CatalogFile, Nested
from ..cvmfs.codec import Codec
from ..cvmfs.keeping import Keeping
from ..cvmfs.names import Kind, object_name, path_key
from ..cvmfs.objects import Objects, names_of
from ..cvmfs.rows import EXTERNAL, HASH_BITS, Chunk, Content
from ..cvmfs.trees import Contents, Tree, write_tree
from ..errors import RepositoryError
from .known_objects import Known

CATALOG = "catalog.json"
OBJECTS = "objects"

FORMAT = 1
"""The version of what is in ``catalog.json``."""

_PIECE = 1024 * 1024

ByKey = dict[tuple[int, int], Content]
"""The content of files by the `duccmake.cvmfs.names.path_key` of their paths."""


@dataclass(frozen=True, slots=True)
class CatalogForm:
    """How a tree is staged: its absolute path in the repository, and what is kept of it.

    ``salt`` makes catalogs that are made again, when others like them have left the
    repository, other ones: a replica may have kept those without their objects.
    """

    at: bytes
    keeping: Keeping
    codec: Codec
    salt: str = ""
    known: Known | None = None


def write_catalogs(
    directory: Path, manifest: Path, content: Contents, objects: Objects, form: CatalogForm
) -> set[str]:
    """Write a tree's catalogs, by its manifest, and ``catalog.json`` into ``directory``.

    Returns the names of the objects that are needed beside files and catalogs.  Raises
    what `write_tree` does.
    """
    # On disk: with hundreds of thousands of entries it would be most of what a job holds.
    published = directory / "published.mtree"
    with manifest.open("rb") as lines, published.open("wb", buffering=_PIECE) as out:
        out.writelines(
            line if line.startswith(b"#") else form.keeping.relabelled_line(line) for line in lines
        )
    tree = write_tree(_Lines(published), form.at, content, objects, form.keeping, form.salt)
    with published.open("rb", buffering=0) as file:
        pieces = iter(lambda: file.read(_PIECE), b"")
        found = objects.file(pieces, published.stat().st_size)
    published.unlink()
    members = {
        "format": FORMAT,
        "at": form.at.decode(),
        "catalog": tree.hash.hex(),
        "size": tree.size,
        "manifest": _to_json(found),
        "losses": dict(tree.losses),
        "catalogs": tree.catalogs,
        "entries": tree.entries,
    }
    (directory / CATALOG).write_text(json.dumps(members, indent=1) + "\n")
    return {object_name(objects.put(b""), Kind.FILE), *names_of(found)}


class _Lines:
    """The lines of a file, as often as they are wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as lines:
            yield from lines


@dataclass(frozen=True, slots=True)
class StagedCatalogs:
    """A tree as `write_catalogs` has staged it."""

    tree: Tree
    manifest: Content
    objects: Objects

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether something is staged in this form in a directory."""
        return (directory / CATALOG).is_file()

    @classmethod
    def read(cls, directory: Path) -> StagedCatalogs:
        """What is staged in ``directory``; `RepositoryError` where it is damaged.

        `FileNotFoundError` where nothing is staged in this form.  What a file has in it
        is read by `Objects.pieces`, once `contents` have said what that is.
        """
        raw = (directory / CATALOG).read_bytes()
        try:
            known = json.loads(raw)
            if known["format"] != FORMAT:
                raise ValueError("another version has written it")
            tree = Tree(
                known["at"].encode(),
                bytes.fromhex(known["catalog"]),
                int(known["size"]),
                Counter({str(kind): int(count) for kind, count in known["losses"].items()}),
                int(known["catalogs"]),
                int(known["entries"]),
            )
            return cls(tree, _from_json(known["manifest"]), Objects(directory / OBJECTS))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RepositoryError(
                f"{directory / CATALOG} cannot be used: {error!r}",
                hint="remove what is staged and run again",
            ) from None

    def contents(self) -> TreeContents:
        """The content of the tree's files."""
        top = self._open(Nested(self.tree.hash.hex(), self.tree.size))
        return TreeContents(self.tree.at, contents_below(self.tree.at, top, self._open))

    def _open(self, catalog: Nested) -> CatalogFile:
        content = self.objects.get(catalog.hash + Kind.CATALOG)
        if len(content) != catalog.size:
            raise RepositoryError(
                f"the staged catalog {catalog.hash} has {len(content)} bytes, not {catalog.size}",
                hint="remove what is staged and run again",
            )
        return CatalogFile.read(content, f"the catalog {catalog.hash}")


class TreeContents:
    """The content of the files of a tree that is, or will be, at ``at`` in the repository."""

    def __init__(self, at: bytes, found: ByKey) -> None:
        self._prefix = at + b"/"
        self._found = found

    def of(self, path: bytes) -> Content:
        """What the file at a path of the tree has in it; `RepositoryError` where none is."""
        try:
            return self._found[path_key(self._prefix + path)]
        except KeyError:
            raise RepositoryError(
                f"{self._prefix + path!r} is no file of the catalogs, as its manifest says",
                hint="remove what is staged and run again; for what is published, have the "
                "repository checked: cvmfs_server check -i",
            ) from None

    def objects(self) -> set[str]:
        """The names of the objects that the files consist of, but for what others store oddly."""
        plain = (
            content
            for content in self._found.values()
            if not content.flags & (HASH_BITS | EXTERNAL)
        )
        return {name for content in plain for name in names_of(content)}


def contents_below(at: bytes, top: CatalogFile, opened: Callable[[Nested], CatalogFile]) -> ByKey:
    """The content of all files below a directory that ``top`` has.

    ``opened`` opens the catalogs that hang below; all are closed again.
    """
    found: ByKey = {}
    waiting = [top]
    while waiting:
        with waiting.pop() as catalog:
            found |= catalog.contents()
            waiting += [
                opened(below)
                for path, below in catalog.nested().items()
                if path.startswith(at + b"/")
            ]
    return found


def _to_json(content: Content) -> dict[str, Any]:
    if content.hash is not None:
        return {"hash": content.hash.hex(), "size": content.size}
    chunks = [[chunk.offset, chunk.size, chunk.hash.hex()] for chunk in content.chunks]
    return {"hash": None, "size": content.size, "chunks": chunks}


def _from_json(members: Mapping[str, Any]) -> Content:
    chunks = tuple(
        Chunk(int(offset), int(size), bytes.fromhex(digest))
        for offset, size, digest in members.get("chunks", ())
    )
    digest = members["hash"]
    return Content(None if digest is None else bytes.fromhex(digest), int(members["size"]), chunks)
