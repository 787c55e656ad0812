"""A disk that fills up while a layer is unpacked: that image fails, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support import oracles
from support.images import LayerBuilder
from support.oracles import needs_overlay
from support.runs import Work, fresh_work
from support.trees import differences, snapshot
from support.watching import events

LARGE = 40 * 1024 * 1024


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """All that is staged lies on a file system of 16 MB; the repository does not."""
    with oracles.tmpfs(tmp_path / "work/results", "16m"), fresh_work(tmp_path) as work:
        work.configure()
        yield work


def _image(text: str, size: int = 0) -> Image:
    layer = LayerBuilder().dir("etc").file("etc/name", text).file("large", bytes(size)).layer()
    return Image((layer,), {"Cmd": ["/bin/true"]})


@needs_overlay
def test_the_image_fails_with_no_space_and_the_others_and_what_is_published_stay(work: Work):
    work.push("good/old:1", _image("old"))
    work.wish("{host}/good/old:1")
    work.run(check=True)
    repository = work.repository
    published = repository.path / work.named("good/old:1")
    before = snapshot(published.resolve())

    # A few hundred kilobytes to fetch, and more than there is room for.
    work.push("large/image:1", _image("large", LARGE))
    work.push("good/new:1", _image("new"))
    work.wish("{host}/good/old:1", "{host}/large/image:1", "{host}/good/new:1")
    # One image after the other: what has room alone has it then.
    work.configure(limits={"run_images": 1})
    run = work.run("--cores", "1")

    assert run.status != 0
    assert "no space left while unpacking" in run.said
    assert run.outcomes[work.named("large/image:1")][0] == "failed"
    assert not list((work.path / "results").glob("*/partial/*"))
    assert not list((work.path / "results").rglob("layerfs"))
    assert repository.record(work.named("large/image:1")) is None
    assert differences(before, snapshot(published.resolve())) == []
    for name in ("good/old:1", "good/new:1"):
        assert repository.verify(work.named(name)) == []


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Work]:
    """The whole working directory has 12 MB, with all that Snakemake keeps; not the repository."""
    with oracles.tmpfs(tmp_path / "work", "12m"), fresh_work(tmp_path) as work:
        work.configure(repository={"root": str(tmp_path / "cvmfs")})
        work.environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        yield work


@needs_overlay
def test_a_download_that_fills_the_working_directory_is_one_line_and_hinders_no_other(tight: Work):
    layer = LayerBuilder().file("large", random.Random(1).randbytes(LARGE)).layer()
    tight.push("large/image:1", Image((layer,), {}))
    tight.push("small/image:1", _image("small"))
    tight.wish("{host}/large/image:1", "{host}/small/image:1")
    # One image after the other: what has room alone has it then.
    repository = {"root": str(tight.path.parent / "cvmfs")}
    tight.configure(repository=repository, limits={"run_images": 1})
    run = tight.run("--cores", "1")
    assert run.status != 0
    assert run.outcomes[tight.named("small/image:1")][0] == "converted"
    outcome, reason = run.outcomes[tight.named("large/image:1")]
    assert outcome == "failed" and "No space left on device; make room and run again" in reason
    assert "Traceback" not in run.said and "Error" not in run.said
    assert not list((tight.path / "results/blobs").glob("*.part"))


@needs_overlay
def test_a_working_directory_that_is_full_from_the_beginning_is_one_line(tight: Work):
    tight.push("small/image:1", _image("small"))
    tight.wish("{host}/small/image:1")
    tight.run("-n", check=True)
    filler = tight.path / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    run = tight.run()
    assert run.status == 1
    assert run.stderr.splitlines()[1:] == [
        f"duccmake: no space is left in {tight.path}; make room and run again"
    ]
    filler.unlink()
    assert tight.run().counts == (1, 0, 0, 0)


@needs_overlay
def test_a_disk_without_room_for_the_plan_is_told_in_one_line_and_in_the_event_log(work: Work):
    work.push("good/new:1", _image("new"))
    work.wish("{host}/good/new:1")
    with (work.path / "results/other").open("wb", buffering=0) as other, suppress(OSError):
        while True:
            other.write(bytes(4096))
    run = work.run()
    assert run.status != 0 and "Traceback" not in run.said
    assert "No space left on device" in run.said
    [event] = events(work, "end_ducc")
    assert event["status"] == "error" and "No space left on device" in event["error"]
    (work.path / "results/other").unlink()
    work.run(check=True)
    assert work.repository.verify(work.named("good/new:1")) == []
