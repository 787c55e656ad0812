"""Garbage collection beside others, on the real CernVM-FS and its stand-in."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from duccmake.cvmfs.storage import REFERENCES, STATUS
from duccmake.errors import RepositoryError, RepositoryLocked
from duccmake.repository.cvmfs import garbage
from duccmake.repository.cvmfs.tools import Tools
from duccmake.repository.edits import Edits
from support.cvmfs_commits import manifest_of, settings_of, storage_of
from support.cvmfs_repositories import GATEWAY, StandIn, both, repository_for
from support.logs import told
from support.staged_trees import NAME, publish, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

ON = ("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")
FLAG = "in_transaction.lock"

PAUSING = """\
#!/bin/sh
if [ "$1" = gc ]; then
    : >{begun}
    read -r _ <{go}
fi
exec {program} "$@"
"""


@pytest.fixture(params=both(*ON))
def cvmfs(request, tmp_path, monkeypatch):
    return repository_for(request.param, tmp_path, monkeypatch)


def put(repository, content: bytes) -> None:
    """Publish a file."""
    with repository.lock():
        edits = Edits(repository.view)
        edits.file(PurePosixPath("note.json"), content)
        repository.edit(edits)


def collect(cvmfs, **settings) -> None:
    repository = cvmfs.open(**settings)
    with repository.lock():
        repository.reclaim()


def mounts(cvmfs) -> tuple[int, ...]:
    """What tells mounts from those that are made anew."""
    paths = cvmfs.spool / "rdonly", cvmfs.mounts / cvmfs.name
    if isinstance(cvmfs, StandIn):
        return tuple(path.lstat().st_ino for path in paths)
    return tuple(path.stat().st_dev for path in paths)


@contextmanager
def begun(cvmfs, tmp_path: Path, monkeypatch) -> Iterator[None]:
    """A collection of ours that has begun to look for garbage, and goes on at the end."""
    shim, begun, go = (tmp_path / name for name in ("bin/cvmfs_swissknife", "begun", "go"))
    shim.parent.mkdir()
    program = shutil.which("cvmfs_swissknife")
    shim.write_text(PAUSING.format(begun=begun, go=go, program=program))
    shim.chmod(0o755)
    os.mkfifo(go)
    with ThreadPoolExecutor() as pool, monkeypatch.context() as patch:
        patch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
        done = pool.submit(collect, cvmfs, lock_seconds=60)
        while not begun.exists():
            assert not done.done(), done.result()
            os.sched_yield()
        try:
            yield
        finally:
            go.write_bytes(b"\n")
            done.result(timeout=60)


def test_operators_transaction_beside_it_is_refused_and_not_ended_by_it(
    cvmfs, tmp_path, monkeypatch
):
    put(cvmfs.open(lock_seconds=60), b"content")
    with begun(cvmfs, tmp_path, monkeypatch):
        cvmfs.refused("transaction", cvmfs.name)
        cvmfs.refused("publish", cvmfs.name)
        cvmfs.refused("abort", "-f", cvmfs.name)
        cvmfs.refused("gc", "-f", cvmfs.name)
    assert list(cvmfs.spool.glob("*.lock")) == []
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "work").write_text("work")
    with pytest.raises(RepositoryLocked, match="somebody has a transaction open"):
        collect(cvmfs)
    cvmfs.server("publish", cvmfs.name)
    assert (cvmfs.spool / "rdonly/work").read_text() == "work"
    assert cvmfs.problems() == ""


def test_nothing_is_mounted_anew(cvmfs):
    put(cvmfs.open(lock_seconds=60), b"content")
    before = mounts(cvmfs)
    collect(cvmfs)
    assert mounts(cvmfs) == before
    assert list(cvmfs.spool.glob("*.lock")) == []
    assert list((cvmfs.spool / "tmp").iterdir()) == []


@contextmanager
def checked(cvmfs) -> Iterator[None]:
    """Hold what cvmfs_server holds while it checks or collects garbage."""
    path = cvmfs.spool / "is_collecting.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        path.unlink()


def test_who_checks_what_is_stored_is_waited_for(cvmfs):
    put(cvmfs.open(lock_seconds=60), b"content")
    with checked(cvmfs), pytest.raises(RepositoryLocked, match="somebody checks it, or collects"):
        collect(cvmfs)
    with ThreadPoolExecutor() as pool, told("waiting: somebody checks it") as waiting:
        with checked(cvmfs):
            done = pool.submit(collect, cvmfs, lock_seconds=60)
            assert waiting.wait(60)
            # So long the repository is anybody's.
            cvmfs.server("transaction", cvmfs.name)
            cvmfs.server("abort", "-f", cvmfs.name)
        done.result(timeout=60)


@pytest.mark.parametrize("cvmfs", both(*ON, "CVMFS_AUTO_GC=true")[:1], indirect=True)
def test_publication_waits_for_nobody_who_checks(cvmfs):
    with checked(cvmfs):
        put(cvmfs.open(), b"content")
    assert not has_status(cvmfs)
    put(cvmfs.open(), b"more")
    assert has_status(cvmfs)


def status_file(cvmfs) -> Path:
    return Path(settings_of(cvmfs).upstream.rpartition(",")[2], STATUS)


def has_status(cvmfs) -> bool:
    return status_file(cvmfs).exists()


def test_when_it_was_is_noted_beside_what_else_is(cvmfs):
    put(cvmfs.open(lock_seconds=60), b"content")
    status_file(cvmfs).write_text(json.dumps({"last_check": "never", "last_gc": "long ago"}))
    collect(cvmfs)
    status = json.loads(storage_of(cvmfs).file(STATUS))
    assert status["last_check"] == "never"
    date = ["date", "--date", status["last_gc"], "+%s"]
    assert subprocess.run(date, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert status_file(cvmfs).stat().st_mode & 0o777 == 0o644 or isinstance(cvmfs, StandIn)
    for damaged in ("{", "[]"):
        status_file(cvmfs).write_text(damaged)
        collect(cvmfs)
        assert "last_gc" in json.loads(storage_of(cvmfs).file(STATUS))


@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_either_publisher_collects_what_no_revision_needs(cvmfs, publisher, staging):
    repository = cvmfs.open(lock_seconds=60, publisher=publisher)
    publish(repository, stage(staging))
    at = manifest_of(cvmfs)
    with repository.lock():
        repository.reclaim()
    assert manifest_of(cvmfs) == at
    assert repository.verify(NAME) == []
    assert cvmfs.problems() == ""


def test_what_is_deleted_is_logged_where_the_server_would_log_it(cvmfs, tmp_path):
    put(cvmfs.open(lock_seconds=60), b"content")
    log = tmp_path / "deleted"
    config = cvmfs.server_config / cvmfs.name / "server.conf"
    before = config.read_text()
    config.write_text(f"{before}\nCVMFS_GC_DELETION_LOG={log}\n")
    try:
        collect(cvmfs)
    finally:
        config.write_text(before)
    assert "Garbage Collection finished" in log.read_text()


# --- what is refused ----------------------------------------------------------------


def test_without_the_references_it_is_refused_before_anything_is_locked(cvmfs):
    put(cvmfs.open(lock_seconds=60), b"content")
    references = Path(settings_of(cvmfs).upstream.rpartition(",")[2], REFERENCES)
    checksum = cvmfs.spool / "reflog.chksum"
    for file, words in ((references, "have that noted anew"), (checksum, "made anew")):
        away = file.rename(file.with_name("away"))
        try:
            with pytest.raises(RepositoryError, match=words):
                collect(cvmfs)
        finally:
            away.rename(file)
        assert list(cvmfs.spool.glob("*.lock")) == []
    collect(cvmfs)


@pytest.mark.parametrize("cvmfs", both(GATEWAY, *ON)[:1], indirect=True)
def test_garbage_of_a_gateways_repository_is_collected_where_the_gateway_is(cvmfs):
    with pytest.raises(RepositoryError, match=r"through a gateway.*where the gateway runs"):
        collect(cvmfs, prefix="containers")


@pytest.mark.parametrize("cvmfs", both(*ON)[:1], indirect=True)
def test_gateway_that_runs_here_is_left_to_the_server_to_stop(cvmfs, tmp_path, monkeypatch):
    monkeypatch.setattr(garbage, "GATEWAY", tmp_path)
    with pytest.raises(RepositoryError, match=r"'cvmfs_server gc .*' does so"):
        collect(cvmfs)


# --- who is killed ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["collect_garbage", "upload"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_who_is_killed_leaves_a_repository_that_the_next_run_goes_on_with(cvmfs, name, when):
    put(cvmfs.open(lock_seconds=60), b"content")
    real = getattr(Tools, name)

    def killed(*arguments):
        if when == "after":
            real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            setattr(Tools, name, killed)
            collect(cvmfs, lock_seconds=60)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (cvmfs.spool / FLAG).exists()
    put(cvmfs.open(lock_seconds=60), b"more")
    collect(cvmfs)
    assert list(cvmfs.spool.glob("*.lock")) == []
    assert cvmfs.problems() == ""
