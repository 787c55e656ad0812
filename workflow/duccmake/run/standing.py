"""How each image stands, in a document: what the plan says, what became of it, what is kept."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..config.configuration import Config
from ..errors import one_line
from ..planning.holds import AT_ONCE
from ..planning.model import Departure, PlannedImage, Problem
from ..planning.model import State as Planned
from ..planning.plan import Plan
from ..planning.verdict import Verdict
from ..products import Product
from ..repository.layout import Layout
from ..repository.model import OF_LAYERS, UNMEASURED, WIDENED
from ..repository.open import open_repository
from ..state.model import Failure, LayerSizes, Life, State
from ..state.pauses import Pauses
from .document import Failed, Health, Image, Layer, Sizes, Sync
from .status import Outcome, Status

_HARMLESS = OF_LAYERS | {UNMEASURED, WIDENED}
"""Losses of which nobody who runs the image as a whole sees anything."""

DAMAGED = "damaged: "
"""How the reason begins of an image of which something is damaged."""

_GOOD = frozenset({Outcome.CONVERTED, Outcome.UP_TO_DATE})


@dataclass(slots=True)
class Found:
    """The images of a document, and the layers that they refer to."""

    images: list[Image]
    layers: list[Layer]


def standing(plan: Plan, config: Config, states: Mapping[str, State], status: Status) -> Found:
    """All images that are wished for, and those that leave, by repository and name."""
    found = Found([], [])
    for name, state in sorted(states.items()):
        layout = open_repository(config.repository, name).view.layout
        one = _Repository(name, plan, config, state, status, layout, len(found.layers))
        found.layers += one.layers
        found.images += sorted(one.images(), key=lambda image: image.title)
    return found


class _Repository:
    """The images of one repository; its layers begin at the place ``first``."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        config: Config,
        state: State,
        status: Status,
        layout: Layout,
        first: int,
    ) -> None:
        self._name = name
        self._plan = plan
        self._pauses: Pauses = config.retry
        self._state = state
        self._status = status
        self._layout = layout
        self._now = time.time()
        self._verdict = Verdict.load(name) or Verdict(name)
        counted = Counter(
            digest for life in state.lives.values() for digest in dict.fromkeys(life.layers)
        )
        self._users = counted
        self._places = {digest: first + place for place, digest in enumerate(counted)}
        self._sizes = {digest: state.layers.get(digest, LayerSizes()) for digest in counted}
        self.layers = [
            Layer(name, digest, sizes.compressed, sizes.unpacked, counted[digest])
            for digest, sizes in self._sizes.items()
        ]

    def images(self) -> Iterator[Image]:
        """Each of them."""
        for image in self._plan.images:
            if image.repository == self._name:
                yield self._planned(image)
        for problem in self._plan.problems:
            if problem.repository == self._name:
                yield self._unresolved(problem)
        by_path = {life.path: life for life in self._state.lives.values()}
        known = {problem.path for problem in self._plan.problems}
        for name, path in self._plan.unplanned:
            if name == self._name and path not in known:
                why = "its registry could not be asked"
                words = f"{Sync.UP_TO_DATE} as far as is known: {why}"
                life = by_path.get(path) or Life(path, self._now, path=path)
                yield self._image(life, Sync.UP_TO_DATE, Health.STALE, words, why)
        for departure in self._plan.departures:
            if departure.repository == self._name:
                outcome = self._status.images.get(departure.name, (None, ""))[0]
                if outcome != Outcome.REMOVED:
                    yield self._leaving(departure, by_path.get(departure.name))

    def _planned(self, image: PlannedImage) -> Image:
        life = self._life(image.title)
        outcome = self._status.images.get(image.title, (Outcome.UP_TO_DATE, ""))[0]
        if image.state == Planned.PUBLISHED or outcome in _GOOD:
            stale = image.why if image.state == Planned.PUBLISHED else ""
            health = Health.STALE if stale else self._wear(life)
            words = f"{Sync.UP_TO_DATE} as far as is known: {stale}" if stale else Sync.UP_TO_DATE
            if damage := self._verdict.damage_of(life.path, life.published):
                health, words, stale = of_damage(Sync.UP_TO_DATE, damage)
            return self._image(life, Sync.UP_TO_DATE, health, words, stale, planned=image)
        if life.failure is not None:
            return self._failing(life, life.failure, image)
        words = f"{Sync.PENDING}: {image.why}"
        return self._image(life, Sync.PENDING, self._wear(life), words, image.why, planned=image)

    def _unresolved(self, problem: Problem) -> Image:
        life = self._life(problem.title)
        if life.failure is not None:
            return self._failing(life, life.failure, None)
        words = f"{Sync.PENDING}: {problem.reason}"
        return self._image(life, Sync.PENDING, Health.FAILING, words, problem.reason)

    def _leaving(self, departure: Departure, life: Life | None) -> Image:
        known = life or Life(departure.name, self._now, path=departure.name)
        words = f"{Sync.LEAVING}: {departure.why}"
        return self._image(known, Sync.LEAVING, self._wear(known), words, departure.why)

    def _failing(self, life: Life, failure: Failure, planned: PlannedImage | None) -> Image:
        due = self._pauses.next_try(failure)
        is_held = due is not None and due > self._now
        sync = Sync.HELD if is_held else Sync.PENDING
        again = f"from {_when(due)} (at once: {AT_ONCE})" if due and is_held else "in the next run"
        words = f"{sync}: {failure.reason}; tried again {again}"
        if life.published:
            words += f"; the version of {_when(life.published_at)} is in force"
        next_try = due if is_held else None
        return self._image(life, sync, Health.FAILING, words, failure.reason, next_try, planned)

    def _image(
        self,
        life: Life,
        sync: Sync,
        health: Health,
        verdict: str,
        reason: str,
        next_try: float | None = None,
        planned: PlannedImage | None = None,
    ) -> Image:
        is_wished = sync != Sync.LEAVING
        return Image(
            name=life.path,
            title=life.title,
            repository=self._name,
            platform=str(planned.platform) if planned else "",
            platforms=planned.variants if planned else (),
            wish=life.source if is_wished else {},
            sync=sync,
            health=health,
            verdict=one_line(verdict),
            reason=one_line(reason),
            next_try=next_try,
            wanted=life.moves[0].digest if life.moves and is_wished else "",
            current=life.published,
            history=life.moves,
            first_seen=life.first_seen,
            published=life.published_at,
            revision=life.revision,
            failure=self._failed(life.failure) if life.failure else None,
            failures=tuple(self._failed(one) for one in life.failures if one.ended is not None),
            sizes=self._sizes_of(life),
            losses=life.losses,
            layers=tuple(self._places[digest] for digest in life.layers),
            paths=self._paths(life, planned),
            changes=life.changes,
        )

    def _life(self, title: str) -> Life:
        return self._state.lives.get(title) or Life(title, self._now)

    @staticmethod
    def _wear(life: Life) -> Health:
        return wear(life.published, life.losses)

    def _failed(self, failure: Failure) -> Failed:
        return Failed(
            kind=failure.kind,
            reason=one_line(failure.reason),
            first=failure.first,
            last=failure.last,
            count=failure.count,
            next=None if failure.ended else self._pauses.next_try(failure),
            ended=failure.ended,
        )

    def _sizes_of(self, life: Life) -> Sizes:
        if not life.published:
            return Sizes()
        each = list(dict.fromkeys(life.layers))
        sizes = [self._sizes[digest] for digest in each]
        alone = [self._sizes[digest] for digest in each if self._users[digest] == 1]
        return Sizes(
            compressed=_sum(one.compressed for one in sizes),
            unpacked=_sum(one.unpacked for one in sizes),
            files=life.files,
            own=_sum(one.compressed for one in alone),
        )

    def _paths(self, life: Life, planned: PlannedImage | None) -> dict[str, str]:
        if not life.published or planned is None:
            return {}
        found: dict[str, str] = {}
        if Product.FLAT in planned.products:
            path = str(self._layout.seen(self._layout.link(life.path)))
            found |= {"path": path, "apptainer": f"apptainer exec {shlex.quote(path)}"}
        if Product.PODMAN in planned.products:
            platform = f"--platform={planned.platform} " if planned.variants else ""
            found["podman"] = f"podman run {platform}{shlex.quote(planned.reference.name)}"
        return found


def wear(published: str, losses: Iterable[str]) -> Health:
    """Whether what is published, if anything is, lacks something that shows."""
    lost = published and any(kind not in _HARMLESS for kind in losses)
    return Health.DEGRADED if lost else Health.OK


def of_damage(sync: str, damage: str) -> tuple[Health, str, str]:
    """Health, verdict and reason of an image that is damaged."""
    return Health.DEGRADED, f"{sync}, and {DAMAGED}{damage}", f"{DAMAGED}{damage}"


def _sum(sizes: Iterator[int | None]) -> int | None:
    """The sum, where all are known."""
    found = list(sizes)
    known = [size for size in found if size is not None]
    return sum(known) if len(known) == len(found) else None


def _when(moment: float | None) -> str:
    """A moment in the time of this machine, for who reads it on another day."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else "an unknown day"
