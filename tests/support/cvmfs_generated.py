"""Trees of all kinds of entries for catalogs, made by chance, and a repository to put them in."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from duccmake.cvmfs.catalog_writer import CatalogWriter
from duccmake.cvmfs.names import Kind, path_key
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.rows import DIRECTORY, Content, Row
from duccmake.cvmfs.storage import Mark, NotThere, checked
from duccmake.cvmfs.trees import Contents
from duccmake.tree import mtree
from duccmake.tree.mtree import BLOCK, CHAR, DIR, FIFO, FILE, LINK, SOCKET, Entry

NAMES = (
    b"a",
    b"bin",
    b"B",
    b".hidden",
    b"-n",
    b"sp ace",
    b"back\\slash",
    b"new\nline",
    b"comma,tags=whiteout",
    b"#hash",
    b"quo'te\"",
    "größe".encode(),
    b"\xff\xfe\x80",
    b"$(HOME)",
    b"100%",
    b"x" * 255,
)
LIMIT = 2**14
"""Files of that many bytes are stored as one object, larger ones in chunks, where `chunked`."""

SIZES = (0, 1, 5, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT * 2, LIMIT * 5 // 2)
TARGETS = (b"a", b"../b", b"/etc/passwd", b"\xff/\n", b"$HOME", b"y" * 3000)
TIMES = (0, 1, -5, 1_000_000_000, 2**31, 253_402_300_800)
XATTRS = (
    (b"user.a", b"1"),
    (b"user.empty", b""),
    (b"user.bytes", bytes(range(255))),
    (b"user." + b"n" * 250, b"long name"),
    (b"security.capability", b"\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
)


@dataclass(frozen=True)
class Generated:
    """A tree: its entries as manifests have them, and what is in files, by first names."""

    entries: list[Entry]
    files: dict[bytes, bytes]

    @property
    def lines(self) -> list[bytes]:
        """Its manifest's lines."""
        return [mtree.FORMAT, *(entry.line() for entry in self.entries)]

    def contents(self, objects: Objects) -> Contents:
        """Its files, staged."""
        found = {path: objects.file([data], len(data)) for path, data in self.files.items()}

        def content(layer: int | None, path: bytes) -> Content:
            assert layer is None
            return found[path]

        return content

    def content(self, entry: Entry) -> bytes:
        """What is in a file."""
        return self.files[entry.hardlink or entry.path]


def generated(random: Random, most: int = 30) -> Generated:
    """A tree of at most so many entries."""
    names = list(NAMES)
    children: dict[bytes, dict[bytes, Entry]] = {b".": {}}
    for _ in range(random.randrange(most)):
        parent = random.choice(list(children))
        name = random.choice(names)
        if name in children[parent] or parent.count(b"/") > 5:
            continue
        path = name if parent == b"." else parent + b"/" + name
        entry = _entry(random, path)
        children[parent][name] = entry
        if entry.kind == DIR:
            children[path] = {}
    root = _attributed(random, Entry(b".", DIR))
    ordered = [root, *_below(children, b".")]
    files: dict[bytes, bytes] = {}
    entries = []
    firsts: list[Entry] = []
    for entry in ordered:
        first = random.choice(firsts[-3:]) if firsts else entry
        if entry.kind == FILE and first is not entry and random.random() < 0.3:
            entry = replace(first, path=entry.path, hardlink=first.path)
        elif entry.kind == FILE:
            files[entry.path] = random.randbytes(entry.size)
            firsts.append(entry)
        entries.append(entry)
    return Generated(entries, files)


def _below(children: dict[bytes, dict[bytes, Entry]], path: bytes) -> list[Entry]:
    """As manifests have it: what is in a directory, and then what is in its directories."""
    found, later = [], []
    for name in sorted(children[path]):
        entry = children[path][name]
        if entry.kind == DIR:
            later += [entry, *_below(children, entry.path)]
        else:
            found.append(entry)
    return found + later


def _entry(random: Random, path: bytes) -> Entry:
    kind = random.choice([DIR, DIR, DIR, FILE, FILE, FILE, LINK, CHAR, BLOCK, FIFO, SOCKET])
    entry = Entry(path, kind)
    if kind == FILE:
        entry = replace(entry, size=random.choice(SIZES))
    elif kind == LINK:
        entry = replace(entry, target=random.choice(TARGETS), mode=0o777)
    elif kind in (CHAR, BLOCK):
        entry = replace(entry, device=(random.choice([1, 8, 300]), random.choice([0, 3, 70_000])))
    return _attributed(random, entry)


def _attributed(random: Random, entry: Entry) -> Entry:
    seconds = random.choice(TIMES)
    modes = [0o644, 0o755, 0o4711, 0o2750, 0o1777, 0]
    xattrs: Collection[tuple[bytes, bytes]] = ()
    if entry.kind in (DIR, FILE) and random.random() < 0.3:
        xattrs = sorted(random.sample(XATTRS, random.randrange(1, 4)))
    return replace(
        entry,
        mode=entry.mode if entry.kind == LINK else random.choice(modes),
        uid=random.choice([0, 5, 70_000]),
        gid=random.choice([0, 6, 2**31]),
        mtime_ns=seconds * 10**9 + random.choice([0, 0, 1, 999_999_999]),
        xattrs=tuple(xattrs),
    )


class Staged:
    """A storage that has what is staged, and can be read."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def get(self, name: str) -> bytes:
        try:
            return checked(name, self._objects.path(name).read_bytes())
        except FileNotFoundError:
            raise NotThere(f"{name} is not there") from None

    def has(self, names: Collection[str]) -> set[str]:
        return set(names) & self._objects.names.keys()

    def lacking(self, sizes: Mapping[str, int]) -> set[str]:
        raise NotImplementedError

    def lost(self, sizes: Mapping[str, int], since: Mark) -> set[str]:
        raise NotImplementedError

    def mark(self) -> Mark:
        raise NotImplementedError

    def put_all(self, directory: Path, names: Iterable[str]) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError

    def sync(self) -> None:
        raise NotImplementedError

    def manifest(self) -> bytes:
        raise NotImplementedError


def empty_root(objects: Objects, columns: tuple[str, ...] = Row._fields) -> bytes:
    """The root catalog of a repository with nothing in it, staged; its hash."""
    writer = CatalogWriter(b"", columns)
    root = Row(
        *path_key(b""),
        0,
        0,
        hardlinks=2,
        hash=None,
        size=4096,
        mode=stat.S_IFDIR | 0o755,
        mtime=1,
        mtimens=None,
        flags=DIRECTORY,
        name=b"",
        symlink=b"",
        uid=0,
        gid=0,
        xattr=None,
    )
    writer.add(root)
    properties = {"revision": "1", "last_modified": "1000", "TTL": "900"}
    return objects.put(writer.content(properties), Kind.CATALOG)
