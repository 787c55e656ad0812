"""Whether the store has an image as it was published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from ...errors import DuccmakeError
from ...oci.reference import Digest
from ...products import Product
from ..damage import Damage
from ..model import ImageRecord
from ..view import View
from . import paths
from .index import Entry, Index
from .paths import big_data
from .standing import has_own_tree

Compare = Callable[[PurePosixPath, PurePosixPath], Iterator[Damage]]

Indexes = tuple[Index, Index]
"""Those of images and of layers."""


def differences(
    view: View,
    record: ImageRecord,
    compare: Compare,
    indexes: Callable[[], Indexes] | None = None,
) -> Iterator[Damage]:
    """What is not as it should be with an image of the store.

    ``compare`` gives the differences between a tree and its manifest, ``indexes`` what
    `read_indexes` does, for those who ask about many images.
    """
    if Product.PODMAN not in record.products:
        return
    try:
        images, layers = indexes() if indexes else read_indexes(view)
        image = images.entries[record.config.hex]
        if image["published"].get(record.name) != str(record.manifest):
            yield _damage(f"does not know the image as {record.name}")
        for key, digest in image["big-data-digests"].items():
            content = view.read(big_data(paths.image(record.config), key))
            wanted = Digest.parse(digest)
            if hashlib.new(wanted.algorithm, content).hexdigest() != wanted.hex:
                yield _damage(f"the {key} of the image is damaged")
        if not view.is_file(paths.image(record.config) / "manifest"):
            yield _damage(f"{paths.image(record.config) / 'manifest'} is missing")
        identity = image.get("layer", "")
        for _ in record.layers:
            layer = layers.entries[identity]
            yield from _layer_differences(view, layer, compare)
            identity = layer.get("parent", "")
    except FileNotFoundError as error:
        yield _damage(f"{error.filename or error} is missing")
    except KeyError as error:
        yield _damage(f"the index has no {error}")
    except DuccmakeError as error:
        yield _damage(error.found)


def index_damage(view: View) -> Iterator[Damage]:
    """What is wrong with the index files: one that is damaged, images without their layers."""
    if not view.exists(paths.IMAGES_INDEX):
        return
    try:
        images, layers = read_indexes(view)
    except FileNotFoundError:
        yield _damage(f"{paths.LAYERS_INDEX} is missing")
        return
    except DuccmakeError as error:
        yield _damage(error.found)
        return
    for entry in images.entries.values():
        identity, seen = entry.get("layer", ""), set()
        while identity and identity not in seen:
            seen.add(identity)
            if identity not in layers.entries:
                names = ", ".join(entry.get("published", ())) or "no name"
                yield _damage(f"the image {entry['id']} ({names}) lacks its layer {identity}")
                break
            identity = layers.entries[identity].get("parent", "")


def read_indexes(view: View) -> Indexes:
    """The index files of images and of layers; `OSError`, or `RepositoryError` if damaged."""
    images, layers = (
        Index(view.read(path), view.layout.seen(path))
        for path in (paths.IMAGES_INDEX, paths.LAYERS_INDEX)
    )
    return images, layers


def _damage(words: str) -> Damage:
    return Damage(str(paths.ROOT), words)


def _layer_differences(view: View, layer: Entry, compare: Compare) -> Iterator[Damage]:
    tree = view.layout.layerfs(Digest.parse(layer["compressed-diff-digest"]))
    directory, diff = paths.layer(layer["id"]), paths.diff(layer["id"])
    target = view.target(diff)
    if has_own_tree(view, layer["id"]):
        yield from compare(diff, paths.manifest(layer["id"]))
    elif view.is_dir(diff):
        yield _damage(f"{paths.manifest(layer['id'])} is missing")
    elif target != str(view.layout.seen(tree)) or not view.is_dir(tree):
        yield _damage(f"the layer {layer['id']} leads to {target or 'nothing'}")
    link = paths.OVERLAY / "l" / view.read(directory / "link").decode(errors="replace")
    if link != paths.link(layer["id"]) or view.target(link) != f"../{layer['id']}/diff":
        yield _damage(f"{link.name} does not lead to the layer {layer['id']}")
