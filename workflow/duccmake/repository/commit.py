"""One commit of images, whatever the backend: what it makes, in which order, by which rules.

`Commit` knows what has to be there and what is to be made: layers first, then flat trees,
and last all that is small (`Edits`), at whose end are the public links.  How something
gets into a repository a backend's `Writer` knows, and in which form its layers are, its
`LayerForm`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..errors import DuccmakeError, RepositoryError
from ..layer.measured import TAR_SPLIT
from ..oci.reference import Digest
from ..products import Product
from . import overlay_losses, podman
from .edits import Edits, Tree
from .failures import reported
from .flat_trees import FlatTree, flat_tree_of
from .json_files import content, dump
from .layout import Layout
from .metadata import check_link, known_losses, publish_metadata
from .model import ChangeSet, StagedImage, StagedLayer
from .overlay_losses import Notes

log = logging.getLogger(__name__)

_STEP = "publish"

Others = Callable[[Iterable[StagedImage]], Mapping[str, str]]
"""Tells the configurations of the images that stay when some are published, by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """What change sets come to: layers and images, none of them published yet.

    ``trees`` are what layers of podman's store need of their own, by their paths there, and
    ``splits`` what podman makes their archives again by.
    """

    layers: Mapping[Digest, StagedLayer]
    images: tuple[StagedImage, ...]
    trees: Mapping[Path, Tree]
    splits: Mapping[Digest, bytes]

    def __or__(self, other: Part) -> Part:
        return Part(
            {**self.layers, **other.layers},
            self.images + other.images,
            {**self.trees, **other.trees},
            {**self.splits, **other.splits},
        )

    def flat_trees(self, layout: Layout) -> list[tuple[StagedImage, Path]]:
        """An image for each flat tree that is not there yet, and where it is staged."""
        wanted: dict[Digest, tuple[StagedImage, Path]] = {}
        for image in self.images:
            if image.path is not None and Product.FLAT in image.products:
                wanted.setdefault(image.config, (image, image.path))
        return [each for each in wanted.values() if flat_tree_of(layout, each[0]) is None]


class LayerForm(Protocol):
    """The form in which a backend takes staged layers and publishes them."""

    def is_staged(self, layer: StagedLayer) -> bool:
        """Whether a layer is staged in this form, beside its ``.metadata``."""
        ...

    def hide(self, commit: Commit, image: StagedImage, notes: Notes) -> Counter[str]:
        """Have an overlay of an image's layers hide what is noted that they hide.

        Asked before anything is written.  Returns what cannot be said in this form, by kind.
        """
        ...


class Writer(Protocol):
    """Puts into a repository what `Commit.carry_out` says, in that order.

    `OSError` and `RepositoryError` are told with the image that they are about.
    """

    def layer(self, layer: StagedLayer) -> None:
        """Put a layer into its place, with all that stands beside it."""
        ...

    def take_along(self, part: Part) -> bool:
        """Make ready for what has got ready meanwhile; False if it needs a commit of its own."""
        ...

    def flat_tree(self, image: StagedImage, staged: Path) -> Mapping[str, int]:
        """Make an image's flat tree of what is in ``staged``; returns its losses, by kind."""
        ...

    def settle(self) -> None:
        """All trees are made: from here on `Edits` are made of what the repository shows."""
        ...


