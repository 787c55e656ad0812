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
from duccmake.planning.poll_memory import Poll, PollMemory
from duccmake.run.document import Document, Failed, Health, Sync
from duccmake.run.document import Image as Told
from duccmake.run.whereabouts import Asked, Running, State, Waiting, Whereabouts
from duccmake.workspace.results import POLLS, STATUS
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
    assert found.is_final
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
    told(amd, replace(arm, current=OTHER))
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
