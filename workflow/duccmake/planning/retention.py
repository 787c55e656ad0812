"""Retention: how many of the tags that globs bring in stay, and for how long, by pattern."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

from ..config.settings import RemovalSettings, Rule
from ..oci.globs import matches
from ..oci.tags import version_order
from ..recipe.model import Recipe
from .resolution import Resolved

_DAY = 86400.0
_OLDEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
"""Reproducible builds are dated to the epoch or thereabouts: that is no age."""


def given_up(
    recipe: Recipe,
    resolved: Iterable[Resolved],
    settings: RemovalSettings,
    created: Callable[[Resolved], float],
    is_published: Callable[[str], bool],
    now: float,
) -> dict[str, str]:
    """Which images no rule keeps, and why, by their paths in the repository.

    ``created`` tells when an image was made, in seconds since the epoch, 0 if nobody
    knows.  Images that the recipe names in full stay, and so do pinned ones.  The
    first rule that matches an image decides; its `keep_last` counts for each
    repository.  Where a registry could not be asked nothing that is published is
    given up, and nothing comes back that was.
    """
    named = {wish.reference.name for wish in recipe.wishes if not wish.reference.is_glob}
    groups: dict[tuple[Rule, str], list[Resolved]] = {}
    for image in resolved:
        name = image.reference.name
        if name in named or any(matches(glob, name) for glob in settings.pinned):
            continue
        rules = (rule for rule in settings.retention if matches(rule.images, name))
        rule = next(rules, None)
        if rule and (rule.keep_last or rule.keep_days):
            base = image.path.removesuffix(f":{image.reference.tag}")
            groups.setdefault((rule, base), []).append(image)
    return {
        image.path: _why(rule)
        for (rule, _), images in groups.items()
        for image in _beyond(rule, images, created, now)
        if not (any(other.stale for other in images) and is_published(image.path))
    }


def seconds(text: str) -> float:
    """An image configuration's ``created`` (RFC 3339) in seconds; 0 where that tells no age."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    found = moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    return found if found >= _OLDEST else 0.0


def _beyond(
    rule: Rule, images: Sequence[Resolved], created: Callable[[Resolved], float], now: float
) -> list[Resolved]:
    ordered = sorted(images, key=lambda image: version_order(image.reference.tag), reverse=True)
    older = ordered[rule.keep_last :]
    if not rule.keep_days:
        return older
    # An image of unknown age is none that is known to be too old.
    return [image for image in older if 0 < created(image) < now - rule.keep_days * _DAY]


def _why(rule: Rule) -> str:
    reasons = []
    if rule.keep_last:
        reasons.append(f"not among the last {rule.keep_last}")
    if rule.keep_days:
        reasons.append(f"older than {rule.keep_days:g} days")
    return f"retention: {' and '.join(reasons)} of {rule.images}"
