"""Which publisher a repository has and why, and what its operator is told of how it is set up."""

from __future__ import annotations

import logging
import os
from pathlib import PurePosixPath

import pytest
import yaml

from duccmake.config.configuration import Config
from duccmake.cvmfs import edited
from duccmake.cvmfs.storage import PUBLISHED
from duccmake.errors import RepositoryError
from duccmake.planning.planner import make_plan
from duccmake.repository.cvmfs import options
from duccmake.repository.edits import Edits
from support.cvmfs_commits import storage_of
from support.cvmfs_repositories import both
from support.images import write_oci_layout
from support.samples import text_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

NOTE = PurePosixPath("note.json")


def put(repository, content: bytes = b"content") -> None:
    """Publish a file."""
    with repository.lock():
        edits = Edits(repository.view)
        edits.file(NOTE, content)
        repository.edit(edits)


@pytest.fixture
def configured(cvmfs):
    """Adds a line to server.conf, until the test ends."""
    config = cvmfs.server_config / cvmfs.name / "server.conf"
    text = config.read_text()
    yield lambda line: config.write_text(f"{text}\n{line}\n")
    config.write_text(text)


def with_hooks(configured, patch, tmp_path):
    hooks = tmp_path / "hooks.sh"
    hooks.write_text("publish_after_hook() { :; }\n")
    patch.setattr(options, "HOOKS", hooks)


OBSTACLES = {
    "hooks.sh has cvmfs_server do more": with_hooks,
    "cvmfs_swissknife is 2.12.0, and 9.x is known": (
        lambda configured, patch, tmp_path: patch.setattr(options, "KNOWN", "9.")
    ),
    "files and catalogs have limits": (
        lambda configured, patch, tmp_path: configured("CVMFS_ENFORCE_LIMITS=true")
    ),
    "its root catalog has schema revision": (
        lambda configured, patch, tmp_path: patch.setattr(edited, "_LEAST_REVISION", 99)
    ),
}


@pytest.mark.parametrize("why", OBSTACLES)
def test_what_keeps_catalogs_from_being_written_is_told_and_ingest_does_it(
    cvmfs, configured, why, monkeypatch, tmp_path, caplog
):
    OBSTACLES[why](configured, monkeypatch, tmp_path)
    before = storage_of(cvmfs).file(PUBLISHED)
    with pytest.raises(RepositoryError, match="cannot be written here: ") as refused:
        put(cvmfs.open(publisher="catalogs"))
    assert why in str(refused.value)
    assert storage_of(cvmfs).file(PUBLISHED) == before

    caplog.set_level(logging.INFO)
    repository = cvmfs.open(lock_seconds=60)
    put(repository)
    assert (repository.path / NOTE).read_bytes() == b"content"
    line = next(text for text in caplog.messages if "is published by" in text)
    assert "is published by cvmfs_server ingest: " in line
    assert any(line == told for told in repository.remarks())


def test_usual_repository_is_published_by_catalogs_and_there_is_nothing_to_say(cvmfs, caplog):
    caplog.set_level(logging.INFO)
    repository = cvmfs.open(lock_seconds=60)
    put(repository)
    assert f"{cvmfs.name} is published by catalogs" in caplog.messages
    assert list(repository.remarks()) == []


def test_wish_for_ingest_is_why_and_needs_no_remark(cvmfs, caplog):
    caplog.set_level(logging.INFO)
    repository = cvmfs.open(publisher="ingest", lock_seconds=60)
    put(repository)
    words = f"{cvmfs.name} is published by cvmfs_server ingest: repository.publisher says so"
    assert words in caplog.messages
    assert list(repository.remarks()) == []


@pytest.mark.parametrize(
    ("line", "reaches"),
    [
        ("/.layers/*/*/layerfs/usr", True),
        ("/*/*", True),
        ("/.fl*/ab/*", True),
        ("/*", False),
        ("/software/*/*", False),
        ("! /.layers/*", False),
        ("# /.layers/*", False),
    ],
)
def test_dirtab_that_reaches_into_images_is_told_of(cvmfs, line, reaches):
    cvmfs.server("transaction", cvmfs.name)
    dirtab = cvmfs.mounts / cvmfs.name / ".cvmfsdirtab"
    dirtab.write_text(f"/software/*\n{line}\n")
    cvmfs.server("publish", cvmfs.name)
    found = list(cvmfs.open().remarks())
    assert len(found) == reaches
    assert all(repr(line) in told and ".cvmfsdirtab" in told for told in found)


@pytest.mark.parametrize("cvmfs", both("CVMFS_GARBAGE_COLLECTION=true"), indirect=True)
def test_tags_for_ever_are_told_of_where_garbage_is_to_be_collected(cvmfs, configured):
    configured("CVMFS_AUTO_TAG=true\nCVMFS_AUTO_TAG_TIMESPAN=")
    (told,) = cvmfs.open().remarks()
    assert "set CVMFS_AUTO_TAG_TIMESPAN" in told
    configured("CVMFS_AUTO_TAG=true\nCVMFS_AUTO_TAG_TIMESPAN='2 weeks ago'")
    assert list(cvmfs.open().remarks()) == []
    configured("CVMFS_AUTO_TAG=false")
    assert list(cvmfs.open().remarks()) == []


def test_nothing_is_signed_that_garbage_collection_would_not_learn_of(cvmfs):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"first")
    before = storage_of(cvmfs).file(PUBLISHED)
    checksum = cvmfs.spool / "reflog.chksum"
    away = checksum.rename(cvmfs.spool / "away")
    try:
        with pytest.raises(RepositoryError, match=r"reflog.chksum is missing.*check -r"):
            put(repository, b"second")
    finally:
        away.rename(checksum)
    assert storage_of(cvmfs).file(PUBLISHED) == before
    put(repository, b"second")


def test_plan_of_a_run_has_what_is_to_be_told_of_a_repository(
    cvmfs, configured, monkeypatch, tmp_path
):
    """It is said at the start of the run."""
    configured("CVMFS_ENFORCE_LIMITS=true")
    monkeypatch.chdir(tmp_path)
    write_oci_layout(text_image("one"), tmp_path / "layout", "1")
    recipe = {"version": 1, "cvmfs_repo": cvmfs.name, "input": ["oci:layout:1"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    repository = {
        "backend": "cvmfs",
        "mounts": str(cvmfs.mounts),
        "server_config": str(cvmfs.server_config),
    }
    members = {"recipe": ["recipe.yaml"], "repository": repository, "thin": {"push": "never"}}
    plan = make_plan(Config.parse(members, workdir=tmp_path), members)
    assert [text for text in plan.warnings if "published by cvmfs_server ingest" in text]
    assert len(plan.images) == 1
