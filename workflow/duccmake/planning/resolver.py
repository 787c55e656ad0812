"""Resolving: what each wish stands for now, asked of the registries concurrently."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeVar

from ..errors import DuccmakeError, NotFound, RateLimited
from ..oci.content_store import ContentStore
from ..oci.manifest import ImageConfig, Manifest
from ..oci.reference import Digest, Platform, Reference
from ..oci.tags import TagRules
from ..products import Product
from ..recipe.coverage import Chosen
from ..recipe.entry import Wished
from ..recipe.model import Recipe, Wish
from ..registry.cached import CachedManifests
from ..registry.client import Client
from ..registry.images import Manifests, select_image
from ..registry.places import Places
from ..registry.tag_pages import IncompleteList
from .poll_memory import Poll, PollMemory
from .resolution import Resolution, Resolved, Unresolved, path_of
from .troubles import PASSING, Troubles, reason_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    """One image for one platform, wished for by the recipe of that number."""

    recipe: int
    reference: Reference
    platform: Platform
    ignorable: bool
    known: Poll | None
    platforms: tuple[Platform, ...]
    products: tuple[Product, ...]

    @property
    def path(self) -> str:
        """The image's path in the repository."""
        return path_of(self.reference, self.platform, self.platforms)

    @property
    def key(self) -> str:
        """What the answer is remembered by."""
        return f"{self.reference} {self.platform}"


@dataclass(frozen=True, slots=True)
class _Pull:
    """A question that a poll did not answer: ``top`` is what the poll found, if there was one."""

    question: _Question
    top: Digest | None = None


@dataclass(frozen=True, slots=True)
class _Missed:
    """A question without an answer: the failure is one that may pass."""

    question: _Question
    error: DuccmakeError


_Outcome = tuple[int, Resolved | Unresolved]


