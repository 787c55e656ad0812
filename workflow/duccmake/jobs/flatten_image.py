"""Staging an image's flat tree from layers that are staged or published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DuccmakeError
from ..layer import measured
from ..layer.flatten import LayerTree, flatten_image
from ..layer.measured import Measured, check_diff_ids
from ..oci.content_store import ContentStore
from ..oci.manifest import ImageConfig
from ..oci.reference import Digest
from ..planning.model import PlannedImage
from ..repository.protocol import Repository

if TYPE_CHECKING:
    from ..layer.catalogs import CatalogForm, TreeContents
    from ..repository.cvmfs.staging import Staging


def stage_flat_tree(
    image: PlannedImage,
    repository: Repository,
    store: ContentStore,
    destination: Path,
    *,
    staged: Mapping[str, Path],
    mount_points: tuple[str, ...],
    staging: Staging | None = None,
) -> int:
    """Flatten a planned image into ``destination/image``; returns the number of entries.

    ``staged`` says by digest where layers are staged, if they are; with ``staging`` they
    are, and the flat tree will be, in catalogs.  Raises `DigestMismatch` where they do
    not unpack to what the configuration says.
    """
    raw = store.get(image.config)
    if raw is None:
        raise DuccmakeError(
            f"the configuration {image.config} is not there any more",
            image=image.title,
            step="flatten",
            hint="run again",
        )
    layers: list[LayerTree] = []
    known: dict[Digest, Measured | None] = {}
    for layer in image.layers:
        found = _layer(layer.digest, repository, staged)
        if found is None:
            raise DuccmakeError(
                f"the layer {layer.digest} is neither staged nor published",
                image=image.title,
                step="flatten",
                hint="run again",
            )
        layers.append(found[0])
        known[layer.digest] = found[1]
    try:
        check_diff_ids(
            [layer.digest for layer in image.layers],
            [layer.diff_id for layer in image.layers],
            known.get,
        )
        return flatten_image(
            layers,
            ImageConfig.parse(raw, layers=len(layers)),
            destination,
            # Tags that share a configuration share the tree, which must not depend on them.
            name=str(image.config),
            mount_points=mount_points,
            fix_permissions=image.fix_permissions,
            catalogs=_catalogs(image, staging, staged),
        )
    except DuccmakeError as error:
        raise error.within(image=image.title, step="flatten") from None


def _catalogs(
    image: PlannedImage, staging: Staging | None, staged: Mapping[str, Path]
) -> tuple[CatalogForm, list[TreeContents]] | None:
    """How the flat tree is staged, and the content of the layers' files, where that counts."""
    if staging is None:
        return None
    contents = {layer.digest: _contents(layer.digest, staging, staged) for layer in image.layers}
    return staging.flat(image.config), [contents[layer.digest] for layer in image.layers]


def _contents(digest: Digest, staging: Staging, staged: Mapping[str, Path]) -> TreeContents:
    from ..cvmfs.storage import NotThere
    from ..layer.catalogs import StagedCatalogs

    try:
        return StagedCatalogs.read(staged[str(digest)]).contents()
    except (FileNotFoundError, NotThere):
        # Neither is there once a commit of other images has published it.
        return staging.published(digest)


def _layer(
    digest: Digest, repository: Repository, staged: Mapping[str, Path]
) -> tuple[LayerTree, Measured | None] | None:
    """A layer's manifest, and what it was measured to be, as it is staged or else published."""
    # A commit of other images may move a staged layer into the repository at any
    # moment, so it is opened before it is asked for elsewhere.
    try:
        metadata = staged[str(digest)] / ".metadata"
        if found := measured.staged(metadata):
            return LayerTree(digest, (metadata / "tree.mtree").read_bytes()), found
    except FileNotFoundError:
        pass
    try:
        with repository.reading():
            view = repository.view
            manifest = view.read(view.layout.layer_manifest(digest))
            return LayerTree(digest, manifest), repository.measured(digest)
    except FileNotFoundError:
        return None
