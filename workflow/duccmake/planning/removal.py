"""What images that leave amount to: how many may do so at once, what they free."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DuccmakeError
from ..repository.inventory import Use
from ..repository.protocol import Repository
from ..repository.removal import Thing, used_only_by
from .model import Departure
from .plan import Plan

_NAMED = 3
"""How many of too many images that would leave are named."""


def published(repository: Repository, name: str) -> str:
    """The digest of the manifest that duccmake published under a name, or ""."""
    record = repository.description(name)
    return str(record.manifest) if record else ""


def freed_later(
    repository: Repository, departures: Sequence[Departure], spoken_for: Use
) -> list[Thing]:
    """What nothing will use any more once these images have left."""
    return used_only_by(repository.view, [item.name for item in departures], spoken_for)


def check_share(
    departures: Sequence[Departure], total: int, *, max_percent: float, force: bool
) -> None:
    """Raise `DuccmakeError` where more of a repository's images would leave than may at once.

    One may always, however few there are, unless ``max_percent`` is 0.
    """
    count = len(departures)
    if not count or force or 100 * count <= max_percent * total or (count == 1 and max_percent > 0):
        return
    raise DuccmakeError(
        f"{count} of {total} images ({100 * count / total:.0f} %) would leave "
        f"{departures[0].repository}, more than removal.max_percent ({max_percent:g}), "
        f"among them {', '.join(item.name for item in departures[:_NAMED])}: nothing is removed",
        step="prune",
        hint="mostly a wish list is cut short or broken then: mend it, and nothing leaves; "
        "'snakemake prune -n' lists what would; if all of that is meant, "
        "'snakemake prune --cores 1 --config force_removal=true' takes it away",
    )


def departures(plan: Plan, repository: str) -> list[Departure]:
    """The images that leave a repository."""
    return [item for item in plan.departures if item.repository == repository]


def refused(plan: Plan, repository: str) -> list[Departure]:
    """What is published in a repository and is not what it says."""
    return [item for item in plan.refused if item.repository == repository]


def spoken_for(plan: Plan, repository: str) -> Use:
    """What the images of the plan have or will have, which must not be removed."""
    images = [image for image in plan.images if image.repository == repository]
    layers = [layer.digest for image in images for layer in image.layers]
    return Use.of([image.config for image in images], layers)
