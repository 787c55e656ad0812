"""Layers of the store that are no links: trees made for the chain that they are in.

A published layer serves every image that has it, whatever is below it there.  One that
goes through a symlink of a lower layer would cover that in an overlay, and leave
visible what it removes.  A layer of the store belongs to one chain: here it can have a
tree of its own, in which all is where the link leads.  Its files are those of the
published layers, as in a flat tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ...errors import DuccmakeError
from ...flatten import LayerTree, chain_changes
from ...manifest import ImageConfig
from ...reference import Digest
from .. import StagedImage
from ..edits import Tree
from ..layout import Layout
from .layers import chain
from .paths import Paths
from .store import PRODUCT, has_own_tree

_BEYOND = frozenset({"covered", "whiteouts"})
"""The losses that say that an overlay of the published layers shows another tree."""


def own_trees(
    layout: Layout,
    images: Sequence[StagedImage],
    losses: Callable[[StagedImage], Mapping[str, int]],
    manifest: Callable[[Digest], Path],
) -> dict[Path, Tree]:
    """The trees that layers of ``images`` need in the store, by their paths there.

    ``losses`` tells what the published layers lack of an image, ``manifest`` where a
    layer's manifest is now.  A layer that the store has stays as it is.  Raises
    `LayerError` or `RepositoryError`, with the image.
    """
    found: dict[Path, Tree] = {}
    for image in images:
        if PRODUCT not in image.products:
            continue
        try:
            if not _BEYOND.isdisjoint(losses(image)):
                found.update(_of_image(layout, image, found, manifest))
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    return found


def _of_image(
    layout: Layout,
    image: StagedImage,
    known: Mapping[Path, Tree],
    manifest: Callable[[Digest], Path],
) -> Iterator[tuple[Path, Tree]]:
    paths = Paths(layout)
    config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
    missing = {
        number: layer.id
        for number, layer in enumerate(chain(config.diff_ids))
        if paths.diff(layer.id) not in known and not _stands(paths, layer.id)
    }
    if not missing:
        return
    layers = [LayerTree(digest, manifest(digest).read_bytes()) for digest in image.layers]
    layerfs = tuple(map(layout.layerfs, image.layers))
    for number, listing in chain_changes(layers).items():
        if identity := missing.get(number):
            yield paths.diff(identity), Tree(listing, layerfs, paths.manifest(identity))


def _stands(paths: Paths, identity: str) -> bool:
    """Whether the store has the layer: as a link, or whole as a tree of its own."""
    return paths.diff(identity).is_symlink() or has_own_tree(paths, identity)
