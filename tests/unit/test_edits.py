from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest

from duccmake.errors import RepositoryError
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.directory.journal import Journal
from duccmake.repository.edits import Edits
from duccmake.repository.view import DirectoryView
from support.staged_trees import names


@pytest.fixture
def repository(tmp_path):
    return DirectoryRepository(tmp_path, "test.example.org", durable=False)


def carry_out(repository, edit):
    with repository.lock():
        edits = Edits(repository.view)
        edit(edits)
        repository.edit(edits)
    return repository.path


def test_files_symlinks_and_directories_are_put_where_their_parents_are_missing(repository):
    def edit(edits):
        edits.file(PurePosixPath("store/index.json"), b"[]")
        edits.symlink(PurePosixPath("store/links/one"), "../index.json")
        edits.directory(PurePosixPath("store/empty"))

    root = carry_out(repository, edit)
    assert (root / "store/links/one").read_bytes() == b"[]"
    assert (root / "store/index.json").stat().st_mode & 0o777 == 0o644
    assert (root / "store/empty").stat().st_mode & 0o777 == 0o755
    assert names(root) == [".duccmake", "store"]


def test_what_is_there_as_it_shall_be_is_no_edit(repository):
    def edit(edits):
        edits.file(PurePosixPath("a/file"), b"same")
        edits.symlink(PurePosixPath("a/link"), "file")
        edits.directory(PurePosixPath("a/directory"))
        edits.remove(PurePosixPath("a/nothing"))

    carry_out(repository, edit)
    again = Edits(repository.view)
    edit(again)
    assert not again


def test_a_removed_directory_goes_with_all_that_is_in_it_and_leaves_no_empty_parent(repository):
    root = carry_out(repository, lambda edits: edits.file(PurePosixPath("a/b/c/file"), b"x"))
    carry_out(repository, lambda edits: edits.remove(PurePosixPath("a/b")))
    assert names(root) == [".duccmake"]


def test_a_file_is_read_as_it_was_edited(repository):
    carry_out(repository, lambda edits: edits.file(PurePosixPath("file"), b"old"))
    edits = Edits(repository.view)
    assert edits.content(PurePosixPath("file")) == b"old"
    edits.file(PurePosixPath("file"), b"new")
    assert edits.content(PurePosixPath("file")) == b"new"
    edits.remove(PurePosixPath("file"))
    assert edits.content(PurePosixPath("file")) == b""
    assert not edits.puts


def test_an_edit_that_cannot_be_carried_out_changes_nothing(repository):
    root = carry_out(repository, lambda edits: edits.symlink(PurePosixPath("a/link"), "elsewhere"))

    def edit(edits):
        edits.file(PurePosixPath("file"), b"x")
        edits.file(PurePosixPath("a/link/file"), b"x")
        edits.remove(PurePosixPath("a/link"))

    with pytest.raises(RepositoryError, match="is a symlink where a directory is needed"):
        carry_out(repository, edit)
    assert names(root) == [".duccmake", "a"]
    assert str((root / "a/link").readlink()) == "elsewhere"


def test_a_tree_that_is_stripped_of_a_file_is_the_same_otherwise(repository):
    root = carry_out(repository, lambda edits: edits.file(PurePosixPath("tree/d/file"), b"x"))
    os.utime(root / "tree/d", ns=(7, 7))
    os.utime(root / "tree", ns=(8, 8))
    carry_out(repository, lambda edits: edits.strip(PurePosixPath("tree/d/file")))
    carry_out(repository, lambda edits: edits.strip(PurePosixPath("tree/d/file")))
    assert names(root / "tree/d") == []
    assert ((root / "tree/d").stat().st_mtime_ns, (root / "tree").stat().st_mtime_ns) == (7, 8)


def test_removals_are_finished_after_a_crash(repository, monkeypatch):
    root = carry_out(repository, lambda edits: edits.file(PurePosixPath("tree/file"), b"x"))

    def crash(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "_discard", crash)
        carry_out(repository, lambda edits: edits.remove(PurePosixPath("tree")))
    assert names(root) == [".duccmake", ".tree.new"]
    with repository.lock():
        assert names(root) == [".duccmake"]


def test_paths_outside_of_the_repository_are_refused(tmp_path):
    edits = Edits(DirectoryView(tmp_path / "repository"))
    for path in (tmp_path / "elsewhere", PurePosixPath("../elsewhere")):
        with pytest.raises(ValueError, match="no path of a repository"):
            edits.file(path, b"x")
        with pytest.raises(ValueError, match="no path of a repository"):
            edits.remove(path)


def test_a_directory_in_the_way_of_a_link_is_found_before_the_commit(repository):
    root = carry_out(repository, lambda edits: edits.directory(PurePosixPath("a/here")))

    def edit(edits):
        edits.file(PurePosixPath("other"), b"x")
        edits.symlink(PurePosixPath("a/here"), "elsewhere")

    with pytest.raises(RepositoryError, match="a/here is a directory in the way"):
        carry_out(repository, edit)
    with repository.lock():
        assert names(root) == [".duccmake", "a"]


def test_what_is_put_below_a_removed_directory_is_there_and_nothing_else_of_it(repository):
    def fill(edits):
        for name in ("a/b/here", "a/b/gone", "a/gone/x"):
            edits.file(PurePosixPath(name), b"old")

    def edit(edits):
        edits.remove(PurePosixPath("a"))
        assert edits.content(PurePosixPath("a/b/here")) == b""
        edits.file(PurePosixPath("a/b/here"), b"old")

    carry_out(repository, fill)
    root = carry_out(repository, edit)
    assert sorted(str(p.relative_to(root)) for p in (root / "a").rglob("*")) == ["a/b", "a/b/here"]
    assert (root / "a/b/here").read_bytes() == b"old"
