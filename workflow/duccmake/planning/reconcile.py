"""A recipe beside what its repository has: which tags are held, and which images leave."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ..config.configuration import Config
from ..errors import DuccmakeError
from ..oci.globs import matches
from ..oci.manifest import Manifest, parse_manifest
from ..oci.reference import Digest
from ..recipe.model import Recipe
from ..repository import history, pins
from ..repository.history import kept, left_with
from ..repository.layout import split_variant
from ..repository.pins import Pin
from ..repository.protocol import Repository
from ..repository.removal_schedule import timestamp
from ..workspace.results import content_store
from .departures import Leaving, Listings, leaving
from .model import Departure
from .poll_memory import PollMemory
from .removal import published
from .resolution import Resolution, Resolved
from .retention import given_up, seconds


@dataclass(frozen=True)
class Reconciliation:
    """A recipe, resolved, beside what its repository has.

    ``given_up`` are images that retention does not keep, with the reason, ``pins``
    tags that are held; both are by path.
    """

    recipe: Recipe
    resolution: Resolution
    repository: Repository
    config: Config
    given_up: Mapping[str, str]
    pins: Mapping[str, Pin]

    @classmethod
    def of(
        cls, recipe: Recipe, resolution: Resolution, repository: Repository, config: Config
    ) -> Reconciliation:
        """Look at the recipe's repository."""
        held = pins.pins_of(repository)
        loose = [item for item in resolution.resolved if item.path not in held]
        lost = given_up(
            recipe,
            loose,
            config.removal,
            _created,
            lambda path: repository.record(path) is not None,
            time.time(),
        )
        return cls(recipe, resolution, repository, config, lost, held)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all images that are published, and that this publisher sees to."""
        return tuple(filter(self.config.repository.share.has, self.repository.names()))

    def held(self, item: Resolved) -> Resolved:
        """The image as it is to be published: where its tag is held, what it is held at."""
        pin = self.pins.get(item.path)
        if pin is None:
            return item
        words = pin_in_words(item.path, pin, item.manifest)
        record = self.repository.record(item.path)
        if record is not None and record.manifest == pin.manifest:
            return replace(item, manifest=pin.manifest, config=record.config, stale=words)
        raw = content_store().get(pin.manifest)
        manifest = parse_manifest(raw) if raw else None
        if not isinstance(manifest, Manifest):
            raise DuccmakeError(f"it is {words}, and that manifest is not there any more")
        return replace(item, manifest=pin.manifest, config=manifest.config.digest, stale=words)

    def leaving(self, listings: Listings, memory: PollMemory) -> Leaving:
        """What is published in the repository and not wished for, or not any more."""
        past = history.history_of(self.repository)
        reachable = kept(past, self.config.history.keep)
        wanted = {item.path for item in self.resolution.resolved}
        # What an error keeps from being resolved is wished for all the same.
        wanted |= {item.path or item.name for item in self.resolution.unresolved}
        too_old = left_with(past, past) - reachable - wanted
        found = leaving(
            self.recipe,
            self.resolution,
            self.names,
            lambda name: published(self.repository, name),
            listings=listings,
            memory=memory,
            settings=self.config.removal,
            now=time.time(),
            retired={**self.given_up, **dict.fromkeys(too_old, "beyond history.keep")},
            protected=lambda name: name in self.pins or name in reachable,
        )
        going = {item.name for item in found.departures}
        for name in sorted(left_with(past, going) - going - wanted):
            public = split_variant(name)[1]
            if any(matches(glob, public) for glob in self.config.removal.pinned):
                continue
            if manifest := published(self.repository, name):
                departure = Departure(self.repository.name, name, manifest, "its tag leaves")
                found.departures.append(departure)
        return found


def _created(item: Resolved) -> float:
    """When an image was made, as its configuration has it; 0 where that is not known."""
    raw = content_store().get(item.config)
    try:
        return seconds(str(json.loads(raw or b"{}").get("created")))
    except (ValueError, AttributeError):
        return 0.0


def pin_in_words(name: str, held: Pin, registry: Digest | None) -> str:
    """What to say of a tag that is held."""
    moved = f"; its registry has {registry.short}" if registry not in (None, held.manifest) else ""
    return (
        f"pinned to {held.manifest.short} since {timestamp(held.since)}{moved}; "
        f"'snakemake unpin --cores 1 --config image={name}' lifts it"
    )
