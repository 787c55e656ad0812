"""What is known of images from earlier runs: which are held, and since when each waits.

An image that failed is left alone for a while: one of them must not cost every run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .. import __version__
from ..config.configuration import Config
from ..layer.limits import UnpackLimits
from ..state.model import Life
from ..state.pauses import key_of
from .model import PlannedImage, Problem, State

AT_ONCE = "--config retry_failed=true"

_MADE_BY = frozenset(
    {"repository", "products", "platforms", "registries", "limits", "flat", "adopt", "private"}
    | {"signatures"}
)
"""The keys of the configuration that what becomes of an image depends on."""


_LIMITS = frozenset(each.name for each in fields(UnpackLimits))


class Holds:
    """What is held, by the ``lives`` that are kept of a repository's images, at a moment."""

    def __init__(
        self, lives: Mapping[str, Life], config: Config, members: Mapping[str, Any], now: float
    ) -> None:
        self._lives = lives
        self._holds = not config.retry_failed and config.scope != "all"
        self._pauses = config.retry
        self._members = members
        self._now = now

    def of(self, image: PlannedImage) -> PlannedImage:
        """The image as it is planned: held, if it is to be made and failed a while ago."""
        if image.state != State.PENDING:
            return image
        life = self._lives.get(image.title)
        if life and life.moves and life.moves[0].digest == str(image.manifest):
            image = replace(image, since=life.moves[0].seen)
        if image.anew:
            return image
        until = self._until(image.title, key_of_image(image, self._members))
        if not until:
            return image
        failure = self._lives[image.title].failure
        assert failure is not None
        return replace(image, state=State.HELD, why=failure.reason, until=until)

    def of_problem(self, problem: Problem) -> Problem:
        """A wish that cannot be followed: it was asked for, but fails the run only now and then."""
        until = self._until(problem.title, key_of_problem(problem, self._members))
        return replace(problem, until=until) if until else problem

    def _until(self, title: str, key: str) -> float:
        """When something is tried again that failed; 0 where that is now."""
        life = self._lives.get(title) if self._holds else None
        failure = life.failure if life else None
        # Nor is one held by a failure that is yet to come, as a clock that was ahead has it.
        if failure is None or failure.key != key or failure.last > self._now:
            return 0.0
        until = self._pauses.next_try(failure) or 0.0
        return until if until > self._now else 0.0


def key_of_image(image: PlannedImage, members: Mapping[str, Any]) -> str:
    """What is tried when an image is made: with another digest, wish or configuration another."""
    wish = [image.products, image.platform, image.variants, image.fix_permissions, image.adopts]
    return key_of([str(image.manifest), *map(str, wish), _configuration(members)])


def key_of_problem(problem: Problem, members: Mapping[str, Any]) -> str:
    """What is tried when a wish cannot be resolved."""
    return key_of(["", problem.title, _configuration(members)])


def _configuration(members: Mapping[str, Any]) -> list[tuple[str, Any]]:
    limits = {name: limit for name, limit in members.get("limits", {}).items() if name in _LIMITS}
    made_by = {**members, "limits": limits}
    found = sorted((name, made_by[name]) for name in _MADE_BY if name in made_by)
    return [("version", __version__), *found]


def held_in_words(reason: str, until: float) -> str:
    """Why something is held, and until when."""
    return f"{reason}; tried again from {local_time(until)} (at once: {AT_ONCE})"


def local_time(moment: float) -> str:
    """A moment on the clock of this machine, with the date where that is not today."""
    at, today = time.localtime(moment), time.localtime()
    is_today = at[:3] == today[:3]
    return time.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M", at)
