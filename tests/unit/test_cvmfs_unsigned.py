"""Objects of revisions that were never signed: garbage collection frees them, and nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import pytest

from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.names import Kind, hash_of
from duccmake.cvmfs.objects import names_of
from duccmake.errors import RepositoryError
from duccmake.repository.cvmfs.garbage import Garbage
from duccmake.repository.cvmfs.publication import Publication
from duccmake.repository.cvmfs.transaction import Transactions
from duccmake.repository.edits import Edits
from support.cvmfs_commits import manifest_of, newest, settings_of, storage_of
from support.cvmfs_repositories import both, repository_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

COLLECTABLE = both("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")
NOTE = ".metadata/note.json"
_NAME = re.compile(r"[0-9a-f]{40}[PC]?")


@pytest.fixture(params=COLLECTABLE)
def cvmfs(request, tmp_path, monkeypatch):
    return repository_for(request.param, tmp_path, monkeypatch)


def storage_names(cvmfs) -> set[str]:
    """The content and the catalogs in the storage."""
    base = Path(settings_of(cvmfs).upstream.rpartition(",")[2], "data")
    names = (path.parent.name + path.name for path in base.glob("??/*"))
    return set(filter(_NAME.fullmatch, names))


def needed(cvmfs) -> set[str]:
    """What the newest revision needs of that."""
    with newest(cvmfs) as revision:
        waiting, found = [revision.root.hex()], set()
        while waiting:
            name = waiting.pop()
            found.add(name + Kind.CATALOG)
            with CatalogFile.read(revision.catalog_content(name)) as catalog:
                waiting += [nested.hash for nested in catalog.nested().values()]
                for content in catalog.contents().values():
                    found.update(names_of(content))
    return found


def put(repository, content: bytes, name: str = NOTE) -> None:
    """Publish a file."""
    with repository.lock():
        edits = Edits(repository.view)
        edits.file(PurePosixPath(name), content)
        repository.edit(edits)


def collect(repository) -> None:
    with repository.lock():
        repository.reclaim()


def fail_to_put(repository, content: bytes) -> None:
    """Fail to publish a file after all was stored."""

    def fail(*arguments, **more):
        raise RepositoryError("no key")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publication, "publish", fail)
        with pytest.raises(RepositoryError, match="no key"):
            put(repository, content)


def is_stored(cvmfs, content: bytes) -> bool:
    """Whether content is in the storage, whether or not anything leads to it."""
    name = hash_of(Codec().compress(content)).hex()
    return storage_of(cvmfs).has([name]) == {name}


def noted(cvmfs) -> bool:
    return (cvmfs.spool / "duccmake/unsigned-objects").exists()


def test_what_a_failed_commit_had_stored_is_freed_with_the_garbage(cvmfs):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"first")
    before = storage_names(cvmfs)
    fail_to_put(repository, b"never published")
    assert storage_names(cvmfs) > before
    cvmfs.server("gc", "-f", cvmfs.name)
    assert is_stored(cvmfs, b"never published")  # or there would be nothing to do here
    collect(repository)
    assert needed(cvmfs) <= storage_names(cvmfs) <= before
    assert not is_stored(cvmfs, b"never published")
    assert not noted(cvmfs)
    assert cvmfs.problems() == ""


def test_what_is_published_is_noted_no_longer(cvmfs):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"content")
    assert not noted(cvmfs)


def publish_the_same(cvmfs, content: bytes) -> None:
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "of-the-operator").write_bytes(content)
    cvmfs.server("publish", cvmfs.name)


def same_as_stored(cvmfs, content: bytes) -> bytes:
    """The content under the hash that cvmfs_server would give it: it compresses otherwise."""
    with newest(cvmfs) as revision:
        row = revision.row(b"/of-the-operator")
        return row.hash


def note(cvmfs, name: str) -> None:
    """Note an object, as a publisher that was killed had stored it before."""
    with (cvmfs.spool / "duccmake/unsigned-objects").open("a") as file:
        file.write(f"{name}\n")


@pytest.mark.parametrize("tagged", [False, True], ids=["newest", "tagged"])
def test_what_an_operator_has_published_in_between_stays(cvmfs, tagged):
    repository = cvmfs.open(lock_seconds=60)
    content = b"everybody's " * 99
    fail_to_put(repository, content)
    publish_the_same(cvmfs, content)
    note(cvmfs, same_as_stored(cvmfs, content).hex())
    with newest(cvmfs) as revision:
        note(cvmfs, revision.root.hex() + Kind.CATALOG)
    if tagged:
        cvmfs.server("tag", "-a", "kept", cvmfs.name)
        cvmfs.server("transaction", cvmfs.name)
        (cvmfs.mounts / cvmfs.name / "of-the-operator").unlink()
        cvmfs.server("publish", cvmfs.name)
        put(repository, b"more")
        put(repository, b"and more")
    at = manifest_of(cvmfs)
    collect(repository)
    assert manifest_of(cvmfs) == at
    if tagged:
        cvmfs.server("rollback", "-f", "-t", "kept", cvmfs.name)
    with newest(cvmfs) as revision:
        assert revision.read(b"/of-the-operator") == content
    assert not noted(cvmfs)
    assert cvmfs.problems() == ""


def test_what_is_published_while_the_catalogs_are_read_stays(cvmfs, monkeypatch):
    repository = cvmfs.open(lock_seconds=60)
    content = b"just now " * 99
    real = Transactions.alone
    have_been_read = iter((False, True))

    def alone(self, work, **more):
        if next(have_been_read):
            publish_the_same(cvmfs, content)
            note(cvmfs, stored.hex())
        real(self, work, **more)

    publish_the_same(cvmfs, content)
    stored = same_as_stored(cvmfs, content)
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "of-the-operator").unlink()
    cvmfs.server("publish", cvmfs.name)
    (cvmfs.spool / "duccmake").mkdir(exist_ok=True)
    note(cvmfs, stored.hex())
    monkeypatch.setattr(Transactions, "alone", alone)
    collect(repository)
    with newest(cvmfs) as revision:
        assert revision.read(b"/of-the-operator") == content
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("lost", ["nested", "references"])
def test_nothing_is_freed_where_not_all_revisions_can_be_read(cvmfs, lost, monkeypatch):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"below", "dir/file")
    fail_to_put(repository, b"never published")
    base = Path(settings_of(cvmfs).upstream.rpartition(",")[2])
    monkeypatch.setattr(Garbage, "collect", lambda self: None)
    with newest(cvmfs) as revision:
        name = revision.root.hex() + Kind.CATALOG
    path = base / ".cvmfsreflog" if lost == "references" else base / "data" / name[:2] / name[2:]
    away = path.rename(base / "away")
    try:
        with pytest.raises(RepositoryError, match=r"nothing is freed|is not there"):
            collect(repository)
        assert is_stored(cvmfs, b"never published")
    finally:
        away.rename(path)
    collect(repository)
    assert not is_stored(cvmfs, b"never published")


def test_a_line_that_a_crash_has_cut_short_names_nothing(cvmfs):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"content")
    with newest(cvmfs) as revision:
        note(cvmfs, revision.root.hex()[:39])
    note(cvmfs, "../../" + "0" * 40)
    fail_to_put(repository, b"never published")
    collect(repository)
    assert not is_stored(cvmfs, b"never published")
    assert cvmfs.problems() == ""
