"""From layers to published trees, as the workflow does it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from duccmake.cvmfs.codec import Codec, Level
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.rows import Content
from duccmake.demo.images import Image
from duccmake.layer.catalogs import (
    OBJECTS,
    CatalogForm,
    StagedCatalogs,
    TreeContents,
    write_catalogs,
)
from duccmake.layer.flatten import FlatTree, LayerTree, flatten
from duccmake.layer.known_objects import Known
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.measured import Measured
from duccmake.layer.unpack import UnpackedLayer, unpack_layer
from duccmake.oci.reference import Digest
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.layout import Layout
from duccmake.repository.model import ChangeSet, StagedImage, StagedLayer
from duccmake.repository.podman.layers import chain
from duccmake.repository.reader import PublishedTree
from duccmake.tree import mtree
from support.images import Layer
from support.on_disk import OnDisk
from support.trees import Node, Tree

NAME = "registry.example.org/odd/image:1"
LAYOUT = Layout(Path("/"))
FAST = Codec(Level.FAST)


def digest_of(content: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(content).hexdigest())


def unpack(
    layer: Layer,
    base: Path,
    limits: UnpackLimits | None = None,
    *,
    catalogs: bool = False,
    known: Known | None = None,
) -> UnpackedLayer:
    """Unpack a layer into ``base/layer``, as a tree or as objects and ``catalogs``."""
    base.mkdir(parents=True, exist_ok=True)
    blob = base / "blob"
    blob.write_bytes(layer.blob)
    return unpack_layer(
        blob,
        base,
        digest=layer.digest,
        catalogs=_form(LAYOUT.layerfs(layer.digest), known) if catalogs else None,
        split=True,
        limits=limits,
    )


def _form(path: PurePosixPath, known: Known | None = None) -> CatalogForm:
    """How a tree is staged that will be at ``path`` of a repository."""
    at, salt = os.fsencode(LAYOUT.seen(path)), secrets.token_hex(4)
    return CatalogForm(at, Keeping(), FAST, salt, known)


def unpack_blob(blob: bytes, base: Path, limits: UnpackLimits | None = None) -> UnpackedLayer:
    """Unpack any bytes that should hold an archive."""
    base.mkdir(parents=True, exist_ok=True)
    (base / "blob").write_bytes(blob)
    return unpack_layer(base / "blob", base, digest=digest_of(blob), limits=limits)


def measured_of(layer: Layer) -> Measured:
    """What the layer's blob is found to be when it is unpacked."""
    magic = {b"\x1f\x8b": 2, b"\x28\xb5": 4}
    number = magic.get(layer.blob[:2], 0)
    return Measured(layer.digest, len(layer.blob), (layer.diff_id,), len(layer.tar), number)


def flattened(
    layers: Sequence[Layer], base: Path, *, catalogs: bool = False, known: Known | None = None
) -> FlatTree:
    """Unpack layers and flatten them, with nothing generated."""
    trees = []
    for layer in layers:
        directory = base / layer.digest.hex
        if not directory.exists():
            unpack(layer, directory, catalogs=catalogs, known=known)
        manifest = directory / "layer" / ".metadata" / "tree.mtree"
        trees.append(LayerTree(layer.digest, manifest.read_bytes()))
    return flatten(trees)


@dataclass(frozen=True, slots=True)
class Published:
    """An image in a repository: its flat tree, its layers' trees (lowest first), manifests.

    ``store`` are the trees that podman's store has for it, lowest first.
    """

    flat: Path
    layers: tuple[Path, ...]
    flat_manifest: Path
    layer_manifests: tuple[Path, ...]
    problems: tuple[str, ...]
    losses: dict[str, int]
    store: tuple[Path, ...] = ()


def stage(
    name: str,
    image: Image,
    staging: Path,
    products: tuple[str, ...] = ("layers", "flat"),
    *,
    catalogs: bool = False,
    known: Known | None = None,
) -> StagedImage:
    """An image of that name that is ready to be published, its layers in ``staging`` too.

    CernVM-FS takes what is staged with its ``catalogs``; it has what is ``known`` already.
    """
    path = staging / image.digest.hex
    flattened(image.layers, staging, catalogs=catalogs, known=known).write(path)
    if catalogs:
        _write_flat_catalogs(path, image, staging)
    return staged(name, image, path, products)


