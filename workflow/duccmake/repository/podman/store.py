"""What publishing and removing images changes in ``podmanStore/``, as edits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ...errors import DuccmakeError, InvalidReference, RepositoryError
from ...layer.measured import Measured
from ...oci.manifest import ImageConfig, Manifest, parse_manifest
from ...oci.reference import Digest
from ...products import PODMAN
from ..edits import Edits, Tree
from ..flat_trees import measured_layer
from ..layout import Layout, digest_of, split_variant
from ..model import StagedImage
from .index import Entry, Index, last_writer
from .layers import ChainLayer, chain
from .names import names_of, pinned_names_of
from .paths import Paths, big_data
from .standing import VERIFIED, has_own_tree, is_verified

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)\Z")


def publish(
    edits: Edits,
    layout: Layout,
    images: Sequence[StagedImage],
    trees: Mapping[Path, Tree] | None = None,
) -> None:
    """Put those of ``images`` into the store that shall be there.

    ``trees`` are those that their layers need there, by path (`own_trees`).
    Names that stood for other images move; an image that is left without any is
    found by its digest until it is taken `without`.  Raises `RepositoryError`, or
    `ManifestError` with the image.
    """
    paths = Paths(layout)
    if not any(PODMAN in image.products for image in images) and not paths.images.exists():
        return
    store = _Store(edits, layout, trees or {})
    for image in images:
        try:
            store.release(image.name)
            if image.variants:
                # Until now it may have been there for one platform, under its public name.
                store.release(split_variant(image.name)[1])
            if PODMAN in image.products:
                store.add(image)
        except DuccmakeError as error:
            raise error.within(image=image.name, step="podman store") from None
    store.save()


def without(
    edits: Edits,
    layout: Layout,
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
    if not Paths(layout).images.exists():
        return
    store = _Store(edits, layout)
    for name in names:
        store.release(name)
    for config in flats:
        store.remove(config)
    store.lose_layers(layers)
    store.sweep()
    store.save(removing=True)


def expel(edits: Edits, layout: Layout, layers: Collection[str]) -> None:
    """Take out these layers, by their ids, with all images that have them.

    An image that is published with it lacks its place in the store then, and the next
    run puts it there again.
    """
    store = _Store(edits, layout)
    if store.expel(layers):
        store.sweep()
        store.save(removing=True)


class _Store:
    """The store as it is after the edits so far, and the further edits."""

    def __init__(
        self, edits: Edits, layout: Layout, trees: Mapping[Path, Tree] | None = None
    ) -> None:
        self._edits = edits
        self._layout = layout
        self._trees = trees or {}
        self._paths = Paths(layout)
        self._images = Index(edits.content(self._paths.images), self._paths.images)
        self._layers = Index(edits.content(self._paths.layers), self._paths.layers)
        self._published = {
            name: entry
            for entry in self._images.entries.values()
            for name in entry.get("published", ())
        }

    # --- images ---------------------------------------------------------

    def add(self, image: StagedImage) -> None:
        """Put an image in, with its layers, or give it one more name."""
        config = ImageConfig.parse(image.config_bytes, layers=len(image.layers))
        layers = chain(config.diff_ids, self._has_own_tree)
        created = _time(config.created)
        if image.measured is None:
            raise RepositoryError("what its layers unpack to was never measured", hint="run again")
        for layer, diff_id, found in zip(layers, config.diff_ids, image.measured, strict=True):
            self._add_layer(layer, diff_id, found, created)
        identity = image.config.hex
        entry = self._images.entries.setdefault(identity, {"id": identity})
        entry.update({"layer": layers[-1].id} if layers else {})
        entry["created"] = created
        entry["published"] = {**entry.get("published", {}), image.name: str(image.manifest)}
        entry.pop("retired", None)
        self._published[image.name] = entry
        directory = self._paths.image(image.config)
        self._edits.file(big_data(directory, str(image.config)), image.config_bytes)
        self._edits.file(big_data(directory, f"manifest-{image.manifest}"), image.manifest_bytes)
        self._describe(entry)

    def release(self, name: str) -> None:
        """Take a name of the repository from the image that has it."""
        entry = self._published.pop(name, None)
        if entry is None:
            return
        manifest = entry["published"].pop(name)
        if not entry["published"]:
            entry["retired"] = {name: manifest}
        self._describe(entry)

    def remove(self, identity: str) -> None:
        """Take an image out; `sweep` does so with its layers."""
        entry = self._images.entries.pop(identity, None)
        if entry is None:
            return
        if entry.get("published"):
            raise RepositoryError(
                f"{next(iter(entry['published']))} is published, but what it is made of is "
                "to be removed",
                step="podman store",
            )
        self._images.name(entry, ())
        self._edits.remove(self._paths.images.parent / identity)

    def expel(self, layers: Collection[str]) -> bool:
        """Take out the images that have one of these layers; whether there are any."""
        images = [
            entry
            for entry in self._images.entries.values()
            if not set(layers).isdisjoint(self._chain_of(entry))
        ]
        for entry in images:
            entry.pop("published", None)
            self.remove(entry["id"])
        return bool(images)

    def _describe(self, entry: Entry) -> None:
        """Names and big data of an image, from the names that it has in the repository."""
        published, retired = entry.get("published", {}), entry.get("retired", {})
        names: list[str] = []
        for name, manifest in published.items():
            names += names_of(name) or pinned_names_of(name, Digest.parse(manifest))
        for name, manifest in retired.items():
            names += pinned_names_of(name, Digest.parse(manifest))
        self._images.name(entry, names)
        manifests = list(dict.fromkeys([*published.values(), *retired.values()]))
        config = digest_of(entry["id"])
        digests = {config: config, **{f"manifest-{digest}": digest for digest in manifests}}
        directory = self._paths.image(Digest.parse(config))
        for key in entry.get("big-data-names", ()):
            if key not in digests and key != "manifest":
                self._edits.remove(big_data(directory, key))
        # The one that counts where nobody asks for a certain one: the latest.
        entry["digest"] = digests["manifest"] = manifests[-1]
        latest = self._edits.content(big_data(directory, f"manifest-{manifests[-1]}"))
        self._edits.file(directory / "manifest", latest)
        entry["big-data-names"] = list(digests)
        entry["big-data-sizes"] = {
            key: len(self._edits.content(big_data(directory, key))) for key in digests
        }
        entry["big-data-digests"] = digests

    # --- layers ---------------------------------------------------------

    def _add_layer(
        self, layer: ChainLayer, diff_id: Digest, measured: Measured, created: str
    ) -> None:
        known = self._layers.entries.get(layer.id, {})
        if not is_verified(known) or not self._leads_somewhere(known):
            known = {
                "id": layer.id,
                "parent": layer.parent,
                "created": created,
                "compressed-diff-digest": str(measured.digest),
                "compressed-size": measured.blob_bytes,
                "diff-digest": str(diff_id),
                "diff-size": measured.diff_bytes,
                "compression": measured.compression,
                VERIFIED: True,
            }
            self._layers.entries[layer.id] = {key: value for key, value in known.items() if value}
        directory = self._paths.layer(layer.id)
        tree = self._trees.get(self._paths.diff(layer.id))
        if tree is not None:
            self._edits.tree(self._paths.diff(layer.id), tree)
        self._point(layer.id, Digest.parse(known["compressed-diff-digest"]))
        self._edits.file(directory / "link", layer.link.encode())
        if layer.lowers:
            self._edits.file(directory / "lower", ":".join(layer.lowers).encode())
        else:
            self._edits.remove(directory / "lower")
            # What a mount of this layer alone has below it.
            self._edits.directory(directory / "empty")
        # podman before version 4.4 mounts there, and can make no directory on CernVM-FS.
        self._edits.directory(directory / "merged")
        self._edits.symlink(self._paths.link(layer.id), f"../{layer.id}/diff")

    def _leads_somewhere(self, layer: Entry) -> bool:
        try:
            digest = Digest.parse(layer.get("compressed-diff-digest"))
        except InvalidReference:
            return False
        return self._layout.layerfs(digest).is_dir()

    def _point(self, identity: str, digest: Digest) -> None:
        """Have a layer of the store lead to a published one, unless it has a tree of its own.

        The link is absolute: containers/storage refuses others when it compares a
        container with the image that it was made of.
        """
        if not self._has_own_tree(identity):
            target = self._layout.seen(self._layout.layerfs(digest))
            self._edits.symlink(self._paths.diff(identity), str(target))

    def _has_own_tree(self, identity: str) -> bool:
        return self._paths.diff(identity) in self._trees or has_own_tree(self._paths, identity)

    def lose_layers(self, gone: Collection[str]) -> None:
        """Lead past published layers that go; images go where there is nothing to lead to."""
        affected = [
            layer
            for layer in self._layers.entries.values()
            if layer.get("compressed-diff-digest", "").rpartition(":")[2] in gone
        ]
        if not affected:
            return
        chains = {image: self._chain_of(entry) for image, entry in self._images.entries.items()}
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
            for manifest in self._manifests(self._images.entries[image]):
                blob = manifest.layers[chained.index(layer["id"])].digest
                found = measured_layer(self._layout, blob)
                if blob.hex in gone or found is None or not found.unpacks_to(wanted):
                    continue
                layer["compressed-diff-digest"] = str(blob)
                layer["compressed-size"] = found.blob_bytes
                layer["compression"] = found.compression
                self._point(layer["id"], blob)
                return True
        return False

    def _manifests(self, image: Entry) -> Iterator[Manifest]:
        directory = self._paths.images.parent / image["id"]
        for key in image.get("big-data-names", ()):
            if key.startswith("manifest-"):
                manifest = parse_manifest(self._edits.content(big_data(directory, key)))
                if isinstance(manifest, Manifest):
                    yield manifest

    def sweep(self) -> None:
        """Take out the layers that no image has."""
        used: set[str] = set()
        for image in self._images.entries.values():
            used.update(self._chain_of(image))
        for identity in self._layers.entries.keys() - used:
            del self._layers.entries[identity]
            self._edits.remove(self._paths.layer(identity))
            self._edits.remove(self._paths.link(identity))

    def _chain_of(self, image: Entry) -> list[str]:
        """The ids of an image's layers, lowest first."""
        found: list[str] = []
        identity = image.get("layer", "")
        while identity and identity not in found:
            found.append(identity)
            identity = self._layers.entries.get(identity, {}).get("parent", "")
        return found[::-1]

    # --- the index files ------------------------------------------------

    def save(self, *, removing: bool = False) -> None:
        """Write the index files, last of all; where things go, that of the images first."""
        layers = (self._paths.layers, self._layers, "layers.lock")
        images = (self._paths.images, self._images, "images.lock")
        for path, index, lock in (images, layers) if removing else (layers, images):
            content = index.dump()
            self._edits.file(path, content)
            self._edits.file(path.with_name(lock), last_writer(content))
        for directory in (
            self._paths.overlay,
            self._paths.images.parent,
            self._paths.layers.parent,
        ):
            self._edits.catalog(directory)
        self._edits.catalog(self._paths.root)


def _time(created: str) -> str:
    """When an image was made, as Go reads it; images that do not say it are as old as Unix."""
    try:
        datetime.fromisoformat(created)
    except ValueError:
        created = ""
    return created if _TIME.match(created) else "1970-01-01T00:00:00Z"
