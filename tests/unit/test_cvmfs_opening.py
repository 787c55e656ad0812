"""Who is about to open a transaction is waited for: two at the same time spoil each other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.repository.cvmfs.opening import begun
from support.cvmfs_repositories import both
from support.logs import told
from support.staged_trees import NAME, publish, stage

# Commands for all repositories are seen by whoever looks, on the whole machine.
by_one_worker = pytest.mark.xdist_group("commands")

REPOSITORY = "opening.example.org"


@contextmanager
def running(
    tmp_path: Path, *words: str, work: str = "echo; read -r line"
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has begun, and ends when it hears of it or is killed."""
    program = tmp_path / "bin/cvmfs_server"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{work}\n")
    program.chmod(0o755)
    pipe = subprocess.PIPE
    with subprocess.Popen([program, *words], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@by_one_worker
@pytest.mark.parametrize(
    "words",
    [
        ("tag", "-a", "v1", REPOSITORY),
        ("gc", "-f", REPOSITORY),
        ("gc", "-a"),
        ("gc", "-af"),
        ("check", REPOSITORY),
        ("check", "-ai"),
        ("rollback", "-t", "v1", REPOSITORY),
        ("mount", REPOSITORY),
        ("resign", "-p", REPOSITORY),
    ],
)
def test_command_that_sets_the_flag_a_while_after_it_has_looked_is_seen(tmp_path, words):
    with running(tmp_path, *words):
        assert begun(REPOSITORY) == words[0]
    assert begun(REPOSITORY) == ""


@by_one_worker
@pytest.mark.parametrize(
    "words",
    [
        ("tag", "-a", "v1", "other.example.org"),
        ("transaction", REPOSITORY),
        ("publish", REPOSITORY),
        ("check", "-i", "other.example.org"),
    ],
)
def test_others_cannot_come_in_between(tmp_path, words):
    with running(tmp_path, *words):
        assert begun(REPOSITORY) == ""


@by_one_worker
@pytest.mark.parametrize("command", ["check", "scrub"])
def test_check_that_has_begun_to_read_what_is_stored_is_waited_for_no_longer(tmp_path, command):
    reader = tmp_path / "bin/cvmfs_swissknife"
    reader.parent.mkdir()
    reader.write_text("#!/bin/sh\necho\nread -r line\n")
    reader.chmod(0o755)
    # The shell that has the command waits for another shell, as with a repository's owner.
    called = f"sh -c '{reader} {command} -r url; true'; true"
    with running(tmp_path, "check", "-i", REPOSITORY, work=called):
        assert begun(REPOSITORY) == ""
        with running(tmp_path, "check", REPOSITORY):
            assert begun(REPOSITORY) == "check"
        assert begun(REPOSITORY) == ""


@by_one_worker
@pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")
@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_nothing_is_begun_before_such_a_command_has_ended(cvmfs, staging, tmp_path):
    changes = stage(staging)
    with running(tmp_path, "tag", "-a", "v1", cvmfs.name) as process:
        with pytest.raises(RepositoryLocked, match="somebody has begun 'cvmfs_server tag' on"):
            publish(cvmfs.open(), changes)
        with ThreadPoolExecutor() as pool, told("waiting: somebody has begun") as waiting:
            done = pool.submit(publish, cvmfs.open(lock_seconds=60), changes)
            assert waiting.wait(60)
            process.communicate(b"\n")
            done.result(timeout=60)
    assert cvmfs.open().verify(NAME) == []
