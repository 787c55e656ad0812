"""Make everything of a change set under temporary names, ready to be renamed.

Layers alone go to their place at once: they are whole, and no image shows them yet.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import NoSpace, RepositoryError
from ..reference import Digest
from . import RECORD_FORMAT, ImageRecord, StagedImage, StagedLayer, ducc
from .amend import amend
from .failures import reported
from .journal import Move, put_directory, remove_tree
from .layout import Layout, temporary
from .plant import FlatMode, plant

_STEP = "publish"


@dataclass(slots=True)
class Prepared:
    """What the commit has to do: renames in their order, then removals."""

    moves: list[Move] = field(default_factory=list)
    removals: list[Path] = field(default_factory=list)


def wished_record(image: StagedImage, losses: Mapping[str, int]) -> ImageRecord:
    """The record that an image has once it is published."""
    return ImageRecord(
        name=image.name,
        platform=image.platform,
        manifest=image.manifest,
        config=image.config,
        layers=image.layers,
        products=image.products,
        losses=dict(losses),
    )


def flat_losses(layout: Layout, config: Digest) -> dict[str, int] | None:
    """The losses of a flat tree that is there as this version makes it, else None."""
    try:
        known = json.loads(layout.flat_record(config).read_bytes())
        losses = {str(kind): int(count) for kind, count in known["losses"].items()}
        current = known["format"] == RECORD_FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = layout.flat(config).is_dir() and layout.flat_manifest(config).is_file()
    return losses if current and whole else None


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
        self._touched: set[Digest] = set()
        self._done = Prepared()

    def temporaries(self) -> list[Path]:
        """Every temporary name that `prepare` may make."""
        layout = self._layout
        finals = {layout.layer(layer.digest): None for layer in self._layers}
        for image in self._images:
            for digest in image.layers:
                finals[layout.layer_manifest(digest)] = None
                finals[layout.origin(digest)] = None
            for path in (
                layout.flat(image.config),
                layout.flat_manifest(image.config),
                layout.flat_record(image.config),
                layout.manifest(image.name),
                layout.record(image.name),
                layout.link(image.name),
            ):
                finals[path] = None
        finals[layout.remove_schedule] = None
        return [temporary(path) for path in finals]

    def prepare(self, others: Callable[[], Mapping[str, str]]) -> Prepared:
        """Do it; ``others`` tells the configurations of the images that stay, by name."""
        for layer in self._layers:
            with reported(f"publish the layer {layer.digest.short}", self._user_of(layer.digest)):
                self._admit(layer)
        for image in self._images:
            with reported(_STEP, image.name):
                self._check(image)
                losses = self._complete_layers(image)
                if "flat" in image.products:
                    losses.update(self._build_flat(image))
                self._describe(image, losses)
        self._keep_books(others)
        for image in self._images:
            with reported(_STEP, image.name):
                self._point(image)
        return self._done

    def _user_of(self, digest: Digest) -> str:
        return next((image.name for image in self._images if digest in image.layers), "")

    # --- layers ---------------------------------------------------------

    def _admit(self, layer: StagedLayer) -> None:
        """Move a staged layer into its place."""
        final = self._layout.layer(layer.digest)
        self._make_public(layer)
        self._make_parents(final)
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
                f"{layer.path} is no staged layer", mend="remove it and run again"
            )
        for entry in layer.path.iterdir():
            if entry.name not in ("layerfs", ".metadata"):
                remove_tree(entry)
        summary = metadata / "layer.json"
        if summary.is_file():
            created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            content = ducc.layers_json(summary.read_bytes(), created)
            if content:
                (metadata / "layers.json").write_bytes(content)
        for entry in metadata.iterdir():
            entry.chmod(0o644)
        metadata.chmod(0o755)
        layer.path.chmod(0o755)

    def _complete_layers(self, image: StagedImage) -> Counter[str]:
        lost: Counter[str] = Counter()
        layerfs = [self._layout.layerfs(digest) for digest in image.layers]
        for digest in dict.fromkeys(image.layers):
            amendments = image.path / "layers" / f"{digest.hex}.mtree"
            if amendments.exists():
                fresh = digest not in self._touched and not self._layout.origin(digest).exists()
                lost += amend(
                    self._layout.layerfs(digest),
                    self._layout.layer_manifest(digest),
                    amendments,
                    layers=layerfs,
                    fresh=fresh,
                )
            self._touched.add(digest)
        return lost

    # --- images ---------------------------------------------------------

    def _check(self, image: StagedImage) -> None:
        for digest in image.layers:
            if not self._layout.layer_manifest(digest).is_file():
                raise RepositoryError(
                    f"its layer {digest} is neither published nor staged", mend="run again"
                )
        link = self._layout.link(image.name)
        if os.path.lexists(link) and not link.is_symlink():
            raise RepositoryError(
                f"{link} is in the way of its link", mend="move it away and run again"
            )

    def _build_flat(self, image: StagedImage) -> dict[str, int]:
        if image.config in self._flats:
            return self._flats[image.config]
        losses = flat_losses(self._layout, image.config)
        if losses is None:
            losses = self._plant(image)
        self._flats[image.config] = losses
        return losses

    def _plant(self, image: StagedImage) -> dict[str, int]:
        final = self._layout.flat(image.config)
        manifest = self._layout.flat_manifest(image.config)
        self._make_parents(final)
        self._make_parents(manifest)
        new = temporary(final)
        losses = dict(
            plant(
                image.path / "tree.mtree",
                new,
                layers=[self._layout.layerfs(digest) for digest in image.layers],
                generated=image.path / "generated",
                mode=self._flat,
                published=temporary(manifest),
            )
        )
        self._add_move(final, inode=new.stat().st_ino)
        self._add_move(manifest)
        known = {
            "format": RECORD_FORMAT,
            "config": str(image.config),
            "layers": [str(digest) for digest in image.layers],
            "losses": losses,
        }
        self._add_file(self._layout.flat_record(image.config), _json(known))
        return losses

    def _describe(self, image: StagedImage, losses: Mapping[str, int]) -> None:
        self._add_file(self._layout.manifest(image.name), image.manifest_bytes)
        record = wished_record(image, losses)
        self._add_file(self._layout.record(image.name), _json(record.to_json()))

    def _point(self, image: StagedImage) -> None:
        """Make the public symlink, the last thing to be renamed."""
        link = self._layout.link(image.name)
        if "flat" in image.products:
            self._make_parents(link)
            temporary(link).symlink_to(self._layout.link_target(image.name, image.config))
            self._add_move(link)
        elif link.is_symlink():
            self._done.removals.append(link)

    # --- DUCC's books ---------------------------------------------------

    def _keep_books(self, others: Callable[[], Mapping[str, str]]) -> None:
        users: dict[Digest, dict[str, None]] = {}
        for image in self._images:
            for digest in image.layers:
                users.setdefault(digest, {})[str(image.config)] = None
        for digest, configs in users.items():
            origin = self._layout.origin(digest)
            self._add_if_changed(origin, ducc.origins(_content(origin), configs))
        superseded = [_content(self._layout.manifest(image.name)) for image in self._images]
        wished = {str(image.config) for image in self._images}
        if any(superseded):
            wished |= set(others().values())
        schedule = self._layout.remove_schedule
        listed = _content(schedule)
        if any(superseded) or listed:
            self._add_if_changed(schedule, ducc.remove_schedule(listed, superseded, wished))

    # --- temporaries ----------------------------------------------------

    def _add_if_changed(self, final: Path, content: bytes) -> None:
        if content != _content(final):
            self._add_file(final, content)

    def _add_file(self, final: Path, content: bytes) -> None:
        self._make_parents(final)
        new = temporary(final)
        new.write_bytes(content)
        new.chmod(0o644)
        self._add_move(final)

    def _add_move(self, final: Path, *, inode: int = 0) -> None:
        root = self._layout.root
        new, place = temporary(final).relative_to(root), final.relative_to(root)
        self._done.moves.append(Move(str(new), str(place), inode))

    def _make_parents(self, path: Path) -> None:
        """Make the directories above ``path``, readable for all; none may be a symlink."""
        missing = []
        for parent in path.parents:
            if parent == self._layout.root:
                break
            if parent.is_symlink():
                raise RepositoryError(
                    f"{parent} is a symlink where a directory is needed",
                    mend="no image's name can lead through another image",
                )
            if not parent.is_dir():
                missing.append(parent)
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
                mend="free some space or raise the quota, then run again",
            )
        raise RepositoryError(f"cp ended with {outcome.returncode}: {said[-500:]}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
