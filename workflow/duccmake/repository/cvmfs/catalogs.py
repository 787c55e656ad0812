"""The catalogs that a repository has whatever its images are."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..layout import Layout


def standing(layout: Layout) -> list[PurePosixPath]:
    """The catalogs of the repository itself, relative to its root; images come below them."""
    return [layout.layers, layout.flats, layout.metadata]
