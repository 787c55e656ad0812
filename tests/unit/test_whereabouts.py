"""What is answered to who asks where an image is, by the document of the last run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duccmake.oci.reference import Digest
from duccmake.planning.model import PlannedImage
from duccmake.planning.model import State as Planned
from duccmake.planning.poll_memory import Poll, PollMemory
from duccmake.products import Product
from duccmake.run.document import Document, Failed, Health, Sync
from duccmake.run.document import Image as Told
from duccmake.run.whereabouts import Asked, Progress, Running, State, Waiting, Whereabouts
from duccmake.workspace.reports import JobName, Kind, Report, Rule, write_report
from duccmake.workspace.results import POLLS, RUNS, STATUS, blob, staged_flat_tree, staged_layer
from duccmake.workspace.results import published as receipt
from support.planned import LAYER_BYTES, REPOSITORY, layer, plan
from support.planned import image as planned
from support.statuses import image

NAME = "docker.io/library/alpine:3.20"
OTHER = f"sha256:{'9' * 64}"
NEXT = 4e9


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path) -> Iterator[Path]:
    with chdir(tmp_path):
        yield tmp_path


def told(*images: Told, **run: Any) -> None:
    """A run has ended now that found this."""
    run = {"ended": time.time(), "seconds": 1.0, "error": "", **run}
    STATUS.parent.mkdir(parents=True, exist_ok=True)
    STATUS.write_bytes(Document(run=run, images=images).to_json())


def published(**members: object) -> Told:
    return image(NAME, **members)


def failing(**members: object) -> Told:
    failure = Failed("layer", "layer 1 is no archive", 1.0, 1.0, 1, NEXT)
    more = {"reason": failure.reason, "failure": failure, "next_try": NEXT, **members}
    return published(sync=Sync.HELD, health=Health.FAILING, **more)


CURRENT = image(NAME).current


def look(
    digest: str = "", since: float = 0.0, waiting: Waiting = Waiting.DONE, run: Any = None
) -> Any:
    return Whereabouts().look(Asked(NAME, digest, since), waiting, run)


def test_the_digest_that_is_published_is_visible_whatever_else_happens():
    told(published())
    for waiting in Waiting:
        found = look(CURRENT, time.time() + 60, waiting)
        assert (found.state, found.revision, found.manifests) == ("visible", 812, (CURRENT,))
    told(failing(wanted=OTHER))
    assert look(CURRENT).state == "visible"


def test_without_a_digest_it_is_visible_once_a_run_has_seen_that_it_was_asked_for():
    told(published())
    assert look().state == "visible"
    assert look(since=time.time() - 30).state == "visible"
    assert look(since=time.time() + 30).state == "queued"
    assert look(since=time.time() - 30, waiting=Waiting.NEW).state == "queued"
    assert look(since=time.time() - 30, waiting=Waiting.TAKEN).state == "queued"


def test_what_failed_says_why_and_when_it_is_tried_again():
    told(failing(wanted=OTHER))
    found = look(OTHER, time.time() - 30)
    assert (found.state, found.reason, found.next_try) == ("failed", "layer 1 is no archive", NEXT)
    assert look(OTHER).state == "failed"


def test_a_failure_of_another_digest_is_none_of_what_is_waited_for():
    told(failing(wanted=OTHER))
    assert look(f"sha256:{'7' * 64}").state == "queued"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (published(), f"its tag leads to {CURRENT}"),
        (published(health=Health.STALE, reason="its registry does not answer"), "does not answer"),
        (published(sync=Sync.LEAVING, reason="no wish list names it"), "no wish list names it"),
    ],
)
def test_a_run_that_came_to_something_else_says_so(found, words):
    told(found)
    asked = look(OTHER, time.time() - 30)
    assert asked.state == "failed"
    assert words in asked.reason


def test_an_image_that_no_run_has_found_is_not_waited_for_in_vain():
    told()
    assert look(OTHER, time.time() - 30).state == "failed"


def test_a_run_that_came_to_no_images_says_why_it_waits():
    told(published(), error="the recipe is broken")
    found = look(OTHER, time.time() - 30, Waiting.TAKEN)
    assert (found.state, found.reason) == ("queued", "the recipe is broken")


def test_the_index_that_was_pushed_stands_for_the_manifests_behind_it():
    memory = PollMemory(POLLS)
    digests = [Digest.parse(text) for text in (OTHER, CURRENT, CURRENT)]
    memory.remember("any", Poll(*digests, 1.0))
    memory.save()
    told(published())
    assert look(OTHER).state == "visible"


def test_of_several_platforms_all_have_to_be_there():
    arm = replace(published(), title=f"{NAME} (linux/arm64)", current="", wanted=OTHER)
    amd = replace(published(), title=f"{NAME} (linux/amd64)")
    pending = replace(arm, sync=Sync.PENDING, reason="new")
    told(amd, pending)
    assert look(since=time.time() - 30).state == "queued"
    index = f"sha256:{'8' * 64}"
    memory = PollMemory(POLLS)
    for name, manifest in (("arm", OTHER), ("amd", CURRENT)):
        digests = [Digest.parse(text) for text in (index, manifest, manifest)]
        memory.remember(name, Poll(*digests, 1.0))
    memory.save()
    before = replace(arm, current=f"sha256:{'1' * 64}")
    told(amd, before)
    assert look(index, time.time() - 30).state == "failed"
    told(amd, replace(arm, current=OTHER))
    assert look(index, time.time() + 30).state == "visible"
    assert (
        look(since=time.time() - 30).manifests == (OTHER, CURRENT)[:: 1 if OTHER < CURRENT else -1]
    )


def test_a_run_without_a_plan_yet_resolves():
    told(published())
    found = look(OTHER, time.time(), Waiting.TAKEN, Running(1, time.time()))
    assert found.state == "resolving"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format": 99}', b'{"format": 1}'])
def test_a_document_that_cannot_be_read_is_no_end(content):
    STATUS.parent.mkdir(parents=True)
    STATUS.write_bytes(content)
    assert look(OTHER, time.time()).state is State.QUEUED
    assert json.dumps(Whereabouts().last_run()) == "{}"


# --- while a run is under way ---------------------------------------------

RUN = 7


class Following:
    """A run under way of one image with two layers, and what it leaves."""

    def __init__(self, **members: Any) -> None:
        self.layers = (layer("first"), layer("second"))
        self.image = planned(layers=self.layers, products=(Product.LAYERS, Product.FLAT), **members)
        self.whereabouts = Whereabouts()
        self.save(self.image)

    def save(self, *images: PlannedImage, **members: Any) -> None:
        began = time.time()
        path = plan(images, **members).save()
        self.run = RUNS / f"{path.stem[:12]}-{RUN}"
        self.running = Running(RUN, began - 1)

    def look(self, digest: str = "") -> Progress:
        asked = Asked(self.image.reference.name, digest, time.time())
        return self.whereabouts.look(asked, Waiting.TAKEN, self.running)

    def fetched(self, number: int, size: int) -> None:
        self._make(blob(self.layers[number].digest.short)[0], bytes(size))

    def unpacked(self, number: int) -> None:
        self._make(staged_layer(REPOSITORY, self.layers[number].digest.short))

    def flattened(self) -> None:
        self._make(staged_flat_tree(REPOSITORY, self.image.config.short))

    def published(self, revision: int) -> None:
        key = self.image.manifest.short
        job = JobName(Rule.PUBLISH_IMAGE, (REPOSITORY, self.image.name))
        write_report(self.run, Report(job, Kind.PUBLISHED, self.image.title, revision=revision))
        self._make(receipt(REPOSITORY, self.image.name, key))

    @staticmethod
    def _make(path: Path, content: bytes = b"") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_each_state_of_a_run_is_what_its_jobs_have_left():
    it = Following()
    digest = str(it.image.manifest)
    first = it.look(digest)
    assert (first.state, first.fetched, first.bytes) == ("fetching", 0, 2 * LAYER_BYTES)
    it.fetched(0, LAYER_BYTES)
    it.fetched(1, 300)
    assert it.look(digest).fetched == LAYER_BYTES + 300
    it.fetched(1, LAYER_BYTES)
    assert it.look(digest).state == "unpacking"
    it.unpacked(0)
    it.unpacked(1)
    assert it.look(digest).state == "unpacking"
    it.flattened()
    assert it.look(digest).state == "publishing"
    it.published(813)
    last = it.look(digest)
    assert (last.state, last.revision, last.manifests) == ("visible", 813, (digest,))


def test_what_a_run_publishes_is_not_visible_as_another_digest():
    it = Following()
    for number in range(2):
        it.fetched(number, LAYER_BYTES)
    it.published(813)
    assert it.look().state == "visible"
    assert it.look(OTHER).state != "visible"


def test_a_failure_is_told_while_the_run_goes_on_and_those_of_others_are_not():
    it = Following()
    assert it.look().reason == ""
    job = JobName(Rule.FETCH_BLOB, ("000000000000",))
    write_report(it.run, Report(job, Kind.FAILED, words="of another"))
    assert it.look().reason == ""
    job = JobName(Rule.FETCH_BLOB, (it.layers[1].digest.short,))
    write_report(it.run, Report(job, Kind.FAILED, words="two\nlines"))
    assert it.look().reason == "two lines"
    assert it.look().state == "fetching"


def test_an_image_that_the_run_finds_published_is_visible_and_one_that_is_held_is_not():
    it = Following(state=Planned.PUBLISHED, why="")
    assert it.look().state == "visible"
    assert it.look(OTHER).state == "resolving"
    held = Following(state=Planned.HELD, why="layer 1 is no archive", until=NEXT)
    assert (held.look().state, held.look().reason) == ("resolving", "layer 1 is no archive")


def test_a_plan_of_an_earlier_run_says_nothing():
    it = Following()
    it.running = Running(RUN, time.time() + 60)
    assert it.look().state == "resolving"
