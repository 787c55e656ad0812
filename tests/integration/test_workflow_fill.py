"""A first fill of many images: published as it goes, with room on the disk for a few."""

from __future__ import annotations

import re
import signal
import threading
from dataclasses import replace

import pytest

from duccmake.demo.images import Image
from duccmake.run.status import Status
from support.faulty_registry import FaultyRegistry, Held
from support.images import LayerBuilder
from support.runs import fresh_work
from support.samples import AMD64
from support.watching import events

BASE = LayerBuilder().dir("etc").file("etc/base", "base").layer()
COUNT = 4
OWN = [LayerBuilder().dir("etc").file("etc/own", str(number)).layer() for number in range(COUNT)]


@pytest.fixture
def work(tmp_path):
    with fresh_work(tmp_path, FaultyRegistry) as work:
        for number in range(COUNT):
            work.push(f"team/app:{number}", Image((BASE, OWN[number]), {}, platform=AMD64))
        work.wish(*(f"{{host}}/team/app:{number}" for number in range(COUNT)))
        yield work


def test_an_image_is_published_before_the_next_batch_is_fetched(work):
    work.configure(platforms=["linux/amd64"], repository={"batch": {"images": 1}})
    run = work.run("--cores", "1")
    assert (run.status, run.counts) == (0, (COUNT, 0, 0, 0)), run.said
    steps = [re.match(r"(Publish|Fetch layer|Let layers)", job) for job in run.jobs]
    order = [step[1] for step in steps if step]
    # The first image has the layer that all share besides its own.
    first = ["Fetch layer", "Fetch layer", "Publish"]
    assert order == [*first, *["Let layers", "Fetch layer", "Publish"] * (COUNT - 1)]
    assert not any((work.path / "results/gates").rglob("[0-9]"))
    assert work.run("--cores", "1").counts == (0, COUNT, 0, 0)


def test_a_full_staging_area_waits_for_what_is_published_and_never_for_ever(work):
    broken = LayerBuilder().file("broken", "x" * 1000).layer()
    work.push("team/app:1", Image((broken, OWN[1]), {}, platform=AMD64))
    blob = work.registry.store.blob_path(OWN[1].digest)
    blob.write_bytes(b"x" * len(blob.read_bytes()))
    work.configure(platforms=["linux/amd64"], limits={"staging_bytes": 6})
    run = work.run()
    assert (run.status, run.counts) == (1, (COUNT - 1, 0, 1, 0)), run.said
    steps = [re.match(r"(Publish|Fetch layer)", job) for job in run.jobs]
    order = [step[1] for step in steps if step]
    two, one, publish = ["Fetch layer"] * 2, ["Fetch layer"], ["Publish"]
    assert order == [*two, *publish, *two, *[*one, *publish] * 2]
    staged = list((work.path / "results").glob("*/layers/*/layer/layerfs"))
    assert staged, "what failed is staged, more than the limit, when others go on"


@pytest.mark.parametrize(("downloads", "together"), [(COUNT + 1, COUNT + 1), (2, 2)])
def test_downloads_hold_no_core_and_are_as_many_as_the_limit_says(work, downloads, together):
    work.configure(platforms=["linux/amd64"], limits={"downloads": downloads})
    # None is answered before so many wait; were there fewer, all would be told so.
    waiting = threading.Barrier(together, timeout=60)

    def fault(handler, answer):
        waiting.wait()
        handler.send(answer)

    layers = "|".join(layer.digest.hex for layer in (BASE, *OWN))
    work.registry.break_next(f"^GET .*/blobs/sha256:({layers})", fault, times=together)
    run = work.run("--cores", "1")
    assert (run.status, run.counts) == (0, (COUNT, 0, 0, 0)), run.said
    assert not waiting.broken


def test_without_need_nothing_waits(work):
    work.configure(platforms=["linux/amd64"])
    run = work.run()
    assert (run.status, run.counts) == (0, (COUNT, 0, 0, 0)), run.said
    assert not any(job.startswith("Let layers") for job in run.jobs)


def test_more_images_than_one_part_takes_are_one_run_all_the_same(work):
    broken = LayerBuilder().file("broken", "").layer()
    work.push("team/broken:1", Image((BASE, broken), {}, platform=AMD64))
    work.registry.store.blob_path(broken.digest).unlink()
    work.wish("{host}/team/broken:1", "{host}/team/app:0", "{host}/team/app:1")
    work.configure(platforms=["linux/amd64"], limits={"run_images": 2})
    run = work.run()
    assert (run.status, run.counts) == (1, (2, 0, 1, 0)), run.said
    assert "in 2 parts" in run.said
    assert run.said.count("fetch layer") == 2, "once when it happens, once at the end"
    blobs = [blob for blob in run.blobs() if not blob.endswith(broken.digest.hex)]
    assert len(blobs) == len(set(blobs)), "what two parts share is fetched once"
    assert not any((work.path / "results").rglob("layers/*/layer/layerfs"))
    assert [len(events(work, action)) for action in ("start_ducc", "end_ducc")] == [1, 1]
    assert not list((work.path / ".cache").rglob("*runtime-source-cache*"))
    assert not list(work.path.rglob("jobs.sock"))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_in_a_later_part_says_what_became_of_all(work, by):
    work.configure(platforms=["linux/amd64"], limits={"run_images": 2})
    held = Held()
    work.registry.break_next(f"^GET .*/blobs/{OWN[2].digest}", held)
    # Snakemake leaves its directory before the next part begins.
    elsewhere = replace(work, prefix=("env", "-C", "/"))
    with elsewhere.started("--directory", str(work.path)) as started:
        assert held.reached.wait(60)
        commands = [" ".join(words) for words in started.commands()]
        assert [line for line in commands if "job.py fetch_blob" in line], "its jobs are forked"
        assert not [line for line in commands if "fetch_blob.py" in line], "in each part"
        assert started.stop(by) == 1
    held.released.set()
    status = Status.load(work.path)
    titles = [work.named(f"team/app:{number}") for number in range(COUNT)]
    assert [status.images[title][0] for title in titles] == [
        *["converted"] * 2,
        *["failed"] * 2,
    ]
    assert work.run().counts == (2, 2, 0, 0)


def test_a_part_publishes_what_parts_before_have_staged_under_its_other_names(work):
    work.push("team/app:alias", Image((BASE, OWN[0]), {}, platform=AMD64))
    work.wish("{host}/team/app:0", "{host}/team/app:alias")
    work.configure(platforms=["linux/amd64"], limits={"run_images": 1})
    run = work.run()
    assert (run.status, run.counts) == (0, (2, 0, 0, 0)), run.said
    assert len([job for job in run.jobs if job.startswith("Flatten")]) == 1
