"""Fixtures of several modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from staged_trees import open_repository

from crashes import in_memory
from duccmake.repository.directory import DirectoryRepository


@pytest.fixture
def repository(tmp_path: Path) -> DirectoryRepository:
    """A repository with nothing in it."""
    return open_repository(tmp_path)


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
