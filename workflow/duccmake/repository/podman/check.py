"""Whether the store has an image as it was published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from ...errors import DuccmakeError
from ...oci.reference import Digest
from ...products import Product
from ..model import ImageRecord
from ..view import View
from . import paths
from .index import Entry, Index
from .paths import big_data
from .standing import has_own_tree

Compare = Callable[[PurePosixPath, PurePosixPath], Iterator[str]]


def differences(view: View, record: ImageRecord, compare: Compare) -> Iterator[str]:
    """One line for each thing that is not as it should be with an image of the store.

    ``compare`` gives those between a tree and its manifest.
    """
    if Product.PODMAN not in record.products:
        return
    try:
        images, layers = (
            Index(view.read(path), view.layout.seen(path))
            for path in (paths.IMAGES_INDEX, paths.LAYERS_INDEX)
        )
        image = images.entries[record.config.hex]
        if image["published"].get(record.name) != str(record.manifest):
            yield f"podmanStore: does not know the image as {record.name}"
        for key, digest in image["big-data-digests"].items():
            content = view.read(big_data(paths.image(record.config), key))
            wanted = Digest.parse(digest)
            if hashlib.new(wanted.algorithm, content).hexdigest() != wanted.hex:
                yield f"podmanStore: the {key} of the image is damaged"
        identity = image.get("layer", "")
        for _ in record.layers:
            layer = layers.entries[identity]
            yield from _layer_differences(view, layer, compare)
            identity = layer.get("parent", "")
    except FileNotFoundError as error:
        yield f"podmanStore: {error.filename} is missing"
    except KeyError as error:
        yield f"podmanStore: the index has no {error}"
    except DuccmakeError as error:
        yield f"podmanStore: {error.found}"


def _layer_differences(view: View, layer: Entry, compare: Compare) -> Iterator[str]:
    tree = view.layout.layerfs(Digest.parse(layer["compressed-diff-digest"]))
    directory, diff = paths.layer(layer["id"]), paths.diff(layer["id"])
    target = view.target(diff)
    if has_own_tree(view, layer["id"]):
        yield from compare(diff, paths.manifest(layer["id"]))
    elif view.is_dir(diff):
        yield f"podmanStore: {paths.manifest(layer['id'])} is missing"
    elif target != str(view.layout.seen(tree)) or not view.is_dir(tree):
        yield f"podmanStore: the layer {layer['id']} leads to {target or 'nothing'}"
    link = paths.OVERLAY / "l" / view.read(directory / "link").decode()
    if view.target(link) != f"../{layer['id']}/diff":
        yield f"podmanStore: {link.name} does not lead to the layer {layer['id']}"
