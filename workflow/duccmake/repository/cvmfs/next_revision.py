"""The next revision of a repository: what a commit makes of the catalogs of the newest one.

All of it is made before anything is locked, for nobody sees objects that no root catalog
leads to.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...cvmfs import check
from ...cvmfs.changes import Changes, Root
from ...cvmfs.keeping import OPAQUE, Keeping
from ...cvmfs.objects import Objects
from ...cvmfs.rows import Content, unpack_xattrs
from ...cvmfs.storage import Storage
from ...cvmfs.trees import Tree as CatalogTree
from ...cvmfs.trees import write_tree
from ...layer import measured
from ...layer.staged_catalog import StagedCatalog
from ...oci.reference import Digest
from ...tree import mtree
from .. import overlay_losses
from ..commit import Commit, Part
from ..edits import Directory, Edits, File, Symlink, Tree
from ..metadata import layers_json
from ..model import ChangeSet, StagedImage, StagedLayer
from .catalogs import standing
from .revision_view import RevisionView

_OPAQUE_FLAG = b"opaque"


class CatalogForm:
    """Layers that are staged with their catalogs; keeps to `LayerForm`.

    ``unmarked`` are published layers that may lack the mark of an opaque directory which
    hides something in an image: earlier versions could not publish it.
    """

    def __init__(self) -> None:
        self.unmarked: dict[Digest, None] = {}

    def is_staged(self, layer: StagedLayer) -> bool:
        """Whether a layer is staged with its catalogs."""
        return StagedCatalog.is_in(layer.path)

    def hide(self, commit: Commit, image: StagedImage, notes: overlay_losses.Notes) -> Counter[str]:
        """Note the published layers that have to hide something; nothing is lost."""
        for number, entries in notes.items():
            digest = image.layers[number]
            if overlay_losses.hidden(entries) and digest not in commit.whole.layers:
                self.unmarked[digest] = None
        return Counter()


@dataclass(slots=True)
class NextRevision:
    """What the revision after that of ``view`` is made of.

    ``objects`` are those that are made here, ``staged`` the directories of others' that
    it needs, ``root`` the new root catalog once it is finished.
    """

    view: RevisionView
    storage: Storage
    objects: Objects
    keeping: Keeping
    staged: dict[Path, Objects] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._changes = Changes(self.view.revision, self.objects, int(time.time()))

    def finish(self) -> Root:
        """Write the catalogs and hold them to the rules; `RepositoryError` for a breach."""
        root = self._changes.finish()
        check.check(root, self.objects, self.view.revision)
        return root

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to publish."""
        return self._changes.changed

    def names(self) -> Iterator[tuple[str, Path]]:
        """All objects that the storage has to have, and where they are; catalogs last."""
        for each in (*self.staged.values(), self.objects):
            for name in each.names:
                yield name, each.path(name)

    # --- what a commit says -------------------------------------------------

    def commit(
        self, commit: Commit, form: CatalogForm, more: Callable[[], Iterable[ChangeSet]]
    ) -> None:
        """Carry out a commit."""
        for directory in standing(self.view.layout):
            self._changes.begin_catalog(self.view.at(directory))
        edits = Edits(self.view)
        commit.carry_out(_Writer(self, commit, form), edits, more)
        self.edit(edits, commit.whole.layers)

    def edit(self, edits: Edits, layers: Mapping[Digest, StagedLayer]) -> None:
        """Carry out edits; ``layers`` are those that are published with them."""
        at, changes = self.view.at, self._changes
        for directory in edits.catalogs:
            changes.begin_catalog(at(directory))
        for path, put in edits.puts.items():
            if isinstance(put, File):
                changes.put_file(at(path), put.content)
            elif isinstance(put, Symlink):
                changes.put_link(at(path), os.fsencode(put.target))
            elif isinstance(put, Directory):
                changes.make_directory(at(path))
            else:
                self._put_tree(at(path), put, layers)
        for path in edits.removals:
            changes.remove(at(path))
        for path, ns in edits.times.items():
            changes.set_time(at(path), ns)

    def _put_tree(self, at: bytes, tree: Tree, layers: Mapping[Digest, StagedLayer]) -> None:
        contents = LayerContents(self.view, tree.layers, layers)
        lines = tree.listing.splitlines(keepends=True)
        salt = secrets.token_hex(8)
        written = write_tree(lines, at, contents.content, self.objects, self.keeping, salt)
        self._changes.graft(written)
        manifest = b"".join([mtree.FORMAT, *map(self.keeping.relabelled_line, lines)])
        self._changes.put_file(self.view.at(tree.manifest), manifest)

    # --- what its writer says -----------------------------------------------

    def take(self, directory: Path) -> StagedCatalog:
        """Have what is staged in a directory stored, and return what it is."""
        if directory not in self.staged:
            objects = self.staged[directory] = Objects(directory / "objects")
            for name in objects.names:
                self.storage.put(name, objects.path(name))
        return StagedCatalog.read(directory)

    def graft(self, tree: CatalogTree, manifest: PurePosixPath, content: Content) -> None:
        """Hang a tree into the repository, and put its manifest elsewhere."""
        self._changes.graft(tree)
        self._changes.put_file(self.view.at(manifest), content)

    def file(self, path: PurePosixPath, content: bytes) -> None:
        """Put a small file."""
        self._changes.put_file(self.view.at(path), content)

    def begin_catalog(self, path: PurePosixPath) -> None:
        """Have a catalog begin in a directory."""
        self._changes.begin_catalog(self.view.at(path))

    def mark_opaque(self, path: PurePosixPath) -> None:
        """Mark a directory of a published layer, unless it is marked."""
        row = self.view.revision.row(self.view.at(path))
        if row is None:
            return
        have = dict(unpack_xattrs(row.xattr))
        if not have.items() >= dict(OPAQUE).items():
            self._changes.set_xattrs(self.view.at(path), (have | dict(OPAQUE)).items())


class _Writer:
    """Keeps to `duccmake.repository.commit.Writer`."""

    def __init__(self, revision: NextRevision, commit: Commit, form: CatalogForm) -> None:
        self._next = revision
        self._commit = commit
        self._form = form
        self._layout = revision.view.layout

    def layer(self, layer: StagedLayer) -> None:
        """A layer: its catalogs, its manifest and what it was found to be."""
        staged = self._next.take(layer.path)
        digest, layout = layer.digest, self._layout
        self._next.begin_catalog(layout.layer(digest).parent)
        manifest = layout.layer_manifest(digest)
        self._next.graft(staged.tree, manifest, staged.manifest)
        self._next.file(manifest.with_name(measured.PUBLISHED), layers_json(layer))

    def take_along(self, part: Part) -> bool:
        """Anything can be taken along: nothing is written yet that it could need otherwise."""
        return True

    def flat_tree(self, image: StagedImage, staged: Path) -> Mapping[str, int]:
        """A flat tree: its catalogs and its manifest."""
        found = self._next.take(staged)
        manifest = self._layout.flat_manifest(image.config)
        self._next.graft(found.tree, manifest, found.manifest)
        return found.tree.losses

    def settle(self) -> None:
        """Mark the opaque directories of published layers that an image needs to be marked."""
        for digest in self._form.unmarked:
            base = self._layout.layerfs(digest)
            for line in self._commit.lines(digest):
                path, _, rest = line.partition(b" ")
                if rest.startswith(mtree.TYPE_DIR) and mtree.has_tag(rest, _OPAQUE_FLAG):
                    self._next.mark_opaque(base / os.fsdecode(mtree.decode_path(path)))
