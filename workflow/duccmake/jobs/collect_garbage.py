"""Removing from a repository what nothing uses any more: in batches, each under the lock."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..repository.edits import Edits
from ..repository.inventory import Use
from ..repository.protocol import Repository
from ..repository.removal import CHAIN, FLAT, LAYER, Thing, enter, find, freed_bytes, remove
from ..words import trees_and_layers

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Collected:
    """What went, and what stays for now; ``freed`` is in bytes."""

    flats: int = 0
    layers: int = 0
    chains: int = 0
    freed: int = 0
    waiting: int = 0
    strange: list[str] = field(default_factory=list)


def collect(
    repository: Repository,
    *,
    spoken_for: Use,
    grace: float,
    batch: int,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """Remove what has been unused for ``grace`` seconds, ``batch`` things a transaction.

    Who uses what is looked up anew under the lock for each batch, so that an image
    that was published in between keeps what it has.  ``spoken_for`` is what images
    to come will use.  Raises `RepositoryError` where the repository cannot be read.
    """
    collected = Collected()
    view = repository.view
    while True:
        with repository.lock():
            now = clock()
            garbage = find(view, spoken_for, now=now, grace=grace)
            things = garbage.due[:batch]
            edits = Edits(view)
            enter(edits, set(garbage.unlisted).difference(things), now)
            freed = freed_bytes(view, things)
            remove(edits, things, garbage.used)
            repository.edit(edits)
        _count(collected, things, freed)
        if len(garbage.due) <= batch:
            break
    collected.waiting = len(garbage.waiting)
    collected.strange = list(garbage.strange)
    for path in garbage.strange:
        logger.warning("%s: no image accounts for it, so it stays", path)
    return collected


def _count(collected: Collected, things: tuple[Thing, ...], freed: int) -> None:
    kinds = Counter(thing.kind for thing in things)
    collected.flats += kinds[FLAT]
    collected.layers += kinds[LAYER]
    collected.chains += kinds[CHAIN]
    collected.freed += freed
    for thing in things:
        logger.info("removed the %s %s", thing.kind, thing.key)


def collected_in_words(collected: Collected) -> str:
    """What collecting garbage came to."""
    waiting = f"; {collected.waiting} more wait for their time" if collected.waiting else ""
    freed = trees_and_layers(
        collected.flats, collected.layers, collected.freed, chains=collected.chains
    )
    return f"{freed}{waiting}"
