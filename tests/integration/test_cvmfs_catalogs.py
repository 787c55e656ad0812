"""Catalogs beside those that CernVM-FS itself makes of the same trees, and what it says of ours.

``DUCCMAKE_TEST_TREES`` says how many trees are compared, a few by default.
"""

# Paths are bytes here.
# ruff: noqa: PTH101, PTH102, PTH108, PTH115, PTH211
from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from duccmake.cvmfs import objects as staged
from duccmake.cvmfs.catalog import MARKER, CatalogFile
from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.check import check_written
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.rows import CHUNKED, Row
from duccmake.cvmfs.trees import write_tree
from duccmake.tree.mtree import BLOCK, CHAR, DIR, FIFO, FILE, LINK, SOCKET, Entry
from support.cvmfs_commits import commit, newest, storage_of
from support.cvmfs_generated import Generated, generated
from support.cvmfs_listings import counted, differences, listed, without_times
from support.cvmfs_repositories import CHUNKS, LARGEST, Real, real_repositories, why_not_real
from support.staged_trees import publish as publish_images
from support.staged_trees import stage

pytestmark = pytest.mark.cvmfs

TREES = int(os.environ.get("DUCCMAKE_TEST_TREES", "12"))
BATCH = 40
SETTINGS = (
    *CHUNKS,
    "CVMFS_IGNORE_XDIR_HARDLINKS=false",
    "CVMFS_INCLUDE_XATTRS=true",
    "CVMFS_ENABLE_MTIME_NS=true",
)
KEEPING = Keeping(nanoseconds=True)
"""As its own server does it: on overlayfs it makes files of the names of one inode."""

LINKED = Keeping(nanoseconds=True, hard_links=True)
LATEST = 2**34 - 2**33
"""File systems on which trees are made keep no later times."""

TREE = re.compile(rb"/\.layers/../[^/]*/layerfs|/\.flat/../[^/]")
"""How paths in the trees of images begin."""

