"""Resolving: what each wish stands for now, asked of the registries concurrently."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeVar

from ..errors import DuccmakeError, NotFound, RateLimited, RegistryUnavailable
from ..oci.content_store import ContentStore
from ..oci.manifest import ImageConfig, Manifest, parse_manifest
from ..oci.reference import Digest, Platform, Reference
from ..oci.tags import TagRules
from ..recipe.coverage import Chosen
from ..recipe.entry import Wished
from ..recipe.model import Recipe, Wish
from ..registry.any_source import AnySource
from ..registry.cached_source import CachedSource
from ..registry.client import Client
from ..registry.http.retry import RegistryLeftAlone, RegistryUnreachable
from ..registry.image_source import ImageSource, select_image
from ..registry.tag_pages import IncompleteList
from .poll_memory import Poll, PollMemory

logger = logging.getLogger(__name__)

_PASSING = (RegistryUnavailable, RateLimited)
"""Failures that say nothing about the image: what is known of it stays in force."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image that is wished for, as its registry has it: digests, which say it all.

    ``platforms`` are all that the image is wished for on, and ``products`` what is
    made of it, where that is not what the configuration says.  ``stale`` says why
    the registry could not be asked, where that is so and the last answer is in force.
    """

    reference: Reference
    platform: Platform
    ignorable: bool
    manifest: Digest
    config: Digest
    stale: str = ""
    platforms: tuple[Platform, ...] = ()
    products: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The image's path in the repository."""
        return _path(self.reference, self.platform, self.platforms)

    def read(self, store: ContentStore) -> tuple[Manifest, ImageConfig]:
        """Manifest and configuration, which most images of most runs need not be read.

        Raises `DuccmakeError` where they are not kept any more.
        """
        raw, config = store.get(self.manifest), store.get(self.config)
        if raw is None or config is None:
            raise DuccmakeError(
                "what was kept of its manifest is damaged",
                image=self.reference.name,
                step="resolve",
                hint="run again: it is fetched anew",
            )
        manifest = parse_manifest(raw, algorithm=self.manifest.algorithm)
        assert isinstance(manifest, Manifest)
        return manifest, ImageConfig.parse(config, layers=len(manifest.layers))


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A wish that cannot be followed, and why; ``passing`` failures may mend themselves.

    ``platform`` is the one of several that cannot be had; ``path`` is where the
    image is in the repository, if it is there.
    """

    name: str
    platform: Platform | None
    ignorable: bool
    reason: str
    passing: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of a recipe's wishes, each list sorted by name."""

    resolved: tuple[Resolved, ...]
    unresolved: tuple[Unresolved, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """One image for one platform, wished for by the recipe of that number."""

    recipe: int
    reference: Reference
    platform: Platform
    ignorable: bool
    known: Poll | None
    platforms: tuple[Platform, ...]
    products: tuple[str, ...]

    @property
    def path(self) -> str:
        """The image's path in the repository."""
        return _path(self.reference, self.platform, self.platforms)

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
    not for each of its images.
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
        self._source = AnySource(client)
        self._memory = memory
        self._store = store
        self._max_age = max_age
        self._connections = connections
        self._chosen = Chosen(only)
        self._clock = clock
        self._troubles = _Troubles()
        self.warnings: list[str] = []

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
        return [_resolution(number, outcomes) for number in range(len(recipes))]

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
            passing = isinstance(error, _PASSING)
            reason = self._troubles.brief(wished, error)
            outcomes.append((number, Unresolved(wished.name, None, ignorable, reason, passing)))
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
            tags = tuple(self._source.tags(reference))
        except IncompleteList as error:
            self.warnings.append(str(error.within(image=reference.name)))
            return list(dict.fromkeys([*(known[0] if known else ()), *error.tags]))
        except DuccmakeError as error:
            is_silent = isinstance(error, _PASSING) and not reference.is_local
            mirrored = self._client.mirrored_tags(reference) if is_silent else []
            if known is None and not mirrored:
                raise
            if not self._troubles.note(reference, error):
                reason = _reason(error.within(image=reference.name))
                self.warnings.append(f"{reason}; the tags of the last listing stay in force")
            return list(dict.fromkeys([*(known[0] if known else ()), *mirrored]))
        self._memory.remember_tags(key, tags, now)
        return tags

    # --- images ---------------------------------------------------------

    def _poll_image(self, questions: Iterable[_Question]) -> list[_Outcome | _Missed | _Pull]:
        """Poll one image for its platforms."""
        source = CachedSource(self._source, self._store)
        answers = [self._poll(question, source) for question in questions]
        # What one platform was polled for, another need not be pulled by its tag for.
        return [
            replace(answer, top=source.polled(answer.question.reference))
            if isinstance(answer, _Pull)
            else answer
            for answer in answers
        ]

    def _poll(self, question: _Question, source: ImageSource) -> _Outcome | _Missed | _Pull:
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
            top = source.poll(question.reference)
        except DuccmakeError as error:
            return _failed(question, error)
        if top != known.top:
            return _Pull(question, top)
        poll = Poll(top, known.manifest, known.config, now)
        self._memory.remember(question.key, poll)
        return self._remembered(question, poll)

    def _is_believed(self, reference: Reference, checked: float, now: float) -> bool:
        return now - checked < self._max_age or reference not in self._chosen

    def _pull_image(self, pulls: Iterable[_Pull]) -> list[_Outcome | _Missed]:
        """Pull one image for its platforms."""
        source = CachedSource(self._source, self._store)
        return [self._pull(pull, source) for pull in pulls]

    def _pull(self, pull: _Pull, source: ImageSource) -> _Outcome | _Missed:
        """Get manifest and configuration, and keep them."""
        question, now = pull.question, self._clock()
        try:
            top, manifest, config = self._select(pull, source)
        except DuccmakeError as error:
            return _failed(question, error)
        self._store.put(manifest.config.digest, config.raw)
        poll = Poll(top, manifest.digest, manifest.config.digest, now)
        self._memory.remember(question.key, poll)
        return self._remembered(question, poll)

    def _select(self, pull: _Pull, source: ImageSource) -> tuple[Digest, Manifest, ImageConfig]:
        question = pull.question
        try:
            return select_image(source, question.reference, question.platform, digest=pull.top)
        except NotFound:
            if pull.top is None:
                raise
        # Not every registry has under a digest what it names to HEAD; tags move, too.
        return select_image(source, question.reference, question.platform)

    def _settle(self, missed: _Missed) -> _Outcome:
        """The last answer, if there was one."""
        question = missed.question
        reason = self._troubles.brief(question.reference, missed.error)
        if question.known is not None and self._has(question.known):
            return self._remembered(question, question.known, stale=reason)
        return question.recipe, _unresolved(question, reason, passing=True)

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
        )


