"""A plan in parts, each of which one DAG of Snakemake's goes through.

A DAG costs time and memory for each layer of each image before its first job runs, and each
job reads the plan: so it has no more images than are done in some minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..config.configuration import Config
from ..oci.reference import Digest
from ..repository.open import open_repository
from .model import PlannedImage, PlannedThin
from .outlook import Outlook
from .pending import is_prepared, missing_layers
from .plan import Plan


def slices(plan: Plan, limit: int) -> list[tuple[PlannedImage, ...]]:
    """The wanted images in parts of ``limit`` (0: one part), those first that wait longest."""
    wanted = sorted(plan.wanted, key=lambda image: image.since or float("inf"))
    size = limit or max(1, len(wanted))
    return [tuple(wanted[at : at + size]) for at in range(0, len(wanted), size)] or [()]


def part(plan: Plan, file: Path, number: int, limit: int, config: Config) -> Plan:
    """Part ``number`` of a plan that was saved as ``file``, by what repositories have by now.

    Problems are in the first part, a thin image is in the last that has an image of it.  The
    names of all other images are among those that are ``unplanned``.
    """
    each = slices(plan, limit)
    thins = tuple(_thins(plan, each, number))
    needed = {(thin.repository, name) for thin in thins for name in thin.images}
    chosen = {(image.repository, image.name): image for image in each[number]}
    others = [(image.repository, image.name) for image in plan.images]
    beside = (plan.image(*place) for place in needed if place not in chosen)
    images = each[number]
    missing = {
        name: digests & {layer.digest for image in images for layer in image.layers}
        for name, digests in plan.missing.items()
    }
    if number:
        images = tuple(_as_they_are_now(images, plan, config))
        missing = {name: _missing(name, images, config) for name in plan.missing}
    return replace(
        plan,
        images=(*images, *(image for image in beside if not plan.wants(image))),
        problems=plan.problems if number == 0 else (),
        missing=missing,
        thins=thins,
        unplanned=(*plan.unplanned, *(place for place in others if place not in chosen)),
        departures=(),
        refused=(),
        altered={},
        outlook=Outlook(),
        ambiguous=plan.clashes,
        whole=str(file),
    )


def _thins(
    plan: Plan, each: Sequence[Sequence[PlannedImage]], number: int
) -> Iterator[PlannedThin]:
    places = {
        (image.repository, image.name): place
        for place, images in enumerate(each)
        for image in images
    }
    for thin in plan.thins:
        if max(places.get((thin.repository, name), 0) for name in thin.images) == number:
            yield thin


def _as_they_are_now(
    images: Sequence[PlannedImage], plan: Plan, config: Config
) -> Iterator[PlannedImage]:
    """The images, of which parts before may have published all but the names."""
    names = {image.repository for image in images}
    repositories = {name: open_repository(config.repository, name) for name in names}
    for image in images:
        repository = repositories[image.repository]
        fresh = plan.scope == "all" or bool(image.anew)
        if fresh or image.prepared or not is_prepared(image, repository):
            yield image
        else:
            yield replace(image, prepared=True)


def _missing(name: str, images: Sequence[PlannedImage], config: Config) -> frozenset[Digest]:
    mine = [image for image in images if image.repository == name]
    return missing_layers(mine, open_repository(config.repository, name)) if mine else frozenset()
