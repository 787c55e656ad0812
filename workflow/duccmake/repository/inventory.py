"""What a repository holds, and which of its images use it, from the repository alone.

An image counts with all that is known of it: its record, its manifest (DUCC's
images have no record), and its public link.  What is in the way of a whole picture
is told: as long as an image's metadata cannot be read, nothing is known to be unused.
"""

from __future__ import annotations

import functools
import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ducc, podman
from .layout import RESERVED, Layout

_FLAT = re.compile(r"(?:^|/)\.flat/([0-9a-f]{2})/(\1[0-9a-f]+)/?\Z")
_KEY = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{128})\Z")


@dataclass(frozen=True, slots=True)
class Use:
    """What somebody needs: flat trees and layers by the names of their directories.

    These are the bare digits of configurations' and blobs' digests.
    """

    flats: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()

    def __or__(self, other: Use) -> Use:
        return Use(self.flats | other.flats, self.layers | other.layers)

    @classmethod
    def of(cls, configs: Iterable[object], layers: Iterable[object]) -> Use:
        """From digests, as text or parsed."""
        return cls(frozenset(map(_digits, configs)), frozenset(map(_digits, layers)))


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is, and who uses it.

    ``uses`` are by image's name, or by the path of a link without metadata.
    ``strange`` are paths that no image of duccmake's or DUCC's accounts for: they
    are left alone.  ``unread`` says which images cannot be read, and why.
    """

    uses: Mapping[str, Use]
    present: Use
    strange: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def used(self) -> Use:
        """All that somebody uses."""
        flats = frozenset(key for use in self.uses.values() for key in use.flats)
        layers = frozenset(key for use in self.uses.values() for key in use.layers)
        return Use(flats, layers)


def survey(layout: Layout) -> Survey:
    """Look through a repository: metadata, public links, and the names of what there is."""
    surveyor = _Surveyor(layout)
    surveyor.read_metadata()
    surveyor.read_links()
    flats = {
        *surveyor.shards(layout.flats),
        *surveyor.shards(layout.flat_metadata),
        *surveyor.in_store(),
    }
    present = Use(frozenset(flats), frozenset(surveyor.shards(layout.layers)))
    return Survey(
        surveyor.uses, present, tuple(sorted(surveyor.strange)), tuple(sorted(surveyor.unread))
    )


def flat_layers(layout: Layout, key: str) -> frozenset[str]:
    """The layers that a flat tree was made of, as far as that was noted."""
    try:
        path = layout.flat_metadata / key[:2] / key / "flat.json"
        return frozenset(map(_digits, json.loads(path.read_bytes())["layers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


@dataclass(slots=True)
class _Surveyor:
    layout: Layout
    uses: dict[str, Use] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def read_metadata(self) -> None:
        """What each image's record and manifest name."""
        base, flats = self.layout.metadata, self.layout.flat_metadata
        for directory, below, files in os.walk(base, onerror=_raise):
            below[:] = [name for name in below if Path(directory, name) != flats]
            if {"manifest.json", "record.json"}.intersection(files):
                name = os.path.relpath(directory, base)
                try:
                    self.uses[name] = _use(Path(directory))
                except ValueError as error:
                    self.unread.append(f".metadata/{name}: {error}")

    def read_links(self) -> None:
        """What the public links lead to, where no metadata says more."""
        known = frozenset(key for use in self.uses.values() for key in use.flats)
        for path in links(self.layout.root):
            match = _FLAT.search(str(path.readlink()))
            if match and match[2] not in known:
                layers = flat_layers(self.layout, match[2])
                link = str(path.relative_to(self.layout.root))
                self.uses[link] = Use(frozenset({match[2]}), layers)

    def shards(self, base: Path) -> Iterator[str]:
        """The names in ``base/<two digits>/``; anything else there is strange."""
        for shard in _entries(base):
            if not shard.is_dir(follow_symlinks=False):
                self._meet(shard.path)
                continue
            for entry in _entries(Path(shard.path)):
                is_key = _KEY.match(entry.name) and entry.name[:2] == shard.name
                if is_key and entry.is_dir(follow_symlinks=False):
                    yield entry.name
                else:
                    self._meet(entry.path)

    def in_store(self) -> Iterator[str]:
        """The images of podman's store that were published here; any other is strange.

        Where it has a flat tree it is DUCC's, and goes with that.
        """
        ours = podman.published(self.layout)
        used = {key for use in self.uses.values() for key in use.flats}
        for entry in _entries(podman.images(self.layout)):
            flat = self.layout.flats / entry.name[:2] / entry.name
            if not _KEY.match(entry.name):
                continue
            if entry.name in ours:
                yield entry.name
            elif entry.name not in used and not flat.is_dir():
                self._meet(entry.path)

    def _meet(self, path: str) -> None:
        name = os.path.relpath(path, self.layout.root)
        if not name.endswith("/.cvmfscatalog"):
            self.strange.append(name)


def _use(directory: Path) -> Use:
    """What an image's record or its manifest names, and both where both can be read."""
    found, errors = [], []
    for name, read in (("record.json", _use_of_record), ("manifest.json", _use_of_manifest)):
        path = directory / name
        if path.exists():
            try:
                found.append(read(json.loads(path.read_bytes())))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                errors.append(f"{name} is damaged: {error!r}")
    if not found:
        raise ValueError("; ".join(errors))
    return functools.reduce(operator.or_, found)


def _use_of_record(members: Any) -> Use:
    return Use.of([members["config"]], members["layers"])


def _use_of_manifest(written: Any) -> Use:
    members = ducc.folded(written)
    return Use.of([members["config"]["digest"]], [layer["digest"] for layer in members["layers"]])


def links(root: Path) -> Iterator[Path]:
    """All symlinks of the public tree, and of images for other platforms."""
    pending = [
        Path(entry.path)
        for entry in _entries(root)
        if entry.name not in RESERVED and (entry.name[0] != "." or entry.name == ".multiarch")
    ]
    while pending:
        path = pending.pop()
        if path.is_symlink():
            yield path
        elif path.is_dir():
            pending += [Path(entry.path) for entry in _entries(path) if entry.name[0] != "."]


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _digits(digest: Any) -> str:
    digits = str(digest).rpartition(":")[2]
    if not _KEY.match(digits):
        raise ValueError(f"{digest!r} is no digest")
    return digits


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
