"""What the targets ``prune`` and ``gc`` would do, for people, and their receipts."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from ..config.configuration import Config
from ..errors import DuccmakeError
from ..planning.model import Departure
from ..planning.plan import Plan, repositories
from ..planning.removal import check_share, departures, freed_later, refused, spoken_for
from ..planning.verdict import Part, draw, parts_of
from ..planning.verdict import in_words as looked_at
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..repository.removal import CHAIN, FLAT, LAYER, Garbage, Thing, find, freed_bytes
from ..repository.removal_schedule import timestamp
from ..words import trees_and_layers
from ..workspace.results import receipt

logger = logging.getLogger(__name__)

_LISTED = 20
"""How many images, trees and layers a preview names; more are counted."""


TARGETS = frozenset({"adopt", "prune", "gc", "repair", "rollback", "status", "unpin", "verify"})
"""Targets of the workflow that do not convert what is wished for."""


def targets(arguments: Sequence[str]) -> frozenset[str]:
    """Which of `TARGETS` a command line asks for."""
    return TARGETS.intersection(arguments)


# --- what is verified ----------------------------------------------------


def verification(plan: Plan, config: Config, *, keep: bool) -> tuple[int, list[Part]]:
    """What a sample of what is published is drawn by, and all that is to be verified, in parts.

    With ``keep`` jobs can do it, and another run can go on with it.
    """
    seed = draw(config.selection, keep=keep)
    parts = [
        part
        for name in repositories(plan)
        for part in parts_of(open_repository(config.repository, name), config.selection, seed)
    ]
    if config.images and not any(part.things for part in parts):
        raise DuccmakeError(
            f"no published image is called {' or '.join(config.images)}",
            step="verify",
            hint="a '*' in it stands for any text",
        )
    for part in parts if keep else ():
        part.save()
    return seed, parts


def _verification_in_words(plan: Plan, config: Config) -> Iterator[str]:
    kinds: dict[str, Counter[str]] = {}
    for part in verification(plan, config, keep=False)[1]:
        kinds.setdefault(part.repository, Counter()).update(thing.kind for thing in part.things)
    for name, counts in kinds.items():
        yield f"verify  {name}  {looked_at(counts)}"


# --- receipts -----------------------------------------------------------


def prunings(plan: Plan, without: Collection[str] = ()) -> list[str]:
    """Receipts to be made: one for each repository that images leave, ``without`` some."""
    return [
        _receipt(name, "pruned", [[item.name, item.manifest, item.why] for item in leaving])
        for name in repositories(plan)
        if name not in without and (leaving := departures(plan, name))
    ]


def held_back(plan: Plan, config: Config) -> dict[str, str]:
    """Repositories that more images would leave than may in one run, and a line for each.

    A run that was not asked to prune says so and goes on.
    """
    found = {}
    for name in repositories(plan) if config.removal.policy != "keep" else ():
        repository = open_repository(config.repository, name)
        with repository.reading():
            total = sum(1 for _ in repository.names())
        try:
            _check_share(departures(plan, name), total, config)
        except DuccmakeError as error:
            found[name] = str(error)
    return found


def _check_share(leaving: Sequence[Departure], total: int, config: Config) -> None:
    percent, force = config.removal.max_percent, config.force_removal
    check_share(leaving, total, max_percent=percent, force=force)


def refusals(plan: Plan) -> list[str]:
    """Receipts to be made: one for each repository that has what is not what it says."""
    return [
        _receipt(name, "refused", found)
        for name in repositories(plan)
        if (
            found := [
                *([item.name, item.manifest, item.why] for item in refused(plan, name)),
                *sorted(map(str, plan.altered.get(name, ()))),
            ]
        )
    ]


def collections(plan: Plan, config: Config, *, tell: bool = False) -> list[str]:
    """Receipts to be made: one for each repository in which something is to be collected.

    With ``tell`` those are logged where something waits for its time.
    """
    found = []
    for name in repositories(plan):
        garbage = _garbage(plan, config, name)
        if garbage.due or garbage.unlisted:
            keys = sorted(thing.key for thing in (*garbage.due, *garbage.unlisted))
            found.append(_receipt(name, "collected", keys))
        elif garbage.waiting and tell:
            words = collection_in_words(plan, config, name)
            logger.warning("%s: nothing to free yet: %s", name, words.partition("\n")[2])
    return found


def _receipt(repository: str, kind: str, content: Sequence[object]) -> str:
    """The path of a receipt; one of an earlier run, for the same work, is out of date."""
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    path = receipt(repository, kind, key)
    path.unlink(missing_ok=True)
    return str(path)


# --- previews -----------------------------------------------------------


def rollback_in_words(config: Config) -> str:
    """What pointing an image back does."""
    if not config.digest:
        return f"What can {config.image} be pointed back to?"
    return f"Point {config.image} back to {config.digest} and hold it there"


def unpinning_in_words(config: Config) -> str:
    """What lifting a pin does."""
    return f"Have {config.image} follow its registry again"


def preview(plan: Plan, config: Config, only: Collection[str]) -> list[str]:
    """What a run would do besides converting, in lines; ``only`` are the targets it names."""
    policy = "" if only else config.removal.policy
    found = []
    for name in repositories(plan):
        if ("prune" in only or policy in ("schedule", "prune")) and departures(plan, name):
            found.append(f"prune  {name}  {pruning_in_words(plan, config, name)}")
        garbage = _garbage(plan, config, name)
        if ("gc" in only or policy == "prune") and (garbage.due or garbage.unlisted):
            found.append(f"gc     {name}  {collection_in_words(plan, config, name)}")
    found += _verification_in_words(plan, config) if "verify" in only else []
    found += [rollback_in_words(config)] if "rollback" in only else []
    found += [unpinning_in_words(config)] if "unpin" in only else []
    return "\n".join(found).splitlines()


def pruning_in_words(plan: Plan, config: Config, name: str) -> str:
    """What pruning a repository would do."""
    leaving, repository = departures(plan, name), open_repository(config.repository, name)
    with repository.reading():
        return _pruning_in_words(plan, config, leaving, repository)


def _pruning_in_words(
    plan: Plan, config: Config, leaving: Sequence[Departure], repository: Repository
) -> str:
    total = sum(1 for _ in repository.names())
    try:
        _check_share(leaving, total, config)
    except DuccmakeError as error:
        return "\n".join([str(error), *_listed([f"{item.name}: {item.why}" for item in leaving])])
    things = freed_later(repository, leaving, spoken_for(plan, repository.name))
    lines = [
        f"{len(leaving)} of {total} images leave; {_amount(repository, things)} will be freed "
        f"by 'snakemake gc' after {config.removal.grace_days:g} days",
        *_listed([f"{item.name}: {item.why}" for item in leaving]),
    ]
    return "\n".join(lines)


def collection_in_words(plan: Plan, config: Config, name: str) -> str:
    """What collecting garbage in a repository would do."""
    repository = open_repository(config.repository, name)
    with repository.reading():
        return _collection_in_words(_garbage(plan, config, name), repository)


def _collection_in_words(garbage: Garbage, repository: Repository) -> str:
    lines = [
        f"{_amount(repository, garbage.due)} to free",
        *_listed([_named(thing, garbage) for thing in garbage.due]),
    ]
    if garbage.unlisted:
        lines.append(f"{len(garbage.unlisted)} are found unused now: their time of grace begins")
    if garbage.waiting:
        first = timestamp(min(garbage.waiting.values()))
        lines.append(
            f"{_amount(repository, list(garbage.waiting))} in their time of grace, the first "
            f"until {first}"
        )
    if garbage.strange:
        lines.append(f"{len(garbage.strange)} paths that no image accounts for stay")
        lines += _listed(garbage.strange)
    return "\n".join(lines)


def _named(thing: Thing, garbage: Garbage) -> str:
    image = garbage.images.get(thing)
    return f"{thing.kind} {thing.key}{f'  was of {image}' if image else ''}"


def _garbage(plan: Plan, config: Config, name: str) -> Garbage:
    repository, spoken = open_repository(config.repository, name), spoken_for(plan, name)
    with repository.reading():
        return find(repository.view, spoken, now=time.time(), grace=config.removal.grace)


def _amount(repository: Repository, things: Sequence[Thing]) -> str:
    kinds = Counter(thing.kind for thing in things)
    size = freed_bytes(repository.view, things)
    return f"{trees_and_layers(kinds[FLAT], kinds[LAYER], size, chains=kinds[CHAIN])},"


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"  and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [f"  {line}" for line in lines[:_LISTED]] + more
