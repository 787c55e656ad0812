"""Where things lie in a repository: DUCC's layout, so that its clients keep working.

Nothing is read here; see `duccmake.repository.view`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from ..errors import InvalidReference
from ..oci.reference import MULTIARCH, Digest

_COMPONENT_BYTES = 250
"""A file name has 255 bytes at most; five are for the temporary name beside it."""

_LABEL = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm-v7"}
"""What CernVM-FS calls some architectures (uname -m), and their labels; others are the same."""

_VARIANT = re.compile(r"\$\(CVMFS_ARCH:-(.+)\)\Z")

RESERVED = frozenset({"podmanStore"})
"""Top directories that are the repository's own."""

AnyPath = TypeVar("AnyPath", bound=PurePath)


@functools.lru_cache(maxsize=65536)
def check_name(name: str) -> str:
    """Return an image's name if it is safe as a path below the repository.

    `InvalidReference` for absolute names, empty, hidden, over-long and ``..``
    components, unprintable characters, and the repository's own directories.
    ``.multiarch/<platform's label>/`` may go before it.
    """
    parts = split_variant(name)[1].split("/")
    if (
        len(parts) < 2
        or not name.isprintable()
        or parts[0] in RESERVED
        or any(not _is_component(part) for part in parts)
    ):
        raise InvalidReference(
            f"{name!r} cannot be the path of an image in a repository",
            hint="an image's name is registry/repository:tag",
        )
    return name


def split_variant(name: str) -> tuple[str, str]:
    """The platform's label and the public name of an image of several platforms.

    The label of others is empty.
    """
    top, _, rest = name.partition("/")
    label, _, public = rest.partition("/")
    if top == MULTIARCH and _LABEL.match(label):
        return label, public
    return "", name


def _is_component(part: str) -> bool:
    # Hidden names are the repository's own: .layers, .metadata, temporaries.
    return bool(part) and part[0] != "." and len(os.fsencode(part)) <= _COMPONENT_BYTES


def _relative(target: PurePosixPath, link: PurePosixPath) -> str:
    """What a symlink says to lead to a path, with which it shares no directory."""
    return "../" * (len(link.parts) - 1) + str(target)


def temporary(path: AnyPath) -> AnyPath:
    """The name under which ``path`` is made before it is renamed into its place."""
    return path.with_name(f".{path.name}.new")


