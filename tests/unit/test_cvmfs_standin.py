"""That the stand-in of ``cvmfs_server`` would tell of what is not right."""

from __future__ import annotations

import os
import stat

import pytest

from duccmake.cvmfs.catalog import CatalogFile
from duccmake.cvmfs.keeping import OPAQUE, Keeping
from duccmake.cvmfs.names import Kind, object_name, storage_path
from duccmake.cvmfs.objects import CHUNK_ABOVE, Objects
from duccmake.cvmfs.rows import unpack_xattrs
from duccmake.cvmfs.trees import write_tree
from duccmake.repository.cvmfs.settings import ServerSettings
from duccmake.repository.cvmfs.tools import Tools
from duccmake.tree.mtree import CHAR, DIR, FILE, FORMAT, LINK, Entry
from support.cvmfs_commits import commit, commit_file, manifest_of, newest, storage_of
from support.cvmfs_repositories import both

pytestmark = pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)

OWN = os.geteuid(), os.getegid()


def objects_in(path) -> Objects:
    path.mkdir()
    return Objects(path)


def publish_tree(cvmfs, tmp_path) -> None:
    """Publish a tree with all that a client's mount may not be able to show."""
    objects = objects_in(tmp_path / "tree")
    content = objects.file([b"content"], 7)
    entries = [
        Entry(b".", DIR, 0o711, *OWN, 0, flags=frozenset({b"opaque"})),
        Entry(b"device", CHAR, 0o600, 5, 6, 0, device=(1, 3)),
        Entry(b"file", FILE, 0o640, 70_000, 5, 5_000_000_000, size=7),
        Entry(b"link", LINK, 0o777, *OWN, 7_000_000_000, target=b"file"),
        Entry(b"hidden", CHAR, 0o600, 0, 0, 0, device=(0, 0)),
    ]
    lines = [FORMAT, *(entry.line() for entry in entries)]
    tree = write_tree(lines, b"/tree", lambda number, path: content, objects, Keeping(), "salt")
    commit(cvmfs, objects, lambda changes: changes.graft(tree))


def test_the_mount_shows_what_the_catalogs_say(cvmfs, tmp_path):
    publish_tree(cvmfs, tmp_path)
    shown = cvmfs.spool / "rdonly/tree"
    assert stat.S_IMODE(shown.stat().st_mode) == 0o711
    assert (shown / "file").read_bytes() == b"content"
    assert (shown / "file").stat().st_mtime == 5
    assert str((shown / "link").readlink()) == "file"
    if os.geteuid() == 0:
        assert (shown / "file").stat().st_uid == 70_000
        assert (shown / "device").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISCHR((shown / "hidden").stat().st_mode)


def test_what_the_mount_cannot_show_is_kept_when_an_operator_publishes(cvmfs, tmp_path):
    publish_tree(cvmfs, tmp_path)
    with newest(cvmfs) as revision:
        before = dict(revision.walk(b""))
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "of-the-operator").write_text("work")
    cvmfs.server("publish", cvmfs.name)
    with newest(cvmfs) as revision:
        after = dict(revision.walk(b""))
        assert revision.read(b"/of-the-operator") == b"work"
    assert after.pop(b"/of-the-operator")
    assert after == before
    assert unpack_xattrs(after[b"/tree"].xattr) == OPAQUE
    assert cvmfs.problems() == ""


def test_an_operators_changes_replace_and_remove_no_more_than_they_say(cvmfs, tmp_path):
    publish_tree(cvmfs, tmp_path)
    cvmfs.server("transaction", cvmfs.name)
    union = cvmfs.mounts / cvmfs.name / "tree"
    (union / "file").write_text("changed")
    (union / "link").unlink()
    assert (cvmfs.spool / "rdonly/tree/file").read_bytes() == b"content"
    cvmfs.server("publish", cvmfs.name)
    with newest(cvmfs) as revision:
        assert revision.read(b"/tree/file") == b"changed"
        assert revision.row(b"/tree/link") is None
        device = revision.row(b"/tree/device")
        assert device is not None
        assert device.size == os.makedev(1, 3)
    assert cvmfs.problems() == ""


def test_an_object_that_is_gone_or_damaged_is_found(cvmfs, tmp_path):
    commit_file(cvmfs, tmp_path / "objects", "new")
    with newest(cvmfs) as revision:
        row = revision.row(b"/new")
    assert row is not None
    assert row.hash is not None
    path = cvmfs.base / "storage" / cvmfs.name / storage_path(object_name(row.hash, Kind.FILE))
    stored = path.read_bytes()
    path.unlink()
    assert "objects are not stored" in cvmfs.problems()
    path.write_bytes(stored[:-1] + b"?")
    assert "another hash" in cvmfs.problems()
    path.write_bytes(stored)
    assert cvmfs.problems() == ""


def test_a_catalog_that_counts_wrongly_is_found(cvmfs, tmp_path):
    manifest, storage = manifest_of(cvmfs), storage_of(cvmfs)
    objects = objects_in(tmp_path / "wrong")
    with newest(cvmfs) as revision:
        content = revision.catalog_content(manifest.get("C"))
    with CatalogFile.read(content) as catalog:
        catalog.db.execute("UPDATE statistics SET value=7 WHERE counter='self_regular'")
        digest = objects.put(catalog.db.serialize(), Kind.CATALOG).hex()
    storage.put_all(objects.directory, [digest + Kind.CATALOG])
    tools = Tools(ServerSettings.read(cvmfs.name, cvmfs.server_config), cvmfs.spool / "tmp")
    file = tmp_path / "manifest"
    file.write_bytes(manifest.changed(C=digest).unsigned())
    tools.sign(file)
    assert "the counter self_regular is 7, not 1" in cvmfs.problems()


def test_large_files_are_in_chunks_on_the_mount_as_well(cvmfs, tmp_path):
    content = os.urandom(1024) * (CHUNK_ABOVE // 1024 + 1)
    objects = objects_in(tmp_path / "objects")
    commit(cvmfs, objects, lambda changes: changes.put_file(b"/large", content))
    shown = cvmfs.spool / "rdonly/large"
    assert shown.read_bytes() == content
    assert int(os.getxattr(shown, "user.chunks")) > 1
    assert cvmfs.problems() == ""
