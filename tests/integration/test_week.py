"""A week in the life of a repository, with readers who never stop looking.

The first day has the watcher and the webhook, as they run; the other days are simulated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.repository.history import history_of, kept
from duccmake.repository.inventory import survey
from support.faulty_registry import FaultyRegistry
from support.images import Layer, LayerBuilder
from support.on_disk import OnDisk
from support.orphans import unreachable
from support.readers import Readers, twice
from support.runs import REPOSITORY, Run, Work, days_later, fresh_work
from support.samples import AMD64, slow_layer
from support.watching import deaths, eventually, listening, polls, storm, watching

APPS = [f"team/app{number:02}" for number in range(8)]
LEAVES, GONE, MISSPELT = APPS[7], APPS[6], APPS[5]
NOTICES = 400
NIGHTLY, SLOW = "team/nightly", "team/slow"


class Week:
    """The registry, the wish list, and runs on any day."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.base = LayerBuilder().dir("etc").file("etc/base", "base" * 100).layer()
        self.wished = {*(f"{name}:1" for name in APPS), f"{NIGHTLY}:*", f"{SLOW}:1"}

    def push(self, name: str, text: str, tag: str = "1", *layers: Layer) -> None:
        self.work.push(f"{name}:{tag}", twice(text, self.base, *layers))

    def wish(self, *, without: str = "", but: str = "") -> None:
        self.work.wish(
            *(f"{{host}}/{wish}" for wish in sorted(self.wished - {without})), *[but] * bool(but)
        )

    def on_day(self, day: float, *options: str, check: bool = False) -> Run:
        return days_later(self.work, day).run(*options, check=check)

    def content(self, name: str) -> str | None:
        return self.work.content(name)

    def published(self) -> set[str]:
        """Names with a link and all that belongs to it, without those of the history."""
        repository = self.work.repository
        past = kept(history_of(repository), 100)
        host = f"{self.work.host}/"
        names = {name for name in repository.names() if repository.record(name) is not None}
        return {name.removeprefix(host) for name in names - past}

    def whole(self) -> bool:
        repository = self.work.repository
        return not [line for name in repository.names() for line in repository.verify(name)]


@pytest.fixture
def week(tmp_path: Path) -> Iterator[Week]:
    with fresh_work(tmp_path, FaultyRegistry) as work:
        work.configure(
            platforms=[str(AMD64)],
            products=["layers", "flat"],
            watch={"retry": 1},
            history={"keep": 1},
            removal={
                "policy": "prune",
                "confirm": 86400,
                "grace_days": 4,
                "max_percent": 25,
                "retention": [{"images": f"*/{NIGHTLY}:*", "keep_last": 3}],
            },
        )
        yield Week(work)


def test_a_week_in_the_life(week: Week):
    readers = Readers(week.work.repository.path)
    with readers.reading():
        the_first_day(week)
        growing_and_leaving(week)
        nothing_is_known(week)
        back_again(week)
        a_bad_move(week)
        the_end(week)
    assert readers.torn == []
    assert readers.looks > 1000


def the_first_day(week: Week) -> None:
    """All is published; a storm of notices moves all of it; the watcher dies in each phase."""
    for name in APPS:
        week.push(name, f"{name} first")
    week.push(NIGHTLY, "n1", "2026.1")
    week.wished.discard(f"{SLOW}:1")
    week.wish()
    with listening(week.work) as webhook:
        with watching(week.work) as watch:
            eventually(lambda: len(polls(week.work)) == 1, "the first poll", watch)

            def move(name: str) -> None:
                week.push(name, f"{name} moved")

            storm(webhook, week.work.host, APPS, NOTICES, move)

            def moved() -> bool:
                return not webhook.waiting() and all(
                    week.content(f"{name}:1") == f"{name} moved" for name in APPS
                )

            eventually(moved, "all images", watch, webhook)
        assert len(polls(week.work)) <= 12
    upper = slow_layer("upper", 600)
    week.push(SLOW, "slow", "1", upper)
    week.wished.add(f"{SLOW}:1")
    week.wish()
    assert len(list(deaths(week.work, f"{SLOW}:1", upper))) == 4
    with watching(week.work) as watch:
        # The image may be there already, and before this a signal would just kill it.
        watch.says("watching, with a poll every")
        eventually(lambda: week.content(f"{SLOW}:1") == "slow", "the slow one", watch)
        assert watch.stop() == 0
    assert week.whole()
    assert week.published() == {*(f"{name}:1" for name in APPS), f"{NIGHTLY}:2026.1", f"{SLOW}:1"}


