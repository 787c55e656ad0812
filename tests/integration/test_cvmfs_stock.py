"""What CernVM-FS' own commands, replicas and clients make of what we publish, on the real one."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from time import time

import pytest

from duccmake.cvmfs import objects as staged
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.objects import Objects
from duccmake.repository.cvmfs.backend import CvmfsRepository
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import Use, survey
from duccmake.repository.removal import find, remove, withdraw
from support.cvmfs_commits import commit, newest
from support.cvmfs_listings import counted, differences, listed
from support.cvmfs_repositories import (
    CHUNKS,
    LARGEST,
    Real,
    client,
    real_repositories,
    replica_of,
    why_not_real,
)
from support.staged_trees import (
    NAME,
    TOP,
    char,
    directory,
    file,
    hard_link,
    publish,
    stage,
    whiteout,
)

pytestmark = pytest.mark.cvmfs

SETTINGS = (*CHUNKS, "CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")
OTHER = "registry.example.org/tools/other:1"


@pytest.fixture
def cvmfs(monkeypatch: pytest.MonkeyPatch) -> Real:
    """An empty repository in which files are chunked early and garbage can be collected."""
    monkeypatch.setattr(staged, "CHUNK", LARGEST // 2)
    monkeypatch.setattr(staged, "CHUNK_ABOVE", LARGEST)
    if reason := why_not_real():
        pytest.skip(reason)
    return real_repositories().get(*SETTINGS)


def top(version: str) -> list:
    """A layer with something of all that catalogs can have, and a version of its own."""
    large = file("opt/large", os.urandom(3 * LARGEST), 0o755, uid=5, gid=6)
    return [
        *TOP,
        directory("opt", 0o1777, uid=7),
        large,
        hard_link("opt/same", large),
        file("opt/version", version.encode(), xattrs=((b"user.version", version.encode()),)),
        char("opt/null", 1, 3),
        whiteout("opt/gone"),
    ]


def published(cvmfs: Real, staging: Path, name: str, version: str) -> CvmfsRepository:
    """The repository once an image has been published into it."""
    repository = cvmfs.open(publisher="catalogs", hard_links=True)
    keeping = Keeping(hard_links=True)
    changes = stage(staging / version, name, top=top(version), config=version, keeping=keeping)
    publish(repository, changes)
    return repository


def removed(repository: CvmfsRepository, name: str) -> None:
    """Remove an image with all that only it uses, and collect the garbage."""
    with repository.lock():
        view = repository.view
        edits = Edits(view)
        withdraw(edits, {name: "gone"}, survey(view), time(), for_good=True)
        repository.edit(edits)
        edits = Edits(view)
        garbage = find(view, Use(), now=time() + 1, grace=0)
        assert garbage.due
        remove(edits, garbage.due, garbage.used)
        repository.edit(edits)
        repository.reclaim()


def says(cvmfs: Real):
    """All that the catalogs of a repository's newest revision say."""
    with newest(cvmfs) as revision:
        return listed(revision), counted(revision)


def check(cvmfs: Real, name: str = "") -> None:
    assert "no problems found" in cvmfs.server("check", "-i", name or cvmfs.name)


def test_replicas_follow_what_is_published_and_removed(cvmfs, staging_of, tmp_path):
    published(cvmfs, staging_of, NAME, "1")
    with replica_of(cvmfs) as replica:
        replica.server("snapshot", replica.name)
        check(replica)
        published(cvmfs, staging_of, NAME, "2")
        repository = published(cvmfs, staging_of, OTHER, "3")
        replica.server("snapshot", replica.name)
        check(replica)
        assert says(replica) == says(cvmfs)
        removed(repository, OTHER)
        published(cvmfs, staging_of, OTHER, "3")  # as it was, with catalogs of other names
        replica.server("snapshot", replica.name)
        replica.server("gc", "-f", replica.name)
        check(replica)
        assert says(replica) == says(cvmfs)
        elsewhere = CvmfsRepository(
            cvmfs.name,
            server_config=tmp_path,
            state=tmp_path,
            url=replica.url,
            public_key=Path(f"/etc/cvmfs/keys/{cvmfs.name}.pub"),
        )
        assert sorted(elsewhere.names()) == sorted((NAME, OTHER))
        assert elsewhere.verify(NAME) == elsewhere.verify(OTHER) == []


def test_its_own_repairs_find_nothing_to_repair(cvmfs, staging_of):
    repository = published(cvmfs, staging_of, NAME, "1")
    before = says(cvmfs)
    for command in (
        ("fix-stats", "-f"),
        ("eliminate-bulk-hashes", "-f"),
        ("migrate",),
        ("resign", "-f"),
        ("resign", "-p"),
        ("list-catalogs", "-s", "-e", "-h"),
        ("info",),
        ("tag", "-l"),
    ):
        cvmfs.server(*command, cvmfs.name)
        assert says(cvmfs) == before, command
        check(cvmfs)
    published(cvmfs, staging_of, OTHER, "2")
    assert repository.verify(NAME) == cvmfs.open().verify(OTHER) == []
    check(cvmfs)


