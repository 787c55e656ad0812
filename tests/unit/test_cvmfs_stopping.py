"""A job that is told to stop: it ends while it waits for others, and finishes what it publishes."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.jobs.job import PLAN_VARIABLE, RUN_VARIABLE
from support.cvmfs_repositories import both
from support.planned import image, plan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

JOB = """
    import pickle, sys
    from pathlib import Path, PurePosixPath
    order, publisher, *names = sys.argv[1:]
    cvmfs, sys.path[:0] = pickle.loads(Path(order).read_bytes())
    from duccmake.jobs.job import running
    from duccmake.repository.edits import Edits
    from duccmake.workspace.reports import Rule

    with running(Rule.PRUNE_IMAGES, log="job.log"):
        repository = cvmfs.open(lock_seconds=600, publisher=publisher)
        with repository.lock():
            for name in names:
                edits = Edits(repository.view)
                edits.file(PurePosixPath(name), name.encode())
                repository.edit(edits)
                Path("between").read_bytes() if name != names[-1] else None
        Path("receipt").touch()
"""

PAUSING = """\
#!/bin/sh
if [ "$1" = {command} ]; then
    : >{begun}
    read -r _ <{go}
fi
exec {program} "$@"
"""


@pytest.fixture(autouse=True)
def _a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PLAN_VARIABLE, str(plan([image()]).save()))
    monkeypatch.setenv(RUN_VARIABLE, "results/runs/now")


@contextmanager
def job(cvmfs, base: Path, publisher: str, *names: str) -> Iterator[subprocess.Popen[bytes]]:
    """A job that publishes a file after the other, in ``base``."""
    order = base / "order"
    # The stand-in's class comes from the path, so that goes first.
    head = f"import sys; sys.path[:0] = {sys.path!r}\n"
    order.write_bytes(pickle.dumps((cvmfs, sys.path)))
    words = [sys.executable, "-c", head + textwrap.dedent(JOB), str(order), publisher, *names]
    with subprocess.Popen(words, cwd=base) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    """Wait until a job says something."""
    while not (log.exists() and words in log.read_text()):
        assert process.poll() is None
        os.sched_yield()


def shown(cvmfs, name: str) -> bool:
    return (cvmfs.spool / "rdonly" / name).exists()


@pytest.mark.parametrize("cvmfs", both(), indirect=True)
@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_who_waits_for_an_operator_ends_at_once(cvmfs, tmp_path, publisher):
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "work").write_text("work")
    with job(cvmfs, tmp_path, publisher, "ours") as process:
        until(process, tmp_path / "job.log", "waiting: somebody has a transaction open")
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    assert not (tmp_path / "receipt").exists()
    cvmfs.server("publish", cvmfs.name)
    assert shown(cvmfs, "work")
    with job(cvmfs, tmp_path, publisher, "ours") as process:
        assert process.wait(60) == 0
    assert shown(cvmfs, "ours")
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both(), indirect=True)
@pytest.mark.parametrize(
    ("publisher", "program", "command"),
    [("catalogs", "cvmfs_swissknife", "sign"), ("ingest", "cvmfs_server", "ingest")],
)
def test_who_publishes_finishes_and_notes_it(
    cvmfs, tmp_path, monkeypatch, publisher, program, command
):
    shim, begun, go = (tmp_path / name for name in (f"bin/{program}", "begun", "go"))
    shim.parent.mkdir()
    found = shutil.which(program)
    shim.write_text(PAUSING.format(command=command, begun=begun, go=go, program=found))
    shim.chmod(0o755)
    os.mkfifo(go)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
        with job(cvmfs, tmp_path, publisher, "ours") as process:
            while not begun.exists():
                assert process.poll() is None
                os.sched_yield()
            process.terminate()
            go.write_bytes(b"\n")
            assert process.wait(60) == 0
    assert (tmp_path / "receipt").exists()
    assert shown(cvmfs, "ours")


@pytest.mark.parametrize("cvmfs", both(), indirect=True)
@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_who_has_published_notes_that_though_more_is_waited_for(cvmfs, tmp_path, publisher):
    os.mkfifo(tmp_path / "between")
    with job(cvmfs, tmp_path, publisher, "first", "second") as process:
        with (tmp_path / "between").open("wb"):
            cvmfs.server("transaction", cvmfs.name)
        until(process, tmp_path / "job.log", "waiting: somebody has a transaction open")
        process.terminate()
        cvmfs.server("abort", "-f", cvmfs.name)
        assert process.wait(60) == 0
    assert (tmp_path / "receipt").exists()
    assert shown(cvmfs, "first")
    assert shown(cvmfs, "second")
