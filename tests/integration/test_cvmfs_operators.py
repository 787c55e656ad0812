"""An operator's publications into the same repository beside ours, on the real CernVM-FS."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from duccmake.repository.edits import Edits
from support.cvmfs_repositories import Real, both, repository_for
from support.staged_trees import TOP, file, publish, stage

pytestmark = pytest.mark.cvmfs

SECONDS = float(os.environ.get("DUCCMAKE_OPERATORS_SECONDS", "60"))
"""For how long both sides publish."""

PAUSE = 0.3
"""For how many seconds an operator has nothing to publish: an endless loop lets nobody in."""

BUSY = (
    "is in a transaction",
    "another transaction is already open",
    "currently publishing",
    "currently being published",
    "cannot establish writable mountpoint",
    "cannot retrieve root hash from read-only mount point",
    "cannot open tag database",
    "cannot open reflog",
    "while in a transaction",
    "Failed to acquire gc lock",
)
"""What is true of a repository that somebody else publishes into."""


ASKED = ("Another publish process is active", "Failed to acquire publishing lock")
"""What is true at the moment at which somebody asks whether anybody publishes."""


@pytest.fixture
def cvmfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Real:
    (parameters,) = both("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")[1].values
    found = repository_for(parameters, tmp_path, monkeypatch)
    assert isinstance(found, Real)
    return found


@dataclass
class Operator:
    """Publishes by ``cvmfs_server`` alone, tags and collects garbage; notes what was refused."""

    cvmfs: Real
    published: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def work(self, done: threading.Event) -> None:
        """Go on until ``done``."""
        for number in itertools.count():
            if done.wait(PAUSE):
                return
            if self._may("transaction", self.cvmfs.name):
                name = f"of-the-operator-{number}"
                (self.cvmfs.mounts / self.cvmfs.name / name).write_text(name)
                # The transaction is theirs: nothing may come between.
                if self._publishes():
                    self.published.append(name)
            if number % 4 == 1:
                self._may("tag", "-a", f"tag-{number}", self.cvmfs.name)
            if number % 8 == 3:
                self._may("gc", "-f", self.cvmfs.name)

    def _may(self, *arguments: str) -> bool:
        """Run a command that others may keep from working, if it says so."""
        done = self._run(*arguments)
        if done.returncode == 0:
            return True
        busy = any(words in done.stdout for words in BUSY)
        (self.refused if busy else self.wrong).append(f"{arguments[0]}: {done.stdout}")
        return False

    def _publishes(self) -> bool:
        """Publish; again where somebody asks at the very moment whether anybody does."""
        done = self._run("publish", self.cvmfs.name)
        while done.returncode and any(words in done.stdout for words in ASKED):
            self.refused.append(done.stdout)
            done = self._run("publish", self.cvmfs.name)
        if done.returncode:
            self.wrong.append(f"publish: {done.stdout}")
        return done.returncode == 0

    @staticmethod
    def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["cvmfs_server", *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def test_operators_loop_and_ours_publish_side_by_side_and_neither_spoils_the_other(
    cvmfs: Real, tmp_path: Path
):
    staging = tmp_path / "staging"
    staging.mkdir()
    repository = cvmfs.open(lock_seconds=300)
    layout = repository.view.layout
    operator, done = Operator(cvmfs), threading.Event()
    names, rounds = [], 0
    with ThreadPoolExecutor() as pool:
        theirs = pool.submit(operator.work, done)
        try:
            ends = time.monotonic() + SECONDS
            while time.monotonic() < ends or not operator.published:
                assert not theirs.done()
                rounds += 1
                name = f"registry.example.org/tools/app:{rounds}"
                top = [*TOP, file("version", name.encode())]
                publish(repository, stage(staging, name, top=top, config=name))
                names.append(name)
                if rounds % 5 == 0:
                    # What edits put goes by an archive, and what they remove by two more ways.
                    edits = Edits(repository.view)
                    edits.file(PurePosixPath(".metadata/note.json"), name.encode())
                    edits.remove(layout.link(names[-1]))
                    edits.remove(layout.manifest(names[-1]).parent)
                    with repository.lock():
                        repository.edit(edits)
                    names.pop()
                if rounds % 7 == 0:
                    with repository.lock():
                        repository.reclaim()
        finally:
            done.set()
            theirs.result()
            assert operator.wrong == []

    assert not (cvmfs.spool / "in_transaction.lock").exists()
    assert os.path.ismount(cvmfs.spool / "rdonly")
    assert os.path.ismount(cvmfs.mounts / cvmfs.name)
    for name in operator.published:
        assert (repository.path / name).read_text() == name
    assert sorted(repository.names()) == sorted(names)
    for name in names[:: max(1, len(names) // 20)]:
        assert repository.verify(name) == []
    assert cvmfs.problems() == ""
    counts = rounds, len(operator.published), len(operator.refused)
    print("published: {} of ours, {} of the operator's; {} refused".format(*counts))
