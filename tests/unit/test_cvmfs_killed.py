"""A publisher by catalogs that is killed at any system call, and what the next one makes of it."""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import duccmake
from duccmake.errors import RepositoryLocked
from duccmake.repository.cvmfs.claim import Claim
from duccmake.repository.cvmfs.others import PUBLISHING_LOCK, is_flocked
from duccmake.repository.cvmfs.server import processes
from support.cvmfs_commits import manifest_of, settings_of, storage_of
from support.cvmfs_repositories import both
from support.staged_trees import TOP, file, publish, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

EVERY = int(os.environ.get("DUCCMAKE_TEST_KILLS", "12"))
"""On the stand-in, a publisher is killed at one of so many places."""

EVERY_REAL = 4 * EVERY

CALLS = (
    *((os, name) for name in ("open", "mkdir", "link", "rename", "replace", "unlink", "rmdir")),
    *((os, name) for name in ("write", "close", "chmod", "chown", "fchmod", "fdatasync", "utime")),
    *((fcntl, "flock"), (io, "open"), (subprocess, "run"), (subprocess, "Popen")),
)
"""What changes something, or has others change it."""

OURS = str(Path(duccmake.__file__).parent)
Place = tuple[str, tuple[str, ...]]


def place(name: str) -> Place:
    """Which call it is, by the lines of the program that lead to it."""
    frames = traceback.extract_stack()
    return name, tuple(
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in frames
        if frame.filename.startswith(OURS)
    )


@contextmanager
def watched(before: Callable[[str], None]) -> Iterator[None]:
    """Have each call told of to ``before``."""

    def telling(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            before(name)
            return real(*arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in CALLS:
            if (module, name) != (subprocess, "Popen"):
                patch.setattr(module, name, telling(name, getattr(module, name)))
        popen = subprocess.Popen.__init__
        patch.setattr(subprocess.Popen, "__init__", telling("Popen", popen))
        patch.setattr(builtins, "open", io.open)
        yield


def places_of(cvmfs, changes) -> list[Place]:
    """The places that publishing comes to, each once, in their order."""
    found: dict[Place, None] = {}
    with watched(lambda name: found.setdefault(place(name))):
        publish(cvmfs.open(lock_seconds=60), changes)
    return list(found)


def publish_and_die(cvmfs, changes, at: Place, *, wait: bool = False) -> bool:
    """Publish in a process that is killed before the call at a place; whether it was.

    What it had begun, to sign or to end its transaction, is waited for if so wished.
    """

    def before(name: str) -> None:
        if name == at[0] and place(name) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            with watched(before):
                publish(cvmfs.open(lock_seconds=60), changes)
        except BaseException:  # nothing of the test may go on here
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(2)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if wait:
        lock = cvmfs.spool / PUBLISHING_LOCK
        while processes(Claim(settings_of(cvmfs)).token) or is_flocked(lock):
            os.sched_yield()
    assert status in (0, signal.SIGKILL), at
    return status == signal.SIGKILL


def stage_numbered(tmp_path: Path, number: int):
    name = f"registry.example.org/tools/app:{number}"
    content = str(number).encode() * 999
    return name, stage(tmp_path / "staging", name, [*TOP, file("of-this", content)])


def left_behind(cvmfs) -> list[Path]:
    """What only a publisher at work has."""
    storage = storage_of(cvmfs)
    return [
        *cvmfs.spool.glob("*.lock"),
        *cvmfs.spool.glob("duccmake/objects-*"),
        *cvmfs.spool.glob("tmp/duccmake-*"),
        *storage._temporary.glob("*"),
    ]


@pytest.mark.parametrize("cvmfs", both("CVMFS_GARBAGE_COLLECTION=true"), indirect=True)
def test_the_next_run_finds_the_old_revision_or_the_new_and_goes_on(cvmfs, tmp_path):
    publish(cvmfs.open(lock_seconds=60), stage_numbered(tmp_path, 0)[1])
    name, changes = stage_numbered(tmp_path, 1)
    places = places_of(cvmfs, changes)
    assert len(places) > 50
    killed = 0
    for number, at in enumerate(places[:: EVERY_REAL if cvmfs.real else EVERY], 2):
        before = manifest_of(cvmfs)
        name, changes = stage_numbered(tmp_path, number)
        killed += publish_and_die(cvmfs, changes, at)
        after = manifest_of(cvmfs)
        assert after == before or after.revision == before.revision + 1, at
        repository = cvmfs.open(lock_seconds=60)
        assert (name in repository.names()) == (after != before), at
        publish(repository, changes)
        assert manifest_of(cvmfs).revision == before.revision + 1, at
        assert left_behind(cvmfs) == [], at
    assert repository.verify(name) == []
    with repository.lock():
        repository.reclaim()
    assert not (cvmfs.spool / "duccmake/unsigned-objects").exists()
    assert killed >= number - 3
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("ended", [False, True], ids=["not open", "ended by the operator"])
def test_operators_transaction_after_the_death_is_theirs(cvmfs, tmp_path, ended):
    """Where ours was left open, an operator who has ended it has the next one for good."""
    publish(cvmfs.open(lock_seconds=60), stage_numbered(tmp_path, 0)[1])
    places = places_of(cvmfs, stage_numbered(tmp_path, 1)[1])
    flag = cvmfs.spool / "in_transaction.lock"
    tried = 0
    for number, at in enumerate(places[:: EVERY_REAL if cvmfs.real else EVERY], 2):
        name, changes = stage_numbered(tmp_path, number)
        publish_and_die(cvmfs, changes, at, wait=True)
        if flag.exists() == ended:
            if ended:
                cvmfs.server("abort", "-f", cvmfs.name)
            tried += 1
            work = cvmfs.mounts / cvmfs.name / "of-the-operator"
            cvmfs.server("transaction", cvmfs.name)
            work.write_text(f"work {number}")
            with pytest.raises(RepositoryLocked):
                publish(cvmfs.open(), stage_numbered(tmp_path, -number)[1])
            assert work.read_text() == f"work {number}", at
            cvmfs.server("publish", cvmfs.name)
            assert (cvmfs.spool / "rdonly/of-the-operator").read_text() == f"work {number}", at
        repository = cvmfs.open(lock_seconds=60)
        publish(repository, changes)
        assert repository.verify(name) == [], at
    assert tried
    assert cvmfs.problems() == ""
