"""A repository in a plain directory: for evaluation, and for sites without CernVM-FS.

Layers are renamed into their place, flat trees are hard links into them, and the
public symlinks are swapped last, each in one step.  Everything of a change set is
made under temporary names first; the journal then renames it into its place.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import InvalidReference, RepositoryError
from ..reference import Digest
from . import ChangeSet, ImageRecord, StagedImage, kernel
from .books import flat_losses, wished_record
from .edits import Edits
from .failures import reported
from .journal import Journal, Move
from .layout import Layout
from .lock import held
from .plant import FlatMode
from .prepare import EditsAsRenames, Preparation
from .verify import Digests, differences

log = logging.getLogger(__name__)


class DirectoryRepository:
    """The repository ``name`` in the directory ``root / name``; keeps to `Repository`.

    ``flat`` says how flat trees get their files: ``hardlink`` (shared with the
    layers), ``reflink`` (their own inodes, shared data) or ``copy``.
    ``lock_seconds`` is how long `lock` waits for another publisher.  ``durable``
    has what is published reach the disk before it becomes visible; without it a
    crash of the machine, though not of the program, may lose content.
    Nothing is written before `lock` is entered.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        flat: FlatMode = "hardlink",
        lock_seconds: float = 3600,
        durable: bool = True,
    ) -> None:
        if not name or name.startswith(".") or "/" in name or not name.isprintable():
            raise InvalidReference(
                f"{name!r} is not the name of a repository",
                mend="write it like unpacked.example.org",
            )
        self._name = name
        self._path = Path(root).absolute() / name
        self._layout = Layout(self._path)
        self._flat: FlatMode = flat
        self._lock_seconds = lock_seconds
        self._durable = durable
        self._private = self._path / ".duccmake"
        self._journal = Journal(self._private / "journal.json", self._path, self._sync)
        self._locked = False

    @property
    def name(self) -> str:
        """The CernVM-FS name, like ``unpacked.cern.ch``."""
        return self._name

    @property
    def path(self) -> Path:
        """The directory that holds the repository."""
        return self._path

    def record(self, name: str) -> ImageRecord | None:
        """The record of a published image, or None where something of it is missing."""
        record = self._read_record(name)
        if record is None or not self._layout.manifest(name).is_file():
            return None
        return record if "flat" not in record.products or self._points_to(record) else None

    def has_layer(self, digest: Digest) -> bool:
        """Whether the layer is published, whole, with its ``tree.mtree``."""
        layout = self._layout
        return layout.layer_manifest(digest).is_file() and layout.layerfs(digest).is_dir()

    def layer_manifest(self, digest: Digest) -> Path:
        """The published ``tree.mtree`` of a layer."""
        return self._layout.layer_manifest(digest)

    def image_manifest(self, config: Digest) -> Path:
        """The published ``tree.mtree`` of a flat tree."""
        return self._layout.flat_manifest(config)

    def names(self) -> Iterator[str]:
        """The names of all images that have a manifest here, sorted; DUCC's are among them."""
        base = self._layout.metadata
        found = []
        for directory, below, files in os.walk(base):
            below[:] = [name for name in below if not name.startswith(".")]
            if "manifest.json" in files:
                found.append(str(Path(directory).relative_to(base)))
        return iter(sorted(found))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the repository for publishing; `RepositoryLocked` after the time limit.

        Entering finishes or undoes what a publisher that died left behind.
        """
        with reported("lock the repository"):
            if not self._path.is_dir():
                self._path.mkdir(parents=True, exist_ok=True)
                self._path.chmod(0o755)
            self._private.mkdir(mode=0o700, exist_ok=True)
        with held(self._private / "lock", self._lock_seconds):
            with reported("recover the repository"):
                outcome = self._journal.recover()
            if outcome:
                log.warning("%s: what an interrupted publisher left was %s", self._path, outcome)
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def publish(self, changes: ChangeSet) -> None:
        """Publish a change set: all of it or, when this raises, none of its images.

        Raises `RepositoryError` or `NoSpace`, with the image where one is to blame.
        """
        if not self._locked:
            raise RepositoryError("publishing needs the repository's lock", step="publish")
        images = {image.name: image for image in changes.images if not self._is_published(image)}
        layers = {layer.digest: layer for layer in changes.layers}
        missing = [layer for digest, layer in layers.items() if not self.has_layer(digest)]
        if not images and not missing:
            return
        started = time.monotonic()
        with reported("publish"):
            preparation = Preparation(self._layout, missing, list(images.values()), flat=self._flat)
            edits = Edits(self._path)
            with self._transaction(preparation.temporaries(), edits) as moves:
                moves += preparation.prepare(edits, lambda: self._configs(without=images))
        log.info(
            "published %d images and %d layers",
            len(images),
            len(missing),
            extra={"seconds": time.monotonic() - started},
        )

    def edit(self, edits: Edits) -> None:
        """Carry out edits alone, in one transaction; only under `lock`.

        Raises `RepositoryError` or `NoSpace`; nothing is changed then.
        """
        if not self._locked:
            raise RepositoryError("editing needs the repository's lock", step="edit")
        if not edits:
            return
        with reported("edit"), self._transaction([], edits):
            pass

    @contextmanager
    def _transaction(self, temporaries: Iterable[Path], edits: Edits) -> Iterator[list[Move]]:
        """Carry out the renames that the body adds and the edits that it makes, or nothing."""
        moves: list[Move] = []
        try:
            self._journal.begin(temporaries)
            yield moves
            renames = EditsAsRenames(self._layout, edits)
            self._journal.extend(renames.temporaries())
            moves += renames.prepare()
            self._journal.commit(moves, edits.removals)
        except Exception:
            self._journal.recover()
            raise
        self._journal.recover()

    def verify(self, name: str) -> list[str]:
        """Compare a published image with its manifests: one line a difference."""
        with reported("verify", name):
            record = self.record(name)
            if record is None:
                return [f"{name} is not published, or not wholly"]
            digests: Digests = {}
            layout = self._layout
            lines: list[str] = []
            if "flat" in record.products:
                tree, manifest = layout.flat(record.config), layout.flat_manifest(record.config)
                lines += self._differences(tree, manifest, digests)
            for digest in dict.fromkeys(record.layers):
                tree, manifest = layout.layerfs(digest), layout.layer_manifest(digest)
                lines += self._differences(tree, manifest, digests)
            return lines

    def _read_record(self, name: str) -> ImageRecord | None:
        path = self._layout.record(name)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            record = ImageRecord.from_json(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s is damaged", path)
            return None
        return record if record.name == name else None

    def _points_to(self, record: ImageRecord) -> bool:
        try:
            target = str(self._layout.link(record.name).readlink())
        except OSError:
            return False
        wished = self._layout.link_target(record.name, record.config)
        return target == wished and self._layout.flat(record.config).is_dir()

    def _is_published(self, image: StagedImage) -> bool:
        record = self.record(image.name)
        return (
            record is not None
            and replace(record, losses={}) == wished_record(image, {})
            and all(self.has_layer(layer) for layer in image.layers)
            and (
                "flat" not in image.products or flat_losses(self._layout, image.config) is not None
            )
        )

    def _configs(self, *, without: dict[str, StagedImage]) -> dict[str, str]:
        """The configurations of the images that stay as they are, by name."""
        records = (self._read_record(name) for name in self.names() if name not in without)
        return {record.name: str(record.config) for record in records if record}

    def _differences(self, tree: Path, manifest: Path, digests: Digests) -> Iterator[str]:
        where = tree.relative_to(self._path)
        if not manifest.is_file():
            yield f"{where}: has no manifest"
            return
        unprivileged = tree.parent.stat().st_uid != 0
        for line in differences(tree, manifest, digests, unprivileged=unprivileged):
            yield f"{where}: {line}"

    def _sync(self) -> None:
        if self._durable:
            kernel.sync_filesystem(self._path)
