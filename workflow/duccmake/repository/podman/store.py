"""What publishing and removing images changes in ``podmanStore/``, as edits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from ...errors import DuccmakeError, RepositoryError
from ...oci.manifest import ImageConfig
from ...oci.reference import Digest
from ...products import Product
from ..edits import Edits, Tree
from ..flat_trees import measured_layer
from ..layout import split_variant
from ..model import StagedImage
from ..view import Kind
from . import paths
from .image_entries import ImageEntries
from .index import Entry, Index
from .layer_entries import LayerEntries


def publish(
    edits: Edits,
    images: Sequence[StagedImage],
    trees: Mapping[PurePosixPath, Tree] | None = None,
    splits: Mapping[Digest, bytes] | None = None,
) -> None:
    """Put those of ``images`` into the store that shall be there.

    ``trees`` are those that their layers need there, by path (`own_trees`), ``splits`` what
    their archives are made again by, by the digests of their blobs.
    Names that stood for other images move; an image that is left without any is
    found by its digest until it is taken `without`.  Raises `RepositoryError`, or
    `ManifestError` with the image.
    """
    wanted = any(Product.PODMAN in image.products for image in images)
    if not wanted and not edits.view.exists(paths.IMAGES_INDEX):
        return
    _begin_anew(edits, [image for image in images if image.anew])
    store = _Store(edits, trees, splits)
    for image in images:
        try:
            store.release(image.name)
            if image.variants:
                # Until now it may have been there for one platform, under its public name.
                store.release(split_variant(image.name)[1])
            if Product.PODMAN in image.products:
                store.add(image)
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    store.save()


def _begin_anew(edits: Edits, images: Sequence[StagedImage]) -> None:
    """For images that are made anew, take for empty what cannot be read of them.

    So are the index files: of what they had, nobody sees anything.
    """
    for directory in (paths.image(image.config) for image in images):
        for name, kind in edits.view.entries(directory).items():
            if kind is Kind.FILE:
                edits.begin_anew(directory / name)
    for path in (paths.IMAGES_INDEX, paths.LAYERS_INDEX) if images else ():
        edits.begin_anew(path)
        try:
            Index(edits.content(path), edits.layout.seen(path))
        except RepositoryError:
            edits.file(path, b"[]\n")


def without(
    edits: Edits,
    *,
    names: Iterable[str] = (),
    flats: Iterable[str] = (),
    layers: Collection[str] = (),
) -> None:
    """Take out of the store what ceases to be published.

    ``names`` are images that are not published under these names any more; they
    stay, to be found by digest.  ``flats`` and ``layers`` are what is removed, by the
    hexadecimal digits of the configurations and blobs: an image of the store goes
    with its flat tree, or with a layer of which there is no other that unpacks to
    the same.  Raises `RepositoryError` where that image is published.
    """
    if not edits.view.exists(paths.IMAGES_INDEX):
        return
    store = _Store(edits)
    for name in names:
        store.release(name)
    for config in flats:
        store.remove(config)
    store.lose_layers(layers)
    store.sweep()
    store.save(removing=True)


def expel(edits: Edits, layers: Collection[str]) -> None:
    """Take out these layers, by their ids, with all images that have them.

    An image that is published with it lacks its place in the store then, and the next
    run puts it there again.
    """
    store = _Store(edits)
    if store.expel(layers):
        store.sweep()
        store.save(removing=True)


class _Store:
    """The store as it is after the edits so far, and the further edits."""

    def __init__(
        self,
        edits: Edits,
        trees: Mapping[PurePosixPath, Tree] | None = None,
        splits: Mapping[Digest, bytes] | None = None,
    ) -> None:
        self._edits = edits
        self._images = ImageEntries(edits)
        self._layers = LayerEntries(edits, trees or {}, splits or {})
        self.release = self._images.release
        self.remove = self._images.remove

    def add(self, image: StagedImage) -> None:
        """Put an image in, with its layers, or give it one more name."""
        config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
        created = config.created or "1970-01-01T00:00:00Z"
        if image.measured is None:
            raise RepositoryError("what its layers unpack to was never measured", hint="run again")
        top = self._layers.add(config.diff_ids, image.measured, created)
        self._images.add(image, top, created)

    def expel(self, layers: Collection[str]) -> bool:
        """Take out the images that have one of these layers; whether there are any."""
        images = [
            entry
            for entry in self._images.entries.values()
            if not set(layers).isdisjoint(self._layers.chain_of(entry))
        ]
        for entry in images:
            entry.pop("published", None)
            self.remove(entry["id"])
        return bool(images)

    def lose_layers(self, gone: Collection[str]) -> None:
        """Lead past published layers that go; images go where there is nothing to lead to."""
        affected = self._layers.leading_to(gone)
        if not affected:
            return
        chains = {
            image: self._layers.chain_of(entry) for image, entry in self._images.entries.items()
        }
        for layer in affected:
            users = [image for image, chained in chains.items() if layer["id"] in chained]
            if not self._lead_elsewhere(layer, gone, {image: chains[image] for image in users}):
                for image in users:
                    self.remove(image)
                    del chains[image]

    def _lead_elsewhere(
        self, layer: Entry, gone: Collection[str], users: Mapping[str, Sequence[str]]
    ) -> bool:
        """Have a layer lead to a published one that its images have, and that stays."""
        wanted = Digest.parse(layer["diff-digest"])
        for image, chained in users.items():
            for manifest in self._images.manifests(self._images.entries[image]):
                blob = manifest.layers[chained.index(layer["id"])].digest
                found = measured_layer(self._edits.view, blob)
                if blob.hex in gone or found is None or not found.unpacks_to(wanted):
                    continue
                self._layers.lead_to(layer, found)
                return True
        return False

    def sweep(self) -> None:
        """Take out the layers that no image has."""
        used: set[str] = set()
        for image in self._images.entries.values():
            used.update(self._layers.chain_of(image))
        self._layers.keep(used)

    def save(self, *, removing: bool = False) -> None:
        """Write the index files, last of all; where things go, that of the images first."""
        for one in (self._images, self._layers) if removing else (self._layers, self._images):
            one.save()
        for directory in (paths.OVERLAY, paths.IMAGES, paths.LAYERS_INDEX.parent, paths.ROOT):
            self._edits.catalog(directory)
