"""Resolving: what each wish stands for now, asked of the registries concurrently."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .errors import DuccmakeError, RateLimited, RegistryUnavailable
from .manifest import ImageConfig, Manifest, parse_manifest
from .recipe import Recipe
from .reference import Platform, Reference
from .registry.answers import matching
from .registry.client import Client
from .store import ContentStore, Poll, PollMemory

logger = logging.getLogger(__name__)

_PASSING = (RegistryUnavailable, RateLimited)
"""Failures that say nothing about the image: what is known of it stays in force."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image that is wished for, as its registry has it.

    ``stale`` says why the registry could not be asked, where that is so and the
    last answer is in force.
    """

    reference: Reference
    platform: Platform
    ignorable: bool
    manifest: Manifest
    config: ImageConfig
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A wish that cannot be followed, and why; ``passing`` failures may mend themselves."""

    name: str
    platform: Platform | None
    ignorable: bool
    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class _Ask:
    reference: Reference
    ignorable: bool


class Resolver:
    """Resolves recipes against registries, with what is remembered.

    An answer younger than ``max_age`` seconds is believed without asking.
    """

    def __init__(
        self,
        client: Client,
        memory: PollMemory,
        store: ContentStore,
        *,
        max_age: float = 0.0,
        connections: int = 32,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._memory = memory
        self._store = store
        self._max_age = max_age
        self._connections = connections
        self._clock = clock

    def resolve(
        self, recipe: Recipe, platforms: Sequence[Platform]
    ) -> tuple[list[Resolved], list[Unresolved]]:
        """Resolve all wishes of a recipe for all platforms; sorted by name."""
        resolved: list[Resolved] = []
        unresolved = [
            Unresolved(entry.text or str(entry.path), None, False, str(entry))
            for entry in recipe.bad_entries
        ]
        with ThreadPoolExecutor(self._connections, thread_name_prefix="poll") as pool:
            asks: dict[str, _Ask] = {}
            for outcome in pool.map(
                lambda wish: self._expand(wish.reference, recipe), recipe.wishes
            ):
                for item in outcome:
                    if isinstance(item, Unresolved):
                        unresolved.append(item)
                    else:
                        asks.setdefault(item.reference.name, item)
            questions = [(ask, platform) for ask in asks.values() for platform in platforms]
            for answer in pool.map(lambda question: self._ask(*question), questions):
                if isinstance(answer, Resolved):
                    resolved.append(answer)
                else:
                    unresolved.append(answer)
        self._memory.save()
        resolved.sort(key=lambda item: (item.reference.name, item.platform))
        return resolved, unresolved

    # --- tag globs ------------------------------------------------------

    def _expand(self, reference: Reference, recipe: Recipe) -> Iterable[_Ask | Unresolved]:
        if not reference.is_glob:
            return [_Ask(reference, recipe.ignores(reference))]
        try:
            tags = self._tags(reference)
        except DuccmakeError as error:
            passing = isinstance(error, _PASSING)
            ignorable = recipe.ignores(reference)
            return [Unresolved(reference.name, None, ignorable, _reason(error), passing)]
        named = [reference.with_tag(tag) for tag in matching(reference.tag, tags)]
        return [_Ask(image, recipe.ignores(image)) for image in named]

    def _tags(self, reference: Reference) -> Sequence[str]:
        """The repository's tags; those of the last listing where it cannot be listed."""
        key = f"{reference.scheme}://{reference.registry}/{reference.repository}"
        known = self._memory.tags(key)
        now = self._clock()
        if known is not None and now - known[1] < self._max_age:
            return known[0]
        try:
            tags = tuple(self._client.tags(reference))
        except DuccmakeError as error:
            if known is None:
                raise
            logger.warning("%s: the tags of the last listing stay in force", _reason(error))
            return known[0]
        self._memory.remember_tags(key, tags, now)
        return tags

    # --- images ---------------------------------------------------------

    def _ask(self, ask: _Ask, platform: Platform) -> Resolved | Unresolved:
        reference = ask.reference
        key = f"{reference} {platform}"
        known = self._memory.poll(key)
        try:
            poll = self._poll(reference, platform, known)
            self._memory.remember(key, poll)
            return self._remembered(ask, platform, poll)
        except _PASSING as error:
            if known is None or not self._has(known):
                return _failed(ask, platform, error, passing=True)
            return self._remembered(ask, platform, known, stale=_reason(error))
        except DuccmakeError as error:
            return _failed(ask, platform, error)

    def _poll(self, reference: Reference, platform: Platform, known: Poll | None) -> Poll:
        now = self._clock()
        if known is not None and self._has(known):
            # What a digest names never changes, so there is nothing to ask.
            if reference.digest is not None or now - known.checked < self._max_age:
                return known
            top = self._client.poll(reference)
            if top == known.top:
                return Poll(top, known.manifest, known.config, now)
        else:
            top = None
        top, manifest, config = self._client.resolve(reference, platform, digest=top)
        self._store.put(manifest.digest, manifest.raw)
        self._store.put(manifest.config.digest, config.raw)
        return Poll(top, manifest.digest, manifest.config.digest, now)

    def _has(self, poll: Poll) -> bool:
        return self._store.path(poll.manifest).exists() and self._store.path(poll.config).exists()

    def _remembered(
        self, ask: _Ask, platform: Platform, poll: Poll, *, stale: str = ""
    ) -> Resolved:
        raw = self._store.get(poll.manifest)
        config = self._store.get(poll.config)
        assert raw is not None and config is not None
        manifest = parse_manifest(raw, algorithm=poll.manifest.algorithm)
        assert isinstance(manifest, Manifest)
        parsed = ImageConfig.parse(config, layers=len(manifest.layers))
        return Resolved(ask.reference, platform, ask.ignorable, manifest, parsed, stale)


def _failed(
    ask: _Ask, platform: Platform, error: DuccmakeError, *, passing: bool = False
) -> Unresolved:
    return Unresolved(ask.reference.name, platform, ask.ignorable, _reason(error), passing)


def _reason(error: DuccmakeError) -> str:
    return str(error.within(step="resolve"))
