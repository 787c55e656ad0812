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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import NoSpace, RepositoryError
from ...fs.files import remove_tree
from ...layer import measured
from ...oci.reference import Digest
from ...tree.build import FlatMode, build
from .. import overlay_losses, podman
from ..edits import Directory, Edits, File, Put, Symlink, Tree
from ..failures import reported
from ..flat_trees import FlatTree, flat_tree_of
from ..layout import Layout, temporary
from ..metadata import (
    check_link,
    checked_parents,
    is_there,
    known_losses,
    layers_json,
    note_flat_tree,
    publish_metadata,
)
from ..model import StagedImage, StagedLayer
from .journal import Move, put_directory

_STEP = "publish"


class Preparation:
    """Prepares ``layers`` and ``images``, none of them published yet, for one commit."""

    def __init__(
        self,
        layout: Layout,
        layers: Sequence[StagedLayer],
        images: Sequence[StagedImage],
        *,
        flat: FlatMode,
    ) -> None:
        self._layout = layout
        self._layers = layers
        self._images = images
        self._flat = flat
        self._flats: dict[Digest, dict[str, int]] = {}
        self._moves: list[Move] = []

    def temporaries(self) -> list[Path]:
        """Every temporary name that `prepare` may make."""
        layout = self._layout
        finals = {layout.layer(layer.digest): None for layer in self._layers}
        for image in self._images:
            finals[layout.flat(image.config)] = None
            finals[layout.flat_manifest(image.config)] = None
        return [temporary(path) for path in finals]

    def prepare(self, edits: Edits, others: Callable[[], Mapping[str, str]]) -> list[Move]:
        """Make layers and flat trees; add what goes with them to ``edits``.

        ``others`` tells the configurations of the images that stay, by name.
        Returns the renames that the commit has to do before those of the edits.
        """
        for layer in self._layers:
            with reported(f"publish the layer {layer.digest.short}", self._user_of(layer.digest)):
                self._admit(layer)
        losses: dict[str, dict[str, int]] = {}
        for image in self._images:
            with reported(_STEP, image.name):
                self._check(image)
                losses[image.name] = (
                    known_losses(self._layout, image)
                    if image.path is None
                    else self._make(edits, image, image.path)
                )
        trees = podman.own_trees(self._layout, self._images, self._layout.layer_manifest)
        publish_metadata(edits, self._layout, self._images, losses, others, trees)
        return self._moves

    def _make(self, edits: Edits, image: StagedImage, staged: Path) -> dict[str, int]:
        notes = overlay_losses.read(staged)
        lost = overlay_losses.losses(notes) + self._unmade_whiteouts(image, notes)
        overlay_losses.warn(image.name, lost)
        if "flat" not in image.products:
            return dict(lost)
        return {**lost, **self._build_flat(edits, image, staged, lost)}

    def _user_of(self, digest: Digest) -> str:
        return next((image.name for image in self._images if digest in image.layers), "")

    # --- layers ---------------------------------------------------------

    def _admit(self, layer: StagedLayer) -> None:
        """Move a staged layer into its place."""
        final = self._layout.layer(layer.digest)
        self._make_public(layer)
        make_parents(self._layout.root, final)
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
        if not (layer.path / "layerfs").is_dir() or not (metadata / "tree.mtree").is_file():
            raise RepositoryError(
                f"{layer.path} is no staged layer", hint="remove it and run again"
            )
        for entry in layer.path.iterdir():
            if entry.name not in ("layerfs", ".metadata"):
                remove_tree(entry)
        (metadata / measured.PUBLISHED).write_bytes(layers_json(layer))
        for entry in metadata.iterdir():
            entry.chmod(0o644)
        metadata.chmod(0o755)
        layer.path.chmod(0o755)

    def _unmade_whiteouts(self, image: StagedImage, notes: overlay_losses.Notes) -> Counter[str]:
        """What layers remove and no overlay hides: the file system, or overlayfs, cannot say it.

        The kernel merges the roots of all layers, whether or not one is marked as opaque.
        """
        lost: Counter[str] = Counter()
        for number, digest in enumerate(image.layers):
            summary = self._layout.layer_manifest(digest).with_name("layer.json")
            if summary.is_file():
                known = json.loads(summary.read_bytes()).get("lost", {})
                lost["whiteouts"] += known.get("whiteouts", 0)
                marked = "opaque" not in known
                hidden = overlay_losses.hidden(notes.get(number, ()))
                lost["whiteouts"] += sum(b"/" not in path or not marked for path in hidden)
        return +lost

    # --- images ---------------------------------------------------------

    def _check(self, image: StagedImage) -> None:
        for digest in image.layers:
            if not is_there(self._layout, image, digest):
                raise RepositoryError(
                    f"its layer {digest} is neither published nor staged", hint="run again"
                )
        check_link(self._layout, image.name)

    def _build_flat(
        self, edits: Edits, image: StagedImage, staged: Path, lost: Counter[str]
    ) -> dict[str, int]:
        if image.config in self._flats:
            return self._flats[image.config]
        tree = flat_tree_of(self._layout, image)
        if tree is None:
            losses = self._plant(image, staged)
            tree = FlatTree(image.layers, losses, lost, fix_permissions=image.fix_permissions)
        verified = replace(tree, verified=image.measured is not None)
        note_flat_tree(edits, self._layout, image.config, verified)
        self._flats[image.config] = dict(tree.losses)
        return self._flats[image.config]

    def _plant(self, image: StagedImage, staged: Path) -> dict[str, int]:
        final = self._layout.flat(image.config)
        manifest = self._layout.flat_manifest(image.config)
        make_parents(self._layout.root, final)
        make_parents(self._layout.root, manifest)
        new = temporary(final)
        losses = dict(
            build(
                staged / "tree.mtree",
                new,
                layers=[self._layout.layerfs(digest) for digest in image.layers],
                generated=staged / "generated",
                mode=self._flat,
                published=temporary(manifest),
            )
        )
        self._add_move(final, inode=new.stat().st_ino)
        self._add_move(manifest)
        return losses

    def _add_move(self, final: Path, *, inode: int = 0) -> None:
        self._moves.append(move(self._layout.root, final, inode=inode))


