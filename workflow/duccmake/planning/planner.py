"""Making a plan: wish lists, what registries answer, and what the repositories hold."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..config.configuration import Config
from ..errors import DuccmakeError, Fault, RepositoryError
from ..oci.reference import Digest
from ..recipe.coverage import Coverage
from ..recipe.model import Recipe
from ..recipe.sources.load import Loaded, Origin, load_sources
from ..registry.places import Places
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..repository.settings import ShareSettings
from ..state.model import State as Kept
from ..state.store import UnreadableState, load
from ..workspace.results import POLLS, SOURCES, content_store
from .adoption import StrayWhiteouts, can_adopt
from .anew import Anew
from .auditor import Auditor
from .clients import polling_client
from .departures import Listings
from .holds import Holds
from .model import Departure, PlannedImage, PlannedLayer, PlannedThin, Problem, State
from .outlook import outlook
from .pending import is_prepared, missing_layers, why_pending
from .plan import Plan
from .poll_memory import PollMemory
from .privacy import without_private
from .reconcile import Reconciliation
from .resolution import Resolved, Unresolved
from .resolver import Resolver
from .signing import held_to_policy
from .thin_images import plan_thins
from .unused_registries import unused_registries


def make_plan(config: Config, members: Mapping[str, Any], *, poll: bool = True) -> Plan:
    """Resolve all wish lists and compare them with the repositories.

    Writes only what is remembered of the registries' answers.
    Without ``poll`` nothing is read or asked, and the plan is empty.  Raises `RecipeError`
    where a wish list is unusable as a whole.
    """
    loaded = Loaded((), {})
    if poll:
        loaded = load_sources(config.recipe, SOURCES, fetch=not config.resolve.only)
    draft = _Draft()
    draft.warnings += loaded.warnings
    draft.warnings += [warning for recipe in loaded.recipes for warning in recipe.warnings]
    if poll and not loaded.problems:
        draft.warnings += unused_registries(config, loaded.recipes)
    for source, reason in loaded.problems:
        draft.add_problem("", source, reason, False, told=f"{source}: {reason}")
    anew = Anew(config.anew)
    recipes = [_of_share(recipe, config.repository.share) for recipe in loaded.recipes]
    kept: dict[str, Kept] = {}
    for reconciliation in _reconciled(draft, config, recipes):
        state = _kept(draft, reconciliation.repository)
        kept[reconciliation.repository.name] = state
        holds = Holds(state.lives, config, members, time.time())
        _plan_repository(draft, reconciliation, config, loaded, anew, holds)
    # Of what other publishers see to, this one does not know what there is.
    for glob in anew.unmatched if poll and config.repository.share.of == 1 else ():
        draft.add_problem("", glob, f"{glob}: anew: no wish list has an image of this name", False)
    _plan_thins(draft, recipes, config)
    plan = draft.plan(loaded, config, members)
    found = outlook(plan.images, sum(plan.to_fetch.values()), kept, draft.pulls)
    return replace(plan, outlook=found)


def _of_share(recipe: Recipe, share: ShareSettings) -> Recipe:
    """The recipe with those wishes alone that this publisher sees to."""
    return replace(
        recipe, wishes=tuple(wish for wish in recipe.wishes if share.has(wish.reference.name))
    )


@dataclass(slots=True)
class _Draft:
    """A plan in the making; the members are those of `Plan`, and of its `Outlook`."""

    images: list[PlannedImage] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: dict[str, frozenset[Digest]] = field(default_factory=dict)
    departures: list[Departure] = field(default_factory=list)
    thins: list[PlannedThin] = field(default_factory=list)
    unplanned: list[tuple[str, str]] = field(default_factory=list)
    refused: list[Departure] = field(default_factory=list)
    altered: dict[str, frozenset[Digest]] = field(default_factory=dict)
    pulls: dict[str, tuple[int, int]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add_problem(
        self,
        repository: str,
        name: str,
        reason: str,
        ignorable: bool,
        *,
        told: str = "",
        platform: str = "",
        fault: Fault = Fault.OTHER,
        path: str = "",
        holds: Holds | None = None,
    ) -> None:
        """A wish that cannot be followed; one job reports all that fail for one reason.

        ``told`` is what is said in place of the reason, ``holds`` say whether it is held.
        """
        number = self._numbers.setdefault(reason, len(self._numbers) + 1)
        problem = Problem(
            repository, name, told or reason, ignorable, number, platform, fault, path=path
        )
        self.problems.append(holds.of_problem(problem) if holds else problem)

    def plan(self, loaded: Loaded, config: Config, members: Mapping[str, Any]) -> Plan:
        """The plan, as it is saved."""
        return Plan(
            images=tuple(self.images),
            problems=tuple(self.problems),
            missing=self.missing,
            warnings=tuple(self.warnings),
            in_force=loaded.status,
            scope=config.scope,
            members=members,
            departures=tuple(self.departures),
            thins=tuple(self.thins),
            unplanned=tuple(self.unplanned),
            refused=tuple(self.refused),
            altered=self.altered,
        )


def _reconciled(draft: _Draft, config: Config, recipes: Sequence[Recipe]) -> list[Reconciliation]:
    """Ask the registries for all that is wished for, and the repositories for what they have."""
    repositories = {
        recipe.repository: open_repository(config.repository, recipe.repository)
        for recipe in recipes
    }
    for repository in repositories.values():
        with suppress(RepositoryError):  # it is told of where that keeps an image from something
            draft.warnings += repository.remarks()
    with polling_client(config, {}) as client:
        memory = PollMemory(POLLS)
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
        found = [
            Reconciliation.of(recipe, resolution, repositories[recipe.repository], config)
            for recipe, resolution in zip(recipes, resolutions, strict=True)
        ]
        draft.warnings += resolver.warnings
        draft.pulls = resolver.pulls
        answered = (
            item.reference
            for resolution in resolutions
            for item in resolution.resolved
            if not item.stale
        )
        listings = Listings(Places(client), answered)
        # Who asks for some images says nothing of the others.
        for reconciliation in found if not config.resolve.only else ():
            leaving = reconciliation.leaving(listings, memory)
            draft.warnings += leaving.warnings
            draft.departures += leaving.departures
        memory.save()
    return found


def _kept(draft: _Draft, repository: Repository) -> Kept:
    """What is kept of the repository's images."""
    try:
        return load(repository.own_directory)
    except UnreadableState as error:
        draft.warnings.append(str(error.within(image=repository.name)))
        return Kept()


