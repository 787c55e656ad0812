"""Runs without Snakemake: images of a registry published, verified and mended, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from duccmake.config.configuration import Config
from duccmake.config.schema import as_plain
from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError
from duccmake.fs.files import remove_tree
from duccmake.jobs.fetch_blob import fetch_layer
from duccmake.jobs.flatten_image import stage_flat_tree
from duccmake.jobs.publish_image import learn, publish_ready
from duccmake.jobs.verify import conclude
from duccmake.jobs.verify_part import Pace, verify_part
from duccmake.layer.unpack import unpack_layer
from duccmake.planning.model import PlannedImage
from duccmake.planning.plan import Plan, keeping
from duccmake.planning.planner import make_plan
from duccmake.planning.repairs import plan_repairs
from duccmake.planning.verdict import Found
from duccmake.registry.client import Client
from duccmake.repository.open import open_repository, open_staging
from duccmake.repository.protocol import Repository
from duccmake.run.maintenance import verification
from duccmake.run.mending import after_repair
from duccmake.workspace.results import content_store, known_content, staged
from support.images import push
from support.registry import FullRegistry

REPOSITORY = "unpacked.example.org"


class Site:
    """A wish list for all of ``registry``'s ``team/app``, published below the working directory."""

    def __init__(
        self, registry: FullRegistry, name: str = REPOSITORY, **settings: Mapping[str, Any]
    ) -> None:
        self.registry = registry
        self.name = name
        wishes = {
            "version": 1,
            "user": "tests",
            "cvmfs_repo": name,
            "input": [f"http://{registry.host}/team/app:*"],
        }
        Path("recipe.yaml").write_text(yaml.safe_dump(wishes))
        self.members: dict[str, Any] = {
            "recipe": "recipe.yaml",
            "repository": {"root": "root"},
            "products": ["layers", "flat", "podman"],
            "thin": {"push": "never"},
            "flat": {"mount_points": ["/cvmfs"]},
            **settings,
        }

    def config(self, **more: Any) -> Config:
        """The configuration, as a command line adds to it."""
        return Config.parse({**self.members, **more}, workdir=Path.cwd())

    def named(self, tag: str) -> str:
        """An image's name in the repository."""
        return f"{self.registry.host}/team/app:{tag}"

    @property
    def repository(self) -> Repository:
        """The repository as it is now."""
        return open_repository(self.config().repository, self.name)

    def publish(self, images: Mapping[str, Image]) -> None:
        """Push images by their tags, and publish them."""
        for tag, image in images.items():
            push(image, self.registry.host, "team/app", tag)
        failures = self._carry_out(self._plan())
        assert not failures, failures

    def verify(self, **asked: Any) -> list[Found]:
        """What is damaged, as ``snakemake verify`` finds it."""
        config = self.config(**asked)
        seed, parts = verification(self._plan(), config, keep=True)
        for part in parts:
            verify_part(part, self.repository, content_store(), Pace(0))
        [(_, found)] = conclude([part.output for part in parts], config, seed)
        return found

    def repair(self, **asked: Any) -> list[str]:
        """Mend it, as ``snakemake repair`` does; returns what could not be, in lines."""
        config = self.config(**asked)
        plan = plan_repairs(self._plan(), config)
        failures = [problem.reason for problem in plan.problems]
        failures += self._carry_out(plan)
        still = after_repair(plan, config, [])
        return failures + [f"{item.title}: {item.remark}" for item in still]

    def planned(self, **asked: Any) -> Plan:
        """What would be made anew."""
        return plan_repairs(self._plan(), self.config(**asked))

    def _plan(self) -> Plan:
        return make_plan(self.config(), as_plain(self.members))

    def _carry_out(self, plan: Plan) -> list[str]:
        """The jobs of a run; what failed."""
        failures = []
        keys = {key for image in plan.wanted for key in plan.staged_layers(image)}
        with Client(self.config().registries, tries=1) as client:
            for key in sorted(keys):
                try:
                    self._unpack(plan, key, client)
                except DuccmakeError as error:
                    failures.append(str(error))
        # All is staged first, so that few commits take all of it along.
        for step in (self._flatten, self._publish):
            for image in plan.wanted:
                try:
                    step(plan, image)
                except DuccmakeError as error:
                    failures.append(str(error.within(image=image.title)))
        for path in list(staged()):
            remove_tree(path)
        return failures

    def _unpack(self, plan: Plan, key: str, client: Client) -> None:
        blob = Path("results/blobs") / key
        blob.parent.mkdir(parents=True, exist_ok=True)
        fetch_layer(plan.claims(key), client, blob)
        digest = plan.layer_digest(key)
        staging = open_staging(self.config().repository, self.name)
        unpack_layer(
            blob,
            plan.staged_paths(self.name)[str(digest)].parent,
            digest=digest,
            diff_algorithms=plan.diff_algorithms(key),
            catalogs=staging.layer(digest, known_content(self.name)) if staging else None,
            split=True,
        )
        blob.unlink()

    def _flatten(self, plan: Plan, image: PlannedImage) -> None:
        config = self.config()
        flat = plan.flat_paths(self.name)[str(image.tree)]
        if not image.prepared and not flat.exists():
            stage_flat_tree(
                image,
                self.repository,
                content_store(),
                flat.parent,
                staged=plan.staged_paths(self.name),
                mount_points=config.flat.mount_points,
                staging=open_staging(config.repository, self.name),
            )

    def _publish(self, plan: Plan, image: PlannedImage) -> None:
        config = self.config()
        publish_ready(
            image,
            plan.wanted,
            self.repository,
            layers=plan.staged_paths(self.name),
            flats=plan.flat_paths(self.name),
            store=content_store(),
            keep=keeping(plan, config, self.name),
        )
        learn(config.repository, self.name, known_content(self.name))
