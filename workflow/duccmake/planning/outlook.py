"""What a plan comes to, as far as earlier runs and registries let one know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..state.model import RUN_BYTES, RUN_IMAGES, RUN_SECONDS
from ..state.model import State as Kept
from .model import PlannedImage, State


@dataclass(frozen=True, slots=True)
class Outlook:
    """Files, seconds and pulls that a run is about to need; 0 and nothing is not known.

    ``files`` are those that ``counted`` of the pending images had when they were published last.
    ``least`` and ``most`` are seconds, by images and by bytes as earlier runs went.  ``pulls``
    has of each registry that counts them how many it still allows, and how many images wait
    for theirs.
    """

    files: int = 0
    counted: int = 0
    least: float = 0.0
    most: float = 0.0
    pulls: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def outlook(
    images: Iterable[PlannedImage],
    to_fetch: int,
    kept: Mapping[str, Kept],
    pulls: Mapping[str, tuple[int, int]],
) -> Outlook:
    """What the images come to, with ``to_fetch`` bytes, by what is kept of each repository."""
    pending = [one for one in images if one.state == State.PENDING and not one.prepared]
    lives = (kept[one.repository].lives.get(one.title) for one in pending)
    files = [life.files for life in lives if life is not None and life.files]
    seconds, made, fetched = (
        sum(state.counts.get(what, 0.0) for state in kept.values())
        for what in (RUN_SECONDS, RUN_IMAGES, RUN_BYTES)
    )
    guesses = [len(pending) * seconds / made] if made else []
    guesses += [to_fetch * seconds / fetched] if made and fetched and to_fetch else []
    known = guesses if pending else []
    return Outlook(
        files=sum(files),
        counted=len(files),
        least=round(min(known, default=0.0), 1),
        most=round(max(known, default=0.0), 1),
        pulls=pulls,
    )