def test_hard_links_that_an_operator_eliminates_are_files_of_their_own(cvmfs, staging_of):
    repository = published(cvmfs, staging_of, NAME, "1")
    cvmfs.server("eliminate-hardlinks", "-f", cvmfs.name)
    check(cvmfs)
    with newest(cvmfs) as revision:
        assert all(row.hardlinks == 1 for _, row in revision.walk(b"") if row.is_file)
    found = cvmfs.open().verify(NAME)
    assert found
    assert all("is another file than" in line for line in found)
    assert repository.record(NAME) is not None


def test_a_diff_names_what_was_published_and_a_rollback_takes_it_back(cvmfs, staging_of):
    published(cvmfs, staging_of, NAME, "1")
    cvmfs.server("tag", "-a", "first", cvmfs.name)
    before = says(cvmfs)
    repository = published(cvmfs, staging_of, OTHER, "2")
    cvmfs.server("tag", "-a", "second", cvmfs.name)
    said = cvmfs.server("diff", "-m", "-s", "first", "-d", "second", cvmfs.name)
    layout = repository.view.layout
    record = repository.record(OTHER)
    assert record is not None
    assert f"/{layout.link(OTHER)}" in said
    assert f"/{layout.layerfs(record.layers[-1])}/opt/version" in said
    assert f"/{layout.layerfs(record.layers[0])}" not in said
    cvmfs.server("rollback", "-f", "-t", "first", cvmfs.name)
    assert not list(differences(before[0], says(cvmfs)[0]))
    check(cvmfs)
    published(cvmfs, staging_of, OTHER, "2")
    assert cvmfs.open().verify(OTHER) == []
    check(cvmfs)


def test_operators_put_catalogs_above_ours_and_take_ours_away(cvmfs, staging_of):
    repository = published(cvmfs, staging_of, NAME, "1")
    record, layout = repository.record(NAME), repository.view.layout
    assert record is not None
    tree = layout.layerfs(record.layers[-1])
    above = cvmfs.mounts / cvmfs.name / tree.parent.parent / ".cvmfscatalog"
    own = cvmfs.mounts / cvmfs.name / tree / ".cvmfscatalog"
    changes = (lambda: above.touch(), lambda: above.unlink(), lambda: own.unlink())
    for version, change in enumerate(changes, 1):
        cvmfs.server("transaction", cvmfs.name)
        change()
        cvmfs.server("publish", cvmfs.name)
        check(cvmfs)
        # The directory has the time at which its marker went.
        found = cvmfs.open().verify(NAME)
        assert [line for line in found if "layerfs: has the time" not in line] == []
        published(cvmfs, staging_of, OTHER, str(version))
        check(cvmfs)
        assert cvmfs.open().verify(OTHER) == []
    removed(cvmfs.open(), OTHER)
    check(cvmfs)
    assert cvmfs.open().record(NAME) is not None


COPIES = [b"/a", b"/b/nested", b"/b/nested/below", b"/c"]


def test_clients_that_follow_see_each_revision_whole(cvmfs, tmp_path):
    commits, seen = 40, []
    done = threading.Event()

    def write(number: int) -> None:
        objects = tmp_path / f"{number}"
        objects.mkdir()

        def change(changes) -> None:
            if number == 0:
                for path in COPIES:
                    changes.make_directory(path)
                    changes.begin_catalog(path)
            for path in COPIES:
                changes.put_file(path + b"/version", content(number), mtime=number + 1)
            if number:
                changes.remove(b"/c/of-%d" % (number - 1))
                changes.remove(b"/a/link")
            changes.put_file(b"/c/of-%d" % number, b"")
            changes.put_link(b"/a/link", b"%d" % number)

        commit(cvmfs, Objects(objects), change, seconds=60)

    def content(number: int) -> bytes:
        return b"%d\n" % number * (2000 if number % 3 else 20_000)

    def publish_all() -> None:
        try:
            for number in range(1, commits):
                write(number)
        finally:
            done.set()

    write(0)
    with client(cvmfs) as mount:
        base = os.fsencode(mount)
        follow(mount, cvmfs.name)
        opened = (mount / "a/version").open("rb", buffering=0)  # and read at the end
        publisher = threading.Thread(target=publish_all)
        publisher.start()
        last = False
        while not last:
            last = done.is_set()
            follow(mount, cvmfs.name)
            read = {Path(os.fsdecode(base + path + b"/version")).read_bytes() for path in COPIES}
            assert len(read) == 1, [each[:20] for each in read]
            (found,) = read
            number = int(found.partition(b"\n")[0])
            assert found == content(number)
            assert (mount / "a/link").readlink() == Path(str(number))
            names = {b".cvmfscatalog", b"version", b"of-%d" % number}
            assert set(os.listdir(base + b"/c")) == names  # noqa: PTH208
            seen.append(number)
        publisher.join()
        with opened:
            assert opened.read() == content(0)
    assert seen == sorted(seen)
    assert seen[-1] == commits - 1
    assert len(set(seen)) > 3
    check(cvmfs)


def follow(mount: Path, name: str) -> None:
    """Have a client show what is newest, at once."""
    socket = mount.parent / "cache" / name / f"cvmfs_io.{name}"
    done = subprocess.run(
        ["cvmfs_talk", "-p", socket, "remount", "sync"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def staging_of(tmp_path: Path) -> Path:
    """A directory in which each version has one to be staged in."""
    base = tmp_path / "staged"
    for version in ("1", "2", "3"):
        (base / version).mkdir(parents=True)
    return base
