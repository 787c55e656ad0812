"""DUCC's chains: the trees of an image's lowest layers, from which it makes flat trees.

A flat tree is a copy of the last one, and nothing leads into them: DUCC alone needs them,
for the next image that begins with the same layers.  An image that duccmake has taken over
has a record; for one without, DUCC may still be at work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import ducc
from .layout import Layout

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def unused(layout: Layout) -> frozenset[str]:
    """The chains, whole and half made, that no image of DUCC's has, by their directories' names."""
    there = frozenset(_present(layout))
    return there.difference(_used(layout)) if there else there


def paths(layout: Layout, key: str) -> tuple[Path, ...]:
    """All that there is of a chain; DUCC has a mark for one that it has not finished."""
    return (layout.chains / key[:2] / key, layout.dirty_chains / key)


def emptied(layout: Layout, gone: Iterable[str]) -> Iterator[Path]:
    """The directories in which nothing is left when these chains are gone: outermost ones."""
    removed = {path for key in gone for path in paths(layout, key)}
    whole: set[Path] = set()
    shards = [Path(entry.path) for entry in _entries(layout.chains) if entry.is_dir()]
    for directory in (*shards, layout.chains, layout.dirty_chains):
        found = {Path(entry.path) for entry in _entries(directory)}
        found.discard(directory / ".cvmfscatalog")
        if found and found <= removed | whole:
            whole.add(directory)
    yield from (path for path in sorted(whole) if path.parent not in whole)


def _present(layout: Layout) -> Iterator[str]:
    for shard in _entries(layout.chains):
        for entry in _entries(Path(shard.path)):
            if _KEY.match(entry.name) and entry.name[:2] == shard.name:
                yield entry.name
    yield from (entry.name for entry in _entries(layout.dirty_chains) if _KEY.match(entry.name))


def _used(layout: Layout) -> Iterator[str]:
    for directory, _, files in os.walk(layout.metadata):
        if "manifest.json" in files and "record.json" not in files:
            members = ducc.folded(json.loads(Path(directory, "manifest.json").read_bytes()))
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


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