def _write_flat_catalogs(path: Path, image: Image, staging: Path) -> None:
    form, layers = flat_form(image, staging)

    def content(layer: int | None, file: bytes) -> Content:
        assert layer is not None, "nothing is generated"
        return layers[layer].of(file)

    (path / OBJECTS).mkdir(exist_ok=True)
    objects = Objects(path / OBJECTS, form.codec)
    write_catalogs(path, path / "tree.mtree", content, objects, form)


def flat_form(image: Image, staging: Path) -> tuple[CatalogForm, list[TreeContents]]:
    """How an image's flat tree is staged, and what is in its layers, which ``staging`` has."""
    layers = [StagedCatalogs.read(staging / each.digest.hex / "layer") for each in image.layers]
    form = _form(LAYOUT.flat(digest_of(image.config_bytes)))
    return form, [layer.contents() for layer in layers]


def staged(name: str, image: Image, path: Path | None, products: tuple[str, ...]) -> StagedImage:
    """An image of that name whose flat tree is described in ``path``, if it is to have one."""
    return StagedImage(
        name=name,
        platform=image.platform,
        manifest=image.digest,
        manifest_bytes=image.manifest_bytes,
        config=digest_of(image.config_bytes),
        layers=tuple(layer.digest for layer in image.layers),
        path=path,
        products=products,
        config_bytes=image.config_bytes,
        measured=tuple(map(measured_of, image.layers)),
    )


def change_set(images: Sequence[StagedImage], staging: Path) -> ChangeSet:
    """What publishes staged images with all their layers."""
    digests = dict.fromkeys(digest for image in images for digest in image.layers)
    layers = (StagedLayer(digest, staging / digest.hex / "layer") for digest in digests)
    return ChangeSet(tuple(layers), tuple(images))


def publish(
    layers: Sequence[Layer], base: Path, products: tuple[str, ...] = ("layers", "flat")
) -> Published:
    """Unpack, flatten and publish an image into a fresh repository below ``base``."""
    staging = base / "staging"
    image = stage(NAME, Image(tuple(layers)), staging, products)
    repository = DirectoryRepository(base / "cvmfs", "odd.example.org", durable=False)
    with repository.lock():
        repository.publish(change_set([image], staging))
    layout = OnDisk(repository.path)
    record = json.loads(layout.record(NAME).read_bytes())
    return Published(
        flat=layout.flat(image.config),
        layers=tuple(layout.layerfs(layer.digest) for layer in layers),
        flat_manifest=layout.flat_manifest(image.config),
        layer_manifests=tuple(layout.layer_manifest(layer.digest) for layer in layers),
        problems=tuple(repository.verify(NAME)),
        losses=record["losses"],
        store=store_layers(repository, layers) if "podman" in products else (),
    )


def store_layers(repository: PublishedTree, layers: Sequence[Layer]) -> tuple[Path, ...]:
    """What podman mounts of an image of the store, lowest first, as its driver finds it.

    In the repository as it is published, not as clients see it.
    """
    if not layers:
        return ()
    overlay = repository.path / "podmanStore" / "overlay"
    top = overlay / chain([layer.diff_id for layer in layers])[-1].id
    lower = top / "lower"
    links = lower.read_text().split(":")[::-1] if lower.exists() else []
    tops = [overlay / "l" / (overlay / link).readlink() for link in links] + [top / "diff"]
    seen = repository.view.layout.clients
    return tuple(
        repository.path / diff.readlink().relative_to(seen) if diff.is_symlink() else diff
        for diff in tops
    )


def shown_by_layers(published: Published, tree: Tree) -> dict[bytes, Node]:
    """A tree without what the record says that an overlay of the published layers lacks.

    Those are hard links to lower layers, and attributes of directories that layers imply.
    """
    entries = (entry for path in published.layer_manifests for entry in mtree.read(path))
    links = tuple(entry.path + b"/" for entry in entries if b"lower" in entry.flags)
    assert bool(links) == ("links" in published.losses)
    found = {path: node for path, node in tree.items() if not (path + b"/").startswith(links)}
    if links:
        found = {path: replace(node, group=()) for path, node in found.items()}
    if "directories" in published.losses:
        plain = Node("dir", 0, 0, 0, 0)
        found = {path: plain if node.kind == "dir" else node for path, node in found.items()}
    return found
