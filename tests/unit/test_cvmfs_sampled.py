"""An operator's command that has seen what we mount for a moment, and acts on it once it may."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.repository.cvmfs.claim import Claim
from support.cvmfs_commits import commit_file, manifest_of
from support.cvmfs_repositories import Real, both
from support.logs import told

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root"),
    pytest.mark.parametrize("cvmfs", both()[1:], indirect=True),
]

ASKING = """\
#!/bin/sh
# What is published it asks for after what is mounted.
case "$*" in
    *" -c") [ -e {begun} ] || {{ : >{begun}; read -r _ <{go}; }} ;;
esac
exec {program} "$@"
"""

UNMOUNTED = """\
#!/bin/sh
[ "$*" != "-F  {union} " ] && exec {program} "$@"
exit 1
"""


def shim(base: Path, name: str, text: str, **words: object) -> None:
    path = base / name
    path.write_text(text.format(program=shutil.which(name), **words))
    path.chmod(0o755)


def test_tag_that_saw_the_old_revision_without_its_union_mounts_nothing_beside_us(
    cvmfs, tmp_path, monkeypatch
):
    """It asks whether somebody publishes only then, and would mount below a union in use."""
    shims, begun, go = (tmp_path / name for name in ("bin", "begun", "go"))
    shims.mkdir()
    os.mkfifo(go)
    shim(shims, "cvmfs_swissknife", ASKING, begun=begun, go=go)
    shim(shims, "grep", UNMOUNTED, union=cvmfs.mounts / cvmfs.name)
    tags: list[subprocess.Popen[str]] = []
    real = Claim._publishing

    def meanwhile(claim: Claim) -> int:
        # Others have been looked for, and the lock is not held yet.
        tags.append(
            subprocess.Popen(
                ["timeout", "60", "cvmfs_server", "tag", "-a", "of-the-operator", cvmfs.name],
                env={**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        while not begun.exists():
            assert tags[0].poll() is None
            os.sched_yield()
        return real(claim)

    monkeypatch.setattr(Claim, "_publishing", meanwhile)
    before = cvmfs.revision()
    with (
        ThreadPoolExecutor() as pool,
        told("waiting: somebody has begun 'cvmfs_server tag'") as is_told,
    ):
        ours = pool.submit(commit_file, cvmfs, tmp_path / "objects", "ours", seconds=60)
        while not (is_told.is_set() or ours.done()):
            os.sched_yield()
        go.write_bytes(b"\n")
        said, _ = tags[0].communicate()
        ours.result()
    assert "currently publishing" in said
    assert tags[0].returncode == 1
    assert list(cvmfs.spool.glob("*.lock")) == []
    assert cvmfs.revision() == manifest_of(cvmfs).revision == before + 1
    assert (cvmfs.mounts / cvmfs.name / "ours").read_text() == "ours"
    monkeypatch.undo()
    cvmfs.server("tag", "-a", "of-the-operator", cvmfs.name)
    cvmfs.server("tag", "-f", "-r", "of-the-operator", cvmfs.name)
    cvmfs.server("transaction", cvmfs.name)
    cvmfs.server("publish", cvmfs.name)
    assert cvmfs.problems() == ""


@contextmanager
def apart(cvmfs: Real) -> Iterator[int]:
    """A process that has copies of the mounts in a mount namespace of its own."""
    words = ["unshare", "--mount", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_who_keeps_what_was_mounted_is_named_and_waited_for_with_everything_held(cvmfs, tmp_path):
    with ThreadPoolExecutor() as pool, told("in a mount namespace of its own") as is_told:
        with apart(cvmfs):
            ours = pool.submit(commit_file, cvmfs, tmp_path / "objects", "ours", seconds=60)
            assert is_told.wait(60)
            cvmfs.refused("transaction", cvmfs.name)
            cvmfs.refused("tag", "-a", "of-the-operator", cvmfs.name)
        ours.result(60)
    assert list(cvmfs.spool.glob("*.lock")) == []
    assert (cvmfs.mounts / cvmfs.name / "ours").read_text() == "ours"


def test_what_is_in_use_is_mounted_anew_all_the_same(cvmfs, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with (cvmfs.spool / "rdonly/new_repository").open():
        commit_file(cvmfs, tmp_path / "objects", "ours", seconds=60)
    assert "mounting failed: " in caplog.text  # or there would be nothing to see here
    assert list(cvmfs.spool.glob("*.lock")) == []
    assert (cvmfs.mounts / cvmfs.name / "ours").read_text() == "ours"


def test_nothing_of_others_and_nothing_of_ours_is_left_or_lost_where_programs_work(cvmfs, tmp_path):
    theirs = cvmfs.spool / "tmp/of-the-operator"
    theirs.write_text("work")
    commit_file(cvmfs, tmp_path / "objects", "ours", seconds=60)
    assert list(theirs.parent.iterdir()) == [theirs]
    assert theirs.read_text() == "work"
    theirs.unlink()
