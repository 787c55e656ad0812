"""Waiting for an image at web servers of its repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from test_cvmfs_trust import Signed

from duccmake.commands.main import main
from duccmake.cvmfs.storage import PUBLISHED
from duccmake.run.whereabouts import Progress, State
from support.cvmfs_commits import storage_of
from support.cvmfs_repositories import served
from support.staged_trees import NAME, publish, stage

OTHER = f"sha256:{'0' * 64}"


@pytest.fixture
def published(cvmfs, staging):
    repository = cvmfs.open(publisher="catalogs")
    publish(repository, stage(staging))
    return repository


def digest(repository) -> str:
    return str(repository.record(NAME).manifest)


def wait(*options: str) -> int:
    return main(["wait", *options])


def answering(directory: Path, **members: object) -> str:
    """The address of a progress like that."""
    progress = Progress(NAME, "", State.QUEUED)
    directory.mkdir(exist_ok=True)
    (directory / "progress").write_text(json.dumps({**asdict(progress), **members}))
    return f"{served(directory)}/progress"


def test_an_image_that_a_server_has_by_that_digest_is_visible(cvmfs, published, capsys):
    assert wait(f"{NAME}@{digest(published)}", "--at", cvmfs.url, "--timeout", "60") == 0
    said = capsys.readouterr().out
    assert said == f"visible  {NAME}  {cvmfs.url}: in revision {published.revision}\n"


def test_another_digest_or_image_is_waited_for_until_the_time_is_over(
    cvmfs, published, capsys, monkeypatch, tmp_path
):
    within = {OTHER}
    monkeypatch.setattr("duccmake.commands.wait.behind", lambda reference, text: within)
    assert wait(f"{NAME}@{OTHER}", "--at", cvmfs.url, "--timeout", "0") == 3
    assert digest(published) in capsys.readouterr().err
    assert wait("r.example.org/none:1", "--at", cvmfs.url, "--timeout", "0") == 3
    assert "has no such image" in capsys.readouterr().err
    # The service has published it as this index, and no registry is asked for that.
    members = {"state": "visible", "digest": OTHER, "manifests": [digest(published)]}
    address = answering(tmp_path / "service", **members)
    at = ("--service", address, "--at", cvmfs.url, "--timeout", "0")
    assert wait(f"{NAME}@{OTHER}", *at) == 0
    # What was pushed is an index, and its manifest for this platform is published.
    within.add(digest(published))
    assert wait(f"{NAME}@{OTHER}", "--at", cvmfs.url, "--timeout", "0") == 0


def test_a_server_that_lags_is_waited_for_and_names_are_its_own(
    cvmfs, published, tmp_path, capsys, monkeypatch
):
    (tmp_path / "web").mkdir()
    url = f"{served(tmp_path / 'web')}/{cvmfs.name}"
    pauses: list[float] = []

    def catch_up(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            (tmp_path / "web" / cvmfs.name).symlink_to(storage_of(cvmfs)._directory)

    monkeypatch.setattr("time.sleep", catch_up)
    at = ("--at", cvmfs.url, "--at", url)
    assert wait(f"{NAME}@{digest(published)}", *at, "--timeout", "600") == 0
    assert pauses == sorted(set(pauses)) and len(pauses) == 4
    said = capsys.readouterr()
    assert f"{url}: in revision" in said.out
    assert f"{url}/{PUBLISHED} is not there" in said.err


def test_a_directory_of_a_repository_is_looked_into_and_strangers_signatures_are_not_believed(
    cvmfs, staging, tmp_path, capsys
):
    repository = cvmfs.open(publisher="catalogs", prefix="images")
    publish(repository, stage(staging, prefix="images"))
    at = ("--at", cvmfs.url, "--timeout", "0")
    assert wait(NAME, *at) == 3
    assert wait(f"{NAME}@{digest(repository)}", *at, "--prefix", "/images/") == 0
    capsys.readouterr()
    other = Signed(tmp_path / "objects")
    assert wait(NAME, *at, "--prefix", "images", "--key", str(other.key)) == 3
    assert "not to be trusted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "status", "said"),
    [
        ({"state": "visible", "revision": 7}, 0, "in revision 7"),
        ({"state": "failed", "reason": "no\x1b[2Jarchive"}, 1, "no\\x1b[2Jarchive"),
        ({"state": "fetching", "fetched": 5, "bytes": 10}, 3, "fetching 5 B of 10 B"),
        ({"state": "queued", "reason": "why"}, 3, "queued: why"),
        ({"image": "r.example.org/other:1"}, 2, "is about r.example.org/other:1"),
        ({"state": "gone"}, 2, "is no progress"),
        ({"manifests": None}, 2, "is no progress"),
    ],
)
def test_what_a_service_says_is_handed_on(members, status, said, tmp_path, capsys):
    address = answering(tmp_path / "service", **members)
    assert wait(NAME, "--service", address, "--timeout", "0") == status
    told = capsys.readouterr()
    assert said in told.out + told.err


def test_an_address_that_is_none_is_told_and_a_service_that_is_down_waited_for(tmp_path, capsys):
    address = answering(tmp_path / "service")
    assert wait(NAME, "--service", f"{address}s", "--timeout", "0") == 2
    assert wait(NAME, "--service", "http://127.0.0.1:1/convert/x", "--timeout", "0") == 3
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        (f"{NAME}@sha256:1",),
        ("r.example.org/app:*",),
        ("app",),
        ("oci:/etc",),
        (NAME, "--directory", "no/where"),
        (NAME, "--at", "http://127.0.0.1:1/.hidden", "--timeout", "0"),
    ],
)
def test_what_cannot_be_waited_for_is_said(options, capsys):
    assert wait(*options) == 2
    assert capsys.readouterr().err.startswith("duccmake: ")


def test_a_server_that_cannot_be_reached_is_told_when_the_time_is_over(capsys):
    assert wait(NAME, "--at", "http://127.0.0.1:1/cvmfs/x.example.org", "--timeout", "0") == 3
    assert "cannot be read" in capsys.readouterr().err


def test_where_nothing_has_run_nothing_is_visible(tmp_path, capsys):
    assert wait(NAME, "--timeout", "0", "--directory", str(tmp_path)) == 3
    assert "no run has ended here yet" in capsys.readouterr().err
