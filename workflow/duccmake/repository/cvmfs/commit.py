"""A change set as one archive: what goes into it, and in which order.

Layers come first, each with its manifest last; then whiteouts for published layers,
flat trees, and at the end what the edits put, whose last are the public links.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from ...errors import DuccmakeError, RepositoryError
from ...layer import measured
from ...layer.pack import CONTENT, INDEX, Packed
from ...oci.reference import Digest
from ...tree import mtree
from ...tree.directories import Directories
from .. import overlay_losses, podman
from ..edits import Edits, Tree
from ..failures import reported
from ..flat_trees import FlatTree, flat_tree_of
from ..layout import Layout
from ..metadata import (
    check_link,
    is_there,
    known_losses,
    layers_json,
    note_flat_tree,
    publish_metadata,
)
from ..model import ChangeSet, StagedImage, StagedLayer
from .catalogs import standing
from .chunked_files import LargeFiles
from .cleanup import Overlaid
from .contents import Clones, LayerFiles, Read, read_published, relative
from .fidelity import Keeping
from .known_files import KnownFiles, layers_before
from .members import Members
from .opaque import Spelled
from .tar_writer import TarStream

log = logging.getLogger(__name__)

_STEP = "publish"
_WORTH_A_LOOK = 16 * 1024 * 1024
"""Bytes in new layers from which on it pays to read the manifests of earlier ones."""


class Changes:
    """Layers and images, none of them published yet, as members of an archive.

    ``others`` tells the configurations of the images that stay when some are
    published, by name.  Files of more than ``limit`` bytes, where there is a limit,
    need a transaction ahead of the archive: see `large_files`.
    """

    def __init__(
        self,
        layout: Layout,
        keeping: Keeping,
        changes: ChangeSet,
        others: Callable[[Sequence[StagedImage]], Mapping[str, str]],
        *,
        limit: int = 0,
    ) -> None:
        self._layout = layout
        self._keeping = keeping
        self._others = others
        self._limit = limit
        self._layers: dict[Digest, StagedLayer] = {}
        self._images: list[StagedImage] = []
        self.edits = Edits(layout.root)
        self._spelled: dict[Digest, Spelled] = {}
        self._lost: dict[str, Counter[str]] = {}
        self._skip: frozenset[bytes] = frozenset()
        self._trees: dict[Path, Tree] = {}
        self._written: set[Digest] = set()
        self._known: KnownFiles | None = None
        self._check(changes)
        self._add(changes)

    @property
    def images(self) -> list[StagedImage]:
        """The images, with those that were taken along."""
        return self._images

    @property
    def layers(self) -> Collection[StagedLayer]:
        """The layers, with those that were taken along."""
        return self._layers.values()

    def _add(self, changes: ChangeSet) -> None:
        self._layers |= {layer.digest: layer for layer in changes.layers}
        for image in changes.images:
            with reported(_STEP, image.name):
                self._spell_out(image)
        self._trees |= self._trees_in_store(changes)
        self._images += changes.images

    # --- before anything is written -------------------------------------

    def _check(self, changes: ChangeSet) -> None:
        for layer in changes.layers:
            _check_staged(layer)
        staged = self._layers.keys() | {layer.digest for layer in changes.layers}
        for image in changes.images:
            with reported(_STEP, image.name):
                for digest in image.layers:
                    if digest not in staged and not is_there(self._layout, image, digest):
                        raise RepositoryError(
                            f"its layer {digest} is neither published nor staged", hint="run again"
                        )
                check_link(self._layout, image.name)

    def _spell_out(self, image: StagedImage) -> None:
        """Add to layers what their opaque directories hide in the image."""
        notes = _notes(image)
        for number, paths in _hidden(notes):
            digest = image.layers[number]
            if digest not in self._spelled:
                new = digest in self._layers
                self._spelled[digest] = Spelled(self._manifest(digest), new=new)
            self._spelled[digest].hide(paths)
        self._lost[image.name] = overlay_losses.losses(notes)
        overlay_losses.warn(image.name, self._lost[image.name])

    def _manifest(self, digest: Digest) -> Path:
        layer = self._layers.get(digest)
        if layer is not None:
            return _staged_manifest(layer)
        return self._layout.layer_manifest(digest)

    def _bases(self, image: StagedImage) -> list[bytes]:
        return [self._base(digest) for digest in image.layers]

    def _base(self, digest: Digest) -> bytes:
        return relative(self._layout.root, self._layout.layerfs(digest))

    def large_files(self) -> LargeFiles:
        """The files that are too large for the archive; see `leave_out`."""
        return self._large_files(self._layers.values(), self._images, self._trees)

    def _large_files(
        self,
        layers: Iterable[StagedLayer],
        images: Iterable[StagedImage],
        trees: Mapping[Path, Tree],
    ) -> LargeFiles:
        found = LargeFiles(self._limit)
        for layer in layers:
            with _staged_manifest(layer).open("rb") as lines:
                found.of_layer(self._base(layer.digest), lines, layer.path)
        for image, staged in self._to_flatten(images):
            with (staged / "tree.mtree").open("rb") as lines:
                base = relative(self._layout.root, self._layout.flat(image.config))
                found.of_flat_tree(base, lines, self._bases(image))
        for path, tree in trees.items():
            bases = [relative(self._layout.root, layer) for layer in tree.layers]
            base = relative(self._layout.root, path)
            found.of_flat_tree(base, tree.listing.splitlines(keepends=True), bases)
        return found

    def _trees_in_store(self, changes: ChangeSet) -> dict[Path, Tree]:
        """What layers of podman's store need of their own, by their paths there."""
        staged = {layer.digest: layer for layer in changes.layers}

        def manifest(digest: Digest) -> Path:
            return _staged_manifest(staged[digest]) if digest in staged else self._manifest(digest)

        return podman.own_trees(self._layout, changes.images, manifest)

    def _to_flatten(self, images: Iterable[StagedImage]) -> list[tuple[StagedImage, Path]]:
        """One image for each flat tree that is not there yet, and where it is staged."""
        wanted = {image.config: image for image in images if "flat" in image.products}
        return [
            (image, image.path)
            for image in wanted.values()
            if image.path is not None and flat_tree_of(self._layout, image) is None
        ]

    def overlaid(self) -> Overlaid:
        """What is in the places of the trees already, from another program or a failed try."""
        found = Overlaid()
        root = self._layout.root
        for digest in self._layers:
            if self._layout.layerfs(digest).is_dir():
                spelled = self._spelled.get(digest)
                lines = spelled.lines() if spelled else _lines(self._manifest(digest))
                found.compare(root, self._base(digest), lines)
        for image, staged in self._to_flatten(self._images):
            flat = self._layout.flat(image.config)
            if flat.is_dir():
                found.compare(root, relative(root, flat), _lines(staged / "tree.mtree"))
        for path, tree in self._trees.items():
            if os.path.lexists(path):
                found.compare(root, relative(root, path), tree.listing.splitlines(keepends=True))
        return found

    def leave_out(self, paths: frozenset[bytes]) -> None:
        """Say which files are published already, by another way than the archive."""
        self._skip = paths

    # --- what gets ready meanwhile --------------------------------------

    def _joins(self, changes: ChangeSet) -> bool:
        """Whether a change set can be taken along in an archive that is begun already.

        That is so unless it needs a transaction of its own ahead, or further whiteouts
        in a layer that is written.
        """
        layout = self._layout
        places = [layout.layerfs(layer.digest) for layer in changes.layers]
        places += [layout.flat(image.config) for image, _ in self._to_flatten(changes.images)]
        trees = self._trees_in_store(changes)
        places += trees
        if any(map(os.path.lexists, places)):
            return False
        if self._limit and self._large_files(changes.layers, changes.images, trees):
            return False
        return not any(
            self._has_shown(image.layers[number], paths)
            for image in changes.images
            for number, paths in _hidden(_notes(image))
        )

    def _has_shown(self, digest: Digest, paths: Iterable[bytes]) -> bool:
        """Whether a layer was written that lets something lower show at one of the paths."""
        if digest not in self._written:
            return False
        spelled = self._spelled.get(digest) or Spelled(self._manifest(digest), new=True)
        return any(map(spelled.lacks, paths))

    def _take_along(self, changes: ChangeSet) -> None:
        layers = [layer for layer in changes.layers if layer.digest not in self._layers]
        changes = replace(changes, layers=tuple(layers))
        names = ", ".join(image.name for image in changes.images)
        try:
            with reported(_STEP, names):
                self._check(changes)
                if not self._joins(changes):
                    log.info("%s got ready meanwhile, and goes into a commit of its own", names)
                    return
        except DuccmakeError as error:
            # Its own job will say so; here it must not stand in others' way.
            log.info("%s got ready meanwhile, and is not taken along: %s", names, error)
            return
        log.info("%s got ready meanwhile, and is taken along", names)
        self._add(changes)
        self._learn(changes.images)

    # --- what is published already --------------------------------------

    @property
    def has_links(self) -> bool:
        """Whether the archive had links to files of layers that were published before."""
        return self._known is not None and self._known.used_published > 0

    def _learn(self, images: Iterable[StagedImage]) -> None:
        """Know the files that tags have had before, where new layers are worth a look."""
        if self._known is None:
            return
        missing = [layer for each, layer in self._layers.items() if each not in self._written]
        if sum((layer.path / CONTENT).stat().st_size for layer in missing) < _WORTH_A_LOOK:
            return
        digests = [digest for image in images for digest in layers_before(self._layout, image)]
        for digest in dict.fromkeys(digests):
            manifest = self._layout.layer_manifest(digest)
            if digest in self._layers:
                continue
            try:
                with manifest.open("rb") as lines:
                    self._known.add_published(self._base(digest), lines)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s cannot be read, and nothing is linked to: %s", manifest, error)

    # --- the archive ----------------------------------------------------

    def write(
        self,
        stream: TarStream,
        more: Callable[[], Iterable[ChangeSet]],
        *,
        linking: bool = True,
    ) -> None:
        """Write all members; `OSError` and `RepositoryError` name the image.

        ``more`` tells what has got ready meanwhile, an image at a time; with ``linking``
        files that are known elsewhere are links.
        """
        self.edits = Edits(self._layout.root)
        self._written.clear()
        self._known = KnownFiles(self._layout.root) if linking else None
        self._learn(self._images)
        members = Members(stream, self._keeping, self._layout.root)
        with Directories() as directories:
            for directory in standing(self._layout):
                members.catalog(os.fsencode(directory))
            while missing := [each for each in self._layers if each not in self._written]:
                for digest in missing:
                    with reported(f"publish the layer {digest.short}", self._user_of(digest)):
                        self._write_layer(members, self._layers[digest])
                    self._written.add(digest)
                for changes in more():
                    if changes.images:
                        self._take_along(changes)
            for digest, spelled in self._spelled.items():
                if not spelled.new and spelled.added:
                    self._write_whiteouts(members, digest, spelled)
            losses = self._write_flat_trees(members, directories)
        # Opening the transaction mends a mount that shows an old revision; books that are
        # made of that one would lose what came since.
        stream.settle()
        publish_metadata(
            self.edits,
            self._layout,
            self._images,
            losses,
            lambda: self._others(self._images),
            self._trees,
        )
        members.edits(self.edits, skip=self._skip)
        log.info("an archive of %d members and %d bytes", stream.members, stream.size)
        if self._known is not None and self._known.used:
            log.info("%d files are links to the same ones of other layers", self._known.used)

    def _user_of(self, digest: Digest) -> str:
        return next((image.name for image in self._images if digest in image.layers), "")

    def _write_layer(self, members: Members, layer: StagedLayer) -> None:
        layout, digest = self._layout, layer.digest
        base = self._base(digest)
        members.catalog(relative(layout.root, layout.layer(digest).parent))
        spelled = self._spelled.get(digest)
        listing = layout.layer_manifest(digest).with_name(measured.PUBLISHED)
        members.file(relative(layout.root, listing), layers_json(layer))
        manifest = relative(layout.root, layout.layer_manifest(digest))
        with closing(Packed(layer.path)) as packed:
            files = LayerFiles(packed, base, self._known)
            if spelled is not None:
                members.tree(base, spelled.lines(), files, manifest, skip=self._skip)
                return
            with self._manifest(digest).open("rb") as lines:
                members.tree(base, lines, files, manifest, skip=self._skip)

    def _write_whiteouts(self, members: Members, digest: Digest, spelled: Spelled) -> None:
        members.whiteouts(self._base(digest), spelled.added.values())
        lines = map(self._keeping.relabelled_line, spelled.lines())
        manifest = relative(self._layout.root, self._layout.layer_manifest(digest))
        members.file(manifest, b"".join([mtree.FORMAT, *lines]))

    def _write_flat_trees(
        self, members: Members, directories: Directories
    ) -> dict[str, dict[str, int]]:
        known: dict[Digest, dict[str, int]] = {}
        losses: dict[str, dict[str, int]] = {}
        for image in self._images:
            with reported(_STEP, image.name):
                if image.path is None:
                    losses[image.name] = known_losses(self._layout, image)
                    continue
                if "flat" not in image.products:
                    losses[image.name] = dict(self._lost[image.name])
                    continue
                if image.config not in known:
                    tree = flat_tree_of(self._layout, image)
                    if tree is None:
                        found = self._write_flat_tree(members, directories, image, image.path)
                        tree = FlatTree(
                            image.layers,
                            found,
                            self._lost[image.name],
                            fix_permissions=image.fix_permissions,
                        )
                    verified = replace(tree, verified=image.measured is not None)
                    note_flat_tree(self.edits, self._layout, image.config, verified)
                    known[image.config] = dict(tree.losses)
                losses[image.name] = {**self._lost[image.name], **known[image.config]}
        return losses

    def _write_flat_tree(
        self, members: Members, directories: Directories, image: StagedImage, staged: Path
    ) -> Counter[str]:
        layout = self._layout
        base = relative(layout.root, layout.flat(image.config))
        manifest = relative(layout.root, layout.flat_manifest(image.config))
        with ExitStack() as opened, (staged / "tree.mtree").open("rb") as lines:
            read = self._reader(image, directories, opened)
            files = Clones(directories, self._bases(image), staged / "generated", read)
            return members.tree(base, lines, files, manifest, skip=self._skip)

    def _reader(self, image: StagedImage, directories: Directories, opened: ExitStack) -> Read:
        """Reads files of the image's layers, as they are staged or else published."""
        packs: dict[Digest, Packed] = {}

        def read(number: int, path: bytes, size: int) -> Iterator[bytes]:
            digest = image.layers[number]
            layer = self._layers.get(digest)
            if layer is None:
                return read_published(directories, self._layout.layerfs(digest), path, size)
            if digest not in packs:
                packs[digest] = opened.enter_context(closing(Packed(layer.path)))
            return packs[digest].pieces(path, size)

        return read


def _check_staged(layer: StagedLayer) -> None:
    metadata = layer.path / ".metadata"
    needed = (layer.path / CONTENT, layer.path / INDEX, metadata / "tree.mtree")
    if not all(path.is_file() for path in needed):
        raise RepositoryError(f"{layer.path} is no staged layer", hint="remove it and run again")


def _staged_manifest(layer: StagedLayer) -> Path:
    return layer.path / ".metadata" / "tree.mtree"


def _notes(image: StagedImage) -> overlay_losses.Notes:
    return {} if image.path is None else overlay_losses.read(image.path)


def _hidden(notes: overlay_losses.Notes) -> Iterator[tuple[int, list[bytes]]]:
    """What opaque directories hide, by the layer's number."""
    for number, entries in notes.items():
        if paths := overlay_losses.hidden(entries):
            yield number, paths


def _lines(manifest: Path) -> list[bytes]:
    return manifest.read_bytes().splitlines(keepends=True)
