"""The plan: what one run shall do, decided once and read by every job.

It is made while the workflow file is read, from the wish lists, what registries
answer and what the repositories hold, and written to one immutable,
content-addressed JSON file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..fs.files import ContentStore, write_atomically
from ..oci.manifest import Descriptor
from ..oci.reference import Digest, Platform, Reference
from ..products import IN_REPOSITORY, PODMAN
from ..repository.model import ANY_VARIANT, RECORD_FORMAT, UNMEASURED, ImageRecord, Keep, Repository

RESULTS = Path("results")
"""What the workflow keeps below its working directory."""

LIMITS = RESULTS / "limits"
"""Where jobs that run at the same time share the limits of each registry."""

SOURCES = RESULTS / "sources"
"""Where wish lists from elsewhere are kept."""

_UNPACKED_PER_BLOB = 3
"""How much larger a layer is unpacked, at a guess."""

PENDING, PUBLISHED = "pending", "published"


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A layer of a planned image, as that says: its blob and what that unpacks to."""

    descriptor: Descriptor
    diff_id: Digest

    @property
    def digest(self) -> Digest:
        """The blob's digest, under which the layer is published."""
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image of the wish list: what it is, where it comes from, whether it is published.

    ``variants`` are the labels of all platforms that it is wished for on, in the
    wish's order, where they are several: each is an image of its own.  ``why`` says
    in words why it is pending, or what keeps it from being newer.  What nothing is
    to be done for has no ``layers``.  ``source`` is the wish list, as `ImageRecord`
    has it.  ``prepared``: the repository has the layers and the flat tree as they are
    wished, only names or further products are to be made of them.  ``adopted``: so it
    has, from DUCC.  ``anew``: what DUCC made of it is not good enough.  ``fault``: what
    is wrong with it as an earlier version published it.
    """

    repository: str
    reference: Reference
    platform: Platform
    manifest: Digest
    config: Digest
    layers: tuple[PlannedLayer, ...]
    state: str
    why: str
    ignorable: bool
    products: tuple[str, ...] = ("layers", "flat")
    variants: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    prepared: bool = False
    adopted: bool = False
    anew: bool = False
    fault: str = ""

    @property
    def name(self) -> str:
        """The image's path in the repository."""
        return self.reference.name_on(self.platform) if self.variants else self.reference.name

    @property
    def tree(self) -> Digest:
        """What its flat tree is made of, as one digest: the configuration over these layers."""
        parts = (self.config, *(layer.digest for layer in self.layers))
        return Digest("sha256", hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest())

    @property
    def title(self) -> str:
        """The image for people: its name in the wish list, and the platform of several."""
        return _title(self.reference.name, str(self.platform) if self.variants else "")


@dataclass(frozen=True, slots=True)
class Claim:
    """What an image says of a layer; another image may say something else of the same blob."""

    layer: PlannedLayer
    image: PlannedImage


@dataclass(frozen=True, slots=True)
class Problem:
    """A wish that cannot be followed; those with one reason have one ``number``.

    ``platform`` is the one of several that cannot be had.
    """

    repository: str
    name: str
    reason: str
    ignorable: bool
    number: int
    platform: str = ""

    @property
    def title(self) -> str:
        """The image for people."""
        return _title(self.name, self.platform)


def _title(name: str, platform: str) -> str:
    return f"{name} ({platform})" if platform else name


@dataclass(frozen=True, slots=True)
class Departure:
    """An image that leaves; only the ``manifest`` that was seen then is meant."""

    repository: str
    name: str
    manifest: str
    why: str


@dataclass(frozen=True, slots=True)
class PlannedThin:
    """A thin image to be pushed as ``target``, of the images with these paths.

    ``key`` stands for all that it is made of, ``user`` is the recipe's account where
    that is the one to push with.  ``why`` says in words why it is pushed.
    """

    repository: str
    name: str
    target: str
    key: str
    images: tuple[str, ...]
    user: str
    ignorable: bool
    why: str

    @property
    def output(self) -> Path:
        """The file with its manifest, which is there when it is pushed."""
        return RESULTS / "thin" / self.repository / self.name / f"{self.key}.thin.json"

    @property
    def several(self) -> bool:
        """Whether it is a list of platforms."""
        return self.images[0] != self.name


