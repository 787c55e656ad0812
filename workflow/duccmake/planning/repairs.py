"""What is damaged, planned as images to be published anew, from what they were published from.

Neither wish lists nor tags count: what an image was published from is what its record says,
and what has that digest.  All images with a damaged tree are made anew together, for on a
plain file system their trees share files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ..config.configuration import Config
from ..errors import DuccmakeError, Fault, NotFound
from ..oci.content_store import ContentStore
from ..oci.manifest import ImageConfig, Manifest, parse_manifest
from ..oci.reference import Digest, Reference
from ..products import Product
from ..registry.cached import CachedManifests
from ..registry.client import Client
from ..registry.places import Places
from ..repository import podman
from ..repository.damage import Kind, Reading, Thing
from ..repository.layout import split_variant
from ..repository.model import ImageRecord
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..repository.verification import Verification, names_of
from ..workspace.results import content_store
from .clients import polling_client
from .model import PlannedImage, PlannedLayer, Problem, State
from .plan import Plan, repositories
from .verdict import Found, Users, Verdict, asked_for, everything

NOTHING_KNOWN = "nothing was verified yet: run 'snakemake verify' first"


def plan_repairs(plan: Plan, config: Config) -> Plan:
    """The plan to make anew what was found damaged, in place of what is wished for.

    What cannot be made anew is a problem of it.
    """
    images: list[PlannedImage] = []
    problems: list[Problem] = []
    missing: dict[str, frozenset[Digest]] = {}
    with polling_client(config, {}) as client:
        for name in repositories(plan):
            repairs = _Repairs(plan, config, open_repository(config.repository, name), client)
            repairs.find()
            images += repairs.images
            problems += repairs.problems
            missing[name] = repairs.missing
    numbered = [replace(item, number=at) for at, item in enumerate(problems, start=1)]
    # All that is wished for stays so, whatever is made anew.
    wished = {(image.repository, image.name) for image in plan.images} | set(plan.unplanned)
    return replace(
        plan,
        images=tuple(images),
        problems=tuple(numbered),
        missing=missing,
        unplanned=tuple(sorted(wished)),
        departures=(),
        thins=(),
        refused=(),
        altered={},
        scope="pending",
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """What an image was published from; its ``manifest`` has that digest."""

    digest: Digest
    manifest: Manifest
    config: ImageConfig


class _Repairs:
    """What is damaged in one repository, of the images that are asked for."""

    def __init__(self, plan: Plan, config: Config, repository: Repository, client: Client) -> None:
        self.images: list[PlannedImage] = []
        self.problems: list[Problem] = []
        self._config = config
        self._repository = repository
        self._view = repository.view
        self._store: ContentStore = content_store()
        self._places = Places(client)
        self._wished = {
            image.name: image for image in plan.images if image.repository == repository.name
        }
        self._stamp = f"{time.time():.3f}"
        self._damaged: dict[Thing, Found] = {}

    def find(self) -> None:
        """Plan all of it."""
        verdict = Verdict.load(self._repository.name)
        if verdict is None:
            self._fail(self._repository.name, NOTHING_KNOWN)
            return
        is_asked_for = asked_for(self._config.images)
        there = everything(self._repository)
        names = set(names_of(self._view))
        users = {
            found.thing: names.intersection(there.get(found.thing, found.users))
            for found in verdict.found
        }
        self._damaged = {
            found.thing: found
            for found in verdict.found
            if not self._config.images
            or any(is_asked_for(split_variant(name)[1]) for name in users[found.thing])
        }
        if verdict.sample < 1:
            for thing in self._look_at_layers(verdict, there):
                users[thing] = names.intersection(there[thing])
        damaged = sorted({name for thing in self._damaged for name in users[thing]})
        for name in damaged:
            with self._repository.reading():
                self._plan(name, [thing for thing in self._damaged if name in users[thing]])
        if not damaged:
            for found in self._damaged.values():
                words = f"{found.damage[0]}: it is of no image, and nothing mends it by itself"
                self._fail(self._repository.name, words)

    def _look_at_layers(self, verdict: Verdict, there: Mapping[Thing, Users]) -> Iterator[Thing]:
        """Look at the layers of damaged flat trees, which a sample may have left out."""
        verification = Verification(self._repository, Reading(verdict.content), self._store.get)
        flats = {
            name
            for thing in self._damaged
            if thing.kind == Kind.FLAT
            for name in there.get(thing, ())
        }
        for thing, users in there.items():
            if thing.kind == Kind.LAYER and thing not in self._damaged and flats & users.keys():
                found = Found.of(thing, users, verification.find(thing))
                if found is not None:
                    self._damaged[thing] = found
                    yield thing

    @property
    def missing(self) -> frozenset[Digest]:
        """The layers that are fetched and unpacked again."""
        return frozenset(
            layer.digest
            for image in self.images
            if not image.prepared
            for layer in image.layers
            if self._is_lost(layer)
        )

    def _is_lost(self, layer: PlannedLayer) -> bool:
        return Thing(Kind.LAYER, str(layer.digest)) in self._damaged or not (
            self._repository.has_layer(layer.digest, layer.diff_id.algorithm)
        )

    def _plan(self, name: str, things: list[Thing]) -> None:
        why = f"damaged: {self._damaged[things[0]].damage[0]}"
        try:
            record = self._repository.description(name)
            image = self._image(name, record, why)
        except DuccmakeError as error:
            words = error.found + (f" ({error.hint})" if error.hint else "")
            self._fail(name, f"{why}; it cannot be mended: {words}", error.fault)
            return
        except (OSError, ValueError) as error:
            self._fail(name, f"{why}; it cannot be mended: {error}")
            return
        prepared = not any(map(self._is_of_trees, things)) and self._has_trees(image)
        self.images.append(replace(image, prepared=prepared))

    def _is_of_trees(self, thing: Thing) -> bool:
        """Whether something of a tree is damaged, also where its image alone tells."""
        flats = f"{self._view.layout.flats}/"
        damage = self._damaged[thing].damage
        return thing.kind != Kind.IMAGE or any(one.path.startswith(flats) for one in damage)

    def _has_trees(self, image: PlannedImage) -> bool:
        """Whether all that an image needs of trees is there, and nothing of it is damaged."""
        if any(map(self._is_lost, image.layers)):
            return False
        digests = [layer.digest for layer in image.layers]
        return Product.FLAT not in image.products or self._repository.has_flat(
            image.config, digests, image.fix_permissions
        )

    def _image(self, name: str, record: ImageRecord | None, why: str) -> PlannedImage:
        wished = self._wished.get(name)
        reference = wished.reference if wished else _reference(name)
        origin = self._origin(name, record, wished, reference)
        variants = self._variants(name, wished)
        manifest = origin.manifest
        layers = zip(manifest.layers, origin.config.diff_ids, strict=True)
        return PlannedImage(
            repository=self._repository.name,
            reference=reference,
            platform=record.platform if record else origin.config.platform,
            manifest=origin.digest,
            config=manifest.config.digest,
            layers=tuple(PlannedLayer(descriptor, diff_id) for descriptor, diff_id in layers),
            state=State.PENDING,
            why=why,
            ignorable=False,
            source=record.source if record else {},
            products=record.products if record else self._config.products,
            variants=variants,
            adopts=self._config.adopt,
            anew=self._stamp,
            fix_permissions=(
                record.fix_permissions if record else self._config.flat.fix_permissions
            ),
        )

    def _variants(self, name: str, wished: PlannedImage | None) -> tuple[str, ...]:
        """The platforms that an image is there for, the one of its public link first."""
        if wished is not None:
            return wished.variants
        label, public = split_variant(name)
        if not label:
            return ()
        there = [split_variant(other) for other in self._repository.names()]
        labels = [own for own, of in there if own and of == public]
        first = self._repository.variant(public)
        return tuple(sorted(labels, key=lambda own: (own != first, own)))

    # --- what an image was published from -----------------------------------

    def _origin(
        self,
        name: str,
        record: ImageRecord | None,
        wished: PlannedImage | None,
        reference: Reference,
    ) -> _Origin:
        """The manifest and the configuration of an image, from wherever they are had.

        Raises `DuccmakeError` where nothing that can be had was this image.
        """
        failure: DuccmakeError = NotFound("nobody knows what it was published from")
        for digest in self._candidates(name, record, wished):
            try:
                manifest = self._manifest(name, digest, reference)
                config = self._configuration(manifest, reference)
            except DuccmakeError as error:
                # The record's own word is the one to be told of.
                failure = failure if failure.fault != NotFound.kind else error
                continue
            return _Origin(digest, manifest, config)
        raise failure

    def _candidates(
        self, name: str, record: ImageRecord | None, wished: PlannedImage | None
    ) -> Iterator[Digest]:
        """Digests that the image may have been published from, the likeliest first."""
        if record is not None:
            yield record.manifest
        shown = self._shown_config(name)
        content = self._published(name)
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        with suppress(DuccmakeError):
            manifest = parse_manifest(content, algorithm="sha256")
            if isinstance(manifest, Manifest) and shown in ("", manifest.config.digest.hex):
                yield digest
        if wished is not None and (record is None or shown in ("", wished.config.hex)):
            yield wished.manifest

    def _shown_config(self, name: str) -> str:
        """The digits of the configuration that an image's link leads to, if it leads anywhere."""
        target = self._view.target(self._view.layout.link(name))
        return target.rpartition("/")[2] if ".flat/" in target else ""

    def _published(self, name: str) -> bytes:
        with suppress(OSError, DuccmakeError):
            return self._view.read(self._view.layout.manifest(name))
        return b""

    def _manifest(self, name: str, digest: Digest, reference: Reference) -> Manifest:
        self._keep(digest, self._published(name))
        found = self._from(reference).manifest(reference, digest)
        if not isinstance(found, Manifest):
            raise DuccmakeError(f"{digest} is no manifest of one image")
        return found

    def _configuration(self, manifest: Manifest, reference: Reference) -> ImageConfig:
        descriptor = manifest.config
        with suppress(OSError, DuccmakeError):
            self._keep(descriptor.digest, podman.configuration(self._view, descriptor.digest))
        raw = self._from(reference).blob_bytes(reference, descriptor)
        self._store.put(descriptor.digest, raw)
        return ImageConfig.parse(raw, layers=len(manifest.layers))

    def _from(self, reference: Reference) -> CachedManifests:
        return CachedManifests(self._places.of(reference), self._store)

    def _keep(self, digest: Digest, content: bytes) -> None:
        """Keep what was published, if it is undamaged: so nobody need be asked for it."""
        if hashlib.new(digest.algorithm, content).hexdigest() == digest.hex:
            self._store.put(digest, content)

    def _fail(self, name: str, reason: str, fault: Fault = Fault.OTHER) -> None:
        self.problems.append(
            Problem(self._repository.name, name, reason, False, 0, fault=fault, path=name)
        )


def _reference(name: str) -> Reference:
    """What an image is called where it comes from, by its name in the repository."""
    return Reference.parse(f"https://{split_variant(name)[1]}")
