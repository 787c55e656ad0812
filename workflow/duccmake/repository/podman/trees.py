"""Layers of the store that are no links: trees made for the chain that they are in.

A published layer serves every image that has it, whatever is below it there, and an
overlay of such layers is not always the image: see `duccmake.repository.overlay_losses`.  A layer
of the store belongs to one chain: here it can have a tree of its own, in which all is
where and what it is there.  Its files are those of the published layers, as in a flat
tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath

from ...errors import DuccmakeError
from ...layer.flatten import LayerTree, chain_changes, noted_layers
from ...oci.manifest import ImageConfig
from ...oci.reference import Digest
from ...products import Product
from .. import overlay_losses
from ..edits import Tree
from ..model import StagedImage
from ..view import View
from . import paths
from .index import Entry
from .layers import chain
from .standing import entries, has_own_tree, is_verified

Manifest = Callable[[Digest], bytes]
"""Gives a layer's manifest, staged or published."""


def own_trees(
    view: View, images: Sequence[StagedImage], manifest: Manifest
) -> dict[PurePosixPath, Tree]:
    """The trees that layers of ``images`` need in the store, by their paths there.

    A layer that the store has stays as it is, if it was made of what was measured.
    Raises `LayerError` or `RepositoryError`, with the image.
    """
    found: dict[PurePosixPath, Tree] = {}
    store = _Standing(view)
    for image in images:
        if Product.PODMAN not in image.products:
            continue
        try:
            trees = _of_image(view, image, manifest, store)
            found |= {path: tree for path, tree in trees if path not in found}
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    return found


def _of_image(
    view: View, image: StagedImage, manifest: Manifest, store: _Standing
) -> Iterator[tuple[PurePosixPath, Tree]]:
    config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
    missing = {
        number: layer.id
        for number, layer in enumerate(chain(config.diff_ids))
        if image.anew or not store.has(layer.id)
    }
    # No link can take the place of a tree that is there.
    stale = {number for number, identity in missing.items() if store.has_tree(identity)}
    known = None if image.path is None else missing.keys() & overlay_losses.read(image.path).keys()
    if missing and (known is None or known or stale):
        layers = _trees(image.layers, manifest)
        numbers = missing.keys() & noted_layers(layers) if known is None else known
        numbers = numbers | stale
        for number, listing in chain_changes(layers, numbers).items():
            yield _tree(view, missing[number], listing, image.layers)


def _trees(blobs: Sequence[Digest], manifest: Manifest) -> list[LayerTree]:
    return [LayerTree(digest, manifest(digest)) for digest in blobs]


def _tree(
    view: View, identity: str, listing: bytes, blobs: Sequence[Digest]
) -> tuple[PurePosixPath, Tree]:
    layerfs = tuple(map(view.layout.layerfs, blobs))
    return paths.diff(identity), Tree(listing, layerfs, paths.manifest(identity))


class _Standing:
    """The store as it stands; its index is read where it has a layer that is asked for."""

    def __init__(self, view: View) -> None:
        self._view = view

    def has(self, identity: str) -> bool:
        """Whether the layer is there, as a link or as a tree, made of what was measured."""
        there = self._view.is_link(paths.diff(identity)) or self.has_tree(identity)
        return there and is_verified(self._layers.get(identity, {}))

    def has_tree(self, identity: str) -> bool:
        """Whether the layer is there, whole, as a tree of its own."""
        return has_own_tree(self._view, identity)

    @cached_property
    def _layers(self) -> dict[str, Entry]:
        return entries(self._view, paths.LAYERS_INDEX)
