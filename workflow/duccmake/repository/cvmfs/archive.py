"""A commit as one archive: what goes into it, and in which order.

Layers come first, each with its manifest last; then flat trees, whiteouts for published
layers, and at the end what the edits put, whose last are the public links.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath

from ...cvmfs.keeping import Keeping
from ...layer import measured
from ...oci.reference import Digest
from ...tree import mtree
from .. import overlay_losses
from ..commit import Commit, Part
from ..edits import Edits, Tree
from ..metadata import layers_json
from ..model import ChangeSet, StagedImage, StagedLayer
from .catalogs import standing
from .cleanup import Overlaid
from .contents import Clones, Layer, LayerFiles, PublishedFiles, Source, StagedFiles
from .members import Members
from .opaque import Spelled, SpelledForm, hidden
from .revision_view import RevisionView
from .tar_writer import TarStream

log = logging.getLogger(__name__)


class Archive:
    """A ``commit`` of layers in a ``form`` that an archive carries out.

    ``view`` is what the repository shows, which is mounted on ``root``.  Published files of
    more than ``limit`` bytes may be stored in chunks.  ``edits`` are those of the archive
    that was written last.
    """

    def __init__(
        self,
        commit: Commit,
        form: SpelledForm,
        keeping: Keeping,
        view: RevisionView,
        root: Path,
        limit: int,
    ) -> None:
        self.commit = commit
        self.form = form
        self.keeping = keeping
        self.view = view
        self.root = root
        self.limit = limit
        self.edits = Edits(view)

    # --- before it is written -------------------------------------------

    def overlaid(self) -> Overlaid:
        """What is in the places of the trees already, from another program or a failed try."""
        found = Overlaid()
        view, root = self.commit.view, self.root
        for digest in self.commit.whole.layers:
            if view.is_dir(view.layout.layerfs(digest)):
                found.compare(root, self.base(digest), self.form.lines(self.commit, digest))
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

        That is so unless something is in its place, or it needs further whiteouts in a layer
        that is written.
        """
        view, layout = self.commit.view, self.commit.view.layout
        places = [*map(layout.layerfs, part.layers), *part.trees]
        places += [layout.flat(image.config) for image, _ in part.flat_trees(view)]
        if any(map(view.exists, places)):
            return False
        return not any(
            image.layers[number] in written and self._has_shown(image.layers[number], paths)
            for image in part.images
            if image.path is not None
            for number, paths in hidden(overlay_losses.read(image.path))
        )

    def _has_shown(self, digest: Digest, paths: Iterable[bytes]) -> bool:
        """Whether a layer lets something lower show at one of the paths."""
        spelled = self.form.spelled.get(digest)
        if spelled is None:
            spelled = Spelled(self.commit.lines(digest), new=True)
        return any(map(spelled.lacks, paths))

    # --- writing it -----------------------------------------------------

    def write(self, stream: TarStream, more: Callable[[], Iterable[ChangeSet]]) -> None:
        """Write all members; `OSError` and `RepositoryError` name the image.

        ``more`` tells what has got ready meanwhile, an image at a time.
        """
        self.edits = Edits(self.view)
        members = Members(stream, self.keeping, self.root)
        for directory in standing(self.view.layout):
            members.catalog(os.fsencode(directory))
        writer = _Writer(self, stream, members)
        self.commit.carry_out(writer, self.edits, more)
        members.edits(self.edits, writer.clones)
        log.info("an archive of %d members and %d bytes", stream.members, stream.size)


class _Writer:
    """Adds members as a commit is carried out; keeps to `Writer`."""

    def __init__(self, archive: Archive, stream: TarStream, members: Members) -> None:
        self._archive = archive
        self._commit = archive.commit
        self._layout = archive.commit.view.layout
        self._stream = stream
        self._members = members
        self._written: set[Digest] = set()

    def layer(self, layer: StagedLayer) -> None:
        """A layer: its files, and last its manifest."""
        layout, digest, members = self._layout, layer.digest, self._members
        self._written.add(digest)
        members.catalog(os.fsencode(layout.layer(digest).parent))
        listing = layout.layer_manifest(digest).with_name(measured.PUBLISHED)
        members.file(os.fsencode(listing), layers_json(layer))
        manifest = os.fsencode(layout.layer_manifest(digest))
        base = self._archive.base(digest)
        lines = self._archive.form.lines(self._commit, digest)
        members.tree(base, lines, LayerFiles(StagedFiles(layer.path), base), manifest)

    def take_along(self, part: Part) -> bool:
        """Whether a part can be taken along: see `Archive.takes`."""
        return self._archive.takes(part, self._written)

    def flat_tree(self, image: StagedImage, staged: Path) -> Counter[str]:
        """A flat tree: links to its layers' files."""
        base = os.fsencode(self._layout.flat(image.config))
        manifest = os.fsencode(self._layout.flat_manifest(image.config))
        files = self._clones(
            list(map(self._layout.layerfs, image.layers)), cache(partial(StagedFiles, staged))
        )
        with (staged / "tree.mtree").open("rb") as lines:
            return self._members.tree(base, lines, files, manifest)

    def settle(self) -> None:
        """Add whiteouts to layers that are published, and wait until all is read."""
        for digest, spelled in self._archive.form.spelled.items():
            if not spelled.new and spelled.added:
                self._members.whiteouts(self._archive.base(digest), spelled.added.values())
                lines = map(self._archive.keeping.relabelled_line, spelled.lines())
                manifest = os.fsencode(self._layout.layer_manifest(digest))
                self._members.file(manifest, b"".join([mtree.FORMAT, *lines]))
        # Opening the transaction mends a mount that shows an old revision; books that are
        # made of that one would lose what came since.
        self._stream.settle()

    def _clones(
        self, layers: Sequence[PurePosixPath], own: Callable[[], Source] | None = None
    ) -> Clones:
        """The files of a tree that is made of these layers."""
        view, staged = self._archive.view, self._commit.whole.layers
        paths = {self._layout.layerfs(digest): layer.path for digest, layer in staged.items()}

        def source(path: PurePosixPath) -> Source:
            if path in paths:
                return StagedFiles(paths[path])
            return PublishedFiles(view.revision, view.at(path))

        found = [
            Layer(os.fsencode(path), path not in paths, cache(partial(source, path)))
            for path in layers
        ]
        return Clones(found, self._archive.limit, own)

    def clones(self, tree: Tree) -> Clones:
        """The files of a tree of podman's store."""
        return self._clones(tree.layers)
