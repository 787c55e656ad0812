"""What publishing into CernVM-FS has to give, on the real thing and on its stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import staged_trees as make
from staged_trees import NAME, directory, file, hard_link, publish, stage

from cvmfs_repositories import StandIn, real_repositories, why_not_real
from duccmake.repository.layout import Layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")


LARGE = 40_000
CHUNKS = (
    "CVMFS_MIN_CHUNK_SIZE=4096",
    "CVMFS_AVG_CHUNK_SIZE=8192",
    "CVMFS_MAX_CHUNK_SIZE=16384",
)


def both(*settings):
    """Parameters for `cvmfs`: the stand-in and the real one, with lines for server.conf."""
    return [
        pytest.param(("standin", *settings), id="standin"),
        pytest.param(("real", *settings), marks=pytest.mark.cvmfs, id="real"),
    ]


@pytest.fixture(scope="module")
def real():
    if reason := why_not_real():
        pytest.skip(reason)
    with real_repositories() as repositories:
        yield repositories


@pytest.fixture(params=both())
def cvmfs(request, tmp_path, monkeypatch):
    which, *settings = request.param
    if which == "real":
        repositories = request.getfixturevalue("real")
        repository = repositories.make(*settings)
        yield repository
        repositories.remove(repository)
        return
    repository = StandIn(tmp_path / "standin").make(*settings)
    for name, value in repository.environment.items():
        monkeypatch.setenv(name, value)
    yield repository


@pytest.fixture
def staging(tmp_path):
    path = tmp_path / "staging"
    path.mkdir()
    return path


def seconds(listed):
    """A listing with times in whole seconds, as CernVM-FS keeps them, without markers.

    Whiteouts have the time of their making, whatever the backend.
    """
    return {
        path: (*entry[:4], 0 if entry[5] == 0 else entry[4] // 10**9, entry[5])
        for path, entry in listed.items()
        if Path(path).name != ".cvmfscatalog"
    }


def test_the_flat_tree_is_the_directory_backends_entry_by_entry(cvmfs, staging, tmp_path):
    changes = stage(staging)
    repository = cvmfs.open()
    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)

    assert repository.verify(NAME) == []
    found = make.listing(make.flat_of(repository, image))
    assert seconds(found) == seconds(make.listing(make.flat_of(plain, image)))
    for digest in image.layers:
        found = make.listing(Layout(repository.path).layerfs(digest))
        assert seconds(found) == seconds(make.listing(Layout(plain.path).layerfs(digest)))
    assert cvmfs.problems() == ""


def test_an_image_is_published_in_one_revision_and_nothing_in_none(cvmfs, staging):
    repository = cvmfs.open()
    before = cvmfs.revision()
    changes = stage(staging)
    publish(repository, changes)
    assert cvmfs.revision() == before + 1
    publish(repository, changes)
    publish(repository)
    assert cvmfs.revision() == before + 1


@pytest.mark.parametrize("cvmfs", both(*CHUNKS), indirect=True)
def test_large_files_are_in_chunks_wherever_they_are(cvmfs, staging, tmp_path):
    big = file("opt/big", os.urandom(LARGE), 0o755, uid=5, gid=6)
    top = [
        directory(".", 0o711),
        directory("opt", 0o1777, uid=7),
        big,
        hard_link("opt/same", big),
        file("opt/small", b"small"),
    ]
    before = cvmfs.revision()
    repository = cvmfs.open()
    changes = stage(staging, top=top)
    (image,) = publish(repository, changes)
    plain = make.open_repository(tmp_path / "plain")
    publish(plain, changes)

    assert cvmfs.revision() == before + 3
    assert repository.verify(NAME) == []
    flat = make.flat_of(repository, image)
    assert seconds(make.listing(flat)) == seconds(make.listing(make.flat_of(plain, image)))
    layer = Layout(repository.path).layerfs(image.layers[1])
    for path in (flat / "opt/big", flat / "opt/same", layer / "opt/big", layer / "opt/same"):
        assert int(os.getxattr(path, "user.chunks")) > 1
        assert path.read_bytes() == big[1]
    assert cvmfs.problems() == ""

    other = "registry.example.org/tools/app:2"
    publish(repository, stage(staging, other, top=[*top, file("new", b"new")]))
    assert repository.verify(other) == []
    assert cvmfs.problems() == ""
