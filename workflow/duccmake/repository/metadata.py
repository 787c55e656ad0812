"""An image's metadata, DUCC's files and the public links, as edits of a repository.

Whatever the backend, a published image leaves the same files; they are computed
here from what the repository shows at the time, under the publisher's lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..errors import RepositoryError
from ..layer import measured
from ..oci.reference import Digest
from ..products import Product
from . import adoption, ducc, history, podman, removal_schedule
from .edits import Edits, Tree
from .flat_trees import flat_tree_of, read_flat_tree
from .json_files import content, dump
from .layout import Layout, split_variant
from .model import RECORD_FORMAT, UNMEASURED, WIDENED, ImageRecord, StagedImage, StagedLayer

Losses = Mapping[str, int]
"""What the repository could not keep of an image, by kind; see `ImageRecord`."""


def wished_record(image: StagedImage, losses: Losses) -> ImageRecord:
    """The record that an image has once it is published."""
    return ImageRecord(
        name=image.name,
        platform=image.platform,
        manifest=image.manifest,
        config=image.config,
        layers=image.layers,
        products=image.products,
        losses=dict(losses),
        source=dict(image.source),
        verified=image.measured is not None,
        fix_permissions=image.fix_permissions
        and Product.FLAT in image.products
        and UNMEASURED not in losses,
    )


def known_losses(layout: Layout, image: StagedImage) -> dict[str, int]:
    """The losses of an image that is published and only gets further names or products.

    One that DUCC published and that is taken over is such an image too.

    Raises `RepositoryError` where it is not there any more as it is wished.
    """
    record = ImageRecord.read(content(layout.record(image.name)))
    if record and (record.manifest, record.format) != (image.manifest, RECORD_FORMAT):
        record = None
    adopted = record is not None and UNMEASURED in record.losses
    flat = flat_tree_of(layout, image)
    if record and not adopted and (Product.FLAT not in image.products or flat is not None):
        return record.losses
    if flat is not None:
        return {**flat.layer_losses, **flat.losses}
    if record and adopted and layout.flat(image.config).is_dir():
        return record.losses
    if not layout.record(image.name).exists() and adoption.is_whole(
        layout, image.name, image.config, image.layers, image.products
    ):
        return {UNMEASURED: 1 + len(set(image.layers))}
    raise RepositoryError("it was published, but is not any more", hint="run again")


def check_link(layout: Layout, name: str) -> None:
    """Raise `RepositoryError` where something stands in the way of an image's public link."""
    public = split_variant(name)[1]
    for each in dict.fromkeys((name, public)):
        _check_link(layout, layout.link(each))


def _check_link(layout: Layout, link: Path) -> None:
    if os.path.lexists(link) and not link.is_symlink():
        raise RepositoryError(
            f"{link} is in the way of its link", hint="move it away and run again"
        )
    checked_parents(layout.root, link)


def checked_parents(root: Path, path: Path) -> list[Path]:
    """What lies between a path and ``root``, the nearest first; none may be a symlink.

    Raises `RepositoryError` where one is.
    """
    parents = []
    for parent in path.parents:
        if parent == root:
            break
        if parent.is_symlink():
            raise RepositoryError(
                f"{parent} is a symlink where a directory is needed",
                hint="no image's name can lead through another image",
            )
        parents.append(parent)
    return parents


def layers_json(layer: StagedLayer) -> bytes:
    """``layers.json`` of a layer to be published; `RepositoryError` where it is not whole."""
    found = measured.staged(layer.path / ".metadata")
    if found is None:
        raise RepositoryError(f"{layer.path} is no staged layer", hint="remove it and run again")
    return dump(found.to_json(datetime.now(UTC).isoformat(timespec="seconds")))