class EditsAsRenames:
    """Makes what edits put under temporary names; the commit renames them in their order."""

    def __init__(self, layout: Layout, edits: Edits) -> None:
        self._root = layout.root
        self._edits = edits

    def temporaries(self) -> list[Path]:
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
                moves.append(move(self._root, put.manifest))
        return moves

    def _prepare(self, path: Path, put: Put) -> Move:
        make_parents(self._root, path)
        new = temporary(path)
        if not isinstance(put, Directory | Tree) and path.is_dir() and not path.is_symlink():
            # Found now: after the commit point the rename would fail for ever.
            raise RepositoryError(
                f"{path} is a directory in the way of a file or a link",
                hint="move it away and run again",
            )
        if isinstance(put, File):
            new.write_bytes(put.content)
            new.chmod(0o644)
        elif isinstance(put, Symlink):
            new.symlink_to(put.target)
        elif isinstance(put, Tree):
            _plant_listing(put, new)
            return move(self._root, path, inode=new.stat().st_ino)
        else:
            new.mkdir()
            new.chmod(0o755)
            return move(self._root, path, inode=new.stat().st_ino)
        return move(self._root, path)


def _plant_listing(tree: Tree, new: Path) -> None:
    with tempfile.NamedTemporaryFile() as listing:
        listing.write(tree.listing)
        listing.flush()
        build(
            Path(listing.name),
            new,
            layers=tree.layers,
            generated=new,
            mode="hardlink",
            published=temporary(tree.manifest),
        )


def move(root: Path, final: Path, *, inode: int = 0) -> Move:
    """The rename from its temporary name to ``final``."""
    return Move(str(temporary(final).relative_to(root)), str(final.relative_to(root)), inode)


def make_parents(root: Path, path: Path) -> None:
    """Make the directories above ``path``, readable for all; none may be a symlink."""
    missing = [parent for parent in checked_parents(root, path) if not parent.is_dir()]
    for parent in reversed(missing):
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
