"""Make everything of a change set under temporary names, ready to be renamed.

Layers alone go to their place at once: they are whole, and no image shows them yet.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath

from ...errors import NoSpace, RepositoryError
from ...fs.files import remove_tree
from ...layer import measured
from ...tree.build import FlatMode, build
from .. import overlay_losses
from ..commit import Commit, Part
from ..edits import Directory, Edits, File, Put, Symlink, Tree
from ..layout import temporary
from ..metadata import checked_parents, layers_json
from ..model import StagedImage, StagedLayer
from ..view import DirectoryView
from .journal import Move, put_directory


class Preparation:
    """The renames of a commit; keeps to `LayerForm` and `Writer`.

    ``flat`` says how flat trees get their files.  ``moves`` are the renames that the
    commit has to do before those of its edits.
    """

    def __init__(self, view: DirectoryView, *, flat: FlatMode) -> None:
        self._view = view
        self._layout = view.layout
        self._flat = flat
        self.moves: list[Move] = []

    def temporaries(self, part: Part) -> list[PurePosixPath]:
        """Every temporary name that may be made for layers and flat trees."""
        layout = self._layout
        finals = {layout.layer(digest): None for digest in part.layers}
        for image in part.images:
            finals[layout.flat(image.config)] = None
            finals[layout.flat_manifest(image.config)] = None
        return [temporary(path) for path in finals]

    # --- layers ---------------------------------------------------------

    def is_staged(self, layer: StagedLayer) -> bool:
        """Whether a layer is staged as a tree."""
        return (layer.path / "layerfs").is_dir()

    def hide(self, commit: Commit, image: StagedImage, notes: overlay_losses.Notes) -> Counter[str]:
        """What layers remove and no overlay hides: the file system, or overlayfs, cannot say it.

        The kernel merges the roots of all layers, whether or not one is marked as opaque.
        """
        lost: Counter[str] = Counter()
        for number, digest in enumerate(image.layers):
            if summary := commit.summary(digest):
                known = json.loads(summary).get("lost", {})
                lost["whiteouts"] += known.get("whiteouts", 0)
                marked = "opaque" not in known
                hidden = overlay_losses.hidden(notes.get(number, ()))
                lost["whiteouts"] += sum(b"/" not in path or not marked for path in hidden)
        return +lost

    def layer(self, layer: StagedLayer) -> None:
        """Move a staged layer into its place."""
        self._make_public(layer)
        make_parents(self._view, self._layout.layer(layer.digest))
        final = self._view.path(self._layout.layer(layer.digest))
        if not os.path.lexists(final) and _renamed(layer.path, final):
            return
        # Another file system, or a layer in the place that lacks something.
        new = temporary(final)
        if not _renamed(layer.path, new):
            _copy_tree(layer.path, new)
            put_directory(new, final)
            remove_tree(layer.path)
        else:
            put_directory(new, final)
        remove_tree(new)

    def _make_public(self, layer: StagedLayer) -> None:
        """Leave in the staged directory what is published, and let everybody read it."""
        metadata = layer.path / ".metadata"
        for entry in layer.path.iterdir():
            if entry.name not in ("layerfs", ".metadata"):
                remove_tree(entry)
        (metadata / measured.PUBLISHED).write_bytes(layers_json(layer))
        for entry in metadata.iterdir():
            entry.chmod(0o644)
        metadata.chmod(0o755)
        layer.path.chmod(0o755)

    def take_along(self, part: Part) -> bool:
        """False: a commit is too quick for that."""
        return False

    # --- flat trees -----------------------------------------------------

    def flat_tree(self, image: StagedImage, staged: Path) -> dict[str, int]:
        """Make a flat tree and its manifest under temporary names."""
        final = self._layout.flat(image.config)
        manifest = self._layout.flat_manifest(image.config)
        make_parents(self._view, final)
        make_parents(self._view, manifest)
        new = self._view.path(temporary(final))
        losses = build(
            staged / "tree.mtree",
            new,
            layers=[self._view.path(self._layout.layerfs(digest)) for digest in image.layers],
            generated=staged / "generated",
            mode=self._flat,
            published=self._view.path(temporary(manifest)),
        )
        self.moves.append(move(final, inode=new.stat().st_ino))
        self.moves.append(move(manifest))
        return dict(losses)

    def settle(self) -> None:
        """What the repository shows is what it has."""


class EditsAsRenames:
    """Makes what edits put under temporary names; the commit renames them in their order."""

    def __init__(self, view: DirectoryView, edits: Edits) -> None:
        self._view = view
        self._edits = edits

    def temporaries(self) -> list[PurePosixPath]:
        """Every temporary name that `prepare` makes."""
        puts = self._edits.puts
        manifests = (put.manifest for put in puts.values() if isinstance(put, Tree))
        return [temporary(path) for path in (*puts, *manifests)]

    def prepare(self) -> list[Move]:
        """Make them; returns the renames that the commit has to do."""
        moves = []
        for path, put in self._edits.puts.items():
            moves.append(self._prepare(path, put))
            if isinstance(put, Tree):
                moves.append(move(put.manifest))
        return moves

    def _prepare(self, path: PurePosixPath, put: Put) -> Move:
        make_parents(self._view, path)
        new = self._view.path(temporary(path))
        if not isinstance(put, Directory | Tree) and self._view.is_dir(path):
            # Found now: after the commit point the rename would fail for ever.
            raise RepositoryError(
                f"{self._view.path(path)} is a directory in the way of a file or a link",
                hint="move it away and run again",
            )
        if isinstance(put, File):
            new.write_bytes(put.content)
            new.chmod(0o644)
        elif isinstance(put, Symlink):
            new.symlink_to(put.target)
        elif isinstance(put, Tree):
            self._plant_listing(put, new)
            return move(path, inode=new.stat().st_ino)
        else:
            new.mkdir()
            new.chmod(0o755)
            return move(path, inode=new.stat().st_ino)
        return move(path)

    def _plant_listing(self, tree: Tree, new: Path) -> None:
        with tempfile.NamedTemporaryFile() as listing:
            listing.write(tree.listing)
            listing.flush()
            build(
                Path(listing.name),
                new,
                layers=[self._view.path(layer) for layer in tree.layers],
                generated=new,
                mode="hardlink",
                published=self._view.path(temporary(tree.manifest)),
            )


def move(final: PurePosixPath, *, inode: int = 0) -> Move:
    """The rename from its temporary name to ``final``."""
    return Move(str(temporary(final)), str(final), inode)


def make_parents(view: DirectoryView, path: PurePosixPath) -> None:
    """Make the directories above ``path``, readable for all; none may be a symlink."""
    missing = [parent for parent in checked_parents(view, path) if not view.is_dir(parent)]
    for parent in map(view.path, reversed(missing)):
        parent.mkdir()
        parent.chmod(0o755)


def _renamed(path: Path, new: Path) -> bool:
    """Rename; False where that leads to another file system."""
    try:
        path.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy_tree(source: Path, target: Path) -> None:
    """Copy with owners, modes, times, links, devices and attributes: cp(1) knows them all."""
    program = shutil.which("cp") or "cp"
    outcome = subprocess.run(
        [program, "-a", "--", str(source), str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if outcome.returncode:
        said = outcome.stderr.decode(errors="replace").strip()
        if "No space left" in said or "quota exceeded" in said:
            raise NoSpace(
                f"no space is left to copy {source}",
                hint="free some space or raise the quota, then run again",
            )
        raise RepositoryError(f"cp ended with {outcome.returncode}: {said[-500:]}")
