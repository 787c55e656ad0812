"""The catalogs that a repository has whatever its images are."""

from __future__ import annotations

from pathlib import PurePosixPath

from ...cvmfs.catalog import MARKER
from ...cvmfs.split import nested
from ..layout import Layout

__all__ = ["MARKER", "nested", "standing"]


def standing(layout: Layout) -> list[PurePosixPath]:
    """The catalogs of the repository itself, relative to its root; images come below them."""
    return [layout.layers, layout.flats, layout.metadata]