def growing_and_leaving(week: Week) -> None:
    """Day 1: a glob grows beyond what is kept, an image is dropped, a tag is deleted."""
    for number in range(2, 6):
        week.push(NIGHTLY, f"n{number}", f"2026.{number}")
    week.wished.discard(f"{LEAVES}:1")
    week.wish()
    assert week.work.registry and week.work.registry.store.delete_manifest(GONE, "1")
    run = week.on_day(1)
    assert run.outcomes[week.work.named(f"{LEAVES}:1")][0] == "removed"
    assert run.outcomes[week.work.named(f"{NIGHTLY}:2026.1")][0] == "removed"
    assert "its registry lacks the tag since" in run.stderr
    assert week.content(f"{GONE}:1"), "one poll is not enough"
    nightly = {f"{NIGHTLY}:2026.{number}" for number in (3, 4, 5)}
    apps = {f"{name}:1" for name in APPS} - {f"{LEAVES}:1"}
    assert week.published() == {*apps, *nightly, f"{SLOW}:1"}
    assert week.whole()


def nothing_is_known(week: Week) -> None:
    """Days 2 and 3: the registry is down, then the wish list is broken in two ways."""
    before = week.published()
    with week.work.deserted():
        down = week.on_day(2)
        assert "what is published stays in force" in down.stderr
        assert week.published() == before
    recipe = week.work.path / "config/recipe.yaml"
    recipe.write_text("version: 1\ninput: [unfinished")
    assert week.on_day(3).status != 0
    assert week.published() == before
    week.wish(without=f"{MISSPELT}:1", but="https://r.example.org/Team/Misspelt:1")
    broken = week.on_day(3.1)
    assert broken.status != 0
    assert "as far as can be read, and kept" in broken.stderr
    assert week.published() == before


def back_again(week: Week) -> None:
    """Day 4: the list is mended and has an image back that is in its time of grace."""
    week.wished.add(f"{LEAVES}:1")
    week.wish()
    run = week.on_day(4)
    assert run.outcomes[week.work.named(f"{LEAVES}:1")][0] == "converted"
    assert run.blobs() == []
    assert run.outcomes[week.work.named(f"{GONE}:1")] == (
        "removed",
        "its tag is gone from the registry",
    )
    assert week.content(f"{LEAVES}:1") == f"{LEAVES} moved"
    week.wished.discard(f"{GONE}:1")
    week.wish()
    collected = week.on_day(6, check=True)
    assert collected.outcomes[REPOSITORY][0] == "freed"
    assert week.content(f"{LEAVES}:1") == f"{LEAVES} moved"
    assert week.whole()


def a_bad_move(week: Week) -> None:
    """Day 6: a tag moves to something bad, and is held at what it was until that is mended."""
    name, path = f"{APPS[0]}:1", week.work.named(f"{APPS[0]}:1")
    good = week.work.repository.record(path).manifest
    week.push(APPS[0], "bad")
    assert week.on_day(6.1).outcomes[path][0] == "converted"
    assert week.content(name) == "bad"
    week.on_day(6.2, "rollback", "--config", f"image={path}", f"digest={good}", check=True)
    assert week.content(name) == f"{APPS[0]} moved"
    assert "pinned to" in week.on_day(6.3).outcomes[path][1]
    week.push(APPS[0], "mended")
    week.on_day(6.4, "unpin", "--config", f"image={path}", check=True)
    week.on_day(6.5, check=True)
    assert week.content(name) == "mended"


def the_end(week: Week) -> None:
    """Two weeks later all times of grace are over."""
    week.on_day(20, check=True)
    week.on_day(30, check=True)
    nightly = {f"{NIGHTLY}:2026.{number}" for number in (3, 4, 5)}
    apps = {f"{name}:1" for name in APPS} - {f"{GONE}:1"}
    assert week.published() == {*apps, *nightly, f"{SLOW}:1"}
    assert week.whole()
    repository = week.work.repository
    assert unreachable(repository.path) == []
    found = survey(repository.view)
    assert (found.present.flats, found.present.layers) == (found.used.flats, found.used.layers)
    assert json.loads(OnDisk(repository.path).remove_schedule.read_bytes()) == []
