"""CernVM-FS repositories for tests: a stand-in for ``cvmfs_server``, and the real one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duccmake.repository.cvmfs.backend import CvmfsRepository

STAND_IN = Path(__file__).parent / "cvmfs_standin"
NAME = "unpacked.example.org"


@dataclass
class StandIn:
    """A repository of the stand-in's, below ``base``."""

    base: Path
    name: str = NAME
    real = False

    def make(self, *settings: str) -> StandIn:
        """Make the repository; ``settings`` are lines of its server.conf."""
        self.base.mkdir(parents=True, exist_ok=True)
        self.server("mkfs", *settings, self.name)
        return self

    @property
    def environment(self) -> dict[str, str]:
        """What has ``cvmfs_server`` be the stand-in, for this repository."""
        return {
            "PATH": f"{STAND_IN}:{os.environ['PATH']}",
            "CVMFS_STANDIN": str(self.base),
        }

    @property
    def mounts(self) -> Path:
        """What stands for /cvmfs."""
        return self.base / "cvmfs"

    @property
    def server_config(self) -> Path:
        """What stands for /etc/cvmfs/repositories.d."""
        return self.base / "etc"

    @property
    def spool(self) -> Path:
        """What stands for /var/spool/cvmfs/NAME."""
        return self.base / "spool" / self.name

    def open(self, **settings: Any) -> CvmfsRepository:
        """The repository as duccmake sees it."""
        settings = {"lock_seconds": 0, **settings}
        return CvmfsRepository(
            self.name, root=self.mounts, server_config=self.server_config, **settings
        )

    def server(self, *arguments: str, status: int = 0) -> str:
        """Run ``cvmfs_server`` as an operator does; returns what it said."""
        done = subprocess.run(
            ["cvmfs_server", *arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def revision(self) -> int:
        """The number of the revision that readers see."""
        return int((self.mounts / self.name).readlink().name)

    def problems(self) -> str:
        """What a check of the repository finds."""
        return ""
