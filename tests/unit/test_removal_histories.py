"""Random histories of images that are added, moved, removed, brought back and pointed back.

After each step everything that has a link is whole.  In the end nothing is in the
repository that no record leads to: looked up here without the project's own survey.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import DuccmakeError
from duccmake.jobs.collect_garbage import collect
from duccmake.jobs.prune_images import prune
from duccmake.jobs.rollback import lift, roll_back
from duccmake.planning.model import Departure
from duccmake.repository.history import history_of, kept, left_with
from duccmake.repository.inventory import Use
from duccmake.repository.model import ChangeSet, Keep
from support.crashes import in_memory
from support.orphans import unreachable
from support.staged_trees import BASE, TOP, file, open_repository, stage_image, stage_layer
from support.staged_trees import publish as publish_changes

DAY = 86400.0
GRACE = 3 * DAY
TAGS = ("host/app:1", "host/app:2", "other/tool:latest")
LAYERS = {number: [*TOP, file("usr/share/number", b"%d" % number)] for number in range(4)}

tags = st.sampled_from(TAGS)
images = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple)
steps = st.one_of(
    st.tuples(st.just("publish"), tags, images, st.integers(0, 2)),
    st.tuples(st.just("leave"), tags),
    st.tuples(st.just("gc"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.integers(1, 5)),
    st.tuples(st.just("back"), tags, st.integers(0, 5)),
    st.tuples(st.just("alone"), st.integers(0, 3)),
)


class World:
    """A repository, a clock, and what should be published."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.now = 1_800_000_000.0
        self.repository = open_repository(base)
        self.wished: dict[str, str] = {}
        self.manifests: list[str] = []

    def publish(self, tag, numbers, keep):
        layers = [(self._layer("base", BASE), BASE)]
        layers += [(self._layer(str(number), LAYERS[number]), LAYERS[number]) for number in numbers]
        config = "-".join(map(str, numbers))
        image = stage_image(self.base / "images", tag, layers, config=config)
        image = replace(image, keep=Keep(keep))
        publish_changes(self.repository, ChangeSet(tuple(layer for layer, _ in layers), (image,)))
        self.wished[tag] = str(image.manifest)
        self.manifests.append(str(image.manifest))

    def _layer(self, name, specs):
        return stage_layer(self.base / "staging", name, specs)

    def alone(self, number):
        """A layer whose image is never published."""
        layer = self._layer(f"alone {number}", LAYERS[number])
        publish_changes(self.repository, ChangeSet((layer,), ()))

    def leave(self, tag):
        gone = [tag, *left_with(history_of(self.repository), [tag])]
        leaving = [
            Departure(self.repository.name, name, str(record.manifest), "left")
            for name in gone
            if (record := self.repository.description(name)) is not None
        ]
        prune(self.repository, leaving, max_percent=100, force=False, clock=self.clock)
        self.wished.pop(tag, None)

    def gc(self, batch):
        collect(self.repository, spoken_for=Use(), grace=GRACE, batch=batch, clock=self.clock)

    def wait(self, days):
        self.now += days * DAY

    def back(self, tag, number):
        if not self.manifests or tag not in self.wished:
            return
        wanted = self.manifests[number % len(self.manifests)]
        try:
            roll_back(self.repository, tag, wanted, Keep(1), clock=self.clock)
        except DuccmakeError:
            return
        lift(self.repository, tag)
        self.wished[tag] = wanted

    def clock(self):
        return self.now

    # --- what must be so ------------------------------------------------

    def check(self):
        for tag, manifest in self.wished.items():
            assert str(self.repository.record(tag).manifest) == manifest
        for link in self.links():
            name = str(link.relative_to(self.repository.path))
            assert self.repository.verify(name) == []
        published = set(self.repository.names())
        past = kept(history_of(self.repository), 100)
        assert published == {*self.wished, *past}

    def links(self) -> Iterator[Path]:
        for path in self.repository.path.rglob("*"):
            inner = path.relative_to(self.repository.path)
            if inner.parts[0][0] != "." and path.is_symlink():
                yield path


@contextmanager
def world() -> Iterator[World]:
    with in_memory() as base:
        found = World(base)
        with patch("duccmake.repository.metadata.time", SimpleNamespace(time=found.clock)):
            yield found


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, min_size=3, max_size=14))
def test_what_is_linked_is_whole_and_in_the_end_nothing_is_left_that_no_record_leads_to(taken):
    with world() as found:
        for step, *arguments in taken:
            getattr(found, step)(*arguments)
            found.check()
        found.gc(2)  # what was unlisted is entered
        found.wait(30)
        found.gc(2)
        found.check()
        assert unreachable(found.repository.path) == []
