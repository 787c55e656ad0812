"""Waiting for an image at web servers of its repository."""

from __future__ import annotations

import pytest

from duccmake.commands.main import main
from duccmake.cvmfs.storage import PUBLISHED
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


def test_an_image_that_a_server_has_by_that_digest_is_visible(cvmfs, published, capsys):
    assert wait(f"{NAME}@{digest(published)}", "--at", cvmfs.url, "--timeout", "60") == 0
    said = capsys.readouterr().out
    assert said == f"visible  {NAME}  {cvmfs.url}: in revision {published.revision}\n"


def test_another_digest_or_image_is_waited_for_until_the_time_is_over(
    cvmfs, published, capsys, monkeypatch
):
    within = {OTHER}
    monkeypatch.setattr("duccmake.commands.wait.behind", lambda reference, text: within)
    assert wait(f"{NAME}@{OTHER}", "--at", cvmfs.url, "--timeout", "0") == 3
    assert digest(published) in capsys.readouterr().err
    assert wait("r.example.org/none:1", "--at", cvmfs.url, "--timeout", "0") == 3
    assert "has no such image" in capsys.readouterr().err
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


def test_what_is_signed_by_others_is_not_believed(cvmfs, published, tmp_path, capsys):
    from test_cvmfs_trust import Signed

    other = Signed(tmp_path / "objects")
    at = ("--at", cvmfs.url, "--key", str(other.key), "--timeout", "0")
    assert wait(f"{NAME}@{digest(published)}", *at) == 3
    assert "not to be trusted" in capsys.readouterr().err
    assert wait(NAME, *at) == 3


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
