"""Where things lie in a repository: DUCC's layout, so that its clients keep working."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidReference
from ..reference import Digest

_COMPONENT_BYTES = 250
"""A file name has 255 bytes at most; five are for the temporary name beside it."""

RESERVED = frozenset({"podmanStore"})
"""Top directories that are the repository's own."""


def check_name(name: str) -> str:
    """Return an image's name if it is safe as a path below the repository.

    `InvalidReference` for absolute names, empty, hidden, over-long and ``..``
    components, unprintable characters, and the repository's own directories.
    """
    parts = name.split("/")
    if (
        len(parts) < 2
        or not name.isprintable()
        or parts[0] in RESERVED
        or any(not _is_component(part) for part in parts)
    ):
        raise InvalidReference(
            f"{name!r} cannot be the path of an image in a repository",
            mend="an image's name is registry/repository:tag",
        )
    return name


def _is_component(part: str) -> bool:
    # Hidden names are the repository's own: .layers, .metadata, temporaries.
    return bool(part) and part[0] != "." and len(os.fsencode(part)) <= _COMPONENT_BYTES


def temporary(path: Path) -> Path:
    """The name under which ``path`` is made before it is renamed into its place."""
    return path.with_name(f".{path.name}.new")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a repository below its root.

    Directories of layers and flat trees are named by the digest's bare hex
    digits; sha256 and sha512 cannot collide, since they differ in length.
    ``clients`` is where the machines that use the repository see it, if elsewhere.
    """

    root: Path
    clients: Path | None = None

    def seen(self, path: Path) -> Path:
        """A path of the repository as the machines that use it see it."""
        return (self.clients or self.root) / path.relative_to(self.root)

    @property
    def layers(self) -> Path:
        """All layers."""
        return self.root / ".layers"

    @property
    def metadata(self) -> Path:
        """The images' metadata, by name."""
        return self.root / ".metadata"

    @property
    def flats(self) -> Path:
        """All flat trees."""
        return self.root / ".flat"

    @property
    def flat_metadata(self) -> Path:
        """What is known of the flat trees, outside of them."""
        return self.metadata / ".flat"

    @property
    def remove_schedule(self) -> Path:
        """DUCC's list of superseded manifests, which garbage collection reads."""
        return self.metadata / "remove-schedule.json"

    def layer(self, digest: Digest) -> Path:
        """A layer: ``layerfs`` and ``.metadata``."""
        return self.layers / digest.prefix / digest.hex

    def layerfs(self, digest: Digest) -> Path:
        """A layer's tree."""
        return self.layer(digest) / "layerfs"

    def layer_manifest(self, digest: Digest) -> Path:
        """A layer's ``tree.mtree``."""
        return self.layer(digest) / ".metadata" / "tree.mtree"

    def origin(self, digest: Digest) -> Path:
        """DUCC's backlinks: the configurations of the images that have the layer."""
        return self.layer(digest) / ".metadata" / "origin.json"

    def flat(self, config: Digest) -> Path:
        """A flat tree."""
        return self.flats / config.prefix / config.hex

    def flat_manifest(self, config: Digest) -> Path:
        """A flat tree's ``tree.mtree``, which stands outside of the tree."""
        return self._flat_metadata(config) / "tree.mtree"

    def flat_record(self, config: Digest) -> Path:
        """What is known of a flat tree: its format, layers and losses."""
        return self._flat_metadata(config) / "flat.json"

    def _flat_metadata(self, config: Digest) -> Path:
        return self.flat_metadata / config.prefix / config.hex

    def manifest(self, name: str) -> Path:
        """An image's manifest, as the registry sent it."""
        return self.metadata / check_name(name) / "manifest.json"

    def record(self, name: str) -> Path:
        """An image's record."""
        return self.metadata / check_name(name) / "record.json"

    def link(self, name: str) -> Path:
        """The public symlink of an image."""
        return self.root / check_name(name)

    def link_target(self, name: str, config: Digest) -> str:
        """What the public symlink says: a relative path, whatever the name's depth."""
        return os.path.relpath(self.flat(config), self.link(name).parent)
