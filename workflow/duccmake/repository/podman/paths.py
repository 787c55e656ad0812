"""Where things lie in an image store (containers/storage: the store, its overlay driver)."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from ...oci.reference import Digest
from ..layout import Layout
from .layers import link_of

_PLAIN_KEY = re.compile(r"[a-z0-9.]+\Z")


class Paths:
    """The paths of the store in a repository."""

    def __init__(self, layout: Layout) -> None:
        self.root = layout.root / "podmanStore"
        self.overlay = self.root / "overlay"
        self.images = self.root / "overlay-images" / "images.json"
        self.layers = self.root / "overlay-layers" / "layers.json"

    def image(self, config: Digest) -> Path:
        """The directory of an image's data."""
        return self.images.parent / config.hex

    def layer(self, identity: str) -> Path:
        """The directory of a layer's links."""
        return self.overlay / identity

    def tar_split(self, identity: str) -> Path:
        """By what a layer's archive is made again, for those who save or push it."""
        return self.layers.with_name(f"{identity}.tar-split.gz")

    def diff(self, identity: str) -> Path:
        """What a layer has: a link to a published layer, or a tree of its own."""
        return self.layer(identity) / "diff"

    def manifest(self, identity: str) -> Path:
        """What a layer's own tree has in it; there is none where it is a link."""
        return self.layer(identity) / "tree.mtree"

    def link(self, identity: str) -> Path:
        """A layer's short name."""
        return self.overlay / "l" / link_of(identity)


def big_data(directory: Path, key: str) -> Path:
    """Where an image's data of that name lies (containers/storage, makeBigDataBaseName)."""
    plain = _PLAIN_KEY.match(key)
    return directory / (key if plain else f"={base64.b64encode(key.encode()).decode()}")