_TYPES = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK}


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch) -> tuple[Real, Real]:
    """Two empty repositories: one for its own server, and one for us."""
    monkeypatch.setattr(staged, "CHUNK", LARGEST // 2)
    monkeypatch.setattr(staged, "CHUNK_ABOVE", LARGEST // 2)
    if reason := why_not_real():
        pytest.skip(reason)
    made = real_repositories()
    return made.get(*SETTINGS, "# its own"), made.get(*SETTINGS, "# ours")


def tree_for_files(random: Random) -> Generated:
    """A tree that can be made in a file system."""
    tree = generated(random)
    entries = []
    for entry in tree.entries:
        xattrs = entry.xattrs
        if entry.kind != FILE:
            xattrs = tuple(each for each in xattrs if each[0].startswith(b"user."))
        time = min(entry.mtime_ns, LATEST * 10**9)
        entries.append(replace(entry, xattrs=xattrs, mtime_ns=time))
    return Generated(entries, tree.files)


def make(tree: Generated, base: bytes) -> None:
    """Make a tree in a file system, with a marker for a catalog."""
    for entry in tree.entries:
        path = base if entry.path == b"." else base + b"/" + entry.path
        if entry.kind == DIR:
            os.mkdir(path)
        elif entry.hardlink:
            os.link(base + b"/" + entry.hardlink, path)
            continue
        elif entry.kind == FILE:
            Path(os.fsdecode(path)).write_bytes(tree.content(entry))
        elif entry.kind == LINK:
            os.symlink(entry.target, path)
        else:
            os.mknod(path, _TYPES[entry.kind] | 0o600, os.makedev(*entry.device))
        attribute(path, entry)
    Path(os.fsdecode(base + b"/" + MARKER)).touch()
    for entry in reversed(tree.entries):
        path = base if entry.path == b"." else base + b"/" + entry.path
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def attribute(path: bytes, entry: Entry) -> None:
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != LINK:
        os.chmod(path, entry.mode)
    for name, value in entry.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)


def publish(repository: Real, change: Callable[[bytes], None]) -> None:
    """Have its own server publish what is changed in the mounted repository."""
    repository.server("transaction", repository.name)
    change(os.fsencode(repository.mounts / repository.name))
    repository.server("publish", repository.name)


def assert_alike(repositories: tuple[Real, Real], touched: Collection[bytes]) -> None:
    with newest(repositories[0]) as its_own, newest(repositories[1]) as ours:
        wanted, found = (without_times(listed(each), touched) for each in (its_own, ours))
        different = "\n".join(differences(wanted, found))
        assert not different, different
        assert counted(ours) == counted(its_own)


def check(repository: Real) -> None:
    """All catalogs keep to our rules, and its own check finds nothing, in the storage either."""
    with newest(repository) as revision:
        names = [revision.root.hex()]
        for name in names:
            with CatalogFile.read(revision.catalog_content(name)) as catalog:
                names += [nested.hash for nested in catalog.nested().values()]
        check_written(names, revision.catalog_content, storage_of(repository).has)
    assert "no problems found" in repository.server("check", "-i", repository.name)


def test_names_of_one_inode_are_that_where_they_are_in_one_directory(repositories, tmp_path):
    _, ours = repositories
    trees = {number: tree_for_files(Random(number)) for number in range(TREES)}
    objects = Objects(directory(tmp_path / "objects"))

    def change(changes: Changes) -> None:
        for number, tree in trees.items():
            contents, at = tree.contents(objects), b"/t/%d" % number
            changes.graft(write_tree(tree.lines, at, contents, objects, LINKED))

    commit(ours, objects, change)
    check(ours)
    assert_mounted(ours, b"/t", trees)
    for number, tree in trees.items():
        base = os.fsencode(ours.spool / "rdonly") + b"/t/%d/" % number
        for entry, names in linked(tree):
            found = {os.lstat(base + name) for name in names}
            assert {each.st_nlink for each in found} == {len(names)}, entry
            assert len({each.st_ino for each in found}) == 1


def linked(tree: Generated) -> Iterator[tuple[Entry, list[bytes]]]:
    """Entries with several names in one directory, and the names."""
    found: dict[tuple[bytes, bytes], list[Entry]] = {}
    for entry in tree.entries:
        key = (entry.path.rpartition(b"/")[0], entry.hardlink or entry.path)
        found.setdefault(key, []).append(entry)
    for entries in found.values():
        if len(entries) > 1:
            yield entries[0], [entry.path for entry in entries]


def test_catalogs_are_those_of_its_own_server(repositories, tmp_path):
    its_own, ours = repositories
    touched = {b""}
    for first in range(0, TREES, BATCH):
        numbers = range(first, min(TREES, first + BATCH))
        trees = {number: tree_for_files(Random(number)) for number in numbers}
        objects = Objects(directory(tmp_path / f"{first}"))
        at = b"/t%d" % first

        def by_us(changes: Changes, at=at, trees=trees, objects=objects) -> None:
            changes.remove(b"/new_repository")
            changes.begin_catalog(at)
            for number, tree in trees.items():
                contents = tree.contents(objects)
                where = at + b"/%d" % number
                changes.graft(write_tree(tree.lines, where, contents, objects, KEEPING))

        def by_it(mounted: bytes, at=at, trees=trees) -> None:
            Path(os.fsdecode(mounted), "new_repository").unlink(missing_ok=True)
            os.mkdir(mounted + at, 0o755)
            Path(os.fsdecode(mounted + at + b"/" + MARKER)).touch()
            for number, tree in trees.items():
                make(tree, mounted + at + b"/%d" % number)

        commit(ours, objects, by_us)
        publish(its_own, by_it)
        touched.add(at)
        assert_alike(repositories, touched)
        check(ours)
        assert_mounted(ours, at, trees)

        edits = [
            edit
            for number, tree in trees.items()
            for edit in edited(Random(number), at + b"/%d" % number, tree)
        ]
        commit(ours, objects, lambda changes, edits=edits: apply_to_catalogs(changes, edits))
        publish(its_own, lambda mounted, edits=edits: apply_to_files(mounted, edits))
        made = [path for kind, path, _ in edits if kind == "catalog"]
        touched.update(made, (path.rpartition(b"/")[0] for _, path, _ in edits))
        assert_alike(repositories, touched)
        check(ours)


def assert_mounted(repository: Real, at: bytes, trees: dict[int, Generated]) -> None:
    """A client shows the trees, entry by entry."""
    for number, tree in trees.items():
        base = os.fsencode(repository.spool / "rdonly") + at + b"/%d" % number
        for entry in tree.entries:
            path = base if entry.path == b"." else base + b"/" + entry.path
            found = os.lstat(path)
            assert (found.st_uid, found.st_gid) == (entry.uid, entry.gid)
            assert stat.S_IMODE(found.st_mode) == entry.mode
            assert found.st_mtime_ns == entry.mtime_ns
            if entry.kind == FILE:
                assert Path(os.fsdecode(path)).read_bytes() == tree.content(entry)
            elif entry.kind == LINK:
                assert os.readlink(path) == entry.target
            elif entry.kind in (CHAR, BLOCK):
                assert found.st_rdev == os.makedev(*entry.device)
            for name, value in entry.xattrs:
                assert os.getxattr(path, name, follow_symlinks=False) == value


Edit = tuple[str, bytes, bytes]


def edited(random: Random, base: bytes, tree: Generated) -> list[Edit]:
    """Some changes to a published tree; no inode with several names is among them."""
    linked = {entry.hardlink for entry in tree.entries}
    directories = [entry.path for entry in tree.entries if entry.kind == DIR]
    edits: list[Edit] = []
    gone: list[bytes] = []
    for entry in random.sample(tree.entries, min(3, len(tree.entries))):
        below = [each for each in tree.entries if each.path.startswith(entry.path + b"/")]
        if entry.path == b"." or any(each.hardlink or each.path in linked for each in below):
            continue
        if entry.hardlink or entry.path in linked or any(map(entry.path.startswith, gone)):
            continue
        edits.append(("remove", base + b"/" + entry.path, b""))
        gone.append(entry.path)
    for number in range(random.randrange(3)):
        parent = random.choice(directories)
        if not any(map(parent.startswith, gone)):
            path = base + (b"" if parent == b"." else b"/" + parent) + b"/new%d" % number
            kind = random.choice(["file", "link", "catalog"])
            edits.append((kind, path, random.randbytes(random.choice([0, 10, 40_000]))))
    return edits


def apply_to_catalogs(changes: Changes, edits: list[Edit]) -> None:
    for kind, path, content in edits:
        if kind == "remove":
            changes.remove(path)
        elif kind == "file":
            changes.put_file(path, content, 0o750, uid=5, gid=6, mtime=1_000_000)
        elif kind == "link":
            changes.put_link(path, b"to", uid=5, gid=6, mtime=1_000_000)
        else:
            changes.make_directory(path)
            changes.put_file(path + b"/f", content, 0o750, uid=5, gid=6, mtime=1_000_000)
            changes.begin_catalog(path)


def apply_to_files(mounted: bytes, edits: list[Edit]) -> None:
    def file(path: bytes, content: bytes) -> None:
        Path(os.fsdecode(path)).write_bytes(content)
        os.chown(path, 5, 6)
        os.chmod(path, 0o750)
        os.utime(path, (1_000_000, 1_000_000))

    for kind, relative, content in edits:
        path = mounted + relative
        if kind == "remove":
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        elif kind == "file":
            file(path, content)
        elif kind == "link":
            os.symlink(b"to", path)
            os.chown(path, 5, 6, follow_symlinks=False)
            os.utime(path, (1_000_000, 1_000_000), follow_symlinks=False)
        else:
            os.mkdir(path)
            os.chown(path, 0, 0)  # it has had the group of a directory with setgid
            os.chmod(path, 0o755)
            file(path + b"/f", content)
            Path(os.fsdecode(path + b"/" + MARKER)).touch()


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def test_rows_are_those_of_its_ingest_but_for_what_that_loses(repositories, tmp_path):
    its_own, ours = repositories
    made = {}
    for number in range(TREES):
        tree, name = tree_for_files(Random(number)), f"registry.example.org/tools/app:{number}"
        specs = [(each, tree.content(each)) if each.kind == FILE else each for each in tree.entries]
        base = directory(tmp_path / f"{number}")
        made[name] = stage(base, name, top=specs, keeping=KEEPING, config=str(number))
    for repository, publisher in ((its_own, "ingest"), (ours, "catalogs")):
        opened = repository.open(publisher=publisher)
        publish_images(opened, *made.values())
        assert [line for name in made for line in opened.verify(name)] == []
    with newest(its_own) as wanted, newest(ours) as found:
        lines = list(differences(as_ingested(listed(wanted)), as_ingested(listed(found))))
        assert len(list(filter(TREE.match, listed(found)))) > 10 * TREES
    assert not lines, "\n".join(lines)


def as_ingested(rows: dict[bytes, tuple[Row, bytes]]) -> dict[bytes, tuple[Row, bytes]]:
    """The rows of trees without what archives that are ingested do not bring.

    These are extended attributes, sockets (for which ``tar`` has no type), chunks, and the
    sizes of symlinks, which have none in an archive.
    """
    found = {}
    for path, (row, content) in rows.items():
        if not TREE.match(path) or stat.S_ISSOCK(row.mode):
            continue
        size = 0 if row.is_link else row.size
        found[path] = row._replace(xattr=None, flags=row.flags & ~CHUNKED, size=size), content
    return found
