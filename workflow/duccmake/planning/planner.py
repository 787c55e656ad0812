"""Making a plan: wish lists, what registries answer, and what the repositories hold."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config.configuration import Config
from ..errors import DuccmakeError
from ..oci.reference import Digest
from ..recipe.coverage import Coverage
from ..recipe.sources.load import Loaded, Origin, load_sources
from ..registry.any_source import AnySource
from ..registry.client import Client
from ..registry.http.credentials import Credentials
from ..repository.model import UNMEASURED
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..workspace.results import RESULTS, SOURCES, content_store
from .adoption import StrayWhiteouts, can_adopt
from .auditor import Auditor
from .departures import Listings
from .model import PENDING, PUBLISHED, Departure, PlannedImage, PlannedLayer, Problem
from .pending import why_pending
from .plan import Plan
from .poll_memory import PollMemory
from .reconcile import Reconciliation
from .resolver import Resolved, Resolver, Unresolved
from .thin_images import plan_thins
from .unused_registries import unused_registries

POLL_TRIES = 3
POLL_SECONDS = 30.0
POLL_CONNECT_SECONDS = 4.0
"""Polls are less patient than downloads: somebody waits for them, and what is
known of an image stays in force when its registry does not answer."""


def make_plan(config: Config, members: Mapping[str, Any], *, poll: bool = True) -> Plan:
    """Resolve all wish lists and compare them with the repositories.

    Writes only what is remembered of the registries' answers.
    Without ``poll`` nothing is asked and the plan is empty.  Raises `RecipeError`
    where a wish list is unusable as a whole.
    """
    loaded = load_sources(config.recipe, SOURCES, fetch=poll and not config.resolve.only)
    recipes = loaded.recipes if poll else ()
    repositories = {
        recipe.repository: open_repository(config.repository, recipe.repository)
        for recipe in recipes
    }
    images: list[PlannedImage] = []
    problems: list[Problem] = []
    warnings = [*loaded.warnings]
    warnings += [warning for recipe in loaded.recipes for warning in recipe.warnings]
    missing: dict[str, frozenset[Digest]] = {}
    unplanned: list[tuple[str, str]] = []
    refused: list[Departure] = []
    altered: dict[str, frozenset[Digest]] = {}
    with _client(config, {}) as client:
        memory = PollMemory(RESULTS / "polls.json")
        resolver = Resolver(
            client,
            memory,
            content_store(),
            max_age=config.resolve.max_age,
            connections=config.resolve.connections,
            only=config.resolve.only,
        )
        resolutions = resolver.resolve(
            recipes,
            config.platforms,
            is_published=lambda recipe, path: (
                repositories[recipe.repository].record(path) is not None
            ),
        )
        reconciliations = [
            Reconciliation.of(recipe, resolution, repositories[recipe.repository], config)
            for recipe, resolution in zip(recipes, resolutions, strict=True)
        ]
        answered = (item for found in resolutions for item in found.resolved if not item.stale)
        listings = Listings(AnySource(client), (item.reference for item in answered))
        leavings = [
            reconciliation.leaving(listings, memory)
            for reconciliation in reconciliations
            if not config.resolve.only  # who asks for some images says nothing of the others
        ]
        memory.save()
    if poll and not loaded.problems:
        warnings += unused_registries(config, recipes)
    warnings += resolver.warnings
    warnings += [warning for found in leavings for warning in found.warnings]
    numbers: dict[str, int] = {}
    for source, reason in loaded.problems if poll else ():
        number = numbers.setdefault(reason, len(numbers) + 1)
        problems.append(Problem("", source, f"{source}: {reason}", False, number))
    for reconciliation in reconciliations:
        repository, resolution = reconciliation.repository, reconciliation.resolution
        coverage, strays = Coverage([reconciliation.recipe]), StrayWhiteouts(repository)
        auditor = Auditor(repository)
        planned: list[PlannedImage] = []
        damaged: list[Unresolved] = []
        for wish in resolution.resolved:
            if wish.path in reconciliation.given_up:
                continue
            try:
                origin = _origin(wish, coverage, loaded)
                held = reconciliation.held(wish)
                planned.append(_planned(held, repository, config, origin, strays, auditor))
            except DuccmakeError as error:
                name, ignorable = wish.reference.name, wish.ignorable
                platform = wish.platform if len(wish.platforms) > 1 else None
                damaged.append(Unresolved(name, platform, ignorable, str(error), path=wish.path))
        images += planned
        auditor.look_at_others(reconciliation.names, {image.name for image in planned})
        refused += auditor.refused
        altered[repository.name] = auditor.altered
        missing[repository.name] = _missing_layers(planned, repository)
        kept: Counter[str] = Counter()
        for item in (*resolution.unresolved, *damaged):
            if item.path:
                unplanned.append((repository.name, item.path))
            if item.passing and item.path and repository.record(item.path) is not None:
                kept[item.reason] += 1
                continue
            # One job reports all that fails for the same reason, such as a registry.
            number = numbers.setdefault(item.reason, len(numbers) + 1)
            problems.append(
                Problem(
                    repository.name,
                    item.name,
                    item.reason,
                    item.ignorable,
                    number,
                    str(item.platform or ""),
                )
            )
        warnings += [
            f"{_images(count)}{reason}; what is published stays in force"
            for reason, count in kept.items()
        ]
    thins = plan_thins(recipes, images, config, content_store(), functools.partial(_client, config))
    warnings += thins.warnings
    for repository_name, name, reason, ignorable in thins.problems:
        number = numbers.setdefault(reason, len(numbers) + 1)
        problems.append(Problem(repository_name, name, reason, ignorable, number))
    return Plan(
        images=tuple(images),
        problems=tuple(problems),
        missing=missing,
        warnings=tuple(warnings),
        in_force=loaded.status,
        scope=config.scope,
        members=members,
        departures=tuple(item for found in leavings for item in found.departures),
        thins=tuple(thins.planned),
        unplanned=tuple(unplanned),
        refused=tuple(refused),
        altered=altered,
    )


def _client(config: Config, credentials: Mapping[str, Credentials]) -> Client:
    """A client that polls; ``credentials`` count before those that it finds."""
    return Client(
        config.registries,
        tries=POLL_TRIES,
        deadline_seconds=POLL_SECONDS,
        connect_seconds=POLL_CONNECT_SECONDS,
        credentials=credentials,
    )


def _images(count: int) -> str:
    return f"{count} images: " if count > 1 else ""


def _origin(item: Resolved, coverage: Coverage, loaded: Loaded) -> Origin:
    """The wish list that an image stands in, as its record has it."""
    wish = coverage.wish(item.reference)
    return loaded.origins.get(wish.path, {}) if wish else {}


def _planned(
    item: Resolved,
    repository: Repository,
    config: Config,
    origin: Origin,
    strays: StrayWhiteouts,
    auditor: Auditor,
) -> PlannedImage:
    """The image as it is planned; its layers matter only where it is to be worked on."""
    variants = tuple(platform.label for platform in item.platforms)
    image = PlannedImage(
        repository=repository.name,
        reference=item.reference,
        platform=item.platform,
        manifest=item.manifest,
        config=item.config,
        layers=(),
        state=PUBLISHED,
        why=item.stale,
        ignorable=item.ignorable,
        source=origin,
        products=item.products or config.products,
        variants=variants if len(variants) > 1 else (),
        anew=not config.adopt,
    )
    record = repository.record(image.name)
    image = replace(image, fault=auditor.fault(record))
    why = why_pending(image, repository, record)
    if not why and config.scope != "all":
        return image
    manifest, image_config = item.read(content_store())
    pairs = zip(manifest.layers, image_config.diff_ids, strict=True)
    layers = tuple(PlannedLayer(descriptor, diff_id) for descriptor, diff_id in pairs)
    if not why:
        return replace(image, layers=layers)
    if config.scope != "all" and can_adopt(image, layers, repository, strays):
        why = "published by DUCC: it is taken over as it stands"
        return replace(image, layers=layers, state=PENDING, why=why, prepared=True, adopted=True)
    prepared = config.scope != "all" and _is_prepared(replace(image, layers=layers), repository)
    if prepared and record is None:
        why = "new by this name: its layers and its flat tree are in the repository"
    return replace(image, layers=layers, state=PENDING, why=why, prepared=prepared)


def _is_prepared(image: PlannedImage, repository: Repository) -> bool:
    """Whether the repository has all but names, or products that are made of the others."""
    layers = [layer.digest for layer in image.layers]
    made = tuple(product for product in image.products if product in ("layers", "flat"))
    record = repository.record(image.name)
    if not why_pending(replace(image, products=made), repository, record):
        if record is not None and UNMEASURED in record.losses:
            return True
        return all(map(repository.has_layer, layers))
    return repository.has_flat(image.config, layers) and all(
        measured is not None and measured.unpacks_to(layer.diff_id)
        for layer in image.layers
        for measured in [repository.measured(layer.digest)]
    )


def _missing_layers(images: Sequence[PlannedImage], repository: Repository) -> frozenset[Digest]:
    fetching = (image for image in images if image.state == PENDING and not image.prepared)
    wanted = {
        (layer.digest, layer.diff_id.algorithm) for image in fetching for layer in image.layers
    }
    return frozenset(
        digest for digest, algorithm in wanted if not repository.has_layer(digest, algorithm)
    )
