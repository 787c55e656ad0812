"""What the store has as it stands, read from its files: nothing here is in a transaction.

Beyond what containers/storage reads, an image's entry in ``images.json`` has
``published``, the names that it has in the repository, each with the digest of the
manifest that it stands for there, or when nothing is left of these ``retired``, the
last of them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from ...errors import RepositoryError
from ...oci.reference import Digest
from ...products import Product
from ..model import ImageRecord
from ..view import View
from . import paths
from .index import Entry, Index
from .paths import big_data

VERIFIED = "duccmake-verified"
"""The member of a layer's entry by which its diff-digest, and those of all layers below it,
were measured of what they lead to; containers/storage passes over it."""


def entries(view: View, path: PurePosixPath) -> dict[str, Entry]:
    """What an index file lists, by id; nothing where there is none.

    Raises `RepositoryError` where it is damaged.
    """
    return Index(view.content(path), view.layout.seen(path)).entries


def links_to(view: View, digests: Collection[Digest]) -> frozenset[str]:
    """The ids of the layers that lead to these published ones, and are no trees of their own."""
    wanted = set(map(str, digests))
    return frozenset(
        identity
        for identity, layer in entries(view, paths.LAYERS_INDEX).items()
        if layer.get("compressed-diff-digest") in wanted and not has_own_tree(view, identity)
    )


def holds(view: View, record: ImageRecord) -> bool:
    """Whether an image that shall be in the store is there."""
    if Product.PODMAN not in record.products:
        return True
    return view.is_file(paths.image(record.config) / "manifest")


def published(view: View) -> frozenset[str]:
    """The images of the store that are or were published here, by their configurations' digits.

    Others, that somebody else put there, are none of ours; nor is a damaged store.
    """
    try:
        known = entries(view, paths.IMAGES_INDEX)
    except RepositoryError:
        return frozenset()
    return frozenset(
        identity
        for identity, entry in known.items()
        if entry.get("published") or entry.get("retired")
    )


def configuration(view: View, config: Digest) -> bytes:
    """An image's configuration as the store has it; empty where it has none."""
    return view.content(big_data(paths.image(config), str(config)))


def is_verified(layer: Entry) -> bool:
    """Whether a layer's entry was made of what was measured; earlier ones believed images."""
    return layer.get(VERIFIED) is True


def has_own_tree(view: View, identity: str) -> bool:
    """Whether a layer is there, whole, as a tree of its own."""
    return view.is_file(paths.manifest(identity)) and view.is_dir(paths.diff(identity))