def _plan_repository(
    draft: _Draft,
    reconciliation: Reconciliation,
    config: Config,
    loaded: Loaded,
    anew: Anew,
    holds: Holds,
) -> None:
    """What becomes of each wish of a recipe."""
    repository = reconciliation.repository
    coverage, strays = Coverage([reconciliation.recipe]), StrayWhiteouts(repository)
    auditor = Auditor(repository)
    planned: list[PlannedImage] = []
    damaged: list[Unresolved] = []
    for wish in reconciliation.resolution.resolved:
        if wish.path in reconciliation.given_up:
            continue
        try:
            origin = _origin(wish, coverage, loaded)
            held = reconciliation.held(wish)
            image = _planned(held, repository, config, origin, strays, auditor, anew)
            planned.append(holds.of(image))
        except DuccmakeError as error:
            name, ignorable = wish.reference.name, wish.ignorable
            platform = wish.platform if len(wish.platforms) > 1 else None
            why = str(error)
            damaged.append(
                Unresolved(name, platform, ignorable, why, False, wish.path, error.fault)
            )
    if not config.resolve.only:  # who asks for some images says nothing of the others
        auditor.look_at_others(reconciliation.names, {image.name for image in planned})
    if config.private == "refuse":
        planned, private = without_private(planned, config, reconciliation.pins)
        damaged += private
    signing = held_to_policy(planned, repository, config, reconciliation.pins)
    planned = signing.images
    damaged += signing.refused
    draft.warnings += signing.warnings
    draft.images += planned
    draft.refused += auditor.refused
    draft.altered[repository.name] = auditor.altered
    draft.missing[repository.name] = missing_layers(planned, repository)
    missed = (*reconciliation.resolution.unresolved, *damaged)
    _note_unresolved(draft, repository, missed, holds)


def _note_unresolved(
    draft: _Draft, repository: Repository, items: Iterable[Unresolved], holds: Holds
) -> None:
    """Wishes that cannot be followed now: what is published of them stays in force."""
    kept: Counter[str] = Counter()
    for item in items:
        if item.path:
            draft.unplanned.append((repository.name, item.path))
        if item.passing and item.path and repository.record(item.path) is not None:
            kept[item.reason] += 1
            continue
        draft.add_problem(
            repository.name,
            item.name,
            item.reason,
            item.ignorable,
            platform=str(item.platform or ""),
            fault=item.fault,
            path=item.path,
            holds=holds,
        )
    draft.warnings += [
        f"{_images(count)}{reason}; what is published stays in force"
        for reason, count in kept.items()
    ]


def _plan_thins(draft: _Draft, recipes: Sequence[Recipe], config: Config) -> None:
    client = functools.partial(polling_client, config)
    made = [image for image in draft.images if image.state != State.HELD]
    thins = plan_thins(recipes, made, config, content_store(), client)
    draft.thins += thins.planned
    draft.warnings += thins.warnings
    for repository, name, reason, ignorable in thins.problems:
        draft.add_problem(repository, name, reason, ignorable)


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
    anew: Anew,
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
        state=State.PUBLISHED,
        why=item.stale,
        ignorable=item.ignorable,
        source=origin,
        products=item.products or config.products,
        variants=variants if len(variants) > 1 else (),
        adopts=config.adopt,
        anew=anew.stamp(item.reference),
        fix_permissions=config.flat.fix_permissions,
        top=item.top,
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
        return replace(
            image, layers=layers, state=State.PENDING, why=why, prepared=True, adopted=True
        )
    fresh = config.scope == "all" or bool(image.anew)
    prepared = not fresh and is_prepared(replace(image, layers=layers), repository)
    if prepared and record is None:
        why = "new by this name: its layers and its flat tree are in the repository"
    return replace(image, layers=layers, state=State.PENDING, why=why, prepared=prepared)
