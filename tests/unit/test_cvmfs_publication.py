"""Publishing root catalogs beside ``cvmfs_server``, with the real one and its stand-in."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from duccmake.cvmfs.codec import decompress
from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import PUBLISHED, WHITELIST
from duccmake.errors import RepositoryError, RepositoryLocked
from duccmake.repository.cvmfs.auto_tags import AutoTags
from support.cvmfs_commits import (
    commit_file,
    manifest_of,
    newest,
    publication_of,
    settings_of,
    staged,
    storage_of,
    transactions_of,
)
from support.cvmfs_repositories import both

FLAG, LOCK = "in_transaction.lock", "is_publishing.lock"
COLLECTABLE = "CVMFS_GARBAGE_COLLECTION=true"


@pytest.fixture
def tagged(cvmfs, tmp_path):
    """A repository whose tags that are older than some words say go; a test sets which."""
    config = cvmfs.server_config / cvmfs.name / "server.conf"
    text = config.read_text()

    def keep(words: str) -> None:
        config.write_text(f"{text}\nCVMFS_AUTO_TAG_TIMESPAN='{words}'\n")

    yield keep
    config.write_text(text)


def tags(cvmfs, tmp_path) -> dict[str, int]:
    """The tags and the revisions that they name."""
    file = tmp_path / "history"
    stored = storage_of(cvmfs).get(manifest_of(cvmfs).get("H") + Kind.HISTORY)
    file.write_bytes(decompress(stored))
    with closing(sqlite3.connect(file)) as database:
        return dict(database.execute("SELECT name, revision FROM tags"))


def shown(cvmfs, name: str) -> str:
    """What the mount shows of a file; empty for nothing."""
    try:
        return (cvmfs.spool / "rdonly" / name).read_text()
    except FileNotFoundError:
        return ""


def is_left_alone(cvmfs) -> bool:
    """Whether nothing of a publisher is left in the spool area."""
    left = {FLAG, LOCK, "duccmake-transaction.lock"}
    return left.isdisjoint(path.name for path in cvmfs.spool.iterdir())


# --- what is published ----------------------------------------------------------


def test_what_is_published_is_in_the_catalogs_on_the_mount_and_passes_the_check(cvmfs, tmp_path):
    before = manifest_of(cvmfs).revision
    root = commit_file(cvmfs, tmp_path / "objects", "new")
    assert (root.revision, cvmfs.revision()) == (before + 1, before + 1)
    with newest(cvmfs) as revision:
        assert revision.root == root.hash
        assert revision.read(b"/new") == b"new"
    assert shown(cvmfs, "new") == "new"
    assert (cvmfs.mounts / cvmfs.name / "new").read_text() == "new"
    assert root.hash.hex() in (cvmfs.spool / "client.local").read_text()
    assert is_left_alone(cvmfs)
    assert cvmfs.problems() == ""


def test_what_cvmfs_server_publishes_before_and_after_is_kept(cvmfs, tmp_path):
    for number in range(2):
        cvmfs.server("transaction", cvmfs.name)
        operators = cvmfs.mounts / cvmfs.name / f"of-the-operator-{number}"
        operators.mkdir()
        (operators / ".cvmfscatalog").touch()
        (operators / "file").write_text("work")
        cvmfs.server("publish", cvmfs.name)
        commit_file(cvmfs, tmp_path / "objects", f"ours-{number}")
    with newest(cvmfs) as revision:
        for number in range(2):
            assert revision.read(b"/of-the-operator-%d/file" % number) == b"work"
            assert revision.read(b"/ours-%d" % number) == b"ours-%d" % number
            assert revision.catalog(b"/of-the-operator-%d" % number).root_prefix
    assert shown(cvmfs, "of-the-operator-0/file") == "work"
    assert cvmfs.problems() == ""


def test_the_revision_before_is_what_a_rollback_of_an_operator_leads_to(cvmfs, tmp_path):
    commit_file(cvmfs, tmp_path / "objects", "good")
    commit_file(cvmfs, tmp_path / "objects", "bad")
    at = cvmfs.revision()
    cvmfs.server("rollback", "-f", cvmfs.name)
    assert (shown(cvmfs, "good"), shown(cvmfs, "bad")) == ("good", "")
    root = commit_file(cvmfs, tmp_path / "objects", "better")
    assert root.revision == at + 2
    assert (shown(cvmfs, "good"), shown(cvmfs, "better")) == ("good", "better")
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both(COLLECTABLE), indirect=True)
def test_garbage_collection_leaves_what_the_newest_revision_and_tags_need(cvmfs, tmp_path):
    commit_file(cvmfs, tmp_path / "objects", "first")
    cvmfs.server("tag", "-a", "kept", cvmfs.name)
    kept = manifest_of(cvmfs)
    commit_file(cvmfs, tmp_path / "objects", "second")
    cvmfs.server("gc", "-f", cvmfs.name)
    assert storage_of(cvmfs).get(kept.get("C") + Kind.CATALOG)
    assert cvmfs.problems() == ""
    commit_file(cvmfs, tmp_path / "objects", "third")
    cvmfs.server("rollback", "-f", "-t", "kept", cvmfs.name)
    assert (shown(cvmfs, "first"), shown(cvmfs, "second")) == ("first", "")
    assert manifest_of(cvmfs).get("G") == "yes"


# --- tags -----------------------------------------------------------------------


def test_each_revision_has_a_tag_of_its_own(cvmfs, tmp_path):
    numbers = [commit_file(cvmfs, tmp_path / "objects", name).revision for name in "abc"]
    found = tags(cvmfs, tmp_path)
    automatic = {number for name, number in found.items() if name.startswith("generic")}
    assert automatic >= set(numbers)
    assert found["trunk"] == numbers[-1]
    assert found["trunk-previous"] == numbers[-2]


def test_old_automatic_tags_go_and_an_operators_stay(cvmfs, tagged, tmp_path):
    commit_file(cvmfs, tmp_path / "objects", "first")
    cvmfs.server("tag", "-a", "release", cvmfs.name)
    cvmfs.server("tag", "-a", "generic-of-ours", cvmfs.name)
    first = tags(cvmfs, tmp_path)

    tagged("2 weeks ago")
    commit_file(cvmfs, tmp_path / "objects", "second")
    assert first.keys() <= tags(cvmfs, tmp_path).keys()

    tagged("tomorrow")  # all that there were are older
    number = commit_file(cvmfs, tmp_path / "objects", "third").revision
    left = tags(cvmfs, tmp_path)
    automatic = [name for name in left if re.match(r"generic(_\d+)?-\d", name)]
    assert [left[name] for name in automatic] == [number]
    assert left.keys() - automatic == {"release", "generic-of-ours", "trunk", "trunk-previous"}
    assert cvmfs.problems() == ""


def test_a_timespan_that_nobody_understands_is_told_of_before_anything_is_published(
    cvmfs, tagged, tmp_path
):
    before = storage_of(cvmfs).file(PUBLISHED)
    tagged("when the cows come home")
    with pytest.raises(RepositoryError, match=r"CVMFS_AUTO_TAG_TIMESPAN.*'2 weeks ago'"):
        commit_file(cvmfs, tmp_path / "objects", "new")
    assert storage_of(cvmfs).file(PUBLISHED) == before
    assert is_left_alone(cvmfs)


def test_a_tag_within_the_same_second_has_another_name(cvmfs, monkeypatch, tmp_path):
    moment = time.gmtime()
    monkeypatch.setattr(time, "gmtime", lambda *at: moment)
    names = set()
    for name in "abc":
        commit_file(cvmfs, tmp_path / "objects", name)
        made = AutoTags(settings_of(cvmfs), storage_of(cvmfs), manifest_of(cvmfs))
        names.add(made.new())
    assert len(names) == 3
    assert len([name for name in tags(cvmfs, tmp_path) if name.startswith("generic")]) >= 3


# --- what is refused ----------------------------------------------------------------


def test_whitelist_whose_time_is_over_is_told_of(cvmfs):
    publication_of(cvmfs).check_whitelist()
    file = Path(settings_of(cvmfs).upstream.rpartition(",")[2], WHITELIST)
    whole = file.read_bytes()
    try:
        file.write_bytes(re.sub(rb"\nE\d{14}", b"\nE20200101000000", whole))
        with pytest.raises(RepositoryError, match=r"expired at 2020-01-01 00:00.*resign"):
            publication_of(cvmfs).check_whitelist()
    finally:
        file.write_bytes(whole)


def test_nothing_is_published_over_what_somebody_published_meanwhile(cvmfs, tmp_path):
    (tmp_path / "objects").mkdir()
    objects = Objects(tmp_path / "objects")
    base, root = staged(cvmfs, objects, lambda changes: changes.put_file(b"/ours", b"ours"))
    commit_file(cvmfs, tmp_path / "theirs", "theirs")
    theirs = manifest_of(cvmfs)

    def work() -> None:
        publication_of(cvmfs).publish(base, root)

    with pytest.raises(RepositoryError, match="somebody else has published meanwhile"):
        transactions_of(cvmfs).alone(work)
    assert manifest_of(cvmfs) == theirs
    assert is_left_alone(cvmfs)
    assert (shown(cvmfs, "theirs"), shown(cvmfs, "ours")) == ("theirs", "")
    assert cvmfs.problems() == ""


def test_who_signs_anew_past_all_locks_is_waited_for(cvmfs, tmp_path):
    """As ``cvmfs_server resign`` does, which looks at no lock."""
    (tmp_path / "objects").mkdir()
    objects = Objects(tmp_path / "objects")
    _, root = staged(cvmfs, objects, lambda changes: changes.put_file(b"/ours", b"ours"))
    bases = iter((b"older", b""))

    def work() -> None:
        base = storage_of(cvmfs).file(PUBLISHED) + next(bases)
        publication_of(cvmfs).publish(base, root)
        publication_of(cvmfs).show(root)

    transactions_of(cvmfs, 60).alone(work)
    assert list(bases) == []
    assert shown(cvmfs, "ours") == "ours"
    assert cvmfs.problems() == ""


def test_nothing_is_published_that_the_storage_has_not(cvmfs, tmp_path):
    (tmp_path / "objects").mkdir()
    objects = Objects(tmp_path / "objects")
    base, root = staged(cvmfs, objects, lambda changes: changes.put_file(b"/ours", b"ours"))
    storage_of(cvmfs).delete(root.hash.hex() + Kind.CATALOG)

    def work() -> None:
        publication_of(cvmfs).publish(base, root)

    with pytest.raises(RepositoryError, match=r"cvmfs_swissknife \w+' ended with status"):
        transactions_of(cvmfs).alone(work)
    assert storage_of(cvmfs).file(PUBLISHED) == base
    assert is_left_alone(cvmfs)


# --- others -------------------------------------------------------------------------


def test_somebodys_transaction_is_waited_for_and_left_as_it_is(cvmfs, tmp_path):
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "of-the-operator").write_text("work")
    with pytest.raises(RepositoryLocked, match=r"open since .*'cvmfs_server abort"):
        commit_file(cvmfs, tmp_path / "objects", "ours")
    assert transactions_of(cvmfs).recover() == ""
    cvmfs.server("publish", cvmfs.name)
    commit_file(cvmfs, tmp_path / "objects", "ours")
    assert shown(cvmfs, "of-the-operator") == "work"
    assert is_left_alone(cvmfs)


def test_who_publishes_at_the_moment_is_waited_for(cvmfs, tmp_path):
    before = manifest_of(cvmfs)
    path = cvmfs.spool / LOCK
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(RepositoryLocked, match="somebody publishes"):
            commit_file(cvmfs, tmp_path / "objects", "ours")
        path.unlink()
    assert manifest_of(cvmfs) == before
    assert is_left_alone(cvmfs)
    commit_file(cvmfs, tmp_path / "objects", "ours")


def test_lock_that_nobody_holds_any_more_keeps_nobody_out(cvmfs, tmp_path):
    (cvmfs.spool / LOCK).touch()
    commit_file(cvmfs, tmp_path / "objects", "ours")
    assert is_left_alone(cvmfs)


def test_operators_commands_fail_while_we_have_the_repository_and_change_nothing(cvmfs, tmp_path):
    before = manifest_of(cvmfs)
    said = {}

    def work() -> None:
        for command in (["transaction"], ["publish"], ["abort", "-f"], ["rollback", "-f"]):
            said[command[0]] = cvmfs.refused(*command, cvmfs.name)

    transactions_of(cvmfs).alone(work)
    assert all(said.values()), said
    assert manifest_of(cvmfs) == before
    assert is_left_alone(cvmfs)
    assert cvmfs.problems() == ""


def test_work_that_fails_leaves_the_repository_as_it_was(cvmfs, tmp_path):
    before = manifest_of(cvmfs)

    def work() -> None:
        raise ValueError("out of ideas")

    with pytest.raises(ValueError, match="out of ideas"):
        transactions_of(cvmfs).alone(work)
    assert manifest_of(cvmfs) == before
    assert is_left_alone(cvmfs)
    assert Manifest.parse(storage_of(cvmfs).file(PUBLISHED)) == before
