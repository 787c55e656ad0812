"""Mounts of the real CernVM-FS whose process is killed, as when memory is short."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from duccmake.errors import RepositoryError, RepositoryLocked
from duccmake.repository.cvmfs.tools import Tools
from support.cvmfs_repositories import both
from support.staged_trees import NAME, publish, stage

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root"),
    pytest.mark.parametrize("cvmfs", both()[1:], indirect=True),
]

PUBLISHERS = pytest.mark.parametrize("publisher", ["catalogs", "ingest"])


def kill_mount(cvmfs) -> None:
    """Kill the processes that show what is published."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[:2] == [b"cvmfs2", cvmfs.name.encode()]:
                os.kill(int(process.name), signal.SIGKILL)
    while is_readable(cvmfs):
        os.sched_yield()


def is_readable(cvmfs) -> bool:
    try:
        return any((cvmfs.spool / "rdonly").iterdir())
    except OSError:
        return False


def mounted(cvmfs) -> list[int]:
    """How often the two are mounted: ``cvmfs_server`` may mount upon a dead mount (2.12)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = Counter(line.split()[4] for line in lines)
    return [found[str(path)] for path in (cvmfs.spool / "rdonly", cvmfs.mounts / cvmfs.name)]


def is_whole(cvmfs, repository) -> bool:
    at = repository.view.layout.link(NAME)
    return (
        mounted(cvmfs) == [1, 1]
        and (cvmfs.mounts / cvmfs.name / at / "etc").is_dir()
        and list(cvmfs.spool.glob("*.lock")) == []
        and repository.verify(NAME) == []
    )


@PUBLISHERS
def test_dead_mount_is_mounted_again_before_anything_is_published(
    cvmfs, staging, publisher, caplog
):
    kill_mount(cvmfs)
    repository = cvmfs.open(lock_seconds=60, publisher=publisher)
    publish(repository, stage(staging))
    assert "a dead mount of" in caplog.text
    assert is_whole(cvmfs, repository)


def test_mount_that_dies_beside_a_commit_is_mounted_again_with_its_end(cvmfs, staging, monkeypatch):
    real = Tools.sign

    def sign(*arguments, **more):
        kill_mount(cvmfs)
        real(*arguments, **more)

    monkeypatch.setattr(Tools, "sign", sign)
    repository = cvmfs.open(lock_seconds=60, publisher="catalogs")
    publish(repository, stage(staging))
    assert is_whole(cvmfs, repository)


def test_mount_that_dies_beside_an_ingest_is_mounted_again_by_the_next_at_the_latest(
    cvmfs, staging
):
    repository = cvmfs.open(lock_seconds=60, publisher="ingest")

    def more():
        kill_mount(cvmfs)
        return ()

    changes = stage(staging)
    with repository.lock(), suppress(RepositoryError):
        repository.publish(changes, more)
    publish(repository, changes)
    assert is_whole(cvmfs, repository)


def test_operators_transaction_over_it_is_theirs_to_end(cvmfs, staging, caplog):
    cvmfs.server("transaction", cvmfs.name)
    kill_mount(cvmfs)
    repository = cvmfs.open()
    changes = stage(staging)
    with pytest.raises(RepositoryLocked, match=r"if nobody works on it, abort it"):
        publish(repository, changes)
    assert "a dead mount of" in caplog.text
    cvmfs.server("abort", "-f", cvmfs.name)
    assert mounted(cvmfs) == [2, 1]  # or there would be nothing to do
    publish(repository, changes)
    assert is_whole(cvmfs, repository)


def test_who_reads_needs_no_mount(cvmfs, staging):
    repository = cvmfs.open()
    publish(repository, stage(staging))
    kill_mount(cvmfs)
    assert repository.verify(NAME) == []
    assert list(repository.names()) == [NAME]
