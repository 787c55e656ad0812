"""Trees that are written as catalogs: what is read back is what their manifests say."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.cvmfs import check, rows, split
from duccmake.cvmfs import objects as staged
from duccmake.cvmfs.catalog import MARKER, CatalogFile
from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind, path_key
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import CHUNKED, Content, Row, unpack_xattrs
from duccmake.cvmfs.trees import Tree, write_tree
from duccmake.errors import RepositoryError
from duccmake.tree import mtree
from duccmake.tree.mtree import CHAR, DIR, FILE, LINK, Entry
from support.cvmfs_generated import LIMIT, Generated, Staged, empty_root, generated

AT = b"/.layers/ab/cd/layerfs"
ROOT = Entry(b".", DIR)
WHOLE_SECONDS = Keeping()


@pytest.fixture(scope="module", autouse=True)
def small_limits() -> Iterator[None]:
    """Files in chunks and nested catalogs without much content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged, "CHUNK", LIMIT // 2)
        patch.setattr(staged, "CHUNK_ABOVE", LIMIT)
        patch.setattr(split, "MOST_ENTRIES", 12)
        patch.setattr(split, "FEWEST_ENTRIES", 3)
        yield


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path)


def written(
    objects: Objects, *entries: Entry, keeping: Keeping = WHOLE_SECONDS, salt: str = ""
) -> Tree:
    lines = [entry.line() for entry in (ROOT, *entries)]
    return write_tree(
        lines, AT, lambda _, path: objects.file([path], len(path)), objects, keeping, salt
    )


def top(objects: Objects, tree: Tree) -> CatalogFile:
    return CatalogFile.read(objects.get(tree.hash.hex() + Kind.CATALOG))


def published(objects: Objects, *trees: Tree) -> Revision:
    """A revision in which the trees are."""
    with Revision(Staged(objects), empty_root(objects)) as revision:
        changes = Changes(revision, objects, 2000)
        for tree in trees:
            changes.graft(tree)
        root = changes.finish()
    hashes = [each.hash.hex() for each in root.written]
    storage = Staged(objects)
    check.check_written(hashes, Revision(storage, root.hash).catalog_content, storage.has)
    return Revision(storage, root.hash)


def all_catalogs(revision: Revision, tree: Tree) -> list[bytes]:
    """The catalogs of a tree, each held to the rules."""
    found = [tree.hash.hex()]
    contents = []
    for name in found:
        contents.append(revision.catalog_content(name))
        with CatalogFile.read(contents[-1]) as catalog:
            found += [nested.hash for nested in catalog.nested().values()]
    check.check_written(found, revision.catalog_content, revision.storage.has)
    return contents


