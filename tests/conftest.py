"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.registry import DemoRegistry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DemoRegistry]:
    """A registry of the test's own."""
    with DemoRegistry(tmp_path / "registry") as running:
        yield running