@dataclass(frozen=True)
class Plan:
    """All that is wished for, with what is to be done; ``members`` is the plain configuration.

    ``missing`` names, by repository, the layers that are not published yet.
    ``in_force`` has lines that say which version of a fetched wish list is in force.
    ``departures`` are the images that are not wished for any more, ``thins`` the
    thin images to be pushed.  ``unplanned`` are wished for and not among the images,
    since their registries could not say what they are: repository and path.  ``refused``
    are published and not what they say, and nothing mends them: they are taken away, but
    those without a manifest only out of podman's store.  ``altered`` are, by repository,
    layers that earlier versions put other images' files into.
    """

    images: tuple[PlannedImage, ...]
    problems: tuple[Problem, ...]
    missing: Mapping[str, frozenset[Digest]]
    warnings: tuple[str, ...]
    scope: str
    members: Mapping[str, Any]
    in_force: tuple[str, ...] = ()
    departures: tuple[Departure, ...] = ()
    thins: tuple[PlannedThin, ...] = ()
    unplanned: tuple[tuple[str, str], ...] = ()
    refused: tuple[Departure, ...] = ()
    altered: Mapping[str, frozenset[Digest]] = field(default_factory=dict)

    # --- what the rules ask ---------------------------------------------

    @cached_property
    def wanted(self) -> tuple[PlannedImage, ...]:
        """The images that the run is about: pending ones, or with ``scope: all`` all."""
        return tuple(image for image in self.images if self.wants(image))

    def wants(self, image: PlannedImage) -> bool:
        """Whether the run is about an image."""
        return image.state == PENDING or self.scope == "all"

    def image(self, repository: str, name: str) -> PlannedImage:
        """The image that has that path in the repository."""
        return self._by_name[repository, name]

    def thin(self, repository: str, name: str) -> PlannedThin:
        """The thin image of the image of that name."""
        return self._thin_by_name[repository, name]

    def with_tree(self, repository: str, key: str) -> list[PlannedImage]:
        """The wanted images that share the flat tree ``key``: one configuration and its layers."""
        return self._by_tree[repository, key]

    def layer_digest(self, key: str) -> Digest:
        """The digest of the layer that goes by ``key``."""
        return self._by_layer[key][0].layer.digest

    def claims(self, key: str) -> list[Claim]:
        """What the wanted images say of the layer ``key``, each image's own word."""
        return self._by_layer[key]

    def diff_algorithms(self, key: str) -> list[str]:
        """The algorithms by which what the layer ``key`` unpacks to has to be measured."""
        claimed = {claim.layer.diff_id.algorithm for claim in self._by_layer[key]}
        return sorted({"sha256", *claimed})

    def sources(self, key: str) -> list[PlannedImage]:
        """The wanted images that have the layer ``key``."""
        return list(
            {
                (claim.image.repository, claim.image.name): claim.image
                for claim in self._by_layer[key]
            }.values()
        )

    def problem(self, number: int) -> Problem:
        """The first problem of that number."""
        return next(problem for problem in self.problems if problem.number == number)

    def staged_paths(self, repository: str) -> dict[str, Path]:
        """Where each wanted layer of a repository is when it is staged, by digest."""
        base = RESULTS / repository / "layers"
        return {
            str(layer.digest): base / self.key(layer.digest) / "layer"
            for image in self.wanted
            if image.repository == repository
            for layer in image.layers
        }

    def flat_paths(self, repository: str) -> dict[str, Path]:
        """Where each wanted flat tree of a repository is when it is staged, by `tree` digest."""
        base = RESULTS / repository / "flat"
        return {
            str(image.tree): base / self.key(image.tree) / "image"
            for image in self.wanted
            if image.repository == repository
        }

    def staged_layers(self, image: PlannedImage) -> list[str]:
        """Keys of the image's layers that are to be staged, lowest first, each once."""
        if image.prepared:
            return []
        missing = self.missing.get(image.repository, frozenset())
        digests = dict.fromkeys(layer.digest for layer in image.layers)
        return [self.key(digest) for digest in digests if digest in missing or self.scope == "all"]

    def gate(self, layer: str) -> int:
        """Which gate the layer ``layer`` (a key) waits behind; 0 is none.

        Images come in turn, as many behind a gate as one commit takes, so that the
        first are published while the last are still to be fetched.
        """
        return self._gates.get(layer, 0)

    @cached_property
    def _gates(self) -> dict[str, int]:
        limits = self.config_in(Path.cwd()).repository.batch
        blobs = limits.bytes // _UNPACKED_PER_BLOB
        gates: dict[str, int] = {}
        gate = images = size = 0
        for image in self.wanted:
            to_stage = set(self.staged_layers(image))
            new = {
                key: layer.descriptor.size
                for layer in image.layers
                if (key := self.key(layer.digest)) in to_stage and key not in gates
            }
            added = sum(new.values())
            if images and (
                (limits.images and images >= limits.images) or (blobs and size + added > blobs)
            ):
                gate, images, size = gate + 1, 0, 0
            images, size = images + 1, size + added
            gates.update(dict.fromkeys(new, gate))
        return gates

    def key(self, digest: Digest) -> str:
        """The digest in twelve digits, or whole where the plan has two that begin alike."""
        return digest.hex if digest.short in self._ambiguous else digest.short

    @cached_property
    def _ambiguous(self) -> frozenset[str]:
        seen: dict[str, Digest] = {}
        clashes = set()
        for image in self.images:
            for digest in (image.manifest, image.tree, *(layer.digest for layer in image.layers)):
                if seen.setdefault(digest.short, digest) != digest:
                    clashes.add(digest.short)
        return frozenset(clashes)

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], PlannedImage]:
        return {(image.repository, image.name): image for image in self.images}

    @cached_property
    def _thin_by_name(self) -> dict[tuple[str, str], PlannedThin]:
        return {(thin.repository, thin.name): thin for thin in self.thins}

    @cached_property
    def _by_tree(self) -> dict[tuple[str, str], list[PlannedImage]]:
        found: dict[tuple[str, str], list[PlannedImage]] = {}
        for image in self.wanted:
            found.setdefault((image.repository, self.key(image.tree)), []).append(image)
        return found

    @cached_property
    def _by_layer(self) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {}
        for image in self.wanted:
            for layer in image.layers:
                found.setdefault(self.key(layer.digest), []).append(Claim(layer, image))
        return found

    # --- as a file ------------------------------------------------------

    def save(self) -> Path:
        """Write the plan under its own digest, unless it is there; returns its path."""
        content = json.dumps(self._to_json(), sort_keys=True).encode()
        path = RESULTS / "plans" / f"{hashlib.sha256(content).hexdigest()}.json"
        if not path.exists():
            write_atomically(path, content)
        return path

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan that `save` wrote."""
        members = json.loads(path.read_bytes())
        layers = [_layer_from_json(entry) for entry in members["layers"]]
        return cls(
            images=tuple(_image_from_json(entry, layers) for entry in members["images"]),
            problems=tuple(Problem(**entry) for entry in members["problems"]),
            missing=_digests_from_json(members["missing"]),
            warnings=tuple(members["warnings"]),
            scope=members["scope"],
            members=members["members"],
            in_force=tuple(members["in_force"]),
            departures=tuple(Departure(**entry) for entry in members["departures"]),
            thins=tuple(
                PlannedThin(**{**entry, "images": tuple(entry["images"])})
                for entry in members["thins"]
            ),
            unplanned=tuple((repository, path) for repository, path in members["unplanned"]),
            refused=tuple(Departure(**entry) for entry in members["refused"]),
            altered=_digests_from_json(members["altered"]),
        )

    def _to_json(self) -> dict[str, Any]:
        # An image's layers are mostly its neighbours' too: each is written once.
        numbers: dict[PlannedLayer, int] = {}
        for image in self.images:
            for layer in image.layers if self.wants(image) else ():
                numbers.setdefault(layer, len(numbers))
        return {
            "layers": [_layer_to_json(layer) for layer in numbers],
            "images": [_image_to_json(image, numbers) for image in self.images],
            "problems": [asdict(problem) for problem in self.problems],
            "missing": _digests_to_json(self.missing),
            "warnings": list(self.warnings),
            "scope": self.scope,
            "members": self.members,
            "in_force": list(self.in_force),
            "departures": [asdict(departure) for departure in self.departures],
            "thins": [asdict(thin) for thin in self.thins],
            "unplanned": list(self.unplanned),
            "refused": [asdict(departure) for departure in self.refused],
            "altered": _digests_to_json(self.altered),
        }

    def config_in(self, workdir: Path) -> Config:
        """The configuration that the plan was made with."""
        return Config.of_plain(self.members, workdir=workdir)


def _digests_to_json(digests: Mapping[str, Iterable[Digest]]) -> dict[str, list[str]]:
    return {name: sorted(map(str, found)) for name, found in digests.items()}


def _digests_from_json(members: Mapping[str, Iterable[str]]) -> dict[str, frozenset[Digest]]:
    return {
        repository: frozenset(map(Digest.parse, found)) for repository, found in members.items()
    }


def _layer_to_json(layer: PlannedLayer) -> list[Any]:
    descriptor = layer.descriptor
    return [
        descriptor.media_type,
        str(descriptor.digest),
        descriptor.size,
        list(descriptor.urls),
        str(layer.diff_id),
    ]


def _layer_from_json(entry: Sequence[Any]) -> PlannedLayer:
    media_type, digest, size, urls, diff_id = entry
    descriptor = Descriptor(media_type, Digest.parse(digest), size, tuple(urls))
    return PlannedLayer(descriptor, Digest.parse(diff_id))


def _image_to_json(image: PlannedImage, numbers: Mapping[PlannedLayer, int]) -> dict[str, Any]:
    return {
        "repository": image.repository,
        "reference": str(image.reference),
        "platform": str(image.platform),
        "manifest": str(image.manifest),
        "config": str(image.config),
        "layers": [numbers[layer] for layer in image.layers if layer in numbers],
        "state": image.state,
        "why": image.why,
        "ignorable": image.ignorable,
        "products": list(image.products),
        "variants": list(image.variants),
        "source": dict(image.source),
        "prepared": image.prepared,
        "adopted": image.adopted,
        "anew": image.anew,
        "fault": image.fault,
    }


def _image_from_json(entry: Mapping[str, Any], layers: Sequence[PlannedLayer]) -> PlannedImage:
    return PlannedImage(
        repository=entry["repository"],
        reference=Reference.parse(entry["reference"]),
        platform=Platform.parse(entry["platform"]),
        manifest=Digest.parse(entry["manifest"]),
        config=Digest.parse(entry["config"]),
        layers=tuple(layers[number] for number in entry["layers"]),
        state=entry["state"],
        why=entry["why"],
        ignorable=entry["ignorable"],
        products=tuple(entry["products"]),
        variants=tuple(entry["variants"]),
        source=entry["source"],
        prepared=entry["prepared"],
        adopted=entry["adopted"],
        anew=entry["anew"],
        fault=entry["fault"],
    )


def adopting(plan: Plan) -> list[PlannedImage]:
    """The images that a run takes over from DUCC as they stand."""
    return [image for image in plan.images if image.adopted]


def open_repository(config: Config, name: str) -> Repository:
    """The repository of that name, in the backend of the configuration."""
    settings = config.repository
    # Jobs that fetch or unpack need none of them.
    if settings.backend == "cvmfs":
        from ..repository.cvmfs.backend import CvmfsRepository

        return CvmfsRepository(
            name,
            mounts=settings.mounts,
            server_config=settings.server_config,
            state=settings.state / name if settings.state else None,
            prefix=settings.prefix,
            lock_seconds=settings.lock_seconds,
            clients_root=settings.clients_root,
        )
    from ..repository.directory.backend import DirectoryRepository

    return DirectoryRepository(
        settings.root,
        name,
        flat=settings.flat,
        lock_seconds=settings.lock_seconds,
        clients_root=settings.clients_root,
    )


def keeping(plan: Plan, config: Config, repository: str) -> Keep:
    """What becomes of what tags of a repository stood for before."""
    wished = [(image.repository, image.name) for image in plan.images]
    names = (name for where, name in (*wished, *plan.unplanned) if where == repository)
    return Keep(config.history.keep, frozenset(names))


def content_store() -> ContentStore:
    """Where manifests and configurations are kept between runs."""
    return ContentStore(RESULTS / "manifests")


def why_pending(image: PlannedImage, repository: Repository, record: ImageRecord | None) -> str:
    """Why an image has to be published; empty where the repository has it as wished.

    ``record`` is what the repository says of it.
    """
    if record is None:
        return "new: not in the repository, or not wholly"
    if image.fault and not record.verified:
        return f"published wrong by an earlier version: {image.fault}"
    if record.manifest != image.manifest:
        return f"moved: {record.manifest.short} is published, {image.manifest.short} is wished for"
    if record.platform != image.platform:
        return f"another platform: {record.platform} is published, {image.platform} is wished for"
    # DUCC's layers were not measured, and podman's store goes by what was.
    without = PODMAN if UNMEASURED in record.losses else ""
    wished = [one for one in image.products if one in IN_REPOSITORY and one != without]
    if lacking := [product for product in wished if product not in record.products]:
        return f"published without {', '.join(lacking)}"
    if record.format < RECORD_FORMAT:
        return f"published in the old format {record.format}"
    if image.anew and UNMEASURED in record.losses:
        return "adopted from DUCC, and to be converted now"
    return _why_hidden(image, repository)


def _why_hidden(image: PlannedImage, repository: Repository) -> str:
    """Why the public name of an image of several platforms does not lead where it should."""
    if not image.variants or "flat" not in image.products:
        return ""
    leads_to, own = repository.variant(image.reference.name), image.platform.label
    if leads_to in (ANY_VARIANT, *image.variants[: image.variants.index(own) + 1]):
        return ""
    return f"its public name leads to {leads_to or 'one platform alone'} instead"
