"""Group commit: whoever publishes takes along every image that is ready by then."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DuccmakeError, RepositoryLocked
from ..layer import measured
from ..layer.measured import Measured, check_diff_ids, check_sizes
from ..oci.content_store import ContentStore
from ..oci.reference import Digest
from ..planning.model import PlannedImage, PlannedLayer
from ..planning.pending import why_pending
from ..products import IN_REPOSITORY, Product
from ..repository.model import ChangeSet, ImageRecord, Keep, StagedImage, StagedLayer
from ..repository.open import open_staging
from ..repository.protocol import Repository
from ..repository.referrers import kept_files
from ..repository.settings import BatchSettings, RepositorySettings

logger = logging.getLogger(__name__)

_LEARNING_SECONDS = 10.0
"""A new index of a large repository takes minutes, which those who wait for a run are spared."""


def publish_ready(
    wanted: PlannedImage,
    others: Iterable[PlannedImage],
    repository: Repository,
    *,
    layers: Mapping[str, Path],
    flats: Mapping[str, Path],
    store: ContentStore,
    limits: BatchSettings | None = None,
    keep: Keep | None = None,
) -> ImageRecord:
    """Publish ``wanted`` and those of ``others`` that are wholly staged, in one commit.

    Others that get ready while it is written may be taken along.
    ``layers`` and ``flats`` say where, by digest, things are staged if they are;
    ``limits`` how much one commit takes at most, ``keep`` what becomes of what is superseded.
    When the commit fails, its images are tried one by one, so that none of them
    stands in another's way.  Returns the record of ``wanted``; raises why that
    could not be published.
    """
    with repository.lock():
        if (record := _published(wanted, repository)) is not None:
            logger.info("%s is published already, by a commit of others", wanted.name)
            return record
        images = [wanted, *(image for image in others if image.name != wanted.name)]
        batch = Batch(limits or BatchSettings(), layers)
        ready = _Ready(images, repository, layers, flats, store, batch, keep or Keep())
        first = tuple(ready.found())
        if wanted.name not in ready.staged:
            raise DuccmakeError(
                "what was staged is not there any more", step="publish", hint="run again"
            )
        ready.publish(first)
        record = _published(wanted, repository)
    if record is None:
        raise DuccmakeError(
            "the repository does not show what was just published",
            step="publish",
            hint="see whether somebody else writes to it",
        )
    return record


def learn(settings: RepositorySettings, repository: str, index: Path) -> None:
    """Have layers that are staged later know by ``index`` what content is published."""
    staging = open_staging(settings, repository)
    if staging is None:
        return
    try:
        staging.learn(index, _LEARNING_SECONDS)
    except (DuccmakeError, OSError) as error:
        logger.warning("what was published is there, but will be compressed again: %s", error)


@dataclass(slots=True)
class _Ready:
    """Which of ``images`` are ready to be published; the first is the one to be published.

    ``staged`` are those that were found to be, by name.
    """

    images: Sequence[PlannedImage]
    repository: Repository
    layers: Mapping[str, Path]
    flats: Mapping[str, Path]
    store: ContentStore
    batch: Batch
    keep: Keep
    staged: dict[str, StagedImage] = field(default_factory=dict)

    def found(self) -> Iterator[StagedImage]:
        """Those that have got ready since it was asked last, as far as the batch takes them."""
        for image in self.images:
            try:
                if image.name in self.staged or not self._take(image):
                    continue
            except (OSError, DuccmakeError) as error:
                if image is self.images[0]:
                    raise
                # Its own job will say so; here it must not stand in others' way.
                logger.warning("%s is not taken along: %s", image.name, error)
                continue
            yield self.staged[image.name]

    def _take(self, image: PlannedImage) -> bool:
        item = _staged(image, self.repository, self.layers, self.flats, self.store)
        if item is None or _published(image, self.repository) is not None:
            return False
        if not self.batch.take(item):
            return False
        self.staged[image.name] = replace(item, keep=self.keep)
        return True

    def publish(self, first: Sequence[StagedImage]) -> None:
        """Publish ``first`` and what gets ready meanwhile, at once or else one by one."""
        try:
            self.repository.publish(
                self._change_set(first), lambda: (self._change_set([one]) for one in self.found())
            )
        except RepositoryLocked:
            raise
        except DuccmakeError as error:
            if len(self.staged) == 1:
                raise
            logger.warning("%s; trying the %d images one by one", error, len(self.staged))
            self._publish_singly()

    def _publish_singly(self) -> None:
        # The image that this is about comes last: its error is the one to report.
        wanted = self.images[0].name
        for name, image in sorted(self.staged.items(), key=lambda item: item[0] == wanted):
            try:
                self.repository.publish(self._change_set([image]))
            except DuccmakeError as error:
                if name == wanted:
                    raise
                logger.warning("%s: %s", name, error)

    def _change_set(self, images: Iterable[StagedImage]) -> ChangeSet:
        chosen = tuple(images)
        digests = dict.fromkeys(digest for image in chosen for digest in image.layers)
        staged = tuple(
            StagedLayer(digest, self.layers[str(digest)])
            for digest in digests
            if str(digest) in self.layers and self.layers[str(digest)].is_dir()
        )
        return ChangeSet(staged, chosen)


def _published(image: PlannedImage, repository: Repository) -> ImageRecord | None:
    record = repository.record(image.name)
    return None if why_pending(image, repository, record) else record


def _staged(
    image: PlannedImage,
    repository: Repository,
    layers: Mapping[str, Path],
    flats: Mapping[str, Path],
    store: ContentStore,
) -> StagedImage | None:
    """The image as it is staged, or None while something of it is not ready."""
    flat = None if image.prepared else flats.get(str(image.tree))
    if not image.prepared and (flat is None or not flat.is_dir()):
        return None
    manifest, config = store.get(image.manifest), store.get(image.config)
    if manifest is None or (config is None and Product.PODMAN in image.products):
        return None
    found = [_measured(layer, repository, layers) for layer in image.layers]
    known = tuple(one for one in found if one is not None)
    products = [name for name in image.products if name in IN_REPOSITORY]
    is_measured = len(known) == len(found)
    if is_measured:
        _check(image, known)
    elif image.prepared:
        # Of DUCC's layers nobody knows what they unpack to, by which podman's store goes.
        products = [name for name in products if name != Product.PODMAN]
    else:
        return None
    return StagedImage(
        name=image.name,
        platform=image.platform,
        manifest=image.manifest,
        manifest_bytes=manifest,
        config=image.config,
        layers=tuple(layer.digest for layer in image.layers),
        path=flat,
        config_bytes=config or b"",
        measured=known if is_measured else None,
        products=tuple(products),
        variants=image.variants,
        source=image.source,
        fix_permissions=image.fix_permissions,
        anew=image.anew,
        signatures=image.signatures,
        referrers=kept_files(image.referrers, store.get),
    )


def _measured(
    layer: PlannedLayer, repository: Repository, layers: Mapping[str, Path]
) -> Measured | None:
    """What a layer was found to be, as it is staged or else published."""
    algorithm = layer.diff_id.algorithm
    path = layers.get(str(layer.digest))
    staged = measured.staged(path / ".metadata") if path is not None else None
    if staged is not None and staged.diff_id(algorithm) is not None:
        return staged
    is_there = repository.has_layer(layer.digest, algorithm)
    return repository.measured(layer.digest) if is_there else None


def _check(image: PlannedImage, found: Sequence[Measured]) -> None:
    """Hold an image to what its layers were found to be; `DigestMismatch` with its name."""
    known = {one.digest: one for one in found}
    try:
        check_diff_ids(
            [layer.digest for layer in image.layers],
            [layer.diff_id for layer in image.layers],
            known.get,
        )
        check_sizes([layer.descriptor for layer in image.layers], known.get)
    except DuccmakeError as error:
        raise error.within(image=image.title, step="publish") from None


def _exceeds(value: int, limit: int) -> bool:
    return bool(limit) and value > limit


def _lines(path: Path) -> int:
    count = 0
    with path.open("rb") as content:
        while piece := content.read(1024 * 1024):
            count += piece.count(b"\n")
    return count


class Batch:
    """Counts what a commit has so far; ``layers`` says where, by digest, layers are staged."""

    def __init__(self, limits: BatchSettings, layers: Mapping[str, Path]) -> None:
        self._limits = limits
        self._paths = layers
        self._images = 0
        self._bytes = 0
        self._entries = 0
        self._counted: set[Digest] = set()

    def take(self, image: StagedImage) -> bool:
        """Count an image and say so, unless it is one too many; the first always fits."""
        size, entries = self._cost(image)
        limits = self._limits
        if self._images and (
            _exceeds(self._images + 1, limits.images)
            or _exceeds(self._bytes + size, limits.bytes)
            or _exceeds(self._entries + entries, limits.entries)
        ):
            return False
        self._images += 1
        self._bytes += size
        self._entries += entries
        self._counted |= {image.config, *image.layers}
        return True

    def _cost(self, image: StagedImage) -> tuple[int, int]:
        size = entries = 0
        for summary in self._summaries(image):
            size += int(summary.get("diff_bytes", 0))
            entries += int(summary.get("entries", 0))
        if image.path is not None and image.config not in self._counted:
            entries += _lines(image.path / "tree.mtree")
        return size, entries

    def _summaries(self, image: StagedImage) -> Iterator[Mapping[str, int]]:
        """What the unpacker noted of the layers that are staged, each once."""
        for digest in dict.fromkeys(image.layers):
            path = self._paths.get(str(digest))
            if path is not None and digest not in self._counted:
                try:
                    summary = json.loads((path / ".metadata" / "layer.json").read_bytes())
                except (OSError, ValueError):
                    continue  # published, or about to be found damaged
                yield summary
