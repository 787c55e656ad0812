from __future__ import annotations

import stat
from pathlib import PurePosixPath

import pytest

from duccmake.errors import RepositoryError
from duccmake.fs import syscalls
from duccmake.repository.directory.journal import Journal, Move, put_directory
from duccmake.repository.layout import temporary
from support.staged_trees import names


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".private").mkdir()
    return tmp_path


@pytest.fixture
def journal(root):
    return open_journal(root)


def open_journal(root):
    return Journal(root / ".private" / "journal.json", root, lambda: None)


def move(root, final, inode=0):
    return Move(str(temporary(final).relative_to(root)), str(final.relative_to(root)), inode)


def below(root, *paths):
    """Paths as the journal has them."""
    return [PurePosixPath(path.relative_to(root)) for path in paths]


def test_nothing_to_recover_is_no_error(journal):
    assert journal.recover() == ""


def test_before_the_commit_point_temporaries_are_removed(root, journal):
    final = root / "deep" / "er" / "file"
    tree = root / "trees" / "tree"
    journal.begin(below(root, temporary(final), temporary(tree), root / ".never-made.new"))
    final.parent.mkdir(parents=True)
    temporary(final).write_text("new")
    (temporary(tree) / "sub").mkdir(parents=True)
    (temporary(tree) / "sub" / "file").write_text("x")

    assert open_journal(root).recover() == "undone"
    assert names(root) == [".private"]
    assert open_journal(root).recover() == ""


def test_undoing_leaves_directories_that_others_use(root, journal):
    final = root / "shared" / "file"
    final.parent.mkdir()
    (final.parent / "other").write_text("published")
    journal.begin(below(root, temporary(final)))
    temporary(final).write_text("new")

    journal.recover()
    assert names(final.parent) == ["other"]


def test_after_the_commit_point_the_rest_is_carried_out(root, journal):
    first, second, link, gone = (root / name for name in ("first", "second", "link", "gone"))
    second.write_text("old")
    link.symlink_to("old")
    gone.symlink_to("old")
    finals = [first, second, link]
    journal.begin(below(root, *map(temporary, finals)))
    temporary(first).write_text("new")
    temporary(second).write_text("new")
    temporary(link).symlink_to("new")
    journal.commit([move(root, final) for final in finals], below(root, gone))
    temporary(first).rename(first)  # the crash came after the first rename

    assert open_journal(root).recover() == "finished"
    assert (first.read_text(), second.read_text()) == ("new", "new")
    assert str(link.readlink()) == "new"
    assert names(root) == [".private", "first", "link", "second"]


def committed_directory(root, journal):
    """A directory with ``old`` in it, in whose place one with ``new`` is to come."""
    final = root / "tree"
    final.mkdir()
    (final / "old").touch()
    journal.begin(below(root, temporary(final)))
    temporary(final).mkdir()
    (temporary(final) / "new").touch()
    journal.commit([move(root, final, temporary(final).stat().st_ino)], [])
    return final


@pytest.mark.parametrize("swapped", [False, True])
def test_a_directory_is_swapped_once_however_often_it_is_recovered(root, journal, swapped):
    final = committed_directory(root, journal)
    if swapped:
        put_directory(temporary(final), final)

    open_journal(root).recover()
    assert names(final) == ["new"]
    assert not temporary(final).exists()


def test_directories_are_replaced_where_the_kernel_cannot_swap(root, journal, monkeypatch):
    monkeypatch.setattr(syscalls, "exchange", lambda one, other: False)
    final = committed_directory(root, journal)

    journal.recover()
    assert names(final) == ["new"]
    assert names(root) == [".private", "tree"]


def test_exchange_swaps_two_names(root):
    one, other = root / "one", root / "other"
    one.mkdir()
    other.write_text("x")
    if not syscalls.exchange(one, other):
        pytest.skip("this file system does not swap names")
    assert stat.S_ISREG(one.lstat().st_mode)
    assert stat.S_ISDIR(other.lstat().st_mode)


def test_a_lost_rename_is_an_error_and_keeps_the_journal(root, journal):
    journal.begin(below(root, temporary(root / "file")))
    journal.commit([move(root, root / "file")], [])
    with pytest.raises(FileNotFoundError):
        journal.recover()
    assert (root / ".private" / "journal.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}'])
def test_a_damaged_journal_is_refused(root, journal, content):
    (root / ".private" / "journal.json").write_text(content)
    with pytest.raises(RepositoryError, match="journal"):
        journal.recover()
