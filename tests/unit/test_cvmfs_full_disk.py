"""A storage that is full at any write of a commit by catalogs: the old revision stays, whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from duccmake.cvmfs.storage import PUBLISHED
from duccmake.errors import NoSpace
from support.cvmfs_commits import manifest_of, settings_of, storage_of
from support.oracles import needs_overlay, tmpfs
from support.staged_trees import TOP, file, publish, stage

pytestmark = needs_overlay

BYTES = 8 * 1024 * 1024
PAGE = 4096
STEP = int(os.environ.get("DUCCMAKE_TEST_FULL_PAGES", "4")) * PAGE


@pytest.fixture
def small(cvmfs) -> Iterator[Path]:
    """The storage of the repository, on a small file system of its own."""
    storage = Path(settings_of(cvmfs).upstream.rpartition(",")[2])
    kept = storage.rename(storage.with_name(f"{storage.name}-kept"))
    try:
        with tmpfs(storage, str(BYTES)):
            shutil.copytree(kept, storage, dirs_exist_ok=True)
            yield storage
            shutil.rmtree(kept)
            shutil.copytree(storage, kept)
    finally:
        storage.rmdir()
        kept.rename(storage)


def leave(storage: Path, size: int) -> None:
    """Fill the file system but for so many bytes."""
    filler = storage / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(storage)
    with filler.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, found.f_bavail * found.f_frsize - size)


def test_nothing_is_signed_and_the_next_run_with_room_goes_on(cvmfs, small, tmp_path):
    repository = cvmfs.open(lock_seconds=60)
    first = "registry.example.org/tools/app:1"
    publish(repository, stage(tmp_path / "staging", first))
    before = storage_of(cvmfs).file(PUBLISHED)
    name = "registry.example.org/tools/app:2"
    content = os.urandom(20_000)
    changes = stage(tmp_path / "staging", name, [*TOP, file("large", content)])
    failed = 0
    for size in count(0, STEP):
        leave(small, size)
        try:
            publish(repository, changes)
        except NoSpace as error:
            failed += 1
            assert "no space left" in str(error)
            assert "make room there and run again" in str(error)
        else:
            break
        assert storage_of(cvmfs).file(PUBLISHED) == before, size
        assert repository.verify(first) == [], size
    assert failed > 2
    assert manifest_of(cvmfs).revision > 1
    assert repository.verify(name) == []
    (small / "filler").unlink()
    assert cvmfs.problems() == ""