def digest_of(key: str) -> str:
    """The digest of a directory's name, which is its digits alone: they tell the algorithm."""
    return f"{'sha512' if len(key) == 128 else 'sha256'}:{key}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a repository, relative to its root.

    Directories of layers and flat trees are named by the digest's bare hex
    digits; sha256 and sha512 cannot collide, since they differ in length.
    ``clients`` is where the machines that use the repository see it.
    ``variant_links``: symlinks may have variables in them that each client of
    CernVM-FS fills in (its manual, "Variant Symlinks").
    """

    clients: Path
    variant_links: bool = False

    def seen(self, path: PurePosixPath) -> Path:
        """A path of the repository as the machines that use it see it."""
        return self.clients / path

    def unseen(self, path: str) -> PurePosixPath | None:
        """The path in the repository of what its users see at ``path``; None for any other."""
        try:
            return PurePosixPath(path).relative_to(self.clients)
        except ValueError:
            return None

    @property
    def layers(self) -> PurePosixPath:
        """All layers."""
        return PurePosixPath(".layers")

    @property
    def metadata(self) -> PurePosixPath:
        """The images' metadata, by name."""
        return PurePosixPath(".metadata")

    @property
    def flats(self) -> PurePosixPath:
        """All flat trees."""
        return PurePosixPath(".flat")

    @property
    def chains(self) -> PurePosixPath:
        """What DUCC makes flat trees from."""
        return PurePosixPath(".chains")

    @property
    def dirty_chains(self) -> PurePosixPath:
        """DUCC's marks of the chains that it has not finished."""
        return PurePosixPath(".dirty-chains")

    @property
    def flat_metadata(self) -> PurePosixPath:
        """What is known of the flat trees, outside of them."""
        return self.metadata / ".flat"

    @property
    def remove_schedule(self) -> PurePosixPath:
        """DUCC's list of superseded manifests, which garbage collection reads."""
        return self.metadata / "remove-schedule.json"

    @property
    def history(self) -> PurePosixPath:
        """What moving tags stood for before."""
        return self.metadata / "history.json"

    @property
    def pins(self) -> PurePosixPath:
        """Which tags are held at a digest."""
        return self.metadata / "pins.json"

    def layer(self, digest: Digest) -> PurePosixPath:
        """A layer: ``layerfs`` and ``.metadata``."""
        return self.layers / digest.prefix / digest.hex

    def layerfs(self, digest: Digest) -> PurePosixPath:
        """A layer's tree."""
        return self.layer(digest) / "layerfs"

    def layer_manifest(self, digest: Digest) -> PurePosixPath:
        """A layer's ``tree.mtree``."""
        return self.layer(digest) / ".metadata" / "tree.mtree"

    def origin(self, digest: Digest) -> PurePosixPath:
        """DUCC's backlinks: the configurations of the images that have the layer."""
        return self.layer(digest) / ".metadata" / "origin.json"

    def flat(self, config: Digest) -> PurePosixPath:
        """A flat tree."""
        return self.flats / config.prefix / config.hex

    def flat_manifest(self, config: Digest) -> PurePosixPath:
        """A flat tree's ``tree.mtree``, which stands outside of the tree."""
        return self._flat_metadata(config) / "tree.mtree"

    def flat_record(self, config: Digest) -> PurePosixPath:
        """What is known of a flat tree: its format, layers and losses."""
        return self._flat_metadata(config) / "flat.json"

    def _flat_metadata(self, config: Digest) -> PurePosixPath:
        return self.flat_metadata / config.prefix / config.hex

    def manifest(self, name: str) -> PurePosixPath:
        """An image's manifest, as the registry sent it."""
        return self.metadata / check_name(name) / "manifest.json"

    def record(self, name: str) -> PurePosixPath:
        """An image's record."""
        return self.metadata / check_name(name) / "record.json"

    def referrers(self, name: str) -> PurePosixPath:
        """What is kept of what refers to an image: an OCI layout."""
        return self.metadata / check_name(name) / ".referrers"

    def link(self, name: str) -> PurePosixPath:
        """The public symlink of an image."""
        return PurePosixPath(check_name(name))

    def link_target(self, name: str, config: Digest) -> str:
        """What the public symlink says: a relative path, whatever the name's depth."""
        return _relative(self.flat(config), self.link(name))

    # --- several platforms ----------------------------------------------

    @property
    def multiarch(self) -> PurePosixPath:
        """The images that are there for several platforms, by the platform's label."""
        return PurePosixPath(MULTIARCH)

    def variant_target(
        self, name: str, variants: Collection[str], published: Collection[str]
    ) -> str:
        """What the public symlink of an image of several platforms says.

        On CernVM-FS the reader's machine decides; elsewhere it is the first of
        ``variants`` that is among the ``published`` ones.
        """
        if self.variant_links:
            default = "amd64" if "amd64" in variants else next(iter(variants))
            label = f"$(CVMFS_ARCH:-{default})"
        else:
            label = next(label for label in variants if label in published)
        return _relative(self.multiarch / label / name, self.link(name))

    def machine_links(self, labels: Collection[str]) -> Iterator[tuple[PurePosixPath, str]]:
        """Symlinks by which what CVMFS_ARCH says leads to a label, with their targets."""
        for machine, label in _MACHINES.items():
            if self.variant_links and label in labels:
                yield self.multiarch / machine, label

    def variant(self, name: str, target: str) -> str:
        """The platform's label that a public symlink of ``name`` leads to by its text, or empty.

        On CernVM-FS the text says what it is to this machine, or what it is to each.
        """
        path = os.path.normpath(self.link(name).parent / target) if target else ""
        top, _, rest = path.partition("/")
        label, _, public = rest.partition("/")
        if (top, public) != (MULTIARCH, name):
            return ""
        default = _VARIANT.match(label)
        return default[1] if default else _MACHINES.get(label, label)
