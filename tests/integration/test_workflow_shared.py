"""No image touches another: honest ones and liars share blobs, diff_ids and configurations.

Sets of images (`shared_images`) enter a wish list over several runs, in any order; after
each run every honest image is wholly itself wherever it is published, and nothing is
there of those that do not say what is so.  ``DUCCMAKE_EXAMPLES`` sets how many sets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from published_images import Reader
from runs import REPOSITORY, Run, Work, fresh_work
from shared_images import KINDS, STEPS, Spec, World, world

WORLDS = int(os.environ.get("DUCCMAKE_EXAMPLES", len(KINDS)))
TOGETHER = 12
"""Sets that share a wish list, and nothing else."""


@dataclass
class Story:
    """A set of images, as it stands in the wish list; ``problems`` are what was wrong so far."""

    world: World
    current: dict[str, Spec] = field(default_factory=dict)
    visible: dict[str, Spec] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def step(self, number: int, work: Work) -> None:
        """Push what comes in that run."""
        assert work.registry
        for name, spec in self.world.steps[number].items():
            spec.push(work.registry.store, name)
            self.current[name] = spec

    def look(self, run: Run, reader: Reader, host: str, when: str) -> None:
        """Compare what a run said and left with what it should have."""
        found = [
            problem
            for name, spec in self.current.items()
            for problem in self._outcome(name, spec, *run.outcomes.get(f"{host}/{name}", ("", "")))
        ]
        found += reader.problems(self.world.prefix, self.world.specs, self.visible)
        self.problems += [f"{when}: {problem}" for problem in found]

    def _outcome(self, name: str, spec: Spec, outcome: str, reason: str) -> Iterator[str]:
        title = f"{name} ({spec.kind}) is {outcome}, {reason!r}"
        if spec.whatever and outcome in ("converted", "up to date"):
            self.visible[name] = spec
        elif spec.honest:
            wanted = "up to date" if self.visible.get(name) == spec else "converted"
            self.visible[name] = spec
            if outcome != wanted:
                yield f"{title}, wanted {wanted}"
        elif outcome != "failed":
            yield f"{title}, wanted failed with {' and '.join(spec.refused[0])}"
        elif not any(all(_names(reason, word) for word in words) for words in spec.refused):
            yield f"{title}, which does not name {' and '.join(spec.refused[0])}"

    def expect_failure(self) -> bool:
        """Whether a run with this set fails."""
        return any(not spec.honest and not spec.whatever for spec in self.current.values())


def _names(reason: str, word: str) -> bool:
    """Whether a reason names a value; of a digest, the digits that people compare are enough."""
    _, colon, hexadecimal = word.partition(":")
    wanted = hexadecimal[:12] if colon else re.escape(word)
    return bool(re.search(rf"(?<![0-9a-z]){wanted}" + ("" if colon else r"(?![0-9a-z])"), reason))


@dataclass
class Batch:
    """Sets of images that are published into one repository; ``problems`` are of no set."""

    stories: list[Story]
    problems: list[str] = field(default_factory=list)

    def live(self, work: Work, root: Path, wish: Mapping[str, Any]) -> None:
        """All runs; the last one without those that are refused."""
        for number in range(STEPS):
            for story in self.stories:
                story.step(number, work)
            self._run(work, root, wish, f"run {number + 1}")
        for story in self.stories:
            for name in [name for name, spec in story.current.items() if not spec.honest]:
                del story.current[name]
        self._run(work, root, wish, "the last run")

    def _run(self, work: Work, root: Path, wish: Mapping[str, Any], when: str) -> None:
        names = [name for story in self.stories for name in story.current]
        work.wish(*(f"{{host}}/{name}" for name in names), **wish)
        run = work.run()
        reader = Reader(root, work.host)
        for story in self.stories:
            story.look(run, reader, work.host, when)
        fails = any(story.expect_failure() for story in self.stories)
        if bool(run.status) != fails:
            self.problems.append(f"{when}: the exit status is {run.status}")
        strange = {name for name in run.outcomes if name.removeprefix(f"{work.host}/") not in names}
        strange |= reader.names() - {name for story in self.stories for name in story.visible}
        if strange:
            self.problems.append(f"{when}: there is {', '.join(sorted(strange))}")


class Batches:
    """Those that were asked for so far."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lived: dict[int, Batch] = {}

    def of(self, number: int) -> Batch:
        """The batch with that set of images, after all its runs."""
        first = number - number % TOGETHER
        if first not in self._lived:
            last = min(first + TOGETHER, WORLDS)
            self._lived[first] = Batch([Story(world(each)) for each in range(first, last)])
            with fresh_work(self._base / str(first)) as work:
                work.configure(platforms=["linux/amd64"])
                root = work.path / "cvmfs" / REPOSITORY
                self._lived[first].live(work, root, {})
        return self._lived[first]


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    return Batches(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize(
    "number", range(WORLDS), ids=[f"{number}-{world(number).kind}" for number in range(WORLDS)]
)
def test_each_image_is_wholly_itself_and_a_liar_alone_is_refused(batches: Batches, number: int):
    batch = batches.of(number)
    story = batch.stories[number % TOGETHER]
    assert story.problems == [], "\n".join(story.problems)


@pytest.mark.parametrize("number", range(0, WORLDS, TOGETHER))
def test_a_run_fails_if_an_image_does_and_publishes_no_other_names(batches: Batches, number: int):
    assert batches.of(number).problems == []
