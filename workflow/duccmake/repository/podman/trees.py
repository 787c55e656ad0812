"""Layers of the store that are no links: trees made for the chain that they are in.

A published layer serves every image that has it, whatever is below it there, and an
overlay of such layers is not always the image: see `duccmake.repository.noted`.  A layer
of the store belongs to one chain: here it can have a tree of its own, in which all is
where and what it is there.  Its files are those of the published layers, as in a flat
tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import DuccmakeError
from ...flatten import LayerTree, chain_changes, noted_layers
from ...manifest import ImageConfig
from ...products import PODMAN
from ...reference import Digest
from .. import StagedImage, noted
from ..edits import Tree
from ..layout import Layout
from .layers import chain
from .paths import Paths
from .store import has_own_tree

Manifest = Callable[[Digest], Path]
"""Tells where a layer's manifest is now."""


def own_trees(
    layout: Layout, images: Sequence[StagedImage], manifest: Manifest
) -> dict[Path, Tree]:
    """The trees that layers of ``images`` need in the store, by their paths there.

    A layer that the store has stays as it is.  Raises `LayerError` or
    `RepositoryError`, with the image.
    """
    found: dict[Path, Tree] = {}
    for image in images:
        if PODMAN not in image.products:
            continue
        try:
            trees = _of_image(layout, image, manifest)
            found |= {path: tree for path, tree in trees if path not in found}
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    return found


def _of_image(
    layout: Layout, image: StagedImage, manifest: Manifest
) -> Iterator[tuple[Path, Tree]]:
    paths = Paths(layout)
    config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
    missing = {
        number: layer.id
        for number, layer in enumerate(chain(config.diff_ids))
        if not _stands(paths, layer.id)
    }
    known = None if image.path is None else missing.keys() & noted.read(image.path).keys()
    if missing and (known is None or known):
        layers = _trees(image.layers, manifest)
        numbers = missing.keys() & noted_layers(layers) if known is None else known
        for number, listing in chain_changes(layers, numbers).items():
            yield _tree(layout, missing[number], listing, image.layers)


def _trees(blobs: Sequence[Digest], manifest: Manifest) -> list[LayerTree]:
    return [LayerTree(digest, manifest(digest).read_bytes()) for digest in blobs]


def _tree(
    layout: Layout, identity: str, listing: bytes, blobs: Sequence[Digest]
) -> tuple[Path, Tree]:
    paths = Paths(layout)
    layerfs = tuple(map(layout.layerfs, blobs))
    return paths.diff(identity), Tree(listing, layerfs, paths.manifest(identity))


def _stands(paths: Paths, identity: str) -> bool:
    """Whether the store has the layer: as a link, or whole as a tree of its own."""
    return paths.diff(identity).is_symlink() or has_own_tree(paths, identity)
