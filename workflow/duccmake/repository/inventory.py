"""What a repository holds, and which of its images use it, from the repository alone.

An image counts with all that is known of it: its record, its manifest (DUCC's
images have no record), and its public link.  What is in the way of a whole picture
is told: as long as an image's metadata cannot be read, nothing is known to be unused.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..oci.reference import MULTIARCH
from . import ducc, podman
from .layout import RESERVED
from .view import Kind, View

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


def survey(view: View) -> Survey:
    """Look through a repository: metadata, public links, and the names of what there is."""
    layout, surveyor = view.layout, _Surveyor(view)
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


def flat_layers(view: View, key: str) -> frozenset[str]:
    """The layers that a flat tree was made of, as far as that was noted."""
    try:
        path = view.layout.flat_metadata / key[:2] / key / "flat.json"
        return frozenset(map(_digits, json.loads(view.read(path))["layers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


@dataclass(slots=True)
class _Surveyor:
    view: View
    uses: dict[str, Use] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def read_metadata(self) -> None:
        """What each image's record and manifest name."""
        base, flats = self.view.layout.metadata, self.view.layout.flat_metadata
        for directory, found in self.view.walk(base, lambda path: path != flats):
            if any(found.get(name) not in (None, Kind.DIRECTORY) for name in _METADATA):
                name = str(directory.relative_to(base))
                try:
                    self.uses[name] = _use(self.view, directory)
                except ValueError as error:
                    self.unread.append(f".metadata/{name}: {error}")

    def read_links(self) -> None:
        """What the public links lead to, where no metadata says more."""
        known = frozenset(key for use in self.uses.values() for key in use.flats)
        for path in links(self.view):
            match = _FLAT.search(self.view.target(path))
            if match and match[2] not in known:
                layers = flat_layers(self.view, match[2])
                self.uses[str(path)] = Use(frozenset({match[2]}), layers)

    def shards(self, base: PurePosixPath) -> Iterator[str]:
        """The names in ``base/<two digits>/``; anything else there is strange."""
        for shard, kind in self.view.entries(base).items():
            if kind is not Kind.DIRECTORY:
                self._meet(base / shard)
                continue
            for name, kind in self.view.entries(base / shard).items():
                is_key = _KEY.match(name) and name[:2] == shard
                if is_key and kind is Kind.DIRECTORY:
                    yield name
                else:
                    self._meet(base / shard / name)

    def in_store(self) -> Iterator[str]:
        """The images of podman's store that were published here; any other is strange.

        Where it has a flat tree it is DUCC's, and goes with that.
        """
        ours = podman.published(self.view)
        used = {key for use in self.uses.values() for key in use.flats}
        for name in self.view.entries(podman.IMAGES):
            flat = self.view.layout.flats / name[:2] / name
            if not _KEY.match(name):
                continue
            if name in ours:
                yield name
            elif name not in used and not self.view.is_dir(flat):
                self._meet(podman.IMAGES / name)

    def _meet(self, path: PurePosixPath) -> None:
        if path.name != ".cvmfscatalog":
            self.strange.append(str(path))


def _use(view: View, directory: PurePosixPath) -> Use:
    """What an image's record or its manifest names, and both where both can be read."""
    found, errors = [], []
    for name, use_of in _METADATA.items():
        path = directory / name
        if view.exists(path):
            try:
                found.append(use_of(json.loads(view.read(path))))
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


_METADATA = {"record.json": _use_of_record, "manifest.json": _use_of_manifest}
"""The files that tell what an image uses, and how each does."""


def image_names(view: View, files: Collection[str] = ("manifest.json",)) -> list[str]:
    """The names of the images that have one of these files, sorted."""
    base = view.layout.metadata

    def is_public(path: PurePosixPath) -> bool:
        return path.name[0] != "." or path.name == MULTIARCH

    return sorted(
        str(directory.relative_to(base))
        for directory, entries in view.walk(base, is_public)
        if any(entries.get(name) is Kind.FILE for name in files)
    )


def bare_links(view: View) -> Iterator[PurePosixPath]:
    """Links that lead to a flat tree and have no metadata beside them."""
    known = set(image_names(view, ("manifest.json", "record.json")))
    for path in links(view):
        if _FLAT.search(view.target(path)) and str(path) not in known:
            yield path


def links(view: View) -> Iterator[PurePosixPath]:
    """All symlinks of the public tree, and of images for other platforms."""
    for directory, found in view.walk(PurePosixPath(), _is_public):
        paths = (directory / name for name, kind in found.items() if kind is Kind.LINK)
        yield from filter(_is_public, paths)


def _is_public(path: PurePosixPath) -> bool:
    return str(path) == MULTIARCH or (path.name[0] != "." and str(path) not in RESERVED)


def _digits(digest: Any) -> str:
    digits = str(digest).rpartition(":")[2]
    if not _KEY.match(digits):
        raise ValueError(f"{digest!r} is no digest")
    return digits
