"""What is kept of images, as values; times are in seconds since the epoch, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

KEPT = 100
"""So many digests, and so many failures, are kept of an image."""

RUN_IMAGES, RUN_BYTES, RUN_SECONDS = "run images", "run bytes", "run seconds"
"""What is counted of runs that converted something: how many images, bytes fetched, and time."""

_REASON = 2000
"""So many characters are kept of what an image fails with: others may have written them."""


@dataclass(frozen=True, slots=True)
class Move:
    """A manifest that an image's name stood for, and when a run saw it first."""

    digest: str
    seen: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Tries that failed one after another, of one thing, which ``key`` stands for.

    ``kind`` is a `duccmake.errors.Fault`.  ``next`` is when it is tried again, where that
    waits; ``ended`` when it came right or something else was tried.
    """

    kind: str
    key: str
    reason: str
    first: float
    last: float
    count: int
    next: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of an image, which ``title`` names; latest first where there are several.

    ``path`` is where the repository has it, ``source`` its wish list.  ``published`` is the
    manifest that the repository has, since ``published_at``, in ``revision`` where there are
    revisions; ``files``, ``losses``, ``layers`` and ``config`` are of that, and ``changes``
    what became of the files that were published before.  ``gone`` is since when it is not
    wished for.
    """

    title: str
    first_seen: float
    path: str = ""
    source: Mapping[str, str] = field(default_factory=dict)
    published: str = ""
    published_at: float | None = None
    revision: int | None = None
    files: int | None = None
    losses: Mapping[str, int] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    config: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    gone: float | None = None
    moves: tuple[Move, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def failure(self) -> Failure | None:
        """The failure that stands."""
        newest = self.failures[0] if self.failures else None
        return newest if newest and newest.ended is None else None

    def moved(self, digest: str, now: float) -> Life:
        """With the manifest that its name stands for now."""
        if self.moves and self.moves[0].digest == digest:
            return self
        return replace(self, moves=(Move(digest, now), *self.moves)[:KEPT])

    def failed(self, failure: Failure) -> Life:
        """With a further failure: of the same thing, or of another."""
        failure = replace(failure, reason=failure.reason[:_REASON])
        before = self.failure
        if before is not None and before.key == failure.key:
            again = replace(failure, first=before.first, count=before.count + 1)
            return replace(self, failures=(again, *self.failures[1:]))
        ended = self.recovered(failure.last)
        return replace(ended, failures=(failure, *ended.failures)[:KEPT])

    def recovered(self, now: float) -> Life:
        """Without a failure that stands."""
        before = self.failure
        if before is None:
            return self
        return replace(self, failures=(replace(before, ended=now), *self.failures[1:]))


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """A layer's blob, and what that unpacks to; None is not known."""

    compressed: int | None = None
    unpacked: int | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """What happened in a day (UTC), and what was published at the end of its last run."""

    day: str
    converted: int = 0
    failed: int = 0
    removed: int = 0
    images: int = 0
    compressed: int = 0


@dataclass(slots=True)
class State:
    """All that is kept of a repository's images, by title; layers by digest, days by name.

    ``waits`` are seconds from when a manifest was seen until it was published, oldest first.
    ``counts`` are numbers that only grow, by what they count.
    """

    lives: dict[str, Life] = field(default_factory=dict)
    layers: dict[str, LayerSizes] = field(default_factory=dict)
    days: dict[str, Day] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    def count(self, what: str, number: float = 1) -> None:
        """Add to a number."""
        self.counts[what] = self.counts.get(what, 0) + number