class Resolver:
    """Resolves recipes against registries, with what is remembered.

    An answer younger than ``max_age`` seconds is believed without asking, and so is
    any answer about images that ``only``, where it names some, does not name.
    ``warnings`` are lines for people: what went wrong with a registry, once, and
    not for each of its images.  ``pulls`` has of each registry that counts pulls how many it
    still allows, and how many images wait for theirs.
    """

    def __init__(
        self,
        client: Client,
        memory: PollMemory,
        store: ContentStore,
        *,
        max_age: float = 0.0,
        connections: int = 32,
        only: Iterable[Reference] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._places = Places(client)
        self._memory = memory
        self._store = store
        self._max_age = max_age
        self._connections = connections
        self._chosen = Chosen(only)
        self._clock = clock
        self._troubles = Troubles()
        self.warnings: list[str] = []
        self.pulls: dict[str, tuple[int, int]] = {}

    def resolve(
        self,
        recipes: Sequence[Recipe],
        platforms: Sequence[Platform],
        *,
        is_published: Callable[[Recipe, str], bool] = lambda recipe, name: False,
    ) -> list[Resolution]:
        """Resolve all wishes of all recipes, for ``platforms`` unless they say which.

        ``is_published`` is asked for an image's path in a recipe's repository.
        All are polled first, which costs a registry's budget nothing.  Then what is
        new or has changed is pulled: what was never published before all else, so
        that it gets what a short budget allows.  What several platforms of an image
        have in common is asked for once.
        """
        with ThreadPoolExecutor(self._connections, thread_name_prefix="poll") as pool:
            outcomes, questions = self._expand_all(pool, recipes, platforms)
            polled = list(chain.from_iterable(pool.map(self._poll_image, _by_image(questions))))
            pulls = [answer for answer in polled if isinstance(answer, _Pull)]
            answers = [answer for answer in polled if not isinstance(answer, _Pull)]

            def is_old(pull: _Pull) -> bool:
                return is_published(recipes[pull.question.recipe], pull.question.path)

            for _, group in groupby(sorted(pulls, key=is_old), key=is_old):
                answers += chain.from_iterable(pool.map(self._pull_image, _by_image(group)))
        self._memory.save()
        missed = [answer for answer in answers if isinstance(answer, _Missed)]
        outcomes += [answer for answer in answers if isinstance(answer, tuple)]
        for item in missed:
            self._troubles.note(item.question.reference, item.error)
        outcomes += map(self._settle, missed)
        self.warnings += self._troubles.lines()
        self.pulls = self._budgets(questions, missed)
        return [
            Resolution.of(item for recipe, item in outcomes if recipe == number)
            for number in range(len(recipes))
        ]

    def _budgets(
        self, questions: Sequence[_Question], missed: Sequence[_Missed]
    ) -> dict[str, tuple[int, int]]:
        waiting = Counter(
            item.question.reference.registry
            for item in missed
            if isinstance(item.error, RateLimited)
        )
        found = {}
        for reference in {item.reference.registry: item.reference for item in questions}.values():
            left = None
            if not reference.is_local:
                left = self._client.rate_limit_remaining(reference)
            if left is not None:
                found[reference.registry] = left, waiting[reference.registry]
        return found

    # --- tag globs ------------------------------------------------------

    def _expand_all(
        self, pool: ThreadPoolExecutor, recipes: Sequence[Recipe], platforms: Sequence[Platform]
    ) -> tuple[list[_Outcome], list[_Question]]:
        outcomes: list[_Outcome] = [
            (number, Unresolved(entry.text or str(entry.path), None, False, str(entry)))
            for number, recipe in enumerate(recipes)
            for entry in recipe.bad_entries
        ]
        # What an entry names itself counts more than what a glob of another finds.
        wishes = sorted(
            ((number, wish) for number, recipe in enumerate(recipes) for wish in recipe.wishes),
            key=lambda item: item[1].reference.is_glob,
        )
        expanded = pool.map(lambda item: self._expand(item[1]), wishes)
        failed: list[tuple[int, Reference, DuccmakeError]] = []
        asked: dict[tuple[int, str], tuple[Reference, Wished]] = {}
        for (number, wish), found in zip(wishes, expanded, strict=True):
            if isinstance(found, DuccmakeError):
                failed.append((number, wish.reference, found))
                self._troubles.note(wish.reference, found)
                continue
            for reference in found:
                asked.setdefault((number, reference.name), (reference, wish.wished))
        for number, wished, error in failed:
            ignorable = recipes[number].ignores(wished)
            passing = isinstance(error, PASSING)
            reason = self._troubles.brief(wished, error)
            outcomes.append(
                (
                    number,
                    Unresolved(wished.name, None, ignorable, reason, passing, fault=error.fault),
                )
            )
        questions = [
            _Question(
                number,
                reference,
                platform,
                recipes[number].ignores(reference),
                self._memory.poll(f"{reference} {platform}"),
                wished.platforms or tuple(platforms),
                wished.products,
            )
            for (number, _), (reference, wished) in asked.items()
            for platform in wished.platforms or platforms
        ]
        return outcomes, questions

    def _expand(self, wish: Wish) -> Sequence[Reference] | DuccmakeError:
        reference = wish.reference
        if not reference.is_glob:
            return [reference]
        rules = wish.wished.tags or TagRules((reference.tag,))
        try:
            tags = self._tags(reference)
            chosen = rules.choose(tags)
            if not chosen:
                self.warnings.append(
                    f"{wish.place}: {reference.name} brings nothing: none of the "
                    f"{len(tags)} tags that its registry lists is wished for"
                )
            return [reference.with_tag(tag) for tag in chosen]
        except DuccmakeError as error:
            return error

    def _tags(self, reference: Reference) -> Sequence[str]:
        """The repository's tags; where it cannot be listed, those of the last listing.

        Where it does not answer, mirrors are asked as well, which have some of the tags.
        """
        key = f"{reference.scheme}://{reference.registry}/{reference.repository}"
        known = self._memory.tags(key)
        now = self._clock()
        if known is not None and self._is_believed(reference, known[1], now):
            return known[0]
        try:
            tags = tuple(self._places.of(reference).tags(reference))
        except IncompleteList as error:
            self.warnings.append(str(error.within(image=reference.name)))
            return list(dict.fromkeys([*(known[0] if known else ()), *error.tags]))
        except DuccmakeError as error:
            is_silent = isinstance(error, PASSING) and not reference.is_local
            mirrored = self._client.mirrored_tags(reference) if is_silent else []
            if known is None and not mirrored:
                raise
            if not self._troubles.note(reference, error):
                reason = reason_of(error.within(image=reference.name))
                self.warnings.append(f"{reason}; the tags of the last listing stay in force")
            return list(dict.fromkeys([*(known[0] if known else ()), *mirrored]))
        self._memory.remember_tags(key, tags, now)
        return tags

    # --- images ---------------------------------------------------------

    def _poll_image(self, questions: Sequence[_Question]) -> list[_Outcome | _Missed | _Pull]:
        """Poll one image for its platforms."""
        manifests = self._manifests_of(questions[0])
        answers = [self._poll(question, manifests) for question in questions]
        # What one platform was polled for, another need not be pulled by its tag for.
        return [
            replace(answer, top=manifests.polled(answer.question.reference))
            if isinstance(answer, _Pull)
            else answer
            for answer in answers
        ]

    def _poll(self, question: _Question, manifests: Manifests) -> _Outcome | _Missed | _Pull:
        """Ask what the reference stands for, unless that is known or has to be pulled anyway."""
        known, now = question.known, self._clock()
        if known is None or not self._has(known):
            return _Pull(question)
        # What a digest names never changes, so there is nothing to ask.
        if question.reference.digest is not None or self._is_believed(
            question.reference, known.checked, now
        ):
            return self._remembered(question, known)
        try:
            top = manifests.poll(question.reference)
        except DuccmakeError as error:
            return _failed(question, error)
        if top != known.top:
            return _Pull(question, top)
        poll = Poll(top, known.manifest, known.config, now)
        self._memory.remember(question.key, poll)
        return self._remembered(question, poll)

    def _is_believed(self, reference: Reference, checked: float, now: float) -> bool:
        # What a clock that was ahead has noted is of no known age.
        return 0 <= now - checked < self._max_age or reference not in self._chosen

    def _pull_image(self, pulls: Sequence[_Pull]) -> list[_Outcome | _Missed]:
        """Pull one image for its platforms."""
        manifests = self._manifests_of(pulls[0].question)
        return [self._pull(pull, manifests) for pull in pulls]

    def _manifests_of(self, question: _Question) -> CachedManifests:
        return CachedManifests(self._places.of(question.reference), self._store)

    def _pull(self, pull: _Pull, manifests: Manifests) -> _Outcome | _Missed:
        """Get manifest and configuration, and keep them."""
        question, now = pull.question, self._clock()
        try:
            top, manifest, config = self._select(pull, manifests)
        except DuccmakeError as error:
            return _failed(question, error)
        self._store.put(manifest.config.digest, config.raw)
        poll = Poll(top, manifest.digest, manifest.config.digest, now)
        self._memory.remember(question.key, poll)
        return self._remembered(question, poll)

    def _select(self, pull: _Pull, manifests: Manifests) -> tuple[Digest, Manifest, ImageConfig]:
        question = pull.question
        try:
            return select_image(manifests, question.reference, question.platform, digest=pull.top)
        except NotFound:
            if pull.top is None:
                raise
        # Not every registry has under a digest what it names to HEAD; tags move, too.
        return select_image(manifests, question.reference, question.platform)

    def _settle(self, missed: _Missed) -> _Outcome:
        """The last answer, if there was one."""
        question = missed.question
        reason = self._troubles.brief(question.reference, missed.error)
        if question.known is not None and self._has(question.known):
            return self._remembered(question, question.known, stale=reason)
        return question.recipe, _unresolved(question, reason, missed.error, passing=True)

    def _has(self, poll: Poll) -> bool:
        return self._store.has(poll.manifest) and self._store.has(poll.config)

    def _remembered(self, question: _Question, poll: Poll, *, stale: str = "") -> _Outcome:
        return question.recipe, Resolved(
            question.reference,
            question.platform,
            question.ignorable,
            poll.manifest,
            poll.config,
            stale,
            question.platforms,
            question.products,
            poll.top,
        )


_Asked = TypeVar("_Asked", _Question, _Pull)


def _by_image(items: Iterable[_Asked]) -> list[list[_Asked]]:
    """Questions about one image, for its platforms, together."""
    groups: dict[tuple[int, Reference], list[_Asked]] = {}
    for item in items:
        question = item if isinstance(item, _Question) else item.question
        groups.setdefault((question.recipe, question.reference), []).append(item)
    return list(groups.values())


def _failed(question: _Question, error: DuccmakeError) -> _Outcome | _Missed:
    if isinstance(error, PASSING):
        return _Missed(question, error)
    return question.recipe, _unresolved(question, reason_of(error), error)


def _unresolved(
    question: _Question, reason: str, error: DuccmakeError, *, passing: bool = False
) -> Unresolved:
    name = question.reference.name
    platform = question.platform if len(question.platforms) > 1 else None
    return Unresolved(
        name, platform, question.ignorable, reason, passing, question.path, error.fault
    )
