"""A commit as one archive: what goes into it, and in which order.

Layers come first, each with its manifest last; then flat trees, whiteouts for published
layers, and at the end what the edits put, whose last are the public links.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from ...layer import measured
from ...layer.pack import CONTENT, Packed
from ...oci.reference import Digest
from ...tree import mtree
from ...tree.directories import Directories
from .. import overlay_losses
from ..commit import Commit, Part
from ..edits import Edits
from ..metadata import layers_json
from ..model import ChangeSet, StagedImage, StagedLayer
from .catalogs import standing
from .chunked_files import LargeFiles
from .cleanup import Overlaid
from .contents import Clones, LayerFiles, Read, read_published
from .fidelity import Keeping
from .known_files import KnownFiles, layers_before
from .members import Members
from .opaque import Packs, Spelled, hidden
from .tar_writer import TarStream

log = logging.getLogger(__name__)

_WORTH_A_LOOK = 16 * 1024 * 1024
"""Bytes in new layers from which on it pays to read the manifests of earlier ones."""


class Archive:
    """A ``commit`` of layers in ``packs`` that an archive carries out.

    The repository is mounted on ``root``.  Files of more than ``limit`` bytes, where
    there is a limit, need a transaction ahead of the archive: see `large_files`.
    ``edits`` are those of the archive that was written last.
    """

    def __init__(
        self, commit: Commit, packs: Packs, keeping: Keeping, root: Path, *, limit: int = 0
    ) -> None:
        self.commit = commit
        self.packs = packs
        self.keeping = keeping
        self.root = root
        self.skip: frozenset[bytes] = frozenset()
        self.edits = Edits(commit.view)
        self._limit = limit
        self._known: KnownFiles | None = None

    # --- before it is written -------------------------------------------

    def large_files(self, part: Part | None = None) -> LargeFiles:
        """The files that are too large for the archive, of all or of a part; see `leave_out`."""
        view = self.commit.view
        part = part or self.commit.whole
        found = LargeFiles(self._limit)
        for digest, layer in part.layers.items():
            with layer.manifest.open("rb") as lines:
                found.of_layer(self.base(digest), lines, layer.path)
        for image, staged in part.flat_trees(view):
            with (staged / "tree.mtree").open("rb") as lines:
                base = os.fsencode(view.layout.flat(image.config))
                found.of_flat_tree(base, lines, list(map(self.base, image.layers)))
        for path, tree in part.trees.items():
            bases = list(map(os.fsencode, tree.layers))
            found.of_flat_tree(os.fsencode(path), tree.listing.splitlines(keepends=True), bases)
        return found

    def leave_out(self, paths: frozenset[bytes]) -> None:
        """Say which files are published already, by another way than the archive."""
        self.skip = paths

    def overlaid(self) -> Overlaid:
        """What is in the places of the trees already, from another program or a failed try."""
        found = Overlaid()
        view, root = self.commit.view, self.root
        for digest in self.commit.whole.layers:
            if view.is_dir(view.layout.layerfs(digest)):
                found.compare(root, self.base(digest), self.packs.lines(self.commit, digest))
        for image, staged in self.commit.whole.flat_trees(view):
            flat = view.layout.flat(image.config)
            if view.is_dir(flat):
                with (staged / "tree.mtree").open("rb") as lines:
                    found.compare(root, os.fsencode(flat), lines)
        for path, tree in self.commit.whole.trees.items():
            if view.exists(path):
                found.compare(root, os.fsencode(path), tree.listing.splitlines(keepends=True))
        return found

    def base(self, digest: Digest) -> bytes:
        """Where a layer's files are in the repository."""
        return os.fsencode(self.commit.view.layout.layerfs(digest))

    def takes(self, part: Part, written: set[Digest]) -> bool:
        """Whether a part can be taken along when some layers are ``written`` already.

        That is so unless it needs a transaction of its own ahead, or further whiteouts
        in a layer that is written.
        """
        view, layout = self.commit.view, self.commit.view.layout
        places = [*map(layout.layerfs, part.layers), *part.trees]
        places += [layout.flat(image.config) for image, _ in part.flat_trees(view)]
        if any(map(view.exists, places)) or (self._limit and self.large_files(part)):
            return False
        return not any(
            image.layers[number] in written and self._has_shown(image.layers[number], paths)
            for image in part.images
            if image.path is not None
            for number, paths in hidden(overlay_losses.read(image.path))
        )

    def _has_shown(self, digest: Digest, paths: Iterable[bytes]) -> bool:
        """Whether a layer lets something lower show at one of the paths."""
        spelled = self.packs.spelled.get(digest)
        if spelled is None:
            spelled = Spelled(self.commit.lines(digest), new=True)
        return any(map(spelled.lacks, paths))

    # --- writing it -----------------------------------------------------

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
        self.edits = Edits(self.commit.view)
        self._known = KnownFiles(self.root) if linking else None
        members = Members(stream, self.keeping, self.root)
        for directory in standing(self.commit.view.layout):
            members.catalog(os.fsencode(directory))
        with Directories() as directories:
            writer = _Writer(self, stream, members, directories, self._known)
            self.commit.carry_out(writer, self.edits, more)
        members.edits(self.edits, skip=self.skip)
        log.info("an archive of %d members and %d bytes", stream.members, stream.size)
        if self._known is not None and self._known.used:
            log.info("%d files are links to the same ones of other layers", self._known.used)

    @property
    def has_links(self) -> bool:
        """Whether the archive had links to files of layers that were published before."""
        return self._known is not None and self._known.used_published > 0