def assert_reads_back(revision: Revision, tree: Generated, keeping: Keeping) -> None:
    wanted = {AT + b"/" + entry.path: entry for entry in tree.entries if entry.path != b"."}
    found = {path: row for path, row in revision.walk(AT) if row.name != MARKER}
    assert found.keys() == wanted.keys()
    found[AT], wanted[AT] = revision.row(AT), tree.entries[0]
    links = link_counts(tree, keeping)
    for path, entry in wanted.items():
        row = found[path]
        assert stat.S_IMODE(row.mode) == entry.mode
        assert (row.uid, row.gid, row.mtime) == (entry.uid, entry.gid, entry.mtime_ns // 10**9)
        assert row.mtimens == (entry.mtime_ns % 10**9 if keeping.nanoseconds else None)
        assert dict(unpack_xattrs(row.xattr)) == dict(entry.xattrs)
        assert row.hardlinks & 0xFFFFFFFF == links[entry.path]
        if entry.kind == FILE:
            assert stat.S_ISREG(row.mode)
            assert revision.read(path) == tree.content(entry)
            assert bool(row.flags & CHUNKED) == (entry.size > LIMIT)
        elif entry.kind == LINK:
            assert stat.S_ISLNK(row.mode)
            assert revision.link(path) == entry.target
        elif entry.kind in (mtree.CHAR, mtree.BLOCK):
            assert (os.major(row.size), os.minor(row.size)) == entry.device
            assert stat.S_IFMT(row.mode) == (stat.S_IFCHR if entry.kind == CHAR else stat.S_IFBLK)


def link_counts(tree: Generated, keeping: Keeping) -> dict[bytes, int]:
    """By the manifest alone: of directories, and of names of one inode in one directory."""
    names: dict[tuple[bytes, bytes], int] = {}
    directories: dict[bytes, int] = {}
    for entry in tree.entries:
        parent = entry.path.rpartition(b"/")[0] or b"."
        one = (parent, entry.hardlink or entry.path)
        names[one] = names.get(one, 0) + 1
        if entry.kind == DIR and entry.path != b".":
            directories[parent] = directories.get(parent, 0) + 1
    found = {}
    for entry in tree.entries:
        parent = entry.path.rpartition(b"/")[0] or b"."
        if entry.kind == DIR:
            found[entry.path] = 2 + directories.get(entry.path, 0)
        else:
            one = (parent, entry.hardlink or entry.path)
            found[entry.path] = names[one] if keeping.hard_links else 1
    return found


@settings(max_examples=50)
@given(st.integers(min_value=0), st.booleans(), st.booleans())
def test_what_a_revision_shows_of_a_tree_is_what_its_manifest_says(seed, nanoseconds, hard_links):
    tree = generated(Random(seed))
    keeping = Keeping(nanoseconds=nanoseconds, hard_links=hard_links)
    with tempfile.TemporaryDirectory() as directory:
        objects = Objects(Path(directory))
        made = write_tree(tree.lines, AT, tree.contents(objects), objects, keeping)
        with published(objects, made) as revision:
            assert_reads_back(revision, tree, keeping)
            catalogs = all_catalogs(revision, made)
        assert made.entries == len(tree.entries)
        assert made.catalogs == len(catalogs)
        lost = made.losses.keys() - {"mtimes"} if nanoseconds else made.losses.keys()
        assert nanoseconds <= ("mtimes" not in made.losses)
        assert lost <= {"mtimes", "hardlinks"}


def test_a_large_tree_has_nested_catalogs_that_readers_pass_into(objects):
    entries = []
    for one in range(4):
        entries.append(Entry(b"d%d" % one, DIR))
        entries += [Entry(b"d%d/f%d" % (one, two), FILE, size=5) for two in range(8)]
    tree = written(objects, *entries)
    assert tree.catalogs > 1
    with published(objects, tree) as revision:
        for entry in entries:
            if entry.kind == FILE:
                assert revision.read(AT + b"/" + entry.path) == entry.path
        assert len(all_catalogs(revision, tree)) == tree.catalogs


def test_a_directory_is_opaque_for_the_kernel_and_for_fuse_overlayfs(objects):
    own = ((b"trusted.overlay.origin", b"x"), (b"user.overlay.redirect", b"/"), (b"user.a", b"b"))
    opaque = Entry(b"d", DIR, flags=frozenset({b"opaque"}), xattrs=own)
    plain = replace(opaque, path=b"e", flags=frozenset())
    with published(objects, written(objects, opaque, plain)) as revision:
        found = {path: dict(unpack_xattrs(row.xattr)) for path, row in revision.walk(AT)}
    assert found[AT + b"/d"] == {
        b"trusted.overlay.opaque": b"y",
        b"user.overlay.opaque": b"y",
        b"user.fuseoverlayfs.opaque": b"y",
        b"user.a": b"b",
    }
    assert found[AT + b"/e"] == {b"user.a": b"b"}


def test_a_whiteout_is_a_device_that_overlayfs_reads_as_one(objects):
    whiteout = Entry(b"gone", CHAR, mode=0, flags=frozenset({b"whiteout"}))
    with published(objects, written(objects, whiteout)) as revision:
        row = revision.row(AT + b"/gone")
    assert row.mode == stat.S_IFCHR
    assert row.size == 0
    assert row.hash is None


@pytest.mark.parametrize(
    ("entry", "lost"),
    [
        (Entry(b"f", FILE, size=1, xattrs=((b"user.a", b"v" * 256),)), "xattrs"),
        (Entry(b"f", FILE, size=1, mtime_ns=1), "mtimes"),
        (Entry(b"f", FILE, size=1, mtime_ns=2**63 * 10**9), "mtimes"),
        (Entry(b"f", FILE, size=1, mtime_ns=-(2**64) * 10**9), "mtimes"),
        (Entry(b"l", LINK, target=b"/$(CVMFS_ARCH)/x"), "targets"),
        (Entry(b"l", LINK, target=b"a\n$(X\n)"), "targets"),
    ],
)
def test_what_a_catalog_cannot_keep_is_counted_and_the_entry_is_there(objects, entry, lost):
    tree = written(objects, entry)
    assert tree.losses == {lost: 1}
    label = mtree.LOST + lost.encode()
    assert label in Entry.parse(Keeping().relabelled_line(entry.line())).flags
    with published(objects, tree) as revision:
        assert revision.row(AT + b"/" + entry.path) is not None


@pytest.mark.parametrize("target", [b"$HOME", b"$(", b"a)$(b", b"$", b"(a)"])
def test_a_target_that_clients_leave_alone_is_not_lost(objects, target):
    assert not written(objects, Entry(b"l", LINK, target=target)).losses


@pytest.mark.parametrize("name", [MARKER, b".cvmfsbundles"])
def test_names_of_cernvm_fs_itself_are_left_out_with_all_below(objects, name):
    entries = [
        Entry(name, DIR),
        Entry(name + b"/f", FILE, size=2),
        Entry(b"z", DIR),
        Entry(b"z/" + name, FILE, size=9),
        Entry(b"z/f", FILE, size=3),
    ]
    tree = written(objects, *entries)
    assert tree.losses == {"names": 3}
    with published(objects, tree) as revision:
        found = {path for path, _ in revision.walk(AT)}
    assert found == {AT + b"/" + MARKER, AT + b"/z", AT + b"/z/f"}


def test_hard_links_of_a_name_that_is_left_out_are_one_file_fewer(objects):
    first = Entry(MARKER, FILE, size=len(MARKER))
    more = [replace(first, path=name, hardlink=MARKER) for name in (b"b", b"c")]
    tree = written(objects, first, *more, keeping=Keeping(hard_links=True))
    with published(objects, tree) as revision:
        assert {revision.row(AT + b"/" + name).hardlinks for name in (b"b", b"c")} == {1 << 32 | 2}


def test_a_hard_link_to_a_lower_layer_is_no_file_of_the_tree(objects):
    tree = written(objects, mtree.lower_link(b"link", b"etc/passwd"))
    with published(objects, tree) as revision:
        assert [path for path, _ in revision.walk(AT)] == [AT + b"/" + MARKER]


def test_a_flat_tree_asks_for_files_by_layer_and_path_there(objects):
    entries = [
        Entry(b"g", FILE, size=1, flags=frozenset({b"generated"})),
        Entry(b"h", FILE, size=1, layer=0),
        Entry(b"i", FILE, size=1, layer=3, source=b"lib/i x"),
        Entry(b"j", FILE, size=1, layer=3, source=b"lib/j", xattrs=((b"user.a", b"b"),)),
    ]
    asked = []

    def content(layer: int | None, path: bytes) -> Content:
        asked.append((layer, path))
        return Content(b"h" * 20, 1)

    write_tree([entry.line() for entry in (ROOT, *entries)], AT, content, objects, Keeping())
    assert asked == [(None, b"g"), (0, b"h"), (3, b"lib/i x"), (3, b"lib/j")]


def test_a_salt_makes_other_bytes_and_none_the_same_ones(objects):
    one, same, other = (written(objects, salt=salt).hash for salt in ("", "", "2"))
    assert one == same != other


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Entry(b"a", FILE)],
        [ROOT, ROOT],
        [ROOT, Entry(b"a/b", FILE)],
        [ROOT, Entry(b"a", DIR), Entry(b"b", FILE), Entry(b"a/c", FILE)],
        [ROOT, Entry(b"a", LINK, target=b"b"), Entry(b"a", LINK, target=b"c")],
        [ROOT, Entry(b"a", FILE, size=7)],
        [ROOT, Entry(b"a", FILE, size=7, flags=frozenset({b"widened"}))],
        [ROOT, Entry(b"..", DIR)],
        [ROOT, Entry(b"a\0b", LINK, target=b"c")],
        [ROOT, Entry(b"a", LINK, target=b"c", uid=2**64)],
    ],
)
def test_lines_that_are_no_tree_are_refused(objects, lines):
    with pytest.raises(RepositoryError):
        write_tree(
            [entry.line() for entry in lines],
            AT,
            lambda _, path: Content(b"h" * 20, 0),
            objects,
            Keeping(),
        )


def test_files_hashed_otherwise_keep_their_flags(objects):
    content = Content(b"h" * 20, 4, flags=1 << 8 | 1 << 11)
    tree = write_tree(
        [ROOT.line(), Entry(b"a", FILE, size=4).line()], AT, lambda *_: content, objects, Keeping()
    )
    with top(objects, tree) as catalog:
        row = catalog.row(AT + b"/a")
        assert row.flags == rows.FILE | content.flags
        assert catalog.content(row) == content
        assert catalog.contents()[path_key(AT + b"/a")] == content


def test_a_catalog_is_what_stock_makes_of_its_tables(objects):
    tree = written(objects)
    with top(objects, tree) as catalog:
        assert catalog.db.execute("PRAGMA page_size").fetchone() == (1024,)
        assert len(catalog.db.execute("SELECT * FROM statistics").fetchall()) == 24
        assert catalog.columns == Row._fields
        assert catalog.properties()["root_prefix"] == AT.decode()
        assert "previous_revision" not in catalog.properties()
    assert tree.size == 16384
