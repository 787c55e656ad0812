"""An image's metadata, DUCC's files and the public links, as edits of a repository.

Whatever the backend, a published image leaves the same files; they are computed
here from what the repository shows at the time, under the publisher's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from ..errors import RepositoryError
from ..layer import measured
from ..oci.reference import Digest
from ..products import Product
from . import adoption, ducc, history, podman, referrers, removal_schedule
from .edits import Edits, Tree
from .flat_trees import flat_tree_of, read_flat_tree
from .json_files import dump
from .layout import split_variant
from .model import RECORD_FORMAT, UNMEASURED, WIDENED, ImageRecord, StagedImage, StagedLayer
from .view import Kind, View

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
        anew=image.anew,
        signatures=image.signatures,
        fix_permissions=image.fix_permissions
        and Product.FLAT in image.products
        and UNMEASURED not in losses,
    )


def known_losses(view: View, image: StagedImage) -> dict[str, int]:
    """The losses of an image that is published and only gets further names or products.

    One that DUCC published and that is taken over is such an image too.

    Raises `RepositoryError` where it is not there any more as it is wished.
    """
    layout = view.layout
    record = None
    with suppress(OSError):  # as if it said nothing; it is written anew
        record = ImageRecord.read(view.content(layout.record(image.name)))
    if record and (record.manifest, record.format) != (image.manifest, RECORD_FORMAT):
        record = None
    adopted = record is not None and UNMEASURED in record.losses
    flat = flat_tree_of(view, image)
    if record and not adopted and (Product.FLAT not in image.products or flat is not None):
        return record.losses
    if flat is not None:
        return {**flat.layer_losses, **flat.losses}
    if record and adopted and view.is_dir(layout.flat(image.config)):
        return record.losses
    if not view.exists(layout.record(image.name)) and adoption.is_whole(
        view, image.name, image.config, image.layers, image.products
    ):
        return {UNMEASURED: 1 + len(set(image.layers))}
    raise RepositoryError("it was published, but is not any more", hint="run again")


def check_link(view: View, name: str) -> None:
    """Raise `RepositoryError` where something stands in the way of an image's public link."""
    public = split_variant(name)[1]
    for each in dict.fromkeys((name, public)):
        _check_link(view, view.layout.link(each))


def _check_link(view: View, link: PurePosixPath) -> None:
    if view.kind(link) not in (None, Kind.LINK):
        raise RepositoryError(
            f"{view.layout.seen(link)} is in the way of its link", hint="move it away and run again"
        )
    checked_parents(view, link)


def checked_parents(view: View, path: PurePosixPath) -> list[PurePosixPath]:
    """What lies between a path and the root, the nearest first; none may be a symlink.

    Raises `RepositoryError` where one is.
    """
    parents = list(path.parents)[:-1]
    for parent in parents:
        if view.is_link(parent):
            raise RepositoryError(
                f"{view.layout.seen(parent)} is a symlink where a directory is needed",
                hint="no image's name can lead through another image",
            )
    return parents


def layers_json(layer: StagedLayer) -> bytes:
    """``layers.json`` of a layer to be published; `RepositoryError` where it is not whole."""
    found = measured.staged(layer.path / ".metadata")
    if found is None:
        raise RepositoryError(f"{layer.path} is no staged layer", hint="remove it and run again")
    return dump(found.to_json(datetime.now(UTC).isoformat(timespec="seconds")))


def publish_metadata(
    edits: Edits,
    images: Sequence[StagedImage],
    losses: Mapping[str, Losses],
    others: Callable[[], Mapping[str, str]],
    trees: Mapping[PurePosixPath, Tree] | None = None,
    splits: Mapping[Digest, bytes] | None = None,
) -> None:
    """Manifests and records of ``images``, DUCC's files, podman's store, and last the public links.

    ``losses`` are each image's, by name; ``others`` tells the configurations of
    the images that stay as they are, by name; ``trees`` and ``splits`` are those of podman's store.
    """
    layout = edits.layout
    now = time.time()
    for image in images:
        if image.anew:
            origins = map(layout.origin, image.layers)
            for path in (layout.manifest(image.name), layout.record(image.name), *origins):
                edits.begin_anew(path)
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
    _note_permissions(edits, images, losses, others)
    turned = history.turn(edits, images, now)
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
        referrers.publish(edits, image)
    _note_origins(edits, images)
    _schedule(edits, superseded, wished, staying)
    podman.publish(edits, images, trees, splits)
    for image in images:
        link = layout.link(image.name)
        if Product.FLAT in image.products:
            edits.symlink(link, layout.link_target(image.name, image.config))
        elif edits.view.is_link(link):
            edits.remove(link)
    for image in images:
        if image.variants:
            _link_variants(edits, image)


