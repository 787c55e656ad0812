"""Fixtures of several modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crashes import in_memory


@pytest.fixture
def memory() -> Iterator[Path]:
    """A fast place for many short repositories."""
    with in_memory() as path:
        yield path
