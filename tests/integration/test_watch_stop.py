"""SIGTERM at generated moments of conversions: the watcher stops in order, and the next goes on.

``DUCCMAKE_EXAMPLES`` sets how many moments: a hundred and more for a long run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from support.crashes import leftovers
from support.processes import who_works_in
from support.runs import Work, fresh_work
from support.samples import AMD64, slow_layer, text_image
from support.watching import Program, eventually, polls, watching

COUNT = int(os.environ.get("DUCCMAKE_EXAMPLES", "8"))


@dataclass
class Trial:
    """A watcher that has something to do, and how things were before it began."""

    work: Work
    watch: Program
    text: str
    requests: int = field(init=False)
    polls: int = field(init=False)
    files: frozenset[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.requests = len(self.work.registry.requests)
        self.polls = len(polls(self.work))
        self.files = frozenset(self.work.path.glob("results/**/*"))

    def says(self, text: str) -> bool:
        return text in self.watch.said()

    def asks(self, text: str) -> bool:
        return any(text in str(it) for it in self.work.registry.requests[self.requests :])

    def has(self, pattern: str) -> bool:
        with suppress(FileNotFoundError):  # of what is removed while it is read
            return not self.files.issuperset(self.work.path.glob(pattern))
        return False

    def is_done(self) -> bool:
        """Whether a poll has ended: what has not happened by then will not."""
        return len(polls(self.work)) > self.polls


Moment = Callable[[Trial], bool]

MOMENTS: dict[str, Moment] = {
    "it begins": lambda trial: True,
    "it watches": lambda trial: trial.says("watching, with a poll"),
    "Snakemake begins": lambda trial: bool(psutil.Process(trial.watch.process.pid).children()),
    "a tag is asked for": lambda trial: trial.asks("manifests"),
    "there is a plan": lambda trial: trial.has("results/plans/*"),
    "Snakemake has its lock": lambda trial: trial.has(".snakemake/locks/*"),
    "jobs are chosen": lambda trial: trial.says("Select jobs"),
    "a layer is fetched": lambda trial: trial.asks("blobs"),
    "a layer is unpacked": lambda trial: trial.has("results/*/partial/*/layerfs/*"),
    "something is removed": lambda trial: trial.says("Removing temporary output"),
    "a layer is staged": lambda trial: trial.has("results/*/layers/*/layer"),
    "a tree is staged": lambda trial: trial.has("results/*/flat/*"),
    "a commit is made": lambda trial: trial.has("cvmfs/*/.duccmake/journal.json"),
    "an image is visible": lambda trial: trial.work.content("team/app:1") == trial.text,
    "a receipt is written": lambda trial: trial.has("results/*/published/*/*/*/*.json"),
    "the summary is said": lambda trial: trial.says("duccmake: 1 converted"),
    "the run has ended": lambda trial: trial.is_done(),
}


def moments() -> Iterator[tuple[str, float, int]]:
    """Names of moments, the seconds after each, and how many signals are sent."""
    names = list(MOMENTS)
    for number in range(COUNT):
        chance = random.Random(number)
        # A few are spread over all phases, many come to each several times.
        name = names[number * len(names) // COUNT if len(names) > COUNT else number % len(names)]
        delay = chance.choice([0.0, chance.uniform(0, 0.05), chance.uniform(0, 0.5)])
        yield name, delay, chance.choice([1, 1, 1, 2])


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with fresh_work(tmp_path) as work:
        work.configure(platforms=[str(AMD64)], watch={"interval": 3600, "retry": 1})
        work.wish("{host}/team/app:1", "{host}/team/other:1")
        yield work


def test_told_to_stop_at_any_moment_it_stops_in_order_and_the_next_run_goes_on(work: Work):
    for number, (name, delay, signals) in enumerate(moments()):
        what = f"{number}: {name}, {delay:.3f} s later, {signals} signals"
        print(what)
        text = f"text {number}"
        work.push("team/app:1", text_image(text, slow_layer(f"upper {number}", 1000)))
        work.push("team/other:1", text_image(text, slow_layer(f"other {number}", 300)))
        with watching(work) as watch:
            trial = Trial(work, watch, text)
            reached = MOMENTS[name]
            eventually(lambda: reached(trial) or trial.is_done(), what, watch)  # noqa: B023
            time.sleep(delay)
            for _ in range(signals - 1):
                watch.process.send_signal(signal.SIGTERM)
            # Before it has got as far as to hear of signals it just ends.
            assert watch.stop() in (0, -signal.SIGTERM), f"{what}\n{watch.said()}"
            # Nobody had to be killed for that, and nobody is left.
            assert "killing it" not in watch.said(), f"{what}\n{watch.said()}"
            assert who_works_in(work.path) == [], f"{what}\n{watch.said()}"
        assert not (work.repository.path / ".duccmake/journal.json").exists(), what
        for image in map(work.named, ("team/app:1", "team/other:1")):
            whole = [], [f"{image} is not published, or not wholly"]
            assert work.repository.verify(image) in whole, what
    with watching(work) as watch:
        eventually(lambda: work.content("team/app:1") == text, "the last one", watch)
        eventually(lambda: work.content("team/other:1") == text, "the other one", watch)
        eventually(lambda: "duccmake: " in watch.said(), "the summary", watch)
        assert watch.stop() == 0
    assert leftovers(work.repository.path) == []
