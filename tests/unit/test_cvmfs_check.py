"""Each rule of the format: a catalog that breaks it is refused, and the refusal says where."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from duccmake.cvmfs import objects as staged
from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.check import check_catalog, check_written, faults
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import COUNTERS, Content
from duccmake.cvmfs.trees import write_tree
from duccmake.errors import RepositoryError
from duccmake.tree.mtree import BLOCK, DIR, FIFO, FILE, LINK, Entry
from support.cvmfs_generated import LIMIT, Staged, empty_root

ENTRIES = (
    Entry(b".", DIR),
    Entry(b"a", FILE, size=1),
    Entry(b"b", FILE, size=1, hardlink=b"a"),
    Entry(b"big", FILE, size=2 * LIMIT, xattrs=((b"user.a", b"b"),)),
    Entry(b"fifo", FIFO),
    Entry(b"disk", BLOCK, device=(8, 1)),
    Entry(b"link", LINK, target=b"a"),
    Entry(b"d", DIR),
    Entry(b"d/e", DIR),
    Entry(b"d/f", FILE, size=1),
)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    monkeypatch.setattr(staged, "CHUNK", LIMIT // 2)
    monkeypatch.setattr(staged, "CHUNK_ABOVE", LIMIT)
    return Objects(tmp_path)


@pytest.fixture
def tree(objects: Objects):
    def content(_: int | None, path: bytes) -> Content:
        size = 2 * LIMIT if path == b"big" else 1
        return objects.file([bytes(size)], size)

    lines = [entry.line() for entry in ENTRIES]
    return write_tree(lines, b"/t", content, objects, Keeping(hard_links=True))


@pytest.fixture
def catalog(objects: Objects, tree) -> CatalogFile:
    """The catalog of a tree with entries of all kinds, which keeps to all rules."""
    return CatalogFile.read(objects.get(tree.hash.hex() + Kind.CATALOG))


def test_a_catalog_that_was_written_keeps_to_the_rules(catalog):
    check_catalog(catalog)


def assert_broken(catalog: CatalogFile, rule: str) -> None:
    """One broken rule may break others: it is among them, and the catalog is refused."""
    assert [fault for _, fault in faults(catalog) if rule in fault]
    with pytest.raises(RepositoryError, match="not right at '/"):
        check_catalog(catalog)


BROKEN = {
    "a row's key": ("md5path_2=md5path_2+1", "link", "key"),
    "a directory's key": ("md5path_2=md5path_2+1", "e", "key"),
    "a key of a directory with entries": ("md5path_2=md5path_2+1", "d", "key"),
    "a parent's key": ("parent_1=parent_1+1", "link", "no directory"),
    "a directory in itself": ("parent_1=md5path_1, parent_2=md5path_2", "d", "no directory"),
    "an entry in a file": (
        "(parent_1, parent_2)=(SELECT md5path_1, md5path_2 FROM catalog WHERE name='a')",
        "link",
        "no directory",
    ),
    "a slash in a name": ("name='x/y'", "link", "name"),
    "no name": ("name=''", "link", "name"),
    "NUL in a name": ("name=CAST(x'6100' AS TEXT)", "link", "name"),
    "a long name": (f"name='{'x' * 256}'", "link", "name"),
    "dots for a name": ("name='..'", "link", "name"),
    "another name": ("name='x'", "link", "key"),
    "a directory that is none": ("flags=4", "e", "types"),
    "a file that is a directory": ("flags=1", "a", "types"),
    "a link without its flag": ("flags=4", "link", "types"),
    "a special file without its flag": ("flags=4", "fifo", "types"),
    "a mode of another type": (f"mode={stat.S_IFSOCK}", "a", "types"),
    "a directory with a hash": ("hash=zeroblob(20)", "e", "hash"),
    "a symlink with a hash": ("hash=zeroblob(20)", "link", "hash"),
    "a FIFO with a hash": ("hash=zeroblob(20)", "fifo", "hash"),
    "a FIFO with a size": ("size=1", "fifo", "size"),
    "a file without a hash": ("hash=NULL", "f", "hash"),
    "a file with half a hash": ("hash=zeroblob(10)", "f", "hash"),
    "a file of less than nothing": ("size=-1", "f", "size"),
    "chunks with a hash": ("hash=zeroblob(20)", "big", "hash"),
    "chunks that nobody looks for": ("flags=4, hash=zeroblob(20)", "big", "chunks"),
    "chunks of another size": ("size=size+1", "big", "chunks"),
    "chunks that are not there": ("flags=68, hash=NULL", "f", "chunks"),
    "a symlink to nothing": ("symlink='', size=0", "link", "leads"),
    "a symlink to NUL": ("symlink=CAST(x'00' AS TEXT)", "link", "leads"),
    "a symlink of another size": ("size=2", "link", "size"),
    "a target of a file": ("symlink='x'", "f", "target"),
    "a target that is NULL": ("symlink=NULL", "f", "target"),
    "links of a directory": ("hardlinks=hardlinks+1", "d", "links"),
    "links of the first directory": ("hardlinks=hardlinks+1", "t", "links"),
    "links of a file": ("hardlinks=2", "f", "links"),
    "no links of a file": ("hardlinks=0", "f", "links"),
    "links of an inode": ("hardlinks=hardlinks+1", "a", "links"),
    "names that differ": ("mode=mode|2048", "a", "inode"),
    "names of one inode in two directories": ("hardlinks=4294967297", "f", "more than one"),
    "xattrs that are cut": ("xattr=substr(xattr, 1, length(xattr)-1)", "big", "attributes"),
    "xattrs without any": ("xattr=x'0101'", "big", "attributes"),
    "xattrs with more": ("xattr=xattr || x'00'", "big", "attributes"),
    "xattrs of another version": ("xattr=x'0200'", "big", "attributes"),
    "a mountpoint of nothing": ("flags=3", "e", "nested"),
    "a beginning of another catalog": ("flags=33", "e", "begins"),
    "a beginning that is not said": ("flags=1", "t", "begins"),
    "no marker": (
        "flags=12, mode=41471, symlink='x', size=1, hash=NULL",
        ".cvmfscatalog",
        "marker",
    ),
}


@pytest.mark.parametrize(("change", "name", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_row_that_breaks_a_rule_is_refused(catalog, change, name, rule):
    done = catalog.db.execute(f"UPDATE catalog SET {change} WHERE name=?", (name,))
    assert done.rowcount == 1
    assert_broken(catalog, rule)


@pytest.mark.parametrize("counter", [f"self_{name}" for name in COUNTERS])
def test_a_counter_that_is_wrong_is_refused(catalog, counter):
    catalog.db.execute("UPDATE statistics SET value=value+1 WHERE counter=?", (counter,))
    with pytest.raises(RepositoryError, match=f"{counter} is"):
        check_catalog(catalog)


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("DELETE FROM catalog WHERE flags & 32", "no row"),
        ("DELETE FROM catalog WHERE name='e'", "links"),
        ("DELETE FROM catalog WHERE name='d'", "no directory"),
        ("DELETE FROM catalog WHERE name='big'", "chunks"),
        ("DELETE FROM catalog WHERE name='.cvmfscatalog'", "marker"),
        ("DELETE FROM catalog WHERE name='a'", "names are"),
        ("DELETE FROM statistics WHERE counter='self_symlink'", "self_symlink"),
        ("UPDATE statistics SET value=-1 WHERE counter='subtree_dir'", "subtree_dir"),
        ("DELETE FROM chunks WHERE offset=0", "chunk"),
        ("DELETE FROM chunks WHERE offset>0", "chunks"),
        ("UPDATE chunks SET offset=offset+1 WHERE offset>0", "chunk"),
        ("UPDATE chunks SET size=size+1 WHERE offset=0", "chunk"),
        ("UPDATE chunks SET hash=NULL WHERE offset=0", "chunk"),
        ("UPDATE chunks SET hash=zeroblob(3)", "chunk"),
        ("INSERT INTO chunks VALUES (1, 2, 0, 1, zeroblob(20))", "chunks"),
        ("INSERT INTO nested_catalogs VALUES ('/t/d/e', 'ab', 1)", "nested"),
        ("UPDATE properties SET value='/x' WHERE key='root_prefix'", "row"),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused(catalog, statement, rule):
    assert catalog.db.execute(statement).rowcount > 0
    assert_broken(catalog, rule)


def test_what_was_broken_before_is_passed_over_and_what_is_new_is_not(catalog):
    catalog.db.execute("UPDATE catalog SET hardlinks=7 WHERE name='f'")
    old = CatalogFile.read(catalog.db.serialize())
    check_catalog(catalog, old)
    catalog.db.execute("UPDATE catalog SET hardlinks=8 WHERE name='f'")
    with pytest.raises(RepositoryError, match="8 links"):
        check_catalog(catalog, old)


class Revised:
    """A revision with a tree in it, of which catalogs can be spoiled before they are checked."""

    def __init__(self, objects: Objects, tree) -> None:
        self.objects = objects
        storage = Staged(objects)
        with Revision(storage, empty_root(objects)) as revision:
            changes = Changes(revision, objects, 2000)
            changes.begin_catalog(b"/s")
            changes.put_file(b"/s/f", b"of ours")
            changes.graft(tree)
            self.root = changes.finish()
        self._revision = Revision(storage, self.root.hash)
        self._spoiled: dict[str, bytes] = {}
        self.has = storage.has

    def spoil(self, name: str, statement: str) -> None:
        with CatalogFile.read(self.read(name)) as catalog:
            assert catalog.db.execute(statement).rowcount > 0
            self._spoiled[name] = catalog.db.serialize()

    def read(self, name: str) -> bytes:
        return self._spoiled.get(name) or self._revision.catalog_content(name)

    def check(self) -> None:
        check_written((each.hash.hex() for each in self.root.written), self.read, self.has)


@pytest.fixture
def revised(objects: Objects, tree) -> Revised:
    return Revised(objects, tree)


def of_root(revised: Revised, _) -> str:
    return revised.root.hash.hex()


def of_tree(_: Revised, tree) -> str:
    return tree.hash.hex()


@pytest.mark.parametrize(
    ("which", "statement", "rule"),
    [
        (of_root, "UPDATE nested_catalogs SET size=size-1 WHERE path='/t'", "bytes"),
        (of_root, "UPDATE statistics SET value=9 WHERE counter='subtree_regular'", "subtree_reg"),
        (of_root, "UPDATE catalog SET uid=1 WHERE name='t'", "differ"),
        (of_root, "UPDATE catalog SET mtime=1 WHERE name='t'", "differ"),
        (of_root, "UPDATE catalog SET hardlinks=9 WHERE name='t'", "differ"),
        (of_root, "UPDATE catalog SET xattr=x'010101006b' WHERE name='t'", "self_xattr"),
        (of_tree, "UPDATE properties SET value='/u' WHERE key='root_prefix'", "is that of"),
        (of_tree, "UPDATE statistics SET value=9 WHERE counter='self_dir'", "subtree_dir"),
    ],
)
def test_catalogs_that_do_not_fit_are_refused(
    revised: Revised, tree, which: Callable[..., str], statement, rule
):
    revised.check()
    revised.spoil(which(revised, tree), statement)
    with pytest.raises(RepositoryError, match=rule):
        revised.check()


def test_an_object_that_is_not_there_is_missed(revised):
    name = revised.objects.put(b"of ours").hex()
    for missing in (name, revised.root.written[0].hash.hex() + "C"):
        everything = revised.has
        revised.has = lambda names, name=missing, has=everything: has(names) - {name}
        with pytest.raises(RepositoryError, match=missing):
            revised.check()
        revised.has = everything
