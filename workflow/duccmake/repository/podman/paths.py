"""Where things lie in an image store (containers/storage: the store, its overlay driver)."""

from __future__ import annotations

import base64
import re
from pathlib import PurePosixPath

from ...oci.reference import Digest
from .layers import link_of

_PLAIN_KEY = re.compile(r"[a-z0-9.]+\Z")


ROOT = PurePosixPath("podmanStore")

OVERLAY = ROOT / "overlay"
"""The layers' directories of links."""

IMAGES = ROOT / "overlay-images"
"""The images' directories, each named by its configuration's digits."""

IMAGES_INDEX = IMAGES / "images.json"

LAYERS = ROOT / "overlay-layers"

LAYERS_INDEX = LAYERS / "layers.json"


def image(config: Digest) -> PurePosixPath:
    """The directory of an image's data."""
    return IMAGES / config.hex


def layer(identity: str) -> PurePosixPath:
    """The directory of a layer's links."""
    return OVERLAY / identity


def tar_split(identity: str) -> PurePosixPath:
    """By what a layer's archive is made again, for those who save or push it."""
    return LAYERS / f"{identity}.tar-split.gz"


def diff(identity: str) -> PurePosixPath:
    """What a layer has: a link to a published layer, or a tree of its own."""
    return layer(identity) / "diff"


def manifest(identity: str) -> PurePosixPath:
    """What a layer's own tree has in it; there is none where it is a link."""
    return layer(identity) / "tree.mtree"


def link(identity: str) -> PurePosixPath:
    """A layer's short name."""
    return OVERLAY / "l" / link_of(identity)


def big_data(directory: PurePosixPath, key: str) -> PurePosixPath:
    """Where an image's data of that name lies (containers/storage, makeBigDataBaseName)."""
    plain = _PLAIN_KEY.match(key)
    return directory / (key if plain else f"={base64.b64encode(key.encode()).decode()}")