def _link_variants(edits: Edits, image: StagedImage) -> None:
    """Have the public name lead to the image of one of its platforms, or each to its own."""
    layout, name = edits.layout, split_variant(image.name)[1]
    published = [
        label for label in image.variants if edits.is_link(layout.multiarch / label / name)
    ]
    if published:
        for path, label in layout.machine_links(image.variants):
            edits.symlink(path, label)
        edits.symlink(layout.link(name), layout.variant_target(name, image.variants, published))


def link_public_names(edits: Edits, leaving: Iterable[str]) -> None:
    """Mend or remove the public links that lead to images of several platforms that leave."""
    layout = edits.layout
    labels = edits.view.entries(layout.multiarch)
    for name in dict.fromkeys(leaving):
        label, public = split_variant(name)
        link = layout.link(public)
        default = layout.variant(public, edits.view.target(link))
        if not label or not default or link in edits.removals:
            continue
        staying = [
            other
            for other, kind in sorted(labels.items())
            if kind is Kind.DIRECTORY and edits.is_link(layout.multiarch / other / public)
        ]
        if not staying:
            edits.remove(link)
        elif not edits.is_link(layout.multiarch / default / public):
            edits.symlink(link, layout.variant_target(public, staying, staying))


def _note_permissions(
    edits: Edits,
    images: Iterable[StagedImage],
    losses: Mapping[str, Losses],
    others: Callable[[], Mapping[str, str]],
) -> None:
    """Have all records of a flat tree say so where it is made again in the other way."""
    remade = {str(image.config): image for image in images if _is_made_otherwise(edits.view, image)}
    if not remade:
        return
    sharing = [name for name, config in others().items() if config in remade]
    for path in map(edits.layout.record, [*sharing, *(image.name for image in images)]):
        record = ImageRecord.read(edits.content(path))
        image = remade.get(str(record.config)) if record else None
        if record and image and Product.FLAT in record.products and UNMEASURED not in record.losses:
            now = {kind: n for kind, n in record.losses.items() if kind != WIDENED}
            now |= {kind: n for kind, n in losses[image.name].items() if kind == WIDENED}
            record = replace(record, losses=now, fix_permissions=image.fix_permissions)
            edits.file(path, dump(record.to_json()))


def _is_made_otherwise(view: View, image: StagedImage) -> bool:
    """Whether an image's flat tree is there with the other permissions, and is made again."""
    if image.path is None or Product.FLAT not in image.products:
        return False
    tree = read_flat_tree(view, image.config)
    return tree is not None and tree.fix_permissions != image.fix_permissions


def _note_origins(edits: Edits, images: Iterable[StagedImage]) -> None:
    users: dict[Digest, dict[str, None]] = {}
    for image in images:
        for digest in image.layers:
            users.setdefault(digest, {})[str(image.config)] = None
    for digest, configs in users.items():
        origin = edits.layout.origin(digest)
        edits.file(origin, ducc.origins(edits.content(origin), configs))


def _schedule(
    edits: Edits,
    superseded: Sequence[removal_schedule.Entry],
    wished: set[str],
    staying: Callable[[], set[str]],
) -> None:
    """Enter what lost its name, and strike out what is published again."""
    path = edits.layout.remove_schedule
    listed = edits.content(path)
    if superseded:
        wished = wished | staying()
    if superseded or listed:
        entries = [*removal_schedule.parse(listed), *superseded]
        edits.file(path, removal_schedule.dump(removal_schedule.without(entries, wished)))
