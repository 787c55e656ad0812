"""The next revision of a repository: what a commit makes of the catalogs of the newest one.

All of it is made before anything is locked, for nobody sees objects that no root catalog
leads to.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ...cvmfs.changes import Changes, Root
from ...cvmfs.check import check_written
from ...cvmfs.keeping import OPAQUE, Keeping
from ...cvmfs.objects import Objects, names_of
from ...cvmfs.rows import Content, unpack_xattrs
from ...cvmfs.storage import NEVER, Storage, damaged
from ...cvmfs.trees import Tree as CatalogTree
from ...cvmfs.trees import write_tree
from ...errors import RepositoryError
from ...layer import measured
from ...layer.catalogs import StagedCatalogs, TreeContents
from ...oci.reference import Digest
from ...tree import mtree
from .. import overlay_losses
from ..commit import Commit, Part
from ..edits import Directory, Edits, File, Symlink, Tree
from ..metadata import layers_json
from ..model import ChangeSet, StagedImage, StagedLayer
from .catalogs import standing
from .revision_view import RevisionView
from .staging import published_contents
from .unsigned import Unsigned

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
        return StagedCatalogs.is_in(layer.path)

    def hide(self, commit: Commit, image: StagedImage, notes: overlay_losses.Notes) -> Counter[str]:
        """Note the published layers that have to hide something; nothing is lost."""
        for number, entries in notes.items():
            digest = image.layers[number]
            if overlay_losses.hidden(entries) and digest not in commit.whole.layers:
                self.unmarked[digest] = None
        return Counter()


class NextRevision:
    """What the revision after that of ``view`` is made of.

    What is new is put into ``objects``, and all that it needs into the ``storage``.  ``anew``
    says whether an image is made anew: then nothing that is stored is believed.
    """

    def __init__(
        self,
        view: RevisionView,
        storage: Storage,
        objects: Objects,
        keeping: Keeping,
        unsigned: Unsigned,
    ) -> None:
        self.view = view
        self.storage = storage
        self.anew = False
        self.base = view.revision
        self._objects = objects
        self._keeping = keeping
        self._unsigned = unsigned
        self._changes = Changes(self.base, objects, int(time.time()))
        self._staged: dict[Path, Objects] = {}
        self._stored = NEVER

    def finish(self) -> Root | None:
        """Write the catalogs, store them, and hold them to the rules; None if nothing changes.

        All objects are there then, and outlast a loss of power.  `RepositoryError` where a rule
        is broken.
        """
        if not self._changes.changed:
            return None
        root = self._changes.finish()
        self._store(self._objects)
        written = [made.hash.hex() for made in root.written]
        check_written(written, self.base.catalog_content, self.storage.has)
        self.storage.sync()
        if moment := self.storage.mark():
            self.complete()  # something may have gone before that moment
            self._stored = moment
        return root

    def complete(self) -> None:
        """Store what is not there any more: garbage collection may have taken it for garbage."""
        stored = (*self._staged.values(), self._objects)
        lost = [self.storage.lost(each.names, self._stored) for each in stored]
        if any(lost):
            for each, names in zip(stored, lost, strict=True):
                self._put(each, names)
            self.storage.sync()

    def signed(self) -> None:
        """Note that a published revision has all that was stored for this one."""
        stored = (*self._staged.values(), self._objects)
        with suppress(OSError):  # what is noted too long does no harm
            self._unsigned.forget({name for each in stored for name in each.names})

    def _store(self, objects: Objects) -> None:
        """Store objects; what is there but cut off is replaced.

        Where something is made anew, so is what is damaged otherwise: all of it is read.
        """
        lacking = self.storage.lacking(objects.names)
        if self.anew:
            spoilt = damaged(self.storage, objects.names.keys() - lacking)
            for name in spoilt:
                self.storage.delete(name)  # nobody can read it as it is
            lacking |= spoilt
        self._put(objects, lacking)

    def _put(self, objects: Objects, names: Collection[str]) -> None:
        """Note what is about to be stored newly, and store it."""
        self._unsigned.note(names)
        self.storage.put_all(objects.directory, names)

    # --- what a commit says -------------------------------------------------

    def commit(
        self, commit: Commit, form: CatalogForm, more: Callable[[], Iterable[ChangeSet]]
    ) -> None:
        """Carry out a commit."""
        self.renew(commit.whole)
        if prefix := self.view.at(PurePosixPath()):
            self._changes.begin_catalog(prefix)
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
            changes.set_time(at(path), ns // 1_000_000_000)

    def _put_tree(self, at: bytes, tree: Tree, layers: Mapping[Digest, StagedLayer]) -> None:
        staged = {self.view.layout.layerfs(digest): layer for digest, layer in layers.items()}
        contents = [self._contents(path, staged.get(path)) for path in tree.layers]

        def content(layer: int | None, path: bytes) -> Content:
            if layer is None:
                raise RepositoryError(f"{path!r} of a tree is of no layer")
            return contents[layer].of(path)

        keeping = self._keeping
        lines = tree.listing.splitlines(keepends=True)
        lines = [line if line[:1] == b"#" else keeping.relabelled_line(line) for line in lines]
        salt = secrets.token_hex(8)
        self._changes.graft(write_tree(lines, at, content, self._objects, keeping, salt))
        self._changes.put_file(self.view.at(tree.manifest), b"".join([mtree.FORMAT, *lines]))

    def _contents(self, path: PurePosixPath, layer: StagedLayer | None) -> TreeContents:
        if layer is not None:
            return StagedCatalogs.read(layer.path).contents()
        return published_contents(self.base, self.view.at(path))

    def renew(self, part: Part) -> None:
        """Have what is stored be looked at where an image of ``part`` is made anew."""
        self.anew |= any(image.anew for image in part.images)

    # --- what its writer says -----------------------------------------------

    def graft(self, path: PurePosixPath, directory: Path, manifest: PurePosixPath) -> CatalogTree:
        """Hang the tree that is staged in a directory into the repository, and put its manifest.

        `RepositoryError` where it is not what belongs there, or not all of it is there.
        """
        staged = StagedCatalogs.read(directory)
        if staged.tree.at != self.view.at(path):
            raise RepositoryError(
                f"what is staged in {directory} is for {os.fsdecode(staged.tree.at)}, not for "
                f"{os.fsdecode(self.view.at(path))}",
                hint="remove it and run again",
            )
        if directory not in self._staged:
            self._staged[directory] = staged.objects
            self._store(staged.objects)
            self._check_stored(staged, directory)
        self._changes.graft(staged.tree)
        self._changes.put_file(self.view.at(manifest), staged.manifest)
        return staged.tree

    def _check_stored(self, staged: StagedCatalogs, directory: Path) -> None:
        """Every file's content is there: staged with it, or of a layer that is published."""
        needed = staged.contents().objects() | set(names_of(staged.manifest))
        needed.difference_update(*(each.names for each in self._staged.values()))
        if missing := needed - self.storage.has(needed):
            raise RepositoryError(
                f"{len(missing)} objects of what is staged in {directory} are neither there nor "
                f"in the repository, such as {min(missing)}",
                hint="remove it and run again",
            )

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
        digest, layout = layer.digest, self._layout
        self._next.begin_catalog(layout.layer(digest).parent)
        manifest = layout.layer_manifest(digest)
        self._next.graft(layout.layerfs(digest), layer.path, manifest)
        self._next.file(manifest.with_name(measured.PUBLISHED), layers_json(layer))

    def take_along(self, part: Part) -> bool:
        """Anything can be taken along: nothing is written yet that it could need otherwise."""
        self._next.renew(part)
        return True

    def flat_tree(self, image: StagedImage, staged: Path) -> Mapping[str, int]:
        """A flat tree: its catalogs and its manifest."""
        manifest = self._layout.flat_manifest(image.config)
        return self._next.graft(self._layout.flat(image.config), staged, manifest).losses

    def settle(self) -> None:
        """Mark the opaque directories of published layers that an image needs to be marked."""
        for digest in self._form.unmarked:
            base = self._layout.layerfs(digest)
            for line in self._commit.lines(digest):
                path, _, rest = line.partition(b" ")
                if rest.startswith(mtree.TYPE_DIR) and mtree.has_tag(rest, _OPAQUE_FLAG):
                    self._next.mark_opaque(base / os.fsdecode(mtree.decode_path(path)))