class Commit:
    """What a change set needs to be published, and the rules by which that is done.

    Nothing is written before `carry_out`.  Raises `RepositoryError` or `LayerError`,
    with the image, where that cannot be done.
    """

    def __init__(self, layout: Layout, form: LayerForm, changes: ChangeSet, others: Others) -> None:
        self.layout = layout
        self.whole = Part({}, (), {}, {})
        self._form = form
        self._others = others
        self._lost: dict[str, Counter[str]] = {}
        self._add(self._part_of(changes))

    def manifest(self, digest: Digest) -> Path:
        """The ``tree.mtree`` of a layer, staged or published, before the commit."""
        return _manifest(self.layout, self.whole.layers, digest)

    # --- before anything is written -------------------------------------

    def _part_of(self, changes: ChangeSet) -> Part:
        layers = {
            layer.digest: layer for layer in changes.layers if layer.digest not in self.whole.layers
        }
        for layer in layers.values():
            with reported(*_publishing(layer, changes.images)):
                self._check_layer(layer)
        staged = {**self.whole.layers, **layers}
        for image in changes.images:
            with reported(_STEP, image.name):
                self._check_image(image, staged)
        trees = podman.own_trees(
            self.layout, changes.images, lambda digest: _manifest(self.layout, staged, digest)
        )
        return Part(layers, changes.images, trees, _splits(layers, changes.images))

    def _check_layer(self, layer: StagedLayer) -> None:
        if not layer.manifest.is_file() or not self._form.is_staged(layer):
            raise RepositoryError(
                f"{layer.path} is no staged layer", hint="remove it and run again"
            )

    def _check_image(self, image: StagedImage, staged: Mapping[Digest, StagedLayer]) -> None:
        for digest in image.layers:
            if digest not in staged and not _is_published(self.layout, image, digest):
                raise RepositoryError(
                    f"its layer {digest} is neither published nor staged", hint="run again"
                )
        check_link(self.layout, image.name)

    def _add(self, part: Part) -> None:
        self.whole |= part
        for image in part.images:
            if image.path is not None:
                with reported(_STEP, image.name):
                    notes = overlay_losses.read(image.path)
                    lost = overlay_losses.losses(notes) + self._form.hide(self, image, notes)
                    overlay_losses.warn(image.name, lost)
                    self._lost[image.name] = lost

    # --- the commit -----------------------------------------------------

    def carry_out(
        self, writer: Writer, edits: Edits, more: Callable[[], Iterable[ChangeSet]] = tuple
    ) -> None:
        """Have layers and flat trees made, and add to ``edits`` all that goes with them.

        ``more`` tells, after some layers, what has got ready meanwhile, an image at a time.
        A commit can be carried out again, with all that was taken along.
        """
        self._put_layers(writer, more)
        losses = self._make_flat_trees(writer, edits)
        writer.settle()
        images = self.whole.images
        publish_metadata(
            edits,
            self.layout,
            images,
            losses,
            lambda: self._others(images),
            self.whole.trees,
            self.whole.splits,
        )

    def _put_layers(self, writer: Writer, more: Callable[[], Iterable[ChangeSet]]) -> None:
        done: set[Digest] = set()
        while missing := [
            layer for layer in self.whole.layers.values() if layer.digest not in done
        ]:
            for layer in missing:
                with reported(*_publishing(layer, self.whole.images)):
                    writer.layer(layer)
                done.add(layer.digest)
            for changes in more():
                if changes.images:
                    self._take_along(writer, changes)

    def _take_along(self, writer: Writer, changes: ChangeSet) -> None:
        names = ", ".join(image.name for image in changes.images)
        try:
            with reported(_STEP, names):
                part = self._part_of(changes)
                if not writer.take_along(part):
                    log.info("%s got ready meanwhile, and goes into a commit of its own", names)
                    return
        except DuccmakeError as error:
            # Its own job will say so; here it must not stand in others' way.
            log.info("%s got ready meanwhile, and is not taken along: %s", names, error)
            return
        log.info("%s got ready meanwhile, and is taken along", names)
        self._add(part)

    def _make_flat_trees(self, writer: Writer, edits: Edits) -> dict[str, Mapping[str, int]]:
        """Make those that are not there; returns each image's losses, by name."""
        known: dict[Digest, Mapping[str, int]] = {}
        losses: dict[str, Mapping[str, int]] = {}
        for image in self.whole.images:
            with reported(_STEP, image.name):
                if image.path is None:
                    losses[image.name] = known_losses(self.layout, image)
                    continue
                losses[image.name] = dict(self._lost[image.name])
                if Product.FLAT in image.products:
                    if image.config not in known:
                        known[image.config] = self._flat_tree(writer, edits, image, image.path)
                    losses[image.name] = {**losses[image.name], **known[image.config]}
        return losses

    def _flat_tree(
        self, writer: Writer, edits: Edits, image: StagedImage, staged: Path
    ) -> Mapping[str, int]:
        """Make a flat tree unless it is there, and note what it was made of; its losses."""
        tree = flat_tree_of(self.layout, image)
        if tree is None:
            lost = writer.flat_tree(image, staged)
            tree = FlatTree(
                image.layers,
                lost,
                self._lost[image.name],
                fix_permissions=image.fix_permissions,
            )
        noted = replace(tree, verified=image.measured is not None)
        edits.file(self.layout.flat_record(image.config), dump(noted.to_json(image.config)))
        return tree.losses


def _splits(
    layers: Mapping[Digest, StagedLayer], images: Iterable[StagedImage]
) -> dict[Digest, bytes]:
    """What was taken down of the archives of layers that podman's store gets."""
    wanted = {
        digest for image in images if Product.PODMAN in image.products for digest in image.layers
    }
    found = {
        digest: content(layer.path / TAR_SPLIT)
        for digest, layer in layers.items()
        if digest in wanted
    }
    return {digest: split for digest, split in found.items() if split}


def _is_published(layout: Layout, image: StagedImage, digest: Digest) -> bool:
    """Whether a layer is there, as far as an image to be published needs it."""
    if image.path is None:
        return layout.layerfs(digest).is_dir()  # of DUCC's there is no more
    return layout.layer_manifest(digest).is_file()


def _manifest(layout: Layout, staged: Mapping[Digest, StagedLayer], digest: Digest) -> Path:
    layer = staged.get(digest)
    return layout.layer_manifest(digest) if layer is None else layer.manifest


def _publishing(layer: StagedLayer, images: Iterable[StagedImage]) -> tuple[str, str]:
    """The step in which a layer is published, and an image that has it."""
    user = next((image.name for image in images if layer.digest in image.layers), "")
    return f"publish the layer {layer.digest.short}", user
