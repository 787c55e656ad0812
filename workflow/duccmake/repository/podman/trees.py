"""Layers of the store that are no links: trees made for the chain that they are in.

A published layer serves every image that has it, whatever is below it there.  One that
goes through a symlink of a lower layer would cover that in an overlay, and leave
visible what it removes; one with hard links to a lower layer has the files of the
image that was published first.  A layer of the store belongs to one chain: here it can have a
tree of its own, in which all is where and what it is there.  Its files are those of the
published layers, as in a flat tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ...errors import DuccmakeError
from ...flatten import LayerTree, chain_changes
from ...manifest import ImageConfig
from ...products import PODMAN
from ...reference import Digest
from .. import StagedImage
from ..edits import Tree
from ..layout import Layout
from .layers import chain
from .paths import Paths
from .store import has_own_tree

_BEYOND = frozenset({"covered", "whiteouts", "links"})
"""The losses that say that an overlay of the published layers shows another tree."""

_LOWER_LINK = re.compile(rb" tags=(?:\S+,)?lower[,\s]")


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
        if PODMAN not in image.products:
            continue
        try:
            lacking = _BEYOND.intersection(losses(image))
            if lacking:
                trees = _of_image(layout, image, manifest, linked="links" in lacking)
                found |= {path: tree for path, tree in trees if path not in found}
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    return found


def _of_image(
    layout: Layout,
    image: StagedImage,
    manifest: Callable[[Digest], Path],
    *,
    linked: bool,
) -> Iterator[tuple[Path, Tree]]:
    """Those of one image; ``linked``: a layer's hard links lead to another image's files."""
    paths = Paths(layout)
    config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
    missing = {
        number: layer.id
        for number, layer in enumerate(chain(config.diff_ids))
        if not _stands(paths, layer.id)
    }
    if not missing:
        return
    layers = [LayerTree(digest, manifest(digest).read_bytes()) for digest in image.layers]
    layerfs = tuple(map(layout.layerfs, image.layers))
    # Which layer that is has not been noted; a tree is right for each that has such links.
    more = [number for number, layer in enumerate(layers) if _LOWER_LINK.search(layer.manifest)]
    for number, listing in chain_changes(layers, more if linked else ()).items():
        if identity := missing.get(number):
            yield paths.diff(identity), Tree(listing, layerfs, paths.manifest(identity))


def _stands(paths: Paths, identity: str) -> bool:
    """Whether the store has the layer: as a link, or whole as a tree of its own."""
    return paths.diff(identity).is_symlink() or has_own_tree(paths, identity)
