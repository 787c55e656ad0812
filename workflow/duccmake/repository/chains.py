"""DUCC's chains: the trees of an image's lowest layers, from which it makes flat trees.

A flat tree is a copy of the last one, and nothing leads into them: DUCC alone needs them,
for the next image that begins with the same layers.  An image that duccmake has taken over
has a record; for one without, DUCC may still be at work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from . import ducc
from .layout import Layout
from .view import Kind, View

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def unused(view: View) -> frozenset[str]:
    """The chains, whole and half made, that no image of DUCC's has, by their directories' names."""
    there = frozenset(_present(view))
    return there.difference(_used(view)) if there else there


def paths(layout: Layout, key: str) -> tuple[PurePosixPath, ...]:
    """All that there is of a chain; DUCC has a mark for one that it has not finished."""
    return (layout.chains / key[:2] / key, layout.dirty_chains / key)


def emptied(view: View, gone: Iterable[str]) -> Iterator[PurePosixPath]:
    """The directories in which nothing is left when these chains are gone: outermost ones."""
    layout = view.layout
    removed = {path for key in gone for path in paths(layout, key)}
    whole: set[PurePosixPath] = set()
    for directory in (*_shards(view), layout.chains, layout.dirty_chains):
        found = {directory / name for name in view.entries(directory)}
        found.discard(directory / ".cvmfscatalog")
        if found and found <= removed | whole:
            whole.add(directory)
    yield from (path for path in sorted(whole) if path.parent not in whole)


def _present(view: View) -> Iterator[str]:
    for shard in _shards(view):
        for name in view.entries(shard):
            if _KEY.match(name) and name[:2] == shard.name:
                yield name
    yield from filter(_KEY.match, view.entries(view.layout.dirty_chains))


def _shards(view: View) -> list[PurePosixPath]:
    found = view.entries(view.layout.chains)
    return [view.layout.chains / name for name, kind in found.items() if kind is Kind.DIRECTORY]


def _used(view: View) -> Iterator[str]:
    for directory, found in view.walk(view.layout.metadata):
        if "manifest.json" in found and "record.json" not in found:
            members = ducc.folded(json.loads(view.read(directory / "manifest.json")))
            yield from _chain(members["layers"])


def _chain(layers: Iterable[dict[str, Any]]) -> list[str]:
    """The chains of an image as DUCC counts them: by the digests of blobs, without foreign ones."""
    listed: list[str] = []
    count = 0
    for layer in layers:
        if layer.get("mediaType") == _FOREIGN:
            listed.append("")
            continue
        below = f"{listed[count - 1]} " if count else ""
        listed.append("sha256:" + hashlib.sha256(f"{below}{layer['digest']}".encode()).hexdigest())
        count += 1
    return [chain.rpartition(":")[2] for chain in listed if chain]
