"""How a repository is published, whatever the backend: under its lock, and only what is lacking."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from ..errors import RepositoryError
from ..layer import measured
from ..products import Product
from .commit import Part
from .edits import Edits
from .failures import reported
from .flat_trees import flat_tree_of
from .layout import split_variant
from .metadata import wished_record
from .model import ANY_VARIANT, UNMEASURED, ChangeSet, StagedImage, StagedLayer
from .reader import PublishedTree

log = logging.getLogger(__name__)

Opened = TypeVar("Opened")
"""What a backend publishes with while it has the lock."""


class Publisher(PublishedTree, ABC, Generic[Opened]):
    """The half of `Repository` that publishes; backends add how that is done.

    ``lock`` is theirs: inside of it they have set ``_open``.
    """

    _open: Opened | None = None

    def publish(self, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]] = tuple) -> None:
        """Publish a change set: all of it or, when this raises, none of its images.

        What ``more`` says has got ready meanwhile is taken along where publishing takes
        its time.  Raises `RepositoryError` or `NoSpace`, with the image where one is to blame.
        """
        opened = self._opened("publish")
        lacking = self._lacking(changes)
        if not lacking.images and not lacking.layers:
            return
        started = time.monotonic()
        with reported("publish"):
            done = self._publish(opened, lacking, lambda: map(self._lacking, more()))
        log.info(
            "published %d images and %d layers",
            len(done.images),
            len(done.layers),
            extra={"seconds": time.monotonic() - started},
        )

    def edit(self, edits: Edits) -> None:
        """Carry out edits alone; only under `lock`.

        Raises `RepositoryError` or `NoSpace`.
        """
        opened = self._opened("edit")
        if edits:
            with reported("edit"):
                self._edit(opened, edits)

    @abstractmethod
    def prepare(self) -> None:
        """Make the directory of its own; `RepositoryError` or `NoSpace`."""

    @abstractmethod
    def _publish(
        self, opened: Opened, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]]
    ) -> Part:
        """Publish what is lacking; returns all that was published."""

    @abstractmethod
    def _edit(self, opened: Opened, edits: Edits) -> None:
        """Carry out edits, of which there are some."""

    def _opened(self, step: str) -> Opened:
        if self._open is None:
            raise RepositoryError("publishing needs the repository's lock", step=step)
        return self._open

    # --- what is lacking ------------------------------------------------

    def _lacking(self, changes: ChangeSet) -> ChangeSet:
        """The changes without what is published already; each image and each layer once."""
        images = {image.name: image for image in changes.images if not self._is_published(image)}
        layers = {layer.digest: layer for layer in changes.layers}
        anew = {digest for image in images.values() if image.anew for digest in image.layers}
        missing = [layer for layer in layers.values() if layer.digest in anew or self._lacks(layer)]
        return ChangeSet(tuple(missing), tuple(images.values()))

    def _lacks(self, layer: StagedLayer) -> bool:
        """Whether a layer is not published yet, or was measured by fewer algorithms."""
        staged = measured.staged(layer.path / ".metadata")
        algorithms = [diff_id.algorithm for diff_id in staged.diff_ids] if staged else ["sha256"]
        return not all(self.has_layer(layer.digest, one) for one in algorithms)

    def _is_published(self, image: StagedImage) -> bool:
        record = self.record(image.name)
        return (
            record is not None
            and UNMEASURED not in record.losses
            and (not image.anew or record.anew == image.anew)
            and replace(record, losses={}, source=image.source, anew=image.anew)
            == wished_record(image, {})
            and all(self.has_layer(layer) for layer in image.layers)
            and (Product.FLAT not in image.products or flat_tree_of(self._view, image) is not None)
            and not self._leads_elsewhere(image)
        )

    def _leads_elsewhere(self, image: StagedImage) -> bool:
        """Whether the public name of an image of several platforms leads where it should not."""
        own, public = split_variant(image.name)
        if not own or Product.FLAT not in image.products:
            return False
        good = (ANY_VARIANT, *image.variants[: image.variants.index(own) + 1])
        return self.variant(public) not in good

    def _configs(self, without: Iterable[StagedImage]) -> dict[str, str]:
        """The configurations of the images that stay as they are, by name."""
        changed = {image.name for image in without}
        records = (self._read_record(name) for name in self.names() if name not in changed)
        return {record.name: str(record.config) for record in records if record}
