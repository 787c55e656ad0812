"""Fixtures of several modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.repository.directory.backend import DirectoryRepository
from support.crashes import in_memory
from support.cvmfs_repositories import Real, StandIn, both, repository_for
from support.staged_trees import open_repository


@pytest.fixture
def repository(tmp_path: Path) -> DirectoryRepository:
    """A repository with nothing in it."""
    return open_repository(tmp_path)


@pytest.fixture(params=both())
def cvmfs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StandIn | Real:
    """A repository of CernVM-FS with nothing in it: the stand-in's, and a real one."""
    return repository_for(request.param, tmp_path, monkeypatch)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """An empty directory in which to stage layers and images."""
    path = tmp_path / "staging"
    path.mkdir()
    return path


@pytest.fixture
def memory() -> Iterator[Path]:
    """A fast place for many short repositories."""
    with in_memory() as path:
        yield path
