"""Staging an image's flat tree from layers that are staged or published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .errors import DuccmakeError
from .flatten import LayerTree, flatten_image
from .manifest import ImageConfig
from .plan import PlannedImage
from .reference import Digest
from .repository import Repository
from .store import ContentStore


def stage_flat_tree(
    image: PlannedImage,
    repository: Repository,
    store: ContentStore,
    destination: Path,
    *,
    staged: Mapping[str, Path],
    mount_points: tuple[str, ...],
) -> int:
    """Flatten a planned image into ``destination/image``; returns the number of entries.

    ``staged`` says by digest where layers are staged, if they are.
    """
    raw = store.get(image.config)
    if raw is None:
        raise DuccmakeError(
            f"the configuration {image.config} is not there any more",
            image=image.title,
            step="flatten",
            mend="run again",
        )
    layers = []
    for layer in image.layers:
        tree = _layer_tree(layer.digest, repository, staged)
        if tree is None:
            raise DuccmakeError(
                f"the layer {layer.digest} is neither staged nor published",
                image=image.title,
                step="flatten",
                mend="run again",
            )
        layers.append(tree)
    try:
        return flatten_image(
            layers,
            ImageConfig.parse(raw, layers=len(layers)),
            destination,
            # Tags that share a configuration share the tree, which must not depend on them.
            name=str(image.config),
            mount_points=mount_points,
        )
    except DuccmakeError as error:
        raise error.within(image=image.title, step="flatten") from None


def _layer_tree(
    digest: Digest, repository: Repository, staged: Mapping[str, Path]
) -> LayerTree | None:
    # A commit of other images may move a staged layer into the repository at any
    # moment, so it is opened before it is asked for elsewhere.
    try:
        manifest = staged[str(digest)] / ".metadata" / "tree.mtree"
        return LayerTree(digest, manifest.read_bytes())
    except FileNotFoundError:
        pass
    try:
        with repository.reading():
            return LayerTree(digest, repository.layer_manifest(digest).read_bytes())
    except FileNotFoundError:
        return None
