"""Changes to a revision: whatever their order, what is read back is what they say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.cvmfs import objects as staged
from duccmake.cvmfs.catalog import COLUMNS, MARKER, CatalogFile
from duccmake.cvmfs.changes import Changes, Root
from duccmake.cvmfs.check import check_written
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.names import Kind, path_key
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import unpack_xattrs
from duccmake.cvmfs.trees import Tree, write_tree
from duccmake.errors import RepositoryError
from duccmake.tree.mtree import DIR, FILE, Entry
from support.cvmfs_generated import LIMIT, Staged, empty_root

NOW = 2_000
UPGRADED = (*(name for name in COLUMNS if name != "mtimens"), "mtimens")
NAMES = (b"a", b"b", b"c d", b"\xff")


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged, "CHUNK", LIMIT // 2)
        patch.setattr(staged, "CHUNK_ABOVE", LIMIT)
        yield


@dataclass
class Repository:
    """A repository without anything but what is staged, and what should be in it, by path.

    That is None for a directory, the target of a symlink, or a file's content in a list.
    """

    objects: Objects
    root: bytes
    wanted: dict[bytes, bytes | list[bytes] | None] = field(default_factory=dict)

    def revision(self) -> Revision:
        return Revision(Staged(self.objects), self.root)

    def change(self, *edits, now: int = NOW) -> Root:
        """Make a new revision, held to all rules."""
        with self.revision() as revision:
            changes = Changes(revision, self.objects, now)
            for edit in edits:
                edit(changes)
            root = changes.finish()
        self.root = root.hash
        storage = Staged(self.objects)
        with self.revision() as revision:
            hashes = [written.hash.hex() for written in root.written]
            check_written(hashes, revision.catalog_content, storage.has)
        return root

    def found(self) -> dict[bytes, bytes | list[bytes] | None]:
        """What is in it."""
        with self.revision() as revision:
            return {
                path: None
                if row.is_directory
                else row.symlink
                if row.is_link
                else [revision.read(path)]
                for path, row in revision.walk(b"")
                if row.name != MARKER
            }

    def is_in_order(self) -> None:
        """All its catalogs keep to the rules, as if they were new."""
        with self.revision() as revision:
            names = [self.root.hex()]
            for name in names:
                with CatalogFile.read(revision.catalog_content(name)) as catalog:
                    names += [nested.hash for nested in catalog.nested().values()]
                    catalog.db.execute("DELETE FROM properties WHERE key='previous_revision'")
                    anew = catalog.db.serialize()
                read = {name: anew}
                check_written(
                    [name],
                    lambda each, read=read: read.get(each) or revision.catalog_content(each),
                    revision.storage.has,
                )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    objects = Objects(tmp_path)
    return Repository(objects, empty_root(objects))


def layer(objects: Objects, at: bytes, *names: bytes) -> Tree:
    lines = [Entry(b".", DIR, mode=0o700).line()]
    lines += [Entry(name, FILE, size=len(name)).line() for name in names]
    lines += [Entry(b"z", DIR).line(), Entry(b"z/y", FILE, size=3).line()]

    def content(_: int | None, path: bytes):
        return objects.file([path], len(path))

    return write_tree(lines, at, content, objects, Keeping())


class RandomChanges:
    """Changes by chance, with their effect on what is wanted."""

    def __init__(self, random: Random, repository: Repository) -> None:
        self._random = random
        self._repository = repository
        self._wanted = repository.wanted

    def __call__(self, changes: Changes) -> None:
        edits = [self.file, self.link, self.directory, self.begin, self.graft, self.touch]
        edits += [self.file, self.remove, self.remove]
        edits = [self.file, self.link, self.directory, self.begin, self.graft, self.touch]
        edits += [self.file, self.remove, self.remove]
        for _ in range(self._random.randrange(1, 12)):
            edit = self._random.choice(edits)
            edit(changes)

    def path(self) -> bytes:
        depth = self._random.randrange(1, 5)
        return b"".join(b"/" + self._random.choice(NAMES) for _ in range(depth))

    def parents(self, path: bytes) -> bool:
        """Whether directories lead there, or can."""
        above = [path[:at] for at in range(1, len(path)) if path[at : at + 1] == b"/"]
        if any(self._wanted.get(each) is not None for each in above):
            return False
        self._wanted.update(dict.fromkeys(above))
        return True

    def gone(self, path: bytes) -> None:
        for each in [each for each in self._wanted if (each + b"/").startswith(path + b"/")]:
            del self._wanted[each]

    def refused(self, edit, path: bytes, *arguments: object) -> None:
        with pytest.raises(RepositoryError, match="no directory"):
            edit(path, *arguments)

    def file(self, changes: Changes) -> None:
        path = self.path()
        size = self._random.choice([0, 1, LIMIT, LIMIT + 1])
        data = self._random.randbytes(size)
        if not self.parents(path):
            self.refused(changes.put_file, path, data)
            return
        self.gone(path)
        changes.put_file(path, data, self._random.choice([0o644, 0o4755]))
        self._wanted[path] = [data]

    def link(self, changes: Changes) -> None:
        path = self.path()
        if not self.parents(path):
            self.refused(changes.put_link, path, b"x")
            return
        self.gone(path)
        changes.put_link(path, b"../x\xff")
        self._wanted[path] = b"../x\xff"

    def directory(self, changes: Changes) -> None:
        path = self.path()
        if not self.parents(path + b"/x"):
            self.refused(changes.make_directory, path)
            return
        changes.make_directory(path)

    def begin(self, changes: Changes) -> None:
        path = self.path()
        if self.parents(path + b"/x"):
            changes.begin_catalog(path)

    def graft(self, changes: Changes) -> None:
        path = self.path()
        if not self.parents(path):
            return
        self.gone(path)
        changes.graft(layer(self._repository.objects, path, b"f", b"g"))
        more = {b"": None, b"/f": [b"f"], b"/g": [b"g"], b"/z": None, b"/z/y": [b"z/y"]}
        self._wanted.update({path + name: value for name, value in more.items()})

    def remove(self, changes: Changes) -> None:
        path = self._random.choice([*self._wanted, self.path()])
        self.gone(path)
        changes.remove(path)

    def touch(self, changes: Changes) -> None:
        if self._wanted:
            path = self._random.choice(list(self._wanted))
            changes.set_xattrs(path, [(b"user.a", b"b")])


@settings(max_examples=60)
@given(st.integers(min_value=0))
def test_any_changes_in_any_revisions_leave_what_they_say(seed):
    random = Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        objects = Objects(Path(directory))
        columns = random.choice([COLUMNS, UPGRADED])
        repository = Repository(objects, empty_root(objects, columns))
        for number in range(2, random.randrange(3, 6)):
            root = repository.change(RandomChanges(random, repository), now=NOW + number)
            assert root.revision == number
            assert repository.found() == repository.wanted
        repository.is_in_order()
        with repository.revision() as revision:
            for path, row in [(b"", revision.row(b"")), *revision.walk(b"")]:
                if row.is_directory:
                    assert revision.catalog(path).columns == columns


def catalog_of(repository: Repository, path: bytes) -> CatalogFile:
    with repository.revision() as revision:
        nested = revision.catalog(path.rpartition(b"/")[0]).nested_at(path)
        return CatalogFile.read(revision.catalog_content(nested.hash))


def test_a_revision_names_the_one_before_and_rises_by_one(repository):
    before = repository.root.hex()
    root = repository.change(lambda changes: changes.put_file(b"/f", b"1"))
    assert (root.revision, root.ttl) == (2, 900)
    with repository.revision() as revision:
        properties = revision.catalog(b"").properties()
    assert properties["previous_revision"] == before
    assert properties["revision"] == "2"
    assert properties["last_modified"] == str(NOW)


def test_only_what_changed_and_what_is_above_is_written(repository):
    repository.change(
        *(lambda changes, at=at: changes.begin_catalog(at) for at in (b"/a", b"/a/b", b"/c"))
    )
    root = repository.change(lambda changes: changes.put_file(b"/a/b/f", b""))
    assert [written.path for written in root.written] == [b"/a/b", b"/a", b""]


def test_a_catalog_that_is_new_has_none_before_it(repository):
    repository.change(lambda changes: changes.begin_catalog(b"/a"))
    with catalog_of(repository, b"/a") as catalog:
        assert "previous_revision" not in catalog.properties()
        assert catalog.root_prefix == b"/a"
    old = repository.revision().catalog(b"").nested_at(b"/a").hash
    repository.change(lambda changes: changes.put_file(b"/a/f", b""))
    with catalog_of(repository, b"/a") as catalog:
        assert catalog.properties()["previous_revision"] == old


def test_time_does_not_go_back_and_the_clock_may_be_a_little_behind(repository):
    repository.change(lambda changes: changes.put_file(b"/f", b"1"), now=NOW)
    repository.change(lambda changes: changes.put_file(b"/f", b"2"), now=NOW - 100)
    with repository.revision() as revision:
        assert revision.catalog(b"").properties()["last_modified"] == str(NOW)
        with pytest.raises(RepositoryError, match="clock"):
            Changes(revision, repository.objects, NOW - 1000)


def test_what_is_not_known_of_a_catalog_stays(repository):
    with (
        repository.revision() as revision,
        CatalogFile.read(revision.catalog_content(repository.root.hex())) as catalog,
    ):
        catalog.db.execute("ALTER TABLE catalog ADD more TEXT")
        catalog.db.execute("UPDATE catalog SET more='of it', flags = flags | 0x8000")
        catalog.db.execute("CREATE TABLE news (of_it TEXT)")
        catalog.db.execute("INSERT INTO properties VALUES ('voms_authz', 'x')")
        content = catalog.db.serialize()
    repository.root = repository.objects.put(content, Kind.CATALOG)
    repository.change(
        lambda changes: changes.put_file(b"/a/f", b"1"),
        lambda changes: changes.begin_catalog(b"/a"),
    )
    with repository.revision() as revision:
        root = revision.catalog(b"")
        assert root.properties()["voms_authz"] == "x"
        assert root.db.execute("SELECT more, flags FROM catalog ORDER BY rowid").fetchone() == (
            b"of it",
            0x8001,
        )
        assert root.db.execute("SELECT count(*) FROM news").fetchone() == (0,)
        assert revision.catalog(b"/a").columns[-1] == "more"


@pytest.mark.parametrize(("revision", "is_known"), [("6", True), ("5", False), ("8", False)])
def test_a_catalog_of_another_schema_is_upgraded_or_left_alone(repository, revision, is_known):
    with (
        repository.revision() as before,
        CatalogFile.read(before.catalog_content(repository.root.hex())) as catalog,
    ):
        if revision < "7":
            catalog.db.execute("ALTER TABLE catalog DROP mtimens")
        catalog.db.execute("UPDATE properties SET value=? WHERE key='schema_revision'", (revision,))
        content = catalog.db.serialize()
    repository.root = repository.objects.put(content, Kind.CATALOG)
    if not is_known:
        with pytest.raises(RepositoryError, match="schema"):
            repository.change(lambda changes: changes.put_file(b"/f", b""))
        return
    repository.change(
        lambda changes: changes.graft(layer(repository.objects, b"/a", b"f")),
    )
    with repository.revision() as after:
        root = after.catalog(b"")
        assert root.columns == UPGRADED
        assert root.properties()["schema_revision"] == "7"
        assert after.catalog(b"/a").columns == UPGRADED
        assert after.read(b"/a/f") == b"f"
    repository.is_in_order()


def test_counters_that_were_wrong_below_zero_are_counted_anew(repository):
    repository.change(
        lambda changes: changes.graft(layer(repository.objects, b"/a", b"f")),
        lambda changes: changes.graft(layer(repository.objects, b"/b", b"f")),
    )
    with (
        repository.revision() as revision,
        CatalogFile.read(revision.catalog_content(repository.root.hex())) as catalog,
    ):
        catalog.db.execute("UPDATE statistics SET value=1")
        content = catalog.db.serialize()
    repository.root = repository.objects.put(content, Kind.CATALOG)
    repository.change(lambda changes: changes.remove(b"/a"))
    repository.is_in_order()


def test_a_wrong_count_of_links_is_mended_where_directories_come_and_go(repository):
    repository.change(lambda changes: changes.make_directory(b"/a/b"))
    with (
        repository.revision() as revision,
        CatalogFile.read(revision.catalog_content(repository.root.hex())) as catalog,
    ):
        catalog.db.execute("UPDATE catalog SET hardlinks=9 WHERE flags & 1")
        content = catalog.db.serialize()
    repository.root = repository.objects.put(content, Kind.CATALOG)
    repository.change(lambda changes: changes.make_directory(b"/a/c"))
    with repository.revision() as revision:
        assert revision.row(b"/a").hardlinks == 4
        assert revision.row(b"/a/b").hardlinks == 9  # nobody has come near that


def test_the_last_names_of_an_inode_are_counted(repository):
    entries = [Entry(b".", DIR), Entry(b"a", FILE, size=1)]
    entries += [Entry(name, FILE, size=1, hardlink=b"a") for name in (b"b", b"c")]
    content = repository.objects.file([b"x"], 1)
    keeping = Keeping(hard_links=True)
    lines = [entry.line() for entry in entries]
    tree = write_tree(lines, b"/t", lambda *_: content, repository.objects, keeping)
    repository.change(lambda changes: changes.graft(tree))
    repository.change(lambda changes: changes.remove(b"/t/a"))
    with repository.revision() as revision:
        assert {revision.row(b"/t/" + name).hardlinks for name in (b"b", b"c")} == {1 << 32 | 2}
    repository.change(lambda changes: changes.remove(b"/t/b"))
    with repository.revision() as revision:
        assert revision.row(b"/t/c").hardlinks == 1


def test_attributes_are_those_in_both_catalogs_where_one_begins(repository):
    xattrs = [(b"user.b", b"2"), (b"user.a", b"1")]
    repository.change(
        lambda changes: changes.begin_catalog(b"/a"),
        lambda changes: changes.set_xattrs(b"/a", xattrs),
    )
    with repository.revision() as revision, catalog_of(repository, b"/a") as catalog:
        assert unpack_xattrs(revision.row(b"/a").xattr) == tuple(sorted(xattrs))
        assert catalog.row(b"/a").xattr == revision.row(b"/a").xattr


@pytest.mark.parametrize(
    "path", [b"a", b"/a/", b"//a", b"/a//b", b"/a/../b", b"/.", b"/a\0b", b"/.cvmfs/a", b""]
)
def test_a_path_that_readers_could_not_reach_is_refused(repository, path):
    with repository.revision() as revision:
        changes = Changes(revision, repository.objects, NOW)
        for edit in (
            lambda: changes.put_file(path, b""),
            lambda: changes.put_link(path, b"x"),
            lambda: changes.begin_catalog(path) if path else changes.remove(path),
        ):
            with pytest.raises(ValueError):
                edit()


def test_a_catalog_with_much_room_in_it_is_made_smaller(repository):
    repository.change(
        *(
            lambda changes, number=number: changes.put_link(b"/d/%d" % number, b"x" * 1000)
            for number in range(100)
        )
    )
    root = repository.change(lambda changes: changes.remove(b"/d"))
    assert root.size == 16384


def test_a_tree_of_another_place_cannot_be_hung_in(repository):
    tree = layer(repository.objects, b"/a/b", b"f")
    moved = Tree(b"/a/c", tree.hash, tree.size, tree.losses, 1, 1)
    with pytest.raises(RepositoryError, match="not that of"):
        repository.change(lambda changes: changes.graft(moved))
    short = Tree(b"/a/b", tree.hash, tree.size - 1, tree.losses, 1, 1)
    with pytest.raises(RepositoryError, match="bytes"):
        repository.change(lambda changes: changes.graft(short))


def test_the_key_of_the_root_is_that_of_no_path():
    assert path_key(b"") != path_key(b"/")
