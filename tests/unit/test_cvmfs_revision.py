"""A revision that is read: what is not there, what is damaged, and what is kept of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from duccmake.cvmfs import objects as staged
from duccmake.cvmfs import revision as revision_module
from duccmake.cvmfs.catalog import CatalogFile, UnknownFormat
from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import Content
from duccmake.cvmfs.storage import NotThere
from duccmake.errors import RepositoryError
from support import oracles
from support.cvmfs_generated import Staged, empty_root


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def changed(objects: Objects, *edits) -> bytes:
    """The root of a revision with these edits to one with nothing in it."""
    with Revision(Staged(objects), empty_root(objects)) as revision:
        changes = Changes(revision, objects, 2000)
        for edit in edits:
            edit(changes)
        return changes.finish().hash


@pytest.fixture
def root(objects: Objects) -> bytes:
    return changed(
        objects,
        lambda changes: changes.begin_catalog(b"/a/b"),
        lambda changes: changes.put_file(b"/a/b/f", b"content"),
        lambda changes: changes.put_link(b"/a/l", b"b"),
    )


def test_what_is_not_there_is_said_to_be_not_there(objects, root):
    with Revision(Staged(objects), root) as revision:
        assert revision.row(b"/a/x") is None
        assert revision.row(b"/x/y/z") is None
        for path in (b"/x", b"/a/b/f/x"):
            with pytest.raises(FileNotFoundError):
                revision.entries(path)
        for path in (b"/a/b/f", b"/a/l"):
            with pytest.raises(NotADirectoryError):
                revision.entries(path)
        for path in (b"/x", b"/a", b"/a/l", b"/a/l/f"):
            with pytest.raises(FileNotFoundError):
                revision.read(path)
        for path in (b"/x", b"/a", b"/a/b/f"):
            with pytest.raises(FileNotFoundError):
                revision.link(path)


def test_catalogs_are_kept_and_read_again_without_the_storage(objects, root, cache):
    with Revision(Staged(objects), root, cache) as revision:
        assert revision.row(b"/a/b/f").size == 7
    for name in list(objects.names):
        if name.endswith(Kind.CATALOG):
            objects.remove(name)
    with Revision(Staged(objects), root, cache) as revision:
        assert revision.read(b"/a/b/f") == b"content"
    with pytest.raises(NotThere):
        Revision(Staged(objects), root)


@pytest.mark.skipif(not oracles.ROOT, reason="a file system of its own needs root")
def test_what_cannot_be_kept_is_read_all_the_same(objects, root, cache):
    with oracles.tmpfs(cache, "4m") as place:
        with Revision(Staged(objects), root, cache) as revision:
            assert revision.read(b"/a/b/f") == b"content"
        kept = sorted(cache.iterdir())
        assert kept
        for more in ((), kept[:1], kept):
            for path in more:
                path.unlink(missing_ok=True)
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            with Revision(Staged(objects), root, cache) as revision:
                assert revision.read(b"/a/b/f") == b"content"
            subprocess.run(["mount", "-o", "remount,rw", place], check=True)


@pytest.mark.parametrize("left", [b"", b"SQLite format 3\0", b"x" * 16384])
def test_what_a_crash_has_left_of_a_kept_catalog_is_read_anew(objects, root, cache, left):
    with Revision(Staged(objects), root, cache) as revision:
        revision.row(b"/a/b/f")
    for path in cache.iterdir():
        path.write_bytes(left)
    with Revision(Staged(objects), root, cache) as revision:
        assert revision.read(b"/a/b/f") == b"content"


def test_the_catalogs_that_were_not_used_for_longest_go_first(
    objects, root, cache, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(revision_module, "_CACHED", 2)
    for number in range(3):
        (cache / f"old{number}").touch()
        os.utime(cache / f"old{number}", (number, number))
    with Revision(Staged(objects), root, cache) as revision:
        revision.row(b"/a/b/f")
        kept = {path.name for path in cache.iterdir()}
        assert len(kept) == 2
        assert root.hex() in kept
        for path in cache.iterdir():
            os.utime(path, (0, 0))
    with Revision(Staged(objects), root, cache):
        assert (cache / root.hex()).stat().st_mtime > 0


def test_a_walk_through_more_catalogs_than_may_be_open_passes_all(
    objects, cache, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(revision_module, "_OPEN", 2)
    paths = [b"/d%d" % number for number in range(5)]
    root = changed(
        objects,
        *(lambda changes, path=path: changes.begin_catalog(path + b"/e") for path in paths),
        *(lambda changes, path=path: changes.put_file(path + b"/e/f", path) for path in paths),
    )
    with Revision(Staged(objects), root, cache) as revision:
        found = {path: revision.read(path) for path, row in revision.walk(b"") if row.is_file}
        assert {path: found[path + b"/e/f"] for path in paths} == {path: path for path in paths}
        opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        assert len([path for path in opened if path.parent == cache]) == 3  # the root as well


def spoiled(objects: Objects, root: bytes, statement: str) -> bytes:
    """The root of a revision whose root catalog was changed by a statement."""
    with CatalogFile.read(objects.get(root.hex() + Kind.CATALOG)) as catalog:
        assert catalog.db.execute(statement).rowcount > 0
        return objects.put(catalog.db.serialize(), Kind.CATALOG)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE nested_catalogs SET size=size+1", "bytes"),
        ("UPDATE nested_catalogs SET path='/a' WHERE path='/a/b'", "not that of"),
    ],
)
def test_a_nested_catalog_that_is_another_one_is_refused(objects, root, statement, found):
    with (
        Revision(Staged(objects), spoiled(objects, root, statement)) as revision,
        pytest.raises(RepositoryError, match=found),
    ):
        revision.row(b"/a/b/f")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE properties SET value='3.0' WHERE key='schema'",
        "UPDATE properties SET value='8' WHERE key='schema_revision'",
        "UPDATE properties SET value='x' WHERE key='schema_revision'",
        "DELETE FROM properties WHERE key='schema'",
    ],
)
def test_a_schema_that_is_not_known_is_refused(objects, root, statement):
    with pytest.raises(UnknownFormat, match="schema"):
        Revision(Staged(objects), spoiled(objects, root, statement))


@pytest.mark.parametrize("content", [b"", b"no catalog at all" * 1000])
def test_what_is_no_catalog_is_refused(objects, content):
    root = objects.put(content, Kind.CATALOG)
    with pytest.raises(RepositoryError):
        Revision(Staged(objects), root)


def test_files_in_forms_that_are_not_known_are_not_read(objects, monkeypatch):
    digest = objects.put(b"content")
    for flags in (1 << 8, 2 << 11, 128):
        root = changed(
            objects,
            lambda changes, flags=flags: changes.put_file(b"/f", Content(digest, 7, (), flags)),
        )
        with Revision(Staged(objects), root) as revision, pytest.raises(UnknownFormat):
            revision.read(b"/f")


def test_a_file_that_is_stored_as_it_is_is_read_as_it_is(objects):
    stored = b"not compressed"
    digest = staged.hash_of(stored)
    objects.path(digest.hex()).write_bytes(stored)
    content = Content(digest, len(stored), (), 1 << 11)
    root = changed(objects, lambda changes: changes.put_file(b"/f", content))
    with Revision(Staged(objects), root) as revision:
        assert revision.read(b"/f") == stored


def test_a_damaged_object_is_not_taken_for_content(objects, root):
    name = objects.put(b"content").hex()
    objects.path(name).write_bytes(b"something else")
    with (
        Revision(Staged(objects), root) as revision,
        pytest.raises(RepositoryError, match=name[2:]),
    ):
        revision.read(b"/a/b/f")
