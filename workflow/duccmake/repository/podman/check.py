"""Whether the store has an image as it was published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import DuccmakeError
from ...oci.reference import Digest
from ...products import Product
from ..layout import Layout
from ..model import ImageRecord
from .index import Entry, Index
from .paths import Paths, big_data
from .standing import has_own_tree

Compare = Callable[[Path, Path], Iterator[str]]


def differences(layout: Layout, record: ImageRecord, compare: Compare) -> Iterator[str]:
    """One line for each thing that is not as it should be with an image of the store.

    ``compare`` gives those between a tree and its manifest.
    """
    if Product.PODMAN not in record.products:
        return
    paths = Paths(layout)
    try:
        images = Index(paths.images.read_bytes(), paths.images)
        layers = Index(paths.layers.read_bytes(), paths.layers)
        image = images.entries[record.config.hex]
        if image["published"].get(record.name) != str(record.manifest):
            yield f"podmanStore: does not know the image as {record.name}"
        for key, digest in image["big-data-digests"].items():
            content = big_data(paths.image(record.config), key).read_bytes()
            wanted = Digest.parse(digest)
            if hashlib.new(wanted.algorithm, content).hexdigest() != wanted.hex:
                yield f"podmanStore: the {key} of the image is damaged"
        identity = image.get("layer", "")
        for _ in record.layers:
            layer = layers.entries[identity]
            yield from _layer_differences(layout, paths, layer, compare)
            identity = layer.get("parent", "")
    except FileNotFoundError as error:
        yield f"podmanStore: {error.filename} is missing"
    except KeyError as error:
        yield f"podmanStore: the index has no {error}"
    except DuccmakeError as error:
        yield f"podmanStore: {error.found}"


def _layer_differences(
    layout: Layout, paths: Paths, layer: Entry, compare: Compare
) -> Iterator[str]:
    tree = layout.layerfs(Digest.parse(layer["compressed-diff-digest"]))
    directory, diff = paths.layer(layer["id"]), paths.diff(layer["id"])
    if has_own_tree(paths, layer["id"]):
        yield from compare(diff, paths.manifest(layer["id"]))
    elif diff.is_dir() and not diff.is_symlink():
        yield f"podmanStore: {paths.manifest(layer['id'])} is missing"
    elif (target := diff.readlink()) != layout.seen(tree) or not tree.is_dir():
        yield f"podmanStore: the layer {layer['id']} leads to {target}"
    link = paths.overlay / "l" / (directory / "link").read_text()
    if str(link.readlink()) != f"../{layer['id']}/diff":
        yield f"podmanStore: {link.name} does not lead to the layer {layer['id']}"
