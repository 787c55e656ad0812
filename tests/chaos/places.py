"""Where a world publishes: each backend, and the file systems that are its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.protocol import Repository
from support import oracles
from support.crashes import leftovers
from support.cvmfs_repositories import Real, StandIn, repository_for
from support.runs import REPOSITORY

BACKENDS = ("directory", "standin", "real")


@dataclass
class Disk:
    """A file system of its own, that can get full, or read-only."""

    name: str
    path: Path
    options: str = "size=2g,nr_inodes=500k"

    def full(self, spare: int) -> None:
        """Leave room for so many bytes only."""
        found = os.statvfs(self.path)
        self._remount(f"size={(found.f_blocks - found.f_bfree) * found.f_frsize + spare}")

    def out_of_inodes(self, spare: int) -> None:
        """Leave room for so many files only."""
        found = os.statvfs(self.path)
        self._remount(f"nr_inodes={found.f_files - found.f_ffree + spare}")

    def read_only(self) -> bool:
        """Let nobody write; whether the kernel does so: not while a file is being written."""
        return self._remount("ro")

    def whole(self) -> None:
        """Make it as it was."""
        assert self._remount(f"rw,{self.options}")

    def _remount(self, options: str) -> bool:
        command = ["mount", "-o", f"remount,{options}", str(self.path)]
        return subprocess.run(command, capture_output=True).returncode == 0


@dataclass
class Place:
    """A repository of a backend."""

    backend: str
    base: Path
    cvmfs: StandIn | Real | None = None
    disks: list[Disk] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The repository's name."""
        return self.cvmfs.name if self.cvmfs else REPOSITORY

    def configuration(self) -> dict[str, Any]:
        """The configuration's ``repository``."""
        if not self.cvmfs:
            return {"root": str(self.base / "cvmfs")}
        return {
            "backend": "cvmfs",
            "mounts": str(self.cvmfs.mounts),
            "server_config": str(self.cvmfs.server_config),
        }

    def open(self) -> Repository:
        """The repository as it is now."""
        if self.cvmfs:
            return self.cvmfs.open()
        return DirectoryRepository(self.base / "cvmfs", REPOSITORY)

    @property
    def path(self) -> Path:
        """Where readers find it."""
        root = self.cvmfs.mounts if self.cvmfs else self.base / "cvmfs"
        return root / self.name

    @property
    def journal(self) -> Path:
        """What is there so long as a commit is being made."""
        if self.cvmfs:
            return self.cvmfs.spool / "in_transaction.lock"
        return self.path / ".duccmake/journal.json"

    def problems(self) -> list[str]:
        """What only a publisher that is at work may have left, and what a check finds."""
        if not self.cvmfs:
            return leftovers(self.path)
        found = self.cvmfs.problems().splitlines()
        if self.journal.exists():
            found.append("a transaction is open")
        for mount in (self.cvmfs.spool / "rdonly", self.path) if self.cvmfs.real else ():
            if not os.path.ismount(mount):
                found.append(f"{mount} is not mounted")
        return found


@contextmanager
def place(backend: str, base: Path, *, apart: bool) -> Iterator[Place]:
    """An empty repository below ``base``.

    As root, the working directory, the repository and, where they are to be ``apart``, what is
    staged have file systems of their own.
    """
    with ExitStack() as stack:
        disks = []
        if oracles.ROOT:
            wanted = {"working directory": base / "work", "repository": base / "cvmfs"}
            if backend == "standin":
                wanted["repository"] = base / "standin"
            if backend == "real":
                del wanted["repository"]
            if apart:
                wanted["staging"] = base / "work/results"
            for name, path in wanted.items():
                disk = Disk(name, path)
                stack.enter_context(oracles.tmpfs(path, disk.options.removeprefix("size=")))
                disks.append(disk)
        made = Place(backend, base, disks=disks)
        if backend != "directory":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            settings = ("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")
            made.cvmfs = repository_for((backend, *settings), base, patch)
        yield made
