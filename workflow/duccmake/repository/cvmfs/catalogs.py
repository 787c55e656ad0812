"""Where CernVM-FS catalogs begin.

A catalog is what a client loads to look anything up below its directory: one of
many entries is slow to load, many of few entries cost a request each.  CernVM-FS
advises 1,000 to 200,000 entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from ..layout import Layout

MARKER = b".cvmfscatalog"
"""The empty file that has a catalog begin in its directory."""

MOST_ENTRIES = 150_000
FEWEST_ENTRIES = 1_000


def standing(layout: Layout) -> list[PurePosixPath]:
    """The catalogs of the repository itself, relative to its root; images come below them."""
    return [layout.layers, layout.flats, layout.metadata]


def nested(directories: Iterable[tuple[bytes, int]]) -> list[bytes]:
    """The directories of a tree in which further catalogs begin, beside the root's own.

    ``directories`` are those of the tree, parents first, each with the number of
    entries in it (``.`` is the root).  Empty where the tree is small enough.
    """
    counts = dict(directories)
    if sum(counts.values()) <= MOST_ENTRIES:
        return []
    children: dict[bytes, list[bytes]] = {}
    for path in counts:
        if path != b".":
            parent = path.rpartition(b"/")[0] or b"."
            children.setdefault(parent, []).append(path)
    begun = []
    weights: dict[bytes, int] = {}
    for path in reversed(counts):
        below = sorted(children.get(path, ()), key=lambda child: weights[child])
        weight = counts[path] + sum(weights[child] for child in below)
        while weight > MOST_ENTRIES and below and weights[below[-1]] >= FEWEST_ENTRIES:
            largest = below.pop()
            begun.append(largest)
            weight -= weights[largest]
        weights[path] = weight
    return begun
