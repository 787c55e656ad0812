"""Whether what is published is what it was published as, and what its images say.

The manifests beside trees (``tree.mtree``) and what was measured of layers are believed;
all else is held to them, to the digests in records, and to one another.  Only reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property, partial

from ..errors import DigestMismatch, DuccmakeError, InvalidReference
from ..layer.measured import Measured, check_diff_ids, check_sizes
from ..oci.manifest import ImageConfig, Manifest, parse_manifest
from ..oci.reference import Digest
from ..products import Product
from ..tree.verify import Digests
from . import adoption, podman
from .audit import Audit
from .damage import Damage, Kind, Reading, Thing
from .flat_trees import measured_layer, read_flat_tree
from .inventory import bare_links, image_names
from .layout import split_variant
from .model import UNMEASURED, ImageRecord
from .protocol import Readable
from .view import View


def things_of(
    repository: Readable, is_asked_for: Callable[[str], bool]
) -> dict[Thing, dict[str, str]]:
    """What there is to verify of the images that are asked for, each with those that use it.

    These are by name, with their manifests, which are empty where nobody can tell.
    """
    found: dict[Thing, dict[str, str]] = {}
    for name in names_of(repository.view):
        if not is_asked_for(split_variant(name)[1]):
            continue
        record = _described(repository, name)
        manifest = str(record.manifest) if record else ""
        for thing in [Thing(Kind.IMAGE, name), *(things_in(record) if record else ())]:
            found.setdefault(thing, {})[name] = manifest
    return found


def names_of(view: View) -> list[str]:
    """The names of all images, also of those of which a part of the metadata is gone."""
    return image_names(view, ("manifest.json", "record.json"))


def things_in(record: ImageRecord) -> Iterator[Thing]:
    """The trees of an image that were made here."""
    if UNMEASURED in record.losses:
        return  # DUCC's have no manifest to hold them to
    if Product.FLAT in record.products:
        yield Thing(Kind.FLAT, str(record.config))
    for digest in dict.fromkeys(record.layers):
        yield Thing(Kind.LAYER, str(digest))


def is_used(repository: Readable, thing: Thing, users: Collection[str]) -> bool:
    """Whether one of those who had a thing has it still, as far as can be told."""
    if thing.kind == Kind.REPOSITORY:
        return True
    names = set(users) & set(names_of(repository.view))
    records = [_described(repository, name) for name in names]
    return any(
        record is None or thing.kind == Kind.IMAGE or thing in things_in(record)
        for record in records
    )


def _described(repository: Readable, name: str) -> ImageRecord | None:
    with suppress(DuccmakeError):
        return repository.description(name)
    return None


class Verification:
    """Holds the things of a repository to what they should be.

    ``configuration`` gives an image's by its digest, where it is at hand; podman's store may
    have it as well.
    """

    def __init__(
        self,
        repository: Readable,
        reading: Reading | None = None,
        configuration: Callable[[Digest], bytes | None] = lambda digest: None,
    ) -> None:
        self._repository = repository
        self._view = repository.view
        self._layout = repository.view.layout
        self._configuration = configuration
        digests: Digests = {}
        self._reading = reading or Reading()
        self._compare = partial(repository.compare, digests=digests, reading=self._reading)
        # They tell of all images, and may be large.
        self._indexes = cache(partial(podman.read_indexes, self._view))
        self._checks: Mapping[Kind, Callable[[str], Iterable[Damage]]] = {
            Kind.IMAGE: self._image,
            Kind.FLAT: self._flat,
            Kind.LAYER: self._layer,
            Kind.REPOSITORY: self._whole,
        }

    def find(self, thing: Thing) -> Iterator[Damage]:
        """What is not as it should be with a thing; what cannot be read is damaged, too."""
        try:
            with self._repository.reading():
                yield from self._checks[thing.kind](thing.key)
        except DuccmakeError as error:
            yield Damage(str(thing), f"cannot be read: {error.found}")
        except OSError as error:
            yield Damage(str(thing), f"cannot be read: {error.strerror}")

    # --- trees --------------------------------------------------------------

    def _flat(self, key: str) -> Iterator[Damage]:
        config = Digest.parse(key)
        tree, noted = self._layout.flat(config), self._layout.flat_record(config)
        if not self._view.is_dir(tree):
            yield Damage(str(tree), "is missing")
            return
        manifest, known = self._layout.flat_manifest(config), read_flat_tree(self._view, config)
        layers = known.layers if known and self._reading.apart else ()
        yield from self._compare(tree, manifest, layers=[*map(self._layout.layerfs, layers)])
        if known is None and self._view.is_file(manifest):
            yield Damage(str(noted), "is missing or damaged")

    def _layer(self, key: str) -> Iterator[Damage]:
        digest = Digest.parse(key)
        tree, manifest = self._layout.layerfs(digest), self._layout.layer_manifest(digest)
        if not self._view.is_dir(tree):
            yield Damage(str(tree), "is missing")
            return
        yield from self._compare(tree, manifest)
        if self._view.is_file(manifest) and measured_layer(self._view, digest) is None:
            what = "is missing, damaged, or of another layer"
            yield Damage(str(manifest.with_name("layers.json")), what)

    # --- what no image has for itself ---------------------------------------

    def _whole(self, name: str) -> Iterator[Damage]:
        yield from podman.index_damage(self._view)
        yield from self._repository.structure()
        known = {name for one in names_of(self._view) for name in (one, split_variant(one)[1])}
        for path in sorted(self._dangling - known):  # of others, their images say more
            yield Damage(path, "is a link that leads nowhere, and of no image")
        for link in bare_links(self._view):
            if str(link) not in self._dangling:
                yield Damage(str(link), "leads to a flat tree, and has no metadata")

    # --- images -------------------------------------------------------------

    def _image(self, name: str) -> Iterator[Damage]:
        try:
            path = self._layout.record(name)
        except InvalidReference as error:
            yield Damage(f".metadata/{name}", error.found)
            return
        record = self._repository.description(name)
        if record is None and self._view.exists(path):
            yield Damage(str(path), "is damaged, or of another image")
        elif record is None or UNMEASURED in record.losses:
            yield from self._left_by_ducc(name, record)
        else:
            yield from self._metadata(record)
            yield from self._links(record)
            yield from podman.differences(self._view, record, self._compare, self._indexes)

    def _left_by_ducc(self, name: str, record: ImageRecord | None) -> Iterator[Damage]:
        """What of an image that DUCC made can be told without a manifest of its trees."""
        at = str(self._layout.manifest(name).parent)
        products = record.products if record else (Product.LAYERS, Product.FLAT)
        for words in adoption.lacking(self._view, name, products):
            yield Damage(at, words)
        known = adoption.manifest(self._view, name)
        if known is not None and Product.FLAT in products:
            tree = self._layout.flat(known[0])
            if marker := adoption.stray_whiteout(self._view, tree):
                yield Damage(f"{tree}/{marker}", "is a whiteout's marker, as DUCC leaves them")

    def _metadata(self, record: ImageRecord) -> Iterator[Damage]:
        path = self._layout.manifest(record.name)
        if not self._view.is_file(path):
            yield Damage(str(path), "is missing")
            return
        content = self._view.read(path)
        wanted = record.manifest
        found = hashlib.new(wanted.algorithm, content).hexdigest()
        if found != wanted.hex:
            yield Damage(str(path), f"has the {wanted.algorithm} {found}, the record {wanted.hex}")
            return
        manifest = parse_manifest(content, algorithm=wanted.algorithm)
        if not isinstance(manifest, Manifest):
            yield Damage(str(path), "is no manifest of an image")
            return
        layers = tuple(layer.digest for layer in manifest.layers)
        if (record.config, record.layers) != (manifest.config.digest, layers):
            what = "its configuration or its layers are not those of the manifest"
            yield Damage(str(self._layout.record(record.name)), what)
            return
        yield from self._claims(record, manifest)

    def _claims(self, record: ImageRecord, manifest: Manifest) -> Iterator[Damage]:
        """What the image says of its layers, held to what they were found to be."""
        measure = self._measure
        if all(map(measure, record.layers)):  # else the layer itself is said to be damaged
            content = self._config(record.config)
            try:
                if record.verified:
                    check_sizes(manifest.layers, measure)
                    if content:
                        config = ImageConfig.parse(content, layers=len(record.layers))
                        check_diff_ids(record.layers, config.diff_ids, measure)
                elif finding := self._audit.find(record, content):
                    yield Damage(str(self._layout.record(record.name)), finding.why)
            except DigestMismatch as error:
                yield Damage(str(self._layout.manifest(record.name)), error.found)
        if Product.FLAT in record.products:
            tree = read_flat_tree(self._view, record.config)
            if tree is not None and not self._serves(tree.layers, record):
                path = str(self._layout.flat(record.config))
                yield Damage(path, "was made of other layers than its image has")

    def _serves(self, layers: Collection[Digest], record: ImageRecord) -> bool:
        """Whether a tree of these layers is the image's: they unpack to the same."""
        return len(layers) == len(record.layers) and all(
            one == other or self._unpack_alike(one, other)
            for one, other in zip(layers, record.layers, strict=True)
        )

    def _unpack_alike(self, one: Digest, other: Digest) -> bool:
        found, wanted = self._measure(one), self._measure(other)
        if found is None or wanted is None:
            return True  # nobody can tell; where the layer is the image's, it is damaged
        return not set(found.diff_ids).isdisjoint(wanted.diff_ids)

    def _links(self, record: ImageRecord) -> Iterator[Damage]:
        """The link of an image, and the public one where it is there for several platforms."""
        if Product.FLAT not in record.products:
            return
        link = self._layout.link(record.name)
        wanted = self._layout.link_target(record.name, record.config)
        if (target := self._view.target(link)) != wanted:
            yield Damage(
                str(link),
                f"the link leads to {target}, not to {wanted}" if target else "the link is missing",
            )
        label, public = split_variant(record.name)
        if not label or self._view.exists(self._layout.manifest(public)):
            return  # the public name is an image of its own
        shown = self._layout.link(public)
        if not self._view.target(shown):
            yield Damage(str(shown), "the link is missing")
        elif not self._repository.variant(public) or public in self._dangling:
            yield Damage(str(shown), "the link does not lead to the image of a platform")

    def _config(self, digest: Digest) -> bytes:
        content = self._configuration(digest)
        if content is None:
            content = podman.configuration(self._view, digest)
        return content if hashlib.new(digest.algorithm, content).hexdigest() == digest.hex else b""

    def _measure(self, digest: Digest) -> Measured | None:
        return measured_layer(self._view, digest)

    @cached_property
    def _audit(self) -> Audit:
        return Audit(self._view)

    @cached_property
    def _dangling(self) -> frozenset[str]:
        return frozenset(adoption.dangling_links(self._view))


def verify_image(repository: Readable, name: str, reading: Reading) -> Iterator[Damage]:
    """All that is not as it should be with an image and its trees."""
    verification = Verification(repository, reading)
    record = repository.description(name)
    for thing in (Thing(Kind.IMAGE, name), *(things_in(record) if record else ())):
        yield from verification.find(thing)