class _Writer:
    """Adds members as a commit is carried out; keeps to `Writer`."""

    def __init__(
        self,
        archive: Archive,
        stream: TarStream,
        members: Members,
        directories: Directories,
        known: KnownFiles | None,
    ) -> None:
        self._archive = archive
        self._commit = archive.commit
        self._layout = archive.commit.view.layout
        self._stream = stream
        self._members = members
        self._directories = directories
        self._known = known
        self._written: set[Digest] = set()
        self._learn(self._commit.whole)

    def layer(self, layer: StagedLayer) -> None:
        """A layer: its files, and last its manifest."""
        layout, digest, members = self._layout, layer.digest, self._members
        self._written.add(digest)
        members.catalog(os.fsencode(layout.layer(digest).parent))
        listing = layout.layer_manifest(digest).with_name(measured.PUBLISHED)
        members.file(os.fsencode(listing), layers_json(layer))
        manifest = os.fsencode(layout.layer_manifest(digest))
        base = self._archive.base(digest)
        lines = self._archive.packs.lines(self._commit, digest)
        with closing(Packed(layer.path)) as packed:
            files = LayerFiles(packed, base, self._known)
            members.tree(base, lines, files, manifest, skip=self._archive.skip)

    def take_along(self, part: Part) -> bool:
        """Whether a part can be taken along: see `Archive.takes`."""
        if not self._archive.takes(part, self._written):
            return False
        self._learn(part)
        return True

    def flat_tree(self, image: StagedImage, staged: Path) -> Counter[str]:
        """A flat tree: links to its layers' files."""
        base = os.fsencode(self._layout.flat(image.config))
        manifest = os.fsencode(self._layout.flat_manifest(image.config))
        bases = list(map(self._archive.base, image.layers))
        with ExitStack() as opened, (staged / "tree.mtree").open("rb") as lines:
            read = self._reader(image, opened)
            files = Clones(self._directories, bases, staged / "generated", read)
            return self._members.tree(base, lines, files, manifest, skip=self._archive.skip)

    def settle(self) -> None:
        """Add whiteouts to layers that are published, and wait until all is read."""
        for digest, spelled in self._archive.packs.spelled.items():
            if not spelled.new and spelled.added:
                self._members.whiteouts(self._archive.base(digest), spelled.added.values())
                lines = map(self._archive.keeping.relabelled_line, spelled.lines())
                manifest = os.fsencode(self._layout.layer_manifest(digest))
                self._members.file(manifest, b"".join([mtree.FORMAT, *lines]))
        # Opening the transaction mends a mount that shows an old revision; books that are
        # made of that one would lose what came since.
        self._stream.settle()

    def _reader(self, image: StagedImage, opened: ExitStack) -> Read:
        """Reads files of the image's layers, as they are staged or else published."""
        packs: dict[Digest, Packed] = {}

        def read(number: int, path: bytes, size: int) -> Iterator[bytes]:
            digest = image.layers[number]
            layer = self._commit.whole.layers.get(digest)
            if layer is None:
                tree = self._archive.root / self._layout.layerfs(digest)
                return read_published(self._directories, tree, path, size)
            if digest not in packs:
                packs[digest] = opened.enter_context(closing(Packed(layer.path)))
            return packs[digest].pieces(path, size)

        return read

    def _learn(self, part: Part) -> None:
        """Know the files that tags have had before, where new layers are worth a look."""
        if self._known is None:
            return
        layers = {**self._commit.whole.layers, **part.layers}
        missing = [layer for digest, layer in layers.items() if digest not in self._written]
        if sum((layer.path / CONTENT).stat().st_size for layer in missing) < _WORTH_A_LOOK:
            return
        view = self._commit.view
        digests = [digest for image in part.images for digest in layers_before(view, image)]
        for digest in dict.fromkeys(digests):
            if digest in layers:
                continue
            manifest = self._layout.layer_manifest(digest)
            try:
                lines = view.lines(manifest)
                self._known.add_published(self._archive.base(digest), lines)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s cannot be read, and nothing is linked to: %s", manifest, error)
