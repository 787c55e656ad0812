"""The plan: what one run shall do, decided once and read by every job.

It is made while the workflow file is read, from the wish lists, what registries
answer and what the repositories hold, and written to one immutable,
content-addressed JSON file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.configuration import Config
from ..errors import Fault
from ..fs.files import write_atomically
from ..oci.reference import Digest
from ..repository.model import Keep
from ..workspace.results import PLANS, staged_flat_tree, staged_layer
from .model import Claim, Departure, PlannedImage, PlannedLayer, PlannedThin, Problem, State
from .outlook import Outlook
from .plan_json import (
    digests_from_json,
    digests_to_json,
    image_from_json,
    image_to_json,
    layer_from_json,
    layer_to_json,
    outlook_from_json,
)

UNPACKED_PER_BLOB = 3
"""How much larger a layer is unpacked, at a guess."""


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
    layers that earlier versions put other images' files into.  ``outlook`` is what it comes to.

    A part of a plan has the images of one DAG of Snakemake alone (`.parts`): ``whole`` is the
    file of the plan then, and ``ambiguous`` what has several meanings there: beginnings of
    digests, and configurations.
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
    outlook: Outlook = field(default_factory=Outlook)
    ambiguous: frozenset[str] = frozenset()
    whole: str = ""

    # --- what the rules ask ---------------------------------------------

    @cached_property
    def wanted(self) -> tuple[PlannedImage, ...]:
        """The images that the run is about: pending ones, or with ``scope: all`` all."""
        return tuple(image for image in self.images if self.wants(image))

    def wants(self, image: PlannedImage) -> bool:
        """Whether the run is about an image."""
        return image.state == State.PENDING or self.scope == "all"

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

    def blob_bytes(self, key: str) -> int:
        """The size of the blob of the layer ``key``, at the largest that an image says."""
        return max(claim.layer.descriptor.size for claim in self._by_layer[key])

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

    def in_full(self) -> Plan:
        """The plan that this is a part of."""
        return Plan.load(Path(self.whole)) if self.whole else self

    @cached_property
    def to_fetch(self) -> dict[Digest, int]:
        """The layers of pending images that no repository has, with the sizes of their blobs."""
        return {
            layer.digest: layer.descriptor.size
            for image in self.images
            if image.state == State.PENDING
            for layer in image.layers
            if layer.digest in self.missing.get(image.repository, frozenset())
        }

    def problem(self, number: int) -> Problem:
        """The first problem of that number."""
        return next(problem for problem in self.problems if problem.number == number)

    def staged_paths(self, repository: str) -> Mapping[str, Path]:
        """Where each wanted layer of a repository is when it is staged, by digest."""
        return self._staged_paths[repository]

    def flat_paths(self, repository: str) -> Mapping[str, Path]:
        """Where each wanted flat tree of a repository is when it is staged, by `tree` digest."""
        return self._flat_paths[repository]

    def index(self) -> None:
        """Make at once what jobs look up, for those that are forked from this process."""
        self._staged_paths, self._flat_paths, self._by_name, self._thin_by_name  # noqa: B018
        self._by_tree, self._by_layer  # noqa: B018

    @cached_property
    def _staged_paths(self) -> Mapping[str, Mapping[str, Path]]:
        found: dict[str, dict[str, Path]] = {}
        for image in self.wanted:
            paths = found.setdefault(image.repository, {})
            for digest in {layer.digest for layer in image.layers}:
                if (name := str(digest)) not in paths:
                    paths[name] = staged_layer(image.repository, self.key(digest))
        return found

    @cached_property
    def _flat_paths(self) -> Mapping[str, Mapping[str, Path]]:
        found: dict[str, dict[str, Path]] = {}
        for image in self.wanted:
            path = staged_flat_tree(image.repository, self.flat_key(image))
            found.setdefault(image.repository, {})[str(image.tree)] = path
        return found

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
        config = self.config_in(Path())
        limits = config.repository.batch
        blobs = config.limits.staging_bytes // 2 // UNPACKED_PER_BLOB
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

    def flat_key(self, image: PlannedImage) -> str:
        """What the image's flat tree goes by: its configuration, unless others claim that too.

        Images that have one configuration over different layers cannot all be right.  A
        tree with other permissions is another tree, in this run or left by one before.
        """
        one = str(image.config) not in self.clashes and not image.fix_permissions
        return self.key(image.config if one else image.tree)

    def key(self, digest: Digest) -> str:
        """The digest in twelve digits, or whole where the plan has two that begin alike."""
        return digest.hex if digest.short in self.clashes else digest.short

    @cached_property
    def clashes(self) -> frozenset[str]:
        """What is ambiguous: in the plan, and in the whole where it is a part."""
        seen: dict[str, Digest] = {}
        trees: dict[Digest, Digest] = {}
        found = set(self.ambiguous)
        for image in self.images:
            tree = image.tree
            layers = (layer.digest for layer in image.layers)
            for digest in (image.manifest, image.config, tree, *layers):
                if seen.setdefault(digest.short, digest) != digest:
                    found.add(digest.short)
            if self.wants(image) and trees.setdefault(image.config, tree) != tree:
                found.add(str(image.config))
        return frozenset(found)

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
            found.setdefault((image.repository, self.flat_key(image)), []).append(image)
        return found

    @cached_property
    def _by_layer(self) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {}
        for image in self.wanted:
            for layer in image.layers:
                found.setdefault(self.key(layer.digest), []).append(Claim(layer, image))
        return found

    # --- as a file ------------------------------------------------------

    def save(self, directory: Path = PLANS) -> Path:
        """Write the plan under its own digest; returns its path, which is the newest then."""
        content = json.dumps(self._to_json(), sort_keys=True).encode()
        path = directory / f"{hashlib.sha256(content).hexdigest()}.json"
        try:
            os.utime(path)
        except FileNotFoundError:
            write_atomically(path, content)
        return path

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan that `save` wrote."""
        members = json.loads(path.read_bytes())
        layers = [layer_from_json(entry) for entry in members["layers"]]
        return cls(
            images=tuple(image_from_json(entry, layers) for entry in members["images"]),
            problems=tuple(
                Problem(**{**entry, "fault": Fault(entry["fault"])})
                for entry in members["problems"]
            ),
            missing=digests_from_json(members["missing"]),
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
            altered=digests_from_json(members["altered"]),
            outlook=outlook_from_json(members["outlook"]),
            ambiguous=frozenset(members["ambiguous"]),
            whole=members["whole"],
        )

    def _to_json(self) -> dict[str, Any]:
        # An image's layers are mostly its neighbours' too: each is written once.
        numbers: dict[PlannedLayer, int] = {}
        for image in self.images:
            for layer in image.layers if self.wants(image) else ():
                numbers.setdefault(layer, len(numbers))
        return {
            "layers": [layer_to_json(layer) for layer in numbers],
            "images": [image_to_json(image, numbers) for image in self.images],
            "problems": [asdict(problem) for problem in self.problems],
            "missing": digests_to_json(self.missing),
            "warnings": list(self.warnings),
            "scope": self.scope,
            "members": self.members,
            "in_force": list(self.in_force),
            "departures": [asdict(departure) for departure in self.departures],
            "thins": [asdict(thin) for thin in self.thins],
            "unplanned": list(self.unplanned),
            "refused": [asdict(departure) for departure in self.refused],
            "altered": digests_to_json(self.altered),
            "outlook": asdict(self.outlook),
            "ambiguous": sorted(self.ambiguous),
            "whole": self.whole,
        }

    def config_in(self, workdir: Path) -> Config:
        """The configuration that the plan was made with."""
        return Config.of_plain(self.members, workdir=workdir)


def adopting(plan: Plan) -> list[PlannedImage]:
    """The images that a run takes over from DUCC as they stand."""
    return [image for image in plan.images if image.adopted]


def keeping(plan: Plan, config: Config, repository: str) -> Keep:
    """What becomes of what tags of a repository stood for before."""
    wished = [(image.repository, image.name) for image in plan.images]
    names = (name for where, name in (*wished, *plan.unplanned) if where == repository)
    return Keep(config.history.keep, frozenset(names))


def repositories(plan: Plan) -> list[str]:
    """The names of the repositories that the wish lists are about."""
    return sorted(plan.missing)
