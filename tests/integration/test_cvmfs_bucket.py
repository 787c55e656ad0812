"""A repository of the real CernVM-FS whose storage is a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.storage import PUBLISHED
from duccmake.cvmfs.storage.s3 import S3Storage
from duccmake.repository.cvmfs.staging import open_storage
from support.cvmfs_commits import settings_of
from support.cvmfs_repositories import Real, real_in_a_bucket, why_not_real
from support.staged_trees import TOP, file, flat_of, publish, stage

pytestmark = pytest.mark.cvmfs


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Real]:
    if reason := why_not_real():
        pytest.skip(reason)
    (tmp_path / "storage").mkdir()
    with real_in_a_bucket(tmp_path / "storage") as made:
        yield made


def root(storage: S3Storage) -> str:
    """The object of the newest root catalog."""
    return Manifest.parse(storage.file(PUBLISHED)).root.hex() + Kind.CATALOG


def test_an_image_is_published_and_what_is_old_is_collected(cvmfs: Real, tmp_path: Path) -> None:
    repository = cvmfs.open(publisher="catalogs")
    storage = open_storage(settings_of(cvmfs))
    assert isinstance(storage, S3Storage)
    first = root(storage)
    (tmp_path / "staging").mkdir()
    top = [*TOP, file("usr/bin-tool", b"what a tool is", 0o755)]
    (image,) = publish(repository, stage(tmp_path / "staging", top=top))
    cvmfs.server("check", "-i", cvmfs.name)

    path = flat_of(repository, image).relative_to(repository.path) / "usr/bin-tool"
    assert (cvmfs.mounts / cvmfs.name / path).read_bytes() == b"what a tool is"
    repository = cvmfs.open(publisher="catalogs")
    assert repository.verify(image.name) == []

    ours = root(storage)
    assert storage.has([first, ours]) == {first, ours}
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "an-operators").touch()
    cvmfs.server("publish", cvmfs.name)
    cvmfs.server("gc", "-f", "-r", "0", cvmfs.name)
    # The one before the newest is kept for a rollback.
    assert storage.has([first, ours, root(storage)]) == {ours, root(storage)}
    cvmfs.server("check", "-i", cvmfs.name)
    assert (cvmfs.mounts / cvmfs.name / path).exists()