def _path(reference: Reference, platform: Platform, platforms: Sequence[Platform]) -> str:
    return reference.name_on(platform) if len(platforms) > 1 else reference.name


_Asked = TypeVar("_Asked", _Question, _Pull)


def _by_image(items: Iterable[_Asked]) -> list[list[_Asked]]:
    """Questions about one image, for its platforms, together."""
    groups: dict[tuple[int, Reference], list[_Asked]] = {}
    for item in items:
        question = item if isinstance(item, _Question) else item.question
        groups.setdefault((question.recipe, question.reference), []).append(item)
    return list(groups.values())


class _Troubles:
    """What keeps whole registries from answering: told once, and briefly for each image."""

    def __init__(self) -> None:
        self._unreached: dict[str, DuccmakeError] = {}
        self._spent: dict[str, DuccmakeError] = {}
        self._lock = threading.Lock()

    def note(self, reference: Reference, error: DuccmakeError) -> bool:
        """Keep a failure if it is one of the registry and not of the image."""
        with self._lock:
            if isinstance(error, RegistryUnreachable | RegistryLeftAlone):
                self._unreached.setdefault(reference.registry, error)
            elif isinstance(error, RateLimited):
                self._spent.setdefault(reference.registry, error)
            else:
                return False
            return True

    def brief(self, reference: Reference, error: DuccmakeError) -> str:
        """Why an image was missed: in few words where the registry is to blame."""
        registry = reference.registry
        if isinstance(error, RateLimited):
            return f"waits until registry {registry} allows more requests"
        if registry in self._unreached and isinstance(error, RegistryUnavailable):
            return f"registry {registry} not reached"
        return _reason(error)

    def lines(self) -> Iterator[str]:
        """One line for each registry."""
        for registry, error in sorted(self._unreached.items()):
            yield f"registry {registry} not reached: {error.found}; {error.hint}"
        for registry, error in sorted(self._spent.items()):
            yield f"registry {registry} is short of requests: {error.found}; {error.hint}"


def _failed(question: _Question, error: DuccmakeError) -> _Outcome | _Missed:
    if isinstance(error, _PASSING):
        return _Missed(question, error)
    return question.recipe, _unresolved(question, _reason(error))


def _unresolved(question: _Question, reason: str, *, passing: bool = False) -> Unresolved:
    name = question.reference.name
    platform = question.platform if len(question.platforms) > 1 else None
    return Unresolved(name, platform, question.ignorable, reason, passing, question.path)


def _reason(error: DuccmakeError) -> str:
    return str(error.within(step="resolve"))


def _resolution(number: int, outcomes: Iterable[_Outcome]) -> Resolution:
    mine = [item for recipe, item in outcomes if recipe == number]
    resolved = [item for item in mine if isinstance(item, Resolved)]
    unresolved = [item for item in mine if isinstance(item, Unresolved)]
    resolved.sort(key=lambda item: (item.reference.name, item.platform))
    unresolved.sort(key=lambda item: item.name)
    return Resolution(tuple(resolved), tuple(unresolved))