def publish_metadata(
    edits: Edits,
    layout: Layout,
    images: Sequence[StagedImage],
    losses: Mapping[str, Losses],
    others: Callable[[], Mapping[str, str]],
    trees: Mapping[Path, Tree] | None = None,
    splits: Mapping[Digest, bytes] | None = None,
) -> None:
    """Manifests and records of ``images``, DUCC's files, podman's store, and last the public links.

    ``losses`` are each image's, by name; ``others`` tells the configurations of
    the images that stay as they are, by name; ``trees`` and ``splits`` are those of podman's store.
    """
    now = time.time()
    superseded = [
        entry
        for image in images
        # An image of several platforms may have been there for one, under its public name.
        for name in dict.fromkeys((image.name, split_variant(image.name)[1]))
        for entry in removal_schedule.entered(
            edits.content(layout.manifest(name)),
            name,
            f"moved to {image.manifest}",
            now,
            record=edits.content(layout.record(name)),
        )
    ]
    _note_permissions(edits, layout, images, losses, others)
    turned = history.turn(edits, layout, images, now)
    for name, manifest in turned.left.items():
        superseded += removal_schedule.entered(manifest, name, "beyond history.keep", now)
    wished = turned.configs | {str(image.config) for image in images}

    def staying() -> set[str]:
        return {config for name, config in others().items() if name not in turned.left}

    for image in images:
        if image.variants:
            edits.remove(layout.manifest(split_variant(image.name)[1]).parent)
        edits.file(layout.manifest(image.name), image.manifest_bytes)
        record = wished_record(image, losses[image.name])
        edits.file(layout.record(image.name), dump(record.to_json()))
    _note_origins(edits, layout, images)
    _schedule(edits, layout, superseded, wished, staying)
    podman.publish(edits, layout, images, trees, splits)
    for image in images:
        link = layout.link(image.name)
        if Product.FLAT in image.products:
            edits.symlink(link, layout.link_target(image.name, image.config))
        elif link.is_symlink():
            edits.remove(link)
    for image in images:
        if image.variants:
            _link_variants(edits, layout, image)


def _link_variants(edits: Edits, layout: Layout, image: StagedImage) -> None:
    """Have the public name lead to the image of one of its platforms, or each to its own."""
    name = split_variant(image.name)[1]
    published = [
        label for label in image.variants if edits.is_link(layout.multiarch / label / name)
    ]
    if published:
        for path, label in layout.machine_links(image.variants):
            edits.symlink(path, label)
        edits.symlink(layout.link(name), layout.variant_target(name, image.variants, published))


def link_public_names(edits: Edits, layout: Layout, leaving: Iterable[str]) -> None:
    """Mend or remove the public links that lead to images of several platforms that leave."""
    for name in dict.fromkeys(leaving):
        label, public = split_variant(name)
        link = layout.link(public)
        if not label or not layout.variant(public) or link in edits.removals:
            continue
        staying = [
            path.name
            for path in sorted(layout.multiarch.iterdir())
            if not path.is_symlink() and edits.is_link(path / public)
        ]
        if not staying:
            edits.remove(link)
        elif not edits.is_link(layout.multiarch / layout.variant(public) / public):
            edits.symlink(link, layout.variant_target(public, staying, staying))


def _note_permissions(
    edits: Edits,
    layout: Layout,
    images: Iterable[StagedImage],
    losses: Mapping[str, Losses],
    others: Callable[[], Mapping[str, str]],
) -> None:
    """Have all records of a flat tree say so where it is made again in the other way."""
    remade = {str(image.config): image for image in images if _is_made_otherwise(layout, image)}
    if not remade:
        return
    sharing = [name for name, config in others().items() if config in remade]
    for path in map(layout.record, [*sharing, *(image.name for image in images)]):
        record = ImageRecord.read(edits.content(path))
        image = remade.get(str(record.config)) if record else None
        if record and image and Product.FLAT in record.products and UNMEASURED not in record.losses:
            now = {kind: n for kind, n in record.losses.items() if kind != WIDENED}
            now |= {kind: n for kind, n in losses[image.name].items() if kind == WIDENED}
            record = replace(record, losses=now, fix_permissions=image.fix_permissions)
            edits.file(path, dump(record.to_json()))


def _is_made_otherwise(layout: Layout, image: StagedImage) -> bool:
    """Whether an image's flat tree is there with the other permissions, and is made again."""
    if image.path is None or Product.FLAT not in image.products:
        return False
    tree = read_flat_tree(layout, image.config)
    return tree is not None and tree.fix_permissions != image.fix_permissions


def _note_origins(edits: Edits, layout: Layout, images: Iterable[StagedImage]) -> None:
    users: dict[Digest, dict[str, None]] = {}
    for image in images:
        for digest in image.layers:
            users.setdefault(digest, {})[str(image.config)] = None
    for digest, configs in users.items():
        origin = layout.origin(digest)
        edits.file(origin, ducc.origins(edits.content(origin), configs))


def _schedule(
    edits: Edits,
    layout: Layout,
    superseded: Sequence[removal_schedule.Entry],
    wished: set[str],
    staying: Callable[[], set[str]],
) -> None:
    """Enter what lost its name, and strike out what is published again."""
    listed = edits.content(layout.remove_schedule)
    if superseded:
        wished = wished | staying()
    if superseded or listed:
        entries = [*removal_schedule.parse(listed), *superseded]
        edits.file(
            layout.remove_schedule, removal_schedule.dump(removal_schedule.without(entries, wished))
        )
